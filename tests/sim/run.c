/* One run: knobs and faults from the seed, then events until the job is done and the truth is checked. */
#include "tests/sim/sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "ps/shard_private.h"

/* ---- knobs ---- */
static void lay_out(struct world *w)
{
    struct knobs *k = &w->k;
    unsigned first = 0;
    for (unsigned s = 0; s < k->shards; s++) {
        unsigned left = k->blocks - first, share = s + 1 == k->shards ? left : k->embedded ? left / (k->shards - s) : (unsigned)chance(w, left + 1);
        k->shard_first[s] = first;
        k->shard_blocks[s] = share;
        first += share;
    }
}

static uint64_t between(struct world *w, uint64_t lo, uint64_t hi) { return lo + chance(w, hi - lo + 1); }

static void choose_faults(struct world *w, uint64_t span_us)
{
    struct knobs *k = &w->k;
    static const enum msg_type aim[] = {MSG_JOIN, MSG_VIEW, MSG_CONTRIBUTE, MSG_REPLICATE, MSG_BLOCK, MSG_ACK, MSG_PREPARED, MSG_SUM, MSG_COMMIT, MSG_PULL,
                                        MSG_PULLREPLY, MSG_SEED, MSG_PART, MSG_MANIFEST, MSG_PUBLISHED, MSG_EXITED};
    k->fault_count = (unsigned)chance(w, 6);
    if (k->fault_count == 5)
        k->fault_count = (unsigned)between(w, 5, 8);
    for (unsigned i = 0; i < k->fault_count; i++) {
        struct fault *f = &k->fault[i];
        f->kind = (enum fault_kind)chance(w, FAULT_KINDS);
        if ((f->kind == FAULT_ALL || f->kind == FAULT_STOP) && odds(w, 600))
            f->kind = FAULT_PS;
        f->message = -1;
        f->at_us = chance(w, span_us);
        if (odds(w, 500)) {
            static const enum msg_type core_of_it[] = {MSG_REPLICATE, MSG_ACK, MSG_COMMIT, MSG_PREPARED, MSG_PULLREPLY};
            f->message = (int32_t)(odds(w, 500) ? aim[chance(w, sizeof aim / sizeof aim[0])] : core_of_it[chance(w, 5)]);
            f->nth = (uint32_t)(1 + chance(w, f->message == MSG_CONTRIBUTE || f->message == MSG_PULL || f->message == MSG_REPLICATE ? 60 : 12));
        }
    }
}

static void choose(struct world *w)
{
    struct knobs *k = &w->k;
    static const unsigned lane_counts[] = {2, 3, 4, 5, 8, 16};
    k->embedded = odds(w, 150);
    k->sites = k->embedded ? 1 : (unsigned)(odds(w, 150) ? 1 : between(w, 2, 3));
    for (unsigned i = 0; i < k->sites; i++)
        k->ranks[i] = (unsigned)between(w, 1, SIM_RANKS);
    k->shards = k->embedded ? k->ranks[0] : (unsigned)between(w, 1, SIM_SHARDS);
    k->slots = k->sites * (unsigned)(odds(w, 250) ? 2 : 1);
    k->copies = odds(w, 150) ? (unsigned)between(w, 1, k->sites) : k->sites;
    do
        k->lanes = lane_counts[chance(w, 6)];
    while (k->lanes < k->sites);
    k->rounds = (unsigned)between(w, 3, 10);
    k->blocks = (unsigned)between(w, k->embedded ? k->shards : 1, SIM_BLOCKS);
    k->deterministic = odds(w, 500);
    k->has_export = odds(w, 300);
    k->fifo = odds(w, 500);
    k->batch = (uint32_t)between(w, 1, 40);
    k->samples = (uint32_t)between(w, k->batch, 5 * k->batch);
    k->checkpoint_every = (uint32_t)chance(w, 5);
    k->lease_ms = between(w, 800, 2500);
    k->relaunch_ms = between(w, 1500, 6000);
    k->resend_ms = between(w, 150, 600);
    k->sync_us = between(w, 200, 100000);
    k->delay_us = between(w, 500, 20000);
    k->compute_us = between(w, 2000, 100000);
    k->loss = odds(w, 500) ? (unsigned)chance(w, 30) : 0;
    k->duplicate = odds(w, 500) ? (unsigned)chance(w, 40) : 0;
    k->late = odds(w, 500) ? (unsigned)chance(w, 300) : 0;
    uint64_t span_us = 400000 + k->rounds * (k->compute_us + 8 * k->delay_us);
    choose_faults(w, span_us);
    if (k->fault_count == 0 && odds(w, 500))
        k->loss = k->duplicate = k->late = 0;
    k->faults_end_us = span_us + 3 * 1000 * (k->lease_ms + k->relaunch_ms);
    k->limit_us = k->faults_end_us + 120000000;
    k->visiting = k->sites > 1 && k->slots == k->sites && hash2(w->seed, 7) % 4 == 0;   /* no draw: the other seeds stay as they were */
    for (unsigned i = 0; i < k->fault_count && k->visiting; i++)
        if (hash2(w->seed, 8 + i) % 4 == 0)
            k->fault[i].kind = FAULT_DRAIN;
    k->two_hosts = hash2(w->seed, 5151) % 4 == 0;
    for (unsigned i = 0; i < k->fault_count && k->two_hosts; i++)
        if (hash2(w->seed, 5160 + i) % 4 == 0)
            k->fault[i].kind = FAULT_AGENT;
    lay_out(w);
    /* Last, and by a chance of its own: seeds of before this phase stay the runs that they were. */
    uint64_t own = hash2(w->seed, 4242);
    if (own % 5 < 3) {
        k->prune_rounds = 1 + (unsigned)(hash2(own, 1) % (k->rounds - 1));
        k->sparsity = (double)(1 + hash2(own, 2) % 19) / 20;
    }
}

/* ---- faults ---- */
static struct proc *any_of(struct world *w, uint8_t kind)
{
    struct proc *found = NULL;
    unsigned n = 0;
    for (int i = 1; i <= w->proc_count; i++)
        if (w->proc[i]->alive && w->proc[i]->kind == kind && chance(w, ++n) == 0)
            found = w->proc[i];
    return found;
}

static struct proc *any_at(struct world *w, uint8_t kind, uint8_t site)
{
    for (int i = w->proc_count; i > 0; i--)
        if (w->proc[i]->alive && w->proc[i]->kind == kind && w->proc[i]->site == site)
            return w->proc[i];
    return NULL;
}

static void kill_any(struct world *w, uint8_t kind)
{
    struct proc *p = any_of(w, kind);
    if (p)
        proc_kill(w, p, "fault");
}

static void pause_any(struct world *w, uint8_t kind)
{
    struct proc *p = any_of(w, kind);
    if (!p)
        return;
    p->paused_until_us = w->now_us + between(w, 100, 3 * w->k.lease_ms) * 1000;
    trace(w, "pause pid %d until %.3f", p->pid, (double)p->paused_until_us / 1000.0);
}

static void lose_site(struct world *w, unsigned site)
{
    struct site *s = &w->site[site];
    trace(w, "FAULT site %u", site);
    s->up = false;
    s->back_us = w->now_us + between(w, 200, 3 * w->k.relaunch_ms) * 1000;
    s->gone_for_good = site > 0 && w->k.copies > 1 && !w->site[1].gone_for_good && odds(w, 300);
    memset(s->ram, 0, sizeof s->ram);
    if (site == 0)
        log_lose_tail(w);
    for (int i = 1; i <= w->proc_count; i++)
        if (w->proc[i]->alive && w->proc[i]->site == site) {
            w->proc[i]->killed_by_agent = true;
            proc_kill(w, w->proc[i], "site lost");
        }
}

void world_restart(struct world *w)
{
    log_lose_tail(w);
    for (int i = 1; i <= w->proc_count; i++)
        if (w->proc[i]->alive) {
            w->proc[i]->killed_by_agent = true;
            proc_kill(w, w->proc[i], "everything dies");
        }
    for (unsigned i = 0; i < SIM_SITES; i++) {
        w->site[i].up = true;
        w->site[i].gone_for_good = false;
        memset(w->site[i].ram, 0, sizeof w->site[i].ram);
        w->site[i].export_attempt = 0;
    }
    for (unsigned i = 0; i < w->k.sites; i++)
        w->k.ranks[i] = (unsigned)between(w, 1, SIM_RANKS);
    if (w->k.embedded) {
        w->k.shards = w->k.ranks[0];
        if (w->k.blocks < w->k.shards)
            w->k.shards = w->k.ranks[0] = w->k.blocks;
        lay_out(w);
    }
    w->coordinator_fresh = true;
    w->finished = false;
}

static void pause_coordinator(struct world *w)
{
    struct proc *p = w->proc[w->coordinator_pid];
    if (!p || !p->alive)
        return;
    p->paused_until_us = w->now_us + between(w, 500, 4000) * 1000;
    trace(w, "pause coordinator pid %d; another one starts", p->pid);
    for (int i = 1; i <= w->proc_count; i++)
        if (w->proc[i]->linked_to == p->pid) {
            w->proc[i]->linked_to = 0;
            w->proc[i]->accepted = false;
            w->proc[i]->dial_at_us = w->now_us + chance(w, 1000000);
        }
    at(w, 300000, EV_COORDINATOR, p->pid, 0, 0, 0);
}

void fault_strike(struct world *w, unsigned i)
{
    struct fault *f = &w->k.fault[i];
    if (f->done || w->calm)
        return;
    f->done = true;
    w->faults_done++;
    static const char *const names[] = {"gang", "ps", "agent", "coordinator", "coordinator host", "site", "both copies", "pause ps", "pause gang",
                                        "pause coordinator", "partition", "reset", "everything", "stop", "", "drain"};
    trace(w, "FAULT %s", names[f->kind]);
    switch (f->kind) {
    case FAULT_GANG:
    case FAULT_PS:
    case FAULT_COORDINATOR:
        if (odds(w, 500) && !w->fuse) {
            w->fuse = (uint32_t)between(w, 1, 30);
            w->fuse_kind = f->kind;
        } else {
            kill_any(w, f->kind == FAULT_GANG ? ROLE_WORKER : f->kind == FAULT_PS ? ROLE_PS : ROLE_COORDINATOR);
        }
        break;
    case FAULT_AGENT: {
        struct proc *p = any_of(w, ROLE_AGENT), *gang = p && p->index > 0 && odds(w, 500) ? any_at(w, ROLE_WORKER, p->site) : NULL;
        if (p)
            proc_kill(w, p, "fault");
        if (gang)                            /* the whole host: the others' ranks end with it */
            proc_kill(w, gang, "fault");
        break;
    }
    case FAULT_HOST:
        log_lose_tail(w);
        kill_any(w, ROLE_COORDINATOR);
        break;
    case FAULT_SITE: lose_site(w, odds(w, 400) ? 0 : (unsigned)chance(w, w->k.sites)); break;
    case FAULT_BOTH_COPIES:
        for (int p = 1; p <= w->proc_count; p++)
            if (w->proc[p]->alive && w->proc[p]->kind == (w->k.embedded ? ROLE_WORKER : ROLE_PS))
                proc_kill(w, w->proc[p], "fault");
        break;
    case FAULT_PAUSE_PS: pause_any(w, ROLE_PS); break;
    case FAULT_PAUSE_GANG: pause_any(w, ROLE_WORKER); break;
    case FAULT_PAUSE_COORDINATOR: pause_coordinator(w); break;
    case FAULT_PARTITION:
        w->cut.on = true;
        w->cut.a = (int)chance(w, w->k.sites);
        w->cut.b = (int)chance(w, w->k.sites);
        w->cut.until_us = w->now_us + between(w, 100, 3 * w->k.lease_ms) * 1000;
        break;
    case FAULT_RESET: {
        struct proc *p = any_of(w, odds(w, 300) ? ROLE_AGENT : odds(w, 500) ? ROLE_PS : ROLE_WORKER);
        if (p) {
            link_reset(w, p);
            at(w, 1000, EV_RESET, p->pid, 0, 2, 0);
        }
        break;
    }
    case FAULT_ALL:
        world_restart(w);
        at(w, 500000, EV_COORDINATOR, 0, 1, 0, 0);
        break;
    case FAULT_STOP: at(w, 1, EV_STOP, 0, 0, 0, 0); break;
    case FAULT_DRAIN: at(w, 1, EV_STOP, 0, 1, 0, 0); break;
    case FAULT_KINDS: break;
    }
}

void fault_at_message(struct world *w, enum msg_type type)
{
    uint64_t n = ++w->message_count[type];
    for (unsigned i = 0; i < w->k.fault_count; i++)
        if (!w->k.fault[i].done && w->k.fault[i].message == (int32_t)type && w->k.fault[i].nth == n)
            fault_strike(w, i);
}

/* ---- events ---- */
static void start_process(struct world *w, const struct event *e)
{
    uint8_t kind = (uint8_t)e->a;
    if (kind == ROLE_AGENT) {
        struct site *s = &w->site[e->b];
        bool there = false;
        for (int i = 1; i <= w->proc_count; i++)
            there = there || (w->proc[i]->alive && w->proc[i]->kind == ROLE_AGENT && w->proc[i]->site == e->b && w->proc[i]->index == e->c);
        if (s->gone_for_good || there || w->finished)
            return;
        if (!s->up && w->now_us < s->back_us) {
            at(w, s->back_us - w->now_us, EV_START, 0, ROLE_AGENT, e->b, e->c);
            return;
        }
        s->up = true;
        proc_new(w, ROLE_AGENT, (uint8_t)e->b, (uint16_t)e->c, 0);
        return;
    }
    uint8_t site = w->proc[e->pid]->site;
    uint32_t newest = kind == ROLE_PS ? w->site[site].launched_slot[e->b] : w->site[site].launched_gang;
    if (kind == ROLE_WORKER && on_two_hosts(w, site) && newest == e->c && w->site[site].launched_host1 < e->c && w->proc[e->pid]->alive) {
        at(w, 50000, EV_START, e->pid, kind, e->b, e->c);   /* the ranks of this host wait for the others */
        return;
    }
    if (newest == e->c && kind == ROLE_PS)
        w->site[site].starting_slot[e->b] = false;
    else if (newest == e->c)
        w->site[site].starting_gang = false;
    /* The agent died between its decision and the launch: the instance counts as launched, and dead. So does one overtaken by a newer view. */
    if (!w->proc[e->pid]->alive || newest != e->c)
        return;
    struct proc *p = proc_new(w, kind, site, (uint16_t)e->b, (uint32_t)e->c);
    p->gang.ranks = (uint16_t)w->k.ranks[site];
}

static void calm_down(struct world *w)
{
    w->calm = true;
    w->fuse = 0;
    w->cut.on = false;
    trace(w, "faults end");
    for (int i = 1; i <= w->proc_count; i++) {
        w->proc[i]->paused_until_us = 0;
        if (w->proc[i]->alive && w->proc[i]->linked_to)
            link_reset(w, w->proc[i]);
    }
}

static void tick(struct world *w, struct proc *p)
{
    at(w, p->kind == ROLE_COORDINATOR ? 50000 : 80000, EV_TICK, p->pid, 0, 0, 0);
    if (p->kind == ROLE_COORDINATOR)
        coordinator_tick(w, p);
    else
        proc_tick(w, p);
}

static void on_reset(struct world *w, struct proc *p, const struct event *e)
{
    if (e->b == 2) {
        for (unsigned s = 0; s < p->view.slot_count && p->alive; s++)
            hosts_link(w, p, (uint8_t)s);
        return;
    }
    struct proc *who = w->proc[e->a];
    if (p->kind == ROLE_COORDINATOR && who->linked_to != p->pid)
        coordinator_gone(w, p, who);
}

static void start_coordinator(struct world *w, const struct event *e)
{
    bool superseded = e->a == 0 && w->coordinator_pid != e->pid;
    struct proc *last = w->proc[w->coordinator_pid];
    if (superseded || w->finished || (w->coordinator_fresh && e->a == 0) || (e->a == 1 && !w->coordinator_fresh && last))
        return;
    bool fresh = w->coordinator_fresh;
    if (!w->site[0].up && w->now_us < w->site[0].back_us) {
        at(w, w->site[0].back_us - w->now_us, EV_COORDINATOR, e->pid, e->a, 0, 0);
        return;
    }
    w->site[0].up = true;
    w->coordinator_fresh = false;
    coordinator_start(w, fresh);
    for (unsigned i = 0; i < w->k.sites; i++) {
        bool late = w->k.visiting && i + 1 == w->k.sites && !w->calm;
        at(w, chance(w, late ? 3000000 : 300000), EV_START, 0, ROLE_AGENT, i, 0);
        if (on_two_hosts(w, i))
            at(w, hash2(w->seed, 5152) % 3000000, EV_START, 0, ROLE_AGENT, i, 1);
    }
}

static void handle(struct world *w, const struct event *e)
{
    struct proc *p = e->pid ? w->proc[e->pid] : NULL;
    switch (e->kind) {
    case EV_PACKET: packet_deliver(w, e->packet); break;
    case EV_TICK: tick(w, p); break;
    case EV_SYNC: coordinator_synced(w, p, e->a); break;
    case EV_LOADED: host_loaded(w, p, (unsigned)e->a, e->b, e->c); break;
    case EV_COMPUTED: gang_computed(w, p, e->a); break;
    case EV_PART: host_part(w, p, e->a); break;
    case EV_START: start_process(w, e); break;
    case EV_FAULT: fault_strike(w, (unsigned)e->a); break;
    case EV_PUBLISH: agent_publish(w, p, e->a, (uint32_t)e->b, e->c); break;
    case EV_EXPORT: agent_export(w, p, (uint32_t)e->a); break;
    case EV_COORDINATOR: start_coordinator(w, e); break;
    case EV_RESET: on_reset(w, p, e); break;
    case EV_STOP:
        p = w->proc[w->coordinator_pid];
        if (p && p->alive && p->paused_until_us <= w->now_us && e->a)
            coordinator_drain(w, p);
        else if (p && p->alive && p->paused_until_us <= w->now_us)
            coordinator_stop(w, p);
        break;
    }
}

static bool needs_process(enum event_kind k)
{
    return k != EV_PACKET && k != EV_START && k != EV_FAULT && k != EV_COORDINATOR && k != EV_STOP;
}

static void finish_or_resume(struct world *w)
{
    struct proc *c = w->proc[w->coordinator_pid];
    if (core_round(c->coordinator.core) >= w->k.rounds && core_phase(c->coordinator.core) == CORE_DONE)
        return;
    trace(w, "stopped at round %lu; resuming", core_round(c->coordinator.core));
    world_restart(w);
    at(w, 500000, EV_COORDINATOR, 0, 1, 0, 0);
}

static void loop(struct world *w)
{
    struct event e;
    while (!w->violation[0] && !w->gave_up && !w->finished && next_event(w, &e)) {
        w->now_us = e.at_us;
        w->events++;
        if (!w->calm && w->now_us >= w->k.faults_end_us)
            calm_down(w);
        if (w->cut.on && w->now_us >= w->cut.until_us)
            w->cut.on = false;
        if (w->now_us > w->k.limit_us) {
            free(e.packet);
            violate(w, "L1/I13: not finished %.0f s after the faults ended", (double)(w->k.limit_us - w->k.faults_end_us) / 1e6);
            break;
        }
        struct proc *p = e.pid ? w->proc[e.pid] : NULL;
        if (p && p->alive && p->paused_until_us > w->now_us && e.kind != EV_START && e.kind != EV_COORDINATOR) {
            uint64_t wait = p->paused_until_us - w->now_us;
            struct event again = e;
            (void)again;
            at(w, wait + 1, e.kind, e.pid, e.a, e.b, e.c);
            /* The packet moves to the new event, which is the newest in order. */
            for (size_t i = 0; i < w->heap_count; i++)
                if (w->heap[i].order == w->order - 1)
                    w->heap[i].packet = e.packet;
            continue;
        }
        if (!needs_process(e.kind) || (p && p->alive))
            handle(w, &e);
        free(e.packet);
        if (w->finished && !w->violation[0])
            finish_or_resume(w);
    }
    if (!w->violation[0] && !w->gave_up && !w->finished)
        violate(w, "L1: nothing happens any more");
}

/* Where everybody stands, for whoever reads a violation. */
static void describe(struct world *w)
{
    for (int i = 1; i <= w->proc_count; i++) {
        struct proc *p = w->proc[i];
        if (!p->alive)
            continue;
        if (p->kind == ROLE_COORDINATOR)
            trace(w, "pid %d coordinator: phase %d round %lu view %u", i, core_phase(p->coordinator.core), core_round(p->coordinator.core), core_view(p->coordinator.core)->number);
        if (p->kind == ROLE_WORKER)
            trace(w, "pid %d gang site %u: view %u round+1 %lu target %lu computing %d contributed %d finished %d linked %d", i, p->site, p->view.number, p->gang.round,
                  p->gang.target, p->gang.computing, p->gang.contributed, p->gang.finished, p->linked_to);
        for (unsigned h = 0; h < p->host_count; h++) {
            const struct shard *s = p->host[h]->core;
            bool any;
            uint64_t v = shard_published(s, &any);
            unsigned held = 0;
            for (uint16_t n = 0; n < NAMES_LIMIT; n++)
                held += names_whole(s, n);
            trace(w, "pid %d slot %u shard %u: role %d state %d version %lu%s view %u names %u missing %u", i, p->host[h]->slot, p->host[h]->shard, s->role,
                  shard_state(s), v, any ? " visible" : "", shard_view(s), held, s->missing);
        }
    }
}

static void world_free(struct world *w)
{
    struct event e;
    while (next_event(w, &e))
        free(e.packet);
    procs_free(w);
    while (w->nodes) {
        struct node *n = w->nodes->next;
        free(w->nodes);
        w->nodes = n;
    }
    free(w->heap);
    free(w->log.entry);
    free(w->shard_out);
    free(w->core_out);
    free(w->core_memory[0]);
    free(w->core_memory[1]);
    free(w->any);
    free(w);
}

void sim_run(uint64_t seed, bool verbose, struct sim_result *result)
{
    struct world *w = calloc(1, sizeof *w);
    CHECK(w);
    w->seed = seed;
    w->rng = hash2(seed, 99);
    w->verbose = verbose;
    w->shard_out = malloc(sizeof *w->shard_out);
    w->core_out = malloc(sizeof *w->core_out);
    w->core_memory[0] = malloc(core_size());
    w->core_memory[1] = malloc(core_size());
    w->any = malloc(sizeof *w->any);
    CHECK(w->shard_out && w->core_out && w->core_memory[0] && w->core_memory[1] && w->any);
    choose(w);
    truth_init(w);
    for (unsigned i = 0; i < SIM_SITES; i++)
        w->site[i].up = true;
    for (unsigned i = 0; i < w->k.fault_count; i++)
        if (w->k.fault[i].message < 0)
            at(w, w->k.fault[i].at_us, EV_FAULT, 0, i, 0, 0);
    trace(w, "seed %lu: sites %u slots %u shards %u copies %u lanes %u rounds %u%s%s", seed, w->k.sites, w->k.slots, w->k.shards, w->k.copies, w->k.lanes, w->k.rounds,
          w->k.embedded ? " embedded" : "", w->k.deterministic ? " deterministic" : "");
    w->coordinator_fresh = true;
    at(w, 0, EV_COORDINATOR, 0, 1, 0, 0);
    loop(w);
    if (!w->violation[0] && !w->gave_up)
        truth_end(w);
    if (w->violation[0])
        describe(w);
    *result = (struct sim_result){.events = w->events, .rounds = w->rounds_total, .faults = w->faults_done, .violated = w->violation[0] != 0, .gave_up = w->gave_up};
    if (result->violated) {
        snprintf(result->text, sizeof result->text, "%s", w->violation);
        for (unsigned i = w->trace_next > SIM_TRACE ? w->trace_next - SIM_TRACE : 0; !verbose && i < w->trace_next; i++)
            fprintf(stderr, "# %s\n", w->trace[i % SIM_TRACE]);
    }
    world_free(w);
}
