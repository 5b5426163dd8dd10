/* What a message does to its receiver: shards as in ps/shard*.c, gangs as in client/rounds.c. */
#include <string.h>

#include "model.h"

/* Names are nodes of a lane tree over two lanes, [0] [1] [01], each with the attempt's parity: bit 2 * node + attempt. */
const uint8_t cover_names[8] = {0, 1 << 4, 1 << 5, 1 << 0 | 1 << 2, 1 << 0 | 1 << 3, 1 << 1 | 1 << 2, 1 << 1 | 1 << 3, 0};
static const uint8_t NODE_LANES[3] = {1, 2, 3};

uint8_t cover_of(uint8_t names)
{
    for (uint8_t c = 1; c <= 6; c++)
        if (cover_names[c] == names)
            return c;
    return 0;
}

static uint8_t nodes_of(uint8_t names) { return (names | names >> 1) & 0x15; }

bool holds(const struct model *m, const struct proc *p, uint8_t names)
{
    return on(m, ATT) ? (p->held & names) == names : (nodes_of(p->held) & nodes_of(names)) == nodes_of(names);
}

bool same_record(record a, record b)
{
    return RECORD_SAYS(a) == RECORD_SAYS(b) && (RECORD_SUMMED(a) == RECORD_SUMMED(b) || !RECORD_SUMMED(a) || !RECORD_SUMMED(b));
}

/* ---- a shard ---- */
void proc_blank(struct proc *p, uint8_t instance)
{
    memset(p, 0, sizeof *p);
    p->instance = instance & 3;
}

static void forget(struct model *m, struct proc *p, uint8_t version)
{
    if (!on(m, GENHELD) && p->held && p->version > version)
        p->annulled = p->held;
    else if (on(m, GENHELD))
        p->held = p->annulled = 0;
    p->version = p->first = p->stable = p->synced = version;
    memset(p->history, 0, sizeof p->history);
    memset(p->block, 0, sizeof p->block);
}

static void take_names(struct model *m, struct proc *p, uint8_t names)
{
    for (unsigned k = 0; k < NAMES_MAX; k++) {
        uint8_t node = k / 2;
        bool clash = false;
        if (!(names >> k & 1) || p->held >> k & 1 || (!on(m, ATT) && p->held >> 2 * node & 3))
            continue;
        for (unsigned j = 0; j < NAMES_MAX && !on(m, NEST); j++)
            clash = clash || (p->held >> j & 1 && j / 2 != node && NODE_LANES[j / 2] & NODE_LANES[node]);
        if (!clash)
            p->held |= (uint8_t)(1u << k);
    }
}

/* Which names the cover really sums here: those of its attempts, or, without the rule, whatever attempt is held. */
static uint8_t names_summed(const struct model *m, const struct proc *p, uint8_t cover)
{
    uint8_t lanes = nodes_of(cover_names[cover]);
    return on(m, ATT) ? cover_names[cover] : p->held & (uint8_t)(lanes | lanes << 1);
}

static bool take_record(struct model *m, struct proc *p, uint8_t round, record r)
{
    uint8_t cover = r >> 6 & 7, generation = r >> 4 & 3, view = r & 15;
    if (round < p->version) {
        if (round >= p->first && RECORD_SAYS(p->history[round]) != RECORD_SAYS(r))
            broken(m, "S4: a shard was sent another record for a round than it holds");
        return false;
    }
    if (round != p->version || (on(m, GENHELD) && generation != (p->generation & 3)) || (!on(m, ENV) && view != p->view) ||
        !holds(m, p, cover_names[cover]))
        return false;
    uint8_t summed = names_summed(m, p, cover);
    if (p->annulled & summed)
        broken(m, "S5: a contribution that was computed on annulled weights was applied");
    for (unsigned b = 0; b < 2; b++)
        if (p->block[b] == p->version + 1)
            p->block[b]++;
    p->history[round] = RECORD_SAYS(r) | (record)(cover_of(summed) << 9);
    p->version++;
    p->held = p->annulled = 0;
    memset(p->has, 0, sizeof p->has);
    return true;
}

static void settle(struct model *m, struct proc *p, unsigned self)
{
    if (p->state != SERVES || !in_sync(p->role))
        return;
    uint8_t stable = p->role == PRIMARY ? p->version : p->stable;
    for (unsigned x = 0; p->role == PRIMARY && x < m->bound.copies; x++) {
        bool holder = x != self && (p->peer_role[x] == SYNC || (p->peer_role[x] == COPYING && on(m, COPYSYNC) && p->complete >> x & 1));
        uint8_t known = p->heard[x] ? p->heard[x] - 1 : 0;
        if (holder && known < stable)
            stable = known;
    }
    if (!on(m, STAB))
        stable = p->version;
    if (stable > p->stable)
        p->stable = stable;
    if (p->version == m->bound.checkpoint && p->version > 0 && p->stable >= p->version && p->first < p->version && !p->part) {
        p->part = p->history[p->version - 1];             /* the checkpoint flag stands in the record, so the record must be here */
        p->part_generation = p->generation;
    }
}

static void serve(struct model *m, struct proc *p, unsigned self)
{
    p->state = SERVES;
    p->block[0] = p->block[1] = p->version + 1;
    settle(m, p, self);
}

static bool knows_primary(const struct proc *p, unsigned copy, uint8_t instance)
{
    return p->peer_role[copy] == PRIMARY && p->peer_instance[copy] == instance;
}

static void load_base(struct model *m, struct state *s, struct proc *p, unsigned self)
{
    forget(m, p, p->base);
    for (unsigned r = 0; r < p->base; r++)
        p->history[r] = s->log[r];
    p->state = LOADING;
    if (!m->bound.seeds || p->base > 0)
        serve(m, p, self);
}

static void on_view(struct model *m, struct state *s, unsigned who, const struct view *v)
{
    struct proc *p = &s->proc[who];
    unsigned shard = who / COPIES_MAX, self = who % COPIES_MAX;
    uint8_t role = v->instance[shard][self] == p->instance || !on(m, INST) ? v->role[shard][self] : NONE;
    bool newer = v->generation != p->generation, same_primary = false;
    if (v->number <= p->view)
        return;
    for (unsigned x = 0; x < m->bound.copies; x++)
        same_primary = same_primary || (v->role[shard][x] == PRIMARY && knows_primary(p, x, v->instance[shard][x]));
    p->view = v->number;
    p->role = role;
    p->base = v->base;
    memcpy(p->peer_role, v->role[shard], sizeof p->peer_role);
    memcpy(p->peer_instance, v->instance[shard], sizeof p->peer_instance);
    memset(p->heard, 0, sizeof p->heard);
    memset(p->has, 0, sizeof p->has);
    p->complete = 0;
    if (newer) {
        p->generation = v->generation;
        forget(m, p, v->base);
        p->state = BLANK;
        p->part = 0;
        p->part_generation = 0;
    } else if (!on(m, KEEP)) {
        p->held = 0;
    }
    if (role == NONE) {
        forget(m, p, v->base);
        p->state = BLANK;
    } else if (role == COPYING) {
        bool keeps = (p->state == COPIES && same_primary) || (!on(m, WIPE) && p->state == SERVES);
        if (!keeps) {
            forget(m, p, 0);
            p->held = p->annulled = 0;               /* whatever GENHELD says: a copy starts empty */
        }
        p->state = COPIES;
    } else if (p->state == BLANK) {
        load_base(m, s, p, self);
    } else {
        if (p->state == COPIES)
            p->state = SERVES;
        settle(m, p, self);
    }
}

/* ---- what copies are told ---- */
static void skip_ahead(struct model *m, struct proc *p, const struct proc *from, uint8_t first, uint8_t count)
{
    if (first + count != from->version)
        return;                                           /* not the newest ones: they leave a gap */
    p->version = from->version;
    p->first = first;
    memcpy(p->history, from->history, sizeof p->history);
    p->held = p->annulled = 0;
    if (on(m, COPYVER))
        memset(p->block, 0, sizeof p->block);
}

/* First record of a REPLICATE, as first_record_for in ps/shard_send.c. */
static uint8_t first_sent(const struct model *m, const struct proc *from, unsigned copy)
{
    uint8_t version = from->heard[copy] ? from->heard[copy] - 1 : 0, known = from->heard[copy] ? version : from->synced;
    if (from->peer_role[copy] == COPYING && version < from->version) {
        known = from->synced < known ? from->synced : known;
        if (on(m, LASTREC) && known >= from->version && from->version > 0)
            known = from->version - 1;
        if (on(m, WINDOW) && from->version - known > records_limit(m))
            known = from->version - records_limit(m);
    }
    return known < from->first ? from->first : known;
}

static uint8_t window_of(const struct model *m, uint8_t first, uint8_t end)
{
    uint8_t count = end > first ? end - first : 0;
    return count < records_limit(m) ? count : records_limit(m);
}

static void on_replicate(struct model *m, struct proc *p, unsigned self, unsigned copy, const struct message *msg)
{
    const struct proc *from = &msg->sender;
    uint8_t first = first_sent(m, from, self), count = window_of(m, first, from->version), active = 0;
    if (!knows_primary(p, copy, from->instance) || (p->state != SERVES && p->state != COPIES))
        return;
    if (from->version == p->version)
        take_names(m, p, from->held);
    for (uint8_t r = first; r < first + count; r++)
        take_record(m, p, r, from->history[r]);
    if (p->state == COPIES && from->version > p->version)
        skip_ahead(m, p, from, first, count);
    if (from->stable > p->stable)
        p->stable = from->stable;
    for (unsigned x = 0; x < m->bound.copies; x++)
        active += p->peer_role[x] != NONE;
    uint8_t both = from->version < p->version && on(m, INFERV) ? from->version : p->version;
    if ((active == 2 || !on(m, INFER2)) && p->state == SERVES && both > p->stable)
        p->stable = both;
    if (from->synced > p->synced)
        p->synced = from->synced;
    settle(m, p, self);
}

static void on_ack(struct model *m, struct proc *p, unsigned self, unsigned copy, const struct message *msg)
{
    const struct proc *from = &msg->sender;
    bool complete = from->block[0] && from->block[1];
    if (p->role != PRIMARY || p->state != SERVES || copy == self || p->peer_role[copy] == NONE || p->peer_instance[copy] != from->instance)
        return;
    if (from->version + 1 > p->heard[copy]) {
        p->heard[copy] = from->version + 1;
        p->has[copy] = 0;
    }
    if (from->version == p->version && p->heard[copy] == p->version + 1) {
        p->has[copy] |= from->held & p->held;
        if (p->peer_role[copy] == COPYING && complete && (p->held & ~p->has[copy]) == 0)
            p->complete |= (uint8_t)(1u << copy);
    }
    settle(m, p, self);
}

static void on_block(struct model *m, struct proc *p, unsigned self, unsigned copy, const struct message *msg)
{
    const struct proc *from = &msg->sender;
    bool waits = p->state == LOADING && on(m, SEEDCOPY);
    if (!knows_primary(p, copy, from->instance) || (p->state != COPIES && !waits) || (from->version != p->version && on(m, COPYVER)))
        return;
    p->block[msg->block] = from->version + 1;
    if (p->state == LOADING && p->block[0] && p->block[1])
        serve(m, p, self);
}

/* What a copy publishes, anyone may have pulled. */
static void note_published(struct model *m, struct state *s, const struct proc *p)
{
    if (p->state != SERVES || !in_sync(p->role) || p->version > p->stable || p->generation != s->view.generation)
        return;
    for (unsigned r = 0; r < p->version; r++) {
        if (s->seen[r] && !same_record(s->seen[r], p->history[r]))
            broken(m, "S3: two records of one round were visible");
        s->seen[r] = p->history[r];
    }
}

static void to_shard(struct model *m, struct state *s, const struct message *msg)
{
    struct proc *p = &s->proc[msg->to];
    unsigned self = slot_at(s, msg->to) % COPIES_MAX, copy = msg->from == ZOMBIE ? slot_at(s, ZOMBIE) % COPIES_MAX : msg->from % COPIES_MAX;
    if (msg->to == ZOMBIE && !s->zombie_slot)
        return;
    if (msg->type == VIEW) {
        if (msg->to != ZOMBIE)
            on_view(m, s, msg->to, &msg->plan);
        return;
    }
    if (p->state == BLANK || (on(m, EPMSG) && (msg->view != p->view || msg->generation != p->generation)))
        return;
    switch (msg->type) {
    case CONTRIBUTE:
        if (p->role == PRIMARY && p->state == SERVES && msg->round == p->version)
            take_names(m, p, msg->names);
        break;
    case SEED:
        if (p->state == LOADING)
            serve(m, p, self);
        break;
    case REPLICATE:
        if (p->role == SYNC || p->role == COPYING)
            on_replicate(m, p, self, copy, msg);
        break;
    case RECORDS:
        for (uint8_t r = msg->sender.first; p->role == PRIMARY && p->state == SERVES && r < msg->sender.version; r++)
            take_record(m, p, r, msg->sender.history[r]);
        settle(m, p, self);
        break;
    case ACK:
        on_ack(m, p, self, copy, msg);
        break;
    case BLOCK:
        on_block(m, p, self, copy, msg);
        break;
    case COMMIT:
        if (p->state != SERVES || (p->role != PRIMARY && (on(m, CHAIN) || p->role != SYNC)))
            break;
        for (uint8_t r = 0; r < msg->log_count; r++)
            take_record(m, p, r, msg->log[r]);
        if (msg->log_synced > p->synced)
            p->synced = msg->log_synced;
        settle(m, p, self);
        break;
    default:
        break;
    }
}

/* ---- a gang ---- */
static void gang_on_view(struct gang *g, unsigned index, const struct view *v)
{
    if (v->number <= g->view)
        return;
    if (v->incarnation[index] != g->incarnation)
        *g = (struct gang){.incarnation = v->incarnation[index]};   /* its agent kills it and launches the one that the view names */
    g->view = v->number;
    g->generation = v->generation;
    g->plan = v->plan;
    memcpy(g->role, v->role, sizeof g->role);
    memset(g->piece, 0, sizeof g->piece);
    memset(g->last, 0, sizeof g->last);
}

static void gang_on_pull(struct model *m, struct gang *g, const struct message *msg)
{
    const struct proc *from = &msg->sender;
    unsigned sh = msg->shard;
    if (!g->view || (on(m, EPPULL) && msg->view != g->view) || (on(m, GENPULL) && msg->generation != g->generation))
        return;
    if (from->version + 1 <= g->computed || from->version + 1 <= g->piece[sh])
        return;
    g->piece[sh] = from->version + 1;
    g->last[sh] = from->version ? from->history[from->version - 1] : 0;
    for (unsigned k = 1; k < m->bound.shards; k++)
        if (g->piece[k] != g->piece[0])
            return;
    if (m->bound.shards == 2 && g->last[0] != g->last[1])
        broken(m, "S6: a forward pass combines blocks of two histories");
    g->computed = g->piece[0];
    memset(g->piece, 0, sizeof g->piece);
    memset(g->last, 0, sizeof g->last);
}

void deliver(struct model *m, struct state *s, const struct message *msg)
{
    if (msg->to <= ZOMBIE) {
        to_shard(m, s, msg);
        note_published(m, s, &s->proc[msg->to]);
    } else if (msg->to == COORDINATOR && msg->type == PREPARED) {
        coordinator_on_prepared(m, s, msg);
    } else if (msg->to == COORDINATOR && msg->type == PART) {
        coordinator_on_part(m, s, msg);
    } else if (msg->type == VIEW) {
        gang_on_view(&s->gang[msg->to - GANG0], msg->to - GANG0, &msg->plan);
    } else if (msg->type == PULLREPLY) {
        gang_on_pull(m, &s->gang[msg->to - GANG0], msg);
    }
}
