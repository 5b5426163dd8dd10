#include "collectives/port.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/base.h"

#define REDIAL_MS 200
#define QUEUED_MAX ((size_t)2 << 20)  /* of one link: more would only take memory */
#define DRAIN_LOOK_MS 20

/* Fields are the loop's thread's, except those that say otherwise. */
struct peer {
    struct coll_port *port;
    unsigned rank;
    struct link *link;
    bool dials, open;
    bool early;                       /* it opened the gang before us: */
    struct msg_insite opening;
    char gave_up[TEXT_LIMIT];         /* before we were attached */
    struct port_item item[PORT_QUEUE];    /* the ring's entries: written by the sender before `queued` says so */
    unsigned first, queued;           /* locked */
    atomic_uint_fast64_t payload, wire;
};

struct coll_port {
    struct loop *loop;
    pthread_t thread;
    bool running;
    struct coll_port_config config;
    char site_name[64];
    struct msg_hello hello;
    struct listener *listener;
    struct timer *redial, *drain;
    uint64_t drain_until_ms;
    const struct msg_gang *where;     /* NULL: not attached */
    const struct port_ops *ops;
    void *arg;
    pthread_mutex_t lock;             /* of the queues and what follows */
    pthread_cond_t detached_cond;
    bool pumping, detached;
    struct peer peer[LANES_MAX];
};

/* From another thread; the loop's queue is bounded but always moves. */
static void post(struct coll_port *p, void (*fn)(void *arg), void *arg)
{
    while (loop_post(p->loop, fn, arg) < 0)
        nanosleep(&(struct timespec){0, 1000000}, NULL);
}

/* ---- sending ---- */
static void count_wire(struct peer *q)
{
    uint64_t sent, received;
    link_traffic(q->link, &sent, &received);
    atomic_store(&q->wire, sent);
}

static struct port_item *next_item(struct peer *q)
{
    pthread_mutex_lock(&q->port->lock);
    struct port_item *item = q->queued > 0 ? &q->item[q->first] : NULL;
    pthread_mutex_unlock(&q->port->lock);
    return item;
}

static void drop_item(struct peer *q)
{
    pthread_mutex_lock(&q->port->lock);
    q->first = (q->first + 1) % PORT_QUEUE;
    q->queued--;
    pthread_mutex_unlock(&q->port->lock);
}

static int send_chunk(struct peer *q, struct port_item *item, uint32_t count, struct err *err)
{
    struct msg_insite m = item->m;
    struct bytes payload = {item->data, (size_t)count * item->element_bytes};
    m.count = count;
    TRY(link_send(q->link, MSG_INSITE, 0, &m, &payload, payload.size > 0, err));
    atomic_fetch_add(&q->payload, payload.size);
    item->m.first += count;
    item->m.count -= count;
    item->data = (const uint8_t *)item->data + payload.size;
    return 0;
}

static void pump(struct peer *q)
{
    struct err err = ERR_INIT;
    for (struct port_item *item; q->open && link_queued(q->link) < QUEUED_MAX && (item = next_item(q));) {
        uint32_t count = item->whole ? item->m.count : MIN(item->m.count, PORT_CHUNK);
        if (send_chunk(q, item, count, &err) < 0) {
            q->port->ops->gone(q->port->arg, q->rank, &err);
            break;
        }
        if (item->m.count > 0)
            continue;
        uint16_t tag = item->tag;
        drop_item(q);
        q->port->ops->sent(q->port->arg, q->rank, tag);
    }
    if (q->link)
        count_wire(q);
}

static void on_drain(void *arg, struct link *link)
{
    struct peer *q = arg;
    (void)link;
    if (q->port->where)
        pump(q);
}

static void pump_all(void *arg)
{
    struct coll_port *p = arg;
    pthread_mutex_lock(&p->lock);
    p->pumping = false;
    pthread_mutex_unlock(&p->lock);
    for (unsigned r = 0; r < LANES_MAX && p->where; r++)
        pump(&p->peer[r]);
}

void port_send(struct coll_port *p, unsigned rank, const struct port_item *item)
{
    struct peer *q = &p->peer[rank];
    pthread_mutex_lock(&p->lock);
    CHECK(q->queued < PORT_QUEUE);
    struct port_item *to = &q->item[(q->first + q->queued) % PORT_QUEUE];
    *to = *item;
    to->m.site = p->config.site;
    to->m.incarnation = p->config.incarnation;
    q->queued++;
    bool first = !p->pumping;
    p->pumping = true;
    pthread_mutex_unlock(&p->lock);
    if (first)
        post(p, pump_all, p);
}

struct notice { struct coll_port *port; char why[TEXT_LIMIT]; };

static void send_notice(void *arg)
{
    struct notice *n = arg;
    struct msg_failed m = {.who = n->port->hello.who, .code = ERR_ABORTED};
    struct err ignored = ERR_INIT;    /* whom it does not reach sees the link end */
    memcpy(m.text, n->why, sizeof m.text);
    for (unsigned r = 0; r < LANES_MAX; r++)
        if (n->port->peer[r].link)
            link_send(n->port->peer[r].link, MSG_FAILED, 0, &m, NULL, 0, &ignored);
    free(n);
}

void port_tell(struct coll_port *p, const char *why)
{
    struct notice *n = calloc(1, sizeof *n);
    CHECK(n != NULL);
    n->port = p;
    snprintf(n->why, sizeof n->why, "%s", why);
    post(p, send_notice, n);
}

void port_traffic(const struct coll_port *p, unsigned rank, struct coll_traffic *out)
{
    *out = (struct coll_traffic){atomic_load(&p->peer[rank].payload), atomic_load(&p->peer[rank].wire)};
}

/* ---- links ---- */
static const char *refused(struct coll_port *p, const struct link *link, const struct msg_hello *peer)
{
    const struct process_id *who = &peer->who;
    if (who->role != ROLE_WORKER || who->site != p->config.site || strcmp(link_peer_site(link), p->site_name) != 0)
        return "it is no rank of this gang";
    if (who->instance != p->config.incarnation)
        return "it is of another launch of this gang";
    return who->index < LANES_MAX ? NULL : "its number is no rank's";
}

static void opened(struct peer *q, struct link *link)
{
    q->link = link;
    q->open = true;
    link_on_drain(link, QUEUED_MAX / 2, on_drain);
    if (q->port->where)
        pump(q);
}

/* It is told before its link ends. */
static void reject(struct peer *q, const char *wrong)
{
    struct coll_port *p = q->port;
    struct err err = ERR_INIT, ignored = ERR_INIT;
    struct msg_failed m = {.who = p->hello.who, .code = ERR_CORRUPT};
    snprintf(m.text, sizeof m.text, "rank %u says of rank %u: %s", p->config.rank, q->rank, wrong);
    link_send(q->link, MSG_FAILED, 0, &m, NULL, 0, &ignored);
    err_set(&err, ERR_CORRUPT, "%s", wrong);
    if (p->where)
        p->ops->gone(p->arg, q->rank, &err);
    link_close(q->link);
}

static void take(struct peer *q, const struct msg_insite *m, const uint8_t *payload, size_t size)
{
    struct coll_port *p = q->port;
    const char *wrong = NULL;
    if (m->site != p->config.site || m->incarnation != p->config.incarnation)
        wrong = "a message of another launch of this gang";
    else if (p->where)
        wrong = p->ops->take(p->arg, q->rank, m, payload, size);
    else if (m->kind != INSITE_OPEN || m->round != 0 || q->early)
        wrong = "a message before the gang is open";
    else {
        q->early = true;
        q->opening = *m;
    }
    if (wrong)
        reject(q, wrong);
}

static void on_message(void *arg, struct link *link, enum msg_type type, void *m, const uint8_t *payload, size_t size)
{
    struct peer *q = arg;
    const struct msg_failed *failed = m;
    if (link != q->link)
        return;
    if (type == MSG_INSITE)
        take(q, m, payload, size);
    else if (type == MSG_FAILED && q->port->where)
        q->port->ops->told(q->port->arg, q->rank, failed->text);
    else if (type == MSG_FAILED)
        memcpy(q->gave_up, failed->text, sizeof q->gave_up);
}

static void on_closed(void *arg, struct link *link, const struct err *why)
{
    struct peer *q = arg;
    struct coll_port *p = q->port;
    if (link != q->link)
        return;
    count_wire(q);
    bool was_open = q->open;
    q->link = NULL;
    q->open = false;
    if (!p->where) {
        q->early = false;
        return;
    }
    if (was_open || why->code == ERR_DENIED)
        p->ops->gone(p->arg, q->rank, why);
    else
        p->ops->unreachable(p->arg, q->rank, why);
    q->dials = q->dials && !was_open && why->code != ERR_DENIED;
}

static void on_dialled(void *arg, struct link *link, const struct msg_hello *peer)
{
    struct peer *q = arg;
    struct err err = ERR_INIT;
    const char *why = refused(q->port, link, peer);
    if (!why && peer->who.index == q->rank) {
        opened(q, link);
        return;
    }
    err_set(&err, ERR_TEMPORARY, "another process answers there: %s", why ? why : "it is another rank");
    if (q->port->where)
        q->port->ops->unreachable(q->port->arg, q->rank, &err);
    link_close(link);
}

static const struct link_ops peer_ops = {on_dialled, on_message, on_closed};

static void on_accepted(void *arg, struct link *link, const struct msg_hello *peer)
{
    struct coll_port *p = arg;
    struct peer *q = peer->who.index < p->config.rank ? &p->peer[peer->who.index] : NULL;   /* the lower rank dials */
    if (refused(p, link, peer) || !q || (q->open && (q->early || p->where))) {
        link_close(link);
        return;
    }
    if (q->link)                      /* it dialled again: what came first broke unseen */
        link_close(q->link);
    link_set_arg(link, &peer_ops, q);
    opened(q, link);
}

static void on_stranger(void *arg, struct link *link, enum msg_type type, void *m, const uint8_t *payload, size_t size)
{
    (void)arg, (void)link, (void)type, (void)m, (void)payload, (void)size;
}

static void on_stranger_closed(void *arg, struct link *link, const struct err *why) { (void)arg, (void)link, (void)why; }

static const struct link_ops stranger_ops = {on_accepted, on_stranger, on_stranger_closed};

static void dial(struct peer *q)
{
    struct coll_port *p = q->port;
    struct err err = ERR_INIT;
    if (!q->dials || q->link)
        return;
    if (net_dial(p->loop, p->where->address_tls[q->rank], p->config.identity, &p->hello, &peer_ops, q, &q->link, &err) < 0) {
        q->link = NULL;
        q->dials = false;             /* no address at all */
        p->ops->gone(p->arg, q->rank, &err);
    }
}

static void on_redial(void *arg)
{
    struct coll_port *p = arg;
    for (unsigned r = 0; r < LANES_MAX && p->where; r++)
        dial(&p->peer[r]);
}

/* ---- attaching ---- */
struct attachment { struct coll_port *port; const struct msg_gang *where; const struct port_ops *ops; void *arg; bool remote[LANES_MAX]; };

static void attach(void *arg)
{
    struct attachment *a = arg;
    struct coll_port *p = a->port;
    p->where = a->where;
    p->ops = a->ops;
    p->arg = a->arg;
    for (unsigned r = 0; r < LANES_MAX; r++) {
        struct peer *q = &p->peer[r];
        q->dials = a->remote[r] && r > p->config.rank;
        if (q->early)
            take(q, &q->opening, NULL, 0);
        if (q->gave_up[0])
            p->ops->told(p->arg, r, q->gave_up);
        pump(q);
    }
    on_redial(p);
    p->redial = timer_start(p->loop, REDIAL_MS, REDIAL_MS, on_redial, p);
    free(a);
}

void port_attach(struct coll_port *p, const struct msg_gang *where, const bool *remote, const struct port_ops *ops, void *arg)
{
    struct attachment *a = calloc(1, sizeof *a);
    CHECK(a != NULL);
    *a = (struct attachment){.port = p, .where = where, .ops = ops, .arg = arg};
    memcpy(a->remote, remote, where->rank_count * sizeof *remote);
    post(p, attach, a);
}

static bool close_links(struct coll_port *p, bool at_once)
{
    bool left = false;
    for (unsigned r = 0; r < LANES_MAX; r++) {
        struct peer *q = &p->peer[r];
        if (q->link && (at_once || !q->open || link_queued(q->link) == 0)) {
            count_wire(q);
            link_close(q->link);      /* what it reports later is about no link of ours */
            q->link = NULL;
            q->open = false;
        }
        left = left || q->link;
    }
    return left;
}

static void on_drain_look(void *arg)
{
    struct coll_port *p = arg;
    if (close_links(p, loop_now_ms(p->loop) > p->drain_until_ms))
        return;
    timer_stop(p->drain);
    p->drain = NULL;
}

static void detach(void *arg)
{
    struct coll_port *p = arg;
    timer_stop(p->redial);
    p->redial = NULL;
    p->where = NULL;
    if (close_links(p, false))
        p->drain = timer_start(p->loop, DRAIN_LOOK_MS, DRAIN_LOOK_MS, on_drain_look, p);
    pthread_mutex_lock(&p->lock);
    for (unsigned r = 0; r < LANES_MAX; r++)
        p->peer[r].queued = 0;
    p->detached = true;
    pthread_cond_signal(&p->detached_cond);
    pthread_mutex_unlock(&p->lock);
}

void port_detach(struct coll_port *p, uint64_t drain_ms)
{
    p->drain_until_ms = clock_now_ms() + drain_ms;
    post(p, detach, p);
    pthread_mutex_lock(&p->lock);
    while (!p->detached)
        pthread_cond_wait(&p->detached_cond, &p->lock);
    pthread_mutex_unlock(&p->lock);
}

bool port_is(const struct coll_port *p, const struct msg_gang *where, unsigned rank)
{
    return p->config.rank == rank && p->config.site == where->site && p->config.incarnation == where->incarnation;
}

/* ---- life ---- */
static void *serve(void *arg)
{
    loop_run(((struct coll_port *)arg)->loop);
    return NULL;
}

static int start(struct coll_port *p, struct err *err)
{
    TRY(loop_new(&p->loop, err));
    TRY(net_listen(p->loop, p->config.address, p->config.identity, &p->hello, &stranger_ops, p, &p->listener, err));
    /* Signals are for the trainer's own threads. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&p->thread, NULL, serve, p);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0)
        return err_errno(err, rc, "cannot start a thread");
    p->running = true;
    return 0;
}

int coll_port_open(const struct coll_port_config *config, struct coll_port **out, struct err *err)
{
    struct coll_port *p = calloc(1, sizeof *p);
    if (!p)
        return err_set(err, ERR_NO_MEMORY, "no memory for links between ranks");
    p->config = *config;
    snprintf(p->site_name, sizeof p->site_name, "%s", config->site_name);
    p->hello = (struct msg_hello){.version_min = FRAME_VERSION, .version_max = FRAME_VERSION,
                                  .who = {ROLE_WORKER, config->site, config->rank, config->incarnation}};
    snprintf(p->hello.job, sizeof p->hello.job, "%s", config->job);
    snprintf(p->hello.build, sizeof p->hello.build, "%s", VIADUCT_VERSION);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->detached_cond, NULL);
    for (unsigned r = 0; r < LANES_MAX; r++) {
        p->peer[r].port = p;
        p->peer[r].rank = r;
    }
    int rc = start(p, err);
    if (rc < 0) {
        coll_port_close(p);
        return rc;
    }
    *out = p;
    return 0;
}

const char *coll_port_address(const struct coll_port *p) { return listener_address(p->listener); }

static void end(void *arg)            /* the loop ends by itself when the links have */
{
    struct coll_port *p = arg;
    listener_close(p->listener);
    p->listener = NULL;
    if (!p->drain)
        close_links(p, true);
}

void coll_port_close(struct coll_port *p)
{
    if (!p)
        return;
    if (p->running) {
        post(p, end, p);
        pthread_join(p->thread, NULL);
    }
    if (p->loop)
        loop_free(p->loop);
    pthread_cond_destroy(&p->detached_cond);
    pthread_mutex_destroy(&p->lock);
    free(p);
}
