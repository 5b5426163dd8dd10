/* The shard core: views, records and copies. Contributions are in shard_names.c, what goes out in shard_send.c. */
#include "ps/shard_private.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"

struct shard_action *shard_act(struct shard_out *out, enum shard_action_kind kind)
{
    CHECK(out->count < SHARD_ACTIONS_MAX);
    struct shard_action *a = &out->action[out->count++];
    a->kind = kind;
    a->slot = 0;
    a->index = 0;
    a->block = 0;
    a->version = 0;
    return a;
}

void shard_fail(struct shard_out *out, const char *fmt, ...)
{
    struct shard_action *a = shard_act(out, SHARD_FAIL);
    va_list args;
    va_start(args, fmt);
    vsnprintf(a->u.text, sizeof a->u.text, fmt, args);
    va_end(args);
}

bool shard_in_sync(const struct shard *s) { return s->role == COPY_PRIMARY || s->role == COPY_SYNC; }
bool shard_is_holder(const struct peer *p) { return p->role == COPY_SYNC || (RULE_COPYSYNC && p->complete); }

/* ---- memory ---- */
static size_t words_of(const struct shard_config *config) { return (config->block_count + 63) / 64; }

size_t shard_size(const struct shard_config *config)
{
    size_t size = sizeof(struct shard) + words_of(config) * (1 + NAMES_LIMIT) * sizeof(uint64_t);
    return (size + 15) & ~(size_t)15;
}

struct shard *shard_init(void *memory, const struct shard_config *config)
{
    memset(memory, 0, shard_size(config));
    struct shard *s = memory;
    s->config = *config;
    s->words = (uint32_t)words_of(config);
    s->valid = (uint64_t *)(s + 1);
    s->pieces = s->valid + s->words;
    s->missing = config->block_count;
    return s;
}

/* ---- state ---- */
static void set_blocks(struct shard *s, bool valid)
{
    if (s->words)
        memset(s->valid, valid ? 0xff : 0, s->words * sizeof *s->valid);
    s->missing = valid ? 0 : s->config.block_count;
}

/* Nothing of what this copy held counts any more. */
static void blank(struct shard *s, uint64_t version)
{
    s->version = s->ring_first = s->stable = s->synced = version;
    s->published_next = 0;
    set_blocks(s, false);
    if (RULE_GENHELD)
        names_drop_all(s);
}

static struct record *ring_at(struct shard *s, uint64_t round)
{
    return round >= s->ring_first && round < s->version ? &s->ring[round % RING_RECORDS] : NULL;
}

static bool same_record(const struct record *a, const struct record *b)
{
    bool same = a->round == b->round && a->generation == b->generation && a->view == b->view && a->pass == b->pass && a->first == b->first &&
                a->count == b->count && memcmp(&a->lr, &b->lr, sizeof a->lr) == 0 && memcmp(&a->clip, &b->clip, sizeof a->clip) == 0 &&
                a->flags == b->flags && memcmp(&a->threshold, &b->threshold, sizeof a->threshold) == 0 && a->cover_count == b->cover_count;
    for (uint16_t i = 0; same && i < a->cover_count; i++)
        same = lane_range_eq(a->cover[i].lanes, b->cover[i].lanes) && a->cover[i].attempt == b->cover[i].attempt;
    return same;
}

static void push_ring(struct shard *s, const struct record *record)
{
    s->ring[record->round % RING_RECORDS] = *record;
    s->version = record->round + 1;
    if (s->version - s->ring_first > RING_RECORDS)
        s->ring_first = s->version - RING_RECORDS;
}

/* Rule 1: a version may be seen when every in-sync copy holds the records below it. The primary knows from ACKs, a copy is told. */
static void settle(struct shard *s, uint64_t now_ms, struct shard_out *out)
{
    if (s->state != SHARD_SERVING || !shard_in_sync(s))
        return;
    uint64_t stable = s->role == COPY_PRIMARY ? s->version : s->stable;
    for (unsigned i = 0; i < s->peer_count; i++) {
        const struct peer *p = &s->peer[i];
        uint64_t known = p->heard ? p->version : 0;
        if (shard_is_holder(p) && known < stable)
            stable = known;
    }
    if (!RULE_STAB)
        stable = s->version;
    if (stable > s->stable) {
        s->stable = stable;
        for (unsigned i = 0; i < s->peer_count; i++)
            s->peer[i].due = true;
    }
    if (s->version <= s->stable && s->published_next <= s->version) {
        s->published_next = s->version + 1;
        shard_act(out, SHARD_PUBLISH)->version = s->version;
    }
    send_news(s, now_ms, out);
}

/* Takes the next record and applies it; false when it is not the next one or its contributions are not all here. */
static bool take_record(struct shard *s, const struct record *record, struct shard_out *out)
{
    if (record->round != s->version || (record->generation != s->generation && RULE_GENHELD) || (!RULE_ENV && record->view != s->view) ||
        !names_hold_cover(s, record->cover, record->cover_count))
        return false;
    struct shard_action *a = shard_act(out, SHARD_APPLY);
    a->u.record = *record;
    for (uint16_t i = 0; i < record->cover_count; i++)
        a->name_index[i] = names_find(s, &record->cover[i]);
    shard_act(out, SHARD_DROP)->index = SHARD_ALL;
    push_ring(s, record);
    names_drop_all(s);
    for (unsigned i = 0; i < s->peer_count; i++) {
        struct peer *p = &s->peer[i];
        p->due = true;
        if (p->role == COPY_COPYING && p->heard && !p->complete && p->version + 1 < s->version && p->behind < BEHIND_LIMIT)
            p->behind++;
        /* Blocks on their way are of the version before: the copy will refuse those that the record overtakes. */
        p->block_next -= p->block_flying < p->block_next ? p->block_flying : p->block_next;
        p->block_flying = 0;
    }
    return true;
}

/* Rule 2: records are immutable. Two different ones for a round mean that history has split: the job must not go on. */
static bool check_known(struct shard *s, const struct record *record, struct shard_out *out)
{
    const struct record *mine = ring_at(s, record->round);
    if (!mine || same_record(mine, record) || !RULE_DIFFER)
        return true;
    shard_fail(out, "shard %u holds another record of round %llu (view %u) than it was sent (view %u): the run's history has split, resume from a checkpoint",
               s->config.shard, (unsigned long long)record->round, mine->view, record->view);
    return false;
}

static bool take_records(struct shard *s, const struct record *record, uint8_t count, struct shard_out *out)
{
    for (uint8_t i = 0; i < count; i++) {
        if (!check_known(s, &record[i], out))
            return false;
        take_record(s, &record[i], out);
    }
    return true;
}

static bool fenced(const struct shard *s, uint32_t view, uint32_t generation)
{
    return RULE_EPMSG && (view != s->view || generation != s->generation);
}

/* ---- views (rules 6 and 7) ---- */
static enum copy_role role_in(const struct shard *s, const struct view *view)
{
    const struct view_shard *vs = &view->shard[s->config.shard];
    if (view->slot[s->config.slot].instance != s->config.instance && RULE_INST)
        return COPY_NONE;
    for (unsigned i = 0; i < vs->copy_count; i++)
        if (vs->copy[i].slot == s->config.slot)
            return vs->copy[i].role;
    return COPY_NONE;
}

static void learn_peers(struct shard *s, const struct view *view)
{
    const struct view_shard *vs = &view->shard[s->config.shard];
    s->peer_count = 0;
    s->copies_active = 0;
    s->primary_instance = 0;
    s->primary_slot = UINT8_MAX;
    for (unsigned i = 0; i < vs->copy_count; i++) {
        uint8_t slot = vs->copy[i].slot, role = vs->copy[i].role;
        if (role == COPY_NONE)
            continue;
        s->copies_active++;
        if (role == COPY_PRIMARY) {
            s->primary_slot = slot;
            s->primary_instance = view->slot[slot].instance;
        }
        if (slot == s->config.slot || s->role != COPY_PRIMARY)
            continue;
        s->copy_bit[s->peer_count] = (uint8_t)i;
        s->peer[s->peer_count++] = (struct peer){.slot = slot, .role = role, .instance = view->slot[slot].instance, .due = true};
    }
}

static void start_base(struct shard *s, struct shard_out *out)
{
    blank(s, s->base);
    s->state = SHARD_LOADING;
    struct shard_action *a = shard_act(out, SHARD_LOAD_BASE);
    a->version = s->base;
}

static void begin_serving(struct shard *s, uint64_t now_ms, struct shard_out *out)
{
    set_blocks(s, true);
    s->state = SHARD_SERVING;
    if (s->role == COPY_SYNC)
        send_ack(s, out);
    settle(s, now_ms, out);
}

void shard_on_view(struct shard *s, uint64_t now_ms, const struct view *view, struct shard_out *out)
{
    out->count = 0;
    if (view->number <= s->view || s->config.shard >= view->shard_count || s->config.slot >= view->slot_count)
        return;
    uint8_t old_slot = s->primary_slot;
    uint32_t old_instance = s->primary_instance;
    bool newer = view->generation != s->generation;
    s->view = view->number;
    s->role = (uint8_t)role_in(s, view);
    s->base = view->base;
    s->base_from = view->base_from;
    learn_peers(s, view);
    s->wants_cover = false;
    s->report.any = false;
    bool same_primary = s->primary_slot == old_slot && s->primary_instance == old_instance;

    if (newer) {
        s->generation = view->generation;
        blank(s, view->base);
        if (RULE_GENHELD)
            shard_act(out, SHARD_DROP)->index = SHARD_ALL;
        s->state = SHARD_NONE;
    } else if (!RULE_KEEP) {
        names_drop_all(s);
    }
    if (!shard_in_sync(s) && s->role != COPY_COPYING) {
        blank(s, view->base);
        s->state = SHARD_NONE;
        return;
    }
    if (s->role == COPY_COPYING) {
        bool keeps = (s->state == SHARD_COPYING && same_primary) || (!RULE_WIPE && s->state == SHARD_SERVING);
        if (!keeps) {
            blank(s, 0);
            shard_act(out, SHARD_DROP)->index = SHARD_ALL;
        }
        s->state = SHARD_COPYING;
        send_ack(s, out);
        return;
    }
    if (s->state == SHARD_COPYING)
        s->state = SHARD_SERVING;
    if (s->state == SHARD_NONE) {
        start_base(s, out);
        if (s->base_from == BASE_SEED && s->config.block_count == 0)
            begin_serving(s, now_ms, out);
        return;
    }
    if (s->role == COPY_SYNC && s->state == SHARD_SERVING)
        send_ack(s, out);
    settle(s, now_ms, out);
}

void shard_loaded(struct shard *s, uint64_t now_ms, uint64_t version, struct shard_out *out)
{
    out->count = 0;
    if (s->state != SHARD_LOADING || version != s->base)
        return;
    begin_serving(s, now_ms, out);
}

static bool blocks_exist(const struct shard *s, uint32_t first, uint32_t count)
{
    return first <= s->config.block_count && count <= s->config.block_count - first;
}

/* ---- the base from seeds ---- */
bool shard_needs_seed(const struct shard *s) { return s->state == SHARD_LOADING && s->base_from == BASE_SEED; }

enum shard_verdict shard_on_seed(struct shard *s, const struct msg_seed *m)
{
    if (fenced(s, m->view, m->generation))
        return SHARD_STALE;
    if (!blocks_exist(s, m->block_first, m->block_count))
        return SHARD_REFUSE;
    if (!shard_needs_seed(s))
        return SHARD_DUPLICATE;
    for (uint32_t b = m->block_first; b < m->block_first + m->block_count; b++)
        if (!bit_get(s->valid, b))
            return SHARD_STORE;
    return SHARD_DUPLICATE;
}

void shard_seeded(struct shard *s, uint64_t now_ms, uint32_t block_first, uint32_t block_count, struct shard_out *out)
{
    out->count = 0;
    if (!shard_needs_seed(s))
        return;
    for (uint32_t b = block_first; b < block_first + block_count; b++) {
        if (bit_get(s->valid, b))
            continue;
        bit_set(s->valid, b);
        s->missing--;
    }
    if (s->missing == 0)
        begin_serving(s, now_ms, out);
}

/* ---- contributions ---- */
static bool overlaps_other(const struct shard *s, const struct name *name)
{
    for (uint16_t i = 0; i < NAMES_LIMIT; i++)
        if (s->held[i].used && !lane_range_eq(s->held[i].name.lanes, name->lanes) &&
            s->held[i].name.lanes.lo < name->lanes.hi && name->lanes.lo < s->held[i].name.lanes.hi)
            return true;
    return false;
}

enum shard_verdict shard_on_contribute(struct shard *s, const struct msg_contribute *m, uint16_t *index)
{
    if (!blocks_exist(s, m->block_first, m->block_count) || !lane_is_node(s->config.lanes, m->name.lanes))
        return SHARD_REFUSE;
    if (fenced(s, m->view, m->generation) || s->role != COPY_PRIMARY || s->state != SHARD_SERVING || m->round != s->version)
        return SHARD_STALE;
    if (!RULE_NEST && overlaps_other(s, &m->name))
        return SHARD_DUPLICATE;
    struct name name = m->name;
    if (s->config.deterministic)
        name.attempt = 0;
    bool known = names_find(s, &name) != UINT16_MAX;
    uint16_t i = names_take(s, &name, &m->totals);
    if (i == UINT16_MAX)
        return SHARD_REFUSE;
    if (known && names_have_piece(s, i, m->block_first, m->block_count))
        return SHARD_DUPLICATE;
    *index = i;
    return SHARD_STORE;
}

void shard_stored(struct shard *s, uint64_t now_ms, uint16_t index, uint32_t block_first, uint32_t block_count, struct shard_out *out)
{
    out->count = 0;
    names_piece(s, index, block_first, block_count);
    if (names_whole(s, index))
        settle(s, now_ms, out);
}

/* ---- the copies' side ---- */
static bool from_primary(const struct shard *s, uint8_t slot, uint32_t instance)
{
    return slot == s->primary_slot && instance == s->primary_instance;
}

static struct peer *peer_at(struct shard *s, uint8_t slot, uint32_t instance)
{
    for (unsigned i = 0; i < s->peer_count; i++)
        if (s->peer[i].slot == slot && s->peer[i].instance == instance)
            return &s->peer[i];
    return NULL;
}

enum shard_verdict shard_on_replicate(struct shard *s, uint8_t from_slot, uint32_t from_instance, const struct msg_replicate *m,
                                      uint16_t index[NAMES_LIMIT])
{
    for (uint16_t i = 0; i < NAMES_LIMIT; i++)
        index[i] = UINT16_MAX;
    if (fenced(s, m->view, m->generation))
        return SHARD_STALE;
    if (!blocks_exist(s, m->block_first, m->block_count))
        return SHARD_REFUSE;
    if (s->role == COPY_PRIMARY) {
        const struct peer *p = peer_at(s, from_slot, from_instance);
        return p && p->role == COPY_SYNC && s->state == SHARD_SERVING ? SHARD_STORE : SHARD_STALE;
    }
    if (!from_primary(s, from_slot, from_instance) || (s->state != SHARD_SERVING && s->state != SHARD_COPYING && !shard_needs_seed(s)))
        return SHARD_STALE;
    if (s->state == SHARD_LOADING)
        return SHARD_STORE;                /* nothing to store; the ACK says that blocks are missing */
    for (uint16_t i = 0; i < m->name_count; i++) {
        bool data = bit_get(m->with_data, i);
        if (!data || m->version != s->version || !lane_is_node(s->config.lanes, m->name[i].lanes))
            continue;
        uint16_t known = names_find(s, &m->name[i]);
        if (known == UINT16_MAX || !names_whole(s, known))
            index[i] = names_take(s, &m->name[i], &m->totals[i]);
    }
    return SHARD_STORE;
}

/* A copying copy that cannot follow record by record takes over the primary's records; its blocks come again at that version. */
static void skip_ahead(struct shard *s, const struct msg_replicate *m, struct shard_out *out)
{
    uint64_t first = m->version - m->record_count;
    for (uint8_t i = 0; i < m->record_count; i++)
        if (m->record[i].round != first + i)
            return;
    s->ring_first = s->version = first;
    for (uint8_t i = 0; i < m->record_count; i++)
        push_ring(s, &m->record[i]);
    s->version = m->version;
    names_drop_all(s);
    shard_act(out, SHARD_DROP)->index = SHARD_ALL;
    if (RULE_COPYVER)
        set_blocks(s, false);
}

void shard_replicated(struct shard *s, uint64_t now_ms, uint8_t from_slot, const struct msg_replicate *m,
                      const uint16_t index[NAMES_LIMIT], struct shard_out *out)
{
    bool more = false;                     /* pieces are still to come */
    (void)from_slot;
    out->count = 0;
    for (uint16_t i = 0; i < m->name_count; i++)
        if (index[i] != UINT16_MAX) {
            names_piece(s, index[i], m->block_first, m->block_count);
            more |= !names_whole(s, index[i]);
        }
    if (s->state == SHARD_LOADING) {
        send_ack(s, out);
        return;
    }
    if (!take_records(s, m->record, m->record_count, out))
        return;
    if (s->role == COPY_PRIMARY) {
        settle(s, now_ms, out);
        return;
    }
    if (s->state == SHARD_COPYING && m->version > s->version)
        skip_ahead(s, m, out);
    if (m->stable > s->stable)
        s->stable = m->stable;
    /* With two copies in all, what the primary says it holds and I hold, both hold. Not what I hold alone: it may be a new primary that lags. */
    uint64_t both = m->version < s->version && RULE_INFERV ? m->version : s->version;
    if ((s->copies_active == 2 || !RULE_INFER2) && s->state == SHARD_SERVING && both > s->stable)
        s->stable = both;
    if (m->synced > s->synced)
        s->synced = m->synced;
    settle(s, now_ms, out);
    if (s->state == SHARD_SERVING && m->version < s->version && RULE_LAG)
        send_records_to_primary(s, m->version, out);
    if (!more)                             /* an ACK asks for another block, too */
        send_ack(s, out);
}

enum shard_verdict shard_on_block(struct shard *s, uint8_t from_slot, uint32_t from_instance, const struct msg_block *m)
{
    /* An in-sync copy that waits for seeds may have missed them: its primary, which waits for it at this very version, has the blocks. */
    bool missed_seeds = shard_needs_seed(s) && RULE_SEEDCOPY;
    if (fenced(s, m->view, m->generation) || (s->state != SHARD_COPYING && !missed_seeds) || !from_primary(s, from_slot, from_instance))
        return SHARD_STALE;
    if (m->block >= s->config.block_count)
        return SHARD_REFUSE;
    if (m->version != s->version && RULE_COPYVER)
        return SHARD_STALE;
    return bit_get(s->valid, m->block) ? SHARD_DUPLICATE : SHARD_STORE;
}

void shard_block_stored(struct shard *s, uint64_t now_ms, uint32_t block, struct shard_out *out)
{
    out->count = 0;
    if (!bit_get(s->valid, block)) {
        bit_set(s->valid, block);
        s->missing--;
    }
    if (s->state == SHARD_LOADING && s->missing == 0)
        begin_serving(s, now_ms, out);
    else
        send_ack(s, out);
}

/* ---- the primary's side ---- */
static bool holds_all_of_ours(const struct shard *s, const struct peer *p)
{
    for (uint16_t i = 0; i < NAMES_LIMIT; i++)
        if (names_whole(s, i) && !bit_get(p->has, i))
            return false;
    return true;
}

void shard_on_ack(struct shard *s, uint64_t now_ms, uint8_t from_slot, uint32_t from_instance, const struct msg_ack *m, struct shard_out *out)
{
    out->count = 0;
    struct peer *p = peer_at(s, from_slot, from_instance);
    if (fenced(s, m->view, m->generation) || s->role != COPY_PRIMARY || s->state != SHARD_SERVING || !p)
        return;
    if (!p->heard || m->version > p->version) {
        p->version = m->version;
        memset(p->has, 0, sizeof p->has);
        memset(p->sent, 0, sizeof p->sent);
        p->due = p->due || m->version < s->version || !p->heard;
        p->heard = true;
    }
    p->loading = p->role == COPY_SYNC && !m->complete;
    if (m->version == s->version && p->version == s->version) {
        for (uint16_t i = 0; i < m->name_count; i++) {
            uint16_t index = names_find(s, &m->name[i]);
            if (index != UINT16_MAX)
                bit_set(p->has, index);
        }
        if (p->role == COPY_COPYING && m->complete && holds_all_of_ours(s, p))
            p->complete = true;
        if (!m->complete) {
            p->block_flying -= p->block_flying > 0;
            send_blocks(s, p, out);
        }
    }
    settle(s, now_ms, out);
}

void shard_on_sum(struct shard *s, uint64_t now_ms, const struct msg_sum *m, struct shard_out *out)
{
    out->count = 0;
    if (fenced(s, m->view, m->generation) || s->role != COPY_PRIMARY || s->state != SHARD_SERVING || m->version != s->version)
        return;
    s->wants_cover = true;
    s->wanted_count = m->cover_count;
    memcpy(s->wanted, m->cover, sizeof s->wanted);
    s->report_now = true;
    settle(s, now_ms, out);
}

void shard_on_commit(struct shard *s, uint64_t now_ms, const struct msg_commit *m, struct shard_out *out)
{
    bool mine = s->role == COPY_PRIMARY || (!RULE_CHAIN && s->role == COPY_SYNC);
    out->count = 0;
    if (fenced(s, m->view, m->generation) || !mine || s->state != SHARD_SERVING)
        return;
    if (!take_records(s, m->record, m->record_count, out))
        return;
    if (m->synced > s->synced)
        s->synced = m->synced;
    settle(s, now_ms, out);
}

void shard_on_tick(struct shard *s, uint64_t now_ms, struct shard_out *out)
{
    out->count = 0;
    send_again(s, now_ms, out);
    settle(s, now_ms, out);
}

void shard_on_busy(struct shard *s, uint64_t now_ms, uint8_t slot)
{
    for (unsigned i = 0; i < s->peer_count; i++)
        if (s->peer[i].slot == slot)
            s->peer[i].sent_ms = now_ms;
}

void shard_on_link(struct shard *s, uint64_t now_ms, uint8_t slot, struct shard_out *out)
{
    out->count = 0;
    if (slot == UINT8_MAX)
        s->report_now = true;
    for (unsigned i = 0; i < s->peer_count; i++)
        if (s->peer[i].slot == slot) {
            s->peer[i].due = true;
            s->peer[i].sent[0] = s->peer[i].has[0];
            s->peer[i].sent[1] = s->peer[i].has[1];
            s->peer[i].block_flying = 0;
        }
    if (s->role == COPY_SYNC || s->role == COPY_COPYING) {
        if (slot == s->primary_slot && (s->state == SHARD_SERVING || s->state == SHARD_COPYING))
            send_ack(s, out);
    }
    settle(s, now_ms, out);
}

/* ---- reading ---- */
enum shard_state shard_state(const struct shard *s) { return s->state; }
uint64_t shard_version(const struct shard *s) { return s->version; }
uint32_t shard_view(const struct shard *s) { return s->view; }
uint32_t shard_generation(const struct shard *s) { return s->generation; }

uint64_t shard_published(const struct shard *s, bool *any)
{
    *any = s->state == SHARD_SERVING && shard_in_sync(s) && s->version <= s->stable;
    return s->version;
}

const struct record *shard_record(const struct shard *s, uint64_t round)
{
    return round >= s->ring_first && round < s->version ? &s->ring[round % RING_RECORDS] : NULL;
}
