/* A site that lacks a checkpoint fetches it from one that has it: a damaged copy is passed over and named, and ends nothing while another is whole. */
#include <unistd.h>

#include "agent/publish.h"
#include "tests/unit/ckpt/sample.h"
#include "tests/unit/unit.h"

enum { STEP = 400 };

struct room {
    char dir[64], log_path[96];
    struct log log;
    struct loop *loop;
    struct job_spec spec;
    char *manifest;
    size_t size;
    struct msg_published told;
};

static void on_done(void *arg, const struct msg_published *m)
{
    struct room *r = arg;
    r->told = *m;
    loop_stop(r->loop);
}

static void on_limit(void *arg) { loop_stop(((struct room *)arg)->loop); }

static int set_up(void **state)
{
    struct room *r = calloc(1, sizeof *r);
    struct sample s;
    struct err e = ERR_INIT;
    struct ckpt_manifest m;
    snprintf(r->dir, sizeof r->dir, "/tmp/viaduct-test-XXXXXX");
    assert_non_null(mkdtemp(r->dir));
    snprintf(r->log_path, sizeof r->log_path, "%s/log", r->dir);
    assert_int_equal(log_open(&r->log, r->log_path, "test", ""), 0);
    r->log.stderr_level = LOG_ERROR;
    assert_ok(loop_new(&r->loop, &e));
    r->spec = (struct job_spec){.batch = 1, .steps = STEP, .site_count = 3, .sites = {{.name = "a"}, {.name = "b"}, {.name = "c"}}};
    assert_ok(sample_open(&s, STEP, &e));
    for (char site = 'a'; site <= 'b'; site++) {
        char dir[160];
        snprintf(dir, sizeof dir, "%s/ckpt/%c/step-%08d", r->dir, site, STEP);
        assert_ok(fs_mkdirs(&fs_real, dir, &e));
        assert_ok(sample_write(&s, &fs_real, dir, &e));
        assert_ok(ckpt_open(&fs_real, dir, &m, &e));
        free(r->manifest);
        assert_ok(ckpt_manifest_encode(&m, &r->manifest, &r->size, &e));
        ckpt_manifest_fini(&m);
    }
    sample_close(&s);
    *state = r;
    return 0;
}

static int tear_down(void **state)
{
    struct room *r = *state;
    char command[128];
    loop_free(r->loop);
    log_close(&r->log);
    snprintf(command, sizeof command, "rm -rf '%s'", r->dir);
    assert_int_equal(system(command), 0);
    free(r->manifest);
    free(r);
    return 0;
}

static void damage(struct room *r, char site)
{
    char path[200];
    snprintf(path, sizeof path, "%s/ckpt/%c/step-%08d/part-0001-%08d-00.h5", r->dir, site, STEP, STEP);
    assert_int_equal(truncate(path, 5), 0);
}

/* Site c has nothing. */
static void publish(struct room *r)
{
    struct err e = ERR_INIT;
    struct publisher *p;
    assert_ok(publisher_open(r->loop, &r->log, r->dir, "c", 2, &r->spec, on_done, r, &p, &e));
    publisher_ask(p, &(struct msg_manifest){.generation = 1, .step = STEP, .site_mask = 3}, r->manifest, r->size);
    struct timer *limit = timer_start(r->loop, 300000, 0, on_limit, r);   /* only a hang meets it */
    loop_run(r->loop);
    timer_stop(limit);
    publisher_close(p);
}

static void a_damaged_copy_is_passed_over(void **state)
{
    struct room *r = *state;
    struct err e = ERR_INIT;
    void *said;
    size_t size;
    damage(r, 'a');
    publish(r);
    if (!r->told.ok)
        fail_msg("%s", r->told.text);
    assert_ok(fs_read_file(&fs_real, r->log_path, 1 << 20, &said, &size, &e));
    assert_non_null(memmem(said, size, "the copy of site a cannot be taken", 34));
    free(said);
}

static void without_a_whole_copy_the_damage_is_told(void **state)
{
    struct room *r = *state;
    damage(r, 'a');
    damage(r, 'b');
    publish(r);
    assert_false(r->told.ok);
    assert_non_null(strstr(r->told.text, "is damaged"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_damaged_copy_is_passed_over, set_up, tear_down),
        cmocka_unit_test_setup_teardown(without_a_whole_copy_the_damage_is_told, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("publish", tests, NULL, NULL);
}
