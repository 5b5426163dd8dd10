/* The decision log: order, fencing, kill -9 at any moment, damage, latency while both cores compute (printed, not judged). */
#include "tests/unit/unit.h"

#include <pthread.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "coordinator/log.h"

static const struct decision_log_ops *const ops = &decision_log_sqlite;
static char dir[64], path[128];

static int set_up(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/viaduct-log-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof path, "%s/log.db", dir);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    char command[100];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}

static struct log_entry commit_of(uint64_t round)
{
    struct log_entry e = {.kind = LOG_COMMIT};
    e.u.record = (struct record){.round = round, .generation = 1, .view = 2, .count = 256, .lr = 0.5f, .clip = 1, .cover_count = 1};
    e.u.record.cover[0] = (struct name){{0, 8}, 0};
    return e;
}

struct seen { uint64_t count, blobs; bool in_order; };
static int see(void *arg, const struct log_entry *e, const void *blob, size_t blob_size, struct err *err)
{
    struct seen *s = arg;
    (void)err;
    s->in_order = s->in_order && e->position == s->count && (e->kind != LOG_COMMIT || e->u.record.round == s->count) &&
                  (e->kind != LOG_COMMIT || e->u.record.cover[0].lanes.hi == 8);
    s->blobs += blob_size == 5 && memcmp(blob, "hello", 5) == 0;
    s->count++;
    return 0;
}

static void test_append_and_replay(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct decision_log *l;
    uint64_t leader, at, below;
    assert_ok(ops->open(path, &l, &e));
    assert_ok(ops->take_over(l, &leader, &e));
    for (uint64_t i = 0; i < 50; i++) {
        struct log_entry c = commit_of(i);
        assert_ok(ops->append(l, &c, i == 7 ? "hello" : NULL, i == 7 ? 5 : 0, i % 10 == 9, &at, &e));
        assert_int_equal(at, i);
    }
    assert_ok(ops->sync(l, &below, &e));
    assert_int_equal(below, 50);
    struct log_entry end = {.kind = LOG_END, .u.end = {.why = STOP_FINISHED, .text = "done"}};
    assert_ok(ops->append(l, &end, NULL, 0, true, &at, &e));
    struct log_entry ck = {.kind = LOG_CHECKPOINT, .u.checkpoint = {.generation = 1, .step = 40, .site_mask = 3, .part_count = 1}};
    assert_ok(ops->append(l, &ck, NULL, 0, true, &at, &e));
    ops->close(l);
    struct seen s = {.in_order = true};
    assert_ok(ops->open(path, &l, &e));
    assert_ok(ops->replay(l, see, &s, &e));
    assert_true(s.in_order && s.count == 52 && s.blobs == 1);
    ops->close(l);
}

static void test_older_leader_may_not_append(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct decision_log *a, *b;
    uint64_t first, second, at;
    struct log_entry c = commit_of(0);
    assert_ok(ops->open(path, &a, &e));
    assert_ok(ops->take_over(a, &first, &e));
    assert_ok(ops->append(a, &c, NULL, 0, true, &at, &e));
    assert_ok(ops->open(path, &b, &e));
    assert_ok(ops->take_over(b, &second, &e));
    assert_int_equal(second, first + 1);
    c = commit_of(1);
    assert_int_equal(ops->append(a, &c, NULL, 0, true, &at, &e), ERR_CONFLICT);
    assert_non_null(strstr(e.text, "newer coordinator"));
    assert_ok(ops->append(b, &c, NULL, 0, true, &at, &e));
    assert_int_equal(at, 1);
    assert_int_equal(ops->append(a, &c, NULL, 0, false, &at, &e), ERR_CONFLICT);
    ops->close(a);
    ops->close(b);
}

/* A child appends and says in shared memory what append and sync have returned; it is killed at a random moment; nothing that was said may be missing. */
static void test_kill_at_any_moment(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct test_random r = {test_seed(), 0};
    atomic_ulong *said = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (int turn = 0; turn < 200 || (turn < 3000 && atomic_load(said) <= 200); turn++) {   /* more on a machine that lets a child do little in its time */
        pid_t pid = fork();
        if (pid == 0) {
            struct decision_log *l;
            uint64_t leader, at, below;
            struct seen s = {.in_order = true};
            if (ops->open(path, &l, &e) < 0 || ops->take_over(l, &leader, &e) < 0 || ops->replay(l, see, &s, &e) < 0)
                _exit(3);
            for (uint64_t i = s.count;; i++) {
                struct log_entry c = commit_of(i);
                if (ops->append(l, &c, NULL, 0, i % 7 == 0, &at, &e) < 0 || (i % 16 == 0 && ops->sync(l, &below, &e) < 0))
                    _exit(4);
                atomic_store(said, i + 1);
            }
        }
        usleep(1000 + test_u32(&r) % 12000);
        kill(pid, SIGKILL);
        int status;
        waitpid(pid, &status, 0);
        assert_true(WIFSIGNALED(status));
    }
    struct decision_log *l;
    struct seen s = {.in_order = true};
    assert_ok(ops->open(path, &l, &e));
    assert_ok(ops->replay(l, see, &s, &e));
    assert_true(s.in_order);
    if (s.count < atomic_load(said))
        fail_msg("%llu entries were acknowledged, %llu are there", (unsigned long long)atomic_load(said), (unsigned long long)s.count);
    assert_true(s.count > 200);
    ops->close(l);
    munmap((void *)said, 4096);
}

/* A cut WAL ends the log at a whole entry; a flipped byte in the body is named. */
static void test_cut_tail_and_damage(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    char command[1000], copy[140];
    uint64_t leader, at;
    pid_t pid = fork();
    if (pid == 0) {   /* killed, so that the WAL stays */
        struct decision_log *l;
        if (ops->open(path, &l, &e) < 0 || ops->take_over(l, &leader, &e) < 0)
            _exit(3);
        for (uint64_t i = 0; i < 40; i++) {
            struct log_entry c = commit_of(i);
            if (ops->append(l, &c, NULL, 0, true, &at, &e) < 0)
                _exit(4);
        }
        kill(getpid(), SIGKILL);
    }
    int status;
    waitpid(pid, &status, 0);
    assert_true(WIFSIGNALED(status));
    snprintf(copy, sizeof copy, "%s/copy.db", dir);
    uint64_t last = 0;
    for (int cut = 0; cut < 30; cut++) {
        snprintf(command, sizeof command, "cp %s %s && cp %s-wal %s-wal && rm -f %s-shm && truncate -s -%d %s-wal", path, copy, path, copy, copy, cut * 1500, copy);
        assert_int_equal(system(command), 0);
        struct decision_log *l;
        struct seen s = {.in_order = true};
        assert_ok(ops->open(copy, &l, &e));
        assert_ok(ops->replay(l, see, &s, &e));
        assert_true(s.in_order && s.count <= 40 && (cut > 0 || s.count == 40));
        assert_true(cut == 0 || s.count <= last);
        last = s.count;
        ops->close(l);
    }
    assert_true(last < 40);
    struct decision_log *l;
    assert_ok(ops->open(path, &l, &e));
    ops->close(l);   /* the WAL goes into the file */
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "UPDATE entry SET body = zeroblob(length(body)) WHERE position = 17", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    struct seen s = {.in_order = true};
    assert_ok(ops->open(path, &l, &e));
    assert_int_equal(ops->replay(l, see, &s, &e), ERR_CORRUPT);
    assert_non_null(strstr(e.text, "entry 17"));
    assert_int_equal(s.count, 17);
    ops->close(l);
    FILE *f = fopen(path, "wb");
    fputs("this is no database, and it is longer than a header of one hundred bytes, as it should be to be looked at closely......", f);
    fclose(f);
    assert_int_equal(ops->open(path, &l, &e), ERR_CORRUPT);
}

static atomic_bool stop;
static void *burn(void *arg)
{
    volatile double x = 1;
    while (!atomic_load(&stop))
        x = x * 1.0000001;
    return arg;
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void test_latency_is_printed(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    for (int busy = 0; busy < 2; busy++) {
        pthread_t thread[2];
        atomic_store(&stop, false);
        for (int i = 0; i < 2 && busy; i++)
            pthread_create(&thread[i], NULL, burn, NULL);
        struct decision_log *l;
        uint64_t leader, at, ns[2][200];
        assert_ok(ops->open(path, &l, &e));
        assert_ok(ops->take_over(l, &leader, &e));
        for (int sync = 0; sync < 2; sync++)
            for (uint64_t i = 0; i < 200; i++) {
                struct log_entry c = commit_of(i);
                uint64_t begin = clock_now_ns();
                assert_ok(ops->append(l, &c, NULL, 0, sync, &at, &e));
                ns[sync][i] = clock_now_ns() - begin;
            }
        ops->close(l);
        for (int i = 0; i < 2; i++) {
            atomic_store(&stop, true);
            if (busy)
                pthread_join(thread[i], NULL);
            qsort(ns[i], 200, sizeof ns[i][0], by_value);
        }
        fprintf(stderr, "# %s: append %.3f ms median %.3f p99; with sync %.3f median %.3f p99\n", busy ? "both cores busy" : "idle", (double)ns[0][100] / 1e6,
                (double)ns[0][197] / 1e6, (double)ns[1][100] / 1e6, (double)ns[1][197] / 1e6);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_append_and_replay, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_older_leader_may_not_append, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_kill_at_any_moment, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_cut_tail_and_damage, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_latency_is_printed, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("decision log", tests, NULL, NULL);
}
