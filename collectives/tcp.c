/* Ranks on several hosts. A host's ranks share memory as in shm.c; every pair of ranks on different hosts has a link (port.c).
 *
 *   reduce   Each rank sums, over all lanes of its host, its share of the blocks of every rank elsewhere, and sends that to the owner while it sums the
 *            next; the owner completes the tree, its own host's lanes in shared memory. What crosses: a host's maximal nodes, once.
 *   gather   Each owner sends its new weights once to each other host, in shares that the ranks there write into their shared memory.
 *   exchange Eight bytes of each rank go once to each other host.
 *
 * Every round starts with a word of each rank to one rank of every other host, and ends with a barrier on each host. So a rank that has come through round n
 * knows that everybody has entered it, and can be one round ahead of another rank, never two: what arrives is of the present round or the next. Buffers
 * that the next round may fill while this one is read alternate, or are free by then: weights, because nobody reads them from a reduce to its gather, and
 * received sums, because two reduces in a row are parted by an exchange. */
#include <pthread.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/arena.h"
#include "base/base.h"
#include "collectives/hosts.h"
#include "collectives/port.h"
#include "collectives/segment.h"

#define SLOTS 8                       /* chunks of sums on their way: one is made while others are sent */
#define NO_SLOT UINT16_MAX
#define NO_BODY UINT8_MAX

enum operation { OP_OPEN, OP_REDUCE, OP_GATHER, OP_EXCHANGE, OPERATIONS };
static const struct { const char *name; uint8_t head, body; } operations[OPERATIONS] = {
    {"opening", INSITE_OPEN, NO_BODY}, {"sums", INSITE_TOTALS, INSITE_SUMS}, {"weights", INSITE_READY, INSITE_WEIGHTS}, {"agreement", INSITE_VALUE, NO_BODY}};

struct incoming { bool any, head; enum operation op; uint64_t elems; };   /* of one round from one rank */

struct tcp {                          /* struct coll's state */
    struct coll *c;
    struct segment segment;
    struct hosts hosts;
    struct coll_run run[LANES_MAX];
    unsigned host;                    /* own */
    uint64_t shape;
    bool attached, opened, told;
    float *received;                  /* other hosts' sums over the own blocks: [host's nodes][own elements] */
    unsigned received_at[LANES_MAX];  /* by host: its first node there */
    float *slot;
    size_t received_bytes, slot_bytes, slot_floats;
    unsigned terms;                   /* of the own sums, in lane order: lanes of this host and nodes of the others */
    struct lane_range term[LANES_MAX];
    const float *term_at[LANES_MAX];
    enum operation before;            /* the last one finished */
    uint64_t until_ms;                /* for what other hosts send in this round */
    pthread_mutex_t lock;             /* of all that follows */
    pthread_cond_t wake;
    uint64_t begun;                   /* rounds that this rank has entered */
    bool busy;                        /* in the last of them */
    enum operation op;
    struct incoming in[2][LANES_MAX]; /* by round modulo 2, by rank */
    unsigned unsent, unsent_to[LANES_MAX], free_slots;    /* free_slots: bits */
    bool gone[LANES_MAX];
    char first_gone[SEGMENT_WHY_BYTES];       /* why the first link broke */
    char unreachable[SEGMENT_WHY_BYTES];
};

/* ---- names ---- */
static bool is_remote(const struct tcp *t, unsigned rank) { return t->hosts.of[rank] != t->host; }

static void rank_text(const void *tcp, unsigned rank, char out[256])
{
    const struct msg_gang *where = ((const struct tcp *)tcp)->c->cfg.where;
    snprintf(out, 256, "rank %u (host %u, %s)", rank, where->host[rank], where->address_tls[rank]);
}

/* ---- the end ---- */
/* Everybody on this host wakes, and the other hosts are told once; the trainer's thread meets it in its present wait, or in the next. */
static int give_up(struct tcp *t, const char *why, struct err *err)
{
    segment_abort(&t->segment, why);
    segment_given_up(&t->segment, err);
    pthread_mutex_lock(&t->lock);
    bool tell = t->attached && !t->told;
    t->told = true;
    pthread_cond_broadcast(&t->wake);
    pthread_mutex_unlock(&t->lock);
    if (tell)
        port_tell(t->c->cfg.port, err->text);
    return err->code;
}

static void end_gang(struct tcp *t, const char *why)
{
    struct err unused = ERR_INIT;
    give_up(t, why, &unused);
}

/* ---- what is due ---- */
static uint64_t elems_due(const struct tcp *t, enum operation op, unsigned from)
{
    if (op == OP_REDUCE)
        return hosts_sums(&t->hosts, t->run, from, t->c->cfg.rank).count;
    return op == OP_GATHER ? hosts_weights(&t->hosts, t->run, from, t->c->cfg.rank).count : 0;
}

static bool all_of(const struct tcp *t, unsigned from)
{
    const struct incoming *in = &t->in[(t->begun - 1) & 1][from];
    bool heard = in->head || (t->op != OP_OPEN && !hosts_hears(&t->hosts, from, t->c->cfg.rank));
    return heard && in->elems == elems_due(t, t->op, from);
}

/* The first rank of which something is missing; `ranks` when the round is whole here. */
static unsigned missing(const struct tcp *t)
{
    unsigned r = 0;
    while (r < t->hosts.ranks && (!is_remote(t, r) || all_of(t, r)))
        r++;
    return r;
}

/* ---- what arrives: the port's thread ---- */
static enum operation operation_of(uint8_t kind)
{
    enum operation op = OP_OPEN;
    while (operations[op].head != kind && operations[op].body != kind)
        op++;
    return op;
}

/* Locked. */
static const char *refuse(struct tcp *t, unsigned rank, const struct msg_insite *m)
{
    uint64_t first = t->busy ? t->begun - 1 : t->begun;
    struct incoming *in = &t->in[m->round & 1][rank];
    enum operation op = operation_of(m->kind);
    bool head = m->kind == operations[op].head;
    if (m->round < first || m->round > t->begun)
        return "a message of a round that is over, or far ahead";
    if ((in->any && in->op != op) || (m->round < t->begun && t->op != op))
        return "a message of another operation than this rank is in";
    if (m->round == t->begun && t->busy && op == OP_REDUCE && t->op == OP_REDUCE)
        return "sums where an agreement was due";
    if (head && (in->head || (op != OP_OPEN && !hosts_hears(&t->hosts, rank, t->c->cfg.rank))))
        return "a message twice";
    if (op == OP_OPEN && m->value != t->shape)
        return "it has other lanes, another model or other hosts than this rank";
    in->any = true;
    in->op = op;
    return NULL;
}

static const char *take_head(struct tcp *t, unsigned rank, const struct msg_insite *m, const uint8_t *payload, size_t size)
{
    struct segment_head *h = t->segment.head;
    struct lane_range lanes = coll_lanes_of(&t->c->cfg, rank);
    size_t due = m->kind == INSITE_TOTALS ? (size_t)(lanes.hi - lanes.lo) * sizeof(struct lane_totals) : 0;
    if (size != due || (m->kind == INSITE_TOTALS && m->first != lanes.lo))
        return "totals of other lanes";
    if (due > 0)
        memcpy(&h->totals[m->round & 1][lanes.lo], payload, due);
    if (m->kind == INSITE_VALUE)
        h->exchange[m->round & 1][rank] = m->value;
    return NULL;
}

/* Chunks come in order, so that none is counted twice. */
static const char *take_body(struct tcp *t, unsigned rank, const struct msg_insite *m, const uint8_t *payload, size_t size)
{
    bool sums = m->kind == INSITE_SUMS;
    unsigned host = t->hosts.of[rank], self = t->c->cfg.rank, nodes = sums ? t->hosts.node_count[host] : 1;
    struct part due = sums ? hosts_sums(&t->hosts, t->run, rank, self) : hosts_weights(&t->hosts, t->run, rank, self);
    uint64_t had = t->in[m->round & 1][rank].elems;
    if (m->first != due.first + had || m->count > due.count - had || size != (size_t)m->count * nodes * sizeof(float))
        return "elements that were not due";
    const float *from = (const float *)(const void *)payload;
    if (!sums)
        memcpy(t->c->weights + t->run[rank].first_offset + m->first, from, size);
    for (unsigned k = 0; sums && k < nodes; k++)
        memcpy(t->received + (t->received_at[host] + k) * t->c->owned_elems + m->first, from + (size_t)k * m->count, m->count * sizeof(float));
    return NULL;
}

static const char *take(void *arg, unsigned rank, const struct msg_insite *m, const uint8_t *payload, size_t size)
{
    struct tcp *t = arg;
    if (rank >= t->hosts.ranks || !is_remote(t, rank))
        return "it is no rank of another host";
    bool head = m->kind == operations[operation_of(m->kind)].head;
    pthread_mutex_lock(&t->lock);
    const char *wrong = refuse(t, rank, m);
    pthread_mutex_unlock(&t->lock);
    if (!wrong)                       /* only this thread changes what is due of a rank */
        wrong = head ? take_head(t, rank, m, payload, size) : take_body(t, rank, m, payload, size);
    if (wrong)
        return wrong;
    pthread_mutex_lock(&t->lock);
    struct incoming *in = &t->in[m->round & 1][rank];
    in->head = in->head || head;
    in->elems += head ? 0 : m->count;
    pthread_cond_signal(&t->wake);
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

static void sent(void *arg, unsigned rank, uint16_t tag)
{
    struct tcp *t = arg;
    pthread_mutex_lock(&t->lock);
    t->unsent--;
    t->unsent_to[rank]--;
    if (tag != NO_SLOT)
        t->free_slots |= 1u << tag;
    pthread_cond_signal(&t->wake);
    pthread_mutex_unlock(&t->lock);
}

static void gone(void *arg, unsigned rank, const struct err *why)
{
    struct tcp *t = arg;
    char who[256], text[SEGMENT_WHY_BYTES];
    rank_text(t, rank, who);
    snprintf(text, sizeof text, "%.140s: %.250s", who, why->text);
    pthread_mutex_lock(&t->lock);
    t->gone[rank] = true;
    if (!t->first_gone[0])
        memcpy(t->first_gone, text, sizeof text);
    pthread_cond_signal(&t->wake);
    pthread_mutex_unlock(&t->lock);
    if (why->code == ERR_CORRUPT || why->code == ERR_DENIED || why->code == ERR_USAGE)
        end_gang(t, text);
}

static void unreachable(void *arg, unsigned rank, const struct err *why)
{
    struct tcp *t = arg;
    char who[256];
    rank_text(t, rank, who);
    pthread_mutex_lock(&t->lock);
    snprintf(t->unreachable, sizeof t->unreachable, "%.140s: %.240s", who, why->text);
    pthread_mutex_unlock(&t->lock);
}

/* Whoever tells may only have seen its host's ranks wake, and then names nobody; a link that broke before says more. */
static void told(void *arg, unsigned rank, const char *why)
{
    struct tcp *t = arg;
    char who[256], text[SEGMENT_WHY_BYTES];
    bool names = strncmp(why, "rank ", 5) == 0;
    rank_text(t, rank, who);
    pthread_mutex_lock(&t->lock);
    if (t->first_gone[0] && !names)
        memcpy(text, t->first_gone, sizeof text);
    else
        snprintf(text, sizeof text, "%.140s%s%.250s", names ? "" : who, names ? "" : ": ", why);
    pthread_mutex_unlock(&t->lock);
    end_gang(t, text);
}

static const struct port_ops port_calls = {take, sent, gone, unreachable, told};

/* ---- waiting: the trainer's thread ---- */
/* A rank that a host waits for is named by that host, which knows who it is: the others wait a little longer than it does, and a host's ranks for each
 * other longer again once they only wait for one that waits for other hosts. */
static uint64_t timeout_of(const struct tcp *t) { return t->op == OP_OPEN ? t->c->cfg.open_timeout_ms : t->c->cfg.timeout_ms; }
static uint64_t hosts_timeout_of(const struct tcp *t) { return timeout_of(t) + timeout_of(t) / 4; }

static void slow_text(const struct tcp *t, char out[SEGMENT_WHY_BYTES])
{
    unsigned r = missing(t);
    char who[256] = "a rank that reads too slowly";
    if (r < t->hosts.ranks)
        rank_text(t, r, who);
    snprintf(out, SEGMENT_WHY_BYTES, "%.140s: slower than the deadline of %llu ms in round %llu (%s)%s%.150s", who, (unsigned long long)timeout_of(t),
             (unsigned long long)t->begun - 1, operations[t->op].name, t->op == OP_OPEN && t->unreachable[0] ? "; " : "",
             t->op == OP_OPEN ? t->unreachable : "");
}

/* Locked. Whether a rank that is still needed is gone. */
static bool lost(const struct tcp *t)
{
    for (unsigned r = 0; r < t->hosts.ranks; r++)
        if (t->gone[r] && (!all_of(t, r) || t->unsent_to[r] > 0))
            return true;
    return false;
}

/* Locked on entry and return of 0; else unlocked, and the gang is over. Waits for one signal, at most. */
static int wait_some(struct tcp *t, struct err *err)
{
    char why[SEGMENT_WHY_BYTES] = "";
    struct timespec until;
    bool over = segment_aborted(&t->segment);
    if (!over && lost(t))
        memcpy(why, t->first_gone, sizeof why);
    else if (!over && clock_now_ms() > t->until_ms)
        slow_text(t, why);
    if (over || why[0]) {
        pthread_mutex_unlock(&t->lock);
        return give_up(t, why[0] ? why : NULL, err);
    }
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += SEGMENT_LOOK_MS * 1000000l;
    if (until.tv_nsec >= 1000000000l) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000l;
    }
    pthread_cond_timedwait(&t->wake, &t->lock, &until);
    return 0;
}

static int host_barrier(struct tcp *t, uint64_t timeout_ms, struct err *err)
{
    return segment_barrier(&t->segment, timeout_ms, err) < 0 ? give_up(t, NULL, err) : 0;
}

/* ---- a round: begin, send, finish ---- */
static int begin(struct tcp *t, enum operation op, struct err *err)
{
    char who[256], why[SEGMENT_WHY_BYTES] = "";
    pthread_mutex_lock(&t->lock);
    t->op = op;
    t->busy = true;
    t->begun++;
    t->until_ms = clock_now_ms() + hosts_timeout_of(t);
    for (unsigned r = 0; r < t->hosts.ranks; r++) {
        const struct incoming *in = &t->in[(t->begun - 1) & 1][r];
        if (in->any && in->op != op) {
            rank_text(t, r, who);
            snprintf(why, sizeof why, "%.140s: is in another operation (%s) of round %llu than this rank (%s)", who, operations[in->op].name,
                     (unsigned long long)t->begun - 1, operations[op].name);
        }
    }
    pthread_mutex_unlock(&t->lock);
    if (why[0])
        return give_up(t, why, err);
    return segment_aborted(&t->segment) ? give_up(t, NULL, err) : 0;
}

static void submit(struct tcp *t, unsigned rank, struct port_item item)
{
    pthread_mutex_lock(&t->lock);
    t->unsent++;
    t->unsent_to[rank]++;
    item.m.round = t->begun - 1;
    pthread_mutex_unlock(&t->lock);
    port_send(t->c->cfg.port, rank, &item);
}

static void send_heads(struct tcp *t, struct port_item item)
{
    item.m.kind = operations[t->op].head;
    item.whole = true;
    item.tag = NO_SLOT;
    for (unsigned r = 0; r < t->hosts.ranks; r++)
        if (is_remote(t, r) && (t->op == OP_OPEN || hosts_hears(&t->hosts, t->c->cfg.rank, r)))
            submit(t, r, item);
}

/* All that is due has come, all that was sent has left our memory, and this host's other ranks say the same. */
static int finish(struct tcp *t, struct err *err)
{
    pthread_mutex_lock(&t->lock);
    while (t->unsent > 0 || missing(t) < t->hosts.ranks)
        TRY(wait_some(t, err));
    t->busy = false;
    t->before = t->op;
    memset(t->in[(t->begun - 1) & 1], 0, sizeof t->in[0]);
    pthread_mutex_unlock(&t->lock);
    return host_barrier(t, 2 * hosts_timeout_of(t), err);
}

/* ---- reduce ---- */
static int free_slot(struct tcp *t, unsigned *out, struct err *err)
{
    pthread_mutex_lock(&t->lock);
    while (!t->free_slots)
        TRY(wait_some(t, err));
    *out = (unsigned)__builtin_ctz(t->free_slots);
    t->free_slots &= ~(1u << *out);
    pthread_mutex_unlock(&t->lock);
    return 0;
}

static float *lane_at(const struct tcp *t, unsigned lane)
{
    unsigned before = 0;              /* lanes of this host's ranks lie one after the other */
    for (unsigned i = 0; i < t->hosts.size[t->host]; i++) {
        struct lane_range r = coll_lanes_of(&t->c->cfg, t->hosts.rank[t->host][i]);
        if (lane >= r.lo && lane < r.hi)
            return t->segment.lane + (before + lane - r.lo) * t->segment.stride;
        before += (unsigned)(r.hi - r.lo);
    }
    CHECK(false);
}

/* Sums of this host's nodes over arena elements [offset, offset + n), node after node. */
static void sum_nodes(const struct tcp *t, uint64_t offset, uint32_t n, float *out)
{
    for (unsigned k = 0; k < t->hosts.node_count[t->host]; k++) {
        struct lane_range node = t->hosts.node[t->host][k], leaf[LANES_MAX];
        const float *part[LANES_MAX];
        for (unsigned l = node.lo; l < node.hi; l++) {
            leaf[l - node.lo] = (struct lane_range){(uint16_t)l, (uint16_t)(l + 1)};
            part[l - node.lo] = lane_at(t, l) + offset;
        }
        coll_sum(t->c->cfg.lanes, node, leaf, part, (unsigned)(node.hi - node.lo), out + (size_t)k * n, n);
    }
}

static int send_sums_to(struct tcp *t, unsigned rank, struct err *err)
{
    struct part part = hosts_sums(&t->hosts, t->run, t->c->cfg.rank, rank);
    uint32_t bytes = t->hosts.node_count[t->host] * (uint32_t)sizeof(float);
    for (uint64_t at = 0; at < part.count; at += PORT_CHUNK) {
        uint32_t n = (uint32_t)MIN(part.count - at, PORT_CHUNK);
        unsigned slot;
        TRY(free_slot(t, &slot, err));
        float *sums = t->slot + slot * t->slot_floats;
        sum_nodes(t, t->run[rank].first_offset + part.first + at, n, sums);
        submit(t, rank, (struct port_item){.m = {.kind = INSITE_SUMS, .first = part.first + at, .count = n}, .data = sums, .element_bytes = bytes, .whole = true,
                                           .tag = (uint16_t)slot});
    }
    return 0;
}

/* Each rank starts at another one, so that at any time everybody receives. */
static int send_sums(struct tcp *t, struct err *err)
{
    unsigned place = t->hosts.place[t->c->cfg.rank];
    for (unsigned h = 1; h < t->hosts.count; h++) {
        unsigned host = (t->host + h) % t->hosts.count, n = t->hosts.size[host];
        for (unsigned i = 0; i < n; i++)
            TRY(send_sums_to(t, t->hosts.rank[host][(place + i) % n], err));
    }
    return 0;
}

/* Locked. How far from element `at` of the own run the sums of every other host have come. */
static uint64_t come_to(const struct tcp *t, uint64_t at)
{
    uint64_t end = t->c->owned_elems;
    const struct incoming *in = t->in[(t->begun - 1) & 1];
    for (unsigned h = 0; h < t->hosts.count; h++) {
        uint64_t come = at;
        if (h == t->host || !t->hosts.node_count[h])
            continue;
        for (unsigned i = 0; i < t->hosts.size[h]; i++) {
            struct part part = hosts_sums(&t->hosts, t->run, t->hosts.rank[h][i], t->c->cfg.rank);
            if (come >= part.first && come < part.first + part.count)
                come = MAX(come, part.first + in[t->hosts.rank[h][i]].elems);
        }
        end = MIN(end, come);
    }
    return end;
}

static void sum_own(struct tcp *t, uint64_t from, uint64_t to)
{
    const float *part[LANES_MAX];
    for (unsigned k = 0; k < t->terms; k++)
        part[k] = t->term_at[k] + from;
    for (unsigned n = 0, first = 0; n < t->c->node_count; n++) {
        unsigned end = first;
        while (end < t->terms && t->term[end].hi <= t->c->node[n].hi)
            end++;
        coll_sum(t->c->cfg.lanes, t->c->node[n], t->term + first, part + first, end - first, t->c->sum[n] + from, to - from);
        first = end;
    }
}

static int sum_as_they_come(struct tcp *t, struct err *err)
{
    for (uint64_t at = 0, come; at < t->c->owned_elems; at = come) {
        pthread_mutex_lock(&t->lock);
        while ((come = come_to(t, at)) == at)
            TRY(wait_some(t, err));
        pthread_mutex_unlock(&t->lock);
        sum_own(t, at, come);
    }
    return 0;
}

static int tcp_exchange(struct coll *c, uint64_t mine, uint64_t *all, struct err *err);

static int tcp_reduce(struct coll *c, const struct lane_totals *totals, struct err *err)
{
    struct tcp *t = c->state;
    uint64_t unused[LANES_MAX];
    if (t->before == OP_REDUCE)
        TRY(tcp_exchange(c, 0, unused, err));
    TRY(begin(t, OP_REDUCE, err));
    struct lane_totals *to = t->segment.head->totals[(t->begun - 1) & 1];
    unsigned lanes = (unsigned)(c->mine.hi - c->mine.lo);
    memcpy(to + c->mine.lo, totals, lanes * sizeof *to);
    TRY(host_barrier(t, c->cfg.timeout_ms, err));      /* this host's lanes are full */
    t->until_ms = clock_now_ms() + hosts_timeout_of(t);
    send_heads(t, (struct port_item){.m = {.first = c->mine.lo, .count = lanes}, .data = to + c->mine.lo, .element_bytes = sizeof *to});
    TRY(send_sums(t, err));
    TRY(sum_as_they_come(t, err));
    TRY(finish(t, err));
    memcpy(c->totals, to, sizeof c->totals);
    return 0;
}

/* ---- gather, exchange ---- */
static int tcp_gather(struct coll *c, struct err *err)
{
    struct tcp *t = c->state;
    unsigned self = c->cfg.rank;
    TRY(begin(t, OP_GATHER, err));
    send_heads(t, (struct port_item){.element_bytes = 0});
    for (unsigned i = 1; i < c->cfg.ranks; i++) {
        unsigned r = (self + i) % c->cfg.ranks;
        struct part part = hosts_weights(&t->hosts, t->run, self, r);
        if (!is_remote(t, r) || part.count == 0)
            continue;
        CHECK(part.count <= UINT32_MAX);
        submit(t, r, (struct port_item){.m = {.kind = INSITE_WEIGHTS, .first = part.first, .count = (uint32_t)part.count}, .element_bytes = sizeof(float),
                                        .data = c->weights + c->first_offset + part.first, .tag = NO_SLOT});
    }
    return finish(t, err);
}

static int tcp_exchange(struct coll *c, uint64_t mine, uint64_t *all, struct err *err)
{
    struct tcp *t = c->state;
    TRY(begin(t, OP_EXCHANGE, err));
    uint64_t *values = t->segment.head->exchange[(t->begun - 1) & 1];
    values[c->cfg.rank] = mine;
    send_heads(t, (struct port_item){.m = {.value = mine}});
    TRY(finish(t, err));
    memcpy(all, values, c->cfg.ranks * sizeof *all);
    return 0;
}

/* ---- opening ---- */
static int place(struct coll *c, struct tcp *t, struct err *err)
{
    const struct msg_gang *where = c->cfg.where;
    CHECK(where != NULL && c->cfg.port != NULL);
    if (where->rank_count != c->cfg.ranks || !port_is(c->cfg.port, where, c->cfg.rank))
        return err_set(err, ERR_CONFLICT, "the hosts of %u ranks are known, of another gang than this one with %u", where->rank_count, c->cfg.ranks);
    TRY(coll_runs(&c->cfg, t->run, err));
    hosts_plan(&c->cfg, where->host, &t->hosts);
    t->host = t->hosts.of[c->cfg.rank];
    struct { uint64_t layout, lanes, lo, hi, ranks; uint16_t host[LANES_MAX]; } shape = {layout_hash(c->cfg.layout), c->cfg.lanes, c->cfg.gang.lo, c->cfg.gang.hi,
                                                                                        c->cfg.ranks, {0}};
    memcpy(shape.host, where->host, c->cfg.ranks * sizeof *shape.host);
    t->shape = xxh64_of(&shape, sizeof shape, 0);
    return 0;
}

/* The own sums' terms in lane order; received nodes first get their places. */
static void find_terms(struct tcp *t)
{
    unsigned at = 0;
    for (unsigned h = 0; h < t->hosts.count; h++) {
        t->received_at[h] = at;
        at += h == t->host ? 0 : t->hosts.node_count[h];
    }
    for (unsigned l = t->c->cfg.gang.lo; l < t->c->cfg.gang.hi;) {
        const float *from = NULL;
        struct lane_range node = {(uint16_t)l, (uint16_t)(l + 1)};
        for (unsigned h = 0; h < t->hosts.count; h++)
            for (unsigned k = 0; k < t->hosts.node_count[h]; k++)
                if (l >= t->hosts.node[h][k].lo && l < t->hosts.node[h][k].hi) {
                    node = h == t->host ? node : t->hosts.node[h][k];
                    from = h == t->host ? lane_at(t, l) + t->c->first_offset : t->received + (t->received_at[h] + k) * t->c->owned_elems;
                }
        t->term[t->terms] = node;
        t->term_at[t->terms++] = from;
        l = node.hi;
    }
}

static int allocate(struct coll *c, struct tcp *t, struct err *err)
{
    unsigned nodes = 0, own = t->hosts.node_count[t->host];
    for (unsigned h = 0; h < t->hosts.count; h++)
        nodes += h == t->host ? 0 : t->hosts.node_count[h];
    t->slot_floats = (size_t)PORT_CHUNK * own;
    t->slot_bytes = t->hosts.count > 1 ? SLOTS * t->slot_floats * sizeof(float) : 0;
    t->received_bytes = nodes * c->owned_elems * sizeof(float);
    t->free_slots = (1u << SLOTS) - 1;
    if ((t->slot_bytes && !(t->slot = pages_alloc(t->slot_bytes, err))) || (t->received_bytes && !(t->received = pages_alloc(t->received_bytes, err))))
        return ERR_NO_MEMORY;
    return 0;
}

static int share_memory(struct coll *c, struct tcp *t, struct err *err)
{
    struct segment_shape shape = {.members = t->hosts.size[t->host], .lanes = c->cfg.lanes, .rank = c->cfg.rank, .elems = c->cfg.layout->elems};
    t->segment.name_rank = rank_text;
    t->segment.arg = t;
    for (unsigned i = 0; i < shape.members; i++) {
        struct lane_range lanes = coll_lanes_of(&c->cfg, t->hosts.rank[t->host][i]);
        shape.arenas += (unsigned)(lanes.hi - lanes.lo);
    }
    TRY(segment_open(&t->segment, c->segment, &shape, c->cfg.open_timeout_ms, err));
    c->weights = t->segment.weights;
    c->stride = t->segment.stride;
    c->lane_first = c->mine.lo;
    c->lane = c->mine.lo < c->mine.hi ? lane_at(t, c->mine.lo) : NULL;
    return 0;
}

static int meet(struct coll *c, struct tcp *t, struct err *err)
{
    bool remote[LANES_MAX];
    for (unsigned r = 0; r < c->cfg.ranks; r++)
        remote[r] = is_remote(t, r);
    t->attached = true;
    port_attach(c->cfg.port, c->cfg.where, remote, &port_calls, t);
    TRY(begin(t, OP_OPEN, err));
    send_heads(t, (struct port_item){.m = {.value = t->shape}});
    return finish(t, err);
}

static int tcp_open(struct coll *c, struct err *err)
{
    struct tcp *t = calloc(1, sizeof *t);
    pthread_condattr_t monotonic;
    if (!t)
        return err_set(err, ERR_NO_MEMORY, "no memory for a communicator");
    c->state = t;
    t->c = c;
    pthread_mutex_init(&t->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&t->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    TRY(place(c, t, err));
    TRY(share_memory(c, t, err));
    TRY(allocate(c, t, err));
    find_terms(t);
    TRY(meet(c, t, err));
    t->opened = true;
    return 0;
}

static void tcp_abort(struct coll *c)
{
    struct tcp *t = c->state;
    char who[256], why[SEGMENT_WHY_BYTES];
    rank_text(t, c->cfg.rank, who);
    snprintf(why, sizeof why, "%.140s left the gang", who);
    end_gang(t, why);
}

static void tcp_close(struct coll *c)
{
    struct tcp *t = c->state;
    if (!t)
        return;
    bool orderly = t->opened && !segment_aborted(&t->segment);
    if (t->attached)
        port_detach(c->cfg.port, orderly ? c->cfg.timeout_ms : 0);
    segment_close(&t->segment);
    pages_free(t->received, t->received_bytes);
    pages_free(t->slot, t->slot_bytes);
    pthread_cond_destroy(&t->wake);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

static void tcp_traffic(const struct coll *c, unsigned to_rank, struct coll_traffic *out) { port_traffic(c->cfg.port, to_rank, out); }

const struct coll_ops coll_tcp = {"tcp", tcp_open, tcp_close, tcp_abort, tcp_reduce, tcp_gather, tcp_exchange, tcp_traffic};
