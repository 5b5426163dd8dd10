/* The live line: what stands in it, and what goes first when the terminal is narrow. */
#include "tests/unit/unit.h"

#include <unistd.h>

#include "cli/live.h"

static const char running[] = "{\"phase\":\"running\",\"step\":41,\"steps\":150,\"loss\":0.4994,\"samples_per_second\":3429.4,\"eta_seconds\":75,"
                              "\"wan_bytes_per_second\":2700000,\"sites\":[{\"name\":\"onprem\",\"ranks\":2,\"up\":2,\"shards\":1,\"shards_up\":1},"
                              "{\"name\":\"cloud\",\"ranks\":1,\"up\":0,\"shards\":1,\"shards_up\":1}]}";

static void says(const char *json, unsigned width, const char *wanted)
{
    char line[512];
    live_line(json, width, line, sizeof line);
    if (strcmp(line, wanted) != 0)
        fail_msg("width %u: '%s' instead of '%s'", width, line, wanted);
}

static void a_narrow_terminal_drops_the_least_important(void **state)
{
    (void)state;
    const char *all = "running  step 41/150  loss 0.4994  3429 samples/s  ETA 1m15s  onprem 2/2 ps 1/1  cloud 0/1 ps 1/1  WAN 2.7 MB/s";
    says(running, 0, all);
    says(running, (unsigned)strlen(all), all);
    says(running, 100, "running  step 41/150  loss 0.4994  3429 samples/s  ETA 1m15s  ranks 2/3  ps 2/2  WAN 2.7 MB/s");
    says(running, 79, "running  step 41/150  loss 0.4994  3429 samples/s  ETA 1m15s  ranks 2/3  ps 2/2");
    says(running, 70, "running  step 41/150  loss 0.4994  3429 samples/s  ETA 1m15s");
    says(running, 50, "running  step 41/150  loss 0.4994  ETA 1m15s");
    says(running, 40, "running  step 41/150  loss 0.4994");
    says(running, 30, "running  step 41/150");
    says(running, 10, "running  s");
}

static void what_is_not_known_is_not_shown(void **state)
{
    (void)state;
    says("{\"phase\":\"starting\",\"step\":0,\"steps\":0,\"loss\":null,\"sites\":[{\"name\":\"a\",\"ranks\":2,\"up\":1,\"shards\":0,\"shards_up\":0}]}", 0, "starting  a 1/2");
    says("no JSON", 0, "starting");
}

static void a_run_that_ends_has_no_rates_and_misses_nobody(void **state)
{
    (void)state;
    says("{\"phase\":\"stopping\",\"step\":41,\"steps\":150,\"loss\":0.5,\"samples_per_second\":3429.4,\"eta_seconds\":75,\"wan_bytes_per_second\":2700000,\"sites\":[{\"name\":\"a\",\"ranks\":2,\"up\":0,\"shards\":0,\"shards_up\":0}]}", 0,
         "stopping  step 41/150  loss 0.5000");
}

static void the_end_is_told_without_control_characters(void **state)
{
    (void)state;
    static const char report[] = "{\"name\":\"a\\u001b]0;x\\u0007\",\"status\":\"failed\",\"error\":\"said \\u001b[31m\",\"steps\":3}";
    char dir[] = "/tmp/viaduct-live-XXXXXX", path[64], *text;
    size_t size;
    struct err e = ERR_INIT;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/report.json", dir);
    assert_ok(fs_write_file(&fs_real, path, report, sizeof report - 1, &e));
    FILE *out = open_memstream(&text, &size);
    live_summary(dir, out);
    fclose(out);
    assert_non_null(strstr(text, "a?]0;x?: failed\n"));
    assert_non_null(strstr(text, "said ?[31m\n"));
    assert_null(strchr(text, 033));
    free(text);
    unlink(path);
    rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_narrow_terminal_drops_the_least_important),
        cmocka_unit_test(what_is_not_known_is_not_shown),
        cmocka_unit_test(a_run_that_ends_has_no_rates_and_misses_nobody),
        cmocka_unit_test(the_end_is_told_without_control_characters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
