/* The coordinator's shell over a simulated log: entries appended without sync can be lost with the host, never out of order. */
#include "tests/sim/sim.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/magnitude.h"

static float rate(const void *arg, const struct phases *phases, uint64_t round)
{
    (void)arg;
    (void)phases;
    return 1.0f / (float)(round + 1);
}

static bool annulled(const struct world *w, uint32_t generation, uint64_t step)
{
    for (size_t i = 0; i < w->log.count; i++)
        if (w->log.entry[i].kind == LOG_VIEW && core_annuls(w->log.entry[i].u.view.generation, w->log.entry[i].u.view.base, generation, step))
            return true;
    return false;
}

static void configure(struct world *w, struct core_config *c, bool fresh)
{
    const struct knobs *k = &w->k;
    memset(c, 0, sizeof *c);
    c->plan = (struct msg_plan){.batch = k->batch, .lanes = (uint16_t)k->lanes, .deterministic = k->deterministic, .seed = w->seed,
                                .checkpoint_every = k->checkpoint_every, .ram_every = 1, .shard_count = (uint8_t)k->shards, .site_count = (uint8_t)k->sites,
                                .embedded = k->embedded, .clip = 1000.0};
    if (k->embedded)
        c->plan.slot_count = (uint8_t)k->ranks[0];
    else
        c->plan.slot_count = (uint8_t)k->slots;
    for (unsigned i = 0; i < c->plan.slot_count; i++)
        c->plan.slot_site[i] = k->embedded ? 0 : (uint8_t)(i % k->sites);
    for (unsigned i = 0; i < k->sites; i++)
        c->gang[i] = (struct view_gang){.lanes = lanes_of_part(k->lanes, i, k->sites), .ranks = (uint16_t)k->ranks[i]};
    c->visiting = k->visiting ? (uint8_t)(1u << (k->sites - 1)) : 0;
    c->copies = (uint8_t)k->copies;
    c->checkpoint_replicas = 2;
    c->steps = k->rounds - k->prune_rounds;
    c->prune_epochs = k->prune_rounds ? (k->prune_rounds - 0.5) / ((k->samples + k->batch - 1) / k->batch) : 0;
    c->plan.phases.sparsity = k->sparsity;
    c->has_export = k->has_export;
    c->lease_ms = k->lease_ms;
    c->relaunch_ms = k->relaunch_ms;
    c->fresh = fresh;
    c->lr = rate;
    for (unsigned i = 0; i < k->sites; i++) {
        const struct site *s = &w->site[i];
        if (!s->manifest.have || annulled(w, s->manifest.generation, s->manifest.step))
            continue;
        if (!c->checkpoint.have || s->manifest.generation > c->checkpoint.generation ||
            (s->manifest.generation == c->checkpoint.generation && s->manifest.step > c->checkpoint.step)) {
            c->checkpoint.have = true;
            c->checkpoint.step = s->manifest.step;
            c->checkpoint.generation = s->manifest.generation;
            c->checkpoint.view = s->manifest.view;
        }
    }
}

/* ---- the log ---- */
static bool append(struct world *w, struct proc *p, const struct log_entry *e, bool sync)
{
    struct sim_log *l = &w->log;
    if (l->owner != p->coordinator.owner) {
        proc_kill(w, p, "another coordinator owns the log");
        return false;
    }
    if (e->position != l->count) {
        violate(w, "log: entry is meant for position %lu, the log has %zu", e->position, l->count);
        return false;
    }
    if (l->count == l->room) {
        l->room = l->room ? l->room * 2 : 64;
        l->entry = realloc(l->entry, l->room * sizeof *l->entry);
        CHECK(l->entry);
    }
    l->entry[l->count++] = *e;
    if (sync)
        l->durable = l->count;
    else
        at(w, 100 + chance(w, w->k.sync_us), EV_SYNC, p->pid, l->count, l->owner, 0);
    return true;
}

void log_lose_tail(struct world *w)
{
    struct sim_log *l = &w->log;
    size_t keep = l->durable + (l->count > l->durable ? chance(w, l->count - l->durable + 1) : 0);
    if (keep < l->count)
        trace(w, "log cut from %zu to %zu entries", l->count, keep);
    l->count = keep;
    l->durable = keep;
    l->owner++;
}

/* ---- actions ---- */
static bool linked(const struct proc *p, const struct proc *q) { return q->alive && q->linked_to == p->pid && q->accepted; }

static void send_plan_or_view(struct world *w, struct proc *p, const struct core_action *a)
{
    struct msg_view view;
    memset(&view, 0, sizeof view);
    view.view = *core_view(p->coordinator.core);
    for (int i = 1; i <= w->proc_count && p->alive; i++) {
        struct proc *q = w->proc[i];
        bool wanted = linked(p, q) && (a->to.role == ROLE_NONE || (a->to.role == q->kind && a->to.site == q->site && a->to.instance == q->instance &&
                                                                   (q->kind == ROLE_WORKER || a->to.index == q->index)));
        if (wanted && a->kind == CORE_SEND_PLAN)
            send_to(w, p, 0, 0, q->pid, MSG_PLAN, core_plan(p->coordinator.core), NULL);
        else if (wanted)
            send_to(w, p, 0, 0, q->pid, MSG_VIEW, &view, NULL);
    }
}

static struct proc *target_of(struct world *w, struct proc *p, struct process_id to)
{
    struct proc *q = proc_find(w, to.role, to.site, to.role == ROLE_PS ? to.index : 0, to.instance);
    return q && linked(p, q) ? q : NULL;
}

static void to_agents(struct world *w, struct proc *p, const struct core_action *a)
{
    for (int i = 1; i <= w->proc_count && p->alive; i++) {
        struct proc *q = w->proc[i];
        if (!linked(p, q) || q->kind != ROLE_AGENT || q->index > 0)
            continue;
        if (a->kind == CORE_SEND_MANIFEST) {
            struct msg_manifest m = {.generation = a->u.checkpoint.generation, .step = a->u.checkpoint.step, .site_mask = a->u.checkpoint.site_mask};
            send_to(w, p, 0, 0, q->pid, MSG_MANIFEST, &m, NULL);
        } else if (q->site == a->to.site) {
            send_to(w, p, 0, 0, q->pid, MSG_LAUNCH, &a->u.launch, NULL);
        }
    }
}

static bool act(struct world *w, struct proc *p, const struct core_action *a)
{
    struct proc *q;
    switch (a->kind) {
    case CORE_APPEND:
    case CORE_APPEND_SYNC:
        if (!append(w, p, &a->u.entry, a->kind == CORE_APPEND_SYNC))
            return false;
        if (a->u.entry.kind == LOG_COMMIT)
            truth_check_holders(w, p->coordinator.core, &a->u.entry.u.record);
        if (a->u.entry.kind == LOG_VIEW) {
            const struct view *v = &a->u.entry.u.view;
            trace(w, "view %u generation %u base %lu", v->number, v->generation, v->base);
            truth_view(w, v);
        }
        if (a->u.entry.kind == LOG_CHECKPOINT) {
            trace(w, "checkpoint of step %lu", a->u.entry.u.checkpoint.step);
            truth_checkpoint(w, &a->u.entry.u.checkpoint);
        }
        break;
    case CORE_SEND_VIEW:
    case CORE_SEND_PLAN:
        send_plan_or_view(w, p, a);
        break;
    case CORE_SEND_COMMIT:
        if ((q = target_of(w, p, a->to)))
            send_to(w, p, 0, 0, q->pid, MSG_COMMIT, &a->u.commit, NULL);
        break;
    case CORE_SEND_SUM:
        if ((q = target_of(w, p, a->to)))
            send_to(w, p, 0, 0, q->pid, MSG_SUM, &a->u.sum, NULL);
        break;
    case CORE_SEND_MANIFEST:
    case CORE_SEND_LAUNCH:
        to_agents(w, p, a);
        break;
    case CORE_SEND_STOP:
        for (int i = 1; i <= w->proc_count && p->alive; i++)
            if (linked(p, w->proc[i]) && (a->to.role == ROLE_NONE || a->to.site == w->proc[i]->site))
                send_to(w, p, 0, 0, w->proc[i]->pid, MSG_STOP, &a->u.stop, NULL);
        break;
    case CORE_EVENT:
        trace(w, "event %s role %u site %u index %u instance %u: %s", a->u.event.kind, a->u.event.who.role, a->u.event.who.site, a->u.event.who.index,
              a->u.event.who.instance, a->u.event.text);
        break;
    case CORE_COMMITTED:
        trace(w, "commit of round %lu in view %u", a->u.record.round, a->u.record.view);
        w->rounds_total++;
        truth_committed(w, &a->u.record);
        break;
    case CORE_DURABLE:
        trace(w, "durable: step %lu", a->u.checkpoint.step);
        break;
    case CORE_DISOWN:
        q = proc_find(w, a->to.role, a->to.site, a->to.role == ROLE_PS ? a->to.index : 0, a->to.instance);
        if (q && q->linked_to == p->pid) {
            trace(w, "disown pid %d", q->pid);
            q->killed_by_agent = true;
            proc_kill(w, q, "disowned");
        }
        break;
    case CORE_FAIL:
        trace(w, "job failed: %s", a->u.text);
        w->failed = true;
        if (strstr(a->u.text, "without a step between"))
            w->gave_up = true;
        else
            violate(w, "the job failed: %s", a->u.text);
        break;
    case CORE_DONE_RUN:
        p->coordinator.done = true;
        w->finished = true;
        break;
    }
    return p->alive;
}

static void run(struct world *w, struct proc *p)
{
    for (unsigned i = 0; i < w->core_out->count; i++) {
        if (!act(w, p, &w->core_out->action[i]))
            return;
        if (w->fuse && w->fuse_kind == FAULT_COORDINATOR && --w->fuse == 0) {
            proc_kill(w, p, "in the middle of its actions");
            return;
        }
    }
}

void coordinator_start(struct world *w, bool fresh)
{
    int place = w->core_user[0] == 0 ? 0 : 1;
    if (w->core_user[place]) {                            /* a zombie of a zombie: the oldest goes */
        proc_kill(w, w->proc[w->core_user[place]], "third coordinator");
    }
    struct proc *p = proc_new(w, ROLE_COORDINATOR, 0, 0, (uint32_t)w->proc_count);
    struct core_config config;
    w->coordinator_pid = p->pid;
    w->core_user[place] = p->pid;
    configure(w, &config, fresh);
    p->coordinator.core = core_init(w->core_memory[place], &config);
    p->coordinator.owner = ++w->log.owner;
    /* The log is opened: what the old one had not synced may be lost only with the host; it is durable once opened and synced anew. */
    for (size_t i = 0; i < w->log.count; i++)
        core_replay(p->coordinator.core, &w->log.entry[i]);
    core_start(p->coordinator.core, w->now_us / 1000, w->core_out);
    run(w, p);
}

void coordinator_packet(struct world *w, struct proc *p, const struct packet *packet, const struct msg_any *m)
{
    struct core *c = p->coordinator.core;
    uint64_t now_ms = w->now_us / 1000;
    switch (packet->type) {
    case MSG_JOIN:
        if (w->proc[packet->from]->linked_to == p->pid)
            w->proc[packet->from]->accepted = true;
        core_on_join(c, now_ms, &m->u.join, w->core_out);
        break;
    case MSG_EXITED: core_on_exited(c, now_ms, &m->u.exited, w->core_out); break;
    case MSG_HEARTBEAT: core_on_heartbeat(c, now_ms, &m->u.heartbeat, w->core_out); break;
    case MSG_READY: core_on_ready(c, now_ms, &m->u.ready, w->core_out); break;
    case MSG_LEAVE: core_on_leave(c, now_ms, &m->u.leave, w->core_out); break;
    case MSG_PREPARED: {
        double norms[SIM_BLOCKS];
        static uint32_t bins[MAGNITUDE_BINS];
        memcpy(norms, packet->payload.v, sizeof norms);
        memset(bins, 0, sizeof bins);
        magnitude_count(bins, packet->payload.weight, packet->payload.weight_count);
        core_on_prepared(c, now_ms, packet->from_id, &m->u.prepared, norms, bins, w->core_out);
        break;
    }
    case MSG_PART: core_on_part(c, now_ms, &m->u.part, w->core_out); break;
    case MSG_PUBLISHED: core_on_published(c, now_ms, &m->u.published, w->core_out); break;
    default: return;
    }
    run(w, p);
    struct proc *from = w->proc[packet->from];
    if (packet->type == MSG_JOIN && p->alive && from->alive && from->kind != ROLE_AGENT)
        for (unsigned i = 0; i < from->part_count && from->alive && from->linked_to == p->pid; i++)
            if (!(from->part[i].record_round >> 63))
                send_to(w, from, 0, 0, p->pid, MSG_PART, &from->part[i], NULL);
}

void coordinator_tick(struct world *w, struct proc *p)
{
    core_on_tick(p->coordinator.core, w->now_us / 1000, w->core_out);
    run(w, p);
}

void coordinator_synced(struct world *w, struct proc *p, uint64_t position)
{
    if (w->log.owner != p->coordinator.owner)
        return;
    if (position > w->log.durable)
        w->log.durable = position;
    core_on_synced(p->coordinator.core, w->now_us / 1000, w->log.durable, w->core_out);
    run(w, p);
}

void coordinator_stop(struct world *w, struct proc *p)
{
    core_on_stop(p->coordinator.core, w->now_us / 1000, w->core_out);
    run(w, p);
}

void coordinator_drain(struct world *w, struct proc *p)
{
    core_on_drain(p->coordinator.core, w->now_us / 1000, (uint8_t)(w->k.sites - 1), w->core_out);
    run(w, p);
}

void coordinator_gone(struct world *w, struct proc *p, const struct proc *who)
{
    unsigned ranks = who->kind == ROLE_WORKER ? who->gang.ranks : 1;
    for (unsigned r = 0; r < ranks && p->alive; r++) {
        struct process_id id = {who->kind, who->site, who->kind == ROLE_WORKER ? (uint16_t)r : who->index, who->instance};
        core_on_gone(p->coordinator.core, w->now_us / 1000, id, w->core_out);
        run(w, p);
    }
}
