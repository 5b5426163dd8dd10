/* Which shared memory goes when a gang ends: that of its launch, on all hosts that this machine plays, and no other. */
#include "tests/unit/unit.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "agent/segments.h"

static void name_of(char out[160], const char *job, const char *rest) { snprintf(out, 160, "/viaduct-%s-%s", job, rest); }

static void make(const char *job, const char *rest)
{
    char name[160];
    name_of(name, job, rest);
    int fd = shm_open(name, O_RDWR | O_CREAT, 0600);
    assert_true(fd >= 0);
    close(fd);
}

static bool take(const char *job, const char *rest)   /* whether it was there */
{
    char name[160];
    name_of(name, job, rest);
    return shm_unlink(name) == 0;
}

static bool newest_lives(void *arg, uint32_t incarnation)
{
    (void)arg;
    return incarnation == 4;
}

static void test_only_that_launch_ends(void **state)
{
    (void)state;
    static const char *const others[] = {"here-4-0", "here-33-0", "here-ram-0", "here-3-0-h", "here-3-0-h2-5", "here-3-0x", "here-3", "here-3-", "there-3-0", "there-3-0-h1"};
    char job[40];
    snprintf(job, sizeof job, "segtest%d", (int)getpid());
    make(job, "here-3-0");
    make(job, "here-3-0-h1");
    make(job, "here-3-2-h12");
    for (unsigned i = 0; i < ARRAY_LEN(others); i++)
        make(job, others[i]);
    segments_end_gang(job, "here", 1, 3);
    assert_false(take(job, "here-3-0-h1"));
    make(job, "here-3-0-h1");
    segments_end_gang(job, "here", 0, 3);
    assert_false(take(job, "here-3-0"));
    make(job, "here-3-0");
    segments_end_gang(job, "here", -1, 3);
    assert_false(take(job, "here-3-0"));
    assert_false(take(job, "here-3-0-h1"));
    assert_false(take(job, "here-3-2-h12"));
    make(job, "here-2-0-h1");
    segments_sweep(job, "here", -1, newest_lives, NULL);
    assert_false(take(job, "here-2-0-h1"));
    assert_false(take(job, "here-33-0"));
    make(job, "here-33-0");
    for (unsigned i = 0; i < ARRAY_LEN(others); i++)
        assert_true(take(job, others[i]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_only_that_launch_ends)};
    return cmocka_run_group_tests_name("segments", tests, NULL, NULL);
}
