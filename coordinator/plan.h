/* The inside of the plan that people see: plan.c (who gets what, bytes, times), plan_probe.c (this machine, measured), plan_print.c (text and JSON). */
#ifndef VIADUCT_COORDINATOR_PLAN_H
#define VIADUCT_COORDINATOR_PLAN_H

#include "base/layout.h"
#include "coordinator/coordinator.h"
#include "device/device.h"
#include "model/model.h"

#define PLAN_REASONS_MAX 24
#define PLAN_REASON_TEXT 320

struct plan_probe {                   /* measured in the call */
    unsigned at_once;                 /* lanes that ran side by side, as they will in the run */
    uint32_t lane_samples, measured_samples;   /* measured: fewer than a lane holds when a whole one would take too long */
    double lane_ms;                   /* of lane_samples samples */
    double apply_ms;                  /* the optimizer once over the whole model, one core */
    double link_bytes_per_second;     /* through a local socket, both ends and both checksums on one core */
    uint64_t engine_bytes, engine_bytes_per_slot;   /* with one slot, and each further one */
};
int plan_probe(const struct job_spec *spec, const struct graph *g, const struct layout *l, unsigned threads, struct plan_probe *out, struct err *err);

struct plan_site {
    char name[64];
    const char *via;                  /* static */
    bool later;                       /* it joins: at the start it has no lanes, no copies, and its memory is another machine's */
    uint32_t ranks, threads, nodes;
    uint16_t first_rank[HOSTS_LIMIT + 1];   /* of each node, and the end */
    uint64_t node_memory_bytes[HOSTS_LIMIT];
    struct lane_range lanes, rank_lanes[RANKS_MAX];
    unsigned names;                   /* contributions that its lanes make: maximal nodes of the lane tree */
    uint64_t memory_per_rank_bytes;
};
struct plan_shard {
    uint32_t blocks;
    uint64_t bytes, memory_bytes;     /* fp32 values; what one copy needs: weights, optimizer slots, contributions */
    uint8_t copy_count, slot[COPIES_LIMIT];    /* the first is the primary */
};

struct run_plan {
    char name[64];
    struct machine machine;
    bool embedded;
    uint32_t batch, lanes, site_count, shard_count;
    struct plan_site site[SITES_LIMIT];
    struct plan_shard shard[SHARDS_LIMIT];
    uint8_t slot_site[SLOTS_LIMIT];
    uint64_t train_steps, prune_steps;   /* of the phases; steps: both */
    uint64_t prunable;                /* weights that pruning may make zero */
    double sparsity;
    uint64_t samples_per_pass, steps, parameters, model_bytes, data_bytes, memory_bytes;   /* memory: all ranks and shards */
    unsigned threads;                 /* of all ranks */
    struct { uint64_t contributed, replicated, pulled; } wan, inside;     /* bytes per step between sites, and inside them */
    struct plan_probe probe;
    double compute_ms, link_ms, apply_ms, hops_ms, step_ms;
    unsigned reason_count;
    char reason[PLAN_REASONS_MAX][PLAN_REASON_TEXT];
};

#endif
