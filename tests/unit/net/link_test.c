/* Loop, identities and links: two ends in one loop over local sockets and TLS, every refusal, damaged bytes on a raw socket, deaths, threads. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "net/frame.h"

#define LIMIT_MS 60000           /* sanitizers on a shared machine */
#define BIG ((size_t)3 << 20)

/* ---- a bench: one loop, two folders of certificates, the two ends ---- */
struct bench;
struct side {
    struct bench *b;
    struct link *link;
    unsigned opened, messages, closed;
    struct msg_hello peer;
    struct err why;
    unsigned mirror;             /* answers every message with its payload */
    unsigned expect;             /* closes after so many */
};
struct bench {
    struct loop *loop;
    char dir[64], tls[96], strange[96];
    struct identity *worker, *ps, *foreign;
    struct listener *listener;
    struct side dialer, server;  /* server: the last accepted link */
    uint8_t *pattern;
    bool timed_out;
};

static struct msg_hello hello_of(enum role role, const char *job)
{
    struct msg_hello h = {.version_min = FRAME_VERSION, .version_max = FRAME_VERSION, .who = {.role = (uint8_t)role, .index = 1}, .build = "test"};
    snprintf(h.job, sizeof h.job, "%s", job);
    return h;
}

static void on_limit(void *arg)
{
    struct bench *b = arg;
    b->timed_out = true;
    loop_stop(b->loop);
}

static void run(struct bench *b)
{
    struct timer *limit = timer_start(b->loop, LIMIT_MS, 0, on_limit, b);
    loop_run(b->loop);
    assert_false(b->timed_out);
    timer_stop(limit);
}

static void loop_turn(struct bench *b)
{
    timer_start(b->loop, 1, 0, (void (*)(void *))loop_stop, b->loop);
    loop_run(b->loop);
}

static int set_up(void **state)
{
    struct bench *b = calloc(1, sizeof *b);
    struct err e = ERR_INIT;
    snprintf(b->dir, sizeof b->dir, "/tmp/viaduct-link-XXXXXX");
    assert_non_null(mkdtemp(b->dir));
    snprintf(b->tls, sizeof b->tls, "%s/tls", b->dir);
    snprintf(b->strange, sizeof b->strange, "%s/strange", b->dir);
    assert_ok(loop_new(&b->loop, &e));
    assert_ok(identity_make_ca(b->tls, "job-a", &e));
    assert_ok(identity_issue(b->tls, "job-a", "here", ROLE_WORKER, &e));
    assert_ok(identity_issue(b->tls, "job-a", "here", ROLE_PS, &e));
    assert_ok(identity_load(b->tls, "here", ROLE_WORKER, &b->worker, &e));
    assert_ok(identity_load(b->tls, "here", ROLE_PS, &b->ps, &e));
    assert_ok(identity_make_ca(b->strange, "job-a", &e));
    assert_ok(identity_issue(b->strange, "job-a", "here", ROLE_WORKER, &e));
    assert_ok(identity_load(b->strange, "here", ROLE_WORKER, &b->foreign, &e));
    b->dialer.b = b->server.b = b;
    b->pattern = malloc(BIG + 8192);
    struct test_random r = {.seed = 7};
    for (size_t i = 0; i + 4 <= BIG + 8192; i += 4)
        memcpy(b->pattern + i, &(uint32_t){test_u32(&r)}, 4);
    *state = b;
    return 0;
}

static int tear_down(void **state)
{
    struct bench *b = *state;
    char command[128];
    loop_free(b->loop);
    identity_free(b->worker);
    identity_free(b->ps);
    identity_free(b->foreign);
    free(b->pattern);
    snprintf(command, sizeof command, "rm -rf '%s'", b->dir);
    assert_int_equal(system(command), 0);
    free(b);
    return 0;
}

/* ---- what the ends do ---- */
static void both_closed(struct bench *b)
{
    if (b->dialer.closed && (b->server.closed || !b->server.link))
        loop_stop(b->loop);
}

static void on_opened(void *arg, struct link *link, const struct msg_hello *peer)
{
    struct side *s = arg;
    s->opened++;
    s->link = link;
    s->peer = *peer;
    assert_memory_equal(link_peer(link), peer, sizeof *peer);
    assert_string_equal(link_peer_site(link), link_is_tls(link) ? "here" : "");
}

static void on_closed(void *arg, struct link *link, const struct err *why)
{
    struct side *s = arg;
    struct err e = ERR_INIT;
    s->closed++;
    s->why = *why;
    link_close(link);            /* both are harmless here */
    struct msg_status m = {0};
    assert_ok(link_send(link, MSG_STATUS, 0, &m, NULL, 0, &e));
    s->link = NULL;
    both_closed(s->b);
}

static size_t size_of_message(unsigned i)
{
    static const size_t sizes[] = {0, 1, 15, 16, 17, 4096, 65535, 262144, 1000001, BIG, 3, 100000};
    return sizes[i % ARRAY_LEN(sizes)];
}

/* Message i: what = i, payload: pattern from i on, in three pieces. */
static void send_numbered(struct side *s, struct link *link, unsigned i)
{
    struct err e = ERR_INIT;
    struct msg_status m = {.what = (uint8_t)i};
    size_t n = size_of_message(i), third = n / 3;
    const uint8_t *from = s->b->pattern + i % 4096;
    struct bytes pieces[] = {{from, third}, {from + third, third}, {from + 2 * third, n - 2 * third}};
    assert_ok(link_send(link, MSG_STATUS, i, &m, pieces, 3, &e));
}

static void on_message(void *arg, struct link *link, enum msg_type type, void *msg, const uint8_t *payload, size_t size)
{
    struct side *s = arg;
    const struct msg_status *m = msg;
    unsigned i = s->messages++;
    assert_int_equal(type, MSG_STATUS);
    assert_int_equal(m->what, (uint8_t)i);
    assert_int_equal(size, size_of_message(i));
    assert_int_equal((uintptr_t)payload % 16, 0);
    assert_memory_equal(payload, s->b->pattern + i % 4096, size);
    if (s->mirror)
        send_numbered(s, link, i);
    if (s->expect && s->messages == s->expect)
        link_close(link);
}

static const struct link_ops bench_ops = {on_opened, on_message, on_closed};

/* The server adopts the link, as an owner does after opened(). */
static void server_opened(void *arg, struct link *link, const struct msg_hello *peer)
{
    struct bench *b = arg;
    link_set_arg(link, &bench_ops, &b->server);
    on_opened(&b->server, link, peer);
}

static void server_closed(void *arg, struct link *link, const struct err *why)
{
    struct bench *b = arg;
    on_closed(&b->server, link, why);
}

static const struct link_ops server_ops = {server_opened, on_message, server_closed};

static void listen_as(struct bench *b, bool tls, const struct identity *identity, enum role role, const char *job)
{
    struct err e = ERR_INIT;
    char address[ADDRESS_LIMIT];
    struct msg_hello h = hello_of(role, job);
    snprintf(address, sizeof address, tls ? "tls:127.0.0.1:0" : "unix:%s/s", b->dir);
    assert_ok(net_listen(b->loop, address, identity, &h, &server_ops, b, &b->listener, &e));
}

static void dial_as(struct bench *b, const struct identity *identity, const struct msg_hello *h)
{
    struct err e = ERR_INIT;
    assert_ok(net_dial(b->loop, listener_address(b->listener), identity, h, &bench_ops, &b->dialer, &b->dialer.link, &e));
}

/* ---- messages ---- */
static void exchange(struct bench *b, bool tls)
{
    const unsigned count = 60;
    listen_as(b, tls, tls ? b->ps : NULL, ROLE_PS, "job-a");
    struct msg_hello h = hello_of(ROLE_WORKER, "job-a");
    dial_as(b, tls ? b->worker : NULL, &h);
    b->server.mirror = 1;
    b->dialer.expect = count;
    for (unsigned i = 0; i < count; i++)      /* before it is even connected */
        send_numbered(&b->dialer, b->dialer.link, i);
    run(b);
    assert_int_equal(b->dialer.opened, 1);
    assert_int_equal(b->server.opened, 1);
    assert_int_equal(b->dialer.messages, count);
    assert_int_equal(b->server.messages, count);
    assert_int_equal(b->dialer.closed, 1);
    assert_int_equal(b->server.closed, 1);
    assert_int_equal(b->dialer.why.code, 0);
    assert_int_equal(b->server.why.code, ERR_TEMPORARY);
    assert_non_null(strstr(b->server.why.text, "from worker 0/1"));
    assert_int_equal(b->dialer.peer.who.role, ROLE_PS);
    assert_int_equal(b->server.peer.who.role, ROLE_WORKER);
}

static void messages_local(void **state) { exchange(*state, false); }
static void messages_tls(void **state) { exchange(*state, true); }

static void opened_then_leave(void *arg, struct link *link, const struct msg_hello *peer)
{
    struct side *s = arg;
    on_opened(arg, link, peer);
    for (unsigned i = 0; i < 12; i++)
        send_numbered(s, link, i);
    link_close(link);
    send_numbered(s, link, 0);                /* swallowed */
    assert_int_equal(s->closed, 0);
}

/* What was queued before link_close arrives. */
static void farewell(struct bench *b, bool tls)
{
    static const struct link_ops ops = {opened_then_leave, on_message, on_closed};
    struct err e = ERR_INIT;
    listen_as(b, tls, tls ? b->ps : NULL, ROLE_PS, "job-a");
    struct msg_hello h = hello_of(ROLE_WORKER, "job-a");
    assert_ok(net_dial(b->loop, listener_address(b->listener), tls ? b->worker : NULL, &h, &ops, &b->dialer, &b->dialer.link, &e));
    run(b);
    assert_int_equal(b->server.messages, 12);
    assert_int_equal(b->dialer.why.code, 0);
    assert_int_equal(b->server.why.code, ERR_TEMPORARY);
}
static void farewell_local(void **state) { farewell(*state, false); }
static void farewell_tls(void **state) { farewell(*state, true); }

static void queue_is_bounded(void **state)
{
    struct bench *b = *state;
    struct err e = ERR_INIT;
    struct msg_status m = {0};
    listen_as(b, false, NULL, ROLE_PS, "job-a");
    struct msg_hello h = hello_of(ROLE_WORKER, "job-a");
    dial_as(b, NULL, &h);
    size_t size = (size_t)48 << 20;
    uint8_t *p = calloc(1, (size_t)FRAME_PAYLOAD_MAX + 1);
    int rc = 0;
    unsigned sent = 0;
    for (; rc == 0 && sent < 10; sent++)
        rc = link_send(b->dialer.link, MSG_STATUS, 0, &m, &(struct bytes){p, size}, 1, &e);
    assert_int_equal(rc, ERR_TEMPORARY);
    assert_int_equal(sent, 6);
    link_limit_queue(b->dialer.link, 7 * size);          /* its owner expects more */
    assert_int_equal(link_send(b->dialer.link, MSG_STATUS, 0, &m, &(struct bytes){p, size}, 1, &e), 0);
    link_limit_queue(b->dialer.link, size);              /* or less than waits already */
    assert_int_equal(link_send(b->dialer.link, MSG_STATUS, 0, &m, NULL, 0, &e), ERR_TEMPORARY);
    assert_int_equal(link_send(b->dialer.link, MSG_STATUS, 0, &m, &(struct bytes){p, (size_t)FRAME_PAYLOAD_MAX + 1}, 1, &e), ERR_FAILED);
    free(p);
}

/* Sends only while less than a MiB waits, and again whenever it is told that the queue has drained. */
#define KEPT ((size_t)1 << 20)
static struct { unsigned next, calls; size_t most; } feed;

static void feed_link(void *arg, struct link *link)
{
    struct side *s = arg;
    while (feed.next < 60 && link_queued(link) < KEPT)
        send_numbered(s, link, feed.next++);
    feed.most = link_queued(link) > feed.most ? link_queued(link) : feed.most;
}

static void on_drained(void *arg, struct link *link)
{
    feed.calls++;
    assert_true(link_queued(link) < KEPT / 2);
    feed_link(arg, link);
}

static void opened_then_feed(void *arg, struct link *link, const struct msg_hello *peer)
{
    on_opened(arg, link, peer);
    link_on_drain(link, KEPT / 2, on_drained);
    feed_link(arg, link);
}

static void a_sender_is_told_when_its_queue_drains(void **state)
{
    struct bench *b = *state;
    static const struct link_ops ops = {opened_then_feed, on_message, on_closed};
    struct err e = ERR_INIT;
    memset(&feed, 0, sizeof feed);
    listen_as(b, true, b->ps, ROLE_PS, "job-a");
    struct msg_hello h = hello_of(ROLE_WORKER, "job-a");
    assert_ok(net_dial(b->loop, listener_address(b->listener), b->worker, &h, &ops, &b->dialer, &b->dialer.link, &e));
    b->server.expect = 60;
    run(b);
    assert_int_equal(b->server.messages, 60);
    assert_true(feed.calls > 0);
    assert_true(feed.most < KEPT + BIG + 4096);
}

static void dial_and_close_at_once(void **state)
{
    struct bench *b = *state;
    listen_as(b, true, b->ps, ROLE_PS, "job-a");
    struct msg_hello h = hello_of(ROLE_WORKER, "job-a");
    dial_as(b, b->worker, &h);
    link_close(b->dialer.link);
    link_close(b->dialer.link);
    assert_int_equal(b->dialer.closed, 0);
    run(b);
    assert_int_equal(b->dialer.closed, 1);
    assert_int_equal(b->dialer.opened, 0);
    assert_int_equal(b->dialer.why.code, 0);
}

/* loop_free with links in every state; the sanitizer sees what is left behind. */
static void free_while_open(void **state)
{
    struct bench *b = *state;
    struct msg_hello h = hello_of(ROLE_WORKER, "job-a");
    struct err e = ERR_INIT;
    struct link *extra;
    listen_as(b, true, b->ps, ROLE_PS, "job-a");
    dial_as(b, b->worker, &h);
    timer_start(b->loop, 300, 0, (void (*)(void *))loop_stop, b->loop);
    run(b);
    assert_int_equal(b->dialer.opened, 1);
    send_numbered(&b->dialer, b->dialer.link, 9);
    assert_ok(net_dial(b->loop, listener_address(b->listener), b->worker, &h, &bench_ops, &b->dialer, &extra, &e));
    assert_ok(net_dial(b->loop, "tls:localhost:1", b->worker, &h, &bench_ops, &b->dialer, &extra, &e));
    assert_int_equal(b->dialer.closed, 0);
}

/* ---- refusals ---- */
static void expect_refused(struct bench *b, int dialer, int server)
{
    run(b);
    assert_int_equal(b->dialer.closed, 1);
    assert_int_equal(b->dialer.opened, 0);
    assert_int_equal(b->server.opened, 0);
    if (b->dialer.why.code != dialer)
        fail_msg("dialer: %s", b->dialer.why.text);
    if (b->server.why.code != server)
        fail_msg("server: %s", b->server.why.text);
    fprintf(stderr, "# dialer: %s\n# server: %s\n", b->dialer.why.text, b->server.why.text);
}

/* Stops only when both have told. */
static void refused(struct bench *b, bool tls, const struct identity *dialer, const struct identity *server, const struct msg_hello *h)
{
    static int both;
    listen_as(b, tls, server, ROLE_PS, "job-a");
    b->server.link = (struct link *)&both;   /* so that both_closed waits */
    dial_as(b, dialer, h);
    expect_refused(b, ERR_DENIED, ERR_DENIED);
}

static void wrong_job(void **state)
{
    struct msg_hello h = hello_of(ROLE_WORKER, "job-b");
    refused(*state, false, NULL, NULL, &h);
}

static void wrong_version(void **state)
{
    struct msg_hello h = hello_of(ROLE_WORKER, "job-a");
    h.version_min = h.version_max = 9;
    refused(*state, false, NULL, NULL, &h);
}

static void wrong_authority_of_dialer(void **state)
{
    struct bench *b = *state;
    struct msg_hello h = hello_of(ROLE_WORKER, "job-a");
    refused(b, true, b->foreign, b->ps, &h);
}

static void wrong_authority_of_server(void **state)
{
    struct bench *b = *state;
    struct msg_hello h = hello_of(ROLE_WORKER, "job-a");
    refused(b, true, b->worker, b->foreign, &h);
}

static void copy_file(const char *from_dir, const char *to_dir, const char *name)
{
    char path[160];
    struct err e = ERR_INIT;
    void *bytes;
    size_t n;
    snprintf(path, sizeof path, "%s/%s", from_dir, name);
    assert_ok(fs_read_file(&fs_real, path, 100000, &bytes, &n, &e));
    snprintf(path, sizeof path, "%s/%s", to_dir, name);
    assert_ok(fs_write_file(&fs_real, path, bytes, n, &e));
    free(bytes);
}

/* The dialing end trusts the server, whose refusal comes when its own handshake is over. */
static void server_alone_refuses(void **state)
{
    struct bench *b = *state;
    struct msg_hello h = hello_of(ROLE_WORKER, "job-a");
    struct err e = ERR_INIT;
    struct identity *mixed;
    copy_file(b->tls, b->strange, "ca.pem");
    assert_ok(identity_load(b->strange, "here", ROLE_WORKER, &mixed, &e));
    refused(b, true, mixed, b->ps, &h);
    assert_non_null(strstr(b->dialer.why.text, "refused our certificate"));
    assert_non_null(strstr(b->server.why.text, "certificate of the other end is refused"));
    identity_free(mixed);
}

static void lie_about_role(void **state)
{
    struct bench *b = *state;
    struct msg_hello h = hello_of(ROLE_COORDINATOR, "job-a");
    refused(b, true, b->worker, b->ps, &h);
    assert_non_null(strstr(b->server.why.text, "certificate is for worker"));
    assert_non_null(strstr(b->dialer.why.text, "certificate is for worker"));
}

static void lie_about_role_of_server(void **state)
{
    struct bench *b = *state;
    struct msg_hello h = hello_of(ROLE_WORKER, "job-a");
    listen_as(b, true, b->worker, ROLE_COORDINATOR, "job-a");
    dial_as(b, b->worker, &h);
    run(b);
    assert_int_equal(b->dialer.opened, 0);
    assert_int_equal(b->dialer.why.code, ERR_DENIED);
}

/* Who scrapes metrics has a role that no HELLO can carry, who shows them a certificate of a host: neither is a process of the run. */
static void a_viewer_is_no_process(void **state)
{
    struct bench *b = *state;
    struct msg_hello h = hello_of(ROLE_WORKER, "job-a");
    struct err e = ERR_INIT;
    struct identity *viewer;
    assert_ok(identity_issue(b->tls, "job-a", "scraper", ROLE_VIEWER, &e));
    assert_ok(identity_load(b->tls, "scraper", ROLE_VIEWER, &viewer, &e));
    refused(b, true, viewer, b->ps, &h);
    assert_non_null(strstr(b->server.why.text, "certificate is for viewer"));
    identity_free(viewer);
}

static void a_web_server_is_no_process(void **state)
{
    struct bench *b = *state;
    struct msg_hello h = hello_of(ROLE_WORKER, "job-a");
    struct err e = ERR_INIT;
    struct identity *web;
    assert_ok(identity_issue_web(b->tls, "127.0.0.1", &e));
    assert_ok(identity_load_web(b->tls, &web, &e));
    listen_as(b, true, web, ROLE_PS, "job-a");
    dial_as(b, b->worker, &h);
    run(b);
    assert_int_equal(b->dialer.opened, 0);
    assert_int_equal(b->dialer.why.code, ERR_DENIED);
    assert_int_equal(identity_issue_web(b->tls, "a,DNS:b", &e), ERR_USAGE);
    identity_free(web);
}

/* The certificate is of job-a; both say job-b. */
static void lie_about_job(void **state)
{
    struct bench *b = *state;
    struct msg_hello h = hello_of(ROLE_WORKER, "job-b");
    listen_as(b, true, b->ps, ROLE_PS, "job-b");
    b->server.link = (struct link *)&h;
    dial_as(b, b->worker, &h);
    expect_refused(b, ERR_DENIED, ERR_DENIED);
}

static void expect_unreachable(struct bench *b, const char *address)
{
    struct msg_hello h = hello_of(ROLE_WORKER, "job-a");
    struct err e = ERR_INIT;
    struct link *link;
    b->dialer.closed = 0;
    assert_ok(net_dial(b->loop, address, b->worker, &h, &bench_ops, &b->dialer, &link, &e));
    assert_int_equal(b->dialer.closed, 0);
    run(b);
    assert_int_equal(b->dialer.closed, 1);
    assert_int_equal(b->dialer.opened, 0);
    if (b->dialer.why.code != ERR_TEMPORARY || !strstr(b->dialer.why.text, address))
        fail_msg("%s: %d %s", address, b->dialer.why.code, b->dialer.why.text);
}

static void unreachable(void **state)
{
    struct bench *b = *state;
    struct err e = ERR_INIT;
    struct msg_hello h = hello_of(ROLE_WORKER, "job-a");
    struct link *link;
    char path[128];
    expect_unreachable(b, "tls:127.0.0.1:1");
    expect_unreachable(b, "tls:[::1]:1");
    expect_unreachable(b, "tls:localhost:1");
    snprintf(path, sizeof path, "unix:%s/none", b->dir);
    expect_unreachable(b, path);
    static const char *const bad[] = {"tcp:1", "tls:", "tls:host", "tls:host:", "tls:host:70000", "tls::1", "unix:relative", "unix:"};
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(net_dial(b->loop, bad[i], b->worker, &h, &bench_ops, &b->dialer, &link, &e), ERR_USAGE);
    assert_int_equal(net_dial(b->loop, "tls:127.0.0.1:1", NULL, &h, &bench_ops, &b->dialer, &link, &e), ERR_USAGE);
}

static void local_path_is_replaced_when_stale(void **state)
{
    struct bench *b = *state;
    struct err e = ERR_INIT;
    struct msg_hello h = hello_of(ROLE_PS, "job-a");
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    char address[ADDRESS_LIMIT];
    struct listener *second;
    snprintf(at.sun_path, sizeof at.sun_path, "%s/s", b->dir);
    snprintf(address, sizeof address, "unix:%s", at.sun_path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    close(fd);
    listen_as(b, false, NULL, ROLE_PS, "job-a");
    assert_int_equal(net_listen(b->loop, address, NULL, &h, &server_ops, b, &second, &e), ERR_CONFLICT);
    struct stat st;
    assert_int_equal(stat(at.sun_path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    listener_close(b->listener);
    assert_int_equal(stat(at.sun_path, &st), -1);
}

/* ---- raw bytes ---- */
static int raw_local(struct bench *b)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    snprintf(at.sun_path, sizeof at.sun_path, "%s/s", b->dir);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof at), 0);
    return fd;
}

static size_t raw_frame(uint8_t *out, enum msg_type type, const void *msg, uint64_t sequence, const char *payload)
{
    struct frame_head h = {.version = FRAME_VERSION, .type = (uint16_t)type, .job_hash = xxh64_of("job-a", 5, 0), .sequence = sequence};
    uint8_t body[1024];
    struct writer w = writer_over(body, sizeof body);
    assert_true(msg_encode(type, msg, &w));
    h.body_size = (uint32_t)w.pos;
    h.payload_size = (uint32_t)strlen(payload);
    memcpy(out + FRAME_HEAD_BYTES, body, w.pos);
    memcpy(out + FRAME_HEAD_BYTES + frame_padded(w.pos), payload, h.payload_size);
    frame_finish(&h, out);
    return frame_total(&h);
}

/* Says hello, then the bytes; the link must end with the code. */
static void expect_end(struct bench *b, bool say_hello, const uint8_t *bytes, size_t n, int code, const char *text)
{
    uint8_t first[1024];
    struct msg_hello h = hello_of(ROLE_WORKER, "job-a");
    int fd = raw_local(b);
    b->dialer.closed = 1;
    b->server = (struct side){.b = b};
    if (say_hello) {
        size_t size = raw_frame(first, MSG_HELLO, &h, 0, "");
        assert_int_equal(write(fd, first, size), size);
    }
    assert_int_equal(write(fd, bytes, n), n);
    if (code == ERR_TEMPORARY)
        close(fd);
    run(b);
    if (code != ERR_TEMPORARY)
        close(fd);
    assert_int_equal(b->server.opened, say_hello);
    if (b->server.why.code != code || !strstr(b->server.why.text, text))
        fail_msg("expected %s: %d %s", text, b->server.why.code, b->server.why.text);
}

static void garbage(void **state)
{
    struct bench *b = *state;
    listen_as(b, false, NULL, ROLE_PS, "job-a");
    expect_end(b, false, (const uint8_t *)"GET / HTTP/1.1\r\nHost: nobody at all, just enough bytes for a header\r\n\r\n", 70, ERR_CORRUPT, "magic");
    uint8_t f[2048];
    struct msg_status m = {0};
    size_t n = raw_frame(f, MSG_STATUS, &m, 0, "");
    expect_end(b, false, f, n, ERR_CORRUPT, "first message is not hello");
}

/* A token's certificate opens no link but to a coordinator: whoever holds one that is used takes no place at a shard, and no other process of the run, whose
 * certificate is as good, can take the machine over that asks with one. */
static void a_token_and_a_coordinator_speak_to_nobody_else(void **state)
{
    struct bench *b = *state;
    struct msg_hello token = hello_of(ROLE_JOIN, "job-a"), other = hello_of(ROLE_WORKER, "job-a");
    uint8_t f[1024];
    size_t n = raw_frame(f, MSG_HELLO, &token, 0, "");
    listen_as(b, false, NULL, ROLE_PS, "job-a");
    expect_end(b, false, f, n, ERR_DENIED, "asks a coordinator and nobody else");
    listener_close(b->listener);

    struct err e = ERR_INIT;
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    char address[ADDRESS_LIMIT];
    snprintf(at.sun_path, sizeof at.sun_path, "%s/raw", b->dir);
    snprintf(address, sizeof address, "unix:%s", at.sun_path);
    int listening = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_true(bind(listening, (struct sockaddr *)&at, sizeof at) == 0 && listen(listening, 1) == 0);
    b->dialer = (struct side){.b = b};
    b->server = (struct side){.b = b};
    assert_ok(net_dial(b->loop, address, NULL, &token, &bench_ops, &b->dialer, &b->dialer.link, &e));
    int fd = accept(listening, NULL, NULL);
    n = raw_frame(f, MSG_HELLO, &other, 0, "");
    assert_int_equal(write(fd, f, n), n);
    run(b);
    assert_int_equal(b->dialer.opened, 0);
    assert_int_equal(b->dialer.why.code, ERR_DENIED);
    close(fd);
    close(listening);
}

static void damage(void **state)
{
    struct bench *b = *state;
    uint8_t f[2048];
    struct msg_status m = {0};
    struct msg_hello h = hello_of(ROLE_WORKER, "job-a");
    listen_as(b, false, NULL, ROLE_PS, "job-a");
    size_t n = raw_frame(f, MSG_STATUS, &m, 1, "payload");
    expect_end(b, true, f, n - 20, ERR_TEMPORARY, "closed the connection");
    for (size_t at = 0; at < n; at++) {
        raw_frame(f, MSG_STATUS, &m, 1, "payload");
        f[at] ^= 0x10;
        expect_end(b, true, f, n, ERR_CORRUPT, at < 4 ? "magic" : at < FRAME_HEAD_BYTES ? "checksum of a header" : "checksum of a message (status)");
    }
    n = raw_frame(f, MSG_STATUS, &m, 2, "");
    expect_end(b, true, f, n, ERR_CORRUPT, "message 2 came where 1 was due");
    n = raw_frame(f, MSG_HELLO, &h, 1, "");
    expect_end(b, true, f, n, ERR_CORRUPT, "second hello");
    struct frame_head head = {.version = FRAME_VERSION, .type = MSG_STATUS, .job_hash = xxh64_of("job-a", 5, 0), .sequence = 1};
    head.payload_size = FRAME_PAYLOAD_MAX + 1;
    frame_head_encode(&head, f);
    expect_end(b, true, f, FRAME_HEAD_BYTES, ERR_CORRUPT, "over its limit");
    head.payload_size = 0;
    head.type = MSG_TYPES;
    frame_head_encode(&head, f);
    expect_end(b, true, f, FRAME_HEAD_BYTES, ERR_CORRUPT, "unknown type");
    head.type = MSG_STATUS;
    head.job_hash = 1;
    frame_finish(&head, f);
    expect_end(b, true, f, FRAME_HEAD_BYTES, ERR_CORRUPT, "another job");
    head.job_hash = xxh64_of("job-a", 5, 0);
    frame_finish(&head, f);
    expect_end(b, true, f, FRAME_HEAD_BYTES, ERR_CORRUPT, "does not decode");
}

/* A frame that comes one byte at a time is one message. */
static void drip(void **state)
{
    struct bench *b = *state;
    uint8_t f[2048];
    struct msg_hello h = hello_of(ROLE_WORKER, "job-a");
    struct msg_status m = {.what = 0};
    listen_as(b, false, NULL, ROLE_PS, "job-a");
    size_t n = raw_frame(f, MSG_HELLO, &h, 0, "");
    n += raw_frame(f + n, MSG_STATUS, &m, 1, "");
    int fd = raw_local(b);
    b->dialer.closed = 1;
    b->server.expect = 1;
    struct timer *turn = timer_start(b->loop, 0, 1, (void (*)(void *))loop_stop, b->loop);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(write(fd, f + i, 1), 1);
        run(b);
    }
    timer_stop(turn);
    if (!b->server.closed)
        run(b);
    assert_int_equal(b->server.messages, 1);
    close(fd);
}

static void opened_then_flood(void *arg, struct link *link, const struct msg_hello *peer)
{
    struct bench *b = arg;
    server_opened(arg, link, peer);
    for (unsigned i = 0; i < 10; i++)
        send_numbered(&b->server, link, 9);
    link_close(link);
}

/* The other end never reads: closing does not wait for ever. */
static void close_on_a_stuck_reader(void **state)
{
    static const struct link_ops ops = {opened_then_flood, on_message, server_closed};
    struct bench *b = *state;
    struct err e = ERR_INIT;
    struct msg_hello h = hello_of(ROLE_PS, "job-a"), w = hello_of(ROLE_WORKER, "job-a");
    char address[ADDRESS_LIMIT];
    uint8_t f[1024];
    snprintf(address, sizeof address, "unix:%s/s", b->dir);
    assert_ok(net_listen(b->loop, address, NULL, &h, &ops, b, &b->listener, &e));
    int fd = raw_local(b);
    size_t n = raw_frame(f, MSG_HELLO, &w, 0, "");
    assert_int_equal(write(fd, f, n), n);
    b->dialer.closed = 1;
    uint64_t start = clock_now_ms();
    run(b);
    assert_int_equal(b->server.why.code, 0);
    assert_in_range(clock_now_ms() - start, 1900, 30000);
    close(fd);
}

static void silent_closed(void *arg, struct link *link, const struct err *why)
{
    struct side *s = arg;
    (void)link;
    s->closed++;
    s->why = *why;
    if (s->b->dialer.closed && s->b->server.closed)
        loop_stop(s->b->loop);
}

/* One end connects and says nothing; another dials where nobody accepts. Both end after 10 s. */
static void silence(void **state)
{
    static const struct link_ops ops = {on_opened, on_message, silent_closed};
    struct bench *b = *state;
    struct err e = ERR_INIT;
    struct msg_hello h = hello_of(ROLE_PS, "job-a");
    char address[ADDRESS_LIMIT];
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    snprintf(address, sizeof address, "unix:%s/s", b->dir);
    assert_ok(net_listen(b->loop, address, NULL, &h, &ops, &b->server, &b->listener, &e));
    int quiet = raw_local(b), full = socket(AF_INET, SOCK_STREAM, 0), filler[2];
    assert_int_equal(bind(full, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(full, 0), 0);
    assert_int_equal(getsockname(full, (struct sockaddr *)&at, &size), 0);
    for (unsigned i = 0; i < 2; i++) {
        filler[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        connect(filler[i], (struct sockaddr *)&at, sizeof at);
    }
    snprintf(address, sizeof address, "tls:127.0.0.1:%u", ntohs(at.sin_port));
    uint64_t start = clock_now_ms();
    assert_ok(net_dial(b->loop, address, b->worker, &h, &ops, &b->dialer, &b->dialer.link, &e));
    run(b);
    assert_in_range(clock_now_ms() - start, 9900, 40000);
    assert_int_equal(b->server.why.code, ERR_TEMPORARY);
    assert_int_equal(b->dialer.why.code, ERR_TEMPORARY);
    assert_non_null(strstr(b->server.why.text, "has not said who it is"));
    assert_non_null(strstr(b->dialer.why.text, "no answer"));
    close(quiet);
    close(full);
    close(filler[0]);
    close(filler[1]);
}

/* The front door has its own test of this. */
static void a_silent_crowd_keeps_nobody_out(void **state)
{
    struct bench *b = *state;
    struct msg_hello h = hello_of(ROLE_WORKER, "job-a");
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int quiet[300];
    listen_as(b, true, b->ps, ROLE_PS, "job-a");
    at.sin_port = htons((uint16_t)strtoul(strrchr(listener_address(b->listener), ':') + 1, NULL, 10));
    for (unsigned i = 0; i < ARRAY_LEN(quiet); i++) {
        quiet[i] = socket(AF_INET, SOCK_STREAM, 0);
        assert_int_equal(connect(quiet[i], (struct sockaddr *)&at, sizeof at), 0);
        if (i % 16 == 15)
            loop_turn(b);                 /* no more wait to be accepted than may */
    }
    dial_as(b, b->worker, &h);
    b->dialer.expect = 1;
    b->server.mirror = 1;
    send_numbered(&b->dialer, b->dialer.link, 0);
    run(b);
    assert_int_equal(b->dialer.opened, 1);
    assert_int_equal(b->dialer.messages, 1);
    for (unsigned i = 0; i < ARRAY_LEN(quiet); i++)
        close(quiet[i]);
}

static void large_message(void *arg, struct link *link, enum msg_type type, void *msg, const uint8_t *payload, size_t size)
{
    struct side *s = arg;
    (void)type;
    (void)msg;
    assert_int_equal(size, FRAME_PAYLOAD_MAX);
    assert_int_equal(payload[0], 1);
    assert_int_equal(payload[size - 1], 2);
    s->messages++;
    link_close(link);
}

static void largest(void **state)
{
    static const struct link_ops ops = {on_opened, large_message, on_closed};
    struct bench *b = *state;
    struct err e = ERR_INIT;
    struct msg_hello h = hello_of(ROLE_PS, "job-a"), w = hello_of(ROLE_WORKER, "job-a");
    uint8_t *p = calloc(1, FRAME_PAYLOAD_MAX);
    p[0] = 1;
    p[FRAME_PAYLOAD_MAX - 1] = 2;
    assert_ok(net_listen(b->loop, "tls:127.0.0.1:0", b->ps, &h, &ops, &b->server, &b->listener, &e));
    dial_as(b, b->worker, &w);
    assert_ok(link_send(b->dialer.link, MSG_STATUS, 0, &(struct msg_status){0}, &(struct bytes){p, FRAME_PAYLOAD_MAX}, 1, &e));
    free(p);
    run(b);
    assert_int_equal(b->server.messages, 1);
    assert_int_equal(b->server.why.code, 0);
}

static void nobody_connects(struct bench *b)
{
    char byte;
    if (setgid(65534) != 0 || setuid(65534) != 0)
        _exit(1);
    int fd = raw_local(b);
    _exit(read(fd, &byte, 1) == 0 ? 0 : 1);
}

static void another_user(void **state)
{
    struct bench *b = *state;
    char path[160];
    int status;
    if (geteuid() != 0)
        test_skip("only root can act as another user");
    listen_as(b, false, NULL, ROLE_PS, "job-a");
    snprintf(path, sizeof path, "%s/s", b->dir);
    assert_int_equal(chmod(b->dir, 0755), 0);
    assert_int_equal(chmod(path, 0666), 0);
    pid_t pid = fork();
    if (pid == 0)
        nobody_connects(b);
    b->dialer.closed = 1;
    run(b);
    assert_int_equal(b->server.opened, 0);
    assert_int_equal(b->server.why.code, ERR_DENIED);
    assert_non_null(strstr(b->server.why.text, "belongs to user 65534"));
    listener_close(b->listener);
    loop_run(b->loop);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void garbage_on_tls(void **state)
{
    struct bench *b = *state;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    listen_as(b, true, b->ps, ROLE_PS, "job-a");
    at.sin_port = htons((uint16_t)atoi(strrchr(listener_address(b->listener), ':') + 1));
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(write(fd, "GET / HTTP/1.1\r\n\r\n", 18), 18);
    b->dialer.closed = 1;
    run(b);
    assert_int_equal(b->server.opened, 0);
    assert_int_equal(b->server.why.code, ERR_CORRUPT);
    close(fd);
}

/* ---- deaths ---- */
static void peer_process(struct bench *b, bool tls)
{
    struct msg_hello h = hello_of(ROLE_WORKER, "job-a");
    struct loop *l;
    struct link *link;
    struct err e = ERR_INIT;
    struct bench own = *b;
    if (loop_new(&l, &e) < 0)
        _exit(1);
    own.loop = l;
    own.dialer.b = own.server.b = &own;
    if (net_dial(l, listener_address(b->listener), tls ? b->worker : NULL, &h, &bench_ops, &own.dialer, &link, &e) < 0)
        _exit(1);
    for (unsigned i = 0; i < 10; i++)
        send_numbered(&own.dialer, link, i);
    loop_run(l);
    _exit(0);
}

struct death { struct bench *b; pid_t pid; int code, signo; unsigned calls; };

static void on_death(void *arg, pid_t pid, int code, int signo)
{
    struct death *d = arg;
    d->pid = pid;
    d->code = code;
    d->signo = signo;
    d->calls++;
    if (!d->b->server.link)
        loop_stop(d->b->loop);
}

static void kill_opened(void *arg)
{
    struct death *d = arg;
    if (d->b->server.messages == 10)
        kill(d->pid, SIGKILL);
}

static void killed_peer(struct bench *b, bool tls)
{
    struct err e = ERR_INIT;
    struct process_watch *w;
    listen_as(b, tls, tls ? b->ps : NULL, ROLE_PS, "job-a");
    pid_t pid = fork();
    if (pid == 0)
        peer_process(b, tls);
    struct death d = {.b = b, .pid = pid};
    b->dialer.closed = 1;
    assert_ok(process_watch(b->loop, pid, on_death, &d, &w, &e));
    struct timer *t = timer_start(b->loop, 10, 10, kill_opened, &d);
    run(b);
    if (!d.calls)
        run(b);
    timer_stop(t);
    assert_int_equal(b->server.opened, 1);
    assert_int_equal(b->server.messages, 10);
    assert_int_equal(b->server.closed, 1);
    assert_int_equal(b->server.why.code, ERR_TEMPORARY);
    assert_int_equal(d.calls, 1);
    assert_int_equal(d.signo, SIGKILL);
    assert_int_equal(d.code, -1);
}
static void killed_peer_local(void **state) { killed_peer(*state, false); }
static void killed_peer_tls(void **state) { killed_peer(*state, true); }

static void deaths(void **state)
{
    struct bench *b = *state;
    struct err e = ERR_INIT;
    struct process_watch *w;
    struct death d = {.b = b};
    pid_t pid = fork();
    if (pid == 0)
        _exit(7);
    assert_ok(process_watch(b->loop, pid, on_death, &d, &w, &e));
    run(b);
    assert_int_equal(d.calls, 1);
    assert_int_equal(d.code, 7);
    assert_int_equal(d.signo, 0);
    assert_int_equal(waitpid(pid, NULL, 0), -1);          /* reaped */

    pid = fork();                                         /* a zombie */
    if (pid == 0)
        _exit(8);
    siginfo_t info;
    assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
    assert_ok(process_watch(b->loop, pid, on_death, &d, &w, &e));
    assert_int_equal(d.calls, 1);
    run(b);
    assert_int_equal(d.code, 8);

    assert_ok(process_watch(b->loop, pid, on_death, &d, &w, &e));   /* gone already */
    assert_int_equal(d.calls, 2);
    run(b);
    assert_int_equal(d.calls, 3);
    assert_int_equal(d.code, -1);
    assert_int_equal(d.signo, -1);

    assert_ok(process_watch(b->loop, getpid(), on_death, &d, &w, &e));
    process_unwatch(w);
    assert_ok(process_watch(b->loop, getpid(), on_death, &d, &w, &e));   /* left to loop_free */
}

/* A grandchild: its parent ends first, so that it is not ours. */
static void death_of_a_stranger(void **state)
{
    struct bench *b = *state;
    struct err e = ERR_INIT;
    struct process_watch *w;
    struct death d = {.b = b};
    int tell[2], wait[2];
    assert_int_equal(pipe(tell), 0);
    assert_int_equal(pipe(wait), 0);
    pid_t pid = fork(), stranger = 0;
    if (pid == 0) {
        if (fork() == 0) {
            char c;
            pid_t self = getpid();
            close(wait[1]);
            if (write(tell[1], &self, sizeof self) != sizeof self || read(wait[0], &c, 1) != 0)
                _exit(1);
            _exit(9);
        }
        _exit(0);
    }
    assert_int_equal(read(tell[0], &stranger, sizeof stranger), sizeof stranger);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_ok(process_watch(b->loop, stranger, on_death, &d, &w, &e));
    close(wait[1]);
    run(b);
    assert_int_equal(d.calls, 1);
    assert_int_equal(d.pid, stranger);
    assert_int_equal(d.code, -1);
    assert_int_equal(d.signo, -1);
    close(wait[0]);
    close(tell[0]);
    close(tell[1]);
}

/* ---- the loop itself ---- */
struct tally { struct loop *loop; unsigned count, stop_at; struct timer *timer; };

static void on_tally(void *arg)
{
    struct tally *t = arg;
    if (++t->count == t->stop_at)
        loop_stop(t->loop);
}

#define POSTERS 4
#define POSTS 20000
static void *poster(void *arg)
{
    struct tally *t = arg;
    for (unsigned i = 0; i < POSTS; i++)
        while (loop_post(t->loop, on_tally, t) < 0)
            usleep(100);
    return NULL;
}

static void posts(void **state)
{
    struct bench *b = *state;
    struct tally t = {.loop = b->loop, .stop_at = POSTERS * POSTS};
    pthread_t thread[POSTERS];
    for (unsigned i = 0; i < POSTERS; i++)
        pthread_create(&thread[i], NULL, poster, &t);
    run(b);
    for (unsigned i = 0; i < POSTERS; i++)
        pthread_join(thread[i], NULL);
    assert_int_equal(t.count, POSTERS * POSTS);
    t.stop_at = t.count + 4096;
    for (unsigned i = 0; i < 4096; i++)
        assert_int_equal(loop_post(b->loop, on_tally, &t), 0);
    assert_int_equal(loop_post(b->loop, on_tally, &t), ERR_TEMPORARY);
    loop_run(b->loop);                                    /* posts alone are worked off */
    assert_int_equal(t.count, POSTERS * POSTS + 4096);
    assert_int_equal(loop_post(b->loop, on_tally, &t), 0);   /* dropped */
}

static void stop_self(void *arg)
{
    struct tally *t = arg;
    if (++t->count == 3) {
        timer_stop(t->timer);
        timer_stop(t->timer);
        loop_stop(t->loop);
    }
}

static void stop_once(void *arg)
{
    struct tally *t = arg;
    t->count++;
    timer_stop(t->timer);
}

static void timers(void **state)
{
    struct bench *b = *state;
    struct tally t = {.loop = b->loop}, once = t, never = t;
    uint64_t start = loop_now_ms(b->loop);
    t.timer = timer_start(b->loop, 20, 10, stop_self, &t);
    once.timer = timer_start(b->loop, 1, 0, stop_once, &once);
    timer_start(b->loop, 1, 0, on_tally, &once);
    never.timer = timer_start(b->loop, 1, 0, on_tally, &never);
    timer_stop(never.timer);
    timer_stop(NULL);
    run(b);
    assert_int_equal(t.count, 3);
    assert_int_equal(once.count, 2);
    assert_int_equal(never.count, 0);
    assert_true(loop_now_ms(b->loop) - start >= 38);
    timer_start(b->loop, 1000000, 0, on_tally, &never);   /* left to loop_free */
}

static void on_usr1(void *arg, int signo)
{
    struct tally *t = arg;
    assert_int_equal(signo, SIGUSR1);
    on_tally(t);
}

static void stop_before_run(void **state)
{
    struct bench *b = *state;
    struct tally t = {.loop = b->loop, .stop_at = 1};
    loop_stop(b->loop);
    timer_start(b->loop, 1, 0, on_tally, &t);
    loop_run(b->loop);
    assert_int_equal(t.count, 0);
    loop_run(b->loop);
    assert_int_equal(t.count, 1);
    assert_int_equal(loop_post(b->loop, on_tally, &t), 0);
    loop_run(b->loop);
    assert_int_equal(t.count, 2);
    loop_stop(b->loop);                                   /* left to loop_free */
}

static void signals(void **state)
{
    struct bench *b = *state;
    struct err e = ERR_INIT;
    struct tally t = {.loop = b->loop, .stop_at = 1};
    assert_ok(loop_on_signal(b->loop, SIGUSR1, on_usr1, &t, &e));
    raise(SIGUSR1);
    run(b);
    assert_int_equal(t.count, 1);
    loop_run(b->loop);                                    /* nothing is left to wait for */
}

struct heard { struct loop *loop; unsigned count; size_t length[8]; bool ended; };

static void on_line(void *arg, const char *line)
{
    struct heard *h = arg;
    if (!line) {
        h->ended = true;
        loop_stop(h->loop);
        return;
    }
    assert_true(h->count < 8);
    h->length[h->count++] = strlen(line);
}

static void lines(void **state)
{
    struct bench *b = *state;
    struct err e = ERR_INIT;
    struct heard h = {.loop = b->loop};
    char text[9000];
    int p[2], left[2];
    assert_int_equal(pipe(p), 0);
    memset(text, 'x', sizeof text);
    text[3] = text[4] = text[8000] = '\n';
    assert_int_equal(write(p[1], text, sizeof text), sizeof text);
    close(p[1]);
    assert_ok(loop_read_lines(b->loop, p[0], on_line, &h, &e));
    run(b);
    assert_true(h.ended);
    assert_int_equal(h.count, 4);
    assert_int_equal(h.length[0], 3);
    assert_int_equal(h.length[1], 0);
    assert_int_equal(h.length[2], 4096);
    assert_int_equal(h.length[3], 999);
    assert_int_equal(pipe(left), 0);
    assert_ok(loop_read_lines(b->loop, left[0], on_line, &h, &e));   /* left to loop_free */
    close(left[1]);
}

/* ---- identities ---- */
static void identities(void **state)
{
    struct bench *b = *state;
    struct err e = ERR_INIT;
    struct stat before, after;
    struct identity *i;
    char path[160];
    static const char *const files[] = {"ca.pem", "ca.key", "worker-here.pem", "worker-here.key"};
    for (unsigned k = 0; k < ARRAY_LEN(files); k++) {
        snprintf(path, sizeof path, "%s/%s", b->tls, files[k]);
        assert_int_equal(stat(path, &before), 0);
        assert_int_equal(before.st_mode & 0777, 0600);
        assert_ok(identity_make_ca(b->tls, "job-a", &e));
        assert_ok(identity_issue(b->tls, "job-a", "here", ROLE_WORKER, &e));
        assert_int_equal(stat(path, &after), 0);
        assert_int_equal(before.st_ino, after.st_ino);    /* kept */
    }
    assert_int_equal(stat(b->tls, &after), 0);
    assert_int_equal(after.st_mode & 0777, 0700);
    assert_int_equal(truncate(path, 10), 0);              /* the worker's key: made anew */
    assert_int_equal(identity_load(b->tls, "here", ROLE_WORKER, &i, &e), ERR_FAILED);
    assert_ok(identity_issue(b->tls, "job-a", "here", ROLE_WORKER, &e));
    assert_ok(identity_load(b->tls, "here", ROLE_WORKER, &i, &e));
    identity_free(i);
    assert_int_equal(identity_load(b->tls, "there", ROLE_WORKER, &i, &e), ERR_NOT_FOUND);
    assert_int_equal(identity_issue(b->tls, "job-a", "../x", ROLE_WORKER, &e), ERR_USAGE);
    assert_int_equal(identity_issue(b->dir, "job-a", "here", ROLE_WORKER, &e), ERR_NOT_FOUND);
}

static X509 *read_certificate(const char *path)
{
    FILE *f = fopen(path, "re");
    assert_non_null(f);
    X509 *cert = PEM_read_X509(f, NULL, NULL, NULL);
    assert_non_null(cert);
    fclose(f);
    return cert;
}

static int days_left(const char *path)
{
    int days, seconds;
    X509 *cert = read_certificate(path);
    assert_int_equal(ASN1_TIME_diff(&days, &seconds, NULL, X509_get0_notAfter(cert)), 1);
    X509_free(cert);
    return days;
}

/* The authority itself signs it again with another end. */
static void ends_in(const struct bench *b, const char *path, long days)
{
    char key[128];
    snprintf(key, sizeof key, "%s/ca.key", b->tls);
    FILE *f = fopen(key, "re");
    assert_non_null(f);
    EVP_PKEY *ca = PEM_read_PrivateKey(f, NULL, NULL, NULL);
    fclose(f);
    X509 *cert = read_certificate(path);
    assert_true(X509_gmtime_adj(X509_getm_notAfter(cert), days * 86400) && X509_sign(cert, ca, EVP_sha256()) > 0);
    f = fopen(path, "we");
    assert_true(f && PEM_write_X509(f, cert));
    fclose(f);
    X509_free(cert);
    EVP_PKEY_free(ca);
}

/* What this host takes for the time; the libraries ask here. */
static time_t skew;
__attribute__((visibility("default"))) time_t time(time_t *out)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out)
        *out = now.tv_sec + skew;
    return now.tv_sec + skew;
}

/* A machine may come whose clock is hours behind that of the run; one that is years away is told what is wrong. */
static void clocks_that_differ(void **state)
{
    struct bench *b = *state;
    struct msg_hello h = hello_of(ROLE_WORKER, "job-a");
    skew = -20 * 3600;
    exchange(b, true);
    listener_close(b->listener);
    static const long years[] = {-3, 3};
    for (unsigned i = 0; i < ARRAY_LEN(years); i++) {
        skew = years[i] * 365 * 86400;
        b->dialer = (struct side){.b = b};
        b->server = (struct side){.b = b};
        refused(b, true, b->worker, b->ps, &h);
        assert_non_null(strstr(b->dialer.why.text, "are the clocks of both hosts right?"));
        listener_close(b->listener);
    }
    skew = 0;
}

/* Links are made again at any time of a run: a start leaves no certificate that a long run could outlast. */
static void a_start_leaves_certificates_a_year(void **state)
{
    struct bench *b = *state;
    struct err e = ERR_INIT;
    char path[160];
    snprintf(path, sizeof path, "%s/ca.pem", b->tls);
    assert_true(days_left(path) > 10 * 365);
    snprintf(path, sizeof path, "%s/worker-here.pem", b->tls);
    assert_true(days_left(path) > 700);
    ends_in(b, path, 360);
    assert_ok(identity_issue(b->tls, "job-a", "here", ROLE_WORKER, &e));
    assert_true(days_left(path) > 700);
    ends_in(b, path, 370);
    assert_ok(identity_issue(b->tls, "job-a", "here", ROLE_WORKER, &e));
    assert_true(days_left(path) < 371);                   /* kept */
}

/* ---- speed: printed, not asserted ---- */
#define RACE_BYTES ((size_t)1 << 20)
#define RACE_COUNT 300u
static void race_opened(void *arg, struct link *link, const struct msg_hello *peer)
{
    struct side *s = arg;
    on_opened(arg, link, peer);
    struct err e = ERR_INIT;
    for (unsigned i = 0; i < 4; i++)
        assert_ok(link_send(link, MSG_STATUS, 0, &(struct msg_status){0}, &(struct bytes){s->b->pattern, RACE_BYTES}, 1, &e));
}

static void race_dialer(void *arg, struct link *link, enum msg_type type, void *msg, const uint8_t *payload, size_t size)
{
    struct side *s = arg;
    struct err e = ERR_INIT;
    (void)type;
    (void)msg;
    (void)payload;
    (void)size;
    if (++s->messages == RACE_COUNT)
        link_close(link);
    else
        assert_ok(link_send(link, MSG_STATUS, 0, &(struct msg_status){0}, &(struct bytes){s->b->pattern, RACE_BYTES}, 1, &e));
}

static void race_server(void *arg, struct link *link, enum msg_type type, void *msg, const uint8_t *payload, size_t size)
{
    struct err e = ERR_INIT;
    (void)arg;
    (void)payload;
    (void)size;
    assert_ok(link_send(link, type, 0, msg, NULL, 0, &e));
}

static void race(struct bench *b, bool tls)
{
    static const struct link_ops dialer = {race_opened, race_dialer, on_closed}, server = {on_opened, race_server, on_closed};
    struct err e = ERR_INIT;
    struct msg_hello h = hello_of(ROLE_WORKER, "job-a"), s = hello_of(ROLE_PS, "job-a");
    char address[ADDRESS_LIMIT];
    snprintf(address, sizeof address, tls ? "tls:localhost:0" : "unix:%s/s", b->dir);
    assert_ok(net_listen(b->loop, address, tls ? b->ps : NULL, &s, &server, &b->server, &b->listener, &e));
    assert_ok(net_dial(b->loop, listener_address(b->listener), tls ? b->worker : NULL, &h, &dialer, &b->dialer, &b->dialer.link, &e));
    uint64_t start = clock_now_ns();
    run(b);
    double seconds = (double)(clock_now_ns() - start) * 1e-9;
    fprintf(stderr, "# %s: %u messages of 1 MiB in %.3f s, both ends in one thread: %.0f MB/s\n", tls ? "tls" : "unix", RACE_COUNT, seconds,
            (double)RACE_COUNT * RACE_BYTES / seconds * 1e-6);
    assert_int_equal(b->dialer.messages, RACE_COUNT);
}
static void speed_local(void **state) { race(*state, false); }
static void speed_tls(void **state) { race(*state, true); }

#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
int main(void)
{
    const struct CMUnitTest tests[] = {
        T(identities), T(a_start_leaves_certificates_a_year), T(clocks_that_differ), T(timers), T(posts), T(stop_before_run), T(signals), T(lines), T(deaths), T(death_of_a_stranger),
        T(messages_local), T(messages_tls), T(farewell_local), T(farewell_tls), T(queue_is_bounded), T(a_sender_is_told_when_its_queue_drains),
        T(dial_and_close_at_once), T(free_while_open),
        T(wrong_job), T(wrong_version), T(wrong_authority_of_dialer), T(wrong_authority_of_server), T(server_alone_refuses), T(lie_about_role),
        T(lie_about_role_of_server), T(a_viewer_is_no_process), T(a_web_server_is_no_process), T(lie_about_job), T(unreachable), T(local_path_is_replaced_when_stale), T(garbage), T(a_token_and_a_coordinator_speak_to_nobody_else), T(damage), T(drip),
        T(garbage_on_tls), T(close_on_a_stuck_reader), T(another_user), T(silence), T(a_silent_crowd_keeps_nobody_out), T(largest),
        T(killed_peer_local), T(killed_peer_tls), T(speed_local), T(speed_tls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
