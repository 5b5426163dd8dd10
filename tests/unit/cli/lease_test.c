/* Who holds a run directory that several hosts see: ranks of claims, and owners that live without a lock. */
#include <pthread.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cli/lease.h"
#include "tests/unit/unit.h"

static char dir[64];

static int set_up(void **state)
{
    (void)state;
    char path[100];
    snprintf(dir, sizeof dir, "/tmp/viaduct-test-XXXXXX");
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/state", dir);
    return mkdir(path, 0700);
}

static int tear_down(void **state)
{
    (void)state;
    static const char *const names[] = {"state/owner", "state/claim", "state", ""};
    for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
        char path[100];
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        remove(path);
    }
    return 0;
}

static void test_ranks(void **state)
{
    (void)state;
    struct holder first = {.host = "a", .pid = 1, .job = 7, .restart = 0}, second = {.host = "b", .pid = 2, .job = 7, .restart = 1};
    struct holder other = {.host = "b", .pid = 3, .job = 8, .restart = 9}, person = {.host = "b", .pid = 4};
    assert_true(holder_supersedes(&second, &first));
    assert_false(holder_supersedes(&first, &second) || holder_supersedes(&first, &first) || holder_supersedes(&other, &first) || holder_supersedes(&person, &person));
    assert_true(holder_outranks(&second, &first) && holder_outranks(&first, &first));
    assert_false(holder_outranks(&first, &second) || holder_outranks(&other, &first) || holder_outranks(&person, &person));
}

static void test_claims(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct holder first = {.host = "a", .pid = 1, .job = 7, .restart = 0}, second = {.host = "b", .pid = 2, .job = 7, .restart = 1}, seen;
    assert_false(lease_is_claimed(dir, &first));
    assert_ok(lease_claim(dir, &second, &e));
    assert_true(lease_is_claimed(dir, &first));
    assert_false(lease_is_claimed(dir, &second));
    assert_false(lease_owner(dir, &seen));
    assert_ok(lease_beat(dir, &first, &e));
    assert_true(lease_owner(dir, &seen) && seen.job == 7 && seen.beat == 1 && strcmp(seen.host, "a") == 0);
    lease_give_back(dir);
    assert_false(lease_owner(dir, &seen));
}

static void *beats(void *arg)
{
    struct holder *h = arg;
    struct err e = ERR_INIT;
    for (int i = 0; i < 20; i++, nanosleep(&(struct timespec){0, 50000000}, NULL))
        assert_ok(lease_beat(dir, h, &e));
    return NULL;
}

static void test_an_owner_that_beats_lives(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct holder there = {.host = "a", .pid = 1, .job = 7}, me = {.host = "b", .pid = 2}, same_host = {.host = "a", .pid = 3};
    pthread_t thread;
    assert_false(lease_owner_lives(dir, &me, 100));            /* nobody */
    assert_ok(lease_beat(dir, &there, &e));
    assert_false(lease_owner_lives(dir, &me, 300));            /* died without giving it back */
    assert_int_equal(pthread_create(&thread, NULL, beats, &there), 0);
    assert_true(lease_owner_lives(dir, &me, 10000));
    assert_false(lease_owner_lives(dir, &same_host, 10000));   /* there the lock decides */
    pthread_join(thread, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_ranks, set_up, tear_down), cmocka_unit_test_setup_teardown(test_claims, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_an_owner_that_beats_lives, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("lease", tests, NULL, NULL);
}
