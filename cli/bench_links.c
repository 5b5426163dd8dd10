#include "cli/bench_links.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

#define MESSAGE ((size_t)1 << 20)
#define QUEUED_MAX ((size_t)2 << 20)
#define TIMEOUT_MS 60000

struct far_end { struct bench_links *bench; struct link *link; bool open; uint64_t to_send, to_come; };

struct bench_links {
    struct loop *loop;
    const struct identity *identity;
    struct msg_hello hello;
    struct listener *listener;
    unsigned rank;
    uint8_t *bytes;
    bool connecting;
    struct far_end end[LANES_MAX];
    bool remote[LANES_MAX];
    struct err wrong;
};

static void look(struct bench_links *b)
{
    bool done = true;
    for (unsigned r = 0; r < LANES_MAX; r++) {
        const struct far_end *e = &b->end[r];
        if (b->remote[r] && (b->connecting ? !e->open : e->to_send > 0 || e->to_come > 0 || link_queued(e->link) > 0))
            done = false;
    }
    if (done || b->wrong.code < 0)
        loop_stop(b->loop);
}

static void push(struct far_end *e)
{
    struct msg_insite m = {.kind = INSITE_SUMS};
    while (e->open && e->to_send > 0 && link_queued(e->link) < QUEUED_MAX) {
        struct bytes payload = {e->bench->bytes, MIN(e->to_send, MESSAGE)};
        if (link_send(e->link, MSG_INSITE, 0, &m, &payload, 1, &e->bench->wrong) < 0)
            break;
        e->to_send -= payload.size;
    }
}

static void on_drain(void *arg, struct link *link)
{
    struct far_end *e = arg;
    (void)link;
    push(e);
    look(e->bench);
}

static void on_opened(void *arg, struct link *link, const struct msg_hello *peer)
{
    struct far_end *e = arg;
    (void)peer;
    e->link = link;
    e->open = true;
    link_on_drain(link, QUEUED_MAX / 2, on_drain);
    look(e->bench);
}

static void on_message(void *arg, struct link *link, enum msg_type type, void *m, const uint8_t *payload, size_t size)
{
    struct far_end *e = arg;
    (void)link, (void)type, (void)m, (void)payload;
    e->to_come -= MIN(size, e->to_come);
    look(e->bench);
}

static void on_closed(void *arg, struct link *link, const struct err *why)
{
    struct far_end *e = arg;
    (void)link;
    e->bench->wrong = *why;
    if (why->code == 0)
        err_set(&e->bench->wrong, ERR_TEMPORARY, "a link of the benchmark closed");
    look(e->bench);
}

static const struct link_ops end_ops = {on_opened, on_message, on_closed};

static void on_accepted(void *arg, struct link *link, const struct msg_hello *peer)
{
    struct bench_links *b = arg;
    struct far_end *e = &b->end[peer->who.index % LANES_MAX];
    link_set_arg(link, &end_ops, e);
    on_opened(e, link, peer);
}

static void no_message(void *arg, struct link *link, enum msg_type type, void *m, const uint8_t *payload, size_t size)
{
    (void)arg, (void)link, (void)type, (void)m, (void)payload, (void)size;
}
static void never_opened(void *arg, struct link *link, const struct err *why) { (void)arg, (void)link, (void)why; }

int bench_links_open(const struct identity *identity, unsigned rank, struct bench_links **out, struct err *err)
{
    static const struct link_ops ops = {on_accepted, no_message, never_opened};
    struct bench_links *b = calloc(1, sizeof *b);
    if (!b)
        return err_set(err, ERR_NO_MEMORY, "no memory for links");
    *b = (struct bench_links){.rank = rank, .identity = identity, .bytes = calloc(1, MESSAGE),
                              .hello = {.version_min = FRAME_VERSION, .version_max = FRAME_VERSION, .who = {ROLE_WORKER, 0, (uint16_t)rank, 0}, .job = "bench"}};
    for (unsigned r = 0; r < LANES_MAX; r++)
        b->end[r].bench = b;
    int rc = b->bytes ? loop_new(&b->loop, err) : err_set(err, ERR_NO_MEMORY, "no memory for links");
    if (rc == 0)
        rc = net_listen(b->loop, "tls:127.0.0.1:0", identity, &b->hello, &ops, b, &b->listener, err);
    if (rc < 0) {
        bench_links_close(b);
        return rc;
    }
    *out = b;
    return 0;
}

const char *bench_links_address(const struct bench_links *b) { return listener_address(b->listener); }

static void on_timeout(void *arg)
{
    struct bench_links *b = arg;
    err_set(&b->wrong, ERR_TEMPORARY, "the links of the benchmark did not get on within %d s", TIMEOUT_MS / 1000);
    loop_stop(b->loop);
}

static int run(struct bench_links *b, struct err *err)
{
    struct timer *limit = timer_start(b->loop, TIMEOUT_MS, 0, on_timeout, b);
    loop_run(b->loop);
    if (b->wrong.code < 0)
        return *err = b->wrong, err->code;
    timer_stop(limit);
    return 0;
}

int bench_links_connect(struct bench_links *b, const bool *remote, char (*address)[ADDRESS_LIMIT], struct err *err)
{
    memcpy(b->remote, remote, sizeof b->remote);
    b->connecting = true;
    for (unsigned r = b->rank + 1; r < LANES_MAX; r++)
        if (remote[r])
            TRY(net_dial(b->loop, address[r], b->identity, &b->hello, &end_ops, &b->end[r], &b->end[r].link, err));
    TRY(run(b, err));
    b->connecting = false;
    return 0;
}

int bench_links_run(struct bench_links *b, const uint64_t *out, const uint64_t *in, struct err *err)
{
    for (unsigned r = 0; r < LANES_MAX; r++) {
        b->end[r].to_send = out[r];
        b->end[r].to_come = in[r];
    }
    for (unsigned r = 0; r < LANES_MAX; r++)
        push(&b->end[r]);
    return run(b, err);
}

void bench_links_close(struct bench_links *b)
{
    if (!b)
        return;
    if (b->loop)
        loop_free(b->loop);
    free(b->bytes);
    free(b);
}
