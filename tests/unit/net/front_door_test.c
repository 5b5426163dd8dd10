/* The front door: connections reach the process that they name and outlive the door; strangers who say nothing, half, rubbish or a wrong name keep nobody
 * out; a name belongs to its holder; only our own user stands behind it. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "net/client_hello.h"
#include "net/net.h"

#define LIMIT_MS 60000           /* sanitizers on a shared machine */
#define STRANGERS 200

struct bench;
struct guest { struct bench *b; struct link *link; unsigned opened, messages, closed, answered_by; uint64_t opened_ns; struct err why; };
struct bench {
    struct loop *loop;
    struct log log;
    char dir[64], passing[96], address[ADDRESS_LIMIT];
    struct identity *worker, *ps;
    struct front_door *door;
    struct guest guest[8];
    int raw[STRANGERS * 2];
    unsigned raw_count, wanted;
    bool (*over)(struct bench *b);
    bool timed_out;
};

/* ---- bench ---- */
static int set_up(void **state)
{
    struct bench *b = calloc(1, sizeof *b);
    struct err e = ERR_INIT;
    char tls[96], path[96];
    snprintf(b->dir, sizeof b->dir, "/tmp/viaduct-front-XXXXXX");
    assert_non_null(mkdtemp(b->dir));
    snprintf(tls, sizeof tls, "%s/tls", b->dir);
    snprintf(path, sizeof path, "%s/log", b->dir);
    snprintf(b->passing, sizeof b->passing, "unix:%s/d", b->dir);
    assert_ok(loop_new(&b->loop, &e));
    assert_ok(log_open(&b->log, path, "test", "job-a"));
    b->log.stderr_level = LOG_ERROR;
    assert_ok(identity_make_ca(tls, "job-a", &e));
    assert_ok(identity_issue(tls, "job-a", "here", ROLE_WORKER, &e));
    assert_ok(identity_issue(tls, "job-a", "here", ROLE_PS, &e));
    assert_ok(identity_load(tls, "here", ROLE_WORKER, &b->worker, &e));
    assert_ok(identity_load(tls, "here", ROLE_PS, &b->ps, &e));
    for (unsigned i = 0; i < ARRAY_LEN(b->guest); i++)
        b->guest[i].b = b;
    assert_ok(front_door_open(b->loop, &b->log, "tls:127.0.0.1:0", b->passing, &b->door, &e));
    snprintf(b->address, sizeof b->address, "%s", front_door_address(b->door));
    *state = b;
    return 0;
}

static int tear_down(void **state)
{
    struct bench *b = *state;
    char command[128];
    for (unsigned i = 0; i < b->raw_count; i++)
        close(b->raw[i]);
    loop_free(b->loop);
    identity_free(b->worker);
    identity_free(b->ps);
    log_close(&b->log);
    snprintf(command, sizeof command, "rm -rf '%s'", b->dir);
    assert_int_equal(system(command), 0);
    free(b);
    return 0;
}

static void on_check(void *arg)
{
    struct bench *b = arg;
    if (b->over(b))
        loop_stop(b->loop);
}

static void on_limit(void *arg)
{
    struct bench *b = arg;
    b->timed_out = true;
    loop_stop(b->loop);
}

static void run_until(struct bench *b, bool (*over)(struct bench *b))
{
    b->over = over;
    struct timer *limit = timer_start(b->loop, LIMIT_MS, 0, on_limit, b), *check = timer_start(b->loop, 2, 2, on_check, b);
    loop_run(b->loop);
    assert_false(b->timed_out);
    timer_stop(limit);
    timer_stop(check);
}

static struct front_door_counts counts(const struct bench *b) { return front_door_counts(b->door); }

/* ---- processes and those who dial them ---- */
static void serve_opened(void *arg, struct link *link, const struct msg_hello *peer) { (void)arg, (void)link, (void)peer; }
static void serve_message(void *arg, struct link *link, enum msg_type type, void *msg, const uint8_t *payload, size_t size)
{
    struct err e = ERR_INIT;
    (void)arg;
    assert_ok(link_send(link, type, 0, msg, &(struct bytes){payload, size}, 1, &e));
}
static void serve_closed(void *arg, struct link *link, const struct err *why) { (void)arg, (void)link, (void)why; }
static const struct link_ops serve_ops = {serve_opened, serve_message, serve_closed};

static struct msg_hello hello_of(enum role role, unsigned index)
{
    return (struct msg_hello){.version_min = FRAME_VERSION, .version_max = FRAME_VERSION, .who = {.role = (uint8_t)role, .index = (uint16_t)index},
                              .job = "job-a", .build = "test"};
}

static struct listener *serve(struct bench *b, const char *name, unsigned index)
{
    struct err e = ERR_INIT;
    struct listener *s;
    struct msg_hello h = hello_of(ROLE_PS, index);
    char address[ADDRESS_LIMIT * 2];
    const struct door_place place = {.address = b->address, .passing = b->passing, .name = name};
    assert_ok(net_listen_at_door(b->loop, &place, b->ps, &h, &serve_ops, NULL, &s, &e));
    snprintf(address, sizeof address, "%s/%s", b->address, name);
    assert_string_equal(listener_address(s), address);
    return s;
}

static void say(struct guest *g)
{
    struct err e = ERR_INIT;
    assert_ok(link_send(g->link, MSG_STATUS, 0, &(struct msg_status){.what = 1}, &(struct bytes){"hello", 5}, 1, &e));
}

static void guest_opened(void *arg, struct link *link, const struct msg_hello *peer)
{
    struct guest *g = arg;
    (void)link;
    g->opened++;
    g->opened_ns = clock_now_ns();
    g->answered_by = peer->who.index;
    say(g);
}
static void guest_message(void *arg, struct link *link, enum msg_type type, void *msg, const uint8_t *payload, size_t size)
{
    struct guest *g = arg;
    (void)link, (void)type, (void)msg;
    assert_int_equal(size, 5);
    assert_memory_equal(payload, "hello", 5);
    g->messages++;
}
static void guest_closed(void *arg, struct link *link, const struct err *why)
{
    struct guest *g = arg;
    (void)link;
    g->link = NULL;
    g->closed++;
    g->why = *why;
}
static const struct link_ops guest_ops = {guest_opened, guest_message, guest_closed};

static void dial(struct bench *b, unsigned i, const char *name)
{
    struct err e = ERR_INIT;
    char address[ADDRESS_LIMIT * 2];
    struct msg_hello h = hello_of(ROLE_WORKER, i);
    snprintf(address, sizeof address, "%s/%s", b->address, name);
    assert_ok(net_dial(b->loop, address, b->worker, &h, &guest_ops, &b->guest[i], &b->guest[i].link, &e));
}

/* ---- strangers ---- */
static int knock(struct bench *b, const void *bytes, size_t size)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    at.sin_port = htons((uint16_t)strtoul(strrchr(b->address, ':') + 1, NULL, 10));
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(send(fd, bytes, size, MSG_NOSIGNAL), size);
    b->raw[b->raw_count++] = fd;
    return fd;
}

static bool is_shut(int fd)
{
    char byte;
    ssize_t n = recv(fd, &byte, 1, MSG_DONTWAIT);
    return n == 0 || (n < 0 && errno != EAGAIN);
}

/* Enough of a hello for a name, with nothing behind it: 22, version, length, message, no extensions but the name. */
static size_t hello_for(const char *name, uint8_t out[256])
{
    size_t n = strlen(name), body = 2 + 32 + 1 + 4 + 2 + 2 + 4 + 5 + n;
    const uint8_t head[] = {22, 3, 1, 0, (uint8_t)(body + 4), 1, 0, 0, (uint8_t)body, 3, 3};
    const uint8_t rest[] = {0, 0, 2, 0x13, 1, 1, 0, 0, (uint8_t)(n + 9), 0, 0, 0, (uint8_t)(n + 5), 0, (uint8_t)(n + 3), 0, 0, (uint8_t)n};
    memset(out, 7, 256);
    memcpy(out, head, sizeof head);
    memcpy(out + sizeof head + 32, rest, sizeof rest);
    memcpy(out + sizeof head + 32 + sizeof rest, name, n);
    return sizeof head + 32 + sizeof rest + n;
}

/* ---- what a test waits for ---- */
static bool registered(struct bench *b) { return counts(b).registered == b->wanted; }
static bool spoke(struct bench *b)
{
    for (unsigned i = 0; i < b->wanted; i++)
        if (b->guest[i].messages == 0)
            return false;
    return true;
}
static bool first_closed(struct bench *b) { return b->guest[0].closed == 1; }
static bool raw_shut(struct bench *b)
{
    for (unsigned i = 0; i < b->raw_count; i++)
        if (!is_shut(b->raw[i]))
            return false;
    return true;
}
static bool accepted(struct bench *b) { return counts(b).accepted == b->wanted; }
static bool strange(struct bench *b) { return counts(b).strange >= b->wanted; }

static void wait_for(struct bench *b, bool (*over)(struct bench *b), unsigned wanted)
{
    b->wanted = wanted;
    run_until(b, over);
}

/* ---- tests ---- */
static void each_reaches_its_own(void **state)
{
    struct bench *b = *state;
    serve(b, "ps-1.here.job-a", 1);
    serve(b, "ps-2.here.job-a", 2);
    wait_for(b, registered, 2);
    for (unsigned i = 0; i < 4; i++)
        dial(b, i, i % 2 ? "ps-2.here.job-a" : "ps-1.here.job-a");
    wait_for(b, spoke, 4);
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(b->guest[i].answered_by, 1 + i % 2);
        assert_false(b->guest[i].closed);
    }
    assert_int_equal(counts(b).passed, 4);
}

static void addresses(void **state)
{
    struct bench *b = *state;
    static const char *const bad[] = {"tls:127.0.0.1:1/", "tls:127.0.0.1:1/../x", "tls:127.0.0.1:1/a/b", "tls:127.0.0.1:1/A", "tls:127.0.0.1:1/.a",
                                      "tls:127.0.0.1/a", "tls:/a", "tls:127.0.0.1:1 /a",
                                      "tls:127.0.0.1:1/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
    struct msg_hello h = hello_of(ROLE_WORKER, 0);
    struct listener *s;
    struct link *link;
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        struct err e = ERR_INIT;
        assert_int_equal(net_dial(b->loop, bad[i], b->worker, &h, &guest_ops, &b->guest[0], &link, &e), ERR_USAGE);
        assert_non_null(strstr(e.text, "tls:"));
    }
    struct err e = ERR_INIT;
    assert_int_equal(net_listen(b->loop, "tls:127.0.0.1:0/a", b->ps, &h, &serve_ops, NULL, &s, &e), ERR_USAGE);
    struct door_place place = {.address = b->address, .passing = b->passing, .name = "../a"};
    assert_int_equal(net_listen_at_door(b->loop, &place, b->ps, &h, &serve_ops, NULL, &s, &e), ERR_USAGE);
    place = (struct door_place){.address = b->address, .passing = "tls:127.0.0.1:1", .name = "a"};
    assert_int_equal(net_listen_at_door(b->loop, &place, b->ps, &h, &serve_ops, NULL, &s, &e), ERR_USAGE);
    char host[ADDRESS_LIMIT];
    snprintf(host, sizeof host, "tls:%0120d:1", 0);
    place = (struct door_place){.address = host, .passing = b->passing, .name = "a-name-that-makes-it-too-long.here.job-a"};
    assert_int_equal(net_listen_at_door(b->loop, &place, b->ps, &h, &serve_ops, NULL, &s, &e), ERR_USAGE);
    assert_non_null(strstr(e.text, "shorter name"));
}

/* An address without a name works as ever at a listener, and gets nobody through a door. */
static void without_a_name(void **state)
{
    struct bench *b = *state;
    struct err e = ERR_INIT;
    struct msg_hello h = hello_of(ROLE_WORKER, 0);
    serve(b, "ps-1.here.job-a", 1);
    wait_for(b, registered, 1);
    assert_ok(net_dial(b->loop, b->address, b->worker, &h, &guest_ops, &b->guest[0], &b->guest[0].link, &e));
    wait_for(b, first_closed, 1);
    assert_int_equal(b->guest[0].why.code, ERR_TEMPORARY);
    assert_int_equal(counts(b).bad, 1);
}

/* It may be a process that is on its way: the caller may try again. */
static void unknown_name(void **state)
{
    struct bench *b = *state;
    serve(b, "ps-1.here.job-a", 1);
    wait_for(b, registered, 1);
    dial(b, 0, "ps-2.here.job-a");
    wait_for(b, first_closed, 1);
    assert_int_equal(b->guest[0].why.code, ERR_TEMPORARY);
    assert_int_equal(counts(b).unknown, 1);
    assert_int_equal(counts(b).passed, 0);
}

/* A name stays with its holder; when the holder ends, who waited for it has it. */
static void name_is_held(void **state)
{
    struct bench *b = *state;
    struct listener *first = serve(b, "ps-1.here.job-a", 1);
    wait_for(b, registered, 1);
    serve(b, "ps-1.here.job-a", 2);
    wait_for(b, strange, 2);     /* it tried, and tried again */
    dial(b, 0, "ps-1.here.job-a");
    wait_for(b, spoke, 1);
    assert_int_equal(b->guest[0].answered_by, 1);
    listener_close(first);
    wait_for(b, registered, 0);
    wait_for(b, registered, 1);
    b->guest[1].messages = 0;
    dial(b, 1, "ps-1.here.job-a");
    wait_for(b, spoke, 2);
    assert_int_equal(b->guest[1].answered_by, 2);
}

/* The door dies with streams open; the next one stands at the same address, and the processes come by themselves. */
static void streams_outlive_the_door(void **state)
{
    struct bench *b = *state;
    struct err e = ERR_INIT;
    serve(b, "ps-1.here.job-a", 1);
    wait_for(b, registered, 1);
    dial(b, 0, "ps-1.here.job-a");
    wait_for(b, spoke, 1);
    front_door_close(b->door);
    b->door = NULL;
    b->guest[0].messages = 0;
    say(&b->guest[0]);
    wait_for(b, spoke, 1);
    assert_ok(front_door_open(b->loop, &b->log, b->address, b->passing, &b->door, &e));
    assert_string_equal(front_door_address(b->door), b->address);
    wait_for(b, registered, 1);
    dial(b, 1, "ps-1.here.job-a");
    wait_for(b, spoke, 2);
    b->guest[0].messages = 0;
    say(&b->guest[0]);
    wait_for(b, spoke, 1);
    assert_int_equal(b->guest[0].opened + b->guest[1].opened, 2);
    assert_int_equal(b->guest[0].closed + b->guest[1].closed, 0);
}

/* 200 say nothing, half of them after some bytes: a real one gets in at once. They go when their time is over. */
static void slow_strangers(void **state)
{
    struct bench *b = *state;
    uint8_t hello[256];
    hello_for("ps-1.here.job-a", hello);
    serve(b, "ps-1.here.job-a", 1);
    wait_for(b, registered, 1);
    for (unsigned i = 0; i < STRANGERS; i += 50) {
        for (unsigned k = 0; k < 50; k++)
            knock(b, hello, k % 2 ? 30 : 0);
        wait_for(b, accepted, i + 50);
    }
    uint64_t start = loop_now_ms(b->loop);
    dial(b, 0, "ps-1.here.job-a");
    wait_for(b, spoke, 1);
    uint64_t took = loop_now_ms(b->loop) - start;
    fprintf(stderr, "# through the door in %llu ms while %d strangers wait\n", (unsigned long long)took, STRANGERS);
    assert_true(counts(b).late < STRANGERS);   /* it did not wait for their end */
    wait_for(b, raw_shut, 0);
    assert_int_equal(counts(b).late, STRANGERS);
    assert_false(b->guest[0].closed);
}

/* More than may wait: the oldest go, the newest get in. */
static void crowd(void **state)
{
    struct bench *b = *state;
    serve(b, "ps-1.here.job-a", 1);
    wait_for(b, registered, 1);
    for (unsigned i = 0; i < STRANGERS * 2; i += 50) {
        for (unsigned k = 0; k < 50; k++)
            knock(b, "", 0);
        wait_for(b, accepted, i + 50);
    }
    dial(b, 0, "ps-1.here.job-a");
    wait_for(b, spoke, 1);
    assert_true(counts(b).crowded + counts(b).late >= STRANGERS * 2 - 255);
}

static void rubbish(void **state)
{
    struct bench *b = *state;
    uint8_t hello[256];
    size_t size = hello_for("../../etc/passwd", hello);
    serve(b, "ps-1.here.job-a", 1);
    wait_for(b, registered, 1);
    knock(b, "GET / HTTP/1.1\r\n\r\n", 18);
    knock(b, "\x16\x03\x01\x40\x01", 5);
    knock(b, hello, size);
    wait_for(b, raw_shut, 0);
    assert_int_equal(counts(b).bad, 3);
    int gone = knock(b, "", 0);
    shutdown(gone, SHUT_WR);
    size = hello_for("ps-1.here.job-a", hello);
    shutdown(knock(b, hello, size - 1), SHUT_WR);      /* half a hello and no more: told apart from one that is slow */
    wait_for(b, raw_shut, 0);
    assert_int_equal(counts(b).gone, 1);
    assert_int_equal(counts(b).bad, 4);
    assert_int_equal(counts(b).late, 0);
}

struct drip { struct bench *b; int fd; uint8_t hello[256]; size_t size, sent; };
static void on_drip(void *arg)
{
    struct drip *d = arg;
    size_t n = MIN((size_t)9, d->size - d->sent);
    if (n > 0)
        assert_int_equal(send(d->fd, d->hello + d->sent, n, MSG_NOSIGNAL), n);
    d->sent += n;
}
static bool passed(struct bench *b) { return counts(b).passed == b->wanted; }

/* A hello in small pieces is waited for, and the process gets every byte of it. */
static void in_pieces(void **state)
{
    struct bench *b = *state;
    struct drip d = {.b = b};
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    uint8_t got[256];
    snprintf(at.sun_path, sizeof at.sun_path, "%s", b->passing + 5);
    int process = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(process, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(send(process, "raw", 3, 0), 3);
    wait_for(b, registered, 1);
    d.size = hello_for("raw", d.hello);
    d.fd = knock(b, "", 0);
    struct timer *t = timer_start(b->loop, 1, 15, on_drip, &d);
    wait_for(b, passed, 1);
    timer_stop(t);
    assert_int_equal(d.sent, d.size);
    char control[64], mark;
    struct iovec v = {&mark, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    int fd;
    assert_int_equal(recvmsg(process, &m, 0), 1);
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof fd);
    assert_int_equal(recv(fd, got, sizeof got, 0), d.size);
    assert_memory_equal(got, d.hello, d.size);
    assert_int_equal(send(fd, "answer", 6, 0), 6);
    assert_int_equal(recv(d.fd, got, sizeof got, 0), 6);
    close(fd);

    /* The same process says its name twice: it is put out. */
    assert_int_equal(send(process, "other", 5, 0), 5);
    wait_for(b, registered, 0);
    assert_int_equal(recv(process, got, sizeof got, 0), 0);
    close(process);
}

/* A process that takes nothing keeps only its own callers waiting. */
static void stuck_process(void **state)
{
    struct bench *b = *state;
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    uint8_t hello[256];
    int size = 4096, process = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    snprintf(at.sun_path, sizeof at.sun_path, "%s", b->passing + 5);
    setsockopt(process, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    assert_int_equal(connect(process, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(send(process, "stuck", 5, 0), 5);
    serve(b, "ps-1.here.job-a", 1);
    wait_for(b, registered, 2);
    size_t n = hello_for("stuck", hello);
    for (unsigned i = 0; i < 100; i++)
        knock(b, hello, n);
    wait_for(b, accepted, 100);
    dial(b, 0, "ps-1.here.job-a");
    wait_for(b, spoke, 1);
    assert_int_equal(counts(b).passed + counts(b).busy, 101);
    close(process);              /* its callers end with it */
    wait_for(b, raw_shut, 0);
}

static void as_nobody(const struct bench *b)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    char byte;
    snprintf(at.sun_path, sizeof at.sun_path, "%s", b->passing + 5);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (setgid(65534) < 0 || setuid(65534) < 0)
        _exit(2);
    if (connect(fd, (struct sockaddr *)&at, sizeof at) < 0)
        _exit(3);
    (void)!send(fd, "ps-1.here.job-a", 15, MSG_NOSIGNAL);
    _exit(recv(fd, &byte, 1, 0) <= 0 ? 0 : 4);
}

static void another_user(void **state)
{
    struct bench *b = *state;
    int status;
    if (geteuid() != 0)
        test_skip("only root can act as another user");
    assert_int_equal(chmod(b->dir, 0755), 0);
    assert_int_equal(chmod(b->passing + 5, 0666), 0);
    pid_t pid = fork();
    if (pid == 0)
        as_nobody(b);
    wait_for(b, strange, 1);
    assert_int_equal(counts(b).registered, 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void two_doors(void **state)
{
    struct bench *b = *state;
    struct err e = ERR_INIT;
    struct front_door *second;
    assert_int_equal(front_door_open(b->loop, &b->log, b->address, "unix:/tmp/viaduct-front-none", &second, &e), ERR_CONFLICT);
    assert_int_equal(front_door_open(b->loop, &b->log, "tls:127.0.0.1:0", b->passing, &second, &e), ERR_CONFLICT);
    assert_int_equal(front_door_open(b->loop, &b->log, "tls:127.0.0.1:0/a", b->passing, &second, &e), ERR_USAGE);
    assert_int_equal(front_door_open(b->loop, &b->log, b->passing, b->passing, &second, &e), ERR_USAGE);
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double dial_us(struct bench *b, const char *address)
{
    struct err e = ERR_INIT;
    struct msg_hello h = hello_of(ROLE_WORKER, 0);
    struct guest *g = &b->guest[0];
    *g = (struct guest){.b = b};
    uint64_t start = clock_now_ns();
    assert_ok(net_dial(b->loop, address, b->worker, &h, &guest_ops, g, &g->link, &e));
    wait_for(b, spoke, 1);
    link_close(g->link);
    wait_for(b, first_closed, 1);
    return (double)(g->opened_ns - start) * 1e-3;
}

/* From dialling to opened, through the door and at a port of the process's own, in turns. */
static void cost(void **state)
{
    struct bench *b = *state;
    struct err e = ERR_INIT;
    struct listener *behind = serve(b, "ps-1.here.job-a", 1), *own;
    struct msg_hello h = hello_of(ROLE_PS, 1);
    double took[2][51];
    assert_ok(net_listen(b->loop, "tls:127.0.0.1:0", b->ps, &h, &serve_ops, NULL, &own, &e));
    wait_for(b, registered, 1);
    for (unsigned i = 0; i < 51; i++) {
        took[0][i] = dial_us(b, listener_address(own));
        took[1][i] = dial_us(b, listener_address(behind));
    }
    for (unsigned i = 0; i < 2; i++)
        qsort(took[i], 51, sizeof(double), by_size);
    fprintf(stderr, "# dialled and opened, median of 51, all in one thread: %.0f us at a port of its own, %.0f us through the door\n", took[0][25], took[1][25]);
    assert_int_equal(counts(b).passed, 51);
}

#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
int main(void)
{
    const struct CMUnitTest tests[] = {
        T(each_reaches_its_own), T(addresses), T(without_a_name), T(unknown_name), T(name_is_held), T(streams_outlive_the_door), T(slow_strangers), T(crowd),
        T(rubbish), T(in_pieces), T(stuck_process), T(another_user), T(two_doors), T(cost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
