/* What must hold in every state, and the state that every run must be able to reach (docs/decisions/0001 names the invariants). */
#include "model.h"

static bool counts(const struct model *m, const struct state *s, unsigned shard, unsigned copy)
{
    const struct proc *p = &s->proc[slot_of(shard, copy)];
    bool named = p->instance == s->view.instance[shard][copy] || !on(m, INST);
    return in_sync(s->view.role[shard][copy]) && named && p->generation == s->view.generation && p->role != NONE && p->state != LOADING;
}

static void check_copy(struct model *m, const struct state *s, const struct proc *p)
{
    if (p->block[0] != p->version + 1 || p->block[1] != p->version + 1)
        broken(m, "S2: an in-sync copy has blocks of another version, or none");
    for (unsigned r = 0; r < s->log_count; r++) {
        if (r > p->version || (r == p->version && !holds(m, p, cover_names[s->log[r] >> 6 & 7])))
            broken(m, "S7: an in-sync copy lacks contributions of a committed round");
        if (r < p->version && RECORD_SAYS(p->history[r]) != s->log[r])
            broken(m, "S4: the log and an in-sync copy hold different records of one round");
    }
    for (unsigned r = 0; r < p->version; r++)
        if ((p->history[r] >> 4 & 3) > p->generation)
            broken(m, "S5: a record of a newer generation was applied in an older one");
}

static void check_pair(struct model *m, const struct proc *a, const struct proc *b, bool one_shard)
{
    for (unsigned r = 0; r < a->version && r < b->version; r++) {
        if (one_shard && a->history[r] != b->history[r])
            broken(m, "S2: in-sync copies of a shard applied different records or contributions");
        if (!one_shard && !same_record(a->history[r], b->history[r]))
            broken(m, "S1: shards applied different records, or summed different attempts, for one round");
    }
}

/* Rule 1 itself, so that one fault shows what otherwise takes two. */
static void check_published(struct model *m, const struct state *s, unsigned shard, unsigned copy)
{
    const struct proc *p = &s->proc[slot_of(shard, copy)];
    if (p->view != s->view.number || p->state != SERVES || p->version > p->stable)
        return;
    for (unsigned x = 0; x < m->bound.copies; x++)
        if (counts(m, s, shard, x) && s->proc[slot_of(shard, x)].version < p->version)
            broken(m, "S3: a version is published that an in-sync copy does not have: one death more, and it was never there");
}

void check_state(struct model *m, const struct state *s)
{
    unsigned slots = slot_of(m->bound.shards - 1u, m->bound.copies);
    for (unsigned r = 0; r < s->log_count; r++) {
        if (cover_names[s->log[r] >> 6 & 7] == 0)
            broken(m, "S1: a committed record is no exact cover of the lanes");
        if (s->seen[r] && !same_record(s->seen[r], s->log[r]))
            broken(m, "S3: a record was visible, and the log holds another one for its round");
    }
    if (s->decided && s->log_count < m->bound.checkpoint)
        broken(m, "I2: the log lost commits below a decided checkpoint");
    for (unsigned i = 0; i < slots; i++) {
        if (!counts(m, s, i / COPIES_MAX, i % COPIES_MAX))
            continue;
        check_copy(m, s, &s->proc[i]);
        check_published(m, s, i / COPIES_MAX, i % COPIES_MAX);
        for (unsigned k = i + 1; k < slots; k++)
            if (counts(m, s, k / COPIES_MAX, k % COPIES_MAX))
                check_pair(m, &s->proc[i], &s->proc[k], i / COPIES_MAX == k / COPIES_MAX);
    }
}

/* L1, I13: all rounds committed, applied by every copy, pulled by every gang, all copies in sync again, the checkpoint decided. */
bool reached_goal(const struct model *m, const struct state *s)
{
    if (!s->coordinator_up || s->log_count < m->bound.rounds || s->view.plan != 0 || (m->bound.checkpoint && !s->decided))
        return false;
    for (unsigned sh = 0; sh < m->bound.shards; sh++)
        for (unsigned x = 0; x < m->bound.copies; x++) {
            const struct proc *p = &s->proc[slot_of(sh, x)];
            if (p->version < m->bound.rounds || p->view != s->view.number || !in_sync(p->role) || p->stable < p->version)
                return false;
        }
    for (unsigned g = 0; g < m->bound.gangs; g++)
        if (s->gang[g].computed != m->bound.rounds + 1 || s->gang[g].view != s->view.number)
            return false;
    return true;
}
