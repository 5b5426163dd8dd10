/* From a spec to who gets what. Pure. */
#include <string.h>

#include "base/base.h"
#include "coordinator/coordinator.h"
#include "engine/engine.h"

static void place_slots(const struct job_spec *spec, struct core_config *c)
{
    unsigned slots = 0, homes = 0, primaries = 0;
    for (unsigned pass = 0; pass < 2; pass++) {       /* slots of sites that stay come first: each is the first primary of a shard */
        for (uint32_t i = 0; i < spec->site_count; i++) {
            if ((spec->sites[i].via == VIA_JOIN) != (pass == 1))
                continue;
            homes += spec->sites[i].ps_shards > 0;
            for (uint32_t k = 0; k < spec->sites[i].ps_shards && slots < SLOTS_LIMIT; k++)
                c->plan.slot_site[slots++] = (uint8_t)i;
        }
        primaries = pass == 0 ? slots : primaries;
    }
    for (uint32_t i = 0; i < spec->site_count; i++)
        c->visiting |= (uint8_t)((spec->sites[i].via == VIA_JOIN) << i);
    c->plan.embedded = slots == 0;
    if (c->plan.embedded) {
        slots = MIN(spec->sites[0].ranks, (uint32_t)SLOTS_LIMIT);
        homes = 1;
        primaries = slots;
    }
    c->plan.slot_count = (uint8_t)slots;
    c->plan.shard_count = (uint8_t)primaries;
    c->copies = (uint8_t)MIN(homes, (unsigned)COPIES_LIMIT);
}

/* By what sites can compute at the same time, in the order of the spec. */
static void place_lanes(const struct job_spec *spec, struct core_config *c)
{
    uint32_t units[SITES_LIMIT];
    struct lane_range lanes[SITES_LIMIT];
    for (uint32_t i = 0; i < spec->site_count; i++) {
        c->threads[i] = spec->sites[i].threads;
        units[i] = spec->sites[i].ranks * c->threads[i];
    }
    lanes_over(spec->lanes, units, spec->site_count, lanes);
    for (uint32_t i = 0; i < spec->site_count; i++)
        c->gang[i] = (struct view_gang){.lanes = lanes[i], .ranks = (uint16_t)spec->sites[i].ranks};
}

/* Lane-tree nodes that `count` ranks of the gang hold together. */
static unsigned sums_of(unsigned lanes, const struct view_gang *gang, unsigned first, unsigned count)
{
    struct lane_range node[LANE_NODES_MAX];
    unsigned width = gang->lanes.hi - gang->lanes.lo, lo = width * first / gang->ranks, hi = width * (first + count) / gang->ranks;
    return lane_nodes(lanes, (struct lane_range){(uint16_t)(gang->lanes.lo + lo), (uint16_t)(gang->lanes.lo + hi)}, node);
}

/* best[n][k]: fewest sums of the first n nodes when k of them hold one rank more than the others. */
void placement_nodes(unsigned lanes, const struct view_gang *gang, unsigned nodes, uint16_t first[HOSTS_LIMIT + 1])
{
    static const unsigned none = 1u << 30;
    CHECK(nodes >= 1 && nodes <= HOSTS_LIMIT && gang->ranks >= nodes);
    unsigned each = gang->ranks / nodes, more = gang->ranks % nodes, best[HOSTS_LIMIT + 1][HOSTS_LIMIT + 1];
    for (unsigned n = 0; n <= nodes; n++)
        for (unsigned k = 0; k <= more; k++) {
            unsigned even = n > k ? best[n - 1][k] + sums_of(lanes, gang, (n - 1) * each + k, each) : none;
            unsigned large = n >= k && k ? best[n - 1][k - 1] + sums_of(lanes, gang, (n - 1) * each + k - 1, each + 1) : none;
            best[n][k] = n + k == 0 ? 0 : MIN(MIN(even, large), none);
        }
    for (unsigned n = nodes, k = more; n > 0; n--) {
        first[n] = (uint16_t)(n * each + k);
        bool large = k && (n == k || best[n][k] == best[n - 1][k - 1] + sums_of(lanes, gang, (n - 1) * each + k - 1, each + 1));
        k -= large;
    }
    first[0] = 0;
}

void placement_of(const struct job_spec *spec, struct core_config *c)
{
    const struct job_optim *o = &spec->optimizer;
    memset(c, 0, sizeof *c);
    c->plan = (struct msg_plan){.batch = spec->batch, .lanes = (uint16_t)spec->lanes, .deterministic = spec->deterministic, .seed = spec->seed,
                                .checkpoint_every = (uint32_t)spec->checkpoint_every, .ram_every = spec->ram_every, .site_count = (uint8_t)spec->site_count,
                                .optim_kind = o->name == OPTIMIZER_SGD ? OPTIM_SGD : OPTIM_ADAMW, .weight_decay = (float)o->weight_decay,
                                .beta1 = (float)o->beta1, .beta2 = (float)o->beta2, .eps = (float)o->eps, .momentum = (float)o->momentum,
                                .state_momentum = 0.1f, .nesterov = o->nesterov, .clip = o->clip};
    for (uint32_t i = 0; i < spec->site_count; i++)
        snprintf(c->plan.site_name[i], sizeof c->plan.site_name[i], "%s", spec->sites[i].name);
    place_slots(spec, c);
    place_lanes(spec, c);
    c->checkpoint_replicas = (uint8_t)MIN(spec->checkpoint_replicas, spec->site_count);
    c->epochs = spec->epochs;
    c->steps = spec->steps;
    c->prune_epochs = spec->prune.sparsity > 0 ? spec->prune.epochs : 0;
    c->plan.phases.sparsity = spec->prune.sparsity;
}
