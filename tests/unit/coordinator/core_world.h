/* A coordinator's core with two sites, two shards and two copies of each, and the messages that its tests send it. */
#ifndef VIADUCT_TESTS_UNIT_COORDINATOR_CORE_WORLD_H
#define VIADUCT_TESTS_UNIT_COORDINATOR_CORE_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base/magnitude.h"
#include "coordinator/core.h"

static struct core_out *out;
static struct core_config config;
static void *memory;
static struct log_entry *log_entries;
static size_t log_count;

static inline float rate(const void *arg, const struct phases *phases, uint64_t round) { (void)arg; (void)phases; return 1.0f / (float)(round + 1); }

static inline void keep_log(void)
{
    for (unsigned i = 0; i < out->count; i++)
        if (out->action[i].kind == CORE_APPEND || out->action[i].kind == CORE_APPEND_SYNC) {
            assert_int_equal(out->action[i].u.entry.position, log_count);
            log_entries[log_count++] = out->action[i].u.entry;
        }
}

static inline int setup(void **state)
{
    (void)state;
    out = malloc(sizeof *out);
    memory = malloc(core_size());
    log_entries = malloc(512 * sizeof *log_entries);
    log_count = 0;
    config = (struct core_config){.copies = 2, .checkpoint_replicas = 2, .steps = 4, .lease_ms = 1000, .relaunch_ms = 3000, .fresh = true, .lr = rate};
    config.plan = (struct msg_plan){.batch = 8, .lanes = 4, .checkpoint_every = 2, .shard_count = 2, .slot_count = 2, .site_count = 2, .slot_site = {0, 1}, .clip = 1.0};
    config.gang[0] = (struct view_gang){.lanes = {0, 2}, .ranks = 1};
    config.gang[1] = (struct view_gang){.lanes = {2, 4}, .ranks = 1};
    return out && memory && log_entries ? 0 : -1;
}

static inline int teardown(void **state)
{
    (void)state;
    free(out);
    free(memory);
    free(log_entries);
    return 0;
}

static inline const struct core_action *find(enum core_action_kind kind)
{
    for (unsigned i = 0; i < out->count; i++)
        if (out->action[i].kind == kind)
            return &out->action[i];
    return NULL;
}

static inline void join(struct core *c, uint64_t now, enum role role, uint8_t site, uint16_t index, uint32_t instance)
{
    struct msg_join *m = calloc(1, sizeof *m);
    m->who = (struct process_id){(uint8_t)role, site, index, instance};
    m->layout_hash = 5;
    m->samples_per_pass = 20;
    core_on_join(c, now, m, out);
    keep_log();
    free(m);
}

static inline void everyone_joins(struct core *c, uint64_t now)
{
    for (uint8_t i = 0; i < 2; i++) {
        join(c, now, ROLE_AGENT, i, 0, 0);
        join(c, now, ROLE_PS, i, i, 1);
        join(c, now, ROLE_WORKER, i, 0, 1);
    }
}

static inline struct core *start(void)
{
    struct core *c = core_init(memory, &config);
    core_start(c, 0, out);
    keep_log();
    return c;
}

static inline struct process_id primary(const struct core *c, unsigned shard)
{
    const struct view *v = core_view(c);
    for (unsigned i = 0; i < v->shard[shard].copy_count; i++)
        if (v->shard[shard].copy[i].role == COPY_PRIMARY) {
            uint8_t slot = v->shard[shard].copy[i].slot;
            return (struct process_id){core_plan(c)->embedded ? ROLE_WORKER : ROLE_PS, v->slot[slot].site, slot, v->slot[slot].instance};
        }
    return (struct process_id){0};
}

static uint32_t bins[MAGNITUDE_BINS];                     /* what the next report says of its weights, when bins_said */
static bool bins_said;

static inline void report(struct core *c, uint64_t now, unsigned shard, uint64_t version, uint64_t samples, uint64_t nonfinite)
{
    struct msg_prepared *m = calloc(1, sizeof *m);
    double norms[2] = {9, 16};
    m->view = core_view(c)->number;
    m->generation = core_view(c)->generation;
    m->shard = (uint8_t)shard;
    m->version = version;
    if (samples) {
        m->name_count = m->cover_count = 1;
        m->name[0] = m->cover[0] = (struct name){{0, 4}, 1};
        m->norm_count = 2;
        m->bin_count = bins_said ? MAGNITUDE_BINS : 0;
        m->totals.samples = samples;
        m->nonfinite = nonfinite;
        m->nonfinite_block = 3;
    }
    core_on_prepared(c, now, primary(c, shard), m, norms, bins_said ? bins : NULL, out);
    keep_log();
    free(m);
}

static inline void commit_round(struct core *c, uint64_t now, uint64_t round)
{
    uint64_t samples = round % 3 == 2 ? 4 : 8;            /* 20 samples a pass, 8 a step */
    report(c, now, 0, round, samples, 0);
    report(c, now, 1, round, samples, 0);
    assert_non_null(find(CORE_COMMITTED));
}

static inline void beat(struct core *c, uint64_t now, enum role role, uint8_t site, uint16_t index, uint32_t instance)
{
    struct msg_heartbeat m = {.who = {(uint8_t)role, site, index, instance}};
    core_on_heartbeat(c, now, &m, out);
    keep_log();
}

static inline void dies(struct core *c, uint64_t now, enum role role, uint8_t site, uint16_t index, uint32_t instance)
{
    struct msg_exited m = {.who = {(uint8_t)role, site, index, instance}, .code = -1, .signal = 9, .text = "killed"};
    core_on_exited(c, now, &m, out);
    keep_log();
}

#endif
