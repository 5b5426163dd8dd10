/* What every transport needs, also in a plugin: who has which lanes and blocks, and sums in tree order that read and write memory once. */
#include <immintrin.h>
#include <stdlib.h>

#include "collectives/transport.h"

#define PIECE 2048u                   /* floats: all levels of a piece fit the nearest cache */
#define STREAM_FLOATS (1u << 20)      /* a result this long leaves the caches before anyone reads it: then its lines need not be read to be written */

struct lane_range coll_lanes_of(const struct coll_config *c, unsigned rank)
{
    struct lane_range part = lanes_of_part(coll_gang_lanes(c), rank, c->ranks);
    return (struct lane_range){(uint16_t)(c->gang.lo + part.lo), (uint16_t)(c->gang.lo + part.hi)};
}

int coll_runs(const struct coll_config *c, struct coll_run *out, struct err *err)
{
    const struct layout *l = c->layout;
    uint32_t *owner = calloc(l->block_count, sizeof *owner);
    if (!owner)
        return err_set(err, ERR_NO_MEMORY, "no memory for the block table");
    layout_shards(l, c->ranks, owner);
    for (unsigned r = 0; r < c->ranks; r++)
        out[r] = (struct coll_run){0};
    for (uint32_t b = 0; b < l->block_count; b++) {   /* owners follow each other, so a rank's blocks are one run */
        struct coll_run *run = &out[owner[b]];
        if (run->block_count++ == 0) {
            run->first_block = b;
            run->first_offset = l->blocks[b].offset;
        }
        run->elems = l->blocks[b].offset + l->blocks[b].elems - run->first_offset;
    }
    free(owner);
    return 0;
}

/* ---- sums ---- */
struct summation {
    unsigned lanes, count;
    const struct lane_range *nodes;
    const float *const *parts;        /* at the piece under way */
};

/* Where the sum of `node` over a piece lies: a part that is there, or `memory`. */
static const float *sum_of(const struct summation *s, struct lane_range node, uint64_t n, float *memory, float *scratch)
{
    unsigned first = 0, end;
    while (s->nodes[first].lo < node.lo)
        first++;
    if (lane_range_eq(s->nodes[first], node))
        return s->parts[first];
    for (end = first; end < s->count && s->nodes[end].hi <= node.hi; end++)
        ;
    lane_sum_f32(s->lanes, node, s->nodes + first, s->parts + first, end - first, memory, n, scratch);
    return memory;
}

/* Reading and writing in turn keeps memory busy both ways; what is overwritten is not read. */
static void add_streaming(float *dst, const float *left, const float *right, uint64_t n)
{
    uint64_t i = 0;
    for (; i < n && ((uintptr_t)(dst + i) & 15); i++)
        dst[i] = left[i] + right[i];
    for (; i + 4 <= n; i += 4)
        _mm_stream_ps(dst + i, _mm_add_ps(_mm_loadu_ps(left + i), _mm_loadu_ps(right + i)));
    for (; i < n; i++)
        dst[i] = left[i] + right[i];
}

void coll_sum(unsigned lanes, struct lane_range total, const struct lane_range *nodes, const float *const *parts, unsigned count, float *dst, uint64_t n)
{
    _Alignas(64) float scratch[LANE_DEPTH_MAX * PIECE], half[2][PIECE];
    const float *at[LANES_MAX];
    uint16_t mid = (uint16_t)((total.lo + total.hi) / 2);
    bool streams = n >= STREAM_FLOATS && count > 1;
    struct summation s = {lanes, count, nodes, at};
    CHECK(count <= LANES_MAX);
    for (uint64_t i = 0; i < n; i += PIECE) {
        uint64_t piece = n - i < PIECE ? n - i : PIECE;
        for (unsigned k = 0; k < count; k++)
            at[k] = parts[k] + i;
        if (streams)
            add_streaming(dst + i, sum_of(&s, (struct lane_range){total.lo, mid}, piece, half[0], scratch),
                          sum_of(&s, (struct lane_range){mid, total.hi}, piece, half[1], scratch), piece);
        else
            lane_sum_f32(lanes, total, nodes, at, count, dst + i, piece, scratch);
    }
    _mm_sfence();
}
