/* How `viaduct top` looks: never wider than the terminal, never longer than it when it has a height, whatever is not known yet. */
#include "tests/unit/unit.h"

#include <math.h>

#include "cli/top.h"

static struct top_state *sample(void)
{
    struct top_state *s = calloc(1, sizeof *s);
    assert_non_null(s);
    top_take_status("{\"phase\":\"running\",\"step\":40,\"steps\":100,\"epoch\":2,\"epochs\":5,\"loss\":0.5,\"lr\":0.01,\"samples_per_second\":3000.5,\"eta_seconds\":61,"
                    "\"wan_bytes_per_second\":4.5e7,\"sites\":[{\"name\":\"on\\u001b[31mprem\",\"ranks\":2,\"up\":1,\"shards\":1,\"shards_up\":1},"
                    "{\"name\":\"a-site-with-a-rather-long-name-that-goes-on\",\"ranks\":900,\"up\":899,\"shards\":0,\"shards_up\":0}]}", s);
    snprintf(s->name, sizeof s->name, "job");
    for (unsigned i = 0; i < 200; i++)
        s->tail[i] = (struct metric){.step = i + 1, .loss = 2.0 / (i + 1), .part = {0.03, 0.004, 0.012, NAN, 0}};
    s->tail_count = 200;
    s->event_count = 30;
    for (unsigned i = 0; i < s->event_count; i++) {
        snprintf(s->event[i].time, sizeof s->event[i].time, "01:02:03");
        snprintf(s->event[i].event, sizeof s->event[i].event, i % 2 ? "dead" : "checkpoint");
        snprintf(s->event[i].text, sizeof s->event[i].text, "caf\xc3\xa9 %u", i);
    }
    return s;
}

/* Lines of the text, none wider than width columns; escapes of colour count nothing. */
static unsigned lines_within(const char *text, unsigned width)
{
    unsigned lines = 0, column = 0;
    for (const char *p = text; *p; p++) {
        if (*p == '\033') {
            while (*p && *p != 'm')
                p++;
            continue;
        }
        if (*p == '\n') {
            lines++;
            column = 0;
        } else if (((unsigned char)*p & 0xc0) != 0x80 && ++column > width) {
            fail_msg("wider than %u: %s", width, text);
        }
    }
    return lines;
}

static void it_fits(void **state)
{
    struct top_state *s = sample(), *empty = calloc(1, sizeof *empty);
    char *text;
    (void)state;
    assert_non_null(empty);
    top_take_status("no JSON", empty);
    for (unsigned width = 10; width <= 220; width += 7)
        for (unsigned k = 0; k < 8; k++) {
            struct top_look look = {.width = width, .height = k & 1 ? 30 : 0, .unicode = k & 2, .colour = k & 4};
            top_draw(s, &look, &text);
            unsigned lines = lines_within(text, width);
            assert_true(look.height == 0 || lines < look.height);
            for (const char *p = text; !look.unicode && *p; p++)
                assert_true((unsigned char)*p < 0x80);
            assert_true(look.colour || !strchr(text, '\033'));
            free(text);
            top_draw(empty, &look, &text);
            lines_within(text, width);
            free(text);
        }
    free(s);
    free(empty);
}

static void it_tells(void **state)
{
    static const char *const wanted[] = {"job  running", "step 40 of 100", "40 %", "1 min 01 s left", "3000 samples/s", "45.0 MB/s", "computing", "65 %", "1/2", "899/900", "dead"};
    struct top_state *s = sample();
    struct top_look look = {.width = 120};
    char *text;
    (void)state;
    top_draw(s, &look, &text);
    for (unsigned i = 0; i < ARRAY_LEN(wanted); i++)
        if (!strstr(text, wanted[i]))
            fail_msg("no '%s' in\n%s", wanted[i], text);
    assert_null(strstr(text, "data wait"));                  /* was never measured */
    assert_null(strstr(text, "\033"));                       /* not even out of a name */
    free(text);
    s->phase[0] = '\0';
    snprintf(s->status, sizeof s->status, "running");
    top_draw(s, &look, &text);
    assert_non_null(strstr(text, "interrupted"));            /* it says running, and nobody answers */
    free(text);
    free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(it_fits), cmocka_unit_test(it_tells)};
    return cmocka_run_group_tests_name("top", tests, NULL, NULL);
}
