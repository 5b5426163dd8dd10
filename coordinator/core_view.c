/* Membership: who holds what, who is dead, who gets which lanes, and when history rolls back (rules 6, 7, 8 and 11).
 * Events change `next`; view_settle logs it as a new view and only then shows it to anyone. */
#include "coordinator/core_private.h"

#include <stdio.h>
#include <string.h>

#include "base/base.h"

bool view_in_sync(uint8_t role) { return role == COPY_PRIMARY || role == COPY_SYNC; }

struct process_id view_slot_process(const struct core *c, unsigned slot)
{
    const struct view_slot *s = &c->view.slot[slot];
    return (struct process_id){.role = c->plan.embedded ? ROLE_WORKER : ROLE_PS, .site = s->site, .index = (uint16_t)slot, .instance = s->instance};
}

static struct process_id gang_process(const struct core *c, unsigned site)
{
    return (struct process_id){.role = ROLE_WORKER, .site = (uint8_t)site, .instance = c->next.gang[site].incarnation};
}

/* After the last round nobody computes; but embedded shards live in the ranks until the last checkpoint is decided. */
bool gang_needed(const struct core *c)
{
    if (c->phase != CORE_FINISHING)
        return true;
    return c->plan.embedded && (c->decided_count == 0 || c->decided[c->decided_count - 1].step < c->round);
}

bool gang_whole(const struct core *c, unsigned site)
{
    uint16_t ranks = c->next.gang[site].ranks;
    return ranks > 0 && (uint64_t)__builtin_popcountll(c->gang[site].joined) >= ranks;
}

/* Lanes go to a gang that is whole. To one of a visiting site when its ranks reach all primaries too, so that a round waits for one transfer of the weights,
 * as each later one does over that link, and for no dialling; and with a commit, so that no gang is computing with others and what it pulls stays the newest. */
void gang_unpark(struct core *c, unsigned site)
{
    struct gang_state *g = &c->gang[site];
    bool ready = !visiting(c, site) || (g->ready_ms && (c->committed_ms == c->now_ms || c->now_ms - g->ready_ms >= LANES_WAIT_MS));
    if (!g->parked || !gang_whole(c, site) || !ready)
        return;
    g->parked = false;
    c->dirty = true;
}

/* ---- placement ---- */
static unsigned slots_at(const struct msg_plan *plan, unsigned site, uint8_t out[SLOTS_LIMIT])
{
    unsigned n = 0;
    for (unsigned s = 0; s < plan->slot_count; s++)
        if (plan->slot_site[s] == site)
            out[n++] = (uint8_t)s;
    return n;
}

/* Sites that hold copies, those that stay first. */
static unsigned homes_of(const struct core *c, uint8_t out[SITES_LIMIT])
{
    uint8_t slots[SLOTS_LIMIT];
    unsigned n = 0, want = MIN(c->config.copies ? c->config.copies : 1u, (unsigned)COPIES_LIMIT);
    for (unsigned pass = 0; pass < 2; pass++)
        for (unsigned i = 0; i < c->plan.site_count && n < want; i++)
            if (visiting(c, i) == (pass == 1) && slots_at(&c->plan, i, slots) > 0)
                out[n++] = (uint8_t)i;
    return n;
}

/* Shard s has its primary at slot s (mod slots) and a copy at each of the next sites. When fewer copies are wanted than sites have slots,
 * only the first sites hold copies: so each of them holds a whole model, and a checkpoint with it. The slots of visiting sites are the last ones, and
 * there are fewer shards than slots by as many: no primary starts there. */
static void place(struct core *c)
{
    uint8_t homes[SITES_LIMIT], slots[SLOTS_LIMIT];
    unsigned home_count = homes_of(c, homes), stay = 0;
    while (stay < c->plan.slot_count && !visiting(c, c->plan.slot_site[stay]))
        stay++;
    uint32_t used[SLOTS_LIMIT] = {0};
    for (unsigned s = 0; s < c->plan.shard_count; s++) {
        struct view_shard *vs = &c->next.shard[s];
        unsigned own = stay ? s % stay : 0, start = s % home_count;
        for (unsigned h = 0; h < home_count; h++)
            if (homes[h] == c->plan.slot_site[own])
                start = h;
        vs->copy_count = (uint8_t)home_count;
        for (unsigned k = 0; k < home_count; k++) {
            unsigned site = homes[(start + k) % home_count], n = slots_at(&c->plan, site, slots);
            uint8_t best = slots[0];
            for (unsigned j = 1; j < n; j++)
                if (used[slots[j]] < used[best])
                    best = slots[j];
            if (k == 0 && c->plan.slot_site[own] == site)
                best = (uint8_t)own;
            used[best]++;
            vs->copy[k].slot = best;
            vs->copy[k].role = k == 0 ? COPY_PRIMARY : visiting(c, site) ? COPY_NONE : COPY_SYNC;
        }
    }
}

static void place_embedded(struct core *c)
{
    for (unsigned s = 0; s < c->plan.shard_count; s++) {
        c->next.shard[s].copy_count = 1;
        c->next.shard[s].copy[0].slot = (uint8_t)s;
        c->next.shard[s].copy[0].role = COPY_PRIMARY;
    }
}

/* ---- generations ---- */
static void remember_base(struct core *c, uint32_t generation, uint64_t base)
{
    if (c->base_count == BASES_LIMIT) {
        memmove(c->bases, c->bases + 1, sizeof c->bases - sizeof c->bases[0]);
        c->base_count--;
    }
    c->bases[c->base_count++] = (struct rollback_base){generation, base};
}

static void base_from_checkpoint(struct core *c)
{
    const struct checkpoint_entry *e = ckpt_for_rollback(c);
    c->next.base = e ? e->step : 0;
    c->next.base_from = e ? BASE_CHECKPOINT : BASE_SEED;
    c->next.base_generation = e ? e->generation : 0;
}

/* A generation begins at next.base: everything in memory that was newer is void. */
static void begin_generation(struct core *c)
{
    remember_base(c, c->next.generation, c->next.base);
    rounds_reset(c, c->next.base);
    ckpt_forget_above(c, c->next.base);
    if (RULE_CKGEN)
        memset(c->open, 0, sizeof c->open);
    c->wants_ram_base = false;
    bool stop_is_safe = c->decided_count > 0 && c->decided[c->decided_count - 1].step >= c->stop_step;
    if (c->stopping && !stop_is_safe)
        c->stop_step = UINT64_MAX;
    c->end_ms = 0;
    if (c->phase == CORE_FINISHING)
        c->phase = CORE_RUNNING;
}

void view_first(struct core *c)
{
    struct view *v = &c->next;
    struct view old = c->view;
    memset(v, 0, sizeof *v);
    v->number = old.number;
    if (c->config.checkpoint.have && c->config.checkpoint.view > v->number)
        v->number = c->config.checkpoint.view;
    v->generation = old.generation;
    if (c->config.checkpoint.have && c->config.checkpoint.generation > v->generation)
        v->generation = c->config.checkpoint.generation;
    v->generation++;
    v->shard_count = c->plan.shard_count;
    v->slot_count = c->plan.slot_count;
    v->site_count = c->plan.site_count;
    c->view.number = v->number;
    uint32_t incarnation = 0;
    for (unsigned i = 0; i < SITES_LIMIT; i++)
        if (old.gang[i].incarnation > incarnation)
            incarnation = old.gang[i].incarnation;
    for (unsigned i = 0; i < v->site_count; i++) {
        v->gang[i] = c->config.gang[i];
        v->gang[i].incarnation = incarnation + 1;
        v->gang[i].wanted = v->gang[i].ranks > 0 && !visiting(c, i);
    }
    for (unsigned s = 0; s < v->slot_count; s++) {
        v->slot[s].site = c->plan.slot_site[s];
        v->slot[s].instance = c->plan.embedded ? incarnation + 1 : old.slot[s].instance + 1;
    }
    if (c->plan.embedded)
        place_embedded(c);
    else
        place(c);
    if (c->config.checkpoint.have) {
        struct checkpoint_entry e = {.generation = c->config.checkpoint.generation, .step = c->config.checkpoint.step, .site_mask = ~0ull};
        ckpt_forget_above(c, e.step);
        ckpt_remember(c, &e);
        c->durable = true;
    } else {
        c->decided_count = 0;
    }
    base_from_checkpoint(c);
    begin_generation(c);
    c->dirty = true;
}

void view_again(struct core *c)
{
    c->next = c->view;
    for (unsigned s = 0; s < c->next.slot_count; s++) {
        c->slot[s].offered = true;
        c->slot[s].deadline_ms = c->now_ms + c->config.lease_ms;
    }
    for (unsigned i = 0; i < c->next.site_count; i++) {
        c->gang[i].since_ms = c->now_ms;
        c->gang[i].patience_ms = c->config.lease_ms;
        c->gang[i].parked = c->next.gang[i].wanted && c->next.gang[i].lanes.lo == c->next.gang[i].lanes.hi &&
                            c->config.gang[i].lanes.lo != c->config.gang[i].lanes.hi;
    }
    c->wants_ram_base = c->plan.embedded && c->next.shard[0].copy[0].role == COPY_NONE;
    c->dirty = RULE_NEWVIEW;
}

/* Where the copies of a new generation may start: slots that are up; without any, all; where the checkpoint lies, if that leaves some. */
static void roll_back(struct core *c, struct core_out *out)
{
    struct view *v = &c->next;
    if (!v->generation || ++c->rollbacks > RELAUNCH_LIMIT) {
        core_give_up(c, out, "all copies of a shard were lost %d times without a step between them: look at the logs of the ps processes", RELAUNCH_LIMIT);
        return;
    }
    v->generation++;
    base_from_checkpoint(c);
    const struct checkpoint_entry *e = ckpt_for_rollback(c);
    uint64_t mask = e ? e->site_mask : ~0ull;
    for (unsigned s = 0; s < v->shard_count; s++) {
        struct view_shard *vs = &v->shard[s];
        for (unsigned pass = 0, chosen = 0; pass < 3 && !chosen; pass++)
            for (unsigned i = 0; i < vs->copy_count; i++) {
                unsigned slot = vs->copy[i].slot;
                bool fits = !visiting(c, v->slot[slot].site) && (pass == 2 || mask >> v->slot[slot].site & 1) && (pass > 0 || c->slot[slot].joined);
                vs->copy[i].role = !fits ? COPY_NONE : chosen++ ? COPY_SYNC : COPY_PRIMARY;
            }
        for (unsigned i = 0; i < vs->copy_count; i++)
            if (vs->copy[i].role == COPY_NONE && c->slot[vs->copy[i].slot].joined && !visiting(c, v->slot[vs->copy[i].slot].site))
                vs->copy[i].role = COPY_COPYING;
    }
    for (unsigned s = 0; s < v->slot_count; s++)
        c->slot[s].deadline_ms = c->now_ms + c->config.relaunch_ms;
    for (unsigned i = 0; i < v->site_count; i++)
        gang_died(c, out, i, false, "rollback");
    begin_generation(c);
    core_event(c, out, "rollback", (struct process_id){0}, "to step %llu, generation %u", (unsigned long long)v->base, v->generation);
    c->dirty = true;
}

/* ---- embedded shards: the gang is the shards ---- */
static bool ram_counts(const struct core *c, uint64_t version, uint32_t generation)
{
    if (!RULE_ROLLRAM)
        return version > 0;
    /* Nor the last version of a phase: its checkpoint is cut when it is made, and a generation that starts there does not make it. */
    if (version == 0 || version > c->round || generation > c->view.generation)
        return false;
    if (RULE_RAMEND && phases_end(&c->plan.phases, version))
        return false;
    bool known = false;
    for (unsigned i = 0; i < c->base_count; i++) {
        known = known || c->bases[i].generation == generation;
        if (c->bases[i].generation > generation && c->bases[i].base < version)
            return false;
    }
    return known;
}

/* The newest version that every rank's RAM segment holds whole; false: none. */
static bool ram_base(const struct core *c, uint64_t *version, uint32_t *generation)
{
    const struct gang_state *g = &c->gang[0];
    bool found = false;
    for (unsigned k = 0; k < 2; k++) {
        if (g->ram_version[0][k] == 0)
            continue;
        uint64_t v = g->ram_version[0][k] - 1;
        uint32_t gen = g->ram_generation[0][k];
        bool all = ram_counts(c, v, gen);
        for (unsigned r = 1; r < c->next.gang[0].ranks; r++)
            all = all && ((g->ram_version[r][0] == v + 1 && g->ram_generation[r][0] == gen) || (g->ram_version[r][1] == v + 1 && g->ram_generation[r][1] == gen));
        if (all && (!found || v > *version)) {
            *version = v;
            *generation = gen;
            found = true;
        }
    }
    return found;
}

static void roll_back_embedded(struct core *c, struct core_out *out)
{
    struct view *v = &c->next;
    uint64_t version = 0;
    uint32_t generation = 0;
    base_from_checkpoint(c);
    if (gang_whole(c, 0) && ram_base(c, &version, &generation) && version > v->base) {
        v->base = version;
        v->base_from = BASE_RAM;
        v->base_generation = generation;
    }
    v->generation++;
    place_embedded(c);
    begin_generation(c);
    core_event(c, out, "rollback", (struct process_id){0}, "to step %llu, generation %u", (unsigned long long)v->base, v->generation);
    c->dirty = true;
}

/* ---- deaths and joins ---- */
/* Nobody could dial a primary at a visiting site. */
static void promote_another(struct core *c, struct view_shard *vs)
{
    int best = -1;
    for (unsigned i = 0; i < vs->copy_count; i++)
        if ((vs->copy[i].role == COPY_SYNC || (!RULE_PROMOTE && vs->copy[i].role == COPY_COPYING)) && !visiting(c, c->next.slot[vs->copy[i].slot].site) &&
            (best < 0 || (c->slot[vs->copy[i].slot].joined && !c->slot[vs->copy[best].slot].joined)))
            best = (int)i;
    if (best >= 0)
        vs->copy[best].role = COPY_PRIMARY;
}

void slot_vacate(struct core *c, unsigned slot, uint32_t relaunches)
{
    struct view_slot *vslot = &c->next.slot[slot];
    c->slot[slot] = (struct slot_state){.relaunches = relaunches, .deadline_ms = c->now_ms + c->config.relaunch_ms};
    vslot->instance += RULE_NEWINST;
    vslot->up = false;
    c->dirty = true;
    for (unsigned s = 0; s < c->next.shard_count; s++) {
        struct view_shard *vs = &c->next.shard[s];
        for (unsigned i = 0; i < vs->copy_count; i++) {
            if (vs->copy[i].slot != slot)
                continue;
            bool was_primary = vs->copy[i].role == COPY_PRIMARY;
            vs->copy[i].role = COPY_NONE;
            if (was_primary)
                promote_another(c, vs);
        }
    }
}

void slot_died(struct core *c, struct core_out *out, unsigned slot, bool counts, const char *why)
{
    const struct view_slot *vslot = &c->next.slot[slot];
    uint32_t relaunches = c->slot[slot].relaunches + (counts ? 1 : 0);
    core_event(c, out, "dead", (struct process_id){.role = ROLE_PS, .site = vslot->site, .index = (uint16_t)slot, .instance = vslot->instance}, "%s", why);
    unsigned site = vslot->site;
    slot_vacate(c, slot, relaunches);
    if (relaunches > SLOT_RELAUNCH_LIMIT && visiting(c, site))
        send_away(c, out, site, STOP_FAILED, why);   /* a visitor whose processes keep dying fails nobody's job but its own */
    else if (relaunches > SLOT_RELAUNCH_LIMIT)
        core_give_up(c, out, "shard process %u died %u times without a step between them (last: %s): look at its log", slot, relaunches, why);
}

void gang_died(struct core *c, struct core_out *out, unsigned site, bool counts, const char *why)
{
    struct gang_state *g = &c->gang[site];
    uint32_t relaunches = g->relaunches + (counts ? 1 : 0);
    bool parked = g->parked;
    if (!c->next.gang[site].wanted)
        return;
    if (counts)
        core_event(c, out, "dead", gang_process(c, site), "%s", why);
    memset(g, 0, sizeof *g);
    g->relaunches = relaunches;
    g->parked = parked;
    g->since_ms = c->now_ms;
    g->patience_ms = c->config.relaunch_ms;
    snprintf(g->last_words, sizeof g->last_words, "%s", why);
    c->next.gang[site].incarnation++;
    c->dirty = true;
    if (c->plan.embedded && site == 0) {
        for (unsigned s = 0; s < c->next.slot_count; s++) {
            c->next.slot[s].instance = c->next.gang[0].incarnation;
            c->next.slot[s].up = false;
        }
        for (unsigned s = 0; s < c->next.shard_count; s++)
            c->next.shard[s].copy[0].role = COPY_NONE;
        c->wants_ram_base = true;
    }
    if (relaunches > RELAUNCH_LIMIT && visiting(c, site))
        send_away(c, out, site, STOP_FAILED, why);   /* a visitor whose processes keep dying fails nobody's job but its own */
    else if (relaunches > RELAUNCH_LIMIT)
        core_give_up(c, out, "the workers of site %s died %u times without a step between them (last: %s)", c->plan.site_name[site], relaunches, why);
}

void slot_joined(struct core *c, struct core_out *out, unsigned slot)
{
    bool role = false;
    c->next.slot[slot].up = true;
    for (unsigned s = 0; s < c->next.shard_count; s++) {
        struct view_shard *vs = &c->next.shard[s];
        for (unsigned i = 0; i < vs->copy_count; i++) {
            if (vs->copy[i].slot != slot)
                continue;
            role = true;
            if (vs->copy[i].role != COPY_NONE || visiting(c, c->next.slot[slot].site))
                continue;                 /* a visitor's copies wait until it works */
            vs->copy[i].role = COPY_COPYING;
            c->dirty = true;
        }
    }
    if (role && !c->dirty) {
        /* Others need its address; that changes nobody's role, so it is no new view. */
        c->view.slot[slot].up = true;
        core_act(out, CORE_SEND_VIEW);
    }
}

void view_promote(struct core *c, unsigned shard, uint8_t complete_mask)
{
    struct view_shard *vs = &c->next.shard[shard];
    for (unsigned i = 0; i < vs->copy_count; i++)
        if (vs->copy[i].role == COPY_COPYING && (complete_mask >> i & 1 || !RULE_COMPLETE)) {
            vs->copy[i].role = COPY_SYNC;
            c->dirty = true;
        }
}

/* ---- silence ---- */
static bool has_role(const struct core *c, unsigned slot)
{
    for (unsigned s = 0; s < c->next.shard_count; s++)
        for (unsigned i = 0; i < c->next.shard[s].copy_count; i++)
            if (c->next.shard[s].copy[i].slot == slot && c->next.shard[s].copy[i].role != COPY_NONE)
                return true;
    return false;
}

static void slot_lease(struct core *c, struct core_out *out, unsigned slot)
{
    struct slot_state *s = &c->slot[slot];
    if (s->joined && c->now_ms - s->heard_ms > c->config.lease_ms)
        slot_died(c, out, slot, true, "silent for longer than the lease");
    else if (!s->joined && c->now_ms > s->deadline_ms && (s->offered || has_role(c, slot)))
        slot_died(c, out, slot, false, "did not join in time");
}

static bool another_gang_works(const struct core *c, unsigned site)
{
    for (unsigned i = 0; i < c->next.site_count; i++)
        if (i != site && c->next.gang[i].wanted && !c->gang[i].parked && gang_whole(c, i))
            return true;
    return false;
}

static void gang_lease(struct core *c, struct core_out *out, unsigned site)
{
    struct gang_state *g = &c->gang[site];
    if (!c->next.gang[site].wanted || !gang_needed(c))
        return;
    for (unsigned r = 0; r < c->next.gang[site].ranks; r++)
        if (g->joined >> r & 1 && c->now_ms - g->heard_ms[r] > c->config.lease_ms) {
            gang_died(c, out, site, true, "silent for longer than the lease");
            return;
        }
    uint64_t age = c->now_ms - g->since_ms;
    if (gang_whole(c, site)) {
        gang_unpark(c, site);
        return;
    }
    if (age > g->patience_ms + c->config.relaunch_ms || (g->patience_ms < c->config.relaunch_ms && age > g->patience_ms))
        gang_died(c, out, site, g->patience_ms < c->config.relaunch_ms, "did not join in time");
    else if (age > g->patience_ms && !g->parked && another_gang_works(c, site)) {
        g->parked = true;
        c->dirty = true;
        core_event(c, out, "lanes moved", gang_process(c, site), "not back within %llu ms", (unsigned long long)g->patience_ms);
    }
}

/* This process itself was stopped or starved: what the others said meanwhile has not been read yet. */
void view_slept(struct core *c, uint64_t ms)
{
    for (unsigned i = 0; i < SITES_LIMIT; i++) {
        c->agent[i].heard_ms = MIN(c->agent[i].heard_ms + ms, c->now_ms);
        c->gang[i].since_ms = MIN(c->gang[i].since_ms + ms, c->now_ms);
        for (unsigned r = 0; r < LANES_MAX; r++)
            c->gang[i].heard_ms[r] = MIN(c->gang[i].heard_ms[r] + ms, c->now_ms);
    }
    for (unsigned s = 0; s < SLOTS_LIMIT; s++) {
        c->slot[s].heard_ms = MIN(c->slot[s].heard_ms + ms, c->now_ms);
        c->slot[s].deadline_ms += ms;
    }
}

void view_leases(struct core *c, struct core_out *out)
{
    for (unsigned i = 0; i < c->next.site_count; i++) {
        if (c->now_ms - c->agent[i].heard_ms <= c->config.lease_ms)
            continue;
        c->agent[i].joined = false;
        site_left(c, out, i, "silent for longer than the lease");
    }
    for (unsigned s = 0; s < c->next.slot_count && !c->plan.embedded && !core_over(c); s++)
        slot_lease(c, out, s);
    for (unsigned i = 0; i < c->next.site_count && !core_over(c); i++)
        gang_lease(c, out, i);
}

/* ---- lanes ---- */
/* As planned, while all sites that belong to the run work with the ranks they were planned with; else those that work share all lanes. */
static void plan_lanes(struct core *c)
{
    struct view *v = &c->next;
    uint32_t units[SITES_LIMIT] = {0};
    uint64_t working = 0;
    bool as_planned = true;
    for (unsigned i = 0; i < v->site_count; i++) {
        bool works = v->gang[i].wanted && !c->gang[i].parked;
        units[i] = works ? v->gang[i].ranks * MAX(c->config.threads[i], 1) : 0;
        if (works)
            as_planned = as_planned && v->gang[i].ranks == c->config.gang[i].ranks;
        else if (v->gang[i].wanted || visiting(c, i))
            as_planned = false;
        working += units[i];
    }
    bool shared = !as_planned && working > 0;
    if (shared && memcmp(units, c->cut.units, sizeof units) != 0) {
        memcpy(c->cut.units, units, sizeof units);
        lanes_over(c->plan.lanes, units, v->site_count, c->cut.lanes);
    }
    for (unsigned i = 0; i < v->site_count; i++) {
        struct lane_range range = shared ? c->cut.lanes[i] : c->config.gang[i].lanes;
        if (!lane_range_eq(range, v->gang[i].lanes)) {
            v->gang[i].lanes = range;
            c->dirty = true;
        }
    }
}

/* ---- one new view for all that an event changed ---- */
static bool copies_lost(const struct core *c)
{
    for (unsigned s = 0; s < c->next.shard_count; s++) {
        bool alive = false;
        for (unsigned i = 0; i < c->next.shard[s].copy_count; i++)
            alive = alive || (view_in_sync(c->next.shard[s].copy[i].role) && !visiting(c, c->next.slot[c->next.shard[s].copy[i].slot].site));
        if (!alive)
            return true;
    }
    return false;
}

void view_settle(struct core *c, struct core_out *out)
{
    if (!c->started || core_over(c))
        return;
    bool nothing_to_lose = c->phase == CORE_FINISHING && ckpt_durable_at(c, c->plan.rounds);
    if (!c->plan.embedded && !nothing_to_lose && copies_lost(c))
        roll_back(c, out);
    if (c->plan.embedded && c->wants_ram_base && (gang_whole(c, 0) || c->now_ms - c->gang[0].since_ms > c->config.relaunch_ms))
        roll_back_embedded(c, out);
    plan_lanes(c);
    if (!c->dirty || core_over(c))
        return;
    struct log_entry entry = {.kind = LOG_VIEW};
    c->dirty = false;
    c->next.number = c->view.number + 1;
    c->next.log_position = c->position;
    c->view = c->next;
    if (RULE_REPORT)
        memset(c->report, 0, sizeof c->report);
    memset(&c->asked, 0, sizeof c->asked);
    entry.u.view = c->view;
    core_append(c, out, &entry, RULE_VIEWSYNC);
    for (unsigned s = 0; s < c->view.slot_count; s++)
        if (c->agent[c->view.slot[s].site].joined && !c->slot[s].offered) {
            c->slot[s].offered = true;
            c->slot[s].deadline_ms = c->now_ms + c->config.relaunch_ms;
        }
    core_act(out, CORE_SEND_VIEW);
}
