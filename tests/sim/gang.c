/* A gang: the ranks of one site in lockstep. It pulls one version from every shard, computes the sums of its lanes, sends each name's blocks
 * rank by rank to the primaries, and pulls the next version. The README's contract for clients is what this file does. */
#include "tests/sim/sim.h"

#include <string.h>

#include "base/base.h"

static void range_of(const struct world *w, const struct proc *p, unsigned shard, unsigned rank, uint32_t *first, uint32_t *count)
{
    uint32_t n = w->k.shard_blocks[shard], ranks = p->gang.ranks;
    *first = n * rank / ranks;
    *count = n * (rank + 1) / ranks - *first;
}

/* An empty shard is asked for and contributed to by rank 0 alone; other ranks without blocks there say nothing. */
static bool rank_speaks(const struct world *w, const struct proc *p, unsigned shard, unsigned rank)
{
    uint32_t first, count;
    range_of(w, p, shard, rank, &first, &count);
    return count > 0 || (rank == 0 && w->k.shard_blocks[shard] == 0);
}

static int copy_pid(struct world *w, struct proc *p, unsigned slot)
{
    if (w->k.embedded)
        return p->pid;
    struct proc *q = proc_find(w, ROLE_PS, p->view.slot[slot].site, (uint16_t)slot, p->view.slot[slot].instance);
    return q ? q->pid : 0;
}

/* The in-sync copy at the own site, else the primary; a gang without lanes pulls nothing from there. */
static int source_of(struct world *w, struct proc *p, unsigned shard)
{
    const struct view_shard *vs = &p->view.shard[shard];
    bool lanes = p->view.gang[p->site].lanes.lo < p->view.gang[p->site].lanes.hi;
    int best = 0;
    for (unsigned i = 0; i < vs->copy_count; i++) {
        bool primary = vs->copy[i].role == COPY_PRIMARY, local = p->view.slot[vs->copy[i].slot].site == p->site;
        if ((primary && (local || lanes)) || (vs->copy[i].role == COPY_SYNC && local))
            if (!best || local)
                best = copy_pid(w, p, vs->copy[i].slot);
    }
    return best;
}

static int primary_of(struct world *w, struct proc *p, unsigned shard)
{
    const struct view_shard *vs = &p->view.shard[shard];
    for (unsigned i = 0; i < vs->copy_count; i++)
        if (vs->copy[i].role == COPY_PRIMARY)
            return copy_pid(w, p, vs->copy[i].slot);
    return 0;
}

static bool member(const struct proc *p)
{
    return p->have_view && p->have_plan && p->view.gang[p->site].incarnation == p->instance;
}

static void ask(struct world *w, struct proc *p)
{
    struct gang *g = &p->gang;
    g->asked_us = w->now_us;
    for (unsigned s = 0; s < w->k.shards; s++)
        for (unsigned r = 0; r < g->ranks; r++) {
            if (!p->alive || !rank_speaks(w, p, s, r) || (g->piece[s][r].have && g->piece[s][r].version >= g->target))
                continue;
            struct msg_pull m = {.view = p->view.number, .generation = p->view.generation, .shard = (uint8_t)s, .version = g->target};
            range_of(w, p, s, r, &m.block_first, &m.block_count);
            send_to(w, p, (uint16_t)r, (uint8_t)r, source_of(w, p, s), MSG_PULL, &m, NULL);
        }
}

static void send_name(struct world *w, struct proc *p, struct lane_range lanes)
{
    struct gang *g = &p->gang;
    uint64_t round = g->round - 1;
    for (unsigned s = 0; s < w->k.shards; s++)
        for (unsigned r = 0; r < g->ranks; r++) {
            if (!p->alive || !rank_speaks(w, p, s, r))
                continue;
            struct msg_contribute m = {.view = p->view.number, .generation = p->view.generation, .round = round, .shard = (uint8_t)s,
                                       .name = {lanes, w->k.deterministic ? 0 : p->instance}, .totals = truth_totals(w, g->digest, round, lanes)};
            struct payload payload = {.node = g->node};
            range_of(w, p, s, r, &m.block_first, &m.block_count);
            payload.count = m.block_count;
            for (unsigned b = 0; b < m.block_count; b++)
                for (unsigned l = lanes.lo; l < lanes.hi; l++)
                    payload.v[b] += truth_lane(w, g->digest, round, l, w->k.shard_first[s] + m.block_first + b, p->instance);
            send_to(w, p, (uint16_t)r, (uint8_t)r, primary_of(w, p, s), MSG_CONTRIBUTE, &m, &payload);
        }
}

static void contribute(struct world *w, struct proc *p)
{
    struct gang *g = &p->gang;
    struct lane_range nodes[LANE_NODES_MAX];
    unsigned n = lane_nodes(w->k.lanes, p->view.gang[p->site].lanes, nodes);
    g->sent_us = w->now_us;
    for (unsigned i = 0; i < n && p->alive; i++)
        send_name(w, p, nodes[i]);
}

void gang_ready(struct world *w, struct proc *p)
{
    if (!member(p) || p->view.gang[p->site].lanes.lo < p->view.gang[p->site].lanes.hi)
        return;
    for (unsigned r = 0; r < p->gang.ranks && p->alive && p->linked_to; r++) {
        struct msg_ready m = {.who = {ROLE_WORKER, p->site, (uint16_t)r, p->instance}};
        send_to(w, p, (uint16_t)r, 0, p->linked_to, MSG_READY, &m, NULL);
    }
}

void gang_view(struct world *w, struct proc *p)
{
    struct gang *g = &p->gang;
    gang_ready(w, p);
    if (!p->alive || !member(p) || g->finished)
        return;
    if (g->contributed)
        contribute(w, p);
    /* What was pulled from another copy under an older view is pulled again: this view's copy may need the seeds of all ranks. */
    memset(g->piece, 0, sizeof g->piece);
    if (p->alive && !g->computing)
        ask(w, p);
}

static void leave(struct world *w, struct proc *p)
{
    struct gang *g = &p->gang;
    g->finished = true;
    trace(w, "gang pid %d has the last version", p->pid);
    for (unsigned r = 0; r < g->ranks && p->alive; r++) {
        struct msg_heartbeat m = {.who = {ROLE_WORKER, p->site, (uint16_t)r, p->instance}, .version = g->round - 1};
        if (p->linked_to)
            send_to(w, p, (uint16_t)r, 0, p->linked_to, MSG_HEARTBEAT, &m, NULL);
    }
}

/* Rule S6: a forward pass runs on blocks of one (generation, round). */
static bool assemble(struct world *w, struct proc *p)
{
    struct gang *g = &p->gang;
    uint64_t weights[SIM_BLOCKS] = {0}, newest = g->target;
    struct node *node = NULL;
    bool level = true;
    for (unsigned s = 0; s < w->k.shards; s++)
        for (unsigned r = 0; r < g->ranks; r++) {
            if (!rank_speaks(w, p, s, r))
                continue;
            if (!g->piece[s][r].have)
                return false;
            if (g->piece[s][r].version > newest)
                newest = g->piece[s][r].version;
        }
    g->target = newest;
    for (unsigned s = 0; s < w->k.shards; s++)
        for (unsigned r = 0; r < g->ranks; r++) {
            uint32_t first, count;
            if (!rank_speaks(w, p, s, r))
                continue;
            if (g->piece[s][r].version < newest) {
                level = false;
                continue;
            }
            range_of(w, p, s, r, &first, &count);
            memcpy(weights + w->k.shard_first[s] + first, g->piece[s][r].w, count * sizeof weights[0]);
            if (node && node != g->piece[s][r].node)
                violate(w, "S6: a forward pass combines blocks of two histories at version %lu", newest);
            node = g->piece[s][r].node;
        }
    if (!level) {
        ask(w, p);
        return false;
    }
    if (!node || node->version != newest || truth_digest(w, weights) != truth_digest(w, node->w)) {
        violate(w, "S6: a gang pulled blocks that are not version %lu", newest);
        return false;
    }
    g->node = node;
    g->digest = truth_digest(w, weights);
    g->round = newest + 1;
    return true;
}

void gang_reply(struct world *w, struct proc *p, const struct packet *packet, const struct msg_pullreply *m)
{
    struct gang *g = &p->gang;
    unsigned s = m->shard, r = packet->rank;
    if (!member(p) || g->finished || s >= w->k.shards || r >= g->ranks)
        return;
    if (m->view != p->view.number || m->generation != p->view.generation)
        return;
    if (m->status == PULL_NEED_SEED) {
        struct msg_seed seed = {.view = p->view.number, .generation = p->view.generation, .shard = (uint8_t)s, .block_first = m->block_first, .block_count = m->block_count};
        struct payload payload = {.count = m->block_count};
        for (unsigned b = 0; b < m->block_count; b++)
            payload.v[b] = truth_seed(w, w->k.shard_first[s] + m->block_first + b);
        const struct view_shard *vs = &p->view.shard[s];
        for (unsigned i = 0; i < vs->copy_count && p->alive; i++)
            if (vs->copy[i].role == COPY_PRIMARY || vs->copy[i].role == COPY_SYNC)
                send_to(w, p, (uint16_t)r, (uint8_t)r, copy_pid(w, p, vs->copy[i].slot), MSG_SEED, &seed, &payload);
        return;
    }
    if (g->computing || m->version < g->target || (g->piece[s][r].have && g->piece[s][r].version >= m->version))
        return;
    g->piece[s][r].have = true;
    g->piece[s][r].version = m->version;
    g->piece[s][r].node = packet->payload.node;
    memcpy(g->piece[s][r].w, packet->payload.v, sizeof packet->payload.v);
    if (!assemble(w, p))
        return;
    g->contributed = false;
    if (g->round - 1 >= w->k.rounds) {
        leave(w, p);
        return;
    }
    g->computing = true;
    g->compute_token++;
    at(w, 1000 + chance(w, w->k.compute_us), EV_COMPUTED, p->pid, g->compute_token, 0, 0);
}

void gang_computed(struct world *w, struct proc *p, uint64_t token)
{
    struct gang *g = &p->gang;
    if (!g->computing || token != g->compute_token)
        return;
    g->computing = false;
    g->contributed = true;
    g->target = g->round;
    memset(g->piece, 0, sizeof g->piece);
    if (!member(p))
        return;
    contribute(w, p);
    if (p->alive)
        ask(w, p);
}

void gang_tick(struct world *w, struct proc *p)
{
    struct gang *g = &p->gang;
    if (!member(p) || g->computing || g->finished)
        return;
    if (w->now_us - g->asked_us > w->k.resend_ms * 1000)
        ask(w, p);
    if (p->alive && g->contributed && w->now_us - g->sent_us > w->k.resend_ms * 1000)
        contribute(w, p);
}
