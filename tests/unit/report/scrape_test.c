/* What Prometheus reads: names and types by the rules, labels escaped, unknown values left out, histograms that add up, both formats. */
#include "tests/unit/unit.h"

#include <ctype.h>
#include <math.h>
#include <unistd.h>

#include "report/report.h"

static struct scrape *two_sites(void)
{
    static struct scrape s;
    s = (struct scrape){.run = "a \"b\\c\nd", .job = "0123", .site = {"onprem", "cloud"}, .site_count = 2, .one = 1, .loss = INFINITY, .accuracy = NAN,
                        .ranks = {2, 1}, .site_up = {1, NAN}};
    s.phase[1] = 1;
    return &s;
}

static bool has(const char *text, const char *line)
{
    const char *at = strstr(text, line);
    return at && (at == text || at[-1] == '\n') && at[strlen(line)] == '\n';
}

static void lines(void **state)
{
    char text[65536];
    (void)state;
    size_t n = scrape_write(two_sites(), false, text, sizeof text);
    assert_true(n > 1000 && n < sizeof text);
    text[n] = '\0';
#define RUN "{run=\"a \\\"b\\\\c\\nd\""
    assert_true(has(text, "viaduct_ranks" RUN ",site=\"onprem\"} 2") && has(text, "viaduct_ranks" RUN ",site=\"cloud\"} 1"));
    assert_true(has(text, "viaduct_site_up" RUN ",site=\"onprem\"} 1"));
    assert_null(strstr(text, "viaduct_site_up" RUN ",site=\"cloud\""));
    assert_null(strstr(text, "viaduct_accuracy_ratio{"));
    assert_true(has(text, "viaduct_loss" RUN "} +Inf"));
    assert_true(has(text, "viaduct_run_phase" RUN ",phase=\"running\"} 1") && has(text, "viaduct_run_phase" RUN ",phase=\"failed\"} 0"));
    assert_true(has(text, "# TYPE viaduct_run_info gauge") && has(text, "# TYPE viaduct_steps_total counter"));
    assert_true(has(text, "viaduct_run_info" RUN ",job_id=\"0123\"} 1"));
    assert_null(strstr(text, "# EOF"));
}

static void openmetrics(void **state)
{
    char text[65536];
    (void)state;
    size_t n = scrape_write(two_sites(), true, text, sizeof text);
    text[n] = '\0';
    assert_string_equal(text + n - 6, "# EOF\n");
    assert_true(has(text, "# TYPE viaduct_run info") && has(text, "# TYPE viaduct_steps counter") && has(text, "viaduct_steps_total" RUN "} 0"));
}

static void names(void **state)
{
    char text[65536], *rest = text, kind[16], name[80];
    (void)state;
    text[scrape_write(two_sites(), false, text, sizeof text)] = '\0';
    unsigned count = 0;
    for (char *line; (line = strsep(&rest, "\n"));) {
        if (sscanf(line, "# TYPE %79s %15s", name, kind) != 2)
            continue;
        count++;
        assert_true(strncmp(name, "viaduct_", 8) == 0);
        size_t n = strlen(name);
        if ((strcmp(kind, "counter") == 0) != (n > 6 && strcmp(name + n - 6, "_total") == 0))
            fail_msg("%s is a %s", name, kind);
        for (size_t i = 0; i < n; i++)
            assert_true(islower((unsigned char)name[i]) || name[i] == '_');
    }
    assert_true(count > 30);
}

static double value(const char *text, const char *sample)
{
    const char *at = strstr(text, sample);
    assert_non_null(at);
    return strtod(at + strlen(sample), NULL);
}

static void histograms(void **state)
{
    static const double seconds[] = {0.001, 0.005, 0.0051, 3, 1000, NAN, -1};
    struct scrape s = {.run = "r", .job = "j"};
    char text[65536];
    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(seconds); i++)
        scrape_time(&s, TIMING_STEP, seconds[i]);
    text[scrape_write(&s, false, text, sizeof text)] = '\0';
#define STEP "viaduct_step_duration_seconds"
    assert_true(value(text, STEP "_bucket{run=\"r\",le=\"0.005\"}") == 2);     /* a bound belongs to its bucket */
    assert_true(value(text, STEP "_bucket{run=\"r\",le=\"0.01\"}") == 3);
    assert_true(value(text, STEP "_bucket{run=\"r\",le=\"5.0\"}") == 4);
    assert_true(value(text, STEP "_bucket{run=\"r\",le=\"120.0\"}") == 4);
    assert_true(value(text, STEP "_bucket{run=\"r\",le=\"+Inf\"}") == 5);
    assert_true(value(text, STEP "_count{run=\"r\"}") == 5 && fabs(value(text, STEP "_sum{run=\"r\"}") - 1003.0111) < 1e-9);
    assert_true(value(text, "viaduct_log_sync_seconds_count{run=\"r\"}") == 0);
}

static void no_room_is_no_page(void **state)
{
    char text[65536];
    (void)state;
    size_t n = scrape_write(two_sites(), false, text, sizeof text);
    memset(text, 7, sizeof text);
    assert_int_equal(scrape_write(two_sites(), false, text, n), 0);
    assert_int_equal(text[0], 7);
    assert_int_equal(scrape_write(two_sites(), false, text, n + 1), n);
    /* The most that a run can have fits a page: every site there is, with the longest names. */
    struct scrape most = *two_sites();
    char name[64];
    memset(name, '"', 63);
    name[63] = '\0';
    most.run = most.job = name;
    most.site_count = REPORT_SITES_MAX;
    for (unsigned i = 0; i < REPORT_SITES_MAX; i++)
        most.site[i] = name;
    assert_true(scrape_write(&most, true, text, sizeof text) > 0);
}

static void restarts(void **state)
{
    char dir[] = "/tmp/viaduct-scrape-XXXXXX";
    (void)state;
    assert_non_null(mkdtemp(dir));
    struct restarts *b = restarts_open(dir, false);
    restarts_died(b, "worker onprem/0", 1, "killed", 0);
    restarts_died(b, "worker cloud/0", 2, "killed", 0);
    restarts_died(b, "coordinator", 3, "killed", 0);
    assert_true(restarts_count(b, "worker") == 2 && restarts_count(b, "coordinator") == 1 && restarts_count(b, "ps") == 0 && restarts_count(b, "work") == 0);
    restarts_close(b);
    assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines), cmocka_unit_test(openmetrics), cmocka_unit_test(names),
        cmocka_unit_test(histograms), cmocka_unit_test(no_room_is_no_page), cmocka_unit_test(restarts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
