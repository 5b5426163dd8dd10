/* Rounds: from reports of all shards to one commit record (rules 3, 4 and 10). */
#include "coordinator/core_private.h"

#include <math.h>
#include <string.h>

/* ---- the ledger: which samples a round holds is a function of its number ---- */
static uint64_t rounds_per_pass(const struct core *c)
{
    return (c->plan.samples_per_pass + c->plan.batch - 1) / c->plan.batch;
}

/* A pass ends with its own short round: whole passes count their rounds, only a broken one is cut. */
static uint64_t rounds_of_epochs(const struct core *c, double epochs)
{
    double whole = floor(epochs), part = epochs - whole;
    uint64_t rounds = (uint64_t)whole * rounds_per_pass(c) + (uint64_t)ceil(part * (double)rounds_per_pass(c));
    return rounds ? rounds : 1;
}

static void plan_phases(struct core *c)
{
    struct phases *p = &c->plan.phases;
    uint64_t end = c->config.steps ? c->config.steps : rounds_of_epochs(c, c->config.epochs);
    p->count = 0;
    p->at[p->count++] = (struct phase){PHASE_TRAIN, end};
    if (c->config.prune_epochs > 0)
        p->at[p->count++] = (struct phase){PHASE_PRUNE, end + rounds_of_epochs(c, c->config.prune_epochs)};
    c->plan.rounds = p->at[p->count - 1].end;
}

void rounds_fill_plan(struct core *c, const struct msg_join *m, struct core_out *out)
{
    if (c->plan.layout_hash == 0) {
        if (m->samples_per_pass == 0 || m->layout_hash == 0 || c->plan.batch == 0) {
            core_refuse(c, out, m->who.site, "rank %u of site %s declared a model or data set that is empty", m->who.index, c->plan.site_name[m->who.site]);
            return;
        }
        c->plan.layout_hash = m->layout_hash;
        c->plan.samples_per_pass = m->samples_per_pass;
        plan_phases(c);
        struct log_entry entry = {.kind = LOG_JOB, .u.job = c->plan};
        core_append(c, out, &entry, true);
        core_act(out, CORE_SEND_PLAN);
        return;
    }
    if (m->layout_hash != c->plan.layout_hash)
        core_refuse(c, out, m->who.site, "rank %u of site %s has another model (layout %016llx) than the run (layout %016llx): every site needs the same spec and program",
                     m->who.index, c->plan.site_name[m->who.site], (unsigned long long)m->layout_hash, (unsigned long long)c->plan.layout_hash);
    else if (m->samples_per_pass != c->plan.samples_per_pass)
        core_refuse(c, out, m->who.site, "rank %u of site %s sees %llu samples, the run has %llu: every site needs the same data",
                     m->who.index, c->plan.site_name[m->who.site], (unsigned long long)m->samples_per_pass, (unsigned long long)c->plan.samples_per_pass);
}

/* ---- the log's end in memory ---- */
void rounds_replay(struct core *c, const struct record *record, uint64_t position)
{
    c->ring[record->round % RING_ROUNDS].record = *record;
    c->ring[record->round % RING_ROUNDS].position = position;
    c->round = record->round + 1;
    if (c->round - c->ring_first > RING_ROUNDS)
        c->ring_first = c->round - RING_ROUNDS;
}

void rounds_reset(struct core *c, uint64_t base)
{
    c->round = c->synced_round = c->ring_first = base;
    memset(c->report, 0, sizeof c->report);
    memset(&c->asked, 0, sizeof c->asked);
}

void rounds_synced(struct core *c, uint64_t position)
{
    if (position > c->synced_position)
        c->synced_position = position;
    while (c->synced_round < c->round) {
        uint64_t r = c->synced_round;
        if (r >= c->ring_first && c->ring[r % RING_ROUNDS].position >= c->synced_position)
            break;
        c->synced_round++;
    }
}

static const struct record *ring_at(const struct core *c, uint64_t round)
{
    return round >= c->ring_first && round < c->round ? &c->ring[round % RING_ROUNDS].record : NULL;
}

static uint8_t primary_slot(const struct core *c, unsigned shard)
{
    const struct view_shard *vs = &c->view.shard[shard];
    for (unsigned i = 0; i < vs->copy_count; i++)
        if (vs->copy[i].role == COPY_PRIMARY)
            return vs->copy[i].slot;
    return UINT8_MAX;
}

/* Rule 2: the record keeps its own view and generation; only the envelope speaks of now. */
static void send_records_to(struct core *c, struct core_out *out, unsigned shard, uint8_t slot, uint64_t from)
{
    struct core_action *a = core_act(out, CORE_SEND_COMMIT);
    struct msg_commit *m = &a->u.commit;
    a->to = view_slot_process(c, slot);
    m->view = c->view.number;
    m->generation = c->view.generation;
    m->shard = (uint8_t)shard;
    m->synced = c->synced_round;
    m->record_count = 0;
    for (uint64_t r = from; r < c->round && m->record_count < RECORDS_LIMIT; r++)
        m->record[m->record_count++] = *ring_at(c, r);
}

/* Rule 1: to the primary, which passes them on in order. */
static void send_records(struct core *c, struct core_out *out, unsigned shard, uint64_t from)
{
    const struct view_shard *vs = &c->view.shard[shard];
    for (unsigned i = 0; i < vs->copy_count && from >= c->ring_first; i++)
        if (vs->copy[i].role == COPY_PRIMARY || (!RULE_CHAIN && vs->copy[i].role == COPY_SYNC))
            send_records_to(c, out, shard, vs->copy[i].slot, from);
}

/* ---- covers ---- */
static bool same_cover(const struct name *a, uint16_t a_count, const struct name *b, uint16_t b_count)
{
    if (a_count != b_count)
        return false;
    for (uint16_t i = 0; i < a_count; i++)
        if (!lane_range_eq(a[i].lanes, b[i].lanes) || a[i].attempt != b[i].attempt)
            return false;
    return true;
}

static bool shard_holds(const struct shard_report *r, const struct name *name)
{
    for (uint16_t i = 0; i < r->name_count; i++)
        if (lane_range_eq(r->name[i].lanes, name->lanes) && r->name[i].attempt == name->attempt)
            return true;
    return false;
}

static bool all_hold(const struct core *c, const struct name *name)
{
    for (unsigned s = 0; s < c->view.shard_count; s++)
        if (!shard_holds(&c->report[s], name))
            return false;
    return true;
}

/* The coarsest exact cover out of names that every shard holds, the newest attempt of each. */
static bool joint_cover(const struct core *c, struct lane_range node, struct name out[COVER_LIMIT], uint16_t *count)
{
    const struct shard_report *r = &c->report[0];
    const struct name *best = NULL;
    for (uint16_t i = 0; i < r->name_count; i++)
        if (lane_range_eq(r->name[i].lanes, node) && (!best || r->name[i].attempt > best->attempt) && all_hold(c, &r->name[i]))
            best = &r->name[i];
    if (best) {
        out[(*count)++] = *best;
        return true;
    }
    if (node.hi - node.lo < 2)
        return false;
    uint16_t mid = (uint16_t)((node.lo + node.hi) / 2);
    return joint_cover(c, (struct lane_range){node.lo, mid}, out, count) && joint_cover(c, (struct lane_range){mid, node.hi}, out, count);
}

static bool covers_agree(const struct core *c)
{
    for (unsigned s = 1; RULE_SUM && s < c->view.shard_count; s++)
        if (!same_cover(c->report[0].cover, c->report[0].cover_count, c->report[s].cover, c->report[s].cover_count))
            return false;
    return c->report[0].cover_count > 0;
}

static void ask_for_one_cover(struct core *c, struct core_out *out)
{
    struct name cover[COVER_LIMIT];
    uint16_t count = 0;
    if (!joint_cover(c, (struct lane_range){0, c->plan.lanes}, cover, &count))
        return;
    bool asked = c->asked.view == c->view.number && c->asked.version == c->round && same_cover(c->asked.cover, c->asked.cover_count, cover, count);
    if (asked)
        return;
    c->asked = (struct msg_sum){.view = c->view.number, .generation = c->view.generation, .version = c->round, .cover_count = count};
    memcpy(c->asked.cover, cover, count * sizeof cover[0]);
    for (unsigned s = 0; s < c->view.shard_count; s++) {
        struct core_action *a = core_act(out, CORE_SEND_SUM);
        a->to = view_slot_process(c, primary_slot(c, s));
        a->u.sum = c->asked;
        a->u.sum.shard = (uint8_t)s;
    }
}

/* ---- commit ---- */
static bool sum_is_sound(struct core *c, struct core_out *out, uint32_t count)
{
    unsigned long long step = (unsigned long long)c->round + 1;
    for (unsigned s = 0; s < c->view.shard_count; s++) {
        const struct shard_report *r = &c->report[s];
        if (r->nonfinite > 0 && RULE_FINITE) {
            core_diverge(c, out, "step %llu: the gradient of block %u is not finite (%llu values, lanes 0-%u): start anew with a lower learning rate or with clipping",
                         step, r->nonfinite_block, (unsigned long long)r->nonfinite, c->plan.lanes - 1u);
            return false;
        }
        if ((r->totals.nonfinite > 0 || !isfinite(r->totals.loss_sum)) && RULE_FINITE) {
            core_diverge(c, out, "step %llu: the loss is not finite (lanes 0-%u): start anew with a lower learning rate, or look at the data", step, c->plan.lanes - 1u);
            return false;
        }
        if (r->totals.samples != count) {
            core_give_up(c, out, "step %llu: the contributions hold %llu samples, the step has %u: the run's history has split, resume from a checkpoint",
                         step, (unsigned long long)r->totals.samples, count);
            return false;
        }
    }
    return true;
}

static double mean_norm(const struct core *c, uint32_t count)
{
    double sum = 0;
    for (unsigned s = 0; s < c->view.shard_count; s++)
        for (uint32_t b = 0; b < c->norm_count[s]; b++)
            sum += c->norm2[c->norm_first[s] + b];
    return sqrt(sum) / count;
}

/* What phase prune adds to a record: at ramp rounds the threshold that the weights of all shards say together. */
static void add_mask(const struct core *c, struct record *r)
{
    const uint32_t *bins[SHARDS_LIMIT];
    double share = phases_ramp(&c->plan.phases, r->round);
    if (phases_masked(&c->plan.phases, r->round))
        r->flags |= RECORD_MASKED;
    for (unsigned s = 0; s < c->view.shard_count; s++)
        bins[s] = c->bins[s];
    if (share > 0)
        r->threshold = magnitude_threshold(bins, c->view.shard_count, share);
}

static void make_record(struct core *c, struct record *r)
{
    uint64_t in_pass = c->round % rounds_per_pass(c);
    uint64_t left;
    *r = (struct record){.round = c->round, .generation = c->view.generation, .view = c->view.number, .clip = 1};
    r->pass = (uint32_t)(c->round / rounds_per_pass(c));
    r->first = in_pass * c->plan.batch;
    left = c->plan.samples_per_pass - r->first;
    r->count = left < c->plan.batch ? (uint32_t)left : c->plan.batch;
    r->lr = c->config.lr(c->config.lr_arg, &c->plan.phases, c->round);
    r->norm = mean_norm(c, r->count);
    if (c->plan.clip > 0) {
        double factor = c->plan.clip / (r->norm + 1e-6);     /* as PyTorch's clip_grad_norm_ */
        r->clip = factor < 1 ? (float)factor : 1.0f;
    }
    add_mask(c, r);
    bool last = c->round + 1 == c->plan.rounds;
    bool stop = c->stopping && c->stop_step == UINT64_MAX;
    if (phases_end(&c->plan.phases, c->round + 1) || stop || (c->plan.checkpoint_every && (c->round + 1) % c->plan.checkpoint_every == 0))
        r->flags |= RECORD_CHECKPOINT;
    if (last)
        r->flags |= RECORD_LAST;
    r->totals = c->report[0].totals;
    r->cover_count = c->report[0].cover_count;
    memcpy(r->cover, c->report[0].cover, r->cover_count * sizeof r->cover[0]);
}

static void take(struct core *c, struct core_out *out, const struct record *record)
{
    struct log_entry entry = {.kind = LOG_COMMIT, .u.record = *record};
    uint64_t position = c->position;
    core_append(c, out, &entry, false);
    rounds_replay(c, record, position);
    core_act(out, CORE_COMMITTED)->u.record = *record;
    visitors_work(c, out, record);
    c->rollbacks = 0;
    for (unsigned i = 0; i < SITES_LIMIT; i++)
        c->gang[i].relaunches = 0;
    for (unsigned i = 0; i < SLOTS_LIMIT; i++)
        c->slot[i].relaunches = 0;
    if (c->stopping && c->stop_step == UINT64_MAX && (record->flags & RECORD_CHECKPOINT))
        c->stop_step = c->round;
}

void rounds_commit(struct core *c, struct core_out *out)
{
    if (!c->started || core_over(c) || c->plan.rounds == 0 || c->round >= c->plan.rounds)
        return;
    if ((c->stopping && c->round >= c->stop_step) || (RULE_AHEAD && c->round - c->synced_round >= UNSYNCED_LIMIT) || !ckpt_phase_saved(c))
        return;
    bool ramp = phases_ramp(&c->plan.phases, c->round) > 0;
    for (unsigned s = 0; s < c->view.shard_count; s++) {
        const struct shard_report *r = &c->report[s];
        if (!r->have || r->version != c->round || r->cover_count == 0 || (ramp && !r->have_bins))
            return;
    }
    if (!covers_agree(c)) {
        ask_for_one_cover(c, out);
        return;
    }
    struct record record;
    make_record(c, &record);
    if (!sum_is_sound(c, out, record.count))
        return;
    take(c, out, &record);
    for (unsigned s = 0; s < c->view.shard_count; s++)
        send_records(c, out, s, c->round - 1);
}

/* ---- reports ---- */
static bool same_record(const struct record *a, const struct record *b)
{
    return a->round == b->round && a->generation == b->generation && a->view == b->view && a->count == b->count && a->first == b->first &&
           a->pass == b->pass && memcmp(&a->lr, &b->lr, sizeof a->lr) == 0 && memcmp(&a->clip, &b->clip, sizeof a->clip) == 0 &&
           a->flags == b->flags && memcmp(&a->threshold, &b->threshold, sizeof a->threshold) == 0 &&
           same_cover(a->cover, a->cover_count, b->cover, b->cover_count);
}

/* Rule 3: what a shard knows and the log lacks goes into the log first. */
static bool complete_log(struct core *c, struct core_out *out, const struct msg_prepared *m)
{
    for (uint8_t i = 0; i < m->record_count; i++) {
        const struct record *theirs = &m->record[i], *ours = ring_at(c, theirs->round);
        if (ours && !same_record(ours, theirs) && RULE_DIFFER) {
            core_give_up(c, out, "shard %u holds another record of round %llu than the log: the run's history has split, resume from a checkpoint",
                         m->shard, (unsigned long long)theirs->round);
            return false;
        }
        if (!ours && theirs->round == c->round && RULE_RECOV && (theirs->generation == c->view.generation || !RULE_GENREC))
            take(c, out, theirs);
    }
    if (m->version > c->round && RULE_RECOV) {
        core_give_up(c, out, "shard %u is at version %llu but the log ends at %llu: a log of another run, or one that lost more than its unsynced end; resume from a checkpoint",
                     m->shard, (unsigned long long)m->version, (unsigned long long)c->round);
        return false;
    }
    return true;
}

static void keep_norms(struct core *c, const struct msg_prepared *m, const double *norms2)
{
    unsigned s = m->shard;
    if (m->cover_count == 0)
        return;
    if (c->norm_count[s] == 0) {
        if (m->norm_count > LAYOUT_BLOCKS_MAX - c->norm_used)
            return;
        c->norm_first[s] = c->norm_used;
        c->norm_count[s] = m->norm_count;
        c->norm_used += m->norm_count;
    }
    if (m->norm_count == c->norm_count[s] && m->norm_count > 0)
        memcpy(c->norm2 + c->norm_first[s], norms2, m->norm_count * sizeof *norms2);
}

static void keep_bins(struct core *c, const struct msg_prepared *m, const uint32_t *bins)
{
    struct shard_report *r = &c->report[m->shard];
    bool whole = m->bin_count == MAGNITUDE_BINS;
    for (unsigned i = 0; whole && i < MAGNITUDE_BINS; i++)
        c->bins[m->shard][i] = bins[i] + (!RULE_HIST && r->have_bins ? c->bins[m->shard][i] : 0);
    r->have_bins = whole;
}

static bool asked_for(const struct core *c, uint64_t version) { return c->asked.version == version && c->asked.view == c->view.number; }

/* A report made before SUM came must not undo the answer to it. */
static bool undoes_sum(const struct core *c, const struct shard_report *r, const struct msg_prepared *m)
{
    return asked_for(c, m->version) && r->have && r->version == m->version &&
           same_cover(r->cover, r->cover_count, c->asked.cover, c->asked.cover_count) &&
           !same_cover(m->cover, m->cover_count, c->asked.cover, c->asked.cover_count);
}

void rounds_report(struct core *c, struct core_out *out, const struct msg_prepared *m, const double *norms2, const uint32_t *bins)
{
    struct shard_report *r = &c->report[m->shard];
    if (!complete_log(c, out, m))
        return;
    if (r->have && m->version < r->version)
        return;                            /* overtaken on the way */
    if (m->version < c->round && (RULE_BEHIND || !undoes_sum(c, r, m))) {
        r->have = true;
        r->version = m->version;
        r->cover_count = 0;
        send_records(c, out, m->shard, m->version);
        return;
    }
    if (undoes_sum(c, r, m))
        return;
    r->have = true;
    r->version = m->version;
    r->name_count = m->name_count;
    memcpy(r->name, m->name, m->name_count * sizeof r->name[0]);
    r->cover_count = m->cover_count;
    memcpy(r->cover, m->cover, m->cover_count * sizeof r->cover[0]);
    r->totals = m->totals;
    r->nonfinite = m->nonfinite;
    r->nonfinite_block = m->nonfinite_block;
    keep_norms(c, m, norms2);
    keep_bins(c, m, bins);
    if (asked_for(c, m->version) && m->cover_count && !same_cover(m->cover, m->cover_count, c->asked.cover, c->asked.cover_count))
        memset(&c->asked, 0, sizeof c->asked);   /* SUM was lost: ask again */
    rounds_commit(c, out);
}
