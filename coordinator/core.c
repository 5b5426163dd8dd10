/* The coordinator's core: events, the beginning (replay, start) and the end (last checkpoint, export, stop). */
#include "coordinator/core_private.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"

/* ---- actions ---- */
struct core_action *core_act(struct core_out *out, enum core_action_kind kind)
{
    CHECK(out->count < CORE_ACTIONS_MAX);
    struct core_action *a = &out->action[out->count++];
    a->kind = kind;
    a->to = (struct process_id){0};
    return a;
}

void core_event(struct core *c, struct core_out *out, const char *kind, struct process_id who, const char *fmt, ...)
{
    struct core_action *a = core_act(out, CORE_EVENT);
    va_list args;
    snprintf(a->u.event.kind, sizeof a->u.event.kind, "%s", kind);
    a->u.event.who = who;
    a->u.event.step = c->round;
    va_start(args, fmt);
    vsnprintf(a->u.event.text, sizeof a->u.event.text, fmt, args);
    va_end(args);
}

void core_append(struct core *c, struct core_out *out, const struct log_entry *entry, bool sync)
{
    struct core_action *a = core_act(out, sync ? CORE_APPEND_SYNC : CORE_APPEND);
    a->u.entry = *entry;
    a->u.entry.position = c->position++;
    /* Later actions wait for this sync, and it covers what was appended before. */
    if (sync)
        rounds_synced(c, c->position);
}

bool core_over(const struct core *c) { return c->phase == CORE_DONE || c->phase == CORE_FAILED; }

static void end(struct core *c, struct core_out *out, enum stop_why why, const char *text)
{
    struct log_entry entry = {.kind = LOG_END};
    entry.u.end.why = (uint8_t)why;
    snprintf(entry.u.end.text, sizeof entry.u.end.text, "%s", text);
    core_append(c, out, &entry, true);
    core_act(out, CORE_SEND_STOP)->u.stop.why = (uint8_t)why;
    c->phase = why == STOP_FAILED ? CORE_FAILED : CORE_DONE;
    c->end_why = (uint8_t)why;
    c->end_ms = c->now_ms;
}

static void give_up(struct core *c, struct core_out *out, int code, const char *text)
{
    if (core_over(c))
        return;
    c->failure = code;
    end(c, out, STOP_FAILED, text);
    snprintf(core_act(out, CORE_FAIL)->u.text, TEXT_LIMIT, "%s", text);
}

void core_give_up(struct core *c, struct core_out *out, const char *fmt, ...)
{
    char text[TEXT_LIMIT];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    give_up(c, out, ERR_JOB, text);
}

void core_diverge(struct core *c, struct core_out *out, const char *fmt, ...)
{
    char text[TEXT_LIMIT];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    give_up(c, out, ERR_DIVERGED, text);
}

/* A site that visits ends nobody's job but its own. */
static void refuse(struct core *c, struct core_out *out, unsigned site, int code, const char *text)
{
    if (core_over(c))
        return;
    if (site < c->next.site_count && visiting(c, site))
        send_away(c, out, site, STOP_FAILED, text);
    else
        give_up(c, out, code, text);
}

void core_refuse(struct core *c, struct core_out *out, unsigned site, const char *fmt, ...)
{
    char text[TEXT_LIMIT];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    refuse(c, out, site, ERR_JOB, text);
}

int core_failure(const struct core *c) { return c->failure; }

/* ---- beginning ---- */
size_t core_size(void) { return (sizeof(struct core) + 15) & ~(size_t)15; }

struct core *core_init(void *memory, const struct core_config *config)
{
    struct core *c = memory;
    memset(c, 0, offsetof(struct core, norm2));
    c->config = *config;
    c->plan = config->plan;
    c->phase = CORE_RECOVERING;
    return c;
}

/* starts: the first view of a start. It begins from what lies on disk, and whose manifest is in place: with the words of an earlier start, so nobody writes it again. */
static void replay_view(struct core *c, const struct view *view, bool starts)
{
    bool newer = view->generation != c->view.generation;
    c->view = c->next = *view;
    if (!newer)
        return;
    rounds_reset(c, view->base);
    ckpt_forget_above(c, view->base);
    bool known = !starts && c->decided_count > 0 && c->decided[c->decided_count - 1].step == view->base;
    if (view->base_from == BASE_CHECKPOINT && !known) {
        struct checkpoint_entry e = {.generation = view->base_generation, .step = view->base, .site_mask = ~0ull};
        ckpt_remember(c, &e);
        c->durable = true;
    }
    if (c->base_count == BASES_LIMIT) {
        memmove(c->bases, c->bases + 1, sizeof c->bases - sizeof c->bases[0]);
        c->base_count--;
    }
    c->bases[c->base_count++] = (struct rollback_base){view->generation, view->base};
}

void core_replay(struct core *c, const struct log_entry *entry)
{
    c->position = entry->position + 1;
    c->ended = false;
    switch (entry->kind) {
    case LOG_JOB:
        if (!c->config.fresh)
            c->plan = entry->u.job;
        c->unstarted = entry->u.job.layout_hash == 0;
        break;
    case LOG_VIEW:
        replay_view(c, &entry->u.view, c->unstarted);
        c->unstarted = false;
        break;
    case LOG_COMMIT:
        if (entry->u.record.round == c->round)
            rounds_replay(c, &entry->u.record, entry->position);
        break;
    case LOG_CHECKPOINT:
        ckpt_remember(c, &entry->u.checkpoint);
        break;
    case LOG_END:
        c->ended = true;
        c->end_why = entry->u.end.why;
        snprintf(c->end_text, sizeof c->end_text, "%s", entry->u.end.text);
        break;
    }
}

void core_start(struct core *c, uint64_t now_ms, struct core_out *out)
{
    out->count = 0;
    c->now_ms = now_ms;
    c->started = true;
    c->decided_ms = now_ms;
    rounds_synced(c, c->position);
    if (c->ended && !c->config.fresh) {
        c->phase = c->end_why == STOP_FAILED ? CORE_FAILED : CORE_DONE;
        c->end_ms = now_ms;
        core_act(out, CORE_SEND_STOP)->u.stop.why = c->end_why;
        if (c->phase == CORE_FAILED && RULE_SAYFAIL)       /* the one that logged it may have died before it said so */
            snprintf(core_act(out, CORE_FAIL)->u.text, TEXT_LIMIT, "%s", c->end_text);
        return;
    }
    /* A start logs its plan, then its first view; one that died between them never showed anything to anyone. */
    bool first = c->config.fresh || c->view.number == 0 || c->unstarted;
    if (first) {
        struct log_entry entry = {.kind = LOG_JOB, .u.job = c->plan};
        if (RULE_PLANFIRST)
            core_append(c, out, &entry, true);
        view_first(c);
    } else {
        view_again(c);
    }
    for (unsigned s = 0; first && s < c->next.slot_count; s++)
        c->slot[s].deadline_ms = now_ms + c->config.relaunch_ms;
    for (unsigned i = 0; i < c->next.site_count; i++)
        c->agent[i].heard_ms = now_ms;
    for (unsigned i = 0; first && i < c->next.site_count; i++) {
        c->gang[i].since_ms = now_ms;
        c->gang[i].patience_ms = c->config.relaunch_ms;
    }
    view_settle(c, out);
}

/* ---- end ---- */
static bool gangs_finished(const struct core *c)
{
    for (unsigned i = 0; i < c->view.site_count; i++) {
        uint64_t linked = c->gang[i].linked & ~c->gang[i].finished;
        bool works = c->view.gang[i].lanes.lo < c->view.gang[i].lanes.hi;   /* one without lanes may pull nothing */
        if (c->view.gang[i].wanted && works && linked)
            return false;
    }
    return true;
}

static bool anyone_linked(const struct core *c)
{
    for (unsigned i = 0; i < c->view.site_count; i++)
        if (c->gang[i].linked || c->agent[i].joined)
            return true;
    for (unsigned s = 0; s < c->view.slot_count; s++)
        if (c->slot[s].linked)
            return true;
    return false;
}

/* A visitor may leave, and has no run directory that others read. */
uint8_t core_export_site(const struct core *c)
{
    uint8_t site = 0;
    while (visiting(c, site))
        site++;
    return site;
}

static void launch_export(struct core *c, struct core_out *out)
{
    const struct checkpoint_entry *e = &c->decided[c->decided_count - 1];
    uint8_t site = core_export_site(c);
    if (!c->agent[site].joined)
        return;
    if (!c->export_running)
        c->export_attempt++;
    c->export_running = true;
    struct core_action *a = core_act(out, CORE_SEND_LAUNCH);
    a->to = (struct process_id){.role = ROLE_AGENT, .site = site};
    a->u.launch = (struct msg_launch){.what = LAUNCH_EXPORT, .attempt = c->export_attempt, .step = e->step, .generation = e->generation};
}

static bool all_reported(const struct core *c)
{
    for (unsigned s = 0; s < c->view.shard_count; s++)
        if (!c->report[s].have)
            return false;
    return true;
}

static void progress(struct core *c, struct core_out *out)
{
    if (!c->started)
        return;
    if (core_over(c)) {
        bool left = !anyone_linked(c) || c->now_ms - c->end_ms >= LEAVE_WAIT_MS;
        if (c->phase == CORE_DONE && left && c->end_ms != UINT64_MAX) {
            core_act(out, CORE_DONE_RUN);
            c->end_ms = UINT64_MAX;
        }
        return;
    }
    if (c->phase == CORE_RECOVERING && all_reported(c))
        c->phase = c->stopping ? CORE_STOPPING : CORE_RUNNING;
    if (c->plan.rounds > 0 && c->round >= c->plan.rounds && (c->phase == CORE_RUNNING || c->phase == CORE_STOPPING))
        c->phase = CORE_FINISHING;
    if (c->stopping && c->stop_step != UINT64_MAX && c->round < c->plan.rounds && ckpt_durable_at(c, c->stop_step)) {
        end(c, out, STOP_REQUESTED, "stopped on request");
        return;
    }
    if (c->phase != CORE_FINISHING || !ckpt_durable_at(c, c->plan.rounds))
        return;
    if (c->config.has_export && !c->export_done) {
        if (c->stopping)
            end(c, out, STOP_REQUESTED, "stopped on request, before the export was done");
        else if (!c->export_running)
            launch_export(c, out);
        return;
    }
    if (c->end_ms == 0)
        c->end_ms = c->now_ms + c->config.lease_ms;
    if (gangs_finished(c) || c->plan.embedded || c->stopping || c->now_ms >= c->end_ms)
        end(c, out, STOP_FINISHED, "finished");
}

/* What every event ends with: a round, a view or the end may have become possible. */
static void settle(struct core *c, struct core_out *out)
{
    view_settle(c, out);
    progress(c, out);
}

static void begin(struct core *c, uint64_t now_ms, struct core_out *out)
{
    out->count = 0;
    c->now_ms = now_ms;
}

/* ---- events ---- */
static bool slot_is(const struct core *c, const struct process_id *who)
{
    return !c->plan.embedded && who->role == ROLE_PS && who->index < c->next.slot_count && c->next.slot[who->index].site == who->site &&
           c->next.slot[who->index].instance == who->instance;
}

static bool rank_is(const struct core *c, const struct process_id *who)
{
    return who->role == ROLE_WORKER && who->site < c->next.site_count && who->index < c->next.gang[who->site].ranks && who->index < LANES_MAX &&
           c->next.gang[who->site].incarnation == who->instance && c->next.gang[who->site].wanted;
}

/* A site of several hosts has an agent on each. The first speaks for the site: it launches the shards, so only its list of who lives can say that one is gone. The
 * others are heard for the deaths of their ranks; that they are silent themselves, their ranks' leases say. */
static bool is_head(const struct process_id *who)
{
    return who->role == ROLE_AGENT && who->site < SITES_LIMIT && (who->index == 0 || !RULE_HEAD);
}

static void join_agent(struct core *c, struct core_out *out, const struct msg_join *m)
{
    unsigned site = m->who.site;
    if (site >= c->next.site_count)
        return;
    c->agent[site].joined = true;
    c->agent[site].heard_ms = c->now_ms;
    c->agent[site].sent_away = false;
    site_arrived(c, out, site);
    /* A shard process that may have run and is not among the living must never be launched again under its old instance. */
    for (unsigned s = 0; s < c->next.slot_count && !c->plan.embedded; s++) {
        bool alive = c->slot[s].joined || !c->slot[s].offered || c->next.slot[s].site != site;
        for (uint16_t i = 0; i < m->alive_count; i++)
            alive = alive || (m->alive[i].role == ROLE_PS && m->alive[i].index == s && m->alive[i].instance == c->next.slot[s].instance);
        if (!alive)
            slot_died(c, out, s, !RULE_JOINFREE, "gone while nobody watched");   /* not counted: over a bad link it may never have been launched */
    }
    for (unsigned s = 0; s < c->next.slot_count; s++)
        if (c->next.slot[s].site == site && !c->slot[s].offered && !c->dirty) {
            c->slot[s].offered = true;
            c->slot[s].deadline_ms = c->now_ms + c->config.relaunch_ms;
        }
    if (c->export_running)
        launch_export(c, out);
    if (!c->durable)
        ckpt_send(c, out);
}

static void join_worker(struct core *c, struct core_out *out, const struct msg_join *m)
{
    struct gang_state *g = &c->gang[m->who.site];
    rounds_fill_plan(c, m, out);
    if (core_over(c) || !rank_is(c, &m->who))   /* refused; a visitor with its site */
        return;
    g->joined |= 1ull << m->who.index;
    g->linked |= 1ull << m->who.index;
    g->heard_ms[m->who.index] = c->now_ms;
    memcpy(g->ram_version[m->who.index], m->ram_version, sizeof m->ram_version);
    memcpy(g->ram_generation[m->who.index], m->ram_generation, sizeof m->ram_generation);
    if (c->plan.embedded && m->who.index < c->next.slot_count)
        c->next.slot[m->who.index].up = c->view.slot[m->who.index].up = true;
    gang_unpark(c, m->who.site);
}

void core_on_join(struct core *c, uint64_t now_ms, const struct msg_join *m, struct core_out *out)
{
    begin(c, now_ms, out);
    bool member = m->who.role == ROLE_AGENT || slot_is(c, &m->who) || rank_is(c, &m->who);
    if (core_over(c)) {
        core_act(out, CORE_SEND_STOP)->u.stop.why = c->end_why;
        return;
    }
    if (!member) {
        core_act(out, CORE_DISOWN)->to = m->who;
        return;
    }
    if (is_head(&m->who))
        join_agent(c, out, m);
    else if (m->who.role == ROLE_WORKER)
        join_worker(c, out, m);
    else if (m->who.role == ROLE_PS) {
        struct slot_state *s = &c->slot[m->who.index];
        bool known = s->joined;
        s->joined = s->linked = s->offered = true;
        s->heard_ms = now_ms;
        if (!known || !c->view.slot[m->who.index].up)
            slot_joined(c, out, m->who.index);
    }
    if (core_over(c))
        return;
    if (c->plan.layout_hash)
        core_act(out, CORE_SEND_PLAN)->to = m->who;
    uint32_t number = c->view.number;
    settle(c, out);
    if (c->view.number == number)
        core_act(out, CORE_SEND_VIEW)->to = m->who;
}

static void unlink_process(struct core *c, const struct process_id *who)
{
    if (slot_is(c, who))
        c->slot[who->index].linked = false;
    else if (rank_is(c, who))
        c->gang[who->site].linked &= ~(1ull << who->index);
    else if (is_head(who))
        c->agent[who->site].joined = false;
}

void core_on_gone(struct core *c, uint64_t now_ms, struct process_id who, struct core_out *out)
{
    begin(c, now_ms, out);
    unlink_process(c, &who);
    settle(c, out);
}

void core_on_leave(struct core *c, uint64_t now_ms, const struct msg_leave *m, struct core_out *out)
{
    begin(c, now_ms, out);
    if (rank_is(c, &m->who))
        c->gang[m->who.site].finished |= 1ull << m->who.index;
    unlink_process(c, &m->who);
    settle(c, out);
}

static void export_ended(struct core *c, struct core_out *out, const struct msg_exited *m)
{
    if (!c->export_running || m->who.site != core_export_site(c) || m->who.instance != c->export_attempt)
        return;
    c->export_running = false;
    bool ended = m->signal <= 0 && m->code >= 0 && m->code != err_exit_code(ERR_TEMPORARY);   /* by itself: it would say the same again */
    if (ended && m->code == 0)
        c->export_done = true;
    else if (ended)
        core_give_up(c, out, "the export failed: %s; the checkpoint of step %llu is safe", m->text, (unsigned long long)c->plan.rounds);
    else if (c->export_attempt >= EXPORT_LIMIT)
        core_give_up(c, out, "the export failed %d times (last: %s); the checkpoint of step %llu is safe", EXPORT_LIMIT, m->text,
                     (unsigned long long)c->plan.rounds);
    else
        core_event(c, out, "export failed", m->who, "%s", m->text);
}

void core_on_exited(struct core *c, uint64_t now_ms, const struct msg_exited *m, struct core_out *out)
{
    begin(c, now_ms, out);
    if (core_over(c)) {
        unlink_process(c, &m->who);
    } else if (m->who.role == ROLE_EXPORT) {
        export_ended(c, out, m);
    } else if (slot_is(c, &m->who)) {
        slot_died(c, out, m->who.index, true, m->text[0] ? m->text : "its process ended");
    } else if (rank_is(c, &m->who)) {
        bool orderly = (m->code == 0 && m->signal <= 0 && c->plan.rounds && c->round >= c->plan.rounds) || !gang_needed(c);
        if (orderly) {
            c->gang[m->who.site].finished |= 1ull << m->who.index;
            unlink_process(c, &m->who);
        } else {
            gang_died(c, out, m->who.site, true, m->text[0] ? m->text : "its process ended");
        }
    }
    settle(c, out);
}

void core_on_heartbeat(struct core *c, uint64_t now_ms, const struct msg_heartbeat *m, struct core_out *out)
{
    begin(c, now_ms, out);
    if (slot_is(c, &m->who) && c->slot[m->who.index].joined)
        c->slot[m->who.index].heard_ms = now_ms;
    else if (rank_is(c, &m->who)) {
        struct gang_state *g = &c->gang[m->who.site];
        g->heard_ms[m->who.index] = now_ms;
        if (c->plan.rounds && m->version >= c->plan.rounds)
            g->finished |= 1ull << m->who.index;
    } else if (is_head(&m->who)) {
        c->agent[m->who.site].heard_ms = now_ms;
        c->agent[m->who.site].joined |= RULE_REBEAT;      /* silent for longer than its lease, but its link held */
        if (!c->agent[m->who.site].sent_away)
            site_arrived(c, out, m->who.site);
    }
    settle(c, out);
}

void core_on_ready(struct core *c, uint64_t now_ms, const struct msg_ready *m, struct core_out *out)
{
    begin(c, now_ms, out);
    if (rank_is(c, &m->who)) {
        struct gang_state *g = &c->gang[m->who.site];
        g->ready |= 1ull << m->who.index;
        if (!g->ready_ms && __builtin_popcountll(g->ready) >= (int)c->next.gang[m->who.site].ranks)
            g->ready_ms = c->now_ms;
    }
    settle(c, out);
}

void core_on_prepared(struct core *c, uint64_t now_ms, struct process_id from, const struct msg_prepared *m, const double *norms2, const uint32_t *bins,
                      struct core_out *out)
{
    begin(c, now_ms, out);
    bool other_view = m->view != c->view.number && RULE_REPORT;
    if (!c->started || core_over(c) || m->shard >= c->view.shard_count || other_view || m->generation != c->view.generation)
        return;
    bool sends = false;
    for (unsigned i = 0; i < c->view.shard[m->shard].copy_count; i++) {
        struct process_id holder = view_slot_process(c, c->view.shard[m->shard].copy[i].slot);
        sends = sends || (c->view.shard[m->shard].copy[i].role == COPY_PRIMARY && holder.role == from.role && holder.site == from.site &&
                          holder.index == from.index && holder.instance == from.instance);
    }
    if (!sends)
        return;
    if (slot_is(c, &from))
        c->slot[from.index].heard_ms = now_ms;
    rounds_report(c, out, m, norms2, bins);
    ckpt_decide(c, out);
    if (m->complete_mask || !RULE_COMPLETE)
        view_promote(c, m->shard, m->complete_mask);
    settle(c, out);
}

void core_on_part(struct core *c, uint64_t now_ms, const struct msg_part *m, struct core_out *out)
{
    begin(c, now_ms, out);
    if (!core_over(c))
        ckpt_part(c, out, m);
    settle(c, out);
}

void core_on_published(struct core *c, uint64_t now_ms, const struct msg_published *m, struct core_out *out)
{
    begin(c, now_ms, out);
    if (!core_over(c))
        ckpt_published(c, out, m);
    rounds_commit(c, out);                /* the next phase may have waited for it */
    settle(c, out);
}

void core_on_synced(struct core *c, uint64_t now_ms, uint64_t position, struct core_out *out)
{
    begin(c, now_ms, out);
    rounds_synced(c, position);
    rounds_commit(c, out);
    settle(c, out);
}

void core_on_failed(struct core *c, uint64_t now_ms, const struct msg_failed *m, struct core_out *out)
{
    begin(c, now_ms, out);
    refuse(c, out, m->who.site, m->code == ERR_DIVERGED ? ERR_DIVERGED : ERR_JOB, m->text);
    settle(c, out);
}

void core_on_stop(struct core *c, uint64_t now_ms, struct core_out *out)
{
    begin(c, now_ms, out);
    if (core_over(c) || c->stopping)
        return;
    if (c->phase == CORE_FINISHING) {     /* the last checkpoint is kept, an export can be made again */
        c->stopping = true;
        c->stop_step = UINT64_MAX;        /* a rollback may take the end away: then the next step is the last */
        settle(c, out);
        return;
    }
    if (c->plan.rounds == 0 || ckpt_durable_at(c, c->round)) {
        end(c, out, STOP_REQUESTED, "stopped on request");
        return;
    }
    c->stopping = true;
    if (c->phase == CORE_RUNNING)
        c->phase = CORE_STOPPING;
    bool saved = c->round > c->ring_first && c->ring[(c->round - 1) % RING_ROUNDS].record.flags & RECORD_CHECKPOINT;
    c->stop_step = saved ? c->round : UINT64_MAX;
    rounds_commit(c, out);
    settle(c, out);
}

void core_on_brings(struct core *c, uint64_t now_ms, uint8_t site, uint16_t ranks, struct core_out *out)
{
    begin(c, now_ms, out);
    if (!core_over(c) && site < c->next.site_count)
        site_brings(c, out, site, ranks);
    settle(c, out);
}

void core_on_enrolled(struct core *c, uint64_t now_ms, uint8_t site, struct core_out *out)
{
    begin(c, now_ms, out);
    if (!core_over(c) && site < c->next.site_count)
        site_left(c, out, site, "another machine took its place");
    settle(c, out);
}

void core_on_drain(struct core *c, uint64_t now_ms, uint8_t site, struct core_out *out)
{
    begin(c, now_ms, out);
    if (core_over(c) || site >= c->next.site_count || !visiting(c, site))
        return;
    send_away(c, out, site, STOP_DRAINED, "drained on request");
    settle(c, out);
}

void core_on_tick(struct core *c, uint64_t now_ms, struct core_out *out)
{
    uint64_t since = c->ticked_ms ? now_ms - c->ticked_ms : 0;
    bool stood = RULE_ASLEEP && since > ASLEEP_MS, slow = stood && c->stood && since < c->config.lease_ms / 2;   /* slow: it read what the others said between two ticks */
    begin(c, now_ms, out);
    c->ticked_ms = now_ms;
    c->stood = stood;
    if (c->started && !core_over(c) && stood && !slow)
        view_slept(c, since);
    else if (c->started && !core_over(c)) {
        view_leases(c, out);
        ckpt_tick(c, out);
        rounds_commit(c, out);
    }
    settle(c, out);
}

/* ---- reading ---- */
enum core_phase core_phase(const struct core *c) { return c->phase; }
const struct view *core_view(const struct core *c) { return &c->view; }
const struct msg_plan *core_plan(const struct core *c) { return &c->plan; }
uint64_t core_round(const struct core *c) { return c->round; }
