/* Contributions to the open round: which names a copy holds, whole or in part, and how they cover the lanes (rules 4 and 5). */
#include "ps/shard_private.h"

#include <string.h>

static bool same_name(const struct shard *s, const struct name *a, const struct name *b)
{
    bool attempt_counts = RULE_ATT && !s->config.deterministic;
    return lane_range_eq(a->lanes, b->lanes) && (!attempt_counts || a->attempt == b->attempt);
}

static uint64_t *pieces_of(const struct shard *s, uint16_t index) { return s->pieces + (size_t)index * s->words; }

uint16_t names_find(const struct shard *s, const struct name *name)
{
    for (uint16_t i = 0; i < NAMES_LIMIT; i++)
        if (s->held[i].used && same_name(s, &s->held[i].name, name))
            return i;
    return UINT16_MAX;
}

/* A name that never became whole was never reported, so nothing can depend on it: it makes room when attempts have filled the table. */
static uint16_t room(struct shard *s)
{
    uint16_t victim = UINT16_MAX;
    for (uint16_t i = 0; i < NAMES_LIMIT; i++) {
        if (!s->held[i].used)
            return i;
        if (s->held[i].missing > 0 && (victim == UINT16_MAX || s->held[i].name.attempt < s->held[victim].name.attempt))
            victim = i;
    }
    return victim;
}

uint16_t names_take(struct shard *s, const struct name *name, const struct totals *totals)
{
    uint16_t i = names_find(s, name);
    if (i != UINT16_MAX)
        return i;
    i = room(s);
    if (i == UINT16_MAX)
        return i;
    s->held[i] = (struct held){.used = true, .missing = s->config.block_count, .name = *name, .totals = *totals};
    if (s->words)
        memset(pieces_of(s, i), 0, s->words * sizeof(uint64_t));
    for (unsigned p = 0; p < s->peer_count; p++) {
        s->peer[p].has[i / 64] &= ~(1ull << (i % 64));
        s->peer[p].sent[i / 64] &= ~(1ull << (i % 64));
    }
    return i;
}

void names_piece(struct shard *s, uint16_t index, uint32_t first, uint32_t count)
{
    struct held *h = &s->held[index];
    uint64_t *pieces = pieces_of(s, index);
    for (uint32_t b = first; b < first + count; b++) {
        if (bit_get(pieces, b))
            continue;
        bit_set(pieces, b);
        h->missing--;
    }
}

bool names_whole(const struct shard *s, uint16_t index) { return s->held[index].used && (s->held[index].missing == 0 || !RULE_WHOLE); }

bool names_have_piece(const struct shard *s, uint16_t index, uint32_t first, uint32_t count)
{
    for (uint32_t b = first; b < first + count; b++)
        if (!bit_get(pieces_of(s, index), b))
            return false;
    return true;
}

void names_drop_all(struct shard *s)
{
    memset(s->held, 0, sizeof s->held);
    for (unsigned p = 0; p < s->peer_count; p++) {
        memset(s->peer[p].has, 0, sizeof s->peer[p].has);
        memset(s->peer[p].sent, 0, sizeof s->peer[p].sent);
    }
    s->wants_cover = false;
}

bool names_hold_cover(const struct shard *s, const struct name *cover, uint16_t count)
{
    for (uint16_t i = 0; i < count; i++) {
        uint16_t index = names_find(s, &cover[i]);
        if (index == UINT16_MAX || !names_whole(s, index))
            return false;
    }
    return count > 0;
}

void names_held_by_all(const struct shard *s, uint64_t out[2])
{
    out[0] = out[1] = 0;
    for (uint16_t i = 0; i < NAMES_LIMIT; i++)
        if (names_whole(s, i))
            bit_set(out, i);
    for (unsigned p = 0; RULE_HELD && p < s->peer_count; p++) {
        const struct peer *q = &s->peer[p];
        if (!shard_is_holder(q))
            continue;
        bool level = q->heard && q->version == s->version;
        out[0] &= level ? q->has[0] : 0;
        out[1] &= level ? q->has[1] : 0;
    }
}

/* The newest attempt of exactly this node. */
static uint16_t newest_of(const struct shard *s, const uint64_t among[2], struct lane_range node)
{
    uint16_t best = UINT16_MAX;
    for (uint16_t i = 0; i < NAMES_LIMIT; i++)
        if (bit_get(among, i) && s->held[i].used && lane_range_eq(s->held[i].name.lanes, node) &&
            (best == UINT16_MAX || s->held[i].name.attempt > s->held[best].name.attempt))
            best = i;
    return best;
}

static bool cover_node(const struct shard *s, const uint64_t among[2], struct lane_range node, struct name out[COVER_LIMIT], uint16_t *count)
{
    uint16_t i = newest_of(s, among, node);
    if (i != UINT16_MAX) {
        out[(*count)++] = s->held[i].name;
        return true;
    }
    if (node.hi - node.lo < 2)
        return false;
    uint16_t mid = (uint16_t)((node.lo + node.hi) / 2);
    return cover_node(s, among, (struct lane_range){node.lo, mid}, out, count) && cover_node(s, among, (struct lane_range){mid, node.hi}, out, count);
}

uint16_t names_cover(const struct shard *s, const uint64_t among[2], struct name out[COVER_LIMIT])
{
    uint16_t count = 0;
    if (!(among[0] | among[1]) || !cover_node(s, among, (struct lane_range){0, s->config.lanes}, out, &count))
        return 0;
    return count;
}

struct totals names_totals(const struct shard *s, const struct name *cover, uint16_t count)
{
    struct totals t = {0};
    struct lane_range nodes[COVER_LIMIT];
    double losses[COVER_LIMIT];
    for (uint16_t i = 0; i < count; i++) {
        const struct totals *one = &s->held[names_find(s, &cover[i])].totals;
        nodes[i] = cover[i].lanes;
        losses[i] = one->loss_sum;
        t.correct += one->correct;
        t.samples += one->samples;
        t.nonfinite += one->nonfinite;
    }
    /* In tree order, as the gradients: the loss series does not depend on how the lanes were cut. */
    t.loss_sum = lane_sum_f64(s->config.lanes, (struct lane_range){0, s->config.lanes}, nodes, losses, count);
    return t;
}
