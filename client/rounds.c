/* A round, seen from a rank: pull the own blocks of one version, gather them over the gang, compute, contribute the sums, and again. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/client.h"

#define ASK_AGAIN_MS 250                  /* pulls are small, and a shard that was not ready yet knows nothing of them */
#define RESEND_MS 3000                    /* doubled each time: a round may rightly wait for a slow gang, and every copy costs WAN bytes */
#define RESEND_MAX_MS 24000
#define RESEND_VIEW_MS 500                /* after a new view, which the shard may not have had yet */
#define SEEDED_MS 10                      /* after seeding, other ranks may still have to seed theirs */
#define NEAR_BLOCKS 16                    /* from the own site, where a whole piece is too much for one answer: 4 MiB */
#define PULL_BLOCKS 2                     /* blocks of an answer from another site: 512 KiB. A version that is overtaken costs only what is under way */
#define PULL_WINDOW 8                     /* such answers under way: a link of 600 Mbit/s and 50 ms stays full */
#define COPY_TIMEOUT_MS 60000             /* of one copy into or out of a device */
#define GANG_TIMEOUT_MS 600000            /* a round may wait for another gang's relaunch; a dead rank of this one ends waits at once */

/* ---- which blocks ---- */
void rounds_set_pieces(struct viaduct *v)
{
    uint32_t own_first, own_count;
    coll_owned_blocks(v->coll, &own_first, &own_count);
    memset(v->held, 0, v->layout.block_count * sizeof *v->held);   /* in the memory of another gang */
    for (unsigned s = 0; s < v->plan.shard_count; s++) {
        struct piece *p = &v->piece[s];
        uint32_t first, count;
        ps_shard_blocks(&v->layout, v->plan.shard_count, s, &first, &count);
        uint32_t lo = MAX(first, own_first), hi = MIN(first + count, own_first + own_count);
        *p = (struct piece){0};
        v->shard_first[s] = first;
        if (count > 0 && lo < hi) {
            *p = (struct piece){.speaks = true, .first = lo - first, .count = hi - lo, .offset = v->layout.blocks[lo].offset};
            for (uint32_t b = lo; b < hi; b++)
                p->elems += v->layout.blocks[b].elems;
        }
        p->speaks = p->speaks || (count == 0 && v->hello.who.index == (v->plan.embedded ? s : 0));   /* an empty shard is rank 0's, or its host's */
    }
}

static const struct block_desc *block_of(const struct viaduct *v, unsigned shard, uint32_t i) { return &v->layout.blocks[v->shard_first[shard] + i]; }

/* Pieces of payload: blocks [first, first + count) of the shard, out of an arena of which arena[0] is element `base`. */
static unsigned gather_blocks(const struct viaduct *v, unsigned shard, uint32_t first, uint32_t count, const float *arena, uint64_t base, struct bytes *out)
{
    for (uint32_t i = 0; i < count; i++) {
        const struct block_desc *d = block_of(v, shard, first + i);
        out[i] = (struct bytes){arena + (d->offset - base), d->elems * sizeof(float)};
    }
    return count;
}

uint8_t rounds_primary(const struct viaduct *v, unsigned shard)
{
    const struct view_shard *vs = &v->view.view.shard[shard];
    for (unsigned i = 0; i < vs->copy_count; i++)
        if (vs->copy[i].role == COPY_PRIMARY)
            return vs->copy[i].slot;
    return UINT8_MAX;
}

/* The in-sync copy at the own site, else the primary; but for a gang without lanes no weights cross between sites. */
static uint8_t source_of(const struct viaduct *v, unsigned shard)
{
    const struct view_shard *vs = &v->view.view.shard[shard];
    const struct view_gang *gang = &v->view.view.gang[v->hello.who.site];
    for (unsigned i = 0; i < vs->copy_count; i++) {
        bool in_sync = vs->copy[i].role == COPY_PRIMARY || vs->copy[i].role == COPY_SYNC;
        if (in_sync && v->view.view.slot[vs->copy[i].slot].site == v->hello.who.site)
            return vs->copy[i].slot;
    }
    return gang->lanes.lo == gang->lanes.hi ? UINT8_MAX : rounds_primary(v, shard);
}

/* ---- asking and contributing ---- */
static uint64_t *held_of(struct viaduct *v, unsigned shard, uint32_t block) { return &v->held[v->shard_first[shard] + block]; }

static bool holds(struct viaduct *v, unsigned shard, uint32_t first, uint32_t count)
{
    for (uint32_t b = first; b < first + count; b++)
        if (*held_of(v, shard, b) != v->target + 1)
            return false;
    return true;
}

static void ask_for(struct viaduct *v, unsigned shard, uint8_t slot, uint32_t first, uint32_t count)
{
    struct msg_pull m = {.view = v->view.view.number, .generation = v->view.view.generation, .shard = (uint8_t)shard, .version = v->target,
                         .block_first = first, .block_count = count};
    v->piece[shard].asked_ms = loop_now_ms(v->loop);
    failpoint(FAIL_WORKER_PULL);
    client_send(v, slot, MSG_PULL, &m, NULL, 0);
}

/* From another site, and where it is large, in chunks, one until the version is there: a question that crosses its answer is answered twice. */
static void ask_on(struct viaduct *v, unsigned shard)
{
    struct piece *p = &v->piece[shard];
    uint8_t slot = source_of(v, shard);
    bool nobody = slot == UINT8_MAX, near = nobody || v->plan.embedded || v->view.view.slot[slot].site == v->hello.who.site;
    if (nobody || v->plan.embedded || (near && p->count <= PS_BLOCKS_AT_ONCE)) {
        if (p->flying == 0)
            ask_for(v, shard, slot, p->first, p->count);
        p->flying = 1;
        return;
    }
    uint32_t end = p->first + p->count, window = p->flowing ? PULL_WINDOW : 1, most = near ? NEAR_BLOCKS : PULL_BLOCKS;
    for (; (p->next < end || p->count == 0) && p->flying < window; p->next += most) {
        uint32_t count = MIN(end - p->next, most);
        if (count && holds(v, shard, p->next, count))
            continue;
        ask_for(v, shard, slot, p->next, count);
        p->flying++;
        if (p->count == 0)
            break;
    }
}

static void ask(struct viaduct *v, unsigned shard)
{
    struct piece *p = &v->piece[shard];
    p->next = p->first;
    p->flying = 0;
    p->flowing = !v->works;               /* first lanes come right after a commit: that version is there */
    p->answered = false;
    ask_on(v, shard);
}

static uint64_t received_of(const struct viaduct *v, unsigned shard) { return v->plan.embedded ? 0 : ps_peers_received(v->peers, source_of(v, shard)); }

static bool wants(const struct viaduct *v, unsigned shard)
{
    const struct piece *p = &v->piece[shard];
    return p->speaks && !(p->have && p->version >= v->target);
}

/* The loop's thread asks, seeds and contributes for a trainer that waits. */
static bool trainer_waits(const struct viaduct *v)
{
    return v->coll && (v->phase == CLIENT_WAITING || v->phase == CLIENT_AGREEING);
}

static struct lane_range lanes_told(const struct viaduct *v) { return v->view.view.gang[v->hello.who.site].lanes; }
static bool other_lanes(const struct viaduct *v) { return client_is_member(v) && !lane_range_eq(lanes_told(v), v->gang_lanes); }

static void ask_all(struct viaduct *v)
{
    for (unsigned s = 0; s < v->plan.shard_count; s++)
        if (wants(v, s))
            ask(v, s);
}

static void contribute_node(struct viaduct *v, unsigned shard, unsigned node)
{
    const struct piece *p = &v->piece[shard];
    const struct lane_totals *t = &v->sums.totals[node];
    struct bytes piece[PS_BLOCKS_AT_ONCE];
    for (uint32_t at = 0; at < p->count || at == 0; at += PS_BLOCKS_AT_ONCE) {
        uint32_t count = MIN(p->count - at, PS_BLOCKS_AT_ONCE);
        struct msg_contribute m = {.view = v->view.view.number, .generation = v->view.view.generation, .round = v->target - 1, .shard = (uint8_t)shard,
                                   .name = {v->sums.node[node], v->plan.deterministic ? 0 : v->hello.who.instance},
                                   .totals = {.loss_sum = t->loss_sum, .correct = t->correct, .samples = t->samples, .nonfinite = t->nonfinite},
                                   .block_first = p->first + at, .block_count = count};
        unsigned n = gather_blocks(v, shard, p->first + at, count, v->sums.sum[node], v->sums.first_offset, piece);
        failpoint(FAIL_WORKER_CONTRIBUTE);
        client_send(v, rounds_primary(v, shard), MSG_CONTRIBUTE, &m, piece, n);
    }
}

static void contribute(struct viaduct *v, unsigned shard)
{
    if (!v->contributed || !v->piece[shard].speaks)
        return;
    v->piece[shard].sent_ms = loop_now_ms(v->loop);
    for (unsigned n = 0; n < v->sums.count; n++)
        contribute_node(v, shard, n);
}

static void contribute_all(struct viaduct *v)
{
    for (unsigned s = 0; s < v->plan.shard_count; s++)
        contribute(v, s);
}

static float *make_seed(const struct viaduct *v)
{
    float *seed = calloc(v->layout.elems, sizeof *seed);
    CHECK(seed != NULL);
    v->config.init(v->config.arg, v->plan.seed, seed);
    return seed;
}

/* All that this rank owns of the shard, whichever part was asked for. */
static void seed(struct viaduct *v, const struct msg_pullreply *m)
{
    struct piece *p = &v->piece[m->shard];
    struct msg_seed out = {.view = v->view.view.number, .generation = v->view.view.generation, .shard = m->shard};
    const struct view_shard *vs = &v->view.view.shard[m->shard];
    uint64_t now = loop_now_ms(v->loop);
    if (!p->speaks || (p->seeded_ms && now - p->seeded_ms < ASK_AGAIN_MS))
        return;
    if (!v->seed && v->phase == CLIENT_WAITING) {
        v->seed_wanted = true;
        pthread_cond_broadcast(&v->wake);
        return;
    }
    if (!v->seed)
        v->seed = make_seed(v);
    bool due[COPIES_LIMIT];               /* seeds that are still on their way are not sent again */
    for (unsigned i = 0; i < vs->copy_count; i++)
        due[i] = (vs->copy[i].role == COPY_PRIMARY || vs->copy[i].role == COPY_SYNC) &&
                 (!p->seeded_ms || v->plan.embedded || ps_peers_queued(v->peers, vs->copy[i].slot) == 0);
    p->seeded_ms = now;
    struct bytes piece[PS_BLOCKS_AT_ONCE];
    for (uint32_t at = 0; at < p->count || at == 0; at += PS_BLOCKS_AT_ONCE) {
        out.block_first = p->first + at;
        out.block_count = MIN(p->count - at, PS_BLOCKS_AT_ONCE);
        unsigned n = gather_blocks(v, m->shard, out.block_first, out.block_count, v->seed, 0, piece);
        for (unsigned i = 0; i < vs->copy_count; i++)
            if (due[i])
                client_send(v, vs->copy[i].slot, MSG_SEED, &out, piece, n);
    }
}

/* ---- events ---- */
static size_t bytes_of_blocks(const struct viaduct *v, unsigned shard, uint32_t first, uint32_t count)
{
    size_t bytes = 0;
    for (uint32_t i = 0; i < count; i++)
        bytes += block_of(v, shard, first + i)->elems * sizeof(float);
    return bytes;
}

void rounds_reply(struct viaduct *v, const struct msg_pullreply *m, const uint8_t *payload, size_t size)
{
    bool other_view = RULE_EPPULL && m->view != v->view.view.number, other_generation = RULE_GENPULL && m->generation != v->view.view.generation;
    if (m->shard >= v->plan.shard_count || other_view || other_generation || !client_is_member(v))
        return;
    struct piece *p = &v->piece[m->shard];
    log_debug(&v->log, "shard %u answers with version %llu, status %u; wanted %llu", m->shard, (unsigned long long)m->version, m->status, (unsigned long long)v->target);
    if (m->status == PULL_NEED_SEED) {
        if (v->coll) {
            seed(v, m);
            /* The pull, or the contribution, was answered with this: it is sent again. */
            p->asked_ms = loop_now_ms(v->loop) - ASK_AGAIN_MS + SEEDED_MS;
            p->sent_ms = loop_now_ms(v->loop) - p->patience_ms + SEEDED_MS;
            p->received = received_of(v, m->shard);
        }
        return;
    }
    bool mine = p->speaks && m->block_first >= p->first && m->block_first - p->first <= p->count && m->block_count <= p->count - (m->block_first - p->first) &&
                size == bytes_of_blocks(v, m->shard, m->block_first, m->block_count);
    if (v->phase != CLIENT_WAITING || !mine || m->version < v->target || (p->have && p->version >= m->version))
        return;
    bool newer = m->version > v->target, first = !p->answered;
    v->target = m->version;
    float *weights = coll_weights(v->coll);
    for (uint32_t i = 0; i < m->block_count; i++) {
        const struct block_desc *d = block_of(v, m->shard, m->block_first + i);
        memcpy(weights + d->offset, payload, d->elems * sizeof(float));
        payload += d->elems * sizeof(float);
        *held_of(v, m->shard, m->block_first + i) = m->version + 1;
    }
    p->have = holds(v, m->shard, p->first, p->count);
    p->version = m->version;
    if (newer) {                              /* others were faster: all pieces must be of one version */
        v->contributed = false;
        for (unsigned s = 0; s < v->plan.shard_count; s++)
            if (wants(v, s) && (s != m->shard || !first))
                ask(v, s);                    /* what of this one is under way is that version too, when nothing older came before */
    }
    p->flying -= p->flying > 0 && (!newer || first);
    p->flowing = p->answered = true;
    if (!p->have)
        ask_on(v, m->shard);
    pthread_cond_broadcast(&v->wake);
}

void rounds_view(struct viaduct *v)
{
    memset(v->held, 0, v->layout.block_count * sizeof *v->held);   /* of another generation, it may be */
    if (!trainer_waits(v))
        return;
    contribute_all(v);
    for (unsigned s = 0; s < v->plan.shard_count; s++) {
        v->piece[s].have = false;             /* this view's copy may need the seeds of all ranks */
        v->piece[s].seeded_ms = 0;
        v->piece[s].patience_ms = RESEND_VIEW_MS;
    }
    if (!other_lanes(v))                      /* else the gang is opened anew first, and what comes before that is lost */
        ask_all(v);
}

void rounds_linked(struct viaduct *v, uint8_t slot)
{
    if (!trainer_waits(v) || !client_is_member(v))
        return;
    for (unsigned s = 0; s < v->plan.shard_count; s++) {
        if (rounds_primary(v, s) == slot)
            contribute(v, s);
        if (source_of(v, s) == slot && wants(v, s))
            ask(v, s);
    }
}

void rounds_tick(struct viaduct *v)
{
    uint64_t now = loop_now_ms(v->loop);
    if (!trainer_waits(v) || !client_is_member(v))
        return;
    for (unsigned s = 0; s < v->plan.shard_count; s++) {
        struct piece *p = &v->piece[s];
        uint64_t received = received_of(v, s);
        if (received != p->received)
            p->asked_ms = p->sent_ms = now;   /* an answer is on its way in: the round is committed, nothing is asked for or given again */
        p->received = received;
        if (wants(v, s) && now - p->asked_ms > ASK_AGAIN_MS)
            ask(v, s);
        if (!v->plan.embedded && ps_peers_queued(v->peers, rounds_primary(v, s)) > 0)
            p->sent_ms = now;                 /* still on its way out of here: not lost */
        if (v->contributed && p->speaks && now - p->sent_ms > p->patience_ms) {
            contribute(v, s);
            p->patience_ms = MIN(MAX(2 * p->patience_ms, RESEND_MS), RESEND_MAX_MS);
        }
    }
}

/* ---- the trainer's thread ---- */
static void start_waiting(void *arg)
{
    struct viaduct *v = arg;
    pthread_mutex_lock(&v->lock);
    if (trainer_waits(v) && client_is_member(v) && v->end.code == 0) {
        contribute_all(v);
        ask_all(v);
    }
    pthread_mutex_unlock(&v->lock);
}

static bool pieces_level(const struct viaduct *v)
{
    for (unsigned s = 0; s < v->plan.shard_count; s++)
        if (v->piece[s].speaks && (!v->piece[s].have || v->piece[s].version != v->target))
            return false;
    return true;
}

/* Locked on entry and return. Where the ranks of this gang are is told when all have joined. A host may be long in coming back: when a gang is not whole in
 * time, the coordinator names another launch, and that is no death. */
static int wait_for_gang(struct viaduct *v, struct err *err)
{
    while (!v->have_gang && v->end.code == 0 && !v->stopping)
        pthread_cond_wait(&v->wake, &v->lock);
    if (v->end.code < 0)
        return *err = v->end, err->code;
    return v->stopping ? err_set(err, ERR_ABORTED, "the run ended before this gang was whole") : 0;
}

/* Shared memory on one host; links between hosts. A trainer may ask for MPI instead, which knows its ranks itself. */
static int choose_transport(struct viaduct *v, const char **out, struct err *err)
{
    const char *wish = v->config.transport;
    bool one_host = true;
    if (!wish || strcmp(wish, "tcp") == 0)
        TRY(wait_for_gang(v, err));
    for (unsigned r = 0; !wish && r < v->gang.rank_count; r++)
        one_host = one_host && v->gang.host[r] == v->gang.host[0];
    *out = wish ? wish : one_host ? "shm" : "tcp";
    if (strcmp(*out, "tcp") == 0 && !v->port)
        return err_set(err, ERR_USAGE, "site %s has ranks on several hosts, but this one does not know its own: the agent sets VIADUCT_HOST_INDEX and "
                                       "VIADUCT_HOST_ADDRESS", v->site);
    return 0;
}

/* Opened with no lanes at first: which lanes a gang has is agreed on by its ranks, who may have heard of another view (agree_on_lanes). */
static int open_gang(struct viaduct *v, struct lane_range lanes, struct err *err)
{
    const struct view_gang *gang = &v->view.view.gang[v->hello.who.site];
    const char *transport;
    TRY(choose_transport(v, &transport, err));
    coll_segment_name(v->segment, v->run.job, v->site, v->hello.who.instance, v->gang_turn++, v->host_index);
    struct coll_config c = {.transport = transport, .segment = v->segment, .port = v->port, .where = &v->gang, .rank = v->hello.who.index, .ranks = gang->ranks,
                            .lanes = v->plan.lanes, .gang = lanes, .layout = &v->layout, .open_timeout_ms = 30000, .timeout_ms = GANG_TIMEOUT_MS};
    v->gang_lanes = lanes;
    pthread_mutex_unlock(&v->lock);
    struct coll *coll = NULL;
    int rc = coll_open(&c, &coll, err);
    pthread_mutex_lock(&v->lock);
    if (rc < 0) {
        v->segment[0] = '\0';
        return rc;
    }
    v->coll = coll;
    v->touched = false;
    log_info(&v->log, "%u rank%s sum%s over %s, lanes [%u, %u)", c.ranks, c.ranks == 1 ? "" : "s", c.ranks == 1 ? "s" : "", c.transport, lanes.lo, lanes.hi);
    v->lanes = coll_rank_lanes(coll);
    rounds_set_pieces(v);
    return 0;
}

static void seed_aside(struct viaduct *v)
{
    pthread_mutex_unlock(&v->lock);
    float *seed = make_seed(v);
    pthread_mutex_lock(&v->lock);
    v->seed_wanted = false;
    v->seed = seed;
}

/* Locked on entry and return. The own pieces at `target`, or other lanes, or why not. */
static int wait_for_pieces(struct viaduct *v, struct err *err)
{
    v->phase = CLIENT_WAITING;
    loop_post(v->loop, start_waiting, v);
    if (!v->touched) {                        /* while the weights are on their way */
        v->touched = true;
        pthread_mutex_unlock(&v->lock);
        coll_touch(v->coll);
        pthread_mutex_lock(&v->lock);
    }
    while (v->end.code == 0 && !v->stopping && !pieces_level(v) && !other_lanes(v)) {
        if (v->seed_wanted && !v->seed)
            seed_aside(v);
        else
            pthread_cond_wait(&v->wake, &v->lock);
    }
    if (v->end.code < 0)
        return *err = v->end, err->code;
    return 0;
}

static int exchange(struct viaduct *v, uint64_t mine, uint64_t *all, struct err *err)
{
    pthread_mutex_unlock(&v->lock);
    int rc = coll_exchange(v->coll, mine, all, err);
    pthread_mutex_lock(&v->lock);
    return rc;
}

/* All ranks hold one version? Else everybody goes for the newest. The end is agreed on too: a rank that hears of it earlier than others must not leave
 * them in the middle of a step. *lanes: one of them heard of other lanes. */
static int agree(struct viaduct *v, bool *level, bool *stop, bool *lanes, struct err *err)
{
    uint64_t all[LANES_MAX], mine = v->stopping ? UINT64_MAX : v->target << 1 | other_lanes(v);
    unsigned ranks = v->view.view.gang[v->hello.who.site].ranks;
    v->phase = CLIENT_AGREEING;
    int rc = exchange(v, mine, all, err);
    *level = true;
    *lanes = false;
    for (unsigned r = 0; rc == 0 && r < ranks; r++) {
        if (all[r] == UINT64_MAX) {
            v->stopping = *stop = true;
            continue;
        }
        *lanes = *lanes || all[r] & 1;
        if (all[r] >> 1 != mine >> 1)
            *level = false;
        if (all[r] >> 1 > v->target) {
            v->target = all[r] >> 1;
            v->contributed = false;
        }
    }
    return rc;
}

/* The newest view that any rank has counts; who is behind waits for it. Every rank sees the same answers, so all leave with the same lanes. */
static int agree_on_lanes(struct viaduct *v, struct lane_range *lanes, struct err *err)
{
    unsigned ranks = v->view.view.gang[v->hello.who.site].ranks;
    for (;;) {
        uint64_t all[LANES_MAX], newest = 0;
        bool same = true;
        TRY(exchange(v, (uint64_t)v->view.view.number << 32 | (uint32_t)lanes_told(v).lo << 16 | lanes_told(v).hi, all, err));
        for (unsigned r = 0; r < ranks; r++) {
            newest = MAX(newest, all[r]);
            same = same && (uint32_t)all[r] == (uint32_t)all[0];
        }
        *lanes = (struct lane_range){(uint16_t)(newest >> 16), (uint16_t)newest};
        if (same)
            return 0;
        while (v->end.code == 0 && !v->stopping && v->view.view.number < newest >> 32)
            pthread_cond_wait(&v->wake, &v->lock);
        if (v->end.code < 0)
            return *err = v->end, err->code;
        if (v->stopping) {                    /* that view will not come; the others wait for this rank */
            coll_abort(v->coll);
            return err_set(err, ERR_ABORTED, "the run ends");
        }
    }
}

/* What this gang gave to the open round under its old lanes stays valid where it is; with the new ones the round is computed again, if it is still open. */
static int change_lanes(struct viaduct *v, struct err *err)
{
    struct lane_range lanes;
    TRY(agree_on_lanes(v, &lanes, err));
    if (lane_range_eq(lanes, v->gang_lanes))
        return 0;
    struct coll *old = v->coll;
    v->coll = NULL;
    if (v->contributed)
        v->target--;
    v->contributed = false;
    coll_close(old);
    return open_gang(v, lanes, err);
}

static void fill_step(struct viaduct *v, bool stop, struct viaduct_step *out)
{
    const struct msg_plan *p = &v->plan;
    uint64_t per_pass = (p->samples_per_pass + p->batch - 1) / p->batch, in_pass = v->target % per_pass * p->batch, left = p->samples_per_pass - in_pass;
    *out = (struct viaduct_step){.finished = stop || v->target >= p->rounds, .step = v->target, .steps = p->rounds, .pass = (uint32_t)(v->target / per_pass),
                                 .first = in_pass, .count = left < p->batch ? (uint32_t)left : p->batch, .lane_lo = v->lanes.lo, .lane_hi = v->lanes.hi,
                                 .weights = v->coll ? coll_weights(v->coll) : NULL};
}

/* Embedded shards live in the ranks, so these stay until the coordinator says stop. */
static void stay_if_embedded(struct viaduct *v)
{
    v->phase = CLIENT_WAITING;
    while (v->plan.embedded && !v->stopping && v->end.code == 0)
        pthread_cond_wait(&v->wake, &v->lock);
}

static int next(struct viaduct *v, struct viaduct_step *out, struct err *err)
{
    bool level = false, stop = false, lanes = false;
    if (!v->coll)
        TRY(open_gang(v, (struct lane_range){0, 0}, err));
    while ((!level || lanes) && !stop) {
        TRY(wait_for_pieces(v, err));
        times_add(v, TIME_BETWEEN);
        TRY(agree(v, &level, &stop, &lanes, err));
        if (lanes && !stop)
            TRY(change_lanes(v, err));
        times_add(v, TIME_INSIDE);
    }
    if (!stop) {
        bool own = v->contributed;            /* else it went for a version that others made */
        v->phase = CLIENT_COMPUTING;
        v->contributed = false;
        if (v->target > 0) {                  /* made again if a rollback to the start ever needs it */
            free(v->seed);
            v->seed = NULL;
            v->seed_wanted = false;
        }
        pthread_mutex_unlock(&v->lock);
        failpoint(FAIL_WORKER_GATHER);
        int rc = coll_gather(v->coll, err);
        pthread_mutex_lock(&v->lock);
        if (rc < 0)
            return rc;
        times_add(v, TIME_INSIDE);
        if (own)
            times_keep(v, v->target - 1);
    }
    times_start(v);
    fill_step(v, stop, &v->step);
    if (v->step.finished)
        stay_if_embedded(v);
    *out = v->step;
    return 0;
}

int viaduct_next(struct viaduct *v, struct viaduct_step *out, struct viaduct_error *error)
{
    struct err err = ERR_INIT;
    pthread_mutex_lock(&v->lock);
    int rc = next(v, out, &err);
    if (rc < 0 && v->stopping) {              /* an abort that came with the end is the end */
        fill_step(v, true, out);
        rc = 0;
    } else if (rc < 0 && v->end.code < 0) {
        err = v->end;                         /* why the gang was aborted */
    }
    pthread_mutex_unlock(&v->lock);
    return rc < 0 ? client_error(error, &err) : 0;
}

static struct memory memory_of(struct viaduct_memory m) { return (struct memory){m.pointer, m.space ? SPACE_DEVICE : SPACE_HOST, m.stream}; }

int viaduct_fetch_weights(struct viaduct *v, struct viaduct_memory to, struct viaduct_error *error)
{
    struct err err = ERR_INIT;
    struct handle h;
    int rc = coll_get_weights(v->coll, memory_of(to), &h, &err);
    if (rc == 0)
        rc = handle_wait(h, COPY_TIMEOUT_MS, &err);
    return rc < 0 ? err_wrap(&err, "weights of step %llu to where they are used", (unsigned long long)v->step.step + 1), client_error(error, &err) : 0;
}

int viaduct_put_gradient(struct viaduct *v, uint32_t lane, struct viaduct_memory from, struct viaduct_error *error)
{
    struct err err = ERR_INIT;
    return coll_put_lane(v->coll, lane, memory_of(from), &v->put[lane], &err) < 0 ? client_error(error, &err) : 0;
}

static int wait_for_gradients(struct viaduct *v, struct err *err)
{
    for (unsigned l = v->lanes.lo; l < v->lanes.hi; l++)
        if (handle_wait(v->put[l], COPY_TIMEOUT_MS, err) < 0)
            return err_wrap(err, "the gradient of lane %u out of its device", l);
    memset(v->put, 0, sizeof v->put);
    return 0;
}

void rounds_forget(struct viaduct *v)
{
    struct err unused = ERR_INIT;
    for (unsigned l = 0; l < LANES_MAX; l++)
        handle_wait(v->put[l], COPY_TIMEOUT_MS, &unused);   /* an aborted stream writes no more either */
}

int viaduct_contribute(struct viaduct *v, const struct viaduct_totals *totals, struct viaduct_error *error)
{
    struct err err = ERR_INIT;
    struct lane_totals t[LANES_MAX];
    struct coll_sums sums;
    for (unsigned i = 0; i < (unsigned)(v->lanes.hi - v->lanes.lo); i++)
        t[i] = (struct lane_totals){totals[i].loss_sum, totals[i].correct, totals[i].samples, totals[i].nonfinite};
    failpoint(FAIL_WORKER_REDUCE);
    int rc = wait_for_gradients(v, &err);
    times_add(v, TIME_COMPUTE);
    if (rc == 0)
        rc = coll_reduce(v->coll, t, &sums, &err);
    times_add(v, TIME_INSIDE);
    pthread_mutex_lock(&v->lock);
    if (rc == 0) {
        v->sums = sums;
        v->target = v->step.step + 1;
        v->contributed = true;
        if (!v->works && v->lanes.lo < v->lanes.hi)
            log_info(&v->log, "contributes its first lanes, [%u, %u), to step %llu", v->lanes.lo, v->lanes.hi, (unsigned long long)v->target);
        v->works = v->works || v->lanes.lo < v->lanes.hi;
        for (unsigned s = 0; s < v->plan.shard_count; s++) {
            v->piece[s].have = false;
            v->piece[s].patience_ms = RESEND_MS;
        }
    } else if (v->stopping) {
        rc = 0;                               /* viaduct_next will say so */
    } else if (v->end.code < 0) {
        err = v->end;
    }
    pthread_mutex_unlock(&v->lock);
    return rc < 0 ? client_error(error, &err) : 0;
}

void viaduct_lane_ahead(const struct viaduct *v, uint64_t step, uint32_t lane, uint32_t *pass, uint64_t *first, uint32_t *count)
{
    const struct msg_plan *p = &v->plan;
    uint64_t per_pass = (p->samples_per_pass + p->batch - 1) / p->batch, at = step % per_pass * p->batch, left = p->samples_per_pass - at;
    struct sample_span span = lane_samples(left < p->batch ? (uint32_t)left : p->batch, p->lanes, lane);
    *pass = (uint32_t)(step / per_pass);
    *first = at + span.first;
    *count = span.count;
}

void viaduct_lane(const struct viaduct *v, uint32_t lane, uint64_t *first, uint32_t *count)
{
    uint32_t pass;
    viaduct_lane_ahead(v, v->step.step, lane, &pass, first, count);
}

float *viaduct_gradient(struct viaduct *v, uint32_t lane) { return coll_lane_buffer(v->coll, lane); }
