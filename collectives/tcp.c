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
#include "collectives/tcp.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/arena.h"
#include "base/base.h"

#define SLOTS 8                       /* chunks of sums on their way: one is made while others are sent */

/* The first rank of which something is missing; `ranks` when the round is whole here. */
static unsigned missing(const struct tcp *t)
{
    unsigned r = 0;
    while (r < t->hosts.ranks && (!tcp_is_remote(t, r) || tcp_all_of(t, r)))
        r++;
    return r;
}

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
        tcp_rank_text(t, r, who);
    snprintf(out, SEGMENT_WHY_BYTES, "%.140s: slower than the deadline of %llu ms in round %llu (%s)%s%.150s", who, (unsigned long long)timeout_of(t),
             (unsigned long long)t->begun - 1, tcp_operations[t->op].name, t->op == OP_OPEN && t->unreachable[0] ? "; " : "",
             t->op == OP_OPEN ? t->unreachable : "");
}

/* Locked. Whether a rank that is still needed is gone. */
static bool lost(const struct tcp *t)
{
    for (unsigned r = 0; r < t->hosts.ranks; r++)
        if (t->gone[r] && (!tcp_all_of(t, r) || t->unsent_to[r] > 0))
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
        return tcp_give_up(t, why[0] ? why : NULL, err);
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
    return segment_barrier(&t->segment, timeout_ms, err) < 0 ? tcp_give_up(t, NULL, err) : 0;
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
            tcp_rank_text(t, r, who);
            snprintf(why, sizeof why, "%.140s: is in another operation (%s) of round %llu than this rank (%s)", who, tcp_operations[in->op].name,
                     (unsigned long long)t->begun - 1, tcp_operations[op].name);
        }
    }
    pthread_mutex_unlock(&t->lock);
    if (why[0])
        return tcp_give_up(t, why, err);
    return segment_aborted(&t->segment) ? tcp_give_up(t, NULL, err) : 0;
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
    item.m.kind = tcp_operations[t->op].head;
    item.whole = true;
    item.tag = NO_SLOT;
    for (unsigned r = 0; r < t->hosts.ranks; r++)
        if (tcp_is_remote(t, r) && (t->op == OP_OPEN || hosts_hears(&t->hosts, t->c->cfg.rank, r)))
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
        submit(t, rank, (struct port_item){.m = {.kind = INSITE_SUMS, .first = part.first + at, .count = n}, .data = sums, .element_bytes = bytes,
                                           .whole = true, .tag = (uint16_t)slot});
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
        if (!tcp_is_remote(t, r) || part.count == 0)
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
    struct { uint64_t layout, lanes, lo, hi, ranks; uint16_t host[LANES_MAX]; } shape = {.layout = layout_hash(c->cfg.layout), .lanes = c->cfg.lanes,
                                                                                         .lo = c->cfg.gang.lo, .hi = c->cfg.gang.hi, .ranks = c->cfg.ranks};
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
    t->segment.name_rank = tcp_rank_text;
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
        remote[r] = tcp_is_remote(t, r);
    t->attached = true;
    port_attach(c->cfg.port, c->cfg.where, remote, &tcp_port_ops, t);
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
    return meet(c, t, err);
}

static void tcp_abort(struct coll *c)
{
    struct tcp *t = c->state;
    char who[256], why[SEGMENT_WHY_BYTES];
    struct err unused = ERR_INIT;
    tcp_rank_text(t, c->cfg.rank, who);
    snprintf(why, sizeof why, "%.140s left the gang", who);
    tcp_give_up(t, why, &unused);
}

static void tcp_close(struct coll *c)
{
    struct tcp *t = c->state;
    if (!t)
        return;
    if (t->attached)
        port_detach(c->cfg.port);
    segment_close(&t->segment);
    pages_free(t->received, t->received_bytes);
    pages_free(t->slot, t->slot_bytes);
    pthread_cond_destroy(&t->wake);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

static void tcp_traffic(const struct coll *c, unsigned to_rank, struct coll_traffic *out) { port_traffic(c->cfg.port, to_rank, out); }

const struct coll_ops coll_tcp = {"tcp", tcp_open, tcp_close, tcp_abort, tcp_reduce, tcp_gather, tcp_exchange, tcp_traffic};
