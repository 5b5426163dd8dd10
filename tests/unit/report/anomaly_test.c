/* Anomalies: a ten times longer step and a spike of the loss are told, once; noise, trends, bad numbers and crowded machines are not. */
#include "tests/unit/unit.h"

#include <math.h>

#include "report/report.h"

static double normal(struct test_random *r)
{
    double u = (test_u32(r) + 1.0) / 4294967297.0, v = test_u32(r) / 4294967296.0;
    return sqrt(-2 * log(u)) * cos(2 * 3.14159265358979 * v);
}

static double steady(struct test_random *r) { return 0.04 + 0.002 * normal(r); }

static unsigned tell(struct anomaly *a, enum anomaly_kind kind, double v, struct anomaly_seen *seen) { return anomaly_see(a, kind, v, seen); }

static void a_long_step_is_told_once(void **state)
{
    struct test_random r = {test_seed(), 0};
    struct anomaly a = {0};
    struct anomaly_seen seen = {0};
    unsigned told = 0;
    (void)state;
    for (unsigned i = 0; i < 200; i++)
        told += tell(&a, ANOMALY_STEP_SECONDS, steady(&r), &seen);
    assert_int_equal(told, 0);
    assert_true(anomaly_see(&a, ANOMALY_STEP_SECONDS, 0.4, &seen));
    assert_true(seen.value == 0.4 && fabs(seen.median - 0.04) < 0.002 && seen.z > 50);
    for (unsigned i = 0; i < 60; i++)                        /* it stays so: told, no more, and then it is what is usual */
        told += tell(&a, ANOMALY_STEP_SECONDS, 0.4, &seen);
    assert_int_equal(told, 0);
    for (unsigned i = 0; i < 500; i++)
        told += tell(&a, ANOMALY_STEP_SECONDS, 0.4 + 0.01 * normal(&r), &seen);
    assert_int_equal(told, 0);
    assert_true(anomaly_see(&a, ANOMALY_STEP_SECONDS, 4.0, &seen));
}

static void tiny_steps_need_several(void **state)
{
    struct test_random r = {test_seed(), 0};
    struct anomaly a = {0};
    struct anomaly_seen seen;
    (void)state;
    for (unsigned i = 0; i < 100; i++)
        assert_false(anomaly_see(&a, ANOMALY_STEP_SECONDS, steady(&r) / 20, &seen));
    assert_false(anomaly_see(&a, ANOMALY_STEP_SECONDS, 0.02, &seen));   /* a scheduler's slice */
    assert_false(anomaly_see(&a, ANOMALY_STEP_SECONDS, 0.002, &seen));
    assert_false(anomaly_see(&a, ANOMALY_STEP_SECONDS, 0.02, &seen));
    assert_false(anomaly_see(&a, ANOMALY_STEP_SECONDS, 0.02, &seen));
    assert_true(anomaly_see(&a, ANOMALY_STEP_SECONDS, 0.02, &seen));
    anomaly_forget(&a);
    for (unsigned i = 0; i < 64; i++)                                   /* commits so close that their times are the same */
        assert_false(anomaly_see(&a, ANOMALY_STEP_SECONDS, 0, &seen));
    assert_true(anomaly_see(&a, ANOMALY_STEP_SECONDS, 0.11, &seen));
    assert_true(seen.z > 8 && seen.z < 1000);
}

static void crowded_machines_are_not_told(void **state)
{
    struct test_random r = {test_seed(), 0};
    struct anomaly a = {0};
    struct anomaly_seen seen;
    unsigned told = 0;
    (void)state;
    for (unsigned i = 0; i < 100000; i++) {                  /* lognormal, as the demo beside other work: up to 2.75 times the median were seen */
        double crowd = 1 + 0.8 * sin(i / 150.0) * sin(i / 150.0);
        told += tell(&a, ANOMALY_STEP_SECONDS, fmin(0.04 * crowd * exp(0.25 * normal(&r)), 0.16), &seen);
    }
    assert_int_equal(told, 0);
}

/* As a training's: falls fast, then slowly, with the noise of a batch; the last step of a pass has few samples. */
static double loss_at(struct test_random *r, unsigned i)
{
    double level = 0.12 + 2.1 * exp(-(double)i / 60), noise = 0.12 * level * (i % 235 == 234 ? 1.7 : 1);
    return fmax(level + noise * fmax(-3, fmin(3.4, normal(r))), 0.01);
}

static void a_spike_of_the_loss_is_told(void **state)
{
    struct test_random r = {test_seed(), 0};
    struct anomaly a = {0};
    struct anomaly_seen seen = {0};
    unsigned told = 0;
    (void)state;
    for (unsigned i = 0; i < 20000; i++)
        told += tell(&a, ANOMALY_LOSS, loss_at(&r, i), &seen);
    assert_int_equal(told, 0);
    assert_true(anomaly_see(&a, ANOMALY_LOSS, 0.9, &seen));
    assert_true(seen.z > 8 && seen.median < 0.2);
    assert_false(anomaly_see(&a, ANOMALY_LOSS, 0.9, &seen));
    for (unsigned i = 1000; i < 1100; i++)
        assert_false(anomaly_see(&a, ANOMALY_LOSS, loss_at(&r, i), &seen));
    assert_true(anomaly_see(&a, ANOMALY_LOSS, 1.5, &seen));
    assert_false(anomaly_see(&a, ANOMALY_LOSS, -1.5, &seen));        /* better is no alarm */
}

static void bad_numbers_and_beginnings(void **state)
{
    struct anomaly a = {0};
    struct anomaly_seen seen;
    (void)state;
    for (unsigned i = 0; i < 19; i++)
        assert_false(anomaly_see(&a, ANOMALY_LOSS, i % 2 ? 1e9 : 1, &seen));   /* too few to judge */
    anomaly_forget(&a);
    for (unsigned i = 0; i < 100; i++) {
        assert_false(anomaly_see(&a, ANOMALY_LOSS, NAN, &seen));
        assert_false(anomaly_see(&a, ANOMALY_LOSS, INFINITY, &seen));
        assert_false(anomaly_see(&a, ANOMALY_LOSS, 0, &seen));       /* no deviation at all */
    }
    assert_true(anomaly_see(&a, ANOMALY_LOSS, 1, &seen));
    assert_true(isfinite(seen.z));
    anomaly_forget(&a);
    assert_false(anomaly_see(&a, ANOMALY_LOSS, 100, &seen));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_long_step_is_told_once), cmocka_unit_test(tiny_steps_need_several),
                                       cmocka_unit_test(crowded_machines_are_not_told), cmocka_unit_test(a_spike_of_the_loss_is_told),
                                       cmocka_unit_test(bad_numbers_and_beginnings)};
    return cmocka_run_group_tests_name("anomalies", tests, NULL, NULL);
}
