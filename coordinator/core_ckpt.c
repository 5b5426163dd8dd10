/* Checkpoints: parts come in from the sites' writers; a decision is logged in one sync with the commits below it (rule 9). */
#include "coordinator/core_private.h"

#include <string.h>

void ckpt_remember(struct core *c, const struct checkpoint_entry *entry)
{
    if (c->decided_count == DECIDED_LIMIT) {
        memmove(c->decided, c->decided + 1, sizeof c->decided - sizeof c->decided[0]);
        c->decided_count--;
    }
    c->decided[c->decided_count++] = *entry;
    c->published_mask = c->refused_mask = 0;
    c->decided_ms = c->now_ms;
    c->durable = false;
}

void ckpt_forget_above(struct core *c, uint64_t base)
{
    while (c->decided_count > 0 && c->decided[c->decided_count - 1].step > base) {
        c->decided_count--;
        c->published_mask = c->refused_mask = 0;
        c->durable = false;
    }
}

static bool site_answers(const struct core *c, uint64_t site_mask)
{
    for (unsigned i = 0; i < c->plan.site_count; i++)
        if (site_mask >> i & 1 && c->agent[i].joined)
            return true;
    return false;
}

/* The newest that a site which answers has; when none answers, the newest. */
const struct checkpoint_entry *ckpt_for_rollback(const struct core *c)
{
    for (unsigned i = c->decided_count; i-- > 0;)
        if (site_answers(c, c->decided[i].site_mask))
            return &c->decided[i];
    return c->decided_count > 0 ? &c->decided[c->decided_count - 1] : NULL;
}

/* ---- parts ---- */
static struct open_checkpoint *open_for(struct core *c, uint64_t step, uint32_t generation)
{
    struct open_checkpoint *oldest = NULL, *free_one = NULL;
    for (unsigned i = 0; i < OPEN_LIMIT; i++) {
        struct open_checkpoint *o = &c->open[i];
        if (o->used && o->step == step && (o->generation == generation || !RULE_CKGEN))
            return o;
        if (!o->used)
            free_one = o;
        else if (!oldest || o->step < oldest->step)
            oldest = o;
    }
    struct open_checkpoint *o = free_one ? free_one : oldest;
    if (!free_one && o->step > step)
        return NULL;
    *o = (struct open_checkpoint){.used = true, .step = step, .generation = generation};
    return o;
}

static uint64_t full_sites(const struct core *c, const struct open_checkpoint *o)
{
    uint64_t all = c->view.shard_count >= 64 ? ~0ull : (1ull << c->view.shard_count) - 1, sites = 0;
    for (unsigned i = 0; i < c->plan.site_count; i++)
        if ((o->have[i] & all) == all)
            sites |= 1ull << i;
    return sites;
}

static void refuse_part(struct core *c, struct core_out *out, unsigned site, unsigned other, const struct msg_part *m)
{
    core_refuse(c, out, site, "checkpoint of step %llu: sites %s and %s wrote different parts of shard %u: one of them has damaged memory or disk",
                (unsigned long long)m->step, c->plan.site_name[other], c->plan.site_name[site], m->shard);
}

/* All copies of a version are the same bytes, and a site that stays says which: what visitors wrote before it is judged by it. False: the part does not count. */
static bool take_part(struct core *c, struct core_out *out, struct open_checkpoint *o, const struct msg_part *m)
{
    struct msg_part was = o->part[m->shard];
    uint64_t bit = 1ull << m->shard;
    bool known = o->known[m->shard], differs = known && (memcmp(was.sha256, m->sha256, sizeof m->sha256) != 0 || was.size_bytes != m->size_bytes);
    bool visitors_word = known && visiting(c, was.site);
    if (differs && visitors_word && visiting(c, m->site))
        return false;                     /* nobody knows yet which of the two is right */
    if (differs && !visitors_word) {
        refuse_part(c, out, m->site, was.site, m);
        return false;
    }
    for (unsigned i = 0; i < c->plan.site_count && differs; i++)
        if (o->have[i] & bit) {
            o->have[i] &= ~bit;
            refuse_part(c, out, i, m->site, m);
        }
    if (!known || (visitors_word && !visiting(c, m->site))) {
        o->known[m->shard] = true;
        o->part[m->shard] = *m;
    }
    return true;
}

void ckpt_part(struct core *c, struct core_out *out, const struct msg_part *m)
{
    if (m->site >= c->plan.site_count || m->shard >= c->view.shard_count || (RULE_CKGEN && m->generation != c->view.generation))
        return;
    if (c->decided_count > 0 && m->step <= c->decided[c->decided_count - 1].step)
        return;
    struct open_checkpoint *o = open_for(c, m->step, m->generation);
    if (!o)
        return;
    if (!take_part(c, out, o, m))
        return;
    o->have[m->site] |= 1ull << m->shard;
    ckpt_decide(c, out);
}

/* Sites whose parts are worth waiting for: they hold an in-sync copy of every shard. */
static uint64_t expected_sites(const struct core *c)
{
    uint64_t sites = ~0ull;
    for (unsigned s = 0; s < c->view.shard_count; s++) {
        uint64_t have = 0;
        for (unsigned i = 0; i < c->view.shard[s].copy_count; i++)
            if (view_in_sync(c->view.shard[s].copy[i].role))
                have |= 1ull << c->view.slot[c->view.shard[s].copy[i].slot].site;
        sites &= have;
    }
    return sites;
}

void ckpt_send(struct core *c, struct core_out *out)
{
    if (c->decided_count == 0 || c->decided[c->decided_count - 1].part_count == 0)
        return;
    core_act(out, CORE_SEND_MANIFEST)->u.checkpoint = c->decided[c->decided_count - 1];
}

static void decide(struct core *c, struct core_out *out, struct open_checkpoint *o, uint64_t sites)
{
    struct log_entry entry = {.kind = LOG_CHECKPOINT};
    struct checkpoint_entry *e = &entry.u.checkpoint;
    e->generation = o->generation;
    e->step = o->step;
    e->site_mask = sites;
    e->part_count = c->view.shard_count;
    memcpy(e->part, o->part, e->part_count * sizeof e->part[0]);
    core_append(c, out, &entry, RULE_CKLOG);
    ckpt_remember(c, e);
    for (unsigned i = 0; i < OPEN_LIMIT; i++)
        if (c->open[i].step <= e->step)
            c->open[i].used = false;
    ckpt_send(c, out);
}

void ckpt_decide(struct core *c, struct core_out *out)
{
    for (unsigned i = 0; i < OPEN_LIMIT && !core_over(c); i++) {
        struct open_checkpoint *o = &c->open[i];
        if (!o->used || (o->step > c->round && RULE_CKLOG))
            continue;
        uint64_t sites = full_sites(c, o), expected = expected_sites(c);
        if ((sites & ~(uint64_t)c->config.visiting) == 0)   /* a visitor takes its copy away with it */
            continue;
        if (!o->full) {
            o->full = true;
            o->full_since_ms = c->now_ms;
        }
        if ((expected & ~sites) == 0 || c->now_ms - o->full_since_ms >= PART_WAIT_MS)
            decide(c, out, o, sites);
    }
}

/* ---- manifests ---- */
static void settle_durable(struct core *c, struct core_out *out)
{
    const struct checkpoint_entry *e = &c->decided[c->decided_count - 1];
    unsigned there = (unsigned)__builtin_popcountll(c->published_mask), sites = (unsigned)__builtin_popcountll(e->site_mask);
    unsigned wanted = c->config.checkpoint_replicas < sites ? c->config.checkpoint_replicas : sites;
    bool all_answered = (e->site_mask & ~(c->published_mask | c->refused_mask)) == 0;
    bool waited = c->now_ms - c->decided_ms > c->config.relaunch_ms;
    bool stays = (c->published_mask & ~(uint64_t)c->config.visiting) != 0;   /* a visitor takes its copy away with it */
    if (c->durable || !stays || (there < wanted && !all_answered && !waited))
        return;
    c->durable = true;
    struct core_action *a = core_act(out, CORE_DURABLE);
    a->u.checkpoint = *e;
    a->u.checkpoint.site_mask = c->published_mask;
}

void ckpt_published(struct core *c, struct core_out *out, const struct msg_published *m)
{
    if (c->decided_count == 0 || m->site >= c->plan.site_count)
        return;
    const struct checkpoint_entry *e = &c->decided[c->decided_count - 1];
    if (m->step != e->step || m->generation != e->generation)
        return;
    if (m->ok) {
        c->published_mask |= 1ull << m->site;
        c->refused_mask &= ~(1ull << m->site);
    } else if (visiting(c, m->site) && !(e->site_mask >> m->site & 1)) {
        return;                               /* it had no whole copy, and nobody counts on one */
    } else {
        c->refused_mask |= 1ull << m->site;
        core_event(c, out, "checkpoint failed", (struct process_id){.role = ROLE_AGENT, .site = m->site}, "step %llu: %s", (unsigned long long)m->step, m->text);
        if ((e->site_mask & ~c->refused_mask & ~(uint64_t)c->config.visiting) == 0) {
            core_give_up(c, out, "checkpoint of step %llu could not be published at any site: %s", (unsigned long long)m->step, m->text);
            return;
        }
    }
    settle_durable(c, out);
}

void ckpt_tick(struct core *c, struct core_out *out)
{
    ckpt_decide(c, out);
    if (c->decided_count > 0)
        settle_durable(c, out);
}

bool ckpt_durable_at(const struct core *c, uint64_t step)
{
    return c->durable && c->decided_count > 0 && c->decided[c->decided_count - 1].step == step;
}

/* Later checkpoints may take the place of one whose manifest was never written, and its phase's last weights could not be told any more. A generation that starts
 * from that very checkpoint has it. */
bool ckpt_phase_saved(const struct core *c)
{
    bool begins = c->round > 0 && phases_end(&c->plan.phases, c->round);
    bool started_there = c->view.base_from == BASE_CHECKPOINT && c->view.base == c->round;
    return !RULE_PHASE || !begins || started_there || ckpt_durable_at(c, c->round);
}
