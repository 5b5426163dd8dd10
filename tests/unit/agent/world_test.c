/* An MPI world that mpirun started: invited once, also over the death of an agent; its end is seen at once, with the words of the rank that fell. */
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/world.h"
#include "slurm/slurm.h"
#include "tests/unit/unit.h"

struct room { char dir[64]; struct loop *loop; pid_t rank0; unsigned gone; };

static void on_gone(void *arg)
{
    struct room *r = arg;
    r->gone++;
    loop_stop(r->loop);
}

static int setup(void **state)
{
    struct room *r = calloc(1, sizeof *r);
    char path[80];
    snprintf(r->dir, sizeof r->dir, "/tmp/viaduct-world-test-XXXXXX");
    assert_non_null(mkdtemp(r->dir));
    snprintf(path, sizeof path, "%s/state", r->dir);
    assert_int_equal(mkdir(path, 0700), 0);
    r->rank0 = fork();
    if (r->rank0 == 0)
        for (;;)
            pause();
    char process[64];
    snprintf(process, sizeof process, "%d %llu", (int)r->rank0, (unsigned long long)process_start_ticks(r->rank0));
    setenv("VIADUCT_WORLD", "one", 1);
    setenv("VIADUCT_WORLD_PROCESS", process, 1);
    *state = r;
    return 0;
}

static int teardown(void **state)
{
    struct room *r = *state;
    static const char *const names[] = {"state/gang-a", "state/gang-told", "state", ""};
    char path[100];
    kill(r->rank0, SIGKILL);
    waitpid(r->rank0, NULL, 0);
    for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
        snprintf(path, sizeof path, "%s/%s", r->dir, names[i]);
        if (unlink(path) < 0)
            rmdir(path);
    }
    free(r);
    return 0;
}

static struct world *open_world(struct room *r)
{
    struct err e = ERR_INIT;
    struct world *w;
    assert_ok(loop_new(&r->loop, &e));
    assert_ok(world_open(r->loop, r->dir, "a", on_gone, r, &w, &e));
    return w;
}

static void close_world(struct room *r, struct world *w)
{
    world_close(w);
    loop_free(r->loop);
}

static void tell(const struct room *r, const char *line)
{
    char path[100];
    snprintf(path, sizeof path, "%s/state/gang-told", r->dir);
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    fputs(line, f);
    fclose(f);
}

static void test_the_next_agent_knows_the_invitation(void **state)
{
    struct room *r = *state;
    struct err e = ERR_INIT;
    struct world *w = open_world(r);
    assert_int_equal(world_invited(w), 0);
    assert_ok(world_invite(w, 4, &e));
    close_world(r, w);
    w = open_world(r);
    assert_int_equal(world_invited(w), 4);
    close_world(r, w);
    setenv("VIADUCT_WORLD", "two", 1);                    /* it comes again: nobody invited this one */
    w = open_world(r);
    assert_int_equal(world_invited(w), 0);
    close_world(r, w);
}

static void test_an_end_is_seen_and_told_as_the_ranks_told_it(void **state)
{
    struct room *r = *state;
    struct msg_exited m = {.who = {.role = ROLE_WORKER}};
    struct world *w = open_world(r);
    tell(r, "one 2 -1 9\n");
    kill(r->rank0, SIGKILL);
    loop_run(r->loop);
    assert_int_equal(r->gone, 1);
    assert_true(world_is_gone(w));
    world_last_words(w, &m);
    assert_int_equal(m.who.index, 2);
    assert_int_equal(m.signal, 9);
    tell(r, "one 1 2 0\n");
    world_last_words(w, &m);
    assert_true(m.who.index == 1 && m.code == 2 && m.signal == 0);
    m.who.index = 0;
    tell(r, "zero 1 2 0\n");                              /* another world's */
    world_last_words(w, &m);
    assert_true(m.who.index == 0 && m.code == -1 && m.signal == -1 && m.text[0]);
    close_world(r, w);
}

static void test_a_world_that_is_gone_already(void **state)
{
    struct room *r = *state;
    setenv("VIADUCT_WORLD_PROCESS", "1 1", 1);            /* its number is another process's now */
    struct world *w = open_world(r);
    assert_true(world_is_gone(w));
    loop_run(r->loop);
    assert_int_equal(r->gone, 1);
    close_world(r, w);
    unsetenv("VIADUCT_WORLD_PROCESS");
    struct err e = ERR_INIT;
    assert_ok(loop_new(&r->loop, &e));
    assert_int_equal(world_open(r->loop, r->dir, "a", on_gone, r, &w, &e), ERR_USAGE);
    close_world(r, w);
    r->loop = NULL;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_the_next_agent_knows_the_invitation, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_end_is_seen_and_told_as_the_ranks_told_it, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_world_that_is_gone_already, setup, teardown),
    };
    return cmocka_run_group_tests_name("world", tests, NULL, NULL);
}
