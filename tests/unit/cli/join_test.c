/* How long a machine that joined stays when it is alone. */
#include "cli/join.h"
#include "tests/unit/unit.h"

#define MINUTE 60000ull
#define ALONE (MINUTE + 300)          /* what an agent needs to give up */

/* Ten minutes of each outage, whatever was before it: a site that has worked for hours is not less patient than a new one. */
static void each_outage_has_ten_minutes(void **state)
{
    (void)state;
    struct join_patience p = {0};
    uint64_t now = 5000;
    for (unsigned outage = 0; outage < 3; outage++) {
        now += 300 * MINUTE;
        assert_true(join_again(&p, 300 * MINUTE, now, true));
        for (unsigned minute = 1; minute < 10; minute++) {
            now += MINUTE;
            assert_true(join_again(&p, ALONE, now, true));
        }
    }
    now += 2 * MINUTE;
    assert_false(join_again(&p, ALONE, now, true));
}

/* One that crashes had found the coordinator, or fails for another reason. */
static void a_crash_is_no_outage(void **state)
{
    (void)state;
    struct join_patience p = {0};
    for (uint64_t now = MINUTE; now < 100 * MINUTE; now += 6 * MINUTE) {
        assert_true(join_again(&p, ALONE, now, true));
        assert_true(join_again(&p, 4 * MINUTE, now + 5 * MINUTE, false));
    }
}

static void what_ends_at_once_will_do_no_better(void **state)
{
    (void)state;
    struct join_patience p = {0};
    unsigned starts = 1;
    while (join_again(&p, 100, 1000 * starts, false))
        starts++;
    assert_int_equal(starts, 5);
    assert_true(join_again(&p, 5000, 1000 * starts, false));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(each_outage_has_ten_minutes), cmocka_unit_test(a_crash_is_no_outage), cmocka_unit_test(what_ends_at_once_will_do_no_better)};
    return cmocka_run_group_tests_name("join", tests, NULL, NULL);
}
