/* What an agent knows of its site's processes, and what the next one finds: adoption, instances launched once ever, deaths that nobody saw. */
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/children.h"
#include "agent/door.h"
#include "agent/segments.h"
#include "slurm/slurm.h"
#include "tests/unit/unit.h"

struct room {
    char dir[64], program[128];
    struct log log;
    struct loop *loop;
    struct children *c;
    unsigned ends, killed_ends;
    struct msg_exited last;
};

static void on_end(void *arg, const struct msg_exited *m, bool killed)
{
    struct room *r = arg;
    r->ends++;
    r->killed_ends += killed;
    r->last = *m;
    loop_stop(r->loop);
}

/* An agent's life begins; the one before it, if any, is gone without a word. */
static void begin_life(struct room *r)
{
    struct err e = ERR_INIT;
    assert_ok(loop_new(&r->loop, &e));
    r->c = calloc(1, sizeof *r->c);
    *r->c = (struct children){.loop = r->loop, .log = &r->log, .run_dir = r->dir, .site = "a", .worker_program = r->program, .ended = on_end, .arg = r};
    snprintf(r->c->record_path, sizeof r->c->record_path, "%s/agent-a.children", r->dir);
    snprintf(r->c->socket_path, sizeof r->c->socket_path, "%s/door", r->dir);
    assert_ok(children_init(r->c, &e));
}

static void end_life(struct room *r)
{
    loop_free(r->loop);
    free(r->c);
}

static void write_program(const struct room *r, const char *text)
{
    int fd = open(r->program, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0700);
    assert_true(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
}

static int set_up(void **state)
{
    struct room *r = calloc(1, sizeof *r);
    char path[100];
    snprintf(r->dir, sizeof r->dir, "/tmp/viaduct-test-XXXXXX");
    assert_non_null(mkdtemp(r->dir));
    snprintf(path, sizeof path, "%s/log", r->dir);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(r->program, sizeof r->program, "%s/program", r->dir);
    write_program(r, "#!/bin/sh\nexec sleep 1000\n");
    log_open(&r->log, NULL, "test", "");
    r->log.stderr_level = LOG_ERROR;
    begin_life(r);
    *state = r;
    return 0;
}

static int tear_down(void **state)
{
    struct room *r = *state;
    char path[200];
    for (unsigned i = 0; i < CHILDREN_MAX; i++)
        if (r->c->child[i].used) {
            kill(r->c->child[i].pid, SIGKILL);
            waitpid(r->c->child[i].pid, NULL, 0);
        }
    end_life(r);
    static const char *const files[] = {"agent-a.children", "program", "door", "said", "log/worker-a-0.out", "log/worker-a-1.out", "log", ""};
    for (unsigned i = 0; i < ARRAY_LEN(files); i++) {
        snprintf(path, sizeof path, "%s/%s", r->dir, files[i]);
        remove(path);
    }
    log_close(&r->log);
    free(r);
    return 0;
}

static struct process_id rank(unsigned index, uint32_t instance)
{
    return (struct process_id){.role = ROLE_WORKER, .index = (uint16_t)index, .instance = instance};
}

static pid_t launch(struct room *r, unsigned index, uint32_t instance)
{
    struct err e = ERR_INIT;
    assert_ok(children_mark(r->c, ROLE_WORKER, 0, instance, &e));
    assert_ok(children_launch(r->c, rank(index, instance), NULL, &e));
    return children_find(r->c, ROLE_WORKER, (uint16_t)index, instance)->pid;
}

static void the_next_agent_adopts_who_lives(void **state)
{
    struct room *r = *state;
    pid_t first = launch(r, 0, 3), second = launch(r, 1, 3);
    end_life(r);
    begin_life(r);
    assert_int_equal(children_count(r->c), 2);
    assert_int_equal(children_find(r->c, ROLE_WORKER, 0, 3)->pid, first);
    assert_int_equal(children_find(r->c, ROLE_WORKER, 1, 3)->pid, second);
    assert_int_equal(r->c->gang_launched, 3);
    assert_int_equal(r->c->death_count, 0);
    children_kill(children_find(r->c, ROLE_WORKER, 1, 3));
    loop_run(r->loop);
    assert_int_equal(r->killed_ends, 1);
    assert_int_equal(children_count(r->c), 1);
    assert_null(children_death(r->c, rank(1, 3)));   /* our own doing is no news */
}

static void a_death_while_nobody_watched_is_found(void **state)
{
    struct room *r = *state;
    pid_t pid = launch(r, 0, 2);
    end_life(r);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    begin_life(r);
    assert_int_equal(children_count(r->c), 0);
    assert_int_equal(r->c->gang_launched, 2);
    assert_non_null(children_death(r->c, rank(0, 2)));
    end_life(r);
    begin_life(r);                                   /* and the agent after that one knows it too */
    assert_non_null(children_death(r->c, rank(0, 2)));
    assert_int_equal(r->c->gang_launched, 2);
}

static void another_process_with_the_same_pid_is_not_adopted(void **state)
{
    struct room *r = *state;
    pid_t pid = launch(r, 0, 1);
    char line[100];
    struct err e = ERR_INIT;
    int n = snprintf(line, sizeof line, "alive %d 0 0 1 %d %llu\n", ROLE_WORKER, (int)pid, (unsigned long long)process_start_ticks(pid) + 1);
    assert_ok(fs_write_file(&fs_real, r->c->record_path, line, (size_t)n, &e));
    end_life(r);
    begin_life(r);
    assert_int_equal(children_count(r->c), 0);
    assert_non_null(children_death(r->c, rank(0, 1)));
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

/* The subreaper has taken an adopted process's end, and its number is another's, before the agent looks. */
static void only_the_process_itself_is_killed(void **state)
{
    struct room *r = *state;
    pid_t pid = launch(r, 0, 1);
    end_life(r);
    begin_life(r);
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    struct clone_args same = {.exit_signal = SIGCHLD, .set_tid = (uint64_t)(uintptr_t)&pid, .set_tid_size = 1};
    pid_t another = (pid_t)syscall(SYS_clone3, &same, sizeof same);
    if (another == 0) {
        pause();
        _exit(0);
    }
    if (another < 0) {
        test_skip("this user may not choose the number of a process");
        return;
    }
    assert_int_equal(another, pid);
    children_kill(children_find(r->c, ROLE_WORKER, 0, 1));
    siginfo_t info = {0};
    assert_int_equal(kill(another, SIGSTOP), 0);
    assert_int_equal(waitid(P_PID, (id_t)another, &info, WSTOPPED | WEXITED | WNOWAIT), 0);
    int what = info.si_code;
    kill(another, SIGKILL);
    assert_int_equal(waitpid(another, NULL, 0), another);
    assert_int_equal(what, CLD_STOPPED);
    loop_run(r->loop);
    assert_int_equal(r->killed_ends, 1);
}

static void a_mark_outlives_an_agent_that_died_before_the_launch(void **state)
{
    struct room *r = *state;
    struct err e = ERR_INIT;
    assert_ok(children_mark(r->c, ROLE_PS, 5, 7, &e));
    assert_ok(children_mark(r->c, ROLE_PS, 5, 4, &e));   /* an older one changes nothing */
    end_life(r);
    begin_life(r);
    assert_int_equal(r->c->slot_launched[5], 7);
    assert_int_equal(r->c->slot_launched[4], 0);
    assert_int_equal(r->c->gang_launched, 0);
}

static bool older_than_nine(void *arg, const struct process_id *who)
{
    (void)arg;
    return who->instance < 9;
}

static void deaths_stay_until_they_are_over(void **state)
{
    struct room *r = *state;
    struct msg_exited old = {.who = rank(0, 8), .code = 3}, new = {.who = rank(0, 9), .code = -1, .signal = 9};
    snprintf(old.text, sizeof old.text, "viaduct: worker: two words  and a gap");
    children_remember_death(r->c, &old);
    children_remember_death(r->c, &old);
    children_remember_death(r->c, &new);
    assert_int_equal(r->c->death_count, 2);
    end_life(r);
    begin_life(r);
    assert_int_equal(r->c->death_count, 2);
    assert_string_equal(children_death(r->c, rank(0, 8))->text, old.text);
    assert_int_equal(children_death(r->c, rank(0, 8))->code, 3);
    assert_int_equal(children_death(r->c, rank(0, 9))->signal, 9);
    children_forget(r->c, older_than_nine, NULL);
    end_life(r);
    begin_life(r);
    assert_int_equal(r->c->death_count, 1);
    assert_null(children_death(r->c, rank(0, 8)));
}

static void a_failing_child_is_told_with_code_and_last_words(void **state)
{
    struct room *r = *state;
    write_program(r, "#!/bin/sh\necho first >&2\necho 'viaduct: worker: no luck' >&2\nexit 3\n");
    launch(r, 0, 1);
    loop_run(r->loop);
    assert_int_equal(r->ends, 1);
    assert_int_equal(r->killed_ends, 0);
    assert_int_equal(r->last.code, 3);
    assert_string_equal(r->last.text, "no luck");
    assert_int_equal(children_death(r->c, rank(0, 1))->code, 3);
}

static void ranks_of_ones_own_find_themselves_in_the_environment(void **state)
{
    struct room *r = *state;
    char path[100], wanted[300];
    void *bytes = NULL;
    size_t size = 0;
    struct err e = ERR_INIT;
    write_program(r, "#!/bin/sh\necho \"$# $VIADUCT_RUN $VIADUCT_SITE $VIADUCT_RANK $VIADUCT_INCARNATION $VIADUCT_AGENT_SOCKET\" >\"$VIADUCT_RUN/said\"\n");
    launch(r, 1, 6);
    loop_run(r->loop);
    assert_int_equal(r->last.code, 0);
    snprintf(path, sizeof path, "%s/said", r->dir);
    snprintf(wanted, sizeof wanted, "0 %s a 1 6 %s/door\n", r->dir, r->dir);
    assert_ok(fs_read_file(&fs_real, path, 1000, &bytes, &size, &e));
    assert_string_equal((const char *)bytes, wanted);
    free(bytes);
}

static void a_program_that_cannot_be_started_is_an_error_here(void **state)
{
    struct room *r = *state;
    struct err e = ERR_INIT;
    r->c->worker_program = "/nonexistent/program";
    assert_true(children_launch(r->c, rank(0, 1), NULL, &e) < 0);
    assert_non_null(strstr(e.text, "/nonexistent/program"));
    assert_int_equal(children_count(r->c), 0);
}

static bool is_four(void *arg, uint32_t incarnation)
{
    (void)arg;
    return incarnation == 4;
}

static bool segment_exists(const char *name)
{
    int fd = shm_open(name, O_RDWR, 0600);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

static void make_segment(const char *name)
{
    int fd = shm_open(name, O_RDWR | O_CREAT, 0600);
    assert_true(fd >= 0);
    close(fd);
}

static void memory_of_dead_gangs_goes_and_of_living_ones_stays(void **state)
{
    (void)state;
    char job[40], name[5][100];
    snprintf(job, sizeof job, "feed%08x", (unsigned)getpid());
    static const char *const tails[] = {"a-3-0", "a-4-1-h2", "a-ram-0", "a-3-4-1", "a-ram-63"};
    for (unsigned i = 0; i < 5; i++) {
        snprintf(name[i], sizeof name[i], "/viaduct-%s-%s", job, tails[i]);
        make_segment(name[i]);
    }
    segments_sweep(job, "a", -1, is_four, NULL);
    assert_false(segment_exists(name[0]));
    for (unsigned i = 1; i < 5; i++)
        assert_true(segment_exists(name[i]));
    segments_end_gang(job, "a", -1, 4);
    segments_end_run(job, "a", 0, LANES_MAX);
    assert_false(segment_exists(name[1]));
    assert_false(segment_exists(name[2]));
    assert_true(segment_exists(name[3]));            /* another site's */
    assert_false(segment_exists(name[4]));
    shm_unlink(name[3]);
}

static void the_door_closes_with_its_agent_and_opens_again(void **state)
{
    struct room *r = *state;
    struct err e = ERR_INIT;
    for (unsigned life = 0; life < 2; life++) {
        struct door *d;
        struct sockaddr_un a = {.sun_family = AF_UNIX};
        char byte;
        snprintf(a.sun_path, sizeof a.sun_path, "%s", r->c->socket_path);
        assert_ok(door_open(r->c->socket_path, &d, &e));
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
        assert_int_equal(recv(fd, &byte, 1, MSG_DONTWAIT), -1);
        door_close(d);
        assert_true(recv(fd, &byte, 1, 0) <= 0);     /* a reset when the guest still waited to be let in */
        close(fd);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_next_agent_adopts_who_lives, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_death_while_nobody_watched_is_found, set_up, tear_down),
        cmocka_unit_test_setup_teardown(another_process_with_the_same_pid_is_not_adopted, set_up, tear_down),
        cmocka_unit_test_setup_teardown(only_the_process_itself_is_killed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_mark_outlives_an_agent_that_died_before_the_launch, set_up, tear_down),
        cmocka_unit_test_setup_teardown(deaths_stay_until_they_are_over, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_failing_child_is_told_with_code_and_last_words, set_up, tear_down),
        cmocka_unit_test_setup_teardown(ranks_of_ones_own_find_themselves_in_the_environment, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_program_that_cannot_be_started_is_an_error_here, set_up, tear_down),
        cmocka_unit_test(memory_of_dead_gangs_goes_and_of_living_ones_stays),
        cmocka_unit_test_setup_teardown(the_door_closes_with_its_agent_and_opens_again, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
