/* Phases, the ramp of pruning, and thresholds out of histograms against sorting. */
#include "tests/unit/unit.h"

#include <math.h>

#include "base/magnitude.h"
#include "base/phases.h"

static struct phases of(uint64_t train, uint64_t prune)
{
    return (struct phases){2, {{PHASE_TRAIN, train}, {PHASE_PRUNE, train + prune}}, 0.8};
}

static void test_every_round_has_its_phase(void **state)
{
    (void)state;
    struct phases p = of(10, 6), none = {0}, one = {1, {{PHASE_TRAIN, 4}}, 0};
    uint64_t first;
    assert_int_equal(phases_find(&p, 0, &first)->kind, PHASE_TRAIN);
    assert_int_equal(phases_find(&p, 9, &first)->kind, PHASE_TRAIN);
    assert_int_equal(first, 0);
    assert_int_equal(phases_find(&p, 10, &first)->kind, PHASE_PRUNE);
    assert_int_equal(first, 10);
    assert_int_equal(phases_find(&p, 99, &first)->kind, PHASE_PRUNE);
    assert_null(phases_find(&none, 0, &first));
    assert_true(phases_end(&p, 10) && phases_end(&p, 16) && !phases_end(&p, 11) && !phases_end(&p, 0));
    assert_true(!phases_masked(&p, 9) && phases_masked(&p, 10) && phases_masked(&p, 15));
    assert_true(!phases_masked(&one, 3) && !phases_masked(&none, 0));
    assert_string_equal(phase_name(PHASE_PRUNE), "prune");
    assert_string_equal(phase_name(200), "unknown");
}

/* For any length: it rises, ends at the sparsity itself in the first half, and has no more points than it should. */
static void test_the_ramp_ends_at_the_sparsity(void **state)
{
    (void)state;
    for (uint64_t rounds = 1; rounds < 300; rounds++) {
        struct phases p = of(7, rounds);
        double last = 0;
        unsigned points = 0;
        for (uint64_t r = 0; r < 7 + rounds + 3; r++) {
            double share = phases_ramp(&p, r);
            if (share == 0)
                continue;
            assert_true(r >= 7 && share > last && share <= 0.8);
            assert_true(rounds == 1 || r - 7 < rounds / 2);
            last = share;
            points++;
        }
        assert_true(last == 0.8);
        assert_int_equal(points, rounds < 2 ? 1 : rounds / 2 < PRUNE_RAMP_POINTS ? rounds / 2 : PRUNE_RAMP_POINTS);
    }
    struct phases p = of(0, 64);
    assert_true(fabs(phases_ramp(&p, 15) - 0.8 * (1 - 0.125)) < 1e-12);   /* half of the ramp: 1 - (1/2)^3 */
}

static int by_size(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

static void test_the_threshold_is_that_of_sorting(void **state)
{
    (void)state;
    enum { N = 20000, PARTS = 3 };
    struct test_random r = {test_seed(), 0};
    static float v[N], size[N];
    static uint32_t bins[PARTS][MAGNITUDE_BINS];
    const uint32_t *all[PARTS] = {bins[0], bins[1], bins[2]};
    memset(bins, 0, sizeof bins);
    for (unsigned i = 0; i < N; i++) {
        v[i] = i % 7 == 0 ? 0 : test_float(&r) * ldexpf(1, -(int)(test_u32(&r) % 12));
        size[i] = fabsf(v[i]);
    }
    qsort(size, N, sizeof size[0], by_size);
    for (unsigned k = 0, at = 0; k < PARTS; k++) {        /* whoever counted what */
        unsigned n = k + 1 == PARTS ? N - at : test_u32(&r) % (N - at);
        magnitude_count(bins[k], v + at, n);
        at += n;
    }
    for (double share = 0.05; share < 1; share += 0.05) {
        float t = magnitude_threshold(all, PARTS, share);
        unsigned below = 0, wanted = (unsigned)ceil(share * N);
        for (unsigned i = 0; i < N; i++)
            below += size[i] < t;
        assert_true(below >= wanted);
        assert_true(t > size[wanted - 1] && t <= fmaxf(size[wanted - 1], ldexpf(1, -30)) * (1 + 1.0f / 512) + ldexpf(1, -30));
    }
    assert_true(magnitude_threshold(all, PARTS, 0) == 0);
    assert_true(magnitude_threshold(all, 0, 0.5) == 0);
}

static void test_bins_hold_whatever_a_float_can_be(void **state)
{
    (void)state;
    static uint32_t bins[MAGNITUDE_BINS];
    const float odd[] = {0, -0.0f, 1e-45f, -1e-38f, INFINITY, -INFINITY, NAN, 1e38f, 4};
    memset(bins, 0, sizeof bins);
    magnitude_count(bins, odd, ARRAY_LEN(odd));
    assert_int_equal(bins[0], 4);
    assert_int_equal(bins[MAGNITUDE_BINS - 1], 5);
    assert_true(magnitude_edge(0) == 0 && magnitude_edge(1) == ldexpf(1, -30));
    for (uint32_t b = 1; b < MAGNITUDE_BINS; b++) {
        const float edge[] = {magnitude_edge(b), nextafterf(magnitude_edge(b), 0)};
        assert_true(magnitude_edge(b) > magnitude_edge(b - 1));
        memset(bins, 0, sizeof bins);
        magnitude_count(bins, edge, 2);
        assert_true(bins[b] == 1 && bins[b - 1] == 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_round_has_its_phase), cmocka_unit_test(test_the_ramp_ends_at_the_sparsity),
                                       cmocka_unit_test(test_the_threshold_is_that_of_sorting), cmocka_unit_test(test_bins_hold_whatever_a_float_can_be)};
    return cmocka_run_group_tests_name("phases and magnitudes", tests, NULL, NULL);
}
