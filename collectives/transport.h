/* The inside of collectives: what all transports share, and the table that each of them is. A plugin gives the same table. */
#ifndef VIADUCT_COLLECTIVES_TRANSPORT_H
#define VIADUCT_COLLECTIVES_TRANSPORT_H

#include "collectives/collectives.h"

struct coll_ops;

struct coll {
    const struct coll_ops *ops;
    struct coll_config cfg;
    char segment[256];
    struct lane_range mine;
    uint32_t first_block, block_count;
    uint64_t first_offset, owned_elems;
    unsigned node_count;
    struct lane_range node[LANE_NODES_MAX];
    float *sum[LANE_NODES_MAX];       /* owned_elems floats each; [0] lies in the weights when sums are made there */
    float *own_sums;                  /* memory of those that do not */
    size_t own_sums_bytes;
    struct lane_totals totals[LANES_MAX];   /* by lane, of the whole gang: filled by ops->reduce */
    float *weights, *lane;            /* set by ops->open; lane: flat arenas, `stride` floats apart, of the lanes from lane_first on */
    size_t stride;
    unsigned lane_first;
    void *state;                      /* of the transport */
};

struct coll_ops {
    const char *name;
    int (*open)(struct coll *c, struct err *err);      /* everything above it is set; ops->close follows in any case */
    void (*close)(struct coll *c);
    void (*abort)(struct coll *c);                     /* any thread */
    int (*reduce)(struct coll *c, const struct lane_totals *totals, struct err *err);   /* fills c->sum and c->totals */
    int (*gather)(struct coll *c, struct err *err);
    int (*exchange)(struct coll *c, uint64_t mine, uint64_t *all, struct err *err);
    void (*traffic)(const struct coll *c, unsigned to_rank, struct coll_traffic *out);   /* NULL: nothing is counted */
};
extern const struct coll_ops coll_shm, coll_tcp;

/* A plugin's only symbol. The loader compares abi with its own before it looks at anything else. */
#define COLL_PLUGIN_SYMBOL "viaduct_coll_plugin"
#define COLL_PLUGIN_VERSION 1u
#define COLL_PLUGIN_ABI {sizeof(struct coll_plugin), COLL_PLUGIN_VERSION, COLL_BUILD_ID}    /* the build id: a hash of the shared sources, by the Makefile */
struct coll_plugin { struct coll_plugin_abi abi; const struct coll_ops *ops; };
/* ERR_NOT_FOUND when there is no such plugin, ERR_CONFLICT naming both builds when it belongs to another program. */
int coll_plugin_open(const char *transport, const struct coll_ops **out, struct err *err);

static inline size_t coll_flat_bytes(const struct coll_config *c) { return (c->layout->elems * sizeof(float) + 4095) / 4096 * 4096; }
static inline unsigned coll_gang_lanes(const struct coll_config *c) { return c->gang.hi - c->gang.lo; }
struct lane_range coll_lanes_of(const struct coll_config *c, unsigned rank);

/* Blocks that a rank owns, and the arena run that covers them. */
struct coll_run { uint32_t first_block, block_count; uint64_t first_offset, elems; };
int coll_runs(const struct coll_config *c, struct coll_run *out /* one a rank */, struct err *err);

/* lane_sum_f32 piece by piece, so that partial sums stay in the nearest cache. */
void coll_sum(unsigned lanes, struct lane_range total, const struct lane_range *nodes, const float *const *parts, unsigned count, float *dst, uint64_t n);

#endif
