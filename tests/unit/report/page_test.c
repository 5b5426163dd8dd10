/* The run page without a browser: nothing a run says ends the data or becomes markup, the size has a bound, what is missing stops nothing. */
#include "tests/unit/unit.h"

#include <math.h>
#include <unistd.h>

#include "report/report.h"

#define HOSTILE "</script><script>x&y<!--"

static char dir[64];

static int set_up(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/viaduct-page-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int tear_down(void **state)
{
    static const char *const files[] = {"report.json", "report.html", "metrics.jsonl", "events.jsonl", "topology.json", ""};
    char path[128];
    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(files); i++) {
        snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        remove(path);
    }
    return access(dir, F_OK) == 0 ? -1 : 0;
}

static FILE *create(const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    return f;
}

static void put_report(void)
{
    struct err e = ERR_INIT;
    struct restarts *b = restarts_open(dir, false);
    struct report r = {.name = HOSTILE, .status = "failed", .error = HOSTILE, .epochs = NAN, .wall_seconds = 1, .samples_per_second = NAN, .site_count = 1, .lanes = 8,
                       .site = {{HOSTILE, 2}}, .train_loss = NAN};
    for (unsigned i = 0; i < 400; i++)
        restarts_died(b, HOSTILE HOSTILE, i, HOSTILE HOSTILE HOSTILE HOSTILE HOSTILE HOSTILE HOSTILE HOSTILE HOSTILE HOSTILE HOSTILE HOSTILE HOSTILE HOSTILE HOSTILE, 1);
    assert_ok(report_write(dir, &r, b, &e));
    restarts_close(b);
}

static char *page(size_t *size)
{
    struct err e = ERR_INIT;
    char path[128];
    void *text;
    assert_ok(page_write(dir, &e));
    snprintf(path, sizeof path, "%s/report.html", dir);
    assert_ok(fs_read_file(&fs_real, path, 1 << 20, &text, size, &e));
    return text;
}

static unsigned times_in(const char *text, const char *what)
{
    unsigned n = 0;
    for (const char *p = text; (p = strstr(p, what)); p++)
        n++;
    return n;
}

static void a_long_run_of_hostile_words(void **state)
{
    size_t size;
    (void)state;
    put_report();
    FILE *f = create("metrics.jsonl");
    for (unsigned i = 1; i <= 30000; i++) {
        struct metric m = {.step = i, .epoch = 1 + i / 100, .samples = 256, .loss = i == 12345 ? 77.5 : 1.0 / i + 0.123456, .lr = 0.01, .seconds = i * 0.04, .accuracy = 0.5,
                           .part = {0.0312345, 0.00412345, 0.0123456, 1e-6, 0}, .part_max = {0.0412345, 0.00512345, 0.0223456, 1e-6, 0}};
        report_metric(f, &m);
    }
    fputs("{\"step\":30001,\"epo", f);
    fclose(f);
    f = create("events.jsonl");
    for (unsigned i = 0; i < 2000; i++)
        report_event(f, HOSTILE, HOSTILE, i, HOSTILE HOSTILE HOSTILE HOSTILE HOSTILE HOSTILE HOSTILE HOSTILE HOSTILE HOSTILE HOSTILE HOSTILE HOSTILE HOSTILE HOSTILE);
    fclose(f);
    char *text = page(&size);
    assert_true(size > 100000 && size <= 500000);
    assert_int_equal(times_in(text, "<script"), 2);
    assert_int_equal(times_in(text, "</script"), 2);
    assert_null(strstr(text, "<!--"));
    assert_non_null(strstr(text, "<title>&lt;/script&gt;&lt;script&gt;x&amp;y"));
    assert_non_null(strstr(text, "\\u003c/script\\u003e"));
    assert_non_null(strstr(text, "\"lines\":30000"));
    assert_non_null(strstr(text, "77.5"));                   /* one step of thirty thousand */
    free(text);
}

static void nothing_but_a_report(void **state)
{
    size_t size;
    (void)state;
    put_report();
    char *text = page(&size);
    assert_non_null(strstr(text, "\"loss\":null"));
    assert_non_null(strstr(text, "\"topology\":null"));
    free(text);
    struct topology t = {.site_count = 1, .shard_count = 1, .site = {{HOSTILE, 2, 12345}}, .shard = {{1, {{0, 0, true}}}}};
    struct err e = ERR_INIT;
    assert_ok(topology_write(dir, &t, &e));
    assert_int_equal(topology_sent_before(dir, HOSTILE), 12345);
    assert_int_equal(topology_sent_before(dir, "other"), 0);
    text = page(&size);
    assert_non_null(strstr(text, "\"wan_sent_bytes\":12345"));
    free(text);
}

static void no_run(void **state)
{
    struct err e = ERR_INIT;
    (void)state;
    assert_int_equal(page_write(dir, &e), ERR_NOT_FOUND);
    FILE *f = create("report.json");
    fputs("{\"name\": \"cut", f);
    fclose(f);
    assert_int_equal(page_write(dir, &e), ERR_NOT_FOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(a_long_run_of_hostile_words, set_up, tear_down),
                                       cmocka_unit_test_setup_teardown(nothing_but_a_report, set_up, tear_down), cmocka_unit_test_setup_teardown(no_run, set_up, tear_down)};
    return cmocka_run_group_tests_name("run page", tests, NULL, NULL);
}
