/* Run directories: what is refused, what a resume keeps and forgets, and the locks that tell a living run from its leftovers. */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cli/rundirs.h"
#include "coordinator/log.h"
#include "net/net.h"
#include "tests/unit/ckpt/sample.h"
#include "tests/unit/unit.h"

static const char spec[] = "viaduct: v1\nname: t\nmodel: {family: mlp, classes: 10, input: [1, 28, 28]}\n"
                           "data: {train: {format: idx, images: /none/images, labels: /none/labels}}\n"
                           "train: {steps: 10}\n"
                           "sites: [{name: one, via: local, ranks: 1, ps_shards: 1}, {name: two, via: local, ranks: 1, ps_shards: 1}]\n";

struct room { char dir[64], run[80]; struct job job; };

static void load(struct job *job, const char *override)
{
    struct err e = ERR_INIT;
    assert_ok(job_load_text(job, "spec", spec, sizeof spec - 1, &override, override ? 1 : 0, false, &e));
}

static int set_up(void **state)
{
    struct room *r = calloc(1, sizeof *r);
    snprintf(r->dir, sizeof r->dir, "/tmp/viaduct-test-XXXXXX");
    assert_non_null(mkdtemp(r->dir));
    snprintf(r->run, sizeof r->run, "%s/run", r->dir);
    load(&r->job, NULL);
    *state = r;
    return 0;
}

static void remove_tree(const char *path)
{
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) {
        char below[600];
        snprintf(below, sizeof below, "%s/%s", path, e->d_name);
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            remove_tree(below);
    }
    if (d)
        closedir(d);
    remove(path);
}

static int tear_down(void **state)
{
    struct room *r = *state;
    remove_tree(r->dir);
    job_fini(&r->job);
    free(r);
    return 0;
}

static void write_file(const struct room *r, const char *name, const char *text)
{
    char path[200];
    struct err e = ERR_INIT;
    snprintf(path, sizeof path, "%s/%s", r->run, name);
    assert_ok(fs_write_file(&fs_real, path, text, strlen(text), &e));
}

static bool exists(const struct room *r, const char *name)
{
    char path[200];
    snprintf(path, sizeof path, "%s/%s", r->run, name);
    return access(path, F_OK) == 0;
}

static void a_new_run_has_what_its_processes_look_for(void **state)
{
    struct room *r = *state;
    struct err e = ERR_INIT;
    struct opened_run o;
    struct job again;
    char path[200];
    struct stat st;
    assert_ok(rundirs_open(&o, r->run, &r->job, false, &e));
    assert_false(o.resumed);
    assert_int_equal(strlen(o.run.job), 16);
    assert_int_equal(rundir_site(&o.run, "two"), 1);
    assert_int_equal(rundir_site(&o.run, "three"), -1);
    assert_true(exists(r, "ckpt/one") && exists(r, "ckpt/two") && exists(r, "export") && exists(r, "log"));
    snprintf(path, sizeof path, "%s/state", r->run);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    snprintf(path, sizeof path, "%s/spec.yaml", r->run);
    assert_ok(job_load(&again, path, NULL, 0, false, &e));
    job_fini(&again);
    assert_int_equal(fcntl(o.lock_fd, F_GETFD) & FD_CLOEXEC, 0);
    assert_int_equal(fcntl(o.supervisor_fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    snprintf(path, sizeof path, "%s", o.run.sockets);
    rundirs_close(&o);
    assert_int_equal(access(path, F_OK), -1);
}

static void what_is_there_is_not_written_over(void **state)
{
    struct room *r = *state;
    struct err e = ERR_INIT;
    struct opened_run o;
    assert_int_equal(rundirs_open(&o, r->run, &r->job, true, &e), ERR_NOT_FOUND);
    assert_int_equal(mkdir(r->run, 0700), 0);
    write_file(r, "mine", "x");
    assert_int_equal(rundirs_open(&o, r->run, &r->job, false, &e), ERR_CONFLICT);
    assert_non_null(strstr(e.text, "--resume"));
    assert_int_equal(rundirs_open(&o, r->run, &r->job, true, &e), ERR_CONFLICT);
    assert_non_null(strstr(e.text, "no run to resume"));
    assert_false(exists(r, "state"));
}

static void a_resume_keeps_the_job_and_forgets_its_processes(void **state)
{
    struct room *r = *state;
    struct err e = ERR_INIT;
    struct opened_run first, second;
    struct job other;
    assert_ok(rundirs_open(&first, r->run, &r->job, false, &e));
    write_file(r, "state/agent-one.children", "launched 3 0 4\n");
    write_file(r, "state/gang-one", "4 world\n");
    write_file(r, "state/coordinator.addr", "unix:/nowhere\n");
    write_file(r, "state/failpoint-worker-join-kill-1", "1\n");
    rundirs_close(&first);
    assert_int_equal(rundirs_open(&second, r->run, &r->job, false, &e), ERR_CONFLICT);
    load(&other, "train.batch=64");
    assert_int_equal(rundirs_open(&second, r->run, &other, true, &e), ERR_USAGE);
    assert_non_null(strstr(e.text, "64"));
    job_fini(&other);
    load(&other, "sites=[{name: one, via: local, ranks: 3}]");
    assert_ok(rundirs_open(&second, r->run, &other, true, &e));
    job_fini(&other);
    assert_true(second.resumed);
    assert_string_equal(second.run.job, first.run.job);
    assert_int_equal(rundir_site(&second.run, "two"), -1);
    assert_false(exists(r, "state/agent-one.children") || exists(r, "state/gang-one") || exists(r, "state/coordinator.addr"));
    assert_true(exists(r, "state/failpoint-worker-join-kill-1"));
    rundirs_close(&second);
}

static void a_completed_run_has_nothing_left_unless_more_is_asked(void **state)
{
    struct room *r = *state;
    struct err e = ERR_INIT;
    struct opened_run o;
    struct job more;
    bool completed;
    char status[32];
    assert_ok(rundirs_open(&o, r->run, &r->job, false, &e));
    rundirs_close(&o);
    rundirs_status(r->run, status, sizeof status);
    assert_string_equal(status, "");
    assert_ok(rundirs_completed(r->run, &r->job, &completed, &e));
    assert_false(completed);
    write_file(r, "report.json", "{\"status\": \"completed\"}");
    rundirs_status(r->run, status, sizeof status);
    assert_string_equal(status, "completed");
    assert_ok(rundirs_completed(r->run, &r->job, &completed, &e));
    assert_true(completed);
    load(&more, "train.steps=20");
    assert_ok(rundirs_completed(r->run, &more, &completed, &e));
    assert_false(completed);
    write_file(r, "report.json", "{\"status\": \"completed\", \"lineage\": {\"spec_sha256\": \"of-a-shorter-run\"}}");
    assert_ok(rundirs_completed(r->run, &r->job, &completed, &e));   /* a resume to this length was begun, and got no further */
    assert_false(completed);
    job_fini(&more);
}

static void a_resume_needs_what_the_run_left(void **state)
{
    struct room *r = *state;
    struct err e = ERR_INIT;
    struct opened_run o;
    char path[200];
    assert_ok(rundirs_open(&o, r->run, &r->job, false, &e));
    rundirs_close(&o);
    write_file(r, "report.json", "{\"status\": \"failed\", \"checkpoint\": {\"path\": \"ckpt/one/step-00000010\", \"step\": 10}}");
    assert_int_equal(rundirs_open(&o, r->run, &r->job, true, &e), ERR_NOT_FOUND);
    assert_non_null(strstr(e.text, "ckpt/one/step-00000010"));
    snprintf(path, sizeof path, "%s/ckpt/two/step-00000010", r->run);
    assert_ok(fs_mkdirs(&fs_real, path, &e));
    write_file(r, "ckpt/two/step-00000010/manifest.json", "{}");   /* whether it is whole, the coordinator sees */
    assert_ok(rundirs_open(&o, r->run, &r->job, true, &e));
    rundirs_close(&o);
    write_file(r, "spec.yaml", "viaduct: v1\nname");
    assert_int_equal(rundirs_open(&o, r->run, &r->job, true, &e), ERR_USAGE);
    assert_non_null(strstr(e.text, "spec.yaml is damaged (line "));
}

/* A child that inherits the run's lock, as every process of a run does, and nothing else of its parent. */
static pid_t leave_behind(const struct opened_run *o)
{
    pid_t pid = fork();
    if (pid == 0) {
        close(o->supervisor_fd);
        for (;;)
            pause();
    }
    return pid;
}

static void what_a_run_leaves_behind_is_ended(void **state)
{
    struct room *r = *state;
    struct err e = ERR_INIT;
    struct opened_run o;
    int status;
    assert_ok(rundirs_open(&o, r->run, &r->job, false, &e));
    pid_t child = leave_behind(&o);
    rundirs_close(&o);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/* `viaduct status`, a backup: it looks at the lock, and is none of the run's. */
static void who_only_looks_is_left_alone(void **state)
{
    struct room *r = *state;
    struct err e = ERR_INIT;
    struct opened_run o;
    char path[200], byte;
    int ready[2];
    assert_ok(rundirs_open(&o, r->run, &r->job, false, &e));
    snprintf(path, sizeof path, "%s/state/lock", r->run);
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) {
        close(o.supervisor_fd);
        close(o.lock_fd);
        if (open(path, O_RDONLY) < 0 || write(ready[1], "", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    rundirs_close(&o);
    int status;
    assert_int_equal(waitpid(child, &status, WNOHANG), 0);
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, &status, 0), child);
    close(ready[0]);
    close(ready[1]);
}

static void a_resume_waits_for_those_of_an_earlier_start(void **state)
{
    struct room *r = *state;
    struct err e = ERR_INIT;
    struct opened_run o, again;
    assert_ok(rundirs_open(&o, r->run, &r->job, false, &e));
    pid_t child = leave_behind(&o), killer = fork();
    if (killer == 0) {
        close(o.supervisor_fd);
        close(o.lock_fd);
        nanosleep(&(struct timespec){0, 300000000}, NULL);
        kill(child, SIGKILL);
        _exit(0);
    }
    close(o.supervisor_fd);   /* as kill -9 of `viaduct run` would */
    close(o.lock_fd);
    uint64_t begin = clock_now_ms();
    assert_ok(rundirs_open(&again, r->run, &r->job, true, &e));
    assert_true(clock_now_ms() - begin < 5000);
    assert_int_equal(waitpid(child, NULL, 0), child);
    assert_int_equal(waitpid(killer, NULL, 0), killer);
    rundirs_close(&again);
}

static void certificates_for_every_role_of_every_site(void **state)
{
    struct room *r = *state;
    struct err e = ERR_INIT;
    struct opened_run o;
    assert_ok(rundirs_open(&o, r->run, &r->job, false, &e));
    assert_ok(rundirs_identities(&o.run, &r->job.spec, &e));
    char dir[600];
    struct identity *i;
    snprintf(dir, sizeof dir, "%s/state/tls", o.run.path);
    assert_ok(identity_load(dir, "two", ROLE_PS, &i, &e));
    identity_free(i);
    assert_ok(identity_load(dir, "coordinator", ROLE_COORDINATOR, &i, &e));
    identity_free(i);
    rundirs_close(&o);
}

/* A Slurm that lost track starts a job twice: the second start is refused at once. One that started it again gets the run, as soon as the first has seen its claim. */
static void a_second_start_of_a_slurm_job_is_fenced(void **state)
{
    struct room *r = *state;
    struct err e = ERR_INIT;
    struct opened_run first, second;
    char token[40], later[40];
    setenv("SLURM_JOB_ID", "77", 1);
    setenv("SLURMD_NODENAME", "n1", 1);
    setenv("SLURM_RESTART_COUNT", "1", 1);
    assert_ok(rundirs_open(&first, r->run, &r->job, false, &e));
    assert_int_equal(rundir_start_token(&first.run, token), 0);
    assert_int_equal(rundirs_open(&second, r->run, &r->job, true, &e), ERR_CONFLICT);
    assert_non_null(strstr(e.text, "Slurm job 77 (start 1) on node n1"));
    assert_false(lease_is_claimed(r->run, &first.me));
    pid_t pid = fork();
    if (pid == 0) {
        setenv("SLURM_RESTART_COUNT", "2", 1);
        close(first.supervisor_fd);
        close(first.lock_fd);
        _exit(rundirs_open(&second, r->run, &r->job, true, &e) == 0 ? 0 : 1);
    }
    for (int i = 0; i < 600 && !lease_is_claimed(r->run, &first.me); i++)
        nanosleep(&(struct timespec){0, 50000000}, NULL);
    assert_true(lease_is_claimed(r->run, &first.me));
    close(first.supervisor_fd);
    close(first.lock_fd);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_int_equal(rundir_start_token(&first.run, later), 0);
    assert_string_not_equal(token, later);
    unsetenv("SLURM_JOB_ID");
    unsetenv("SLURMD_NODENAME");
    unsetenv("SLURM_RESTART_COUNT");
    rmdir(first.run.sockets);
}

static void save(const struct room *r, uint32_t generation, uint64_t step, bool damaged)
{
    char dir[200], path[300];
    struct sample s;
    struct err e = ERR_INIT;
    snprintf(dir, sizeof dir, "%s/ckpt/one/step-%08llu", r->run, (unsigned long long)step);
    assert_ok(fs_mkdirs(&fs_real, dir, &e));
    assert_ok(sample_open(&s, step, &e));
    s.meta.generation = generation;
    assert_ok(sample_write(&s, &fs_real, dir, &e));
    sample_close(&s);
    snprintf(path, sizeof path, "%s/part-%04u-%08llu-00.h5", dir, generation, (unsigned long long)step);
    assert_true(!damaged || truncate(path, 5) == 0);
}

static void goes_on_says(const struct room *r, const char *wanted)
{
    char *said = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&said, &size);
    rundirs_print_resume(r->run, out);
    fclose(out);
    if (!strstr(said, wanted))
        fail_msg("said %s", said);
    free(said);
}

/* A person is told what the resume will do: what is damaged it passes over, and what the run went back below. */
static void where_a_resume_begins_is_told_as_it_will_be(void **state)
{
    struct room *r = *state;
    struct decision_log *db;
    struct err e = ERR_INIT;
    char path[200];
    uint64_t at, leader;
    goes_on_says(r, "begins at step 1");
    save(r, 2, 500, true);
    goes_on_says(r, "cannot begin yet");
    save(r, 1, 400, false);
    save(r, 1, 600, false);
    goes_on_says(r, "after step 600, from ckpt/one/step-00000600");
    snprintf(path, sizeof path, "%s/log", r->run);
    assert_ok(fs_mkdirs(&fs_real, path, &e));
    snprintf(path, sizeof path, "%s/log/decisions.db", r->run);
    assert_ok(decision_log_sqlite.open(path, &db, &e));
    assert_ok(decision_log_sqlite.take_over(db, &leader, &e));
    for (uint32_t generation = 1; generation <= 2; generation++) {
        struct log_entry view = {.kind = LOG_VIEW};
        view.u.view = (struct view){.number = generation, .generation = generation, .base = generation == 2 ? 400 : 0};
        assert_ok(decision_log_sqlite.append(db, &view, NULL, 0, true, &at, &e));
    }
    decision_log_sqlite.close(db);
    goes_on_says(r, "after step 400, from ckpt/one/step-00000400");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_new_run_has_what_its_processes_look_for, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_there_is_not_written_over, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_resume_keeps_the_job_and_forgets_its_processes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_completed_run_has_nothing_left_unless_more_is_asked, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_resume_needs_what_the_run_left, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_a_run_leaves_behind_is_ended, set_up, tear_down),
        cmocka_unit_test_setup_teardown(who_only_looks_is_left_alone, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_resume_waits_for_those_of_an_earlier_start, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_second_start_of_a_slurm_job_is_fenced, set_up, tear_down),
        cmocka_unit_test_setup_teardown(where_a_resume_begins_is_told_as_it_will_be, set_up, tear_down),
        cmocka_unit_test_setup_teardown(certificates_for_every_role_of_every_site, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
