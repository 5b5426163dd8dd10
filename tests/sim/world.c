/* Time, chance, network and processes of the simulated world. */
#include "tests/sim/sim.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"

uint64_t hash2(uint64_t a, uint64_t b)
{
    uint64_t x = a * 0x9E3779B97F4A7C15ull ^ (b + 0x7F4A7C15F39CC060ull);
    x ^= x >> 30;
    x *= 0xBF58476D1CE4E5B9ull;
    x ^= x >> 27;
    x *= 0x94D049BB133111EBull;
    return x ^ x >> 31;
}

uint64_t chance(struct world *w, uint64_t n)
{
    w->rng = hash2(w->rng, 0x5151);
    return n ? (w->rng >> 16) % n : 0;
}

bool odds(struct world *w, unsigned per_thousand) { return per_thousand && chance(w, 1000) < per_thousand; }

void trace(struct world *w, const char *fmt, ...)
{
    char *line = w->trace[w->trace_next++ % SIM_TRACE];
    int n = snprintf(line, 200, "%10.3f ", (double)w->now_us / 1000.0);
    va_list args;
    va_start(args, fmt);
    vsnprintf(line + n, 200 - (size_t)n, fmt, args);
    va_end(args);
    if (w->verbose)
        fprintf(stderr, "%s\n", line);
}

void violate(struct world *w, const char *fmt, ...)
{
    if (w->violation[0])
        return;
    va_list args;
    va_start(args, fmt);
    vsnprintf(w->violation, sizeof w->violation, fmt, args);
    va_end(args);
    trace(w, "VIOLATION %s", w->violation);
}

/* ---- the queue of events: a heap by time, then by order of making ---- */
static bool before(const struct event *a, const struct event *b) { return a->at_us != b->at_us ? a->at_us < b->at_us : a->order < b->order; }

static void push(struct world *w, struct event e)
{
    if (w->heap_count == w->heap_room) {
        w->heap_room = w->heap_room ? w->heap_room * 2 : 1024;
        w->heap = realloc(w->heap, w->heap_room * sizeof *w->heap);
        CHECK(w->heap);
    }
    e.order = w->order++;
    size_t i = w->heap_count++;
    while (i > 0 && before(&e, &w->heap[(i - 1) / 2])) {
        w->heap[i] = w->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    w->heap[i] = e;
}

void at(struct world *w, uint64_t after_us, enum event_kind kind, int pid, uint64_t a, uint64_t b, uint64_t c)
{
    push(w, (struct event){.at_us = w->now_us + after_us, .kind = kind, .pid = pid, .a = a, .b = b, .c = c});
}

bool next_event(struct world *w, struct event *out)
{
    if (w->heap_count == 0)
        return false;
    *out = w->heap[0];
    struct event e = w->heap[--w->heap_count];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= w->heap_count)
            break;
        if (child + 1 < w->heap_count && before(&w->heap[child + 1], &w->heap[child]))
            child++;
        if (!before(&w->heap[child], &e))
            break;
        w->heap[i] = w->heap[child];
        i = child;
    }
    w->heap[i] = e;
    return true;
}

/* ---- processes ---- */
struct proc *proc_new(struct world *w, uint8_t kind, uint8_t site, uint16_t index, uint32_t instance)
{
    CHECK(w->proc_count < SIM_PROCS - 1);
    struct proc *p = calloc(1, sizeof *p);
    CHECK(p);
    p->pid = ++w->proc_count;
    p->kind = kind;
    p->site = site;
    p->index = index;
    p->instance = instance;
    p->alive = true;
    p->dial_at_us = w->now_us + chance(w, 5000);
    w->proc[p->pid] = p;
    at(w, 1 + chance(w, 20000), EV_TICK, p->pid, 0, 0, 0);
    static const char *const names[] = {"?", "coordinator", "agent", "gang", "ps"};
    trace(w, "start pid %d: %s site %u index %u instance %u", p->pid, names[kind], site, index, instance);
    return p;
}

struct proc *proc_find(struct world *w, uint8_t kind, uint8_t site, uint16_t index, uint32_t instance)
{
    for (int i = w->proc_count; i > 0; i--) {
        struct proc *p = w->proc[i];
        if (p->alive && p->kind == kind && p->site == site && p->index == index && p->instance == instance)
            return p;
    }
    return NULL;
}

static void free_hosts(struct proc *p)
{
    for (unsigned i = 0; i < p->host_count; i++)
        host_free(p->host[i]);
    p->host_count = 0;
}

void proc_kill(struct world *w, struct proc *p, const char *why)
{
    if (!p->alive)
        return;
    trace(w, "kill pid %d: %s", p->pid, why);
    p->alive = false;
    /* What it had written and the network had not taken yet dies with it. */
    unsigned taken = w->calm ? 0 : (unsigned)chance(w, 1000);
    for (size_t i = 0; i < w->heap_count; i++)
        if (w->heap[i].kind == EV_PACKET && w->heap[i].packet && w->heap[i].packet->from == p->pid && odds(w, taken))
            w->heap[i].packet->to = 0;
    free_hosts(p);
    if (p->kind == ROLE_COORDINATOR) {
        for (int i = 0; i < 2; i++)
            if (w->core_user[i] == p->pid)
                w->core_user[i] = 0;
        if (p->pid == w->coordinator_pid && !w->finished)
            at(w, 100000 + chance(w, 1500000), EV_COORDINATOR, p->pid, 0, 0, 0);
        for (int i = 1; i <= w->proc_count; i++)
            if (w->proc[i]->linked_to == p->pid) {
                w->proc[i]->linked_to = 0;
                w->proc[i]->dial_at_us = w->now_us + chance(w, 200000);
            }
    } else {
        struct proc *c = w->proc[p->linked_to];
        p->linked_to = 0;
        if (c && c->alive)
            at(w, 1000 + chance(w, 5000), EV_RESET, c->pid, (uint64_t)p->pid, 1, 0);
    }
    if (p->kind == ROLE_WORKER || p->kind == ROLE_PS)
        agent_child_died(w, p);
    if (p->kind == ROLE_AGENT)
        at(w, 100000 + chance(w, 1000000), EV_START, 0, ROLE_AGENT, p->site, p->index);
}

void procs_free(struct world *w)
{
    for (int i = 1; i <= w->proc_count; i++) {
        free_hosts(w->proc[i]);
        free(w->proc[i]);
    }
}

/* The link to the coordinator breaks: both ends notice, and the process dials again. */
void link_reset(struct world *w, struct proc *p)
{
    if (!p->linked_to)
        return;
    at(w, chance(w, 5000), EV_RESET, p->linked_to, (uint64_t)p->pid, 0, 0);
    p->linked_to = 0;
    p->accepted = false;
    p->dial_at_us = w->now_us + chance(w, 300000);
}

/* ---- network ---- */
static bool coordinator_link(const struct world *w, const struct proc *a, int to)
{
    return a->kind == ROLE_COORDINATOR || w->proc[to]->kind == ROLE_COORDINATOR;
}

static bool cut_between(const struct world *w, const struct proc *a, const struct proc *b)
{
    return w->cut.on && a->site == w->cut.a && b->site == w->cut.b;
}

static uint64_t delivery_time(struct world *w, int from, int to)
{
    uint64_t delay = 50 + chance(w, w->k.delay_us);
    if (odds(w, 20))
        delay += chance(w, 20 * w->k.delay_us);
    uint64_t t = w->now_us + delay, *last = &w->last_delivery_us[from % 64][to % 64];
    if (w->k.fifo && t <= *last)
        t = *last + 1;
    if (t > *last)
        *last = t;
    return t;
}

void send_to(struct world *w, struct proc *from, uint16_t rank, uint8_t from_slot, int to, enum msg_type type, const void *m, const struct payload *payload)
{
    struct proc *target = to > 0 && to <= w->proc_count ? w->proc[to] : NULL;
    if (!target || !from->alive)
        return;
    fault_at_message(w, type);
    if (!from->alive)
        return;
    bool own = from == target;
    if (w->k.visiting && from->kind == ROLE_WORKER && target->kind == ROLE_PS && target->site + 1u == w->k.sites && from->site != target->site)
        return;                                          /* its shards dial out to other shards; nobody dials them */
    bool lost = !own && (cut_between(w, from, target) || (!w->calm && odds(w, w->k.loss)));
    if (lost && coordinator_link(w, from, to)) {
        /* A stream does not lose one message: it breaks. */
        link_reset(w, from->kind == ROLE_COORDINATOR ? target : from);
        return;
    }
    if (lost)
        return;
    uint8_t *body = w->scratch;
    struct writer wr = writer_over(body, MSG_BODY_MAX);
    CHECK(msg_encode(type, m, &wr) && !wr.bad);
    unsigned copies = !own && !w->calm && odds(w, w->k.duplicate) ? 2 : 1;
    for (unsigned i = 0; i < copies; i++) {
        struct packet *p = malloc(sizeof *p + wr.pos);
        CHECK(p);
        *p = (struct packet){.to = to, .from = from->pid, .from_slot = from_slot, .rank = rank, .from_instance = from->instance, .type = type, .size = (uint32_t)wr.pos};
        p->from_id = (struct process_id){.role = from->kind, .site = from->site, .index = from->kind == ROLE_WORKER ? rank : from->index, .instance = from->instance};
        if (payload)
            p->payload = *payload;
        memcpy(p->body, body, wr.pos);
        uint64_t t = delivery_time(w, from->pid, to) + (i ? chance(w, 500000) : 0);
        push(w, (struct event){.at_us = t, .kind = EV_PACKET, .pid = to, .packet = p});
    }
}

/* Weaker than TCP, as the model: a message to a dead shard process may reach the one that was started in its place. */
static struct proc *receiver(struct world *w, const struct packet *packet)
{
    struct proc *p = w->proc[packet->to];
    if (!p || p->alive)
        return p;
    if (p->kind != ROLE_PS || w->calm || !odds(w, w->k.late))
        return NULL;
    for (int i = w->proc_count; i > 0; i--)
        if (w->proc[i]->alive && w->proc[i]->kind == ROLE_PS && w->proc[i]->index == p->index)
            return w->proc[i];
    return NULL;
}

void packet_deliver(struct world *w, struct packet *packet)
{
    struct proc *p = receiver(w, packet);
    struct proc *from = w->proc[packet->from];
    if (!p)
        return;
    bool to_coordinator = p->kind == ROLE_COORDINATOR, from_coordinator = from->kind == ROLE_COORDINATOR;
    if (to_coordinator && from->alive && from->linked_to != p->pid)
        return;                                          /* of a link that was reset since */
    if (from_coordinator && packet->to == p->pid && p->linked_to != from->pid)
        return;
    struct reader r = reader_over(packet->body, packet->size);
    if (!msg_decode(packet->type, &r, w->any)) {
        violate(w, "codec: a %s message does not decode", msg_type_name(packet->type));
        return;
    }
    if (to_coordinator)
        coordinator_packet(w, p, packet, w->any);
    else
        client_packet(w, p, packet, w->any);
}
