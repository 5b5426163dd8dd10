/* The front door: looks at the first bytes of each caller without taking them, and passes the whole connection to the process that its ClientHello
 * names. No byte of a caller is ever taken here, no key is held: what the process gets is the untouched stream.
 *
 *   accepted --ClientHello whole, name known--> passed on, forgotten here
 *            --not whole yet--> waits, looked at again when more has come
 *            --no TLS, no name, unknown name, 5 s over, crowded out, gone--> closed and counted
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/base.h"
#include "net/acceptor.h"
#include "net/loop.h"

#define CALLERS_MAX 256          /* that have not said whom they want; when one more comes, the one that waits longest goes */
#define PROCESSES_MAX 128
#define HELLO_MS 5000
#define LOOK_MS 20               /* between looks at one that has said a part */

struct caller {
    struct front_door *door;
    int fd;                      /* -1: a free place */
    struct watch *watch;
    uint64_t since_ms;
    size_t seen;                 /* bytes that were not enough */
};

struct process {
    struct front_door *door;
    int fd;                      /* -1: a free place */
    struct watch *watch;
    pid_t pid;
    char name[SERVER_NAME_MAX + 1];   /* "" until it has said one */
};

struct front_door {
    struct owned owned;
    struct loop *loop;
    struct log *log;
    struct acceptor *outside, *inside;
    char address[ADDRESS_LIMIT + 32];
    struct caller caller[CALLERS_MAX];
    unsigned callers;
    struct process process[PROCESSES_MAX];
    struct timer *tick;          /* while somebody waits */
    struct front_door_counts counts;
    struct log_few refused;
};

/* ---- refusals: each counted, few told ---- */
static void refuse(struct front_door *d, uint64_t *count, const char *why, const char *detail)
{
    ++*count;
    log_warn_few(d->log, &d->refused, "front door: a connection was refused: %s%s%s", why, *detail ? ": " : "", detail);
}

/* ---- processes ---- */
static struct process *process_named(struct front_door *d, const char *name)
{
    for (unsigned i = 0; i < PROCESSES_MAX; i++)
        if (d->process[i].fd >= 0 && strcmp(d->process[i].name, name) == 0)
            return &d->process[i];
    return NULL;
}

static void forget_process(struct process *p)
{
    watch_stop(p->watch);
    close(p->fd);
    p->door->counts.registered -= p->name[0] != '\0';
    *p = (struct process){.door = p->door, .fd = -1};
}

/* The first packet is its name. While the holder of a name lives it keeps it: nobody takes another's callers. */
static bool register_process(struct process *p, const char *said, ssize_t size)
{
    struct front_door *d = p->door;
    char name[SERVER_NAME_MAX + 1];
    if (p->name[0] || size <= 0 || !server_name_ok(said, (size_t)size)) {
        refuse(d, &d->counts.strange, "a process of this host said no name, or more than one", "");
        return false;
    }
    memcpy(name, said, (size_t)size);
    name[size] = '\0';
    const struct process *holder = process_named(d, name);
    if (holder) {
        char text[160];
        snprintf(text, sizeof text, "%s: process %d asks for it, process %d has it", name, (int)p->pid, (int)holder->pid);
        refuse(d, &d->counts.strange, "a name that is taken", text);
        return false;
    }
    memcpy(p->name, name, sizeof name);
    d->counts.registered++;
    log_info(d->log, "front door: %s is process %d", p->name, (int)p->pid);
    return true;
}

static void on_process(void *arg, bool readable, bool writable)
{
    struct process *p = arg;
    char said[SERVER_NAME_MAX + 2];
    (void)readable;
    (void)writable;
    ssize_t n = recv(p->fd, said, sizeof said, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0 && p->name[0])
        log_info(p->door->log, "front door: %s is gone", p->name);
    if (n <= 0 || !register_process(p, said, n))
        forget_process(p);
}

static pid_t pid_of(int fd)
{
    struct ucred peer = {0};
    socklen_t size = sizeof peer;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 ? peer.pid : 0;
}

static void on_inside(void *arg, int fd)
{
    struct front_door *d = arg;
    struct err err = ERR_INIT;
    unsigned i = 0;
    while (i < PROCESSES_MAX && d->process[i].fd >= 0)
        i++;
    int rc = i == PROCESSES_MAX ? err_set(&err, ERR_CONFLICT, "more than %d processes stand behind it", PROCESSES_MAX) : wire_check_user(fd, &err);
    struct process *p = &d->process[i];
    if (rc == 0 && watch_start(d->loop, fd, on_process, p, &p->watch, &err) == 0) {
        p->fd = fd;
        p->pid = pid_of(fd);
        watch_set(p->watch, true, false);
        return;
    }
    close(fd);
    refuse(d, &d->counts.strange, "a process of this host", err.text);
}

/* ---- callers ---- */
static void forget_caller(struct caller *c)
{
    struct front_door *d = c->door;
    watch_stop(c->watch);        /* before the descriptor goes, or its copy elsewhere would go on waking us */
    close(c->fd);
    *c = (struct caller){.door = d, .fd = -1};
    d->callers--;
}

static void pass_on(struct caller *c, const char *name)
{
    struct front_door *d = c->door;
    const struct process *p = process_named(d, name);
    int rc = p ? wire_pass(p->fd, c->fd) : 0;
    if (!p)
        refuse(d, &d->counts.unknown, "nobody here has the name that it asks for", name);
    else if (rc < 0)
        refuse(d, &d->counts.busy, name, strerror(-rc));
    else
        d->counts.passed++;
    forget_caller(c);
}

/* The other end sends no more. What it has said is still there to be looked at, so reading would not tell. */
static bool sends_no_more(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLRDHUP};
    return poll(&p, 1, 0) > 0;
}

static void look(struct caller *c)
{
    struct front_door *d = c->door;
    uint8_t bytes[CLIENT_HELLO_MAX];
    char name[SERVER_NAME_MAX + 1];
    const char *wrong = NULL;
    ssize_t n = recv(c->fd, bytes, sizeof bytes, MSG_PEEK | MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        d->counts.gone++;
        forget_caller(c);
        return;
    }
    enum client_hello verdict = client_hello_name(bytes, (size_t)n, name, &wrong);
    if (verdict == CLIENT_HELLO_WHOLE && name[0]) {
        pass_on(c, name);
    } else if (verdict == CLIENT_HELLO_MORE && !sends_no_more(c->fd)) {
        c->seen = (size_t)n;     /* readable for as long as nobody takes it: the tick looks whether there is more */
        watch_set(c->watch, false, false);
    } else {
        refuse(d, &d->counts.bad, wrong ? wrong : verdict == CLIENT_HELLO_MORE ? "half a ClientHello" : "it names no server", "");
        forget_caller(c);
    }
}

static void on_caller(void *arg, bool readable, bool writable)
{
    (void)readable;
    (void)writable;
    look(arg);
}

static void look_again(struct caller *c)
{
    int there = 0;
    if (ioctl(c->fd, FIONREAD, &there) < 0 || (size_t)there > c->seen || sends_no_more(c->fd))
        look(c);
}

static void on_tick(void *arg)
{
    struct front_door *d = arg;
    uint64_t now = loop_now_ms(d->loop);
    for (unsigned i = 0; i < CALLERS_MAX; i++) {
        struct caller *c = &d->caller[i];
        if (c->fd >= 0 && c->seen)
            look_again(c);
        if (c->fd >= 0 && now - c->since_ms >= HELLO_MS) {
            refuse(d, &d->counts.late, "it did not say in time whom it wants", "");
            forget_caller(c);
        }
    }
    if (d->callers > 0)
        return;
    timer_stop(d->tick);
    d->tick = NULL;
}

/* The place of a new caller. An honest one needs a round trip, so who waits longest is the one to go. */
static struct caller *make_place(struct front_door *d)
{
    struct caller *oldest = &d->caller[0];
    for (unsigned i = 0; i < CALLERS_MAX; i++) {
        if (d->caller[i].fd < 0)
            return &d->caller[i];
        if (d->caller[i].since_ms < oldest->since_ms)
            oldest = &d->caller[i];
    }
    refuse(d, &d->counts.crowded, "too many wait at once", "");
    forget_caller(oldest);
    return oldest;
}

static void on_outside(void *arg, int fd)
{
    struct front_door *d = arg;
    struct err err = ERR_INIT;
    struct caller *c = make_place(d);
    d->counts.accepted++;
    if (watch_start(d->loop, fd, on_caller, c, &c->watch, &err) < 0) {
        close(fd);
        refuse(d, &d->counts.busy, err.text, "");
        return;
    }
    c->fd = fd;
    c->since_ms = loop_now_ms(d->loop);
    d->callers++;
    watch_set(c->watch, true, false);
    if (!d->tick)
        d->tick = timer_start(d->loop, LOOK_MS, LOOK_MS, on_tick, d);
}

/* ---- life ---- */
static void drop(struct owned *o) { front_door_close((struct front_door *)o); }

static int open_both(struct front_door *d, const char *address, const char *passing, struct err *err)
{
    struct address outside, inside;
    char ignored[ADDRESS_LIMIT];
    TRY(address_parse(address, &outside, err));
    TRY(address_parse(passing, &inside, err));
    if (outside.local || outside.name[0] || !inside.local)
        return err_set(err, ERR_USAGE, "a front door cannot stand at %s and pass connections over %s", address, passing);
    TRY(acceptor_open(d->loop, &outside, SOCK_STREAM, on_outside, d, d->address, sizeof d->address, &d->outside, err));
    return acceptor_open(d->loop, &inside, SOCK_SEQPACKET, on_inside, d, ignored, sizeof ignored, &d->inside, err);
}

int front_door_open(struct loop *l, struct log *log, const char *address, const char *passing, struct front_door **out, struct err *err)
{
    struct front_door *d = calloc(1, sizeof *d);
    if (!d)
        return err_set(err, ERR_NO_MEMORY, "no memory for a front door");
    d->loop = l;
    d->log = log;
    for (unsigned i = 0; i < CALLERS_MAX; i++)
        d->caller[i] = (struct caller){.door = d, .fd = -1};
    for (unsigned i = 0; i < PROCESSES_MAX; i++)
        d->process[i] = (struct process){.door = d, .fd = -1};
    int rc = open_both(d, address, passing, err);
    loop_own(l, &d->owned, drop);
    if (rc < 0)
        front_door_close(d);
    else
        *out = d;
    return rc;
}

const char *front_door_address(const struct front_door *d) { return d->address; }
struct front_door_counts front_door_counts(const struct front_door *d) { return d->counts; }

void front_door_close(struct front_door *d)
{
    if (!d)
        return;
    timer_stop(d->tick);
    acceptor_close(d->outside);
    acceptor_close(d->inside);
    for (unsigned i = 0; i < CALLERS_MAX; i++)
        if (d->caller[i].fd >= 0)
            forget_caller(&d->caller[i]);
    for (unsigned i = 0; i < PROCESSES_MAX; i++)
        if (d->process[i].fd >= 0)
            forget_process(&d->process[i]);
    owned_remove(&d->owned);
    free(d);
}
