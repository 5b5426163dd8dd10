/* What a shard core tells others: the primary its copies and the coordinator, a copy its primary. Everything here can be sent again. */
#include "ps/shard_private.h"

#include <string.h>

/* Records [from, version), as many as one message takes, out of the ring. */
static uint8_t copy_records(const struct shard *s, uint64_t from, struct record out[RECORDS_LIMIT])
{
    uint8_t count = 0;
    if (from < s->ring_first)
        from = s->ring_first;
    for (uint64_t r = from; r < s->version && count < RECORDS_LIMIT; r++)
        out[count++] = s->ring[r % RING_RECORDS];
    return count;
}

void send_ack(struct shard *s, struct shard_out *out)
{
    if (s->primary_slot == UINT8_MAX)
        return;                            /* all in-sync copies are dead and the run needs none any more */
    struct shard_action *a = shard_act(out, SHARD_SEND_ACK);
    struct msg_ack *m = &a->u.ack;
    a->slot = s->primary_slot;
    *m = (struct msg_ack){.view = s->view, .generation = s->generation, .shard = s->config.shard, .version = s->version, .records = s->version,
                          .complete = s->missing == 0};
    for (uint16_t i = 0; i < NAMES_LIMIT; i++)
        if (names_whole(s, i))
            m->name[m->name_count++] = s->held[i].name;
}

static struct msg_replicate *replicate_to(struct shard *s, uint8_t slot, uint64_t from_round, struct shard_out *out)
{
    struct shard_action *a = shard_act(out, SHARD_SEND_REPLICATE);
    struct msg_replicate *m = &a->u.replicate;
    a->slot = slot;
    m->view = s->view;
    m->generation = s->generation;
    m->shard = s->config.shard;
    m->version = s->version;
    m->stable = s->stable;
    m->synced = s->synced;
    m->name_count = 0;
    m->with_data[0] = m->with_data[1] = 0;
    m->block_first = 0;
    m->block_count = s->config.block_count;
    m->record_count = copy_records(s, from_round, m->record);
    return m;
}

void send_records_to_primary(struct shard *s, uint64_t from_round, struct shard_out *out)
{
    replicate_to(s, s->primary_slot, from_round, out);
}

/* A copying copy may have to skip ahead: then it takes over all records that the log may lack, and the one that made the version. */
static uint64_t first_record_for(const struct shard *s, const struct peer *p)
{
    uint64_t known = p->heard ? p->version : s->synced;
    if (p->role == COPY_COPYING && p->version < s->version) {
        known = s->synced < known ? s->synced : known;
        if (RULE_LASTREC && known >= s->version && s->version > 0)
            known = s->version - 1;
        /* It can skip ahead only with the newest ones; the log is synced below them. */
        if (RULE_WINDOW && s->version - known > RECORDS_LIMIT)
            known = s->version - RECORDS_LIMIT;
    }
    return known;
}

static void send_to_peer(struct shard *s, uint64_t now_ms, struct peer *p, struct shard_out *out)
{
    unsigned sent = 0;
    bool level = p->heard && p->version == s->version && !p->loading;
    for (uint16_t i = 0; level && i < NAMES_LIMIT && sent < NAMES_AT_ONCE; i++) {
        if (!names_whole(s, i) || bit_get(p->has, i) || bit_get(p->sent, i))
            continue;
        struct msg_replicate *m = replicate_to(s, p->slot, first_record_for(s, p), out);
        m->name_count = 1;
        m->name[0] = s->held[i].name;
        m->totals[0] = s->held[i].totals;
        m->with_data[0] = 1;
        out->action[out->count - 1].name_index[0] = i;
        bit_set(p->sent, i);
        sent++;
    }
    if (p->due && !sent)
        replicate_to(s, p->slot, first_record_for(s, p), out);
    if (p->due || sent)
        p->sent_ms = now_ms;
    p->due = false;
}

static uint8_t complete_mask(const struct shard *s)
{
    uint8_t mask = 0;
    for (unsigned p = 0; p < s->peer_count; p++)
        if (s->peer[p].role == COPY_COPYING && s->peer[p].complete)
            mask |= (uint8_t)(1u << s->copy_bit[p]);
    return mask;
}

/* Over a link that moves a model slower than rounds pass, a copy would begin again with each round and never be whole: after a few rounds they wait for
 * it, as they will once it is in sync. A copy that is dead or stuck ends this with its lease. */
static bool waits_for_copy(const struct shard *s)
{
    for (unsigned i = 0; i < s->peer_count; i++)
        if (RULE_OUTRUN && s->peer[i].behind >= BEHIND_LIMIT && !s->peer[i].complete)
            return true;
    return false;
}

static void send_report(struct shard *s, uint64_t now_ms, struct shard_out *out)
{
    struct report next = {.any = true, .view = s->view, .version = s->version, .complete_mask = complete_mask(s)};
    uint64_t among[2];
    names_held_by_all(s, among);
    if (waits_for_copy(s))
        among[0] = among[1] = 0;
    next.cover_count = names_cover(s, among, next.cover);
    if (next.cover_count && s->wants_cover && names_hold_cover(s, s->wanted, s->wanted_count)) {
        bool all = true;
        for (uint16_t i = 0; i < s->wanted_count; i++)
            all = all && bit_get(among, names_find(s, &s->wanted[i]));
        if (all) {
            next.cover_count = s->wanted_count;
            memset(next.cover, 0, sizeof next.cover);
            memcpy(next.cover, s->wanted, s->wanted_count * sizeof s->wanted[0]);
        }
    }
    /* Names that make no cover yet interest nobody. */
    if (next.cover_count)
        next.name_count = (uint16_t)(__builtin_popcountll(among[0]) + __builtin_popcountll(among[1]));
    const struct report *last = &s->report;
    bool same = last->any && last->view == next.view && last->version == next.version && last->complete_mask == next.complete_mask &&
                last->cover_count == next.cover_count && last->name_count == next.name_count;
    for (uint16_t i = 0; same && i < next.cover_count; i++)
        same = lane_range_eq(last->cover[i].lanes, next.cover[i].lanes) && last->cover[i].attempt == next.cover[i].attempt;
    if (same && !s->report_now)
        return;

    struct shard_action *a = shard_act(out, SHARD_SEND_PREPARED);
    struct msg_prepared *m = &a->u.prepared;
    *m = (struct msg_prepared){.view = s->view, .generation = s->generation, .shard = s->config.shard, .version = s->version,
                               .cover_count = next.cover_count, .complete_mask = next.complete_mask};
    for (uint16_t i = 0; i < NAMES_LIMIT; i++)
        if (bit_get(among, i))
            m->name[m->name_count++] = s->held[i].name;
    for (uint16_t i = 0; i < next.cover_count; i++) {
        m->cover[i] = next.cover[i];
        a->name_index[i] = names_find(s, &next.cover[i]);
    }
    if (next.cover_count)
        m->totals = names_totals(s, next.cover, next.cover_count);
    m->record_count = copy_records(s, s->synced, m->record);
    s->report = next;
    s->report_now = false;
    s->report_ms = now_ms;
}

void send_news(struct shard *s, uint64_t now_ms, struct shard_out *out)
{
    if (s->role != COPY_PRIMARY || s->state != SHARD_SERVING)
        return;
    for (unsigned p = 0; p < s->peer_count; p++)
        send_to_peer(s, now_ms, &s->peer[p], out);
    send_report(s, now_ms, out);
}

void send_blocks(struct shard *s, struct peer *p, struct shard_out *out)
{
    while (p->block_flying < BLOCK_WINDOW && p->block_next < s->config.block_count && out->count < SHARD_ACTIONS_MAX - COPIES_LIMIT * NAMES_AT_ONCE) {
        struct shard_action *a = shard_act(out, SHARD_SEND_BLOCK);
        a->slot = p->slot;
        a->block = p->block_next++;
        a->version = s->version;
        p->block_flying++;
    }
}

void send_again(struct shard *s, uint64_t now_ms, struct shard_out *out)
{
    if (s->role != COPY_PRIMARY || s->state != SHARD_SERVING)
        return;
    for (unsigned i = 0; i < s->peer_count; i++) {
        struct peer *p = &s->peer[i];
        if (now_ms - p->sent_ms < s->config.resend_ms)
            continue;
        /* A copy that is level may still lack the stable position, which no ACK confirms: so this goes on for ever, slowly. */
        p->due = true;
        p->sent[0] = p->has[0];
        p->sent[1] = p->has[1];
        if ((p->role == COPY_COPYING && !p->complete) || p->loading) {
            p->block_flying = 0;
            if (p->block_next >= s->config.block_count)
                p->block_next = 0;
            if (p->heard && p->version == s->version)
                send_blocks(s, p, out);
        }
    }
    if (now_ms - s->report_ms >= s->config.resend_ms)
        s->report_now = true;
}
