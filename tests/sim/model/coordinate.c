/* What the coordinator decides: views, rollbacks, commits, the checkpoint; as in coordinator/core*.c. */
#include <string.h>

#include "model.h"

/* ---- views ---- */
static bool copies_lost(const struct model *m, const struct view *v)
{
    for (unsigned sh = 0; sh < m->bound.shards; sh++) {
        bool alive = false;
        for (unsigned x = 0; x < m->bound.copies; x++)
            alive = alive || in_sync(v->role[sh][x]);
        if (!alive)
            return true;
    }
    return false;
}

static void roll_back(struct model *m, struct state *s)
{
    struct view *v = &s->view;
    v->generation++;
    v->base = s->decided ? m->bound.checkpoint : 0;
    for (unsigned sh = 0; sh < m->bound.shards; sh++) {
        bool joined = false;
        for (unsigned x = 0; x < m->bound.copies; x++)
            joined = joined || v->role[sh][x] != NONE;
        for (unsigned x = 0, chosen = 0; x < m->bound.copies; x++)
            if (!joined || v->role[sh][x] != NONE)
                v->role[sh][x] = chosen++ ? SYNC : PRIMARY;
    }
    for (unsigned g = 0; g < m->bound.gangs; g++)
        v->incarnation[g] = s->gang[g].incarnation + 1;
    s->log_count = v->base;
    if (s->log_synced > v->base)
        s->log_synced = v->base;
    for (unsigned r = v->base; r < ROUNDS_MAX; r++)
        s->log[r] = s->seen[r] = 0;
    if (on(m, CKGEN))
        memset(s->part_have, 0, sizeof s->part_have);
    memset(s->report, 0, sizeof s->report);
}

/* Logs s->view, which an event changed, and only then shows it. */
static void new_view(struct model *m, struct state *s, bool fault)
{
    struct view *v = &s->view;
    uint8_t before = v->generation;
    if (copies_lost(m, v))
        roll_back(m, s);
    if (v->number == VIEWS_MAX || v->generation > 3) {
        m->cut++;
        return;
    }
    v->number++;
    if (on(m, VIEWSYNC)) {
        s->log_synced = s->log_count;
        s->durable_view = *v;
    }
    if (on(m, REPORT))
        memset(s->report, 0, sizeof s->report);
    label(m, "coordinator logs view %u%s, generation %u, base %u, plan %u; roles A %u%u%u B %u%u%u (1 primary, 2 in sync, 3 copying)", v->number,
          v->generation != before ? " = ROLLBACK" : "", v->generation, v->base, v->plan, v->role[0][0], v->role[0][1], v->role[0][2], v->role[1][0],
          v->role[1][1], v->role[1][2]);
    m->emit(m, s, fault);
}

void exclude(struct model *m, struct state *s, unsigned shard, unsigned copy, bool fault)
{
    struct view *v = &s->view;
    bool was_primary = v->role[shard][copy] == PRIMARY, promoted = false;
    v->role[shard][copy] = NONE;
    v->instance[shard][copy] = s->proc[slot_of(shard, copy)].instance;
    for (unsigned x = 0; was_primary && x < m->bound.copies; x++) {
        if (v->role[shard][x] != SYNC && (on(m, PROMOTE) || v->role[shard][x] != COPYING))
            continue;
        struct state next = *s;
        promoted = true;
        next.view.role[shard][x] = PRIMARY;
        new_view(m, &next, fault);
    }
    if (!promoted)
        new_view(m, s, fault);
}

void coordinator_lost(struct state *s, bool host)
{
    s->coordinator_up = 0;
    if (host) {
        s->log_count = s->log_synced;
        s->view = s->durable_view;
    }
    for (unsigned r = s->log_count; r < ROUNDS_MAX; r++)
        s->log[r] = 0;
    memset(s->report, 0, sizeof s->report);
    memset(s->part_have, 0, sizeof s->part_have);
}

static void start(struct model *m, const struct state *s)
{
    struct state next = *s;
    next.coordinator_up = 1;
    if (on(m, NEWVIEW)) {
        new_view(m, &next, false);
        return;
    }
    next.log_synced = next.log_count;
    label(m, "coordinator starts again under the same view");
    m->emit(m, &next, false);
}

static void membership(struct model *m, const struct state *s)
{
    for (unsigned sh = 0; sh < m->bound.shards; sh++)
        for (unsigned x = 0; x < m->bound.copies; x++) {
            struct state next = *s;
            uint8_t *role = &next.view.role[sh][x];
            bool complete = s->report[sh].version && (s->report[sh].complete >> x & 1 || !on(m, COMPLETE));
            if (s->view.instance[sh][x] != s->proc[slot_of(sh, x)].instance) {
                exclude(m, &next, sh, x, false);
            } else if (*role == NONE) {
                *role = COPYING;
                new_view(m, &next, false);
            } else if (*role == COPYING && complete) {
                *role = SYNC;
                new_view(m, &next, false);
            }
        }
    for (unsigned g = 0; g < m->bound.gangs; g++) {
        bool died = s->gang[g].incarnation > s->view.incarnation[g];
        for (unsigned move = 0; died && move < 1u + (m->bound.lanes && m->bound.gangs == 2); move++) {
            struct state next = *s;
            next.view.incarnation[g] = s->gang[g].incarnation;
            if (move)
                next.view.plan = (uint8_t)(2 - g);       /* the other gang, alone */
            new_view(m, &next, false);
        }
    }
    if (m->bound.gangs == 2 && s->view.plan != 0 && s->gang[2 - s->view.plan].incarnation == s->view.incarnation[2 - s->view.plan]) {
        struct state next = *s;
        next.view.plan = 0;
        new_view(m, &next, false);
    }
}

/* ---- rounds ---- */
static void append(struct model *m, struct state *s, record r)
{
    if (s->seen[s->log_count] && !same_record(s->seen[s->log_count], r))
        broken(m, "S3: another record is committed for a round whose record was visible");
    s->log[s->log_count++] = r;
}

void coordinator_on_prepared(struct model *m, struct state *s, const struct message *msg)
{
    const struct proc *from = &msg->sender;
    unsigned sh = msg->shard, copy = slot_at(s, msg->from) % COPIES_MAX;
    struct report *rep = &s->report[sh];
    if (!s->coordinator_up || (on(m, REPORT) && msg->view != s->view.number) || msg->generation != s->view.generation)
        return;
    if (s->view.role[sh][copy] != PRIMARY || s->view.instance[sh][copy] != from->instance)
        return;
    uint8_t first = from->synced > from->first ? from->synced : from->first;
    for (unsigned r = first; r < from->version && r < (unsigned)first + records_limit(m); r++) {
        record theirs = from->history[r];
        if (r < s->log_count && RECORD_SAYS(s->log[r]) != RECORD_SAYS(theirs))
            broken(m, "S4: the log and a shard hold different records of one round");
        bool counts = (theirs >> 4 & 3) == s->view.generation || !on(m, GENREC);
        if (r == s->log_count && on(m, RECOV) && counts)
            append(m, s, RECORD_SAYS(theirs));
    }
    if (from->version > s->log_count && on(m, RECOV))
        broken(m, "L1: a shard is past the log, and what it reports does not complete it: the job is given up");
    if (rep->version && from->version + 1 < rep->version)
        return;
    rep->version = from->version + 1;
    rep->names = from->version < s->log_count ? 0 : msg->names;
    rep->complete |= from->complete;
}

static void commit(struct model *m, const struct state *s)
{
    uint8_t names = s->report[0].names, cover_first = 0;
    if (s->log_count >= m->bound.rounds || (on(m, AHEAD) && s->log_count - s->log_synced >= m->bound.ahead))
        return;
    for (unsigned sh = 0; sh < m->bound.shards; sh++) {
        if (s->report[sh].version != s->log_count + 1)
            return;
        if (on(m, SUM))
            names &= s->report[sh].names;
        else if (s->report[sh].names == 0)
            return;
    }
    for (uint8_t c = 1; c <= 6 && !cover_first; c++) {
        if ((cover_names[c] & names) != cover_names[c])
            continue;
        struct state next = *s;
        label(m, "coordinator appends the commit of round %u, cover %u, in view %u (unsynced)", s->log_count, c, s->view.number);
        append(m, &next, (record)(0x8000 | c << 6 | (s->view.generation & 3) << 4 | s->view.number));
        m->emit(m, &next, false);
    }
}

/* ---- the checkpoint ---- */
void coordinator_on_part(struct model *m, struct state *s, const struct message *msg)
{
    const struct proc *from = &msg->sender;
    unsigned sh = msg->shard, site = slot_at(s, msg->from) % COPIES_MAX;
    bool fits = from->part_generation == s->view.generation || !on(m, CKGEN);
    if (!s->coordinator_up || s->decided || !fits)
        return;
    if (s->part_have[site] >> sh & 1)
        return;
    s->part_have[site] |= (uint8_t)(1u << sh);
    s->part_last[sh] = from->part;
}

static void decide(struct model *m, const struct state *s)
{
    uint8_t all = (uint8_t)((1u << m->bound.shards) - 1), step = m->bound.checkpoint;
    struct state next = *s;
    bool full = false;
    for (unsigned x = 0; x < m->bound.copies; x++)
        full = full || s->part_have[x] == all;
    if (!step || s->decided || !full || (on(m, CKLOG) && s->log_count < step))
        return;
    next.decided = 1;
    if (on(m, CKLOG))
        next.log_synced = next.log_count;
    for (unsigned sh = 0; sh < m->bound.shards; sh++)
        if (s->log_count < step || RECORD_SAYS(s->part_last[sh]) != s->log[step - 1])
            broken(m, "I2: a checkpoint was decided whose parts are not of the log's history");
    if (next.log_synced < step)
        broken(m, "I2: a checkpoint was decided above the synced log");
    label(m, "coordinator decides the checkpoint of version %u", step);
    m->emit(m, &next, false);
}

void coordinator_moves(struct model *m, const struct state *s)
{
    if (!s->coordinator_up) {
        start(m, s);
        return;
    }
    if (s->log_synced < s->log_count || memcmp(&s->durable_view, &s->view, sizeof s->view) != 0) {
        struct state next = *s;
        next.log_synced = s->log_count;
        next.durable_view = s->view;
        label(m, "coordinator's log is synced");
        m->emit(m, &next, false);
    }
    if (!on(m, TELL) && s->log_count && !s->seen[s->log_count - 1]) {
        struct state next = *s;
        next.seen[s->log_count - 1] = s->log[s->log_count - 1];
        label(m, "coordinator tells the gangs that round %u is committed", s->log_count - 1);
        m->emit(m, &next, false);
    }
    commit(m, s);
    decide(m, s);
    membership(m, s);
}
