/* Every step that is possible from a state: messages, faults; and the state it all begins with. */
#include <stdarg.h>
#include <string.h>

#include "model.h"

const char *const type_names[] = {"", "VIEW", "CONTRIBUTE", "SEED", "REPLICATE", "RECORDS", "ACK", "BLOCK", "PREPARED", "COMMIT", "PULLREPLY", "PART"};

const char *who_name(unsigned who)
{
    static const char *const names[] = {"A0", "A1", "A2", "B0", "B1", "B2", "zombie", "coordinator", "gang0", "gang1"};
    return names[who];
}

void broken(struct model *m, const char *invariant)
{
    if (!m->broken)
        m->broken = invariant;
}

void label(struct model *m, const char *fmt, ...)
{
    va_list args;
    if (!m->tell)
        return;
    va_start(args, fmt);
    vsnprintf(m->label, sizeof m->label, fmt, args);
    va_end(args);
}

static void tell_message(struct model *m, const char *how, const struct message *msg)
{
    label(m, "%s%s %s -> %s: view %u, generation %u, version %u, names %02x, log %u", how, type_names[msg->type], who_name(msg->from), who_name(msg->to),
          msg->type == VIEW ? msg->plan.number : msg->view, msg->generation, msg->type == CONTRIBUTE ? msg->round : msg->sender.version, msg->names,
          msg->log_count);
}

static void send(struct model *m, const struct state *s, const struct message *msg)
{
    struct state next = *s;
    deliver(m, &next, msg);
    if (!m->broken && memcmp(&next, s, m->bytes) == 0)
        return;
    tell_message(m, "", msg);
    m->emit(m, &next, false);
    if (m->bound.late && s->late.type == NOTHING) {
        next = *s;
        next.late = *msg;
        tell_message(m, "(put aside) ", msg);
        m->emit(m, &next, false);
    }
}

static void send_to_slot(struct model *m, const struct state *s, struct message *msg, unsigned slot)
{
    msg->to = (uint8_t)slot;
    send(m, s, msg);
    if (s->zombie_slot == slot + 1) {
        msg->to = ZOMBIE;
        send(m, s, msg);
    }
}

static struct message from_proc(const struct state *s, unsigned who, enum message_type type)
{
    const struct proc *p = &s->proc[who];
    return (struct message){.type = (uint8_t)type, .from = (uint8_t)who, .shard = (uint8_t)(slot_at(s, who) / COPIES_MAX), .view = p->view,
                            .generation = p->generation, .sender = *p};
}

/* ---- coordinator ---- */
static void coordinator_sends(struct model *m, const struct state *s)
{
    struct message msg = {.type = VIEW, .from = COORDINATOR, .plan = s->view};
    unsigned slots = slot_of(m->bound.shards - 1u, m->bound.copies);
    for (unsigned i = 0; i < slots; i++) {
        msg.to = (uint8_t)i;
        if (i % COPIES_MAX < m->bound.copies)
            send(m, s, &msg);
    }
    for (unsigned g = 0; g < m->bound.gangs; g++) {
        msg.to = (uint8_t)(GANG0 + g);
        send(m, s, &msg);
    }
    msg = (struct message){.type = COMMIT, .from = COORDINATOR, .view = s->view.number, .generation = s->view.generation, .log_count = s->log_count,
                           .log_synced = s->log_synced};
    memcpy(msg.log, s->log, sizeof msg.log);
    for (unsigned sh = 0; sh < m->bound.shards && s->log_count; sh++)
        for (unsigned x = 0; x < m->bound.copies; x++)
            if (s->view.role[sh][x] == PRIMARY || (s->view.role[sh][x] == SYNC && !on(m, CHAIN)))
                send_to_slot(m, s, &msg, slot_of(sh, x));
}

/* ---- shards ---- */
static uint8_t held_by_all(const struct model *m, const struct proc *p, unsigned self)
{
    uint8_t names = p->held;
    for (unsigned x = 0; on(m, HELD) && x < m->bound.copies; x++) {
        bool holder = x != self && (p->peer_role[x] == SYNC || (p->peer_role[x] == COPYING && on(m, COPYSYNC) && p->complete >> x & 1));
        if (holder)
            names &= p->heard[x] == p->version + 1 ? p->has[x] : 0;
    }
    return names;
}

static void primary_sends(struct model *m, const struct state *s, unsigned who)
{
    const struct proc *p = &s->proc[who];
    unsigned shard = slot_at(s, who) / COPIES_MAX, self = slot_at(s, who) % COPIES_MAX;
    for (unsigned x = 0; x < m->bound.copies; x++) {
        const struct proc *peer = &s->proc[slot_of(shard, x)];
        if (x == self || p->peer_role[x] == NONE)
            continue;
        struct message msg = from_proc(s, who, REPLICATE);
        send_to_slot(m, s, &msg, slot_of(shard, x));
        msg.type = BLOCK;
        for (msg.block = 0; (peer->state == COPIES || peer->state == LOADING) && msg.block < 2; msg.block++)
            send_to_slot(m, s, &msg, slot_of(shard, x));
    }
    struct message msg = from_proc(s, who, PREPARED);
    msg.names = held_by_all(m, p, self);
    msg.to = COORDINATOR;
    send(m, s, &msg);
}

static void copy_sends(struct model *m, const struct state *s, unsigned who)
{
    const struct proc *p = &s->proc[who];
    unsigned shard = slot_at(s, who) / COPIES_MAX;
    for (unsigned x = 0; x < m->bound.copies; x++) {
        if (p->peer_role[x] != PRIMARY)
            continue;
        struct message msg = from_proc(s, who, ACK);
        send_to_slot(m, s, &msg, slot_of(shard, x));
        msg.type = RECORDS;
        if (p->state == SERVES && on(m, LAG))
            send_to_slot(m, s, &msg, slot_of(shard, x));
    }
}

/* A gang asks the in-sync copy at its own site, else the primary; an answer that is under way when the view changes comes from elsewhere. */
static bool asks(const struct model *m, const struct gang *g, unsigned index, unsigned shard, unsigned copy, uint8_t view)
{
    bool own = index < m->bound.copies && in_sync(g->role[shard][index]);
    return view != g->view || (own ? copy == index : g->role[shard][copy] == PRIMARY);
}

static void answers_pulls(struct model *m, const struct state *s, unsigned who)
{
    const struct proc *p = &s->proc[who];
    unsigned shard = slot_at(s, who) / COPIES_MAX, copy = slot_at(s, who) % COPIES_MAX;
    struct message msg = from_proc(s, who, PULLREPLY);
    for (unsigned g = 0; g < m->bound.gangs; g++) {
        msg.to = (uint8_t)(GANG0 + g);
        if (asks(m, &s->gang[g], g, shard, copy, p->view))
            send(m, s, &msg);
    }
}

static void shard_sends(struct model *m, const struct state *s, unsigned who)
{
    const struct proc *p = &s->proc[who];
    if (p->part) {
        struct message msg = from_proc(s, who, PART);
        msg.to = COORDINATOR;
        send(m, s, &msg);
    }
    if (p->role == PRIMARY && p->state == SERVES)
        primary_sends(m, s, who);
    if ((p->role == SYNC || p->role == COPYING) && p->state != BLANK)
        copy_sends(m, s, who);
    if (in_sync(p->role) && p->state == SERVES && p->version <= p->stable)
        answers_pulls(m, s, who);
}

/* ---- gangs ---- */
static uint8_t names_of(const struct model *m, const struct gang *g, unsigned index)
{
    unsigned attempt = m->bound.attempts ? g->incarnation & 1u : 0;
    if (m->bound.gangs == 1 || g->plan == index + 1)
        return (uint8_t)(1u << (4 + attempt));
    return g->plan == 0 ? (uint8_t)(1u << (2 * index + attempt)) : 0;
}

/* NEED_SEED comes from the copy it asks, and, with the rule, from a primary that waits for seeds itself. */
static bool must_seed(const struct model *m, const struct state *s, const struct gang *g, unsigned index, unsigned shard)
{
    bool need = false;
    for (unsigned x = 0; x < m->bound.copies; x++) {
        const struct proc *p = &s->proc[slot_of(shard, x)];
        bool waits = p->state == LOADING && p->view == g->view;
        need = need || (waits && g->computed == 0 && asks(m, g, index, shard, x, g->view));
        need = need || (waits && g->computed > 0 && g->role[shard][x] == PRIMARY && on(m, NEEDSEED));
    }
    return need;
}

static void gang_sends(struct model *m, const struct state *s, unsigned index)
{
    const struct gang *g = &s->gang[index];
    struct message msg = {.type = CONTRIBUTE, .from = (uint8_t)(GANG0 + index), .view = g->view, .generation = g->generation};
    if (!g->view)
        return;
    for (unsigned sh = 0; sh < m->bound.shards; sh++) {
        bool seeds = m->bound.seeds && must_seed(m, s, g, index, sh);
        for (unsigned x = 0; x < m->bound.copies; x++) {
            msg.type = SEED;
            if (seeds && in_sync(g->role[sh][x]))
                send_to_slot(m, s, &msg, slot_of(sh, x));
            msg.type = CONTRIBUTE;
            msg.round = g->computed - 1;
            msg.names = names_of(m, g, index);
            if (g->computed && g->computed <= m->bound.rounds && msg.names && g->role[sh][x] == PRIMARY)
                send_to_slot(m, s, &msg, slot_of(sh, x));
        }
    }
}

/* ---- what was put aside ---- */
static void late_arrives(struct model *m, const struct state *s)
{
    struct message msg = s->late;
    bool zombie_too = s->zombie_slot && msg.to < ZOMBIE && s->zombie_slot == msg.to + 1;
    for (unsigned k = 0; msg.type != NOTHING && k < 1u + zombie_too; k++) {
        struct state next = *s;
        msg.to = k ? ZOMBIE : s->late.to;
        deliver(m, &next, &msg);
        if (!m->broken && memcmp(&next, s, m->bytes) == 0)
            continue;
        tell_message(m, "LATE ", &msg);
        m->emit(m, &next, false);
        memset(&next.late, 0, sizeof next.late);
        m->emit(m, &next, false);
    }
}

/* ---- faults ---- */
static void kill_proc(struct state *s, unsigned slot) { proc_blank(&s->proc[slot], s->proc[slot].instance + 1); }

static void kill_gang(struct state *s, unsigned index) { s->gang[index] = (struct gang){.incarnation = s->gang[index].incarnation + 1}; }

static void kill_site(struct model *m, struct state *s, unsigned site)
{
    for (unsigned sh = 0; sh < m->bound.shards; sh++)
        kill_proc(s, slot_of(sh, site));
    if (site < m->bound.gangs)
        kill_gang(s, site);
    if (site == 0)
        coordinator_lost(s, true);
    label(m, "FAULT site %u is lost%s", site, site ? "" : ", with the coordinator and its log's unsynced end");
}

static void fault_in_shards(struct model *m, const struct state *s, char kind)
{
    for (unsigned sh = 0; sh < (kind == 'B' ? 1u : m->bound.shards); sh++) {
        struct state next = *s;
        for (unsigned x = 0; x < m->bound.copies; x++) {
            unsigned slot = slot_of(sh, x);
            if (kind != 'B')
                next = *s;
            if (kind == 'P' || kind == 'B') {
                kill_proc(&next, slot);
                label(m, "FAULT %s dies%s", who_name(slot), kind == 'B' ? ", as all its copies" : "");
            } else if (!s->coordinator_up || !in_sync(s->view.role[sh][x]) || (kind == 'Z' && s->zombie_slot)) {
                continue;
            } else if (kind == 'Z') {
                next.proc[ZOMBIE] = next.proc[slot];
                next.zombie_slot = (uint8_t)(slot + 1);
                kill_proc(&next, slot);
                label(m, "FAULT %s is paused and replaced; it wakes as zombie", who_name(slot));
            } else {
                exclude(m, &next, sh, x, true);
                continue;
            }
            if (kind != 'B' || x + 1 == m->bound.copies)
                m->emit(m, &next, true);
        }
    }
}

static void fault(struct model *m, const struct state *before, char kind)
{
    struct state s = *before, next;
    s.faults++;
    switch (kind) {
    case 'G':
        for (unsigned g = 0; g < m->bound.gangs; g++) {
            next = s;
            kill_gang(&next, g);
            label(m, "FAULT gang%u dies", g);
            m->emit(m, &next, true);
        }
        break;
    case 'C':
    case 'H':
        if (!s.coordinator_up)
            break;
        coordinator_lost(&s, kind == 'H');
        label(m, "FAULT coordinator dies%s", kind == 'H' ? " with its host: the log's unsynced end is lost" : "");
        m->emit(m, &s, true);
        break;
    case 'S':
    case 's':
        for (unsigned x = 0; x < (kind == 's' ? 1u : m->bound.copies); x++) {
            next = s;
            kill_site(m, &next, x);
            m->emit(m, &next, true);
        }
        break;
    default:
        fault_in_shards(m, &s, kind);
    }
}

void moves(struct model *m, const struct state *s)
{
    unsigned slots = slot_of(m->bound.shards - 1u, m->bound.copies);
    if (s->coordinator_up)
        coordinator_sends(m, s);
    coordinator_moves(m, s);
    for (unsigned i = 0; i < slots; i++)
        if (s->proc[i].role != NONE)
            shard_sends(m, s, i);
    if (s->zombie_slot) {
        shard_sends(m, s, ZOMBIE);
        struct state next = *s;
        next.zombie_slot = 0;
        memset(&next.proc[ZOMBIE], 0, sizeof next.proc[ZOMBIE]);
        label(m, "the zombie learns of a view and ends");
        m->emit(m, &next, false);
    }
    for (unsigned g = 0; g < m->bound.gangs; g++)
        gang_sends(m, s, g);
    late_arrives(m, s);
    for (const char *k = m->bound.kinds; s->faults < m->bound.faults && *k; k++)
        fault(m, s, *k);
}

/* Everybody has the first view. Shard B's primary is at another site than shard A's. */
void first_state(const struct model *m, struct state *s)
{
    memset(s, 0, sizeof *s);
    s->coordinator_up = 1;
    s->view.number = 1;
    for (unsigned sh = 0; sh < m->bound.shards; sh++)
        for (unsigned x = 0; x < m->bound.copies; x++)
            s->view.role[sh][x] = x == sh % m->bound.copies ? PRIMARY : SYNC;
    s->durable_view = s->view;
    for (unsigned sh = 0; sh < m->bound.shards; sh++)
        for (unsigned x = 0; x < m->bound.copies; x++) {
            struct proc *p = &s->proc[slot_of(sh, x)];
            p->view = 1;
            p->role = s->view.role[sh][x];
            p->state = m->bound.seeds ? LOADING : SERVES;
            p->block[0] = p->block[1] = m->bound.seeds ? 0 : 1;
            for (unsigned k = 0; k < m->bound.copies; k++)
                p->peer_role[k] = s->view.role[sh][k];
        }
    for (unsigned g = 0; g < m->bound.gangs; g++) {
        struct gang *gang = &s->gang[g];
        gang->view = 1;
        gang->computed = m->bound.seeds ? 0 : 1;
        memcpy(gang->role, s->view.role, sizeof gang->role);
    }
}
