/* Offline memory planning: buffers sorted by size take the lowest gap between the placed ones that are alive at the same time. */
#include <stdlib.h>

#include "engine/program.h"

#define ALIGN_BYTES 256u

static int by_size(const void *a, const void *b)
{
    const struct interval *x = *(struct interval *const *)a, *y = *(struct interval *const *)b;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? 1 : -1;
    return x < y ? -1 : 1;
}

static int by_offset(const void *a, const void *b)
{
    const struct interval *x = *(struct interval *const *)a, *y = *(struct interval *const *)b;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

uint64_t memory_plan(struct interval *intervals, uint32_t count)
{
    struct interval *order[GRAPH_EDGES_MAX + 64], *busy[GRAPH_EDGES_MAX + 64];
    uint64_t total = 0;
    CHECK(count <= GRAPH_EDGES_MAX + 64);
    for (uint32_t i = 0; i < count; i++) {
        order[i] = &intervals[i];
        intervals[i].bytes = (intervals[i].bytes + ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES;
    }
    qsort(order, count, sizeof order[0], by_size);
    for (uint32_t i = 0; i < count; i++) {
        struct interval *me = order[i];
        uint32_t n = 0;
        for (uint32_t k = 0; k < i; k++)
            if (order[k]->first <= me->last && me->first <= order[k]->last)
                busy[n++] = order[k];
        qsort(busy, n, sizeof busy[0], by_offset);
        uint64_t at = 0;
        for (uint32_t k = 0; k < n; k++) {
            if (busy[k]->offset >= at + me->bytes)
                break;
            if (busy[k]->offset + busy[k]->bytes > at)
                at = busy[k]->offset + busy[k]->bytes;
        }
        me->offset = at;
        if (at + me->bytes > total)
            total = at + me->bytes;
    }
    return total;
}
