/* What must be true: the weights that follow from each record, one visible history a generation, checkpoints of logged history, and at the
 * end every sample once and, in deterministic mode, the bits of a run without faults. */
#include "tests/sim/sim.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/magnitude.h"
#include "base/rule.h"
#include "ps/shard_private.h"

#define RULE_TELL RULE(TELL)    /* gangs learn of commits from published versions only, not from the coordinator */

uint64_t truth_seed(const struct world *w, unsigned block) { return hash2(w->seed * 0x10001 + 5, block); }

uint64_t truth_digest(const struct world *w, const uint64_t *weights)
{
    uint64_t d = 1;
    for (unsigned b = 0; b < w->k.blocks; b++)
        d = hash2(d, weights[b]);
    return d;
}

uint64_t truth_lane(const struct world *w, uint64_t digest, uint64_t round, unsigned lane, unsigned block, uint32_t attempt)
{
    return hash2(hash2(digest, round * 64 + lane), (uint64_t)block << 32 | (w->k.deterministic ? 0 : attempt));
}

struct phases truth_phases(const struct world *w)
{
    struct phases p = {.count = w->k.prune_rounds ? 2 : 1, .sparsity = w->k.sparsity};
    p.at[0] = (struct phase){PHASE_TRAIN, w->k.rounds - w->k.prune_rounds};
    p.at[1] = (struct phase){PHASE_PRUNE, w->k.rounds};
    return p;
}

bool truth_prunable(unsigned block) { return block % 4 != 3; }

float truth_weight(uint64_t weights) { return weights ? ldexpf(1 + (float)(weights & 0xffff) / 65536, -(int)(weights >> 16 & 15)) : 0; }

uint64_t truth_mix(unsigned block, uint64_t weights, uint64_t sum, const struct record *r)
{
    uint32_t lr, clip;
    if (r->flags & RECORD_MASKED && truth_prunable(block) && (weights == 0 || truth_weight(weights) < r->threshold))
        return 0;
    memcpy(&lr, &r->lr, 4);
    memcpy(&clip, &r->clip, 4);
    return hash2(hash2(weights, sum), (uint64_t)lr << 32 | clip);
}

double truth_norm2(uint64_t sum) { return (double)(sum >> 44); }

static uint32_t round_count(const struct world *w, uint64_t round)
{
    uint64_t per_pass = (w->k.samples + w->k.batch - 1) / w->k.batch, first = round % per_pass * w->k.batch, left = w->k.samples - first;
    return left < w->k.batch ? (uint32_t)left : w->k.batch;
}

double truth_loss(const struct world *w, uint64_t digest, uint64_t round, unsigned lane)
{
    (void)w;
    return (double)(hash2(digest, round * 64 + lane) & 0xfffff) / 7.0;
}

static double loss_of(const struct world *w, uint64_t digest, uint64_t round, struct lane_range r)
{
    if (r.hi - r.lo == 1)
        return truth_loss(w, digest, round, r.lo);
    uint16_t mid = (uint16_t)((r.lo + r.hi) / 2);
    double left = loss_of(w, digest, round, (struct lane_range){r.lo, mid});
    return left + loss_of(w, digest, round, (struct lane_range){mid, r.hi});
}

struct totals truth_totals(const struct world *w, uint64_t digest, uint64_t round, struct lane_range lanes)
{
    struct totals t = {.loss_sum = loss_of(w, digest, round, lanes)};
    for (unsigned l = lanes.lo; l < lanes.hi; l++)
        t.samples += lane_samples(round_count(w, round), w->k.lanes, l).count;
    t.correct = t.samples / 2;
    return t;
}

bool truth_same_record(const struct record *a, const struct record *b)
{
    bool same = a->round == b->round && a->generation == b->generation && a->view == b->view && a->pass == b->pass && a->first == b->first &&
                a->count == b->count && a->lr == b->lr && a->clip == b->clip && a->flags == b->flags && a->threshold == b->threshold && a->cover_count == b->cover_count;
    for (unsigned i = 0; same && i < a->cover_count; i++)
        same = lane_range_eq(a->cover[i].lanes, b->cover[i].lanes) && a->cover[i].attempt == b->cover[i].attempt;
    return same;
}

static struct node *node_new(struct world *w, struct node *parent, uint64_t version)
{
    struct node *n = calloc(1, sizeof *n);
    n->parent = parent;
    n->version = version;
    n->next = w->nodes;
    w->nodes = n;
    return n;
}

void truth_init(struct world *w)
{
    w->root = node_new(w, NULL, 0);
    for (unsigned b = 0; b < w->k.blocks; b++)
        w->root->w[b] = truth_seed(w, b);
}

static void check_exact_cover(struct world *w, const struct record *r)
{
    uint64_t seen = 0, all = lane_mask((struct lane_range){0, (uint16_t)w->k.lanes});
    for (unsigned i = 0; i < r->cover_count; i++) {
        uint64_t m = lane_mask(r->cover[i].lanes);
        if (seen & m)
            violate(w, "S1: round %lu takes lanes %u-%u twice", r->round, r->cover[i].lanes.lo, r->cover[i].lanes.hi);
        seen |= m;
    }
    if (seen != all)
        violate(w, "S1: round %lu does not take every lane", r->round);
}

/* The lowest edge above the n-th smallest magnitude, by looking at the weights themselves. */
static float threshold_of(const struct world *w, const uint64_t *weights, double share)
{
    unsigned total = 0, below = 0;
    uint32_t edge = 0;
    for (unsigned b = 0; b < w->k.blocks; b++)
        total += truth_prunable(b);
    while (share > 0 && (double)below < share * total) {
        below = 0;
        edge++;
        for (unsigned b = 0; b < w->k.blocks; b++)
            below += truth_prunable(b) && truth_weight(weights[b]) < magnitude_edge(edge);
    }
    return magnitude_edge(edge);
}

static void check_threshold(struct world *w, const uint64_t *weights, const struct record *r)
{
    struct phases phases = truth_phases(w);
    float want = threshold_of(w, weights, phases_ramp(&phases, r->round));
    if (!(r->flags & RECORD_MASKED) != !phases_masked(&phases, r->round))
        violate(w, "S8: the record of round %lu has the mask of another phase", r->round);
    if (r->threshold != want)
        violate(w, "S8: the threshold of round %lu is %g, the weights of its version say %g", r->round, (double)r->threshold, (double)want);
}

struct node *truth_child(struct world *w, struct node *parent, const struct record *record)
{
    for (struct node *n = w->nodes; n; n = n->next)
        if (n->parent == parent && truth_same_record(&n->record, record))
            return n;
    struct node *n = node_new(w, parent, record->round + 1);
    uint64_t digest = truth_digest(w, parent->w), sums[SIM_BLOCKS] = {0};
    double norm = 0;
    n->record = *record;
    check_exact_cover(w, record);
    for (unsigned b = 0; b < w->k.blocks; b++) {
        for (unsigned i = 0; i < record->cover_count; i++)
            for (unsigned l = record->cover[i].lanes.lo; l < record->cover[i].lanes.hi; l++)
                sums[b] += truth_lane(w, digest, record->round, l, b, record->cover[i].attempt);
        norm += truth_norm2(sums[b]);
        n->w[b] = truth_mix(b, parent->w[b], sums[b], record);
    }
    check_threshold(w, parent->w, record);
    struct totals t = truth_totals(w, digest, record->round, (struct lane_range){0, (uint16_t)w->k.lanes});
    if (record->round != parent->version)
        violate(w, "S1: record of round %lu was applied to version %lu", record->round, parent->version);
    if (record->count != round_count(w, record->round) || record->totals.samples != record->count)
        violate(w, "I4: round %lu has %lu samples in its contributions, %u in its record, should have %u", record->round, record->totals.samples,
                record->count, round_count(w, record->round));
    if (record->totals.loss_sum != t.loss_sum)
        violate(w, "I6: loss of round %lu depends on the cut of the lanes", record->round);
    if (record->norm != sqrt(norm) / record->count)
        violate(w, "I6: norm of round %lu is not that of its sum", record->round);
    return n;
}

void truth_published(struct world *w, const struct host *h)
{
    uint32_t g = shard_generation(h->core);
    uint64_t v = shard_version(h->core);
    struct node *n = h->node;
    if (g >= SIM_GENERATIONS || v > SIM_ROUNDS)
        return;
    if (!n || n->version != v) {
        violate(w, "S2: shard %u publishes version %lu without holding it whole", h->shard, v);
        return;
    }
    for (unsigned b = 0; b < w->k.shard_blocks[h->shard]; b++)
        if (h->w[b] != n->w[w->k.shard_first[h->shard] + b])
            violate(w, "S2/I7: block %u of shard %u differs from its history at version %lu", b, h->shard, v);
    if (w->visible[g][v] && w->visible[g][v] != n)
        violate(w, "S3/S4: version %lu of generation %u is visible with two histories", v, g);
    if (w->visible[g][v] != n)
        trace(w, "visible: version %lu generation %u", v, g);
    w->visible[g][v] = n;
    n->visible = true;
}

void truth_committed(struct world *w, const struct record *r)
{
    if (RULE_TELL)
        return;
    /* As if the coordinator told the world: then nothing may take the record back. */
    if (r->generation < SIM_GENERATIONS && r->round < SIM_ROUNDS) {
        if (w->was_told[r->generation][r->round] && !truth_same_record(&w->told[r->generation][r->round], r))
            violate(w, "S3: round %lu was told to gangs and then committed anew", r->round);
        w->told[r->generation][r->round] = *r;
        w->was_told[r->generation][r->round] = true;
    }
}

/* S7: whoever may become primary can apply what is committed. */
void truth_check_holders(struct world *w, const struct core *core, const struct record *record)
{
    const struct view *v = core_view(core);
    for (unsigned s = 0; s < v->shard_count; s++)
        for (unsigned i = 0; i < v->shard[s].copy_count; i++) {
            unsigned slot = v->shard[s].copy[i].slot;
            if (v->shard[s].copy[i].role != COPY_PRIMARY && v->shard[s].copy[i].role != COPY_SYNC)
                continue;
            struct proc *p = w->k.embedded ? proc_find(w, ROLE_WORKER, 0, 0, v->slot[slot].instance)
                                           : proc_find(w, ROLE_PS, v->slot[slot].site, (uint16_t)slot, v->slot[slot].instance);
            for (unsigned h = 0; p && h < p->host_count; h++) {
                const struct shard *sh = p->host[h]->core;
                if (p->host[h]->shard != s || p->host[h]->slot != slot || shard_generation(sh) != v->generation)
                    continue;
                bool ok = sh->version > record->round || (sh->version == record->round && names_hold_cover(sh, record->cover, record->cover_count));
                if (!ok)
                    violate(w, "S7: the in-sync copy of shard %u at slot %u lacks contributions of committed round %lu", s, slot, record->round);
            }
        }
}

/* ---- generations and checkpoints ---- */
struct node *truth_base(struct world *w, uint32_t generation)
{
    return generation < SIM_GENERATIONS ? w->base[generation].node : NULL;
}

static struct node *visible_at(struct world *w, uint32_t generation, uint64_t version)
{
    return generation < SIM_GENERATIONS && version <= SIM_ROUNDS ? w->visible[generation][version] : NULL;
}

void truth_view(struct world *w, const struct view *v)
{
    if (v->generation >= SIM_GENERATIONS || w->base[v->generation].generation)
        return;
    struct node *n = v->base_from == BASE_SEED ? w->root : visible_at(w, v->base_generation, v->base);
    w->base[v->generation].generation = v->generation;
    w->base[v->generation].base = v->base;
    w->base[v->generation].node = n;
    if (!n || n->version != v->base)
        violate(w, "S3: generation %u starts at version %lu of generation %u, which nobody ever saw", v->generation, v->base, v->base_generation);
}

/* Commits of the log in force, by round; false when one is missing. */
static bool history_of(const struct world *w, size_t entries, const struct record *out[SIM_ROUNDS], uint64_t *rounds)
{
    uint32_t generation = 0;
    *rounds = 0;
    for (size_t i = 0; i < entries; i++) {
        const struct log_entry *e = &w->log.entry[i];
        if (e->kind == LOG_VIEW && e->u.view.generation != generation) {
            generation = e->u.view.generation;
            if (e->u.view.base > *rounds)
                return false;
            *rounds = e->u.view.base;
        }
        if (e->kind == LOG_COMMIT) {
            if (e->u.record.round != *rounds || *rounds >= SIM_ROUNDS)
                return false;
            out[(*rounds)++] = &e->u.record;
        }
    }
    return true;
}

void truth_checkpoint(struct world *w, const struct checkpoint_entry *e)
{
    const struct record *history[SIM_ROUNDS];
    uint64_t rounds;
    struct node *n = visible_at(w, e->generation, e->step);
    if (!history_of(w, w->log.durable, history, &rounds) || rounds < e->step) {
        violate(w, "I2: checkpoint of step %lu is decided, but the synced log ends at %lu", e->step, rounds);
        return;
    }
    if (!n) {
        violate(w, "I1: checkpoint of step %lu generation %u is of a version that nobody saw", e->step, e->generation);
        return;
    }
    for (struct node *a = n; a->parent; a = a->parent)
        if (!truth_same_record(history[a->version - 1], &a->record))
            violate(w, "I1: checkpoint of step %lu holds a history that the log annulled (round %lu)", e->step, a->version - 1);
    for (unsigned s = 0; s < w->k.shards; s++) {
        uint64_t d = 3;
        for (unsigned b = 0; b < w->k.shard_blocks[s]; b++)
            d = hash2(d, n->w[w->k.shard_first[s] + b]);
        if (memcmp(e->part[s].sha256, &d, sizeof d) != 0)
            violate(w, "I1: part %u of checkpoint %lu does not belong to its history", s, e->step);
    }
}

static void check_ledger(struct world *w)
{
    const struct record *history[SIM_ROUNDS];
    uint64_t rounds, per_pass = (w->k.samples + w->k.batch - 1) / w->k.batch;
    if (!history_of(w, w->log.count, history, &rounds)) {
        violate(w, "I4: the log has a gap");
        return;
    }
    if (rounds != w->k.rounds)
        violate(w, "L1: the log ends at round %lu of %u", rounds, w->k.rounds);
    for (uint64_t r = 0; r < rounds; r++)
        if (history[r]->pass != r / per_pass || history[r]->first != r % per_pass * w->k.batch || history[r]->count != round_count(w, r))
            violate(w, "I4: round %lu has the wrong samples", r);
    struct node *last = NULL;
    for (unsigned g = 0; g < SIM_GENERATIONS; g++)
        if (w->visible[g][w->k.rounds])
            last = w->visible[g][w->k.rounds];
    for (struct node *n = last; n && n->parent; n = n->parent)
        if (!truth_same_record(history[n->version - 1], &n->record))
            violate(w, "I4: the log's round %lu is not the one that was applied", n->version - 1);
}

static bool annulled(const struct world *w, uint32_t generation, uint64_t version)
{
    for (uint32_t g = generation + 1; g < SIM_GENERATIONS; g++)
        if (w->base[g].generation && w->base[g].base < version)
            return true;
    return false;
}

static void check_oracle(struct world *w, const struct node *last)
{
    uint64_t weights[SIM_BLOCKS];
    memcpy(weights, w->root->w, sizeof weights);
    for (uint64_t r = 0; r < w->k.rounds; r++) {
        uint64_t digest = truth_digest(w, weights), sum[SIM_BLOCKS] = {0};
        double norm = 0;
        for (unsigned b = 0; b < w->k.blocks; b++) {
            for (unsigned l = 0; l < w->k.lanes; l++)
                sum[b] += truth_lane(w, digest, r, l, b, 0);
            norm += truth_norm2(sum[b]);
        }
        double factor = 1000.0 / (sqrt(norm) / round_count(w, r) + 1e-6);
        struct phases phases = truth_phases(w);
        struct record record = {.lr = 1.0f / (float)(r + 1), .clip = factor < 1 ? (float)factor : 1.0f, .flags = phases_masked(&phases, r) ? RECORD_MASKED : 0,
                                .threshold = threshold_of(w, weights, phases_ramp(&phases, r))};
        for (unsigned b = 0; b < w->k.blocks; b++)
            weights[b] = truth_mix(b, weights[b], sum[b], &record);
    }
    if (memcmp(weights, last->w, w->k.blocks * sizeof weights[0]) != 0)
        violate(w, "I6: the final weights differ from those of a run without faults");
}

/* What was trained before pruning can still be told, and what was to be zero is. */
static void check_phases(struct world *w, const struct node *last)
{
    unsigned train = w->k.rounds - w->k.prune_rounds, total = 0, zero = 0;
    if (!w->k.prune_rounds)
        return;
    if (!w->kept[train])
        violate(w, "I14: the checkpoint of step %u, where phase train ends, was never published", train);
    for (unsigned b = 0; b < w->k.blocks; b++) {
        total += truth_prunable(b);
        zero += truth_prunable(b) && last->w[b] == 0;
    }
    if ((double)zero < w->k.sparsity * total)
        violate(w, "I14: %u of %u prunable weights are zero at the end, %.2f of them should be", zero, total, w->k.sparsity);
}

void truth_end(struct world *w)
{
    struct node *last = NULL;
    uint32_t generation = 0;
    for (uint32_t g = 0; g < SIM_GENERATIONS; g++)
        if (w->visible[g][w->k.rounds]) {
            last = w->visible[g][w->k.rounds];
            generation = g;
        }
    if (!last) {
        violate(w, "L1: the run ended, but nobody saw the last version");
        return;
    }
    check_ledger(w);
    check_phases(w, last);
    for (uint32_t g = 0; g < SIM_GENERATIONS; g++)
        for (uint64_t v = 0; v <= w->k.rounds; v++) {
            struct node *n = w->visible[g][v], *a = last;
            while (a && a != n)
                a = a->parent;
            if (n && !a && !annulled(w, g, v))
                violate(w, "S3: version %lu of generation %u was visible and is lost without a rollback", v, g);
        }
    (void)generation;
    if (w->k.deterministic)
        check_oracle(w, last);
}
