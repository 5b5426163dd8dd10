/* What does not depend on the transport: opening, where sums lie, totals of nodes. */
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include "base/arena.h"
#include "collectives/transport.h"

/* ---- opening ---- */
static int place_sums(struct coll *c, struct err *err)
{
    unsigned apart = c->node_count - (c->cfg.sums_in_weights && c->node_count > 0);
    c->own_sums_bytes = c->owned_elems * apart * sizeof(float);
    if (c->own_sums_bytes && !(c->own_sums = pages_alloc(c->own_sums_bytes, err)))
        return ERR_NO_MEMORY;
    for (unsigned n = 0, k = 0; n < c->node_count; n++)
        c->sum[n] = n == 0 && c->cfg.sums_in_weights ? c->weights + c->first_offset : c->own_sums + c->owned_elems * k++;
    return 0;
}

static int set_up(struct coll *c, struct err *err)
{
    struct coll_run run[LANES_MAX];
    TRY(coll_runs(&c->cfg, run, err));
    const struct coll_run *own = &run[c->cfg.rank];
    c->first_block = own->block_count ? own->first_block : c->cfg.layout->block_count;
    c->block_count = own->block_count;
    c->first_offset = own->first_offset;
    c->owned_elems = own->elems;
    c->mine = coll_lanes_of(&c->cfg, c->cfg.rank);
    c->node_count = lane_nodes(c->cfg.lanes, c->cfg.gang, c->node);
    TRY(c->ops->open(c, err));
    return place_sums(c, err);
}

int coll_open(const struct coll_config *config, struct coll **out, struct err *err)
{
    const struct coll_ops *ops = strcmp(config->transport, "tcp") == 0 ? &coll_tcp : &coll_shm;
    if (strcmp(config->transport, ops->name) != 0)
        TRY(coll_plugin_open(config->transport, &ops, err));
    CHECK(config->rank < config->ranks && config->ranks <= LANES_MAX && config->lanes <= LANES_MAX && config->gang.hi <= config->lanes);
    struct coll *c = calloc(1, sizeof *c);
    if (!c)
        return err_set(err, ERR_NO_MEMORY, "no memory for a communicator");
    c->ops = ops;
    c->cfg = *config;
    snprintf(c->segment, sizeof c->segment, "%s", config->segment ? config->segment : "");
    int rc = set_up(c, err);
    if (rc < 0) {
        coll_close(c);
        return rc;
    }
    *out = c;
    return 0;
}

void coll_close(struct coll *c)
{
    if (!c)
        return;
    c->ops->close(c);
    pages_free(c->own_sums, c->own_sums_bytes);
    free(c);
}

/* ---- rounds ---- */
void coll_abort(struct coll *c) { c->ops->abort(c); }
struct lane_range coll_rank_lanes(const struct coll *c) { return c->mine; }
float *coll_weights(struct coll *c) { return c->weights; }

void coll_touch(struct coll *c)
{
    pages_touch(c->own_sums, c->own_sums_bytes);
    if (c->mine.lo < c->mine.hi)
        pages_touch(coll_lane_buffer(c, c->mine.lo), (c->mine.hi - c->mine.lo) * c->stride * sizeof(float));
}

float *coll_lane_buffer(struct coll *c, unsigned lane)
{
    CHECK(lane >= c->mine.lo && lane < c->mine.hi);
    return c->lane + (lane - c->lane_first) * c->stride;
}

int coll_put_lane(struct coll *c, unsigned lane, struct memory from, struct handle *out, struct err *err)
{
    return memory_copy((struct memory){.pointer = coll_lane_buffer(c, lane)}, from, c->cfg.layout->elems * sizeof(float), out, err);
}

int coll_get_weights(struct coll *c, struct memory to, struct handle *out, struct err *err)
{
    return memory_copy(to, (struct memory){.pointer = c->weights}, c->cfg.layout->elems * sizeof(float), out, err);
}

void coll_owned_blocks(const struct coll *c, uint32_t *first, uint32_t *count)
{
    *first = c->first_block;
    *count = c->block_count;
}

static struct lane_totals node_totals(const struct coll *c, struct lane_range node)
{
    struct lane_totals t = {0};
    struct lane_range leaf[LANES_MAX];
    double loss[LANES_MAX];
    unsigned n = 0;
    for (unsigned l = node.lo; l < node.hi; l++, n++) {
        const struct lane_totals *of = &c->totals[l];
        leaf[n] = (struct lane_range){(uint16_t)l, (uint16_t)(l + 1)};
        loss[n] = of->loss_sum;
        t.correct += of->correct;
        t.samples += of->samples;
        t.nonfinite += of->nonfinite;
    }
    t.loss_sum = lane_sum_f64(c->cfg.lanes, node, leaf, loss, n);
    return t;
}

int coll_reduce(struct coll *c, const struct lane_totals *totals, struct coll_sums *out, struct err *err)
{
    TRY(c->ops->reduce(c, totals, err));
    *out = (struct coll_sums){.count = c->node_count, .first_offset = c->first_offset, .elems = c->owned_elems};
    for (unsigned n = 0; n < c->node_count; n++) {
        out->node[n] = c->node[n];
        out->sum[n] = c->sum[n];
        out->totals[n] = node_totals(c, c->node[n]);
    }
    return 0;
}

void coll_traffic(const struct coll *c, unsigned to_rank, struct coll_traffic *out)
{
    *out = (struct coll_traffic){0};
    if (c->ops->traffic)
        c->ops->traffic(c, to_rank, out);
}

void coll_segment_name(char out[COLL_SEGMENT_BYTES], const char *job, const char *site, uint32_t incarnation, unsigned turn, unsigned host)
{
    int n = snprintf(out, COLL_SEGMENT_BYTES, "/viaduct-%.50s-%.64s-%u-%u", job, site, incarnation, turn);
    if (host > 0)                     /* "hosts" of one machine share /dev/shm */
        snprintf(out + n, (size_t)(COLL_SEGMENT_BYTES - n), "-h%u", host);
}

int coll_gather(struct coll *c, struct err *err) { return c->ops->gather(c, err); }
int coll_exchange(struct coll *c, uint64_t mine, uint64_t *all, struct err *err) { return c->ops->exchange(c, mine, all, err); }
