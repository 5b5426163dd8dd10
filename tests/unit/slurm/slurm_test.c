/* Slurm: the script and the steps, what its commands say in several versions, causes, retry budgets, commands that hang. */
#include <signal.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "slurm/slurm.h"
#include "tests/unit/unit.h"

static const char text[] = "viaduct: v1\nname: job\nmodel: {family: mlp, classes: 10, input: [1, 28, 28]}\ndata: {train: {images: /none/i, labels: /none/l}}\n"
                           "sites:\n  - {name: onprem, via: slurm, ranks: 2, threads: 3, partition: gpu, account: team, time: 36h,\n"
                           "     slurm: {drain: 3m, exclusive: true, contiguous: false, mem: 16G, nice: 5, retries: {node_failure: 2}}}\n"
                           "  - {name: here, via: local}\n"
                           "  - {name: cloud, via: slurm, slurm: {cpus-per-task: 7}}\n";

static void load(struct job *job, const char *spec)
{
    struct err e = ERR_INIT;
    if (job_load_text(job, "spec", spec, strlen(spec), NULL, 0, false, &e) < 0)
        problems_print(&job->problems, stderr);
    assert_false(job->problems.errors);
}

static char *rendered(const struct job *job, const struct slurm_script *what)
{
    struct err e = ERR_INIT;
    char *out = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&out, &size);
    assert_ok(slurm_render(&job->spec, what, f, &e));
    fclose(f);
    return out;
}

static void test_script(void **state)
{
    (void)state;
    static struct job job;
    static const char *const overrides[] = {"train.steps=5", "model.hidden=[1, 2]"}, *const paths[] = {"train.steps=5", "data.train.images=${D}/x"};
    static const char *const lines[] = {
        "#!/bin/bash\n", "\n#SBATCH --job-name=job\n", "\n#SBATCH --signal=B:USR1@180\n", "\n#SBATCH --requeue\n", "\n#SBATCH --open-mode=append\n",
        "\n#SBATCH --partition=gpu\n", "\n#SBATCH --account=team\n", "\n#SBATCH --nodes=1\n", "\n#SBATCH --cpus-per-task=6\n", "\n#SBATCH --time=1-12:00:00\n",
        "\n#SBATCH --exclusive\n", "\n#SBATCH --mem=16G\n", "\n#SBATCH --nice=5\n", "\n#SBATCH hetjob\n", "\n#SBATCH --cpus-per-task=7\n", "\nspec='/x'\\''y/job.yaml'\n",
        "exec \"$viaduct\" run \"$spec\" --dir \"$run\" \"$@\" 'train.steps=5' 'model.hidden=[1, 2]'\n",
    };
    load(&job, text);
    struct slurm_script what = {.program = "/bin/viaduct", .spec = "/x'y/job.yaml", .run_dir = "/runs/job", .overrides = overrides, .override_count = 2};
    char *script = rendered(&job, &what);
    for (unsigned i = 0; i < ARRAY_LEN(lines); i++)
        if (!strstr(script, lines[i]))
            fail_msg("not in the script: %s", lines[i]);
    assert_null(strstr(script, "contiguous"));
    assert_null(strstr(script, "here"));
    assert_null(strstr(script, "shellcheck"));
    free(script);
    what.overrides = paths;
    script = rendered(&job, &what);
    assert_non_null(strstr(script, "\n# shellcheck disable=SC2016\nexec \"$viaduct\" run"));
    free(script);
    job_fini(&job);
}

static void test_script_of_a_site_that_joins(void **state)
{
    (void)state;
    static struct job job;
    static const char *const overrides[] = {"data.train.images=/d/a b"};
    static const char *const lines[] = {
        "\n#SBATCH --job-name=edge\n", "\n#SBATCH --signal=B:USR1@300\n", "\n#SBATCH --requeue\n", "\n#SBATCH --partition=p\n", "\n#SBATCH --nodes=1\n",
        "\ntoken='/x'\\''y'\n", "exec \"$viaduct\" join 'host:7300' --site edge --token \"$token\" --dir \"$run\" 'data.train.images=/d/a b'\n",
    };
    load(&job, "viaduct: v1\nname: job\nmodel: {family: mlp, classes: 10, input: [1, 28, 28]}\ndata:\n  train: {images: a, labels: b}\n"
               "coordinator: {listen: \"0.0.0.0:7300\", address: \"host:7300\"}\n"
               "sites: [{name: home, ranks: 1}, {name: edge, via: join, partition: p, time: 2h, slurm: {drain: 5m}}]\n");
    struct slurm_script what = {.program = "/bin/viaduct", .spec = "", .run_dir = "/edge", .token = "/x'y", .overrides = overrides, .override_count = 1};
    struct err e = ERR_INIT;
    char *script = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&script, &size);
    assert_ok(slurm_render_join(&job.spec, 1, &what, f, &e));
    fclose(f);
    for (unsigned i = 0; i < ARRAY_LEN(lines); i++)
        if (!strstr(script, lines[i]))
            fail_msg("not in the script: %s\n%s", lines[i], script);
    free(script);
    what.token = "a\nb";
    f = fopen("/dev/null", "w");
    assert_int_equal(slurm_render_join(&job.spec, 1, &what, f, &e), ERR_USAGE);
    what.token = "a";
    job.spec.address = (char *)(uintptr_t)"host\n:7300";
    assert_int_equal(slurm_render_join(&job.spec, 1, &what, f, &e), ERR_USAGE);
    fclose(f);
    job_fini(&job);
}

static void expect_refused(const struct job *job, const struct slurm_script *what)
{
    struct err e = ERR_INIT;
    FILE *f = fopen("/dev/null", "w");
    assert_int_equal(slurm_render(&job->spec, what, f, &e), ERR_USAGE);
    fclose(f);
}

static void test_nothing_ends_a_line(void **state)
{
    (void)state;
    static struct job job;
    const char *bad[] = {"a=1\n#SBATCH --uid=0"};
    load(&job, text);
    expect_refused(&job, &(struct slurm_script){.program = "/v", .spec = "/x\n#SBATCH --uid=0", .run_dir = "/r"});
    expect_refused(&job, &(struct slurm_script){.program = "/v", .spec = "/x", .run_dir = "/r\r"});
    expect_refused(&job, &(struct slurm_script){.program = "/v\n", .spec = "/x", .run_dir = "/r"});
    expect_refused(&job, &(struct slurm_script){.program = "/v", .spec = "/x", .run_dir = "/r", .overrides = bad, .override_count = 1});
    job_fini(&job);
}

static void test_output(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    char out[64];
    assert_ok(slurm_output_option("/r/50%x", out, sizeof out, &e));
    assert_string_equal(out, "--output=/r/50%%x/slurm/%j.out");
    assert_int_equal(slurm_output_option("/a/path/that/is/longer/than/what/it/is/given/here/by/far", out, sizeof out, &e), ERR_USAGE);
}

static void test_steps(void **state)
{
    (void)state;
    static struct job job;
    struct slurm_step step;
    load(&job, text);
    slurm_step_of(&job.spec, 2, 0, true, "/bin/viaduct", "/runs/job", &step);
    assert_string_equal(step.argv[0], "--het-group=1");      /* the local site between them is no component */
    bool mpi = false, cores = false;
    unsigned n = 0;
    for (; step.argv[n]; n++) {
        mpi = mpi || strcmp(step.argv[n], "--mpi=none") == 0;
        cores = cores || strcmp(step.argv[n], "--cpus-per-task=7") == 0;
    }
    assert_true(mpi && cores);
    assert_string_equal(step.argv[n - 3], "cloud");
    assert_string_equal(step.argv[n - 7], "agent");
    slurm_step_of(&job.spec, 0, 3, false, "/bin/viaduct", "/runs/job", &step);
    assert_true(strncmp(step.argv[0], "--het-group", 11) != 0);
    bool there = false;
    for (n = 0; step.argv[n]; n++)
        there = there || strcmp(step.argv[n], "--relative=3") == 0;
    assert_true(there);
    assert_string_equal(step.argv[n - 1], "3");              /* --node */
    job_fini(&job);
}

/* ---- what Slurm says ---- */
static void test_states_are_total(void **state)
{
    (void)state;
    for (unsigned s = 1; s < SLURM_STATES; s++) {
        assert_non_null(slurm_state_name((enum slurm_state)s));
        assert_int_equal(slurm_state_of(slurm_state_name((enum slurm_state)s)), s);
        assert_true(slurm_why_silent((enum slurm_state)s) < CAUSES);
    }
    assert_int_equal(slurm_state_of("CANCELLED by 1000"), SLURM_CANCELLED);
    assert_int_equal(slurm_state_of("CANCELLED+"), SLURM_CANCELLED);
    assert_int_equal(slurm_state_of("REQUEUE_FED"), SLURM_UNKNOWN);
    assert_int_equal(slurm_state_of(""), SLURM_UNKNOWN);
    assert_int_equal(slurm_why_silent(SLURM_UNKNOWN), CAUSE_NODE_FAILURE);
    assert_int_equal(slurm_why_silent(SLURM_PREEMPTED), CAUSE_PREEMPTION);
}

static void test_show_job(void **state)
{
    (void)state;
    struct slurm_job j;
    setenv("TZ", "UTC", 1);
    tzset();
    /* 22.05, in grace time */
    slurm_job_parse("JobId=3 JobName=a UserId=root(0) JobState=RUNNING Reason=None Dependency=(null) Requeue=1 Restarts=2 BatchFlag=1 ExitCode=0:0 "
                    "StartTime=2026-11-25T01:04:21 EndTime=2026-11-25T01:34:21 PreemptEligibleTime=2026-11-25T01:04:21 PreemptTime=2026-11-25T01:05:00 "
                    "SuspendTime=None \n", &j);
    assert_true(j.known && j.state == SLURM_RUNNING && j.restarts == 2 && j.end_s == 1795570461 && j.preempt_s == 1795568700 && !j.time_limit_reason);
    /* 20.11 and older: no PreemptEligibleTime; PreemptTime=None */
    slurm_job_parse("JobId=7 JobName=JobState=FAILED JobState=COMPLETING Reason=TimeLimit Restarts=0 EndTime=2026-11-25T01:34:21 PreemptTime=None", &j);
    assert_true(j.state == SLURM_COMPLETING && j.time_limit_reason && j.preempt_s == 0);
    /* 23.11: an end that is not known; two records of a heterogeneous job */
    slurm_job_parse("JobId=8 HetJobId=8 HetJobOffset=0 JobState=PENDING Reason=BeginTime EndTime=Unknown\nJobId=9 JobState=RUNNING EndTime=2026-11-25T01:34:21", &j);
    assert_true(j.state == SLURM_PENDING && j.end_s == 0);
    char address[64];
    slurm_node_address("NodeName=n1 Arch=x86_64 CoresPerSocket=4 Gres=(null) NodeAddr=10.1.2.3 NodeHostName=n1 Port=6818", address, sizeof address);
    assert_string_equal(address, "10.1.2.3");
    slurm_node_address("Node n9 not found", address, sizeof address);
    assert_string_equal(address, "");
    slurm_job_parse("slurm_load_jobs error: Invalid job id specified", &j);
    assert_false(j.known);
}

static void test_why_term(void **state)
{
    (void)state;
    struct slurm_job running = {.known = true, .state = SLURM_RUNNING}, preempted = running, timeout = running, unknown = {0}, gone = running;
    preempted.preempt_s = 50;
    timeout.time_limit_reason = true;
    gone.state = SLURM_PREEMPTED;
    assert_int_equal(slurm_why_term(&preempted, false, 1000, 100), CAUSE_PREEMPTION);
    assert_int_equal(slurm_why_term(&preempted, true, 1000, 100), CAUSE_PREEMPTION);
    assert_int_equal(slurm_why_term(&gone, false, 1000, 100), CAUSE_PREEMPTION);
    assert_int_equal(slurm_why_term(&timeout, false, 0, 100), CAUSE_TIME_LIMIT);
    assert_int_equal(slurm_why_term(&running, true, 1000, 100), CAUSE_TIME_LIMIT);
    assert_int_equal(slurm_why_term(&running, false, 1000, 1000), CAUSE_TIME_LIMIT);
    assert_int_equal(slurm_why_term(&running, false, 1000, 999), CAUSE_CANCELLED);
    assert_int_equal(slurm_why_term(&unknown, false, 0, 999), CAUSE_CANCELLED);
    assert_int_equal(slurm_why_term(&unknown, false, 900, 999), CAUSE_TIME_LIMIT);
}

/* ---- the book ---- */
static struct slurm_book book_of(const char *lines)
{
    struct slurm_book b;
    struct err e = ERR_INIT;
    assert_ok(slurm_book_parse(lines, &b, &e));
    return b;
}

static void test_budgets(void **state)
{
    (void)state;
    const uint32_t retries[RETRIES] = {2, 1, 0, 1};
    struct slurm_book b = book_of("");
    assert_true(b.starts == 0 && !b.open && b.last == CAUSE_NONE);
    assert_true(slurm_may_retry(&b, CAUSE_TIME_LIMIT, retries) && !slurm_may_retry(&b, CAUSE_NODE_FAILURE, retries));
    assert_false(slurm_may_retry(&b, CAUSE_CANCELLED, retries) || slurm_may_retry(&b, CAUSE_NONE, retries));
    b = book_of("start 7 0 a1 100\nend time_limit 200\nstart 7 1 a1 210\nend time_limit 300\nstart 7 2 a1 400\n");
    assert_true(b.open && b.starts == 3 && b.job == 7 && b.restart == 2 && b.used[CAUSE_TIME_LIMIT] == 2);
    assert_false(slurm_may_retry(&b, CAUSE_TIME_LIMIT, retries));
    assert_true(slurm_may_retry(&b, CAUSE_PREEMPTION, retries));          /* each cause has its own */
    /* submitted again by the run itself: the same series; by hand: a new one */
    assert_int_equal(book_of("start 7 0 a1 1\nend time_limit 2\nresubmitted\nstart 8 0 a1 3\n").used[CAUSE_TIME_LIMIT], 1);
    assert_int_equal(book_of("start 7 0 a1 1\nend time_limit 2\nstart 8 0 a1 3\n").used[CAUSE_TIME_LIMIT], 0);
    b = book_of("start 7 0 a1 1\nend cancelled 20\n");
    assert_true(!b.open && b.last == CAUSE_CANCELLED && b.last_s == 20);
    assert_int_equal(book_of("start 7 0 a1 1\nend time_li").open, true);  /* the host died while it wrote */
}

static void test_damaged_book(void **state)
{
    (void)state;
    static const char *const bad[] = {"begin 7\n", "end by_magic 7\n", "start x\n", "resubmitted\n", "\n"};
    struct slurm_book b;
    char line[400];
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        struct err e = ERR_INIT;
        assert_int_equal(slurm_book_parse(bad[i], &b, &e), ERR_CORRUPT);
        assert_non_null(strstr(e.text, "line 1"));
    }
    struct err e = ERR_INIT;
    memset(line, 'a', sizeof line);
    line[sizeof line - 1] = '\0';
    assert_int_equal(slurm_book_parse(line, &b, &e), ERR_CORRUPT);
}

/* ---- processes ---- */
static void on_alarm(int signo) { (void)signo; }

/* A signal in the middle of a launch hides no failure of it. */
static void test_signals_in_the_middle_of_a_launch(void **state)
{
    (void)state;
    static const char *const argv[] = {NULL};
    const struct sigaction handler = {.sa_handler = on_alarm};   /* without SA_RESTART, as `viaduct join` has it */
    const struct itimerval often = {{0, 10000}, {0, 10000}}, never = {{0, 0}, {0, 0}};
    struct launch what = {.program = "/nowhere/program", .argv = argv, .keep_fd = -1};
    unsigned hidden = 0;
    assert_int_equal(sigaction(SIGALRM, &handler, NULL), 0);
    assert_int_equal(setitimer(ITIMER_REAL, &often, NULL), 0);
    for (unsigned i = 0; i < 200; i++) {
        struct err e = ERR_INIT;
        pid_t pid = 0;
        hidden += launch_local(&what, &pid, &e) == 0;
    }
    assert_int_equal(setitimer(ITIMER_REAL, &never, NULL), 0);
    assert_int_equal(hidden, 0);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);     /* and leaves no dead child behind */
}

/* ---- commands ---- */
static void test_commands(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    char out[8];
    const char *const good[] = {"printf", "%s", "much more than fits", NULL}, *const bad[] = {"sh", "-c", "echo one >&2; echo two >&2; exit 3", NULL};
    const char *const hangs[] = {"sleep", "60", NULL}, *const none[] = {"no-such-command-of-slurm", NULL};
    assert_ok(slurm_command(good, 10000, out, sizeof out, &e));
    assert_string_equal(out, "much mo");
    assert_int_equal(slurm_command(bad, 10000, out, sizeof out, &e), ERR_FAILED);
    assert_non_null(strstr(e.text, "two"));
    assert_null(strstr(e.text, "one"));
    uint64_t begin = clock_now_ms();
    assert_int_equal(slurm_command(hangs, 300, out, sizeof out, &e), ERR_TEMPORARY);
    assert_true(clock_now_ms() - begin < 20000);
    assert_int_equal(slurm_command(none, 300, out, sizeof out, &e), ERR_NOT_FOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_script), cmocka_unit_test(test_script_of_a_site_that_joins), cmocka_unit_test(test_nothing_ends_a_line), cmocka_unit_test(test_output), cmocka_unit_test(test_steps), cmocka_unit_test(test_states_are_total),
        cmocka_unit_test(test_show_job), cmocka_unit_test(test_why_term), cmocka_unit_test(test_budgets), cmocka_unit_test(test_damaged_book),
        cmocka_unit_test(test_signals_in_the_middle_of_a_launch), cmocka_unit_test(test_commands),
    };
    return cmocka_run_group_tests_name("slurm", tests, NULL, NULL);
}
