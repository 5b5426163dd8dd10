/* The coordinator core's main transitions; how they hold together under faults is the simulator's. */
#include "tests/unit/coordinator/core_world.h"

#include "base/err.h"

/* A process that its agent launched after the site had left may have joined and become a copy: it is not the one that the next arrival launches. */
static void test_who_arrives_again_holds_nothing(void **state)
{
    (void)state;
    config.visiting = 2;
    config.plan.shard_count = 1;
    struct core *c = start();
    const struct view *v = core_view(c);
    join(c, 1, ROLE_AGENT, 0, 0, 0);
    join(c, 1, ROLE_PS, 0, 0, 1);
    join(c, 1, ROLE_WORKER, 0, 0, 1);
    assert_false(v->gang[1].wanted);
    join(c, 2, ROLE_AGENT, 1, 0, 0);
    assert_true(v->gang[1].wanted);
    core_on_drain(c, 3, 1, out);
    keep_log();
    assert_false(v->gang[1].wanted);
    uint32_t instance = v->slot[1].instance;
    join(c, 4, ROLE_PS, 1, 1, instance);
    assert_int_equal(v->shard[0].copy[1].role, COPY_NONE);
    join(c, 6, ROLE_AGENT, 1, 0, 0);
    assert_int_equal(v->slot[1].instance, instance + 1);
    assert_true(v->gang[1].wanted);
    assert_int_equal(v->shard[0].copy[1].role, COPY_NONE);
    assert_int_equal(v->shard[0].copy[0].role, COPY_PRIMARY);
}

/* A report of the only shard with the lanes that each site has, at once. */
static void round_with(struct core *c, uint64_t now, uint64_t round, unsigned names)
{
    const struct name halves[2] = {{{0, 2}, 1}, {{2, 4}, 1}}, whole = {{0, 4}, 1};
    struct msg_prepared *m = calloc(1, sizeof *m);
    double norm = 1;
    *m = (struct msg_prepared){.view = core_view(c)->number, .generation = core_view(c)->generation, .version = round, .name_count = (uint16_t)names,
                               .cover_count = (uint16_t)names, .norm_count = 1, .totals = {.samples = round % 3 == 2 ? 4 : 8}};
    memcpy(m->name, names == 1 ? &whole : halves, names * sizeof whole);
    memcpy(m->cover, m->name, names * sizeof whole);
    core_on_prepared(c, now, primary(c, 0), m, &norm, NULL, out);
    keep_log();
    assert_non_null(find(CORE_COMMITTED));
    free(m);
}

/* Lanes when its ranks reach the shards; copies when a round with its lanes was short. */
static struct core *a_visitor_arrives(void)
{
    config.visiting = 2;
    config.steps = 8;
    config.plan.shard_count = 1;
    struct core *c = start();
    const struct view *v = core_view(c);
    join(c, 1, ROLE_AGENT, 0, 0, 0);
    join(c, 1, ROLE_PS, 0, 0, 1);
    join(c, 1, ROLE_WORKER, 0, 0, 1);
    round_with(c, 10, 0, 1);
    join(c, 11, ROLE_AGENT, 1, 0, 0);
    join(c, 12, ROLE_PS, 1, 1, v->slot[1].instance);
    join(c, 13, ROLE_WORKER, 1, 0, v->gang[1].incarnation);
    assert_int_equal(v->gang[0].lanes.hi, 4);
    struct msg_ready ready = {.who = {ROLE_WORKER, 1, 0, v->gang[1].incarnation}};
    core_on_ready(c, 14, &ready, out);
    keep_log();
    assert_int_equal(v->gang[0].lanes.hi, 4);
    round_with(c, 20, 1, 1);
    assert_int_equal(v->gang[0].lanes.hi, 2);
    assert_int_equal(v->gang[1].lanes.hi, 4);
    assert_int_equal(v->shard[0].copy[1].role, COPY_NONE);
    return c;
}

static void test_a_visitor_contributes_before_it_holds_copies(void **state)
{
    (void)state;
    struct core *c = a_visitor_arrives();
    round_with(c, 500, 2, 2);
    assert_int_equal(core_view(c)->shard[0].copy[1].role, COPY_COPYING);
}

static void test_a_visitor_behind_a_slow_link_holds_no_copies(void **state)
{
    (void)state;
    struct core *c = a_visitor_arrives();
    round_with(c, 5000, 2, 2);
    assert_int_equal(core_view(c)->shard[0].copy[1].role, COPY_NONE);
    round_with(c, 5500, 3, 2);                            /* the link is better now */
    assert_int_equal(core_view(c)->shard[0].copy[1].role, COPY_COPYING);
}

/* It has no slot there that would be vacated. */
static void test_a_visitor_without_shards_is_launched_at_once(void **state)
{
    (void)state;
    config.visiting = 2;
    config.plan.shard_count = config.plan.slot_count = 1;
    struct core *c = start();
    join(c, 1, ROLE_AGENT, 0, 0, 0);
    join(c, 2, ROLE_AGENT, 1, 0, 0);
    assert_true(core_view(c)->gang[1].wanted);
}

static void visitor_fails(struct core *c, uint64_t now, bool other_data)
{
    join(c, now, ROLE_AGENT, 1, 0, 0);
    assert_true(core_view(c)->gang[1].wanted);
    if (other_data) {
        struct msg_join *m = calloc(1, sizeof *m);
        m->who = (struct process_id){ROLE_WORKER, 1, 0, core_view(c)->gang[1].incarnation};
        m->layout_hash = 5;
        m->samples_per_pass = 21;
        core_on_join(c, now + 1, m, out);
        free(m);
    } else {
        struct msg_failed m = {.who = {ROLE_PS, 1, 1, core_view(c)->slot[1].instance}, .text = "its disk is full"};
        core_on_failed(c, now + 1, &m, out);
    }
    keep_log();
    assert_null(find(CORE_FAIL));
    assert_int_equal(find(CORE_SEND_STOP)->to.site, 1);
    assert_int_equal(find(CORE_SEND_STOP)->u.stop.why, STOP_FAILED);
    assert_false(core_view(c)->gang[1].wanted);
}

/* A full disk or another data set at a site that visits is that site's own trouble. */
static void test_a_visitor_that_fails_is_sent_away(void **state)
{
    (void)state;
    config.visiting = 2;
    config.plan.shard_count = 1;
    struct core *c = start();
    join(c, 1, ROLE_AGENT, 0, 0, 0);
    join(c, 1, ROLE_PS, 0, 0, 1);
    join(c, 1, ROLE_WORKER, 0, 0, 1);
    visitor_fails(c, 2, false);
    visitor_fails(c, 4, true);
    struct msg_failed m = {.who = {ROLE_PS, 0, 0, 1}, .text = "its disk is full"};
    core_on_failed(c, 6, &m, out);
    assert_non_null(strstr(find(CORE_FAIL)->u.text, "disk is full"));
}

/* The agent of a visiting site, with so many ranks. */
static void arrive(struct core *c, uint64_t now, uint16_t ranks)
{
    core_on_brings(c, now, 1, ranks, out);
    keep_log();
    join(c, now, ROLE_AGENT, 1, 0, 0);
}

/* Its ranks join and reach the shards, and a round is committed. */
static void get_ready(struct core *c, uint64_t now, uint64_t round)
{
    const struct view_gang *g = &core_view(c)->gang[1];
    for (uint16_t r = 0; r < g->ranks; r++) {
        struct msg_ready ready = {.who = {ROLE_WORKER, 1, r, g->incarnation}};
        join(c, now, ROLE_WORKER, 1, r, g->incarnation);
        core_on_ready(c, now, &ready, out);
        keep_log();
    }
    round_with(c, now, round, 1);
}

static void test_a_visitor_brings_its_own_number_of_ranks(void **state)
{
    (void)state;
    config.visiting = 2;
    config.plan.shard_count = 1;
    config.plan.lanes = 8;
    config.gang[0].lanes = (struct lane_range){0, 4};
    config.gang[1].lanes = (struct lane_range){4, 8};
    struct core *c = start();
    const struct view *v = core_view(c);
    join(c, 1, ROLE_AGENT, 0, 0, 0);
    join(c, 1, ROLE_PS, 0, 0, 1);
    join(c, 1, ROLE_WORKER, 0, 0, 1);
    arrive(c, 2, 3);
    assert_int_equal(v->gang[1].ranks, 3);
    get_ready(c, 3, 0);
    assert_int_equal(v->gang[0].lanes.hi, 2);             /* one rank of four */
    assert_int_equal(v->gang[1].lanes.lo, 2);
    uint32_t incarnation = v->gang[1].incarnation;
    arrive(c, 4, 3);                                      /* its agent was started again */
    assert_int_equal(v->gang[1].incarnation, incarnation);
    arrive(c, 5, 1);                                      /* another world, before anybody missed the first */
    assert_true(v->gang[1].wanted && v->gang[1].incarnation > incarnation);
    assert_int_equal(v->gang[1].ranks, 1);
    get_ready(c, 6, 1);
    assert_int_equal(v->gang[0].lanes.hi, 4);
    core_on_brings(c, 7, 1, 8, out);                      /* nine ranks, eight lanes */
    keep_log();
    assert_non_null(find(CORE_SEND_STOP));
    join(c, 7, ROLE_AGENT, 1, 0, 0);
    assert_false(v->gang[1].wanted);
    assert_int_equal(v->gang[0].lanes.hi, 8);
    arrive(c, 8, 0);                                      /* as the spec says */
    assert_true(v->gang[1].wanted);
    assert_int_equal(v->gang[1].ranks, 1);
}

static void test_start_places_each_shard_at_both_sites(void **state)
{
    (void)state;
    struct core *c = start();
    const struct view *v = core_view(c);
    assert_int_equal(v->number, 1);
    assert_int_equal(v->generation, 1);
    assert_int_equal(v->base_from, BASE_SEED);
    for (unsigned s = 0; s < 2; s++) {
        assert_int_equal(v->shard[s].copy_count, 2);
        assert_int_equal(v->shard[s].copy[0].slot, s);
        assert_int_equal(v->shard[s].copy[0].role, COPY_PRIMARY);
        assert_int_equal(v->shard[s].copy[1].slot, 1 - s);
        assert_int_equal(v->shard[s].copy[1].role, COPY_SYNC);
    }
    assert_true(v->gang[0].wanted);
    assert_int_equal(log_entries[log_count - 1].kind, LOG_VIEW);
}

static void test_first_worker_fills_the_plan_and_others_must_agree(void **state)
{
    (void)state;
    config.steps = 0;
    config.epochs = 1.5;
    struct core *c = start();
    join(c, 1, ROLE_PS, 0, 0, 1);
    assert_null(find(CORE_SEND_PLAN));                    /* nobody knows it yet */
    join(c, 1, ROLE_WORKER, 0, 0, 1);
    assert_non_null(find(CORE_SEND_PLAN));
    assert_int_equal(core_plan(c)->rounds, 5);            /* 3 rounds a pass, 1.5 passes */
    struct msg_join *m = calloc(1, sizeof *m);
    m->who = (struct process_id){ROLE_WORKER, 1, 0, 1};
    m->layout_hash = 6;
    m->samples_per_pass = 20;
    core_on_join(c, 2, m, out);
    assert_non_null(strstr(find(CORE_FAIL)->u.text, "another model"));
    assert_int_equal(core_phase(c), CORE_FAILED);
    free(m);
}

static void test_a_round_commits_when_every_shard_is_prepared(void **state)
{
    (void)state;
    struct core *c = start();
    everyone_joins(c, 1);
    report(c, 2, 0, 0, 8, 0);
    assert_null(find(CORE_COMMITTED));
    report(c, 2, 1, 0, 8, 0);
    const struct record *r = &find(CORE_COMMITTED)->u.record;
    assert_int_equal(r->round, 0);
    assert_int_equal(r->count, 8);
    assert_float_equal(r->lr, 1.0f, 0);
    assert_float_equal(r->norm, 7.0710678118654755 / 8, 1e-15);
    assert_float_equal(r->clip, 1.0f, 0);
    assert_int_equal(core_round(c), 1);
    commit_round(c, 3, 1);
    assert_int_equal(find(CORE_COMMITTED)->u.record.flags, RECORD_CHECKPOINT);
    commit_round(c, 4, 2);
    assert_int_equal(find(CORE_COMMITTED)->u.record.count, 4);   /* the pass ends short */
    assert_int_equal(find(CORE_COMMITTED)->u.record.first, 16);
    commit_round(c, 5, 3);
    assert_int_equal(find(CORE_COMMITTED)->u.record.pass, 1);
    assert_int_equal(find(CORE_COMMITTED)->u.record.flags, RECORD_CHECKPOINT | RECORD_LAST);
    assert_int_equal(core_phase(c), CORE_FINISHING);
}

static void test_what_is_not_finite_or_not_whole_fails_the_job(void **state)
{
    (void)state;
    struct core *c = start();
    everyone_joins(c, 1);
    report(c, 2, 0, 0, 8, 0);
    report(c, 2, 1, 0, 8, 2);
    assert_non_null(strstr(find(CORE_FAIL)->u.text, "step 1: the gradient of block 3 is not finite"));
    assert_int_equal(core_failure(c), ERR_DIVERGED);
    assert_non_null(find(CORE_SEND_STOP));
    c = core_init(memory, &config);
    log_count = 0;
    core_start(c, 0, out);
    keep_log();
    everyone_joins(c, 1);
    report(c, 2, 0, 0, 8, 0);
    report(c, 2, 1, 0, 7, 0);
    assert_non_null(strstr(find(CORE_FAIL)->u.text, "hold 7 samples, the step has 8"));
    assert_int_equal(core_failure(c), ERR_JOB);
}

static void test_a_dead_primary_is_replaced_and_copied_afresh(void **state)
{
    (void)state;
    struct core *c = start();
    everyone_joins(c, 1);
    dies(c, 2, ROLE_PS, 0, 0, 1);
    const struct view *v = core_view(c);
    assert_int_equal(v->number, 2);
    assert_int_equal(v->generation, 1);
    assert_int_equal(v->slot[0].instance, 2);
    assert_int_equal(primary(c, 0).index, 1);
    assert_int_equal(v->shard[0].copy[0].role, COPY_NONE);
    assert_int_equal(v->shard[1].copy[1].role, COPY_NONE);
    dies(c, 3, ROLE_PS, 0, 0, 1);
    assert_int_equal(core_view(c)->number, 2);            /* told twice */
    join(c, 4, ROLE_PS, 0, 0, 1);
    assert_non_null(find(CORE_DISOWN));                   /* the old instance has no place */
    join(c, 5, ROLE_PS, 0, 0, 2);
    assert_int_equal(core_view(c)->shard[0].copy[0].role, COPY_COPYING);
    struct msg_prepared *m = calloc(1, sizeof *m);
    m->view = core_view(c)->number;
    m->generation = 1;
    m->complete_mask = 1;
    core_on_prepared(c, 6, primary(c, 0), m, NULL, NULL, out);
    assert_int_equal(core_view(c)->shard[0].copy[0].role, COPY_SYNC);
    free(m);
}

static void test_both_copies_dead_is_a_rollback(void **state)
{
    (void)state;
    struct core *c = start();
    everyone_joins(c, 1);
    commit_round(c, 2, 0);
    dies(c, 3, ROLE_PS, 0, 0, 1);
    dies(c, 3, ROLE_PS, 1, 1, 1);
    const struct view *v = core_view(c);
    assert_int_equal(v->generation, 2);
    assert_int_equal(v->base, 0);
    assert_int_equal(core_round(c), 0);
    assert_int_equal(v->gang[0].incarnation, 2);
    assert_int_equal(v->gang[1].incarnation, 2);
    assert_true(v->shard[0].copy[0].role == COPY_PRIMARY || v->shard[0].copy[1].role == COPY_PRIMARY);
}

static void test_silence_is_death_and_lanes_move(void **state)
{
    (void)state;
    struct core *c = start();
    everyone_joins(c, 0);
    for (uint64_t now = 500; now <= 5000; now += 500) {
        beat(c, now, ROLE_PS, 0, 0, 1);
        beat(c, now, ROLE_PS, 1, 1, 1);
        beat(c, now, ROLE_WORKER, 0, 0, 1);               /* site 1's gang is silent */
        core_on_tick(c, now, out);
        keep_log();
        if (now == 1500) {
            assert_int_equal(core_view(c)->gang[1].incarnation, 2);
            assert_int_equal(core_view(c)->gang[1].lanes.lo, 2);
        }
    }
    assert_int_equal(core_view(c)->gang[0].lanes.hi, 4);
    assert_int_equal(core_view(c)->gang[1].lanes.hi - core_view(c)->gang[1].lanes.lo, 0);
    join(c, 5100, ROLE_WORKER, 1, 0, 2);
    assert_int_equal(core_view(c)->gang[1].lanes.lo, 2);
    assert_int_equal(core_view(c)->gang[0].lanes.hi, 2);
}

/* A coordinator whose disk takes longer than a second for each sync is slow, not asleep: who is silent is noticed all the same. */
static void test_a_slow_coordinator_notices_silence(void **state)
{
    (void)state;
    config.lease_ms = 10000;
    config.relaunch_ms = 30000;
    struct core *c = start();
    everyone_joins(c, 1);
    bool noticed = false;
    for (uint64_t now = 1200; now < 40000 && !noticed; now += 1200) {
        for (uint8_t i = 0; i < 2; i++) {
            beat(c, now - 1, ROLE_AGENT, i, 0, 0);
            beat(c, now - 1, ROLE_WORKER, i, 0, 1);
        }
        beat(c, now - 1, ROLE_PS, 0, 0, 1);
        core_on_tick(c, now, out);
        keep_log();
        const struct core_action *a = find(CORE_EVENT);
        noticed = a && strcmp(a->u.event.kind, "dead") == 0;
        assert_true(!noticed || (a->u.event.who.role == ROLE_PS && a->u.event.who.index == 1 && now > 10000));
    }
    assert_true(noticed);
}

static void test_a_gang_that_keeps_dying_fails_the_job(void **state)
{
    (void)state;
    struct core *c = start();
    everyone_joins(c, 0);
    for (uint32_t i = 1; i <= 4; i++) {
        assert_int_not_equal(core_phase(c), CORE_FAILED);
        dies(c, i, ROLE_WORKER, 1, 0, i);
    }
    assert_int_equal(core_phase(c), CORE_FAILED);
    assert_non_null(strstr(find(CORE_FAIL)->u.text, "killed"));

    config.fresh = false;                                 /* killed before it could say so: the next one says it */
    c = core_init(memory, &config);
    for (size_t i = 0; i < log_count; i++)
        core_replay(c, &log_entries[i]);
    core_start(c, 100, out);
    assert_int_equal(core_phase(c), CORE_FAILED);
    assert_non_null(strstr(find(CORE_FAIL)->u.text, "killed"));
}

/* Over a link that breaks again and again an agent joins anew each time and lists nothing: no reason to fail. */
static void test_an_agent_that_keeps_joining_fails_nothing(void **state)
{
    (void)state;
    struct core *c = start();
    for (uint64_t i = 0; i < 20; i++) {
        join(c, i, ROLE_AGENT, 1, 0, 0);
        assert_int_not_equal(core_phase(c), CORE_FAILED);
    }
}

/* ---- phases ---- */
static void publish(struct core *c, uint64_t now, uint32_t generation, uint64_t step)
{
    for (uint8_t site = 0; site < 2; site++)
        for (uint8_t shard = 0; shard < 2; shard++) {
            struct msg_part m = {.site = site, .shard = shard, .generation = generation, .step = step, .sha256 = {shard}};
            core_on_part(c, now, &m, out);
            keep_log();
        }
    for (uint8_t site = 0; site < 2; site++) {
        struct msg_published m = {.site = site, .generation = generation, .step = step, .ok = true};
        core_on_published(c, now, &m, out);
        keep_log();
    }
}

/* Four weights a shard, in bins 100 * (shard + 1), 200 * (shard + 1), ... */
static void say_weights(unsigned shard)
{
    memset(bins, 0, sizeof bins);
    for (unsigned i = 1; i <= 4; i++)
        bins[100 * i * (shard + 1)] = 1;
    bins_said = true;
}

static struct core *start_pruning(void)
{
    config.steps = 3;
    config.prune_epochs = 1;                              /* 3 rounds a pass */
    config.plan.checkpoint_every = 0;
    config.plan.phases.sparsity = 0.5;
    bins_said = false;
    return start();
}

static void test_pruning_waits_for_the_checkpoint_of_what_was_trained(void **state)
{
    (void)state;
    struct core *c = start_pruning();
    everyone_joins(c, 1);
    const struct msg_plan *p = core_plan(c);
    assert_true(p->rounds == 6 && p->phases.count == 2 && p->phases.at[0].end == 3 && p->phases.at[1].end == 6);
    for (uint64_t r = 0; r < 3; r++)
        commit_round(c, 2, r);
    assert_int_equal(find(CORE_COMMITTED)->u.record.flags, RECORD_CHECKPOINT);
    for (unsigned shard = 0; shard < 2; shard++) {
        say_weights(shard);
        report(c, 3, shard, 3, 8, 0);
    }
    core_on_tick(c, 4, out);
    assert_int_equal(core_round(c), 3);
    publish(c, 5, 1, 3);
    const struct record *made = &find(CORE_COMMITTED)->u.record;
    assert_int_equal(made->flags, RECORD_MASKED);
    assert_true(made->threshold == magnitude_edge(301));  /* the half of 100 200 200 300 400 400 600 800 */
    assert_int_equal(core_round(c), 4);
}

static void test_a_threshold_needs_every_shards_weights_once(void **state)
{
    (void)state;
    struct core *c = start_pruning();
    everyone_joins(c, 1);
    for (uint64_t r = 0; r < 3; r++)
        commit_round(c, 2, r);
    publish(c, 3, 1, 3);
    report(c, 4, 0, 3, 8, 0);                             /* a report without its histogram */
    for (unsigned turn = 0; turn < 3; turn++) {           /* sent again and again */
        say_weights(1);
        report(c, 4, 1, 3, 8, 0);
        assert_null(find(CORE_COMMITTED));
    }
    say_weights(0);
    report(c, 5, 0, 3, 8, 0);
    assert_true(find(CORE_COMMITTED)->u.record.threshold == magnitude_edge(301));
    bins_said = false;
    for (unsigned shard = 0; shard < 2; shard++)
        report(c, 6, shard, 4, 8, 0);
    assert_int_equal(find(CORE_COMMITTED)->u.record.flags, RECORD_MASKED);
    assert_true(find(CORE_COMMITTED)->u.record.threshold == 0);
}

static void test_a_record_with_another_threshold_is_another_record(void **state)
{
    (void)state;
    struct core *c = start_pruning();
    everyone_joins(c, 1);
    for (uint64_t r = 0; r < 3; r++)
        commit_round(c, 2, r);
    for (unsigned shard = 0; shard < 2; shard++) {
        say_weights(shard);
        report(c, 3, shard, 3, 8, 0);
    }
    publish(c, 4, 1, 3);
    struct msg_prepared *m = calloc(1, sizeof *m);
    m->view = core_view(c)->number;
    m->generation = 1;
    m->version = 4;
    m->record_count = 1;
    m->record[0] = find(CORE_COMMITTED)->u.record;
    m->record[0].threshold /= 2;
    core_on_prepared(c, 5, primary(c, 0), m, NULL, NULL, out);
    assert_non_null(strstr(find(CORE_FAIL)->u.text, "another record of round 3"));
    free(m);
}

/* Resumed from that very checkpoint nobody publishes it again. */
static void test_a_resume_begins_where_a_phase_ended(void **state)
{
    (void)state;
    config.checkpoint.have = true;
    config.checkpoint.step = 3;
    config.checkpoint.generation = 1;
    struct core *c = start_pruning();
    everyone_joins(c, 1);
    for (unsigned shard = 0; shard < 2; shard++) {
        say_weights(shard);
        report(c, 3, shard, 3, 8, 0);
    }
    assert_int_equal(find(CORE_COMMITTED)->u.record.round, 3);
}

static void part(struct core *c, uint8_t site, uint8_t shard, uint8_t byte)
{
    struct msg_part m = {.site = site, .shard = shard, .generation = 1, .step = 2, .size_bytes = 10, .sha256 = {byte}};
    core_on_part(c, 10, &m, out);
    keep_log();
}

static void test_a_checkpoint_needs_all_parts_and_the_log(void **state)
{
    (void)state;
    struct core *c = start();
    everyone_joins(c, 1);
    commit_round(c, 2, 0);
    for (uint8_t site = 0; site < 2; site++)
        for (uint8_t shard = 0; shard < 2; shard++)
            part(c, site, shard, shard);
    assert_null(find(CORE_SEND_MANIFEST));                /* the log ends at step 1 */
    commit_round(c, 3, 1);                                /* and the decision follows it at once */
    const struct core_action *a = find(CORE_SEND_MANIFEST);
    assert_non_null(a);
    assert_int_equal(a->u.checkpoint.site_mask, 3);
    assert_int_equal(log_entries[log_count - 1].kind, LOG_CHECKPOINT);
    struct msg_published m = {.site = 0, .generation = 1, .step = 2, .ok = true};
    core_on_published(c, 5, &m, out);
    assert_null(find(CORE_DURABLE));
    m.site = 1;
    core_on_published(c, 6, &m, out);
    assert_int_equal(find(CORE_DURABLE)->u.checkpoint.step, 2);
}

static void test_parts_that_differ_fail_the_job(void **state)
{
    (void)state;
    struct core *c = start();
    everyone_joins(c, 1);
    part(c, 0, 1, 7);
    part(c, 1, 1, 8);
    assert_non_null(strstr(find(CORE_FAIL)->u.text, "different parts of shard 1"));
}

/* Both of its orders: what the visitor wrote came before what the site that stays wrote, or after. */
static void test_a_part_that_differs_at_a_visitor_costs_the_visitor_only(void **state)
{
    for (unsigned first = 0; first < 2; first++) {
        struct core_config keep = config;
        config.visiting = 2;
        struct core *c = start();
        everyone_joins(c, 1);
        commit_round(c, 2, 0);
        commit_round(c, 3, 1);
        part(c, 1, 0, 6);
        part(c, (uint8_t)first, 1, first ? 8 : 7);
        part(c, (uint8_t)!first, 1, first ? 7 : 8);
        assert_null(find(CORE_FAIL));
        assert_int_equal(find(CORE_SEND_STOP)->to.site, 1);
        assert_int_equal(find(CORE_SEND_STOP)->u.stop.why, STOP_FAILED);
        part(c, 0, 0, 6);
        const struct log_entry *e = &log_entries[log_count - 1];
        while (e->kind != LOG_CHECKPOINT)
            assert_true(e-- > log_entries);
        assert_int_equal(e->u.checkpoint.site_mask, 1);
        assert_int_equal(e->u.checkpoint.part[1].sha256[0], 7);
        config = keep;
        log_count = 0;
    }
    (void)state;
}

static void test_a_checkpoint_that_only_a_visitor_has_is_none(void **state)
{
    (void)state;
    config.visiting = 2;
    struct core *c = start();
    everyone_joins(c, 1);
    commit_round(c, 2, 0);
    commit_round(c, 3, 1);
    for (uint8_t shard = 0; shard < 2; shard++)
        part(c, 1, shard, shard);
    for (uint64_t now = 500; now < 60000; now += 500) {
        for (uint8_t site = 0; site < 2; site++) {
            beat(c, now, ROLE_AGENT, site, 0, 0);
            beat(c, now, ROLE_PS, site, site, 1);
            beat(c, now, ROLE_WORKER, site, 0, 1);
        }
        core_on_tick(c, now, out);
        keep_log();
        assert_null(find(CORE_SEND_MANIFEST));
    }
}

/* The last step's checkpoint, part by part; whatever the core says to the last message stands in `out`. */
static void save_and_publish(struct core *c, uint64_t now, uint64_t step)
{
    for (uint8_t site = 0; site < 2; site++)
        for (uint8_t shard = 0; shard < 2; shard++) {
            struct msg_part m = {.site = site, .shard = shard, .generation = 1, .step = step, .sha256 = {shard}};
            core_on_part(c, now, &m, out);
            keep_log();
        }
    for (uint8_t site = 0; site < 2; site++) {
        struct msg_published m = {.site = site, .generation = 1, .step = step, .ok = true};
        core_on_published(c, now, &m, out);
        keep_log();
    }
}

/* All steps are done, and the export is asked for. */
static struct core *start_export(void)
{
    config.has_export = true;
    struct core *c = start();
    everyone_joins(c, 1);
    for (uint64_t r = 0; r < 4; r++)
        commit_round(c, 2 + r, r);
    save_and_publish(c, 10, 4);
    return c;
}

/* Its parts lie at both sites; the manifest is what makes it one. A visitor's alone goes away with it, and a home whose disk is full has lost what it says is safe. */
static void test_a_visitors_manifest_makes_nothing_durable(void **state)
{
    for (unsigned fails = 0; fails < 2; fails++) {
        struct core_config keep = config;
        config.visiting = 2;
        config.checkpoint_replicas = 1;
        struct core *c = start();
        everyone_joins(c, 1);
        commit_round(c, 2, 0);
        commit_round(c, 3, 1);
        for (uint8_t site = 0; site < 2; site++)
            for (uint8_t shard = 0; shard < 2; shard++)
                part(c, site, shard, shard);
        struct msg_published m = {.site = 1, .generation = 1, .step = 2, .ok = true};
        core_on_published(c, 5, &m, out);
        assert_null(find(CORE_DURABLE));
        m = (struct msg_published){.site = 0, .generation = 1, .step = 2, .ok = !fails, .text = "No space left on device"};
        core_on_published(c, 6, &m, out);
        assert_true(fails ? find(CORE_FAIL) && strstr(find(CORE_FAIL)->u.text, "No space left") : find(CORE_DURABLE) != NULL);
        config = keep;
        log_count = 0;
    }
    (void)state;
}

/* One agent is asked to export. Another that says how an export ended was not, and ends nothing. */
static void test_only_the_site_that_exports_tells_of_it(void **state)
{
    (void)state;
    struct core *c = start_export();
    struct msg_exited m = {.who = {.role = ROLE_EXPORT, .site = 1, .instance = find(CORE_SEND_LAUNCH)->u.launch.attempt}, .code = 1};
    core_on_exited(c, 11, &m, out);
    keep_log();
    assert_null(find(CORE_EVENT));
    m.code = 0;
    core_on_exited(c, 12, &m, out);
    keep_log();
    core_on_stop(c, 13, out);                             /* it still runs */
    keep_log();
    assert_int_equal(find(CORE_SEND_STOP)->u.stop.why, STOP_REQUESTED);
}

/* One that dies, or says that it may be tried again, is; one that ends by itself would end so again. */
static void test_an_export_is_made_again_when_that_may_help(void **state)
{
    (void)state;
    static const struct { int32_t code, signal; bool again; } of[] = {{-1, 9, true}, {-1, 0, true}, {75, 0, true}, {3, 0, false}, {1, 0, false}, {0, 0, false}};
    for (size_t i = 0; i < sizeof of / sizeof of[0]; i++) {
        struct core *c = start_export();
        uint32_t attempt = find(CORE_SEND_LAUNCH)->u.launch.attempt;
        struct msg_exited m = {.who = {.role = ROLE_EXPORT, .instance = attempt}, .code = of[i].code, .signal = of[i].signal, .text = "no space"};
        core_on_exited(c, 11, &m, out);
        keep_log();
        const struct core_action *launch = find(CORE_SEND_LAUNCH), *fail = find(CORE_FAIL);
        assert_true(of[i].again ? launch && launch->u.launch.attempt == attempt + 1 : !launch);
        assert_true(of[i].again || of[i].code == 0 ? !fail : fail && strstr(fail->u.text, "the export failed: no space; the checkpoint of step 4 is safe"));
        log_count = 0;
    }
}

static void test_restart_keeps_instances_and_completes_the_log(void **state)
{
    (void)state;
    struct core *c = start();
    everyone_joins(c, 1);
    commit_round(c, 2, 0);
    struct record lost = find(CORE_COMMITTED)->u.record;
    log_count--;                                          /* the host took the unsynced commit with it */
    config.fresh = false;
    c = core_init(memory, &config);
    for (size_t i = 0; i < log_count; i++)
        core_replay(c, &log_entries[i]);
    core_start(c, 100, out);
    keep_log();
    assert_int_equal(core_phase(c), CORE_RECOVERING);
    assert_int_equal(core_view(c)->number, 2);
    assert_int_equal(core_view(c)->generation, 1);
    assert_int_equal(core_view(c)->slot[0].instance, 1);
    assert_int_equal(core_plan(c)->layout_hash, 5);
    assert_int_equal(core_round(c), 0);
    struct msg_prepared *m = calloc(1, sizeof *m);
    m->view = 2;
    m->generation = 1;
    m->version = 1;
    m->record_count = 1;
    m->record[0] = lost;
    core_on_prepared(c, 101, primary(c, 0), m, NULL, NULL, out);
    keep_log();
    assert_int_equal(core_round(c), 1);
    assert_int_equal(log_entries[log_count - 1].u.record.view, 1);   /* as it was made */
    report(c, 102, 1, 0, 0, 0);
    assert_int_equal(find(CORE_SEND_COMMIT)->u.commit.record[0].round, 0);
    assert_int_equal(core_phase(c), CORE_RUNNING);
    m->shard = 1;
    m->record[0].first = 99;
    core_on_prepared(c, 103, primary(c, 1), m, NULL, NULL, out);
    assert_non_null(strstr(find(CORE_FAIL)->u.text, "another record of round 0"));
    free(m);
}

/* Its manifest is in place, with the words of the start that decided it: a coordinator that dies after a resume must not have it written again with this one's. */
static void test_a_restart_after_a_resume_publishes_nothing_of_before(void **state)
{
    (void)state;
    struct core *c = start();
    everyone_joins(c, 1);
    commit_round(c, 2, 0);
    for (uint8_t site = 0; site < 2; site++)
        for (uint8_t shard = 0; shard < 2; shard++)
            part(c, site, shard, shard);
    commit_round(c, 3, 1);
    assert_int_equal(log_entries[log_count - 1].kind, LOG_CHECKPOINT);
    config.checkpoint.have = true;
    config.checkpoint.step = 2;
    config.checkpoint.generation = 1;
    for (unsigned turn = 0; turn < 2; turn++) {           /* the resume, then its coordinator again */
        config.fresh = turn == 0;
        c = core_init(memory, &config);
        for (size_t i = 0; i < log_count; i++)
            core_replay(c, &log_entries[i]);
        core_start(c, 100, out);
        keep_log();
        assert_int_equal(core_view(c)->base, 2);
        join(c, 101, ROLE_AGENT, 0, 0, 0);
        assert_null(find(CORE_SEND_MANIFEST));
    }
}

static void test_commits_stay_near_the_synced_log(void **state)
{
    (void)state;
    config.steps = 100;
    struct core *c = start();
    everyone_joins(c, 1);
    uint64_t r = 0;
    for (;; r++) {
        report(c, 2, 0, r, r % 3 == 2 ? 4 : 8, 0);
        report(c, 2, 1, r, r % 3 == 2 ? 4 : 8, 0);
        if (!find(CORE_COMMITTED))
            break;
        assert_true(r < RECORDS_LIMIT);
    }
    core_on_synced(c, 3, log_count, out);
    keep_log();
    assert_int_equal(find(CORE_COMMITTED)->u.record.round, r);
}

static void test_stop_saves_first(void **state)
{
    (void)state;
    struct core *c = start();
    everyone_joins(c, 1);
    core_on_stop(c, 2, out);
    assert_null(find(CORE_SEND_STOP));
    commit_round(c, 3, 0);
    assert_int_equal(find(CORE_COMMITTED)->u.record.flags, RECORD_CHECKPOINT);
    report(c, 4, 0, 1, 8, 0);
    report(c, 4, 1, 1, 8, 0);
    assert_null(find(CORE_COMMITTED));                    /* nothing beyond the save */
    for (uint8_t site = 0; site < 2; site++)
        for (uint8_t shard = 0; shard < 2; shard++) {
            struct msg_part m = {.site = site, .shard = shard, .generation = 1, .step = 1, .sha256 = {shard}};
            core_on_part(c, 5, &m, out);
            keep_log();
        }
    struct msg_published m = {.site = 0, .generation = 1, .step = 1, .ok = true};
    core_on_published(c, 6, &m, out);
    m.site = 1;
    core_on_published(c, 7, &m, out);
    assert_int_equal(find(CORE_SEND_STOP)->u.stop.why, STOP_REQUESTED);
    core_on_tick(c, 7 + 5000, out);
    assert_non_null(find(CORE_DONE_RUN));
}

static void test_stop_while_finishing_keeps_the_last_checkpoint_and_waits_for_no_export(void **state)
{
    (void)state;
    config.has_export = true;
    struct core *c = start();
    everyone_joins(c, 1);
    for (uint64_t r = 0; r < 4; r++)
        commit_round(c, 2 + r, r);
    assert_int_equal(core_phase(c), CORE_FINISHING);
    core_on_stop(c, 10, out);
    keep_log();
    assert_null(find(CORE_SEND_STOP));                    /* the last checkpoint is not kept yet */
    save_and_publish(c, 11, 4);
    assert_null(find(CORE_SEND_LAUNCH));
    assert_int_equal(find(CORE_SEND_STOP)->u.stop.why, STOP_REQUESTED);
}

/* Everything is lost before the last checkpoint was kept: the stop that waited for it ends at the next one. */
static void test_stop_while_finishing_survives_a_rollback(void **state)
{
    (void)state;
    struct core *c = start();
    everyone_joins(c, 1);
    commit_round(c, 2, 0);
    commit_round(c, 3, 1);
    save_and_publish(c, 4, 2);
    commit_round(c, 5, 2);
    commit_round(c, 6, 3);
    core_on_stop(c, 7, out);
    keep_log();
    dies(c, 8, ROLE_PS, 0, 0, 1);
    dies(c, 8, ROLE_PS, 1, 1, 1);
    assert_int_equal(core_round(c), 2);
    for (uint8_t i = 0; i < 2; i++)
        join(c, 9, ROLE_PS, i, i, core_view(c)->slot[i].instance);
    for (uint8_t i = 0; i < 2; i++)
        join(c, 9, ROLE_WORKER, i, 0, core_view(c)->gang[i].incarnation);
    commit_round(c, 10, 2);
    assert_true(find(CORE_COMMITTED)->u.record.flags & RECORD_CHECKPOINT);
}

static void test_stop_while_the_export_runs_ends_at_once(void **state)
{
    (void)state;
    struct core *c = start_export();
    assert_non_null(find(CORE_SEND_LAUNCH));
    core_on_stop(c, 11, out);
    keep_log();
    assert_int_equal(find(CORE_SEND_STOP)->u.stop.why, STOP_REQUESTED);
}

static void test_stop_after_the_export_finishes_the_run(void **state)
{
    (void)state;
    struct core *c = start_export();
    struct msg_exited done = {.who = {.role = ROLE_EXPORT, .instance = find(CORE_SEND_LAUNCH)->u.launch.attempt}};
    core_on_exited(c, 11, &done, out);
    keep_log();
    assert_null(find(CORE_SEND_STOP));                    /* gangs may still pull the last version */
    core_on_stop(c, 12, out);
    keep_log();
    assert_int_equal(find(CORE_SEND_STOP)->u.stop.why, STOP_FINISHED);
}

static void test_a_record_of_an_older_generation_completes_no_log(void **state)
{
    (void)state;
    struct core *c = start();
    everyone_joins(c, 1);
    struct msg_prepared *m = calloc(1, sizeof *m);
    m->view = core_view(c)->number;
    m->generation = core_view(c)->generation;
    m->record_count = 1;
    m->record[0] = (struct record){.round = 0, .generation = m->generation - 1, .view = 1, .count = 8, .clip = 1, .totals = {.samples = 8}, .cover_count = 1, .cover = {{{0, 4}, 1}}};
    core_on_prepared(c, 2, primary(c, 0), m, NULL, NULL, out);
    keep_log();
    assert_null(find(CORE_COMMITTED));
    assert_int_equal(core_round(c), 0);
    m->record[0].generation = m->generation;              /* the same record of this generation does */
    core_on_prepared(c, 3, primary(c, 0), m, NULL, NULL, out);
    keep_log();
    assert_non_null(find(CORE_COMMITTED));
    assert_int_equal(core_round(c), 1);
    free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_visitor_brings_its_own_number_of_ranks, setup, teardown),
        cmocka_unit_test_setup_teardown(test_start_places_each_shard_at_both_sites, setup, teardown), cmocka_unit_test_setup_teardown(test_who_arrives_again_holds_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_visitor_contributes_before_it_holds_copies, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_visitor_behind_a_slow_link_holds_no_copies, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_visitor_without_shards_is_launched_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_visitor_that_fails_is_sent_away, setup, teardown),
        cmocka_unit_test_setup_teardown(test_first_worker_fills_the_plan_and_others_must_agree, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_round_commits_when_every_shard_is_prepared, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_is_not_finite_or_not_whole_fails_the_job, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_dead_primary_is_replaced_and_copied_afresh, setup, teardown),
        cmocka_unit_test_setup_teardown(test_both_copies_dead_is_a_rollback, setup, teardown),
        cmocka_unit_test_setup_teardown(test_silence_is_death_and_lanes_move, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_slow_coordinator_notices_silence, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_gang_that_keeps_dying_fails_the_job, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_agent_that_keeps_joining_fails_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pruning_waits_for_the_checkpoint_of_what_was_trained, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_threshold_needs_every_shards_weights_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_record_with_another_threshold_is_another_record, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_resume_begins_where_a_phase_ended, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_checkpoint_needs_all_parts_and_the_log, setup, teardown),
        cmocka_unit_test_setup_teardown(test_parts_that_differ_fail_the_job, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_part_that_differs_at_a_visitor_costs_the_visitor_only, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_checkpoint_that_only_a_visitor_has_is_none, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_visitors_manifest_makes_nothing_durable, setup, teardown),
        cmocka_unit_test_setup_teardown(test_only_the_site_that_exports_tells_of_it, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_export_is_made_again_when_that_may_help, setup, teardown),
        cmocka_unit_test_setup_teardown(test_restart_keeps_instances_and_completes_the_log, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_restart_after_a_resume_publishes_nothing_of_before, setup, teardown),
        cmocka_unit_test_setup_teardown(test_commits_stay_near_the_synced_log, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stop_saves_first, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stop_while_finishing_keeps_the_last_checkpoint_and_waits_for_no_export, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stop_while_the_export_runs_ends_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stop_while_finishing_survives_a_rollback, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stop_after_the_export_finishes_the_run, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_record_of_an_older_generation_completes_no_log, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
