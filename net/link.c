/* Links: connect, TLS, HELLO both ways, then messages, until an end that is told once.
 *
 * The dialing end says HELLO first; the accepting end answers with its own HELLO, or with FAILED and why it refuses. Nothing but HELLO leaves before
 * the other end is accepted. A link that ends by our own will sends what is queued, tells closed(), and lingers unseen until the other end has
 * closed too, so that the last bytes are not lost to a reset. closed() always comes from the timer, hence never inside a call of the owner. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "net/frame.h"
#include "net/link.h"
#include "net/queue.h"
#include "net/tls.h"
#include "net/wire.h"

#define DIAL_MS 10000
#define HELLO_MS 10000
#define FLUSH_MS 2000            /* for what is queued when the owner closes */
#define LINGER_MS 1000
#define READS_PER_TURN 16
#define SEND_PER_TURN ((size_t)8 << 20)
#define PIECES_PER_SEND 16

enum link_state {
    LINK_RESOLVE, LINK_CONNECT, LINK_TLS, LINK_HELLO, LINK_OPEN,
    LINK_ENDING,                 /* `why` is known; closed() comes */
    LINK_OVER,                   /* closed() was called; what remains is nobody's */
};

struct link {
    struct owned owned, waiting; /* by the loop; by its listener until it opens */
    struct loop *loop;
    enum link_state state;
    bool accepted, local;
    bool hello_sent, blocked;    /* blocked: bytes wait for the socket */
    bool no_more_in;             /* the other end has closed, or the connection broke */
    bool no_more_out;            /* writing failed: only what comes in still counts */
    struct link_ops ops;
    void *arg;
    const struct identity *identity;
    char address[ADDRESS_LIMIT + 32], server_name[SERVER_NAME_MAX + 1];
    struct resolving *resolving;
    struct resolved targets;
    unsigned target;
    struct wire wire;
    struct watch *watch;
    struct tls *tls;
    struct timer *timer;
    struct msg_hello hello, peer;
    char peer_site[64];
    uint64_t job_hash, next_out, next_in;
    uint32_t payload_max;
    struct frame_head head;      /* of the frame at the inbox's start, when need > 0 */
    size_t need;
    struct inbox in;
    struct outbox out;
    void (*drained)(void *arg, struct link *link);   /* when fewer than `low` bytes wait */
    size_t low;
    void *msg;
    size_t msg_size;
    struct err why;
};

static void on_timer(void *arg);
static void on_ready(void *arg, bool readable, bool writable);

/* ---- names in messages ---- */
static void who_text(const struct process_id *p, char out[64])
{
    if (p->role == ROLE_NONE)
        snprintf(out, 64, "a peer");
    else
        snprintf(out, 64, "%s %u/%u", role_word(p->role), p->site, p->index);
}

static void name_ends(const struct link *link, struct err *err)
{
    char us[64], them[64];
    who_text(&link->hello.who, us);
    who_text(&link->peer.who, them);
    if (link->accepted)
        err_wrap(err, "%s at %s, from %s", us, link->address, them);
    else
        err_wrap(err, "%s to %s at %s", us, them, link->address);
}

/* ---- state ---- */
static void arm(struct link *link, uint64_t ms)
{
    timer_stop(link->timer);
    link->timer = timer_start(link->loop, ms, 0, on_timer, link);
}

static void set_interest(struct link *link)
{
    if (!link->watch)
        return;
    bool in = link->state >= LINK_TLS && link->state != LINK_ENDING && !link->no_more_in;
    watch_set(link->watch, in, link->state == LINK_CONNECT || (link->blocked && !link->no_more_out));
}

static void drop_socket(struct link *link)
{
    watch_stop(link->watch);
    link->watch = NULL;
    tls_free(link->tls);
    link->tls = NULL;
    if (link->wire.fd >= 0)
        close(link->wire.fd);
    link->wire.fd = -1;
}

static void destroy(struct link *link)
{
    resolving_drop(link->resolving);
    timer_stop(link->timer);
    drop_socket(link);
    inbox_free(&link->in);
    outbox_clear(&link->out);
    owned_remove(&link->waiting);
    owned_remove(&link->owned);
    free(link->msg);
    free(link);
}

static void drop_owned(struct owned *o)
{
    destroy((struct link *)o);
}

static void drop_waiting(struct owned *o)
{
    destroy((struct link *)((char *)o - offsetof(struct link, waiting)));
}

/* ---- out ---- */
/* 1: all that may go is gone; 0: the socket takes no more; or an error. */
static int flush(struct link *link, struct err *err)
{
    struct iovec v[PIECES_PER_SEND];
    for (size_t moved = 0; moved < SEND_PER_TURN;) {
        bool early = link->state == LINK_HELLO && (link->accepted || link->hello_sent);
        unsigned n = early || link->state < LINK_HELLO ? 0 : outbox_peek(&link->out, v, link->state == LINK_HELLO ? 1 : PIECES_PER_SEND);
        if (n == 0)
            return link->tls ? tls_flush(link->tls, err) : 1;
        size_t rest = v[0].iov_len;
        ssize_t put = link->tls ? tls_write(link->tls, v[0].iov_base, rest, err) : wire_send(&link->wire, v, n, err);
        if (put <= 0)
            return (int)put;
        link->hello_sent = link->hello_sent || (size_t)put >= rest;
        outbox_sent(&link->out, (size_t)put);
        moved += (size_t)put;
    }
    return 0;
}

/* Whoever is gone may have said why before: a failed write waits for the reader to meet the end. */
static void push(struct link *link)
{
    struct err err = ERR_INIT;
    int rc = flush(link, &err);
    link->blocked = rc == 0;
    if (rc < 0) {
        link->no_more_out = true;
        outbox_clear(&link->out);
        if (link->state < LINK_ENDING) {
            link->why = err;
            name_ends(link, &link->why);
            arm(link, LINGER_MS);
        }
    }
    set_interest(link);
}

static int queue_frame(struct link *link, enum msg_type type, uint32_t view, const void *msg, const struct bytes *payload, unsigned pieces,
                       struct err *err)
{
    uint8_t body[MSG_BODY_MAX];
    struct writer w = writer_over(body, sizeof body);
    struct frame_head h = {.version = FRAME_VERSION, .type = (uint16_t)type, .job_hash = link->job_hash, .view = view};
    struct outgoing *f;
    size_t total = 0;
    if (!msg_encode(type, msg, &w))
        return err_set(err, ERR_FAILED, "a message (%s) that cannot be encoded", msg_type_name(type));
    for (unsigned i = 0; i < pieces; i++)
        total = payload[i].size > FRAME_PAYLOAD_MAX - total ? FRAME_PAYLOAD_MAX + 1 : total + payload[i].size;
    if (total > FRAME_PAYLOAD_MAX)
        return err_set(err, ERR_FAILED, "a payload (%s) of more than %u MiB", msg_type_name(type), FRAME_PAYLOAD_MAX >> 20);
    h.body_size = (uint32_t)w.pos;
    h.payload_size = (uint32_t)total;
    TRY(outbox_new(&link->out, frame_total(&h), &f, err));
    memcpy(f->data + FRAME_HEAD_BYTES, body, w.pos);
    uint8_t *to = f->data + FRAME_HEAD_BYTES + frame_padded(w.pos);
    for (unsigned i = 0; i < pieces; i++) {
        if (payload[i].size > 0)
            memcpy(to, payload[i].data, payload[i].size);
        to += payload[i].size;
    }
    h.sequence = link->next_out++;
    frame_finish(&h, f->data);
    outbox_add(&link->out, f);
    return 0;
}

/* ---- the end ---- */
/* farewell: what is queued goes out first, if the other end takes it in time. */
static void end(struct link *link, const struct err *why, bool farewell)
{
    if (link->state >= LINK_ENDING)
        return;
    struct err reason = *why;
    if (reason.code)
        name_ends(link, &reason);
    link->why = reason;
    err_scope(&link->why, SCOPE_LINK);
    bool out = farewell && link->state == LINK_OPEN && !link->no_more_out;
    link->state = LINK_ENDING;
    if (out)
        push(link);
    else
        outbox_clear(&link->out);
    arm(link, out && link->blocked ? FLUSH_MS : 0);
    set_interest(link);
}

static void linger(struct link *link)
{
    struct err ignored = ERR_INIT;
    if (link->wire.fd < 0 || link->no_more_in || link->no_more_out || link->blocked) {
        destroy(link);
        return;
    }
    if (link->tls) {
        tls_goodbye(link->tls);
        tls_flush(link->tls, &ignored);
    }
    shutdown(link->wire.fd, SHUT_WR);
    arm(link, LINGER_MS);
    set_interest(link);
}

static void report(struct link *link)
{
    link->state = LINK_OVER;
    owned_remove(&link->waiting);
    link->ops.closed(link->arg, link, &link->why);
    linger(link);
}

static void discard(struct link *link)
{
    uint8_t bytes[16384];
    struct err ignored = ERR_INIT;
    for (unsigned i = 0; i < READS_PER_TURN; i++) {
        ssize_t n = wire_recv(&link->wire, bytes, sizeof bytes, &ignored);
        if (n == 0)
            return;
        if (n < 0) {
            destroy(link);
            return;
        }
    }
}

static void on_timer(void *arg)
{
    struct link *link = arg;
    struct err err = ERR_INIT;
    link->timer = NULL;
    if (link->state == LINK_ENDING) {
        report(link);
    } else if (link->state == LINK_OVER) {
        destroy(link);
    } else if (link->state >= LINK_HELLO && link->no_more_out) {
        link->state = LINK_ENDING;   /* the reader met no end either; `why` is what the writer met */
        report(link);
    } else {
        const char *what = link->state <= LINK_CONNECT ? "it cannot be reached: no answer" : "it has not said who it is";
        err_set(&err, ERR_TEMPORARY, "%s within %d s", what, (link->state <= LINK_CONNECT ? DIAL_MS : HELLO_MS) / 1000);
        end(link, &err, false);
    }
}

/* ---- HELLO ---- */
/* The certificate names job and role as HELLO does. */
static int check_certificate(struct link *link, const struct msg_hello *peer, struct err *err)
{
    char uri[320], job[80], role[64];
    if (!tls_peer_uri(link->tls, uri, sizeof uri))
        return err_set(err, ERR_DENIED, "the certificate of the other end does not name a process of a run");
    snprintf(job, sizeof job, "viaduct://%s/site/", link->hello.job);
    snprintf(role, sizeof role, "/role/%s", role_word(peer->who.role));
    const char *is = strstr(uri, "/role/");
    if (strncmp(uri, job, strlen(job)) != 0 || !is)
        return err_set(err, ERR_DENIED, "the certificate of the other end (%s) is of another job than %s", uri, link->hello.job);
    if (strcmp(is, role) != 0)
        return err_set(err, ERR_DENIED, "the other end says it is a %s, but its certificate is for %s", role_word(peer->who.role), is + 6);
    snprintf(link->peer_site, sizeof link->peer_site, "%.*s", (int)(is - uri - (ptrdiff_t)strlen(job)), uri + strlen(job));
    return 0;
}

static int check_hello(struct link *link, const struct msg_hello *peer, struct err *err)
{
    const struct msg_hello *we = &link->hello;
    if (strcmp(peer->job, we->job) != 0)
        return err_set(err, ERR_DENIED, "the other end is of job %s, this process of job %s", peer->job, we->job);
    if (MIN(peer->version_max, we->version_max) < MAX(peer->version_min, we->version_min))
        return err_set(err, ERR_DENIED, "the other end (%s) speaks versions %u to %u, this process (%s) %u to %u; install one release everywhere",
                       peer->build, peer->version_min, peer->version_max, we->build, we->version_min, we->version_max);
    bool one_asks = peer->who.role == ROLE_JOIN || we->who.role == ROLE_JOIN, one_answers = peer->who.role == ROLE_COORDINATOR || we->who.role == ROLE_COORDINATOR;
    if (one_asks && !one_answers)         /* any process of the run has a certificate that its authority signed */
        return err_set(err, ERR_DENIED, "the other end says it is a %s, this process is a %s: with a token one asks a coordinator and nobody else", role_word(peer->who.role),
                       role_word(we->who.role));
    if (peer->who.role == ROLE_NONE)
        return err_set(err, ERR_DENIED, "the other end has no role");
    return link->tls ? check_certificate(link, peer, err) : 0;
}

/* Tells the dialing end why, in place of our HELLO. */
static void refuse(struct link *link, const struct err *why)
{
    struct msg_failed m = {.who = link->hello.who, .code = why->code};
    struct err ignored = ERR_INIT;
    snprintf(m.text, sizeof m.text, "%.500s", why->text);
    if (link->accepted && queue_frame(link, MSG_FAILED, 0, &m, NULL, 0, &ignored) == 0)
        link->state = LINK_OPEN;     /* so that it leaves */
    end(link, why, true);
}

static void on_hello(struct link *link, const struct msg_hello *peer)
{
    struct err err = ERR_INIT;
    link->peer = *peer;
    int rc = check_hello(link, peer, &err);
    if (rc == 0 && link->accepted)
        rc = queue_frame(link, MSG_HELLO, 0, &link->hello, NULL, 0, &err);
    if (rc < 0) {
        refuse(link, &err);
        return;
    }
    link->state = LINK_OPEN;
    timer_stop(link->timer);
    link->timer = NULL;
    owned_remove(&link->waiting);
    push(link);
    link->ops.opened(link->arg, link, &link->peer);
}

static void on_refusal(struct link *link, const struct msg_failed *m)
{
    struct err err = ERR_INIT;
    int code = m->code == ERR_TEMPORARY || m->code == ERR_CORRUPT ? m->code : ERR_DENIED;
    link->peer.who = m->who;
    err_set(&err, code, "refused by the other end: %s", m->text);
    end(link, &err, false);
}

/* ---- in ---- */
static int check_head(const struct link *link, struct err *err)
{
    const struct frame_head *h = &link->head;
    if (h->sequence != link->next_in)
        return err_set(err, ERR_CORRUPT, "message %llu came where %llu was due", (unsigned long long)h->sequence, (unsigned long long)link->next_in);
    if (link->state == LINK_HELLO) {
        bool known = h->type == MSG_HELLO || (h->type == MSG_FAILED && !link->accepted);
        return known && h->payload_size == 0 ? 0 : err_set(err, ERR_CORRUPT, "its first message is not hello");
    }
    if (h->type == MSG_HELLO)
        return err_set(err, ERR_CORRUPT, "a second hello");
    if (h->payload_size > link->payload_max)
        return err_set(err, ERR_CORRUPT, "a message (%s) with more bytes than it may send", msg_type_name((enum msg_type)h->type));
    if (h->version != FRAME_VERSION)
        return err_set(err, ERR_CORRUPT, "a message (%s) of version %u", msg_type_name((enum msg_type)h->type), h->version);
    if (h->job_hash != link->job_hash)
        return err_set(err, ERR_CORRUPT, "a message (%s) of another job", msg_type_name((enum msg_type)h->type));
    return 0;
}

static int read_head(struct link *link, struct err *err)
{
    const char *wrong;
    if (!frame_head_decode(link->in.data + link->in.start, &link->head, &wrong))
        return err_set(err, ERR_CORRUPT, "%s", wrong);
    TRY(check_head(link, err));
    link->need = frame_total(&link->head);
    return 0;
}

static int room_for_msg(struct link *link, size_t size, struct err *err)
{
    if (size <= link->msg_size)
        return 0;
    size_t rounded = (size + 63) & ~(size_t)63;
    void *msg = aligned_alloc(64, rounded);
    if (!msg)
        return err_set(err, ERR_NO_MEMORY, "no memory for a message");
    free(link->msg);
    link->msg = msg;
    link->msg_size = rounded;
    return 0;
}

/* The whole frame lies in the inbox. */
static int take_frame(struct link *link, struct err *err)
{
    const struct frame_head h = link->head;
    const uint8_t *frame = link->in.data + link->in.start, *body = frame + FRAME_HEAD_BYTES;
    enum msg_type type = (enum msg_type)h.type;
    if (frame_sum(frame, link->need) != h.sum)
        return err_set(err, ERR_CORRUPT, "the checksum of a message (%s) does not match", msg_type_name(type));
    struct reader r = reader_over(body, h.body_size);
    TRY(room_for_msg(link, msg_struct_size(type), err));
    if (!msg_decode(type, &r, link->msg))
        return err_set(err, ERR_CORRUPT, "a message (%s) that does not decode", msg_type_name(type));
    link->in.start += link->need;
    link->need = 0;
    link->next_in++;
    if (link->state == LINK_OPEN)
        link->ops.message(link->arg, link, type, link->msg, body + frame_padded(h.body_size), h.payload_size);
    else if (type == MSG_HELLO)
        on_hello(link, link->msg);
    else
        on_refusal(link, link->msg);
    return 0;
}

static int take_frames(struct link *link, struct err *err)
{
    while (link->state < LINK_ENDING) {
        size_t have = link->in.end - link->in.start;
        if (link->need == 0) {
            if (have < FRAME_HEAD_BYTES)
                return 0;
            TRY(read_head(link, err));
        }
        if (have < link->need)
            return 0;
        TRY(take_frame(link, err));
    }
    return 0;
}

static int pull(struct link *link, struct err *err)
{
    if (link->tls)
        tls_fill(link->tls);
    for (unsigned i = 0; link->state < LINK_ENDING && (link->tls || i < READS_PER_TURN); i++) {
        uint8_t *at;
        size_t room;
        TRY(inbox_room(&link->in, link->need, &at, &room, err));
        ssize_t n = link->tls ? tls_read(link->tls, at, room, err) : wire_recv(&link->wire, at, room, err);
        link->no_more_in = n == ERR_TEMPORARY;
        if (n <= 0)
            return (int)n;
        link->in.end += (size_t)n;
        TRY(take_frames(link, err));
    }
    return 0;
}

static void receive(struct link *link)
{
    struct err err = ERR_INIT;
    if (pull(link, &err) < 0)
        end(link, &err, false);
}

/* ---- the way to HELLO ---- */
static void handshake(struct link *link)
{
    struct err err = ERR_INIT;
    int rc = tls_handshake(link->tls, &err);
    if (rc < 0) {
        link->no_more_in = rc == ERR_TEMPORARY;
        end(link, &err, false);
        return;
    }
    if (rc == 1)
        link->state = LINK_HELLO;
    push(link);
    if (rc == 1)
        receive(link);
}

static int start_talking(struct link *link, struct err *err)
{
    if (link->local)
        TRY(wire_check_user(link->wire.fd, err));
    else
        TRY(tls_new(link->identity, link->accepted, link->server_name, &link->wire, &link->tls, err));
    link->state = link->tls ? LINK_TLS : LINK_HELLO;
    arm(link, HELLO_MS);
    return 0;
}

static void connected(struct link *link)
{
    struct err err = ERR_INIT;
    if (start_talking(link, &err) < 0)
        end(link, &err, false);
    else if (link->tls)
        handshake(link);
    else
        push(link);
}

static int try_target(struct link *link, unsigned i, struct err *err)
{
    int rc = wire_connect(&link->targets.list[i], link->targets.size[i], SOCK_STREAM, &link->wire.fd);
    if (rc < 0)
        return err_set(err, ERR_TEMPORARY, "it cannot be reached: %s", strerror(-rc));
    rc = watch_start(link->loop, link->wire.fd, on_ready, link, &link->watch, err);
    if (rc < 0) {
        close(link->wire.fd);
        link->wire.fd = -1;
    }
    return rc;
}

/* The next address that does not fail at once; the last failure ends the link. */
static void try_next(struct link *link, struct err *err)
{
    link->state = LINK_CONNECT;
    drop_socket(link);
    while (link->target < link->targets.count)
        if (try_target(link, link->target++, err) == 0) {
            set_interest(link);
            return;
        }
    end(link, err, false);
}

static void on_resolved(void *arg, const struct resolved *r)
{
    struct link *link = arg;
    struct err err = ERR_INIT;
    link->resolving = NULL;
    if (link->state != LINK_RESOLVE)
        return;
    link->targets = *r;
    err_set(&err, ERR_TEMPORARY, "its name cannot be resolved: %s", r->why ? r->why : "no address");
    try_next(link, &err);
}

static void finish_connect(struct link *link)
{
    struct err err = ERR_INIT;
    int why = 0;
    socklen_t size = sizeof why;
    getsockopt(link->wire.fd, SOL_SOCKET, SO_ERROR, &why, &size);
    if (why == 0) {
        connected(link);
        return;
    }
    err_set(&err, ERR_TEMPORARY, "it cannot be reached: %s", strerror(why));
    try_next(link, &err);
}

static void on_ready(void *arg, bool readable, bool writable)
{
    struct link *link = arg;
    switch (link->state) {
    case LINK_RESOLVE:
        break;
    case LINK_CONNECT:
        finish_connect(link);
        break;
    case LINK_TLS:
        handshake(link);
        break;
    case LINK_HELLO:
    case LINK_OPEN:
        if (writable) {
            push(link);
            if (link->drained && link->state == LINK_OPEN && link->out.bytes < link->low)
                link->drained(link->arg, link);
        }
        if (readable)
            receive(link);
        break;
    case LINK_ENDING:
        push(link);
        if (!link->blocked)
            arm(link, 0);
        break;
    case LINK_OVER:
        discard(link);
        break;
    }
}

/* ---- making one ---- */
static struct link *link_new(struct loop *l, const char *address, bool local, const struct identity *identity, const struct msg_hello *hello,
                             const struct link_ops *ops, void *arg)
{
    struct link *link = calloc(1, sizeof *link);
    if (!link)
        return NULL;
    link->loop = l;
    link->local = local;
    link->identity = identity;
    link->hello = *hello;
    link->ops = *ops;
    link->arg = arg;
    link->wire.fd = -1;
    link->payload_max = FRAME_PAYLOAD_MAX;
    link->out.max = LINK_QUEUE_MAX;
    link->job_hash = xxh64_of(hello->job, strlen(hello->job), 0);
    snprintf(link->address, sizeof link->address, "%s", address);
    loop_own(l, &link->owned, drop_owned);
    return link;
}

int link_accepted(struct loop *l, int fd, bool local, const char *address, const struct identity *identity, const struct msg_hello *hello,
                  const struct link_ops *ops, void *arg, struct owned *waiting, struct err *err)
{
    struct link *link = link_new(l, address, local, identity, hello, ops, arg);
    if (!link)
        return err_set(err, ERR_NO_MEMORY, "no memory for a link");
    link->accepted = true;
    int rc = watch_start(l, fd, on_ready, link, &link->watch, err);
    if (rc < 0) {
        destroy(link);
        return rc;
    }
    link->wire.fd = fd;
    owned_add(waiting, &link->waiting, drop_waiting);
    struct err why = ERR_INIT;
    if (start_talking(link, &why) < 0)
        end(link, &why, false);
    set_interest(link);
    return 0;
}

static int start_dial(struct link *link, const struct address *to, struct err *err)
{
    TRY(queue_frame(link, MSG_HELLO, 0, &link->hello, NULL, 0, err));
    memcpy(link->server_name, to->name, sizeof link->server_name);
    arm(link, DIAL_MS);
    if (address_numeric(to, &link->targets.list[0], &link->targets.size[0])) {
        link->targets.count = 1;
        struct err why = ERR_INIT;
        try_next(link, &why);
        return 0;
    }
    link->resolving = loop_resolve(link->loop, to->host, to->port, on_resolved, link, err);
    return link->resolving ? 0 : ERR_TEMPORARY;
}

int net_dial(struct loop *l, const char *address, const struct identity *identity, const struct msg_hello *hello, const struct link_ops *ops,
             void *arg, struct link **out, struct err *err)
{
    struct address to;
    TRY(address_parse(address, &to, err));
    if (!to.local && !identity)
        return err_set(err, ERR_USAGE, "%s needs a certificate", address);
    struct link *link = link_new(l, address, to.local, identity, hello, ops, arg);
    if (!link)
        return err_set(err, ERR_NO_MEMORY, "no memory for a link");
    int rc = start_dial(link, &to, err);
    if (rc < 0)
        destroy(link);
    else
        *out = link;
    return rc;
}

/* ---- for the owner ---- */
int link_send(struct link *link, enum msg_type type, uint32_t view, const void *msg, const struct bytes *payload, unsigned pieces, struct err *err)
{
    CHECK(type != MSG_HELLO);
    if (link->state >= LINK_ENDING || link->no_more_out)
        return 0;
    int rc = queue_frame(link, type, view, msg, payload, pieces, err);
    if (rc < 0) {
        name_ends(link, err);
        return rc;
    }
    if (link->state == LINK_OPEN && !link->blocked)
        push(link);
    return 0;
}

size_t link_queued(const struct link *link) { return link->out.bytes; }

size_t link_under_way(const struct link *link) { return link->out.bytes + wire_unconfirmed(&link->wire); }

void link_on_drain(struct link *link, size_t low, void (*fn)(void *arg, struct link *link))
{
    link->low = low;
    link->drained = fn;
}

void link_limit_payload(struct link *link, uint32_t bytes) { link->payload_max = bytes; }
void link_limit_queue(struct link *link, size_t bytes) { link->out.max = bytes; }

void link_close(struct link *link)
{
    const struct err none = ERR_INIT;
    end(link, &none, true);
}

void link_set_arg(struct link *link, const struct link_ops *ops, void *arg)
{
    link->ops = *ops;
    link->arg = arg;
}

const struct msg_hello *link_peer(const struct link *link)
{
    return &link->peer;
}

void link_traffic(const struct link *link, uint64_t *sent, uint64_t *received)
{
    *sent = link->wire.sent;
    *received = link->wire.received;
}

const char *link_peer_site(const struct link *link)
{
    return link->peer_site;
}

void link_own_host(const struct link *link, char *out, size_t size) { wire_own_host(&link->wire, out, size); }

bool link_is_tls(const struct link *link)
{
    return !link->local;
}
