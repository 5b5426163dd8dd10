/* report.json: what was not produced is null, what the export wrote is merged, the book of restarts outlives a process, odd text does not spoil it. */
#include "tests/unit/unit.h"

#include <jansson.h>
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "report/report.h"

static char dir[64];

static int set_up(void **state)
{
    char path[128];
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/viaduct-report-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof path, "%s/export", dir);
    return mkdir(path, 0700);
}

static int tear_down(void **state)
{
    static const char *const files[] = {"export/result.json", "export", "report.json", "lines", ""};
    char path[128];
    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(files); i++) {
        snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        remove(path);
    }
    return access(dir, F_OK) == 0 ? -1 : 0;
}

static json_t *read_file(const char *name)
{
    char path[128];
    json_error_t where;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    json_t *j = json_load_file(path, 0, &where);
    if (!j)
        fail_msg("%s: %s at line %d", path, where.text, where.line);
    return j;
}

static json_t *at(json_t *j, const char *a, const char *b)
{
    json_t *v = json_object_get(j, a);
    assert_non_null(v);
    if (!b)
        return v;
    v = json_object_get(v, b);
    assert_non_null(v);
    return v;
}

static struct report bare(const char *status)
{
    return (struct report){.name = "job", .status = status, .epochs = NAN, .wall_seconds = 1.5, .samples_per_second = INFINITY, .site_count = 2, .lanes = 8,
                           .site = {{"onprem", 2}, {"cloud", 1}}, .train_loss = NAN};
}

static void nothing_yet_is_null(void **state)
{
    struct err e = ERR_INIT;
    struct report r = bare("running");
    struct restarts *b = restarts_open(dir, true);
    (void)state;
    assert_ok(report_write(dir, &r, b, &e));
    restarts_close(b);
    json_t *j = read_file("report.json");
    assert_string_equal(json_string_value(at(j, "status", NULL)), "running");
    assert_null(json_object_get(j, "error"));
    static const char *const nulls[][2] = {{"epochs", NULL}, {"samples_per_second", NULL}, {"final", "train_loss"}, {"final", "eval_loss"}, {"final", "eval_accuracy"},
                                           {"planned_steps", NULL}, {"wan", "bytes_sent"}, {"weights_sha256", NULL}, {"state_sha256", NULL}, {"ledger", NULL}, {"checkpoint", NULL}, {"export", "float"},
                                           {"export", "quantized"}, {"export", "gate"}, {"lineage", "spec_sha256"}, {"lineage", "data_sha256"}};
    for (unsigned i = 0; i < ARRAY_LEN(nulls); i++)
        if (!json_is_null(at(j, nulls[i][0], nulls[i][1])))
            fail_msg("%s.%s is not null", nulls[i][0], nulls[i][1] ? nulls[i][1] : "");
    assert_int_equal(json_integer_value(at(j, "world", "ranks")), 3);
    assert_int_equal(json_array_size(at(j, "world", "sites")), 2);
    assert_int_equal(json_array_size(at(j, "restarts", NULL)), 0);
    assert_string_equal(json_string_value(at(at(j, "lineage", NULL), "versions", "viaduct")), VIADUCT_VERSION);
    json_decref(j);
}

static void results_are_merged(void **state)
{
    struct err e = ERR_INIT;
    struct report r = bare("failed");
    static const char result[] = "{\"eval_loss\": 0.25, \"eval_accuracy\": 0.9, \"weights_sha256\": \"ab\", \"state_sha256\": \"cd\","
                                 " \"export\": {\"float\": {\"path\": \"export/model.onnx\"}, \"quantized\": null, \"gate\": null}}";
    char path[128];
    (void)state;
    snprintf(path, sizeof path, "%s/export/result.json", dir);
    assert_ok(fs_write_file(&fs_real, path, result, strlen(result), &e));
    r.error = "the disk of cloud \xff is full";
    r.error_code = "io";
    r.train_loss = 0.5;
    r.have_ledger = true;
    r.passes = 2;
    r.have_checkpoint = true;
    r.checkpoint_step = 40;
    r.checkpoint_sites = 2;
    snprintf(r.checkpoint_path, sizeof r.checkpoint_path, "ckpt/cloud/step-00000040");
    struct restarts *b = restarts_open(dir, false);
    assert_ok(report_write(dir, &r, b, &e));
    restarts_close(b);
    json_t *j = read_file("report.json");
    assert_string_equal(json_string_value(at(j, "error", NULL)), "the disk of cloud ? is full");
    assert_string_equal(json_string_value(at(j, "error_code", NULL)), "io");
    assert_true(json_real_value(at(j, "final", "eval_accuracy")) == 0.9);
    assert_true(json_real_value(at(j, "final", "train_loss")) == 0.5);
    assert_string_equal(json_string_value(at(j, "weights_sha256", NULL)), "ab");
    assert_string_equal(json_string_value(at(at(j, "export", NULL), "float", "path")), "export/model.onnx");
    assert_int_equal(json_integer_value(at(j, "ledger", "passes")), 2);
    assert_int_equal(json_array_size(at(j, "checkpoint", "verified_sites")), 1);
    assert_string_equal(json_string_value(json_array_get(at(j, "checkpoint", "verified_sites"), 0)), "cloud");
    json_decref(j);
}

static void restarts_outlive_a_process(void **state)
{
    struct err e = ERR_INIT;
    struct report r = bare("running");
    (void)state;
    r.have_wan = true;
    r.wan_bytes_sent = 1000;
    struct restarts *b = restarts_open(dir, false);
    restarts_died(b, "worker onprem/1", 7, "killed by signal 9", 1000);
    restarts_died(b, "ps cloud/0", 8, "odd \xc3 words", 1200);
    restarts_lost(b, 3);
    restarts_back(b, "worker onprem/0", 1300);
    restarts_back(b, "worker onprem/1", 1500);
    assert_ok(report_write(dir, &r, b, &e));
    restarts_close(b);
    b = restarts_open(dir, true);
    assert_true(restarts_wall_before(b) == 1.5);
    uint64_t wan = 0;
    assert_true(restarts_wan_before(b, &wan));
    assert_int_equal(wan, 1000);
    restarts_died(b, "coordinator", 9, "killed or crashed", 100);
    assert_ok(report_write(dir, &r, b, &e));
    restarts_close(b);
    json_t *j = read_file("report.json"), *list = at(j, "restarts", NULL);
    assert_int_equal(json_array_size(list), 3);
    json_t *first = json_array_get(list, 0), *second = json_array_get(list, 1);
    assert_string_equal(json_string_value(at(first, "who", NULL)), "worker onprem/1");
    assert_true(json_real_value(at(first, "seconds", NULL)) == 0.5);
    assert_int_equal(json_integer_value(at(first, "lost_steps", NULL)), 0);
    assert_string_equal(json_string_value(at(second, "cause", NULL)), "odd ? words");
    assert_int_equal(json_integer_value(at(second, "lost_steps", NULL)), 3);
    assert_true(json_is_null(at(second, "seconds", NULL)));
    assert_string_equal(json_string_value(at(json_array_get(list, 2), "who", NULL)), "coordinator");
    json_decref(j);
}

static void a_death_that_ends_the_run_has_lost_steps(void **state)
{
    struct restarts *b = restarts_open(dir, false);
    struct report r = bare("failed");
    struct err e = ERR_INIT;
    (void)state;
    restarts_unmended(b, 5);                              /* nobody died */
    restarts_died(b, "worker onprem/0", 7, "killed by signal 9", 1000);
    restarts_back(b, "worker onprem/0", 1500);
    restarts_unmended(b, 6);                              /* it came back */
    restarts_died(b, "worker onprem/1", 31, "killed by signal 9", 2000);
    restarts_unmended(b, 11);
    assert_ok(report_write(dir, &r, b, &e));
    restarts_close(b);
    json_t *j = read_file("report.json"), *list = at(j, "restarts", NULL);
    assert_int_equal(json_array_size(list), 2);
    assert_int_equal(json_integer_value(at(json_array_get(list, 0), "lost_steps", NULL)), 0);
    assert_int_equal(json_integer_value(at(json_array_get(list, 1), "lost_steps", NULL)), 11);
    json_decref(j);
}

static void a_report_that_nobody_ended_is_closed(void **state)
{
    struct err e = ERR_INIT;
    struct report r = bare("running");
    (void)state;
    assert_ok(report_close(dir, "job", "stopped", NULL, &e));   /* nothing was written at all */
    json_t *j = read_file("report.json");
    assert_string_equal(json_string_value(at(j, "status", NULL)), "stopped");
    assert_true(json_is_null(at(j, "checkpoint", NULL)) && json_is_null(at(j, "samples_per_second", NULL)));
    json_decref(j);
    struct restarts *b = restarts_open(dir, false);
    r.steps = 31;
    assert_ok(report_write(dir, &r, b, &e));
    assert_ok(report_close(dir, "job", "failed", "its coordinator is gone", &e));
    j = read_file("report.json");
    assert_string_equal(json_string_value(at(j, "status", NULL)), "failed");
    assert_string_equal(json_string_value(at(j, "error", NULL)), "its coordinator is gone");
    assert_true(json_is_null(at(j, "error_code", NULL)));
    assert_int_equal(json_integer_value(at(j, "steps", NULL)), 31);
    json_decref(j);
    r.status = "completed";
    assert_ok(report_write(dir, &r, b, &e));
    assert_ok(report_close(dir, "job", "stopped", NULL, &e));   /* it had ended by itself */
    restarts_close(b);
    j = read_file("report.json");
    assert_string_equal(json_string_value(at(j, "status", NULL)), "completed");
    json_decref(j);
}

static void a_renewed_result_is_merged_and_numbers_are_short(void **state)
{
    struct err e = ERR_INIT;
    struct report r = bare("completed");
    char path[128], text[8192] = "";
    (void)state;
    r.train_loss = 0.1 + 0.2;
    struct restarts *b = restarts_open(dir, false);
    assert_ok(report_write(dir, &r, b, &e));
    restarts_close(b);
    assert_int_equal(report_renew(dir, &e), ERR_CORRUPT);       /* there is no result yet */
    snprintf(path, sizeof path, "%s/export/result.json", dir);
    static const char result[] = "{\"eval_loss\": 0.25, \"eval_accuracy\": 0.90000000000000002, \"weights_sha256\": \"a 1.50 b\\\"2.50\", \"state_sha256\": \"cd\"}";
    assert_ok(fs_write_file(&fs_real, path, result, strlen(result), &e));
    assert_ok(report_renew(dir, &e));
    snprintf(path, sizeof path, "%s/report.json", dir);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    assert_true(fread(text, 1, sizeof text - 1, f) > 0);
    fclose(f);
    assert_non_null(strstr(text, "\"eval_accuracy\": 0.9,\n") ? text : strstr(text, "\"eval_accuracy\": 0.9\n"));
    assert_non_null(strstr(text, "\"train_loss\": 0.30000000000000004"));
    assert_non_null(strstr(text, "a 1.50 b\\\"2.50"));           /* texts stay as they are */
    assert_non_null(strstr(text, "\"status\": \"completed\""));
}

static void lines_are_json(void **state)
{
    char path[128], line[4000];
    (void)state;
    snprintf(path, sizeof path, "%s/lines", dir);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    report_event(f, "dead", "worker onprem/0", 12, "it said \"no\"\nand \\ left");
    struct metric m = {.step = 13, .epoch = 2, .loss = 0.25, .lr = 1e-3, .samples = 256, .seconds = 1.25, .accuracy = NAN, .part = {0.5, 0.25, 0.125, NAN, 0},
                       .part_max = {0.75, 0.5, 0.25, NAN, 0}};
    report_metric(f, &m);
    fclose(f);
    f = fopen(path, "r");
    assert_non_null(f);
    assert_non_null(fgets(line, sizeof line, f));
    json_t *j = json_loads(line, 0, NULL);
    assert_string_equal(json_string_value(at(j, "text", NULL)), "it said \"no\"\nand \\ left");
    assert_string_equal(json_string_value(at(j, "event", NULL)), "dead");
    assert_int_equal(json_integer_value(at(j, "step", NULL)), 12);
    json_decref(j);
    assert_non_null(fgets(line, sizeof line, f));
    j = json_loads(line, 0, NULL);
    assert_int_equal(json_integer_value(at(j, "epoch", NULL)), 2);
    assert_true(json_real_value(at(j, "loss", NULL)) == 0.25);
    assert_true(json_real_value(at(j, "compute_seconds", NULL)) == 0.5 && json_real_value(at(j, "compute_max_seconds", NULL)) == 0.75);
    assert_true(json_is_null(at(j, "data_seconds", NULL)) && json_is_null(at(j, "accuracy", NULL)));
    json_decref(j);
    struct metric again;
    assert_true(metric_read(line, &again));
    assert_true(again.step == 13 && again.epoch == 2 && again.samples == 256 && again.loss == 0.25 && again.seconds == 1.25 && again.part[1] == 0.25);
    assert_true(isnan(again.part[3]) && isnan(again.accuracy) && again.part_max[0] == 0.75 && again.part[4] == 0);
    assert_false(metric_read("{\"step\":13,\"epoch\":2,\"loss\":0.2", &again));
    assert_false(metric_read("", &again));
    fclose(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(nothing_yet_is_null, set_up, tear_down),
        cmocka_unit_test_setup_teardown(results_are_merged, set_up, tear_down),
        cmocka_unit_test_setup_teardown(restarts_outlive_a_process, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_death_that_ends_the_run_has_lost_steps, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_report_that_nobody_ended_is_closed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_renewed_result_is_merged_and_numbers_are_short, set_up, tear_down),
        cmocka_unit_test_setup_teardown(lines_are_json, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
