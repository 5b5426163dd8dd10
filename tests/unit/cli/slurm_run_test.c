/* The book of a run under Slurm on disk, with commands of Slurm that say nothing. */
#include <sys/stat.h>
#include <unistd.h>

#include "cli/slurm_run.h"
#include "tests/unit/unit.h"

static struct rundir run;

static void write_text(const char *name, const char *text)
{
    struct err e = ERR_INIT;
    char path[600];
    snprintf(path, sizeof path, "%s/%s", run.path, name);
    assert_ok(fs_publish_file(&fs_real, path, text, strlen(text), &e));
}

static int set_up(void **state)
{
    static const char *const commands[] = {"bin/srun", "bin/scontrol", "bin/sacct"};
    char path[600];
    (void)state;
    snprintf(run.path, sizeof run.path, "/tmp/viaduct-test-XXXXXX");
    assert_non_null(mkdtemp(run.path));
    snprintf(path, sizeof path, "%s/state", run.path);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof path, "%s/bin", run.path);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(setenv("PATH", path, 1), 0);
    for (unsigned i = 0; i < ARRAY_LEN(commands); i++) {
        write_text(commands[i], "#!/bin/sh\nexit 1\n");
        snprintf(path, sizeof path, "%s/%s", run.path, commands[i]);
        assert_int_equal(chmod(path, 0700), 0);
    }
    return setenv("SLURM_JOB_ID", "7", 1) + setenv("SLURM_RESTART_COUNT", "1", 1) + setenv("SLURMD_NODENAME", "n1", 1);
}

static int tear_down(void **state)
{
    char command[600];
    (void)state;
    snprintf(command, sizeof command, "/bin/rm -rf '%s'", run.path);
    return system(command);
}

/* The host died over a line, or its disk was full: the next start goes on from the lines before it, and leaves a book that can be read. */
static void half_a_line_is_written_over(void **state)
{
    static const char *const left[] = {"start 7 0 n1 100\nend node_fa", "start 7 0 n1 100\n", "start 7 0 n1 100\ne", "start 7 0 n1 100\nend time_limit 1234567890 and more than the next"};
    static const struct job_spec spec = {.site_count = 1, .sites = {{.name = (char *)(uintptr_t)"a", .via = VIA_SLURM, .nodes = 1, .slurm.retries = {9, 9, 9, 9}}}};
    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(left); i++) {
        struct err e = ERR_INIT;
        struct slurm_run *r;
        void *text;
        size_t size;
        char path[600];
        write_text("state/slurm", left[i]);
        assert_ok(slurm_run_open(&spec, 0, &run, &r, &e));
        slurm_run_free(r);
        snprintf(path, sizeof path, "%s/state/slurm", run.path);
        assert_ok(fs_read_file(&fs_real, path, 4096, &text, &size, &e));
        assert_non_null(strstr(text, "start 7 0 n1 100\nend node_failure 100\nstart 7 1 n1 "));
        assert_int_equal(((char *)text)[size - 1], '\n');
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(half_a_line_is_written_over, set_up, tear_down)};
    return cmocka_run_group_tests_name("slurm_run", tests, NULL, NULL);
}
