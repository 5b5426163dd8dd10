/* Pages over HTTP: heads of requests, good and bad, whole and in pieces; a server that answers while 200 others hold on to it, and shuts out who is slow. */
#include "tests/unit/unit.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/http_head.h"
#include "net/net.h"

#define IDLE 200
#define LIMIT_MS 60000           /* sanitizers on a shared machine */

/* ---- heads ---- */
static const struct { const char *text; unsigned status; } cases[] = {
    {"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", 200},
    {"GET /metrics HTTP/1.0\r\n\r\n", 200},
    {"GET /metrics?x=1 HTTP/1.1\r\nhost:\tlocalhost \r\nAccept: a\r\nAccept: b\r\nContent-Length: 0\r\n\r\n", 200},
    {"POST /metrics HTTP/1.1\r\nHost: a\r\n\r\n", 200},                 /* whole; the server says 405 */
    {"GET /metrics HTTP/1.1\r\nHost: a\r\n", 0},
    {"GET", 0},
    {"", 0},
    {"GET /metrics HTTP/1.1\r\n\r\n", 400},                             /* no Host */
    {"GET /metrics HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400},
    {"GET /metrics HTTP/1.1\r\nHost:\r\n\r\n", 400},
    {"GET /metrics HTTP/1.1\r\nHost : a\r\n\r\n", 400},
    {"GET /metrics HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400},
    {"GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 400},
    {"GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 00\r\n\r\n", 400},
    {"GET /metrics HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
    {"GET /metrics HTTP/1.1\nHost: a\n\n", 400},                        /* lines end with CR LF */
    {"GET /metrics HTTP/1.1\rHost", 400},
    {"GET http://a/metrics HTTP/1.1\r\nHost: a\r\n\r\n", 400},
    {"GET  /metrics HTTP/1.1\r\nHost: a\r\n\r\n", 400},
    {"GET /met rics HTTP/1.1\r\nHost: a\r\n\r\n", 400},
    {"GET /m\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
    {"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400},
    {"GET /metrics\r\nHost: a\r\n\r\n", 400},
    {"GET /metrics HTTP/2.0\r\nHost: a\r\n\r\n", 505},
    {"GET /metrics HTTP/1.1 \r\nHost: a\r\n\r\n", 400},
    {"AMETHODTHATNOBODYHASHEARDOF / HTTP/1.1\r\nHost: a\r\n\r\n", 501},
    {"\x16\x03\x01\x02", 400},                                           /* TLS, at the plain port */
};

static unsigned read_exactly(const char *bytes, size_t size, struct http_head *head)
{
    char *copy = malloc(size ? size : 1);
    memcpy(copy, bytes, size);
    unsigned status = http_head_read(copy, size, head);
    free(copy);
    return status;
}

static void heads(void **state)
{
    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        struct http_head head;
        size_t size = strlen(cases[i].text);
        unsigned status = read_exactly(cases[i].text, size, &head);
        if (status != cases[i].status)
            fail_msg("'%s': %u instead of %u", cases[i].text, status, cases[i].status);
        for (size_t n = 0; n < size; n++) {
            unsigned part = read_exactly(cases[i].text, n, &head);
            if (part != 0 && part != status)
                fail_msg("the first %zu bytes of '%s': %u instead of %u", n, cases[i].text, part, status);
        }
    }
    struct http_head head;
    assert_int_equal(http_head_read(cases[2].text, strlen(cases[2].text), &head), 200);
    assert_string_equal(head.path, "/metrics");
    assert_string_equal(head.host, "localhost");
    assert_string_equal(head.accept, "a,b");
}

static void limits(void **state)
{
    static const char begin[] = "GET / HTTP/1.1\r\nHost: a\r\n";
    char big[2 * HTTP_HEAD_MAX], path[400];
    struct http_head head;
    (void)state;
    size_t n = strlen(begin);
    memcpy(big, begin, n);
    memset(big + n, 'a', sizeof big - n);
    assert_int_equal(http_head_read(big, HTTP_HEAD_MAX - 1, &head), 0);
    assert_int_equal(http_head_read(big, HTTP_HEAD_MAX, &head), 431);
    assert_int_equal(http_head_read(big, sizeof big, &head), 431);
    for (unsigned i = 0; i < HTTP_FIELDS_MAX; i++)
        n += (size_t)snprintf(big + n, sizeof big - n, "a: b\r\n");
    snprintf(big + n, sizeof big - n, "\r\n");
    assert_int_equal(http_head_read(big, n + 2, &head), 431);
    snprintf(path, sizeof path, "GET /%0200d HTTP/1.0\r\n\r\n", 0);
    assert_int_equal(http_head_read(path, strlen(path), &head), 414);
}

static void hosts(void **state)
{
    static const char *const good[] = {"", "localhost", "LOCALHOST:9464", "127.0.0.1", "127.8.9.1:80", "[::1]", "[::1]:9464"};
    static const char *const bad[] = {"example.org", "localhost.example.org", "127.0.0.1.example.org", "10.0.0.1:9464", "[::2]", "[::1", "::1", "0x7f.1"};
    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(good); i++)
        assert_true(http_host_is_local(good[i]));
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++)
        assert_false(http_host_is_local(bad[i]));
}

/* ---- the server ---- */
struct call { int fd; const char *ask; size_t said; char answer[4096]; size_t have; bool over; uint64_t over_ms; };
struct bench {
    struct loop *loop;
    struct log log;
    struct http_server *server;
    struct call call[IDLE + 8];
    unsigned calls;
    bool (*over)(struct bench *b);
    bool timed_out;
};

static size_t hello(void *arg, const char *accept, char *out, size_t size, const char **type)
{
    (void)arg;
    *type = "text/x-test";
    return (size_t)snprintf(out, size, "accept=%s\n", accept);
}
static size_t later(void *arg, const char *accept, char *out, size_t size, const char **type)
{
    (void)arg, (void)accept, (void)out, (void)size, (void)type;
    return 0;
}
static size_t large(void *arg, const char *accept, char *out, size_t size, const char **type)
{
    (void)arg, (void)accept, (void)type;
    memset(out, 'x', size);
    return size - 1;
}
static const struct http_page pages[] = {{"/hello", hello}, {"/later", later}, {"/large", large}, {NULL, NULL}};

static int set_up(void **state)
{
    struct bench *b = calloc(1, sizeof *b);
    struct err e = ERR_INIT;
    assert_ok(loop_new(&b->loop, &e));
    assert_ok(log_open(&b->log, NULL, "test", "job-a"));
    b->log.stderr_level = LOG_ERROR;
    assert_ok(http_listen(b->loop, &b->log, "localhost:0", NULL, "job-a", pages, b, &b->server, &e));
    *state = b;
    return 0;
}

static int tear_down(void **state)
{
    struct bench *b = *state;
    for (unsigned i = 0; i < b->calls; i++)
        close(b->call[i].fd);
    loop_free(b->loop);
    log_close(&b->log);
    free(b);
    return 0;
}

static struct call *call(struct bench *b, const char *ask)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const char *address = http_address(b->server);
    struct call *c = &b->call[b->calls++];
    assert_true(strncmp(address, "127.0.0.1:", 10) == 0);
    to.sin_port = htons((uint16_t)strtoul(address + 10, NULL, 10));
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    c->ask = ask;
    assert_int_equal(connect(c->fd, (struct sockaddr *)&to, sizeof to), 0);
    assert_int_equal(fcntl(c->fd, F_SETFL, O_NONBLOCK), 0);
    return c;
}

static void look(struct bench *b, struct call *c)
{
    size_t left = strlen(c->ask) - c->said, some = MIN(left, 1 + left / 2);    /* in pieces */
    char scrap[4096];
    bool room = c->have < sizeof c->answer - 1;
    if (left && send(c->fd, c->ask + c->said, some, MSG_NOSIGNAL) > 0)
        c->said += some;
    ssize_t n = room ? recv(c->fd, c->answer + c->have, sizeof c->answer - 1 - c->have, 0) : recv(c->fd, scrap, sizeof scrap, 0);
    if (n > 0 && room)
        c->have += (size_t)n;
    c->over = n == 0 || (n < 0 && errno != EAGAIN);
    c->over_ms = loop_now_ms(b->loop);
}

static void on_check(void *arg)
{
    struct bench *b = arg;
    for (unsigned i = 0; i < b->calls; i++)
        if (!b->call[i].over)
            look(b, &b->call[i]);
    if (b->over(b))
        loop_stop(b->loop);
}

static bool all_over(struct bench *b)
{
    unsigned over = 0;
    for (unsigned i = 0; i < b->calls; i++)
        over += b->call[i].over;
    return over == b->calls;
}

static void on_limit(void *arg)
{
    ((struct bench *)arg)->timed_out = true;
    loop_stop(((struct bench *)arg)->loop);
}

static void run(struct bench *b, bool (*over)(struct bench *))
{
    b->over = over;
    struct timer *check = timer_start(b->loop, 2, 2, on_check, b), *limit = timer_start(b->loop, LIMIT_MS, LIMIT_MS, on_limit, b);
    loop_run(b->loop);
    timer_stop(check);
    timer_stop(limit);
    assert_false(b->timed_out);
}

static void answers(void **state)
{
    struct bench *b = *state;
    static const struct { const char *ask, *status; } asked[] = {
        {"GET /hello HTTP/1.1\r\nHost: localhost\r\nAccept: text/plain\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Type: text/x-test\r\n"},
        {"GET /hello HTTP/1.1\r\nHost: rebound.example.org\r\n\r\n", "HTTP/1.1 403 "},
        {"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP/1.1 404 "},
        {"POST /hello HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP/1.1 405 "},
        {"GET /hello HTTP/1.1\r\n\r\n", "HTTP/1.1 400 "},
        {"GET /later HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP/1.1 503 "},
        {"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP/1.1 200 "},
    };
    for (unsigned i = 0; i < ARRAY_LEN(asked); i++)
        call(b, asked[i].ask);
    run(b, all_over);
    for (unsigned i = 0; i < ARRAY_LEN(asked); i++)
        if (strncmp(b->call[i].answer, asked[i].status, strlen(asked[i].status)) != 0)
            fail_msg("%s: %.200s", asked[i].ask, b->call[i].answer);
    assert_non_null(strstr(b->call[0].answer, "\r\nContent-Length: 18\r\n"));
    assert_non_null(strstr(b->call[0].answer, "\r\n\r\naccept=text/plain\n"));
    assert_non_null(strstr(b->call[3].answer, "\r\nAllow: GET\r\n"));
}

/* 200 that say nothing, or a part, keep nobody out, and are gone after 5 s at most. */
static bool an_honest_one_is_over(struct bench *b)
{
    for (unsigned i = 0; i < 8 && b->calls < IDLE; i++)
        call(b, b->calls % 2 ? "" : "GET /hel");
    if (b->calls == IDLE)
        call(b, "GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n");
    return b->calls > IDLE && b->call[IDLE].over;
}

static void who_holds_on(void **state)
{
    struct bench *b = *state;
    uint64_t before = loop_now_ms(b->loop);
    run(b, an_honest_one_is_over);
    unsigned held = 0;
    for (unsigned i = 0; i < IDLE; i++)
        held += !b->call[i].over;
    assert_true(strncmp(b->call[IDLE].answer, "HTTP/1.1 200 ", 13) == 0);
    if (b->call[IDLE].over_ms - before < 4000)           /* before any of them was late */
        assert_true(held > 8 && held < 40);
    run(b, all_over);
    for (unsigned i = 0; i < IDLE; i++)
        assert_int_equal(b->call[i].have, 0);
}

static void plain_only_here(void **state)
{
    struct bench *b = *state;
    struct http_server *s = NULL;
    struct err e = ERR_INIT;
    static const char *const elsewhere[] = {"0.0.0.0:0", "[::]:0", "10.0.0.1:0", "example.org:0", "127.0.0.1:0/name"};
    for (unsigned i = 0; i < ARRAY_LEN(elsewhere); i++) {
        assert_true(http_listen(b->loop, &b->log, elsewhere[i], NULL, "job-a", pages, b, &s, &e) < 0);
        assert_false(http_is_loopback(elsewhere[i]));
    }
    assert_true(http_is_loopback("127.0.0.1:9464") && http_is_loopback("localhost:0") && http_is_loopback("[::1]:1"));
    assert_int_equal(http_listen(b->loop, &b->log, http_address(b->server), NULL, "job-a", pages, b, &s, &e), ERR_CONFLICT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heads),
        cmocka_unit_test(limits),
        cmocka_unit_test(hosts),
        cmocka_unit_test_setup_teardown(answers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(who_holds_on, set_up, tear_down),
        cmocka_unit_test_setup_teardown(plain_only_here, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
