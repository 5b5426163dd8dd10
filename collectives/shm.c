/* All ranks on one host: everything lies in one segment, a rank sums the blocks it owns, and a barrier stands between writers and readers. */
#include <stdlib.h>
#include <string.h>

#include "collectives/segment.h"
#include "collectives/transport.h"

static int shm_open_gang(struct coll *c, struct err *err)
{
    struct segment *s = calloc(1, sizeof *s);
    if (!s)
        return err_set(err, ERR_NO_MEMORY, "no memory for a communicator");
    c->state = s;
    struct segment_shape shape = {c->cfg.ranks, c->cfg.lanes, coll_gang_lanes(&c->cfg), c->cfg.rank, c->cfg.layout->elems};
    TRY(segment_open(s, c->segment, &shape, c->cfg.open_timeout_ms, err));
    c->weights = s->weights;
    c->stride = s->stride;
    c->lane = s->lane;
    c->lane_first = c->cfg.gang.lo;
    return 0;
}

static void shm_close(struct coll *c)
{
    if (c->state)
        segment_close(c->state);
    free(c->state);
}

static void shm_abort(struct coll *c) { segment_abort(c->state, NULL); }

static int shm_reduce(struct coll *c, const struct lane_totals *totals, struct err *err)
{
    struct segment *s = c->state;
    for (unsigned l = c->mine.lo; l < c->mine.hi; l++)
        s->head->totals[0][l] = totals[l - c->mine.lo];
    TRY(segment_barrier(s, c->cfg.timeout_ms, err));
    memcpy(c->totals, s->head->totals[0], sizeof c->totals);
    for (unsigned n = 0; n < c->node_count && c->owned_elems; n++) {
        struct lane_range leaf[LANES_MAX];
        const float *part[LANES_MAX];
        unsigned count = 0;
        for (unsigned l = c->node[n].lo; l < c->node[n].hi; l++, count++) {
            leaf[count] = (struct lane_range){(uint16_t)l, (uint16_t)(l + 1)};
            part[count] = c->lane + (l - c->lane_first) * c->stride + c->first_offset;
        }
        coll_sum(c->cfg.lanes, c->node[n], leaf, part, count, c->sum[n], c->owned_elems);
    }
    return 0;
}

static int shm_gather(struct coll *c, struct err *err) { return segment_barrier(c->state, c->cfg.timeout_ms, err); }

static int shm_exchange(struct coll *c, uint64_t mine, uint64_t *all, struct err *err)
{
    struct segment *s = c->state;
    s->head->exchange[0][c->cfg.rank] = mine;
    TRY(segment_barrier(s, c->cfg.timeout_ms, err));
    memcpy(all, s->head->exchange[0], c->cfg.ranks * sizeof *all);
    return segment_barrier(s, c->cfg.timeout_ms, err);   /* nobody writes the next one before everybody has read this one */
}

const struct coll_ops coll_shm = {"shm", shm_open_gang, shm_close, shm_abort, shm_reduce, shm_gather, shm_exchange, NULL};
