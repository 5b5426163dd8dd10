/* Who gets what, from the spec alone. */
#include "tests/unit/unit.h"

#include "coordinator/coordinator.h"
#include "engine/engine.h"

static void place(const char *rest, struct job *job, struct core_config *c)
{
    char text[2000];
    struct err e = ERR_INIT;
    snprintf(text, sizeof text, "viaduct: v1\nname: sample\nmodel: {family: mlp, classes: 4, input: [1, 12, 12]}\n"
             "data: {train: {format: idx, images: a, labels: b}}\n%s", rest);
    if (job_load_text(job, "test.yaml", text, strlen(text), NULL, 0, false, &e) < 0) {
        problems_print(&job->problems, stderr);
        fail_msg("%s", e.text);
    }
    placement_of(&job->spec, c);
}

static void assert_lanes(const struct core_config *c, unsigned site, unsigned lo, unsigned hi)
{
    if (c->gang[site].lanes.lo != lo || c->gang[site].lanes.hi != hi)
        fail_msg("site %u has lanes [%u, %u) instead of [%u, %u)", site, c->gang[site].lanes.lo, c->gang[site].lanes.hi, lo, hi);
}

static void two_sites(void **state)
{
    struct job job;
    struct core_config c;
    (void)state;
    place("train: {epochs: 5, batch: 256, seed: 3, optimizer: {name: adamw, lr: 1e-2, weight_decay: 0.01, clip: 2}}\n"
          "sites:\n  - {name: onprem, via: local, ranks: 2, ps_shards: 1}\n  - {name: cloud, via: local, ranks: 2, ps_shards: 1}\n"
          "checkpoint: {every: 200 steps, replicas: 2, ram_every: 3}\n", &job, &c);
    assert_int_equal(c.plan.slot_count, 2);
    assert_int_equal(c.plan.shard_count, 2);
    assert_int_equal(c.plan.slot_site[0], 0);
    assert_int_equal(c.plan.slot_site[1], 1);
    assert_false(c.plan.embedded);
    assert_int_equal(c.copies, 2);
    assert_int_equal(c.checkpoint_replicas, 2);
    assert_lanes(&c, 0, 0, 4);
    assert_lanes(&c, 1, 4, 8);
    assert_int_equal(c.gang[1].ranks, 2);
    assert_string_equal(c.plan.site_name[1], "cloud");
    assert_true(c.epochs == 5 && c.steps == 0);
    assert_true(c.plan.batch == 256 && c.plan.seed == 3 && c.plan.lanes == 8 && c.plan.checkpoint_every == 200 && c.plan.ram_every == 3 && c.plan.clip == 2);
    assert_true(c.plan.optim_kind == OPTIM_ADAMW && c.plan.weight_decay == 0.01f && c.plan.state_momentum == 0.1f);
    assert_true(c.plan.layout_hash == 0 && c.plan.rounds == 0 && c.plan.samples_per_pass == 0);
    job_fini(&job);
}

static void embedded(void **state)
{
    struct job job;
    struct core_config c;
    (void)state;
    place("train: {steps: 7}\nsites: [{name: onprem, via: local, ranks: 3, ps_shards: 0}]\n", &job, &c);
    assert_true(c.plan.embedded);
    assert_int_equal(c.plan.slot_count, 3);
    assert_int_equal(c.plan.shard_count, 3);
    assert_int_equal(c.copies, 1);
    assert_int_equal(c.checkpoint_replicas, 1);
    assert_int_equal(c.steps, 7);
    assert_lanes(&c, 0, 0, 8);
    job_fini(&job);
}

static void uneven(void **state)
{
    struct job job;
    struct core_config c;
    (void)state;
    place("train: {steps: 7, lanes: 10}\n"
          "sites:\n  - {name: a, via: local, ranks: 2, threads: 1, ps_shards: 2}\n  - {name: b, via: local, ranks: 1, threads: 4, ps_shards: 1}\n"
          "  - {name: c, via: local, ranks: 1, threads: 1, ps_shards: 1}\n", &job, &c);
    assert_int_equal(c.plan.slot_count, 4);
    assert_int_equal(c.plan.shard_count, 4);
    assert_int_equal(c.plan.slot_site[1], 0);
    assert_int_equal(c.plan.slot_site[2], 1);
    assert_int_equal(c.plan.slot_site[3], 2);
    assert_int_equal(c.copies, 3);
    assert_lanes(&c, 0, 0, 2);             /* 10 lanes by 2 : 4 : 1, contiguous, all of them */
    assert_lanes(&c, 1, 2, 8);
    assert_lanes(&c, 2, 8, 10);
    job_fini(&job);
}

/* What a node sends is the maximal nodes of its lanes; whoever is contiguous and as even must send as much or more. */
static void ranks_over_nodes(void **state)
{
    static const struct { unsigned lanes, lo, hi, ranks, nodes; uint16_t first[5]; } cases[] = {
        {8, 0, 8, 8, 2, {0, 4, 8}}, {8, 0, 8, 4, 4, {0, 1, 2, 3, 4}}, {8, 0, 8, 1, 1, {0, 1}},
        {8, 0, 8, 3, 2, {0, 1, 3}},            /* lanes 0-1 | 2-7 are 1 and 2 sums, 0-4 | 5-7 would be 2 and 2 */
        {8, 0, 8, 7, 2, {0, 4, 7}},            /* lanes 0-3 | 4-7 */
        {12, 0, 12, 6, 4, {0, 2, 3, 5, 6}},    /* lanes 0-3 | 4-5 | 6-9 | 10-11: 4-5 and 10-11 are nodes, 0-1 and 6-7 are none */
    };
    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        uint16_t first[HOSTS_LIMIT + 1];
        const struct view_gang gang = {.lanes = {(uint16_t)cases[i].lo, (uint16_t)cases[i].hi}, .ranks = (uint16_t)cases[i].ranks};
        placement_nodes(cases[i].lanes, &gang, cases[i].nodes, first);
        for (unsigned n = 0; n <= cases[i].nodes; n++)
            if (first[n] != cases[i].first[n])
                fail_msg("case %u: node %u begins at rank %u instead of %u", i, n, first[n], cases[i].first[n]);
    }
    for (unsigned ranks = 1; ranks <= RANKS_MAX; ranks++)
        for (unsigned nodes = 1; nodes <= ranks; nodes++) {
            uint16_t first[HOSTS_LIMIT + 1];
            placement_nodes(64, &(struct view_gang){.lanes = {0, 64}, .ranks = (uint16_t)ranks}, nodes, first);
            assert_true(first[0] == 0 && first[nodes] == ranks);
            for (unsigned n = 0; n < nodes; n++) {
                unsigned count = (unsigned)(first[n + 1] - first[n]);
                assert_true(count == ranks / nodes || count == ranks / nodes + 1);
            }
        }
}

/* Found by a plan: the site that begins the run had no lane, and so the run never took a step. */
static void a_wide_site_leaves_a_lane_to_the_others(void **state)
{
    struct job job;
    struct core_config c;
    (void)state;
    place("coordinator: {listen: '0.0.0.0:1', address: 'a:1'}\nsites: [{name: home, ranks: 2}, {name: edge, via: join, ranks: 3, threads: 64}, {name: far, via: join}]\n", &job, &c);
    for (unsigned i = 0; i < 3; i++)
        assert_true(c.gang[i].lanes.hi > c.gang[i].lanes.lo);
    job_fini(&job);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(two_sites), cmocka_unit_test(embedded), cmocka_unit_test(uneven), cmocka_unit_test(a_wide_site_leaves_a_lane_to_the_others), cmocka_unit_test(ranks_over_nodes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
