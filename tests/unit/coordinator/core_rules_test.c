/* Rules of the coordinator's core that no other test notices: each test here goes red when its rule is taken out (make sim-rules). */
#include "tests/unit/coordinator/core_world.h"

/* The next coordinator, over what the log holds. */
static struct core *start_again(uint64_t now)
{
    struct core *c = core_init(memory, &config);
    for (size_t i = 0; i < log_count; i++)
        core_replay(c, &log_entries[i]);
    core_start(c, now, out);
    keep_log();
    return c;
}

static int position_of(enum core_action_kind kind)
{
    for (unsigned i = 0; i < out->count; i++)
        if (out->action[i].kind == kind)
            return (int)i;
    return -1;
}

/* CHAIN */
static void test_records_go_to_primaries_only(void **state)
{
    (void)state;
    struct core *c = start();
    everyone_joins(c, 1);
    commit_round(c, 2, 0);
    unsigned sent = 0;
    for (unsigned i = 0; i < out->count; i++)
        if (out->action[i].kind == CORE_SEND_COMMIT) {
            assert_int_equal(out->action[i].to.index, primary(c, out->action[i].u.commit.shard).index);
            sent++;
        }
    assert_int_equal(sent, 2);
}

/* VIEWSYNC */
static void test_a_view_is_durable_before_it_is_sent(void **state)
{
    (void)state;
    struct core *c = start();
    everyone_joins(c, 1);
    dies(c, 2, ROLE_PS, 0, 0, 1);
    int synced = position_of(CORE_APPEND_SYNC), sent = position_of(CORE_SEND_VIEW);
    assert_true(synced >= 0 && synced < sent);
    assert_int_equal(out->action[synced].u.entry.kind, LOG_VIEW);
}

/* PROMOTE */
static void test_a_copy_in_the_making_is_never_promoted(void **state)
{
    (void)state;
    struct core *c = start();
    everyone_joins(c, 1);
    commit_round(c, 2, 0);
    dies(c, 3, ROLE_PS, 0, 0, 1);
    join(c, 4, ROLE_PS, 0, 0, 2);
    assert_int_equal(core_view(c)->shard[0].copy[0].role, COPY_COPYING);
    dies(c, 5, ROLE_PS, 1, 1, 1);
    assert_int_equal(core_view(c)->generation, 2);        /* its blocks are not whole: history rolls back instead */
    assert_int_equal(core_round(c), 0);
}

/* PLANFIRST: a resume that died between its plan and its first view is still that resume, not the run before. */
static void test_a_start_that_died_before_its_view_keeps_its_plan(void **state)
{
    (void)state;
    struct core *c = start();
    everyone_joins(c, 1);
    size_t before = log_count;
    config.plan.batch = 16;
    start_again(10);
    assert_true(log_count > before);
    log_count = before + 1;
    config.fresh = false;
    c = start_again(20);
    assert_int_equal(core_plan(c)->batch, 16);
    assert_int_equal(core_view(c)->generation, 2);
    assert_int_equal(core_view(c)->slot[0].instance, 2);
}

static void report_names(struct core *c, unsigned shard, bool whole)
{
    struct msg_prepared *m = calloc(1, sizeof *m);
    double norms[1] = {1};
    m->view = core_view(c)->number;
    m->generation = core_view(c)->generation;
    m->shard = (uint8_t)shard;
    m->name[0] = (struct name){{0, 2}, 1};
    m->name[1] = (struct name){{2, 4}, 1};
    m->name[2] = (struct name){{0, 4}, 1};
    m->name_count = shard == 0 ? 3 : 2;                   /* only shard 0 has the coarse one */
    m->cover_count = whole ? 1 : 2;
    memcpy(m->cover, whole ? m->name + 2 : m->name, m->cover_count * sizeof m->cover[0]);
    m->norm_count = 1;
    m->totals.samples = 8;
    core_on_prepared(c, 5, primary(c, shard), m, norms, NULL, out);
    keep_log();
    free(m);
}

/* BEHIND: the shard answered SUM, but the commit to it was lost, and its next report is of its own cover. */
static void test_a_report_behind_the_log_is_answered_with_records(void **state)
{
    (void)state;
    struct core *c = start();
    everyone_joins(c, 1);
    report_names(c, 0, true);
    report_names(c, 1, false);
    assert_int_equal(find(CORE_SEND_SUM)->u.sum.cover_count, 2);
    report_names(c, 0, false);
    assert_non_null(find(CORE_COMMITTED));
    report_names(c, 0, true);
    assert_non_null(find(CORE_SEND_COMMIT));
    assert_int_equal(find(CORE_SEND_COMMIT)->u.commit.record[0].round, 0);
}

/* RAMEND */
static void test_no_generation_starts_at_the_last_version(void **state)
{
    (void)state;
    config.plan.embedded = true;
    config.plan.site_count = config.plan.shard_count = config.plan.slot_count = 1;
    config.copies = config.checkpoint_replicas = 1;
    config.gang[0].lanes = (struct lane_range){0, 4};
    struct core *c = start();
    join(c, 1, ROLE_AGENT, 0, 0, 0);
    join(c, 1, ROLE_WORKER, 0, 0, 1);
    for (uint64_t r = 0; r < 4; r++)
        report(c, 2, 0, r, r % 3 == 2 ? 4 : 8, 0);
    assert_int_equal(core_phase(c), CORE_FINISHING);
    dies(c, 3, ROLE_WORKER, 0, 0, 1);
    struct msg_join *m = calloc(1, sizeof *m);
    *m = (struct msg_join){.who = {ROLE_WORKER, 0, 0, 2}, .layout_hash = 5, .samples_per_pass = 20, .ram_version = {5, 4}, .ram_generation = {1, 1}};
    core_on_join(c, 4, m, out);
    keep_log();
    free(m);
    assert_int_equal(core_view(c)->base_from, BASE_RAM);
    assert_int_equal(core_view(c)->base, 3);              /* version 4 is whole too, but nobody would cut its checkpoint */
}

/* ASLEEP: this process stood still; what the others said meanwhile is not read yet. */
static void test_who_slept_declares_nobody_dead(void **state)
{
    (void)state;
    struct core *c = start();
    everyone_joins(c, 100);
    core_on_tick(c, 200, out);
    keep_log();
    uint32_t view = core_view(c)->number;
    core_on_tick(c, 9000, out);
    keep_log();
    core_on_tick(c, 9100, out);
    keep_log();
    assert_int_equal(core_view(c)->number, view);
    assert_int_equal(core_view(c)->slot[0].instance, 1);
}

/* REBEAT: an agent that was silent for longer than its lease counts again when it beats, so what it is offered must come up. */
static void test_an_agent_that_beats_again_is_joined_again(void **state)
{
    (void)state;
    struct core *c = start();
    everyone_joins(c, 0);
    for (uint64_t now = 500; now <= 8500; now += 500) {
        if (now == 2500)
            dies(c, now, ROLE_PS, 0, 0, 1);               /* instance 2 is offered to the agent of site 0, and never joins */
        for (uint8_t i = 0; i < 2; i++) {
            beat(c, now, ROLE_WORKER, i, 0, 1);
            if (i == 1 || now == 2000)
                beat(c, now, ROLE_AGENT, i, 0, 0);
        }
        beat(c, now, ROLE_PS, 1, 1, 1);
        if (now < 2500)
            beat(c, now, ROLE_PS, 0, 0, 1);
        core_on_tick(c, now, out);
        keep_log();
    }
    assert_int_equal(core_view(c)->slot[0].instance, 3);
}

/* HEAD: the agent of a site's second host knows nothing of the shards, which the first is launching. */
static void test_only_the_first_agent_says_which_shards_live(void **state)
{
    (void)state;
    struct core *c = start();
    join(c, 1, ROLE_AGENT, 0, 0, 0);
    join(c, 2, ROLE_AGENT, 0, 1, 0);
    assert_int_equal(core_view(c)->slot[0].instance, 1);
    assert_non_null(find(CORE_SEND_VIEW));                /* it launches its ranks by it */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_records_go_to_primaries_only, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_view_is_durable_before_it_is_sent, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_copy_in_the_making_is_never_promoted, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_start_that_died_before_its_view_keeps_its_plan, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_report_behind_the_log_is_answered_with_records, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_generation_starts_at_the_last_version, setup, teardown),
        cmocka_unit_test_setup_teardown(test_who_slept_declares_nobody_dead, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_agent_that_beats_again_is_joined_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_only_the_first_agent_says_which_shards_live, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
