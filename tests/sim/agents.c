/* What every process does with its link to the coordinator, and what an agent does: it launches each instance once, tells every death until
 * the view names another instance, publishes checkpoints, runs the export. */
#include "tests/sim/sim.h"

#include <string.h>

#include "base/err.h"

/* ---- links to the coordinator ---- */
static void join(struct world *w, struct proc *p)
{
    struct msg_join m;
    memset(&m, 0, sizeof m);
    unsigned ranks = p->kind == ROLE_WORKER ? p->gang.ranks : 1;
    p->linked_to = w->coordinator_pid;
    p->accepted = false;
    for (unsigned r = 0; r < ranks && p->alive && p->linked_to; r++) {
        m.who = (struct process_id){.role = p->kind, .site = p->site, .index = p->kind == ROLE_WORKER ? (uint16_t)r : p->index, .instance = p->instance};
        if (p->kind == ROLE_WORKER) {
            m.layout_hash = 77;
            m.samples_per_pass = w->k.samples;
            for (unsigned k = 0; k < 2 && w->k.embedded; k++) {
                m.ram_version[k] = w->site[p->site].ram[r][k].have ? w->site[p->site].ram[r][k].version + 1 : 0;
                m.ram_generation[k] = w->site[p->site].ram[r][k].generation;
            }
        }
        if (p->kind == ROLE_AGENT && p->index == 0)
            for (int i = 1; i <= w->proc_count; i++) {
                const struct proc *q = w->proc[i];
                if (q->alive && q->site == p->site && q->kind == ROLE_PS)
                    m.alive[m.alive_count++] = (struct process_id){.role = q->kind, .site = q->site, .index = q->index, .instance = q->instance};
            }
        send_to(w, p, (uint16_t)r, (uint8_t)r, p->linked_to, MSG_JOIN, &m, NULL);
    }
}

static void heartbeat(struct world *w, struct proc *p)
{
    unsigned ranks = p->kind == ROLE_WORKER ? p->gang.ranks : 1;
    p->heartbeat_us = w->now_us;
    for (unsigned r = 0; r < ranks && p->alive && p->linked_to; r++) {
        struct msg_heartbeat m = {.who = {p->kind, p->site, p->kind == ROLE_WORKER ? (uint16_t)r : p->index, p->instance}};
        m.version = p->kind == ROLE_WORKER && p->gang.round ? p->gang.round - 1 : 0;
        send_to(w, p, (uint16_t)r, 0, p->linked_to, MSG_HEARTBEAT, &m, NULL);
    }
    if (p->kind == ROLE_WORKER)
        gang_ready(w, p);
}

void proc_tick(struct world *w, struct proc *p)
{
    struct proc *c = w->proc[w->coordinator_pid];
    if (!p->linked_to && c && c->alive && w->now_us >= p->dial_at_us) {
        join(w, p);
        if (p->alive && p->kind != ROLE_AGENT)
            hosts_link(w, p, UINT8_MAX);
    } else if (p->linked_to && w->now_us - p->heartbeat_us > w->k.lease_ms * 1000 / 5) {
        heartbeat(w, p);
    }
    if (!p->alive)
        return;
    hosts_tick(w, p);
    if (p->alive && p->kind == ROLE_WORKER)
        gang_tick(w, p);
}

/* ---- agents ---- */
static bool runs_here(const struct world *w, uint8_t kind, uint8_t site, uint16_t index, uint32_t instance)
{
    for (int i = 1; i <= w->proc_count; i++) {
        const struct proc *q = w->proc[i];
        if (q->alive && q->kind == kind && q->site == site && (kind == ROLE_WORKER || q->index == index) && q->instance == instance)
            return true;
    }
    return false;
}

static void tell_death(struct world *w, struct proc *agent, struct process_id who, int code)
{
    struct msg_exited m = {.who = who, .code = code, .signal = code ? 9 : 0};
    if (agent->linked_to)
        send_to(w, agent, 0, 0, agent->linked_to, MSG_EXITED, &m, NULL);
}

/* Deaths that a dead coordinator or a broken link may have swallowed: told again for every instance that the view still names. */
static void tell_deaths_again(struct world *w, struct proc *p)
{
    struct site *s = &w->site[p->site];
    for (unsigned i = 0; i < p->view.slot_count && !w->k.embedded && p->index == 0; i++)
        if (p->view.slot[i].site == p->site && p->view.slot[i].instance == s->launched_slot[i] && !s->starting_slot[i] && !runs_here(w, ROLE_PS, p->site, (uint16_t)i, s->launched_slot[i]))
            tell_death(w, p, (struct process_id){ROLE_PS, p->site, (uint16_t)i, s->launched_slot[i]}, -1);
    uint32_t gang = p->view.gang[p->site].incarnation;
    if (p->view.gang[p->site].wanted && gang == s->launched_gang && !s->starting_gang && !runs_here(w, ROLE_WORKER, p->site, 0, gang))
        tell_death(w, p, (struct process_id){ROLE_WORKER, p->site, 0, gang}, -1);
}

void agent_view(struct world *w, struct proc *p)
{
    struct site *s = &w->site[p->site];
    for (int i = 1; i <= w->proc_count && p->alive; i++) {
        struct proc *q = w->proc[i];
        if (!q->alive || q->site != p->site)
            continue;
        bool old_ps = q->kind == ROLE_PS && q->instance < p->view.slot[q->index].instance;
        bool old_gang = q->kind == ROLE_WORKER && (q->instance < p->view.gang[p->site].incarnation || !p->view.gang[p->site].wanted);
        if (old_ps || old_gang) {
            q->killed_by_agent = true;
            proc_kill(w, q, "the view names a newer instance");
        }
    }
    const struct view_gang *g = &p->view.gang[p->site];
    if (p->index > 0) {                  /* what another host has: ranks, and no shards */
        s->launched_host1 = g->wanted && g->incarnation > s->launched_host1 ? g->incarnation : s->launched_host1;
        return;
    }
    for (unsigned i = 0; i < p->view.slot_count && !w->k.embedded; i++)
        if (p->view.slot[i].site == p->site && p->view.slot[i].instance > s->launched_slot[i]) {
            s->launched_slot[i] = p->view.slot[i].instance;
            s->starting_slot[i] = true;
            at(w, 20000 + chance(w, 200000), EV_START, p->pid, ROLE_PS, i, p->view.slot[i].instance);
        }
    if (g->wanted && g->incarnation > s->launched_gang) {
        s->launched_gang = g->incarnation;
        s->starting_gang = true;
        at(w, 20000 + chance(w, 300000), EV_START, p->pid, ROLE_WORKER, 0, g->incarnation);
    }
}

void agent_joined(struct world *w, struct proc *p) { tell_deaths_again(w, p); }

void agent_child_died(struct world *w, const struct proc *child)
{
    for (int i = w->proc_count; i > 0 && !child->killed_by_agent; i--) {
        struct proc *q = w->proc[i];
        if (q->alive && q->kind == ROLE_AGENT && q->site == child->site && q->paused_until_us <= w->now_us) {
            tell_death(w, q, (struct process_id){child->kind, child->site, child->kind == ROLE_WORKER ? 0 : child->index, child->instance}, -1);
            return;
        }
    }
}

void agent_publish(struct world *w, struct proc *p, uint64_t step, uint32_t generation, uint64_t mask)
{
    struct site *s = &w->site[p->site];
    struct msg_published m = {.site = p->site, .generation = generation, .step = step, .ok = true};
    unsigned parts = 0;
    for (size_t i = 0; i < w->log.count; i++)
        if (w->log.entry[i].kind == LOG_CHECKPOINT && w->log.entry[i].u.checkpoint.step == step && w->log.entry[i].u.checkpoint.generation == generation)
            parts = w->log.entry[i].u.checkpoint.part_count;
    if (mask >> p->site & 1)
        for (unsigned sh = 0; sh < parts; sh++) {
            bool found = false;
            for (unsigned i = 0; i < SIM_PARTS; i++)
                found = found || (s->disk[i].used && s->disk[i].part.step == step && s->disk[i].part.generation == generation && s->disk[i].part.shard == sh);
            if (!found)
                violate(w, "I1: site %u is said to hold all parts of checkpoint %lu but lacks shard %u", p->site, step, sh);
        }
    if (!s->manifest.have || s->manifest.step < step || s->manifest.generation < generation) {
        s->manifest.have = true;
        s->manifest.step = step;
        s->manifest.generation = generation;
        s->manifest.view = p->view.number;
    }
    w->kept[step] = true;
    if (p->linked_to)
        send_to(w, p, 0, 0, p->linked_to, MSG_PUBLISHED, &m, NULL);
}

void agent_export(struct world *w, struct proc *p, uint32_t attempt)
{
    struct site *s = &w->site[p->site];
    if (s->export_attempt != attempt) {
        s->export_attempt = attempt;
        s->export_code = !w->calm && odds(w, 100) && attempt < 3 ? (uint32_t)err_exit_code(ERR_TEMPORARY) : 0;
    }
    tell_death(w, p, (struct process_id){ROLE_EXPORT, p->site, 0, attempt}, (int)s->export_code);
}

/* ---- messages to anyone but the coordinator ---- */
static void on_view(struct world *w, struct proc *p, const struct view *v)
{
    bool fresh = !p->have_view || v->number > p->view.number;
    if (!fresh) {
        if (p->kind == ROLE_AGENT && v->number == p->view.number)
            agent_joined(w, p);
        return;
    }
    p->have_view = true;
    p->view = *v;
    if (p->kind == ROLE_AGENT) {
        agent_view(w, p);
        if (p->alive)
            agent_joined(w, p);
        return;
    }
    if (p->have_plan)
        hosts_view(w, p);
    if (p->alive && p->kind == ROLE_WORKER)
        gang_view(w, p);
}

void client_packet(struct world *w, struct proc *p, const struct packet *packet, struct msg_any *m)
{
    switch (packet->type) {
    case MSG_PLAN:
        if (p->have_plan)
            break;
        p->have_plan = true;
        hosts_make(w, p);
        if (p->have_view)
            hosts_view(w, p);
        if (p->alive && p->kind == ROLE_WORKER)
            gang_view(w, p);
        break;
    case MSG_VIEW:
        on_view(w, p, &m->u.view.view);
        break;
    case MSG_PULLREPLY:
        if (p->kind == ROLE_WORKER)
            gang_reply(w, p, packet, &m->u.pullreply);
        break;
    case MSG_MANIFEST:
        if (p->kind == ROLE_AGENT)
            at(w, 1000 + chance(w, 100000), EV_PUBLISH, p->pid, m->u.manifest.step, m->u.manifest.generation, m->u.manifest.site_mask);
        break;
    case MSG_LAUNCH:
        if (p->kind == ROLE_AGENT)
            at(w, 1000 + chance(w, 200000), EV_EXPORT, p->pid, m->u.launch.attempt, 0, 0);
        break;
    case MSG_STOP:
        proc_kill(w, p, "stopped");
        break;
    default:
        host_packet(w, p, packet, m);
    }
}
