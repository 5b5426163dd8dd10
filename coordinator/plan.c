/* The plan as people see it: the coordinator's own placement, what it costs in memory and bytes, and how long a step should take. */
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "coordinator/plan.h"
#include "data/data.h"
#include "engine/engine.h"

/* One round waits for this many messages, one after the other: contribute, replicate, acknowledge, prepared, commit, record to the copies, pull. */
#define HOPS 7
#define HOP_MS 0.1                    /* a message between two processes that have to be woken */
#define TLS_BYTES_PER_SECOND 1.5e9    /* AES-GCM at both ends on one core */

static const char *via_name(enum job_via via)
{
    static const char *const names[] = {"local", "mpirun", "slurm", "join"};
    return names[via];
}

static void reason(struct run_plan *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void reason(struct run_plan *p, const char *fmt, ...)
{
    va_list ap;
    if (p->reason_count == PLAN_REASONS_MAX)
        return;
    va_start(ap, fmt);
    vsnprintf(p->reason[p->reason_count++], PLAN_REASON_TEXT, fmt, ap);
    va_end(ap);
}

/* ---- what the coordinator would do ---- */
static int place(const struct job_spec *spec, struct core_config *config, struct view *view, struct err *err)
{
    void *memory = malloc(core_size());
    struct core_out *out = malloc(sizeof *out);
    int rc = memory && out ? 0 : err_set(err, ERR_NO_MEMORY, "no memory to plan");
    if (rc == 0) {
        placement_of(spec, config);
        config->fresh = true;
        struct core *c = core_init(memory, config);
        core_start(c, 0, out);
        *view = *core_view(c);
    }
    free(out);
    free(memory);
    return rc;
}

static void take_sites(struct run_plan *p, const struct job_spec *spec, const struct view *v)
{
    p->site_count = spec->site_count;
    for (uint32_t i = 0; i < spec->site_count; i++) {
        const struct job_site *from = &spec->sites[i];
        struct plan_site *s = &p->site[i];
        struct lane_range node[LANE_NODES_MAX];
        snprintf(s->name, sizeof s->name, "%s", from->name);
        s->via = via_name(from->via);
        s->later = from->via == VIA_JOIN;
        s->ranks = MIN(from->ranks, RANKS_MAX);
        s->threads = from->threads;
        s->nodes = from->nodes;
        placement_nodes(spec->lanes, &v->gang[i], s->nodes, s->first_rank);
        s->lanes = v->gang[i].lanes;
        s->names = lane_nodes(spec->lanes, s->lanes, node);
        for (uint32_t r = 0; r < s->ranks; r++) {
            struct lane_range part = lanes_of_part(s->lanes.hi - s->lanes.lo, r, s->ranks);
            s->rank_lanes[r] = (struct lane_range){(uint16_t)(s->lanes.lo + part.lo), (uint16_t)(s->lanes.lo + part.hi)};
        }
        p->threads += s->later ? 0 : s->ranks * s->threads;
    }
}

static uint32_t sites_there(const struct run_plan *p)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->site_count; i++)
        n += !p->site[i].later;
    return n;
}

static unsigned names_of_round(const struct run_plan *p)
{
    unsigned n = 0;
    for (uint32_t i = 0; i < p->site_count; i++)
        n += p->site[i].names;
    return n;
}

static unsigned optimizer_slots(const struct job_optim *o) { return o->name == OPTIMIZER_ADAMW ? 2 : o->momentum != 0; }

static int take_shards(struct run_plan *p, const struct job_spec *spec, const struct view *v, const struct layout *l, struct err *err)
{
    uint32_t *owner = calloc(l->block_count, sizeof *owner);
    if (!owner)
        return err_set(err, ERR_NO_MEMORY, "no memory for the block table");
    p->shard_count = v->shard_count;
    layout_shards(l, v->shard_count, owner);
    for (uint32_t b = 0; b < l->block_count; b++) {
        p->shard[owner[b]].blocks++;
        p->shard[owner[b]].bytes += l->blocks[b].elems * sizeof(float);
    }
    free(owner);
    for (uint32_t s = 0; s < p->shard_count; s++) {
        struct plan_shard *to = &p->shard[s];
        for (unsigned k = 0; k < v->shard[s].copy_count; k++)
            if (!p->site[v->slot[v->shard[s].copy[k].slot].site].later)
                to->slot[to->copy_count++] = v->shard[s].copy[k].slot;
        to->memory_bytes = to->bytes * (1 + optimizer_slots(&spec->optimizer) + names_of_round(p) + 1);
    }
    for (unsigned s = 0; s < v->slot_count; s++)
        p->slot_site[s] = v->slot[s].site;
    return 0;
}

/* ---- bytes ---- */
static void count_bytes(struct run_plan *p)
{
    for (uint32_t s = 0; s < p->shard_count && !p->embedded; s++) {
        const struct plan_shard *shard = &p->shard[s];
        unsigned home = p->slot_site[shard->slot[0]];
        bool has_copy[SITES_LIMIT] = {false};
        for (unsigned k = 0; k < shard->copy_count; k++)
            has_copy[p->slot_site[shard->slot[k]]] = true;
        p->wan.replicated += (uint64_t)(shard->copy_count - 1u) * names_of_round(p) * shard->bytes;
        for (uint32_t i = 0; i < p->site_count; i++) {
            uint64_t contributed = p->site[i].names * shard->bytes, pulled = p->site[i].ranks && !p->site[i].later ? shard->bytes : 0;
            *(i == home ? &p->inside.contributed : &p->wan.contributed) += contributed;
            *(has_copy[i] ? &p->inside.pulled : &p->wan.pulled) += pulled;
        }
    }
}

static uint64_t wan_bytes(const struct run_plan *p) { return p->wan.contributed + p->wan.replicated + p->wan.pulled; }

static unsigned node_of(const struct plan_site *s, unsigned rank)
{
    unsigned n = 0;
    while (n + 1 < s->nodes && rank >= s->first_rank[n + 1])
        n++;
    return n;
}

static void count_memory(struct run_plan *p, const struct layout *l)
{
    uint64_t flat = l->elems * sizeof(float);
    for (uint32_t i = 0; i < p->site_count; i++) {
        struct plan_site *s = &p->site[i];
        if (s->ranks == 0)
            continue;
        uint64_t segment = flat * (1u + s->lanes.hi - s->lanes.lo), sums = flat * s->names, engine = p->probe.engine_bytes;
        if (s->threads > 1)
            engine += (s->threads - 1) * p->probe.engine_bytes_per_slot;
        s->memory_per_rank_bytes = engine + p->data_bytes + (segment + sums) / s->ranks;
        p->memory_bytes += s->later ? 0 : s->memory_per_rank_bytes * s->ranks;
        for (uint32_t n = 0; n < s->nodes; n++)
            s->node_memory_bytes[n] = s->memory_per_rank_bytes * (uint64_t)(s->first_rank[n + 1] - s->first_rank[n]);
    }
    for (uint32_t k = 0; k < p->shard_count; k++) {
        const struct plan_shard *shard = &p->shard[k];
        p->memory_bytes += shard->memory_bytes * shard->copy_count;
        for (unsigned c = 0; c < shard->copy_count; c++) {
            struct plan_site *s = &p->site[p->slot_site[shard->slot[c]]];
            s->node_memory_bytes[p->embedded ? node_of(s, shard->slot[c]) : 0] += shard->memory_bytes;   /* shards of their own are on the first node */
        }
    }
}

/* ---- time ---- */
static unsigned waves(const struct plan_site *s)
{
    unsigned most = 0;
    for (uint32_t r = 0; r < s->ranks; r++) {
        unsigned lanes = s->rank_lanes[r].hi - s->rank_lanes[r].lo;
        most = MAX(most, (lanes + s->threads - 1) / s->threads);
    }
    return most;
}

static void predict(struct run_plan *p)
{
    double path = 0, inside = (double)(p->inside.contributed + p->inside.pulled), between = (double)wan_bytes(p);
    unsigned cores = MIN(p->machine.cores, MAX(p->threads, 1)), copies = 0;
    for (uint32_t i = 0; i < p->site_count; i++)
        path = MAX(path, waves(&p->site[i]) * p->probe.lane_ms);
    for (uint32_t s = 0; s < p->shard_count; s++)
        copies = MAX(copies, p->shard[s].copy_count);
    p->compute_ms = MAX(path, p->lanes * p->probe.lane_ms / cores);
    p->link_ms = 1e3 * ((inside + between) / p->probe.link_bytes_per_second + between / TLS_BYTES_PER_SECOND) / p->machine.cores;
    p->apply_ms = copies * p->probe.apply_ms / p->machine.cores;
    p->hops_ms = HOPS * HOP_MS;
    p->step_ms = p->compute_ms + p->link_ms + p->apply_ms + p->hops_ms;
}

/* ---- why ---- */
#define MB(n) ((double)(n) / 1e6)
#define S(n) ((n) == 1 ? "" : "s")

static void explain_time(struct run_plan *p)
{
    const struct plan_probe *b = &p->probe;
    unsigned most = 0, widest = 0;
    for (uint32_t i = 0; i < p->site_count; i++)
        if (waves(&p->site[i]) > most)
            most = waves(&p->site[widest = i]);
    reason(p, "a lane is %u samples (batch %u in %u lane%s) and took %.2f ms here just now, with %u lane%s side by side%s", b->lane_samples, p->batch, p->lanes,
           S(p->lanes), b->lane_ms, b->at_once, S(b->at_once), b->measured_samples < b->lane_samples ? "; measured on fewer samples and scaled" : "");
    if (most * b->lane_ms < p->compute_ms)
        reason(p, "computing takes %.2f ms: %u lane%s on %u core%s, which all sites of this machine share", p->compute_ms, p->lanes, S(p->lanes), p->machine.cores,
               S(p->machine.cores));
    else
        reason(p, "computing takes %.2f ms: a rank of %s runs %u lane%s one after the other", p->compute_ms, p->site[widest].name, most, S(most));
    reason(p, "synchronization takes %.2f ms: %.2f ms bytes (%.1f GB/s through a local socket, measured), %.2f ms optimizer at every copy (measured), %.1f ms for %d "
              "messages in a row (%.1f ms each, assumed)", p->step_ms - p->compute_ms, p->link_ms, b->link_bytes_per_second / 1e9, p->apply_ms, p->hops_ms, HOPS, HOP_MS);
}

static void explain_bytes(struct run_plan *p)
{
    uint32_t without_copy = 0;
    if (p->embedded) {
        reason(p, "one site: each rank holds the optimizer state of the blocks that it sums; nothing leaves the site");
        return;
    }
    for (uint32_t i = 0; i < p->site_count; i++)
        without_copy += p->site[i].names > 1;
    if (sites_there(p) > 1)
        reason(p, "%.2f MB a step between sites: %.2f MB sums to primaries elsewhere, %.2f MB contributions copied to replicas, %.2f MB weights pulled from afar; plain fp32, "
              "every round (sync, codec none)", MB(wan_bytes(p)), MB(p->wan.contributed), MB(p->wan.replicated), MB(p->wan.pulled));
    if (p->wan.pulled == 0 && sites_there(p) > 1)
        reason(p, "every site holds a copy of every shard, so ranks pull weights at home and any one site may vanish");
    if (without_copy)
        reason(p, "lane ranges that are no single node of the lane tree go out in several sums; sites with as many ranks each would need fewer bytes");
}

static void explain_pruning(struct run_plan *p, const struct job_spec *spec)
{
    struct phases phases = {2, {{PHASE_TRAIN, p->train_steps}, {PHASE_PRUNE, p->steps}}, p->sparsity};
    uint64_t points = 0, last = p->train_steps;
    for (uint64_t r = p->train_steps; r < p->steps; r++)
        if (phases_ramp(&phases, r) > 0) {
            points++;
            last = r;
        }
    if (p->prune_steps)
        reason(p, "pruning: the smallest weights of the whole model, in %" PRIu64 " cubic steps up to step %" PRIu64 "; the rest of the phase trains what is left, at a rate that "
                  "falls from %g to %g", points, last + 1, job_prune_lr(&spec->optimizer, 0, p->prune_steps),
               job_prune_lr(&spec->optimizer, p->prune_steps - 1, p->prune_steps));
}

static void explain_nodes(struct run_plan *p)
{
    struct lane_range node[LANE_NODES_MAX];
    for (uint32_t i = 0; i < p->site_count; i++) {
        const struct plan_site *s = &p->site[i];
        unsigned most = 0;
        for (uint32_t n = 0; n < s->nodes; n++) {
            struct lane_range lanes = {s->rank_lanes[s->first_rank[n]].lo, s->rank_lanes[s->first_rank[n + 1] - 1].hi};
            most = MAX(most, lane_nodes(p->lanes, lanes, node));
        }
        if (s->nodes > 1)
            reason(p, "%s: ranks lie on %u nodes, which send each other at most %u sum%s and the new weights of each block a step, over TLS", s->name, s->nodes, most,
                   most == 1 ? "" : "s");
    }
}

static void explain_joins(struct run_plan *p)
{
    for (uint32_t i = 0; i < p->site_count; i++)
        if (p->site[i].later)
            reason(p, "%s joins later, with %u rank%s: the plan is of the start, without it; when it is there it gets its share of the lanes, then copies of the shards",
                   p->site[i].name, p->site[i].ranks, S(p->site[i].ranks));
}

static void explain_limits(struct run_plan *p)
{
    uint32_t idle = 0;
    for (uint32_t i = 0; i < p->site_count; i++)
        for (uint32_t r = 0; r < p->site[i].ranks && !p->site[i].later; r++)
            idle += p->site[i].rank_lanes[r].lo == p->site[i].rank_lanes[r].hi;
    if (p->threads > p->machine.cores)
        reason(p, "limit: %u compute threads on %u cores; fewer ranks or threads would be as fast here (more machines would not share)", p->threads, p->machine.cores);
    if (p->threads > p->lanes)
        reason(p, "limit: %u compute threads, but only %u lane%s: raise train.lanes to use them all", p->threads, p->lanes, S(p->lanes));
    if (idle)
        reason(p, "limit: %u rank%s no lane", idle, idle == 1 ? " gets" : "s get");
    if (p->memory_bytes > p->machine.memory_bytes)
        reason(p, "limit: does NOT fit: about %.1f GB are needed and this machine has %.1f GB; lower train.batch, ranks or threads", (double)p->memory_bytes / 1e9,
               (double)p->machine.memory_bytes / 1e9);
}

/* ---- making it ---- */
static int build_graph(const struct job_model *m, struct graph **g, struct layout *l, struct err *err)
{
    struct model_config c = {.family = m->family == FAMILY_CNN ? MODEL_CNN : MODEL_MLP, .loss = MODEL_CROSS_ENTROPY, .classes = m->classes, .channels = m->input[0],
                             .height = m->input[1], .width = m->input[2], .conv_count = m->channel_count, .hidden_count = m->hidden_count,
                             .batch_norm = m->batch_norm, .deviation = {1, 1, 1, 1}};   /* normalization costs the same whatever it is */
    memcpy(c.conv, m->channels, sizeof c.conv);
    memcpy(c.hidden, m->hidden, sizeof c.hidden);
    TRY(graph_build(&c, g, err));
    return graph_layout(*g, l, err);
}

static int take_data(struct run_plan *p, const struct job_spec *spec, struct err *err)
{
    uint32_t count, dims[4];
    TRY(idx_probe(spec->train.images, &count, dims, err));
    p->samples_per_pass = dims[0];
    uint64_t sample = 1;
    for (uint32_t i = 1; i < count; i++)
        sample *= dims[i];
    p->data_bytes = dims[0] * (sample + 1);
    p->train_steps = job_steps(spec, dims[0]);
    p->prune_steps = job_prune_steps(spec, dims[0]);
    p->steps = p->train_steps + p->prune_steps;
    p->sparsity = spec->prune.sparsity;
    return 0;
}

static void take_model(struct run_plan *p, const struct layout *l)
{
    for (uint32_t t = 0; t < l->tensor_count; t++) {
        p->model_bytes += l->tensors[t].elems * sizeof(float);
        if (l->tensors[t].kind == TENSOR_PARAMETER)
            p->parameters += l->tensors[t].elems;
        if (tensor_prunable(&l->tensors[t]))
            p->prunable += l->tensors[t].elems;
    }
}

static int fill(struct run_plan *p, const struct job_spec *spec, const struct graph *g, const struct layout *l, struct core_config *config, struct view *view,
                struct err *err)
{
    TRY(machine_probe(&p->machine, err));
    /* hwloc adds up NUMA nodes, which miss memory that was plugged in later. */
    uint64_t known = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    p->machine.memory_bytes = MAX(p->machine.memory_bytes, known);
    TRY(take_data(p, spec, err));
    TRY(place(spec, config, view, err));
    snprintf(p->name, sizeof p->name, "%s", spec->name);
    p->embedded = config->plan.embedded;
    p->batch = spec->batch;
    p->lanes = spec->lanes;
    take_model(p, l);
    take_sites(p, spec, view);
    TRY(take_shards(p, spec, view, l, err));
    TRY(plan_probe(spec, g, l, MIN(MIN(p->machine.cores, p->threads), p->lanes), &p->probe, err));
    count_bytes(p);
    count_memory(p, l);
    predict(p);
    explain_time(p);
    explain_bytes(p);
    explain_pruning(p, spec);
    reason(p, "memory of a rank: activations of each thread's lane, the data set (%.1f MB), its share of the gang's gradients and weights in shared memory",
           MB(p->data_bytes));
    explain_nodes(p);
    explain_joins(p);
    explain_limits(p);
    return 0;
}

int run_plan_make(const struct job_spec *spec, struct run_plan **out, struct err *err)
{
    struct run_plan *p = calloc(1, sizeof *p);
    struct core_config *config = calloc(1, sizeof *config);
    struct view *view = calloc(1, sizeof *view);
    struct graph *g = NULL;
    struct layout l = {0};
    int rc = p && config && view ? build_graph(&spec->model, &g, &l, err) : err_set(err, ERR_NO_MEMORY, "no memory to plan");
    if (rc == 0)
        rc = fill(p, spec, g, &l, config, view, err);
    layout_fini(&l);
    graph_free(g);
    free(view);
    free(config);
    if (rc < 0) {
        free(p);
        return err_wrap(err, "plan of %s", spec->name);
    }
    *out = p;
    return 0;
}

void run_plan_free(struct run_plan *p) { free(p); }
