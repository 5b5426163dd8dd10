/* The reader of server names: recorded and made-up first bytes, every prefix of them, damage, and the longest that may come. */
#include "tests/unit/unit.h"

#include "net/client_hello.h"

#define CASES "tests/fixtures/client_hello.txt"

struct fixture { char name[80], verdict[8], expect[128]; uint8_t bytes[4096]; size_t size; };

static bool next_case(FILE *f, struct fixture *c)
{
    static char line[16384], hex[8400];
    while (fgets(line, sizeof line, f)) {
        if (line[0] == '#')
            continue;
        hex[0] = '\0';
        assert_true(sscanf(line, "%79[^|]| %7s | %127[^|]| %8399s", c->name, c->verdict, c->expect, hex) >= 3);
        c->name[strlen(c->name) - 1] = c->expect[strlen(c->expect) - 1] = '\0';   /* the blank before the bar */
        c->size = strlen(hex) / 2;
        for (size_t i = 0; i < c->size; i++)
            assert_int_equal(sscanf(hex + 2 * i, "%2hhx", &c->bytes[i]), 1);
        return true;
    }
    return false;
}

/* From memory of exactly that size, so that a sanitizer sees a byte too far. */
static enum client_hello read_exactly(const uint8_t *bytes, size_t size, char name[SERVER_NAME_MAX + 1], const char **wrong)
{
    uint8_t *copy = malloc(size ? size : 1);
    memcpy(copy, bytes, size);
    enum client_hello verdict = client_hello_name(copy, size, name, wrong);
    free(copy);
    return verdict;
}

static void cases(void **state)
{
    struct fixture c;
    unsigned count = 0;
    FILE *f = fopen(CASES, "re");
    (void)state;
    assert_non_null(f);
    for (; next_case(f, &c); count++) {
        char name[SERVER_NAME_MAX + 1];
        const char *wrong;
        enum client_hello verdict = read_exactly(c.bytes, c.size, name, &wrong);
        const char *word = verdict == CLIENT_HELLO_MORE ? "more" : verdict == CLIENT_HELLO_WHOLE ? "whole" : "bad";
        const char *got = wrong ? wrong : name[0] ? name : "-";
        if (strcmp(word, c.verdict) != 0 || strcmp(got, c.expect) != 0)
            fail_msg("%s: %s, '%s' instead of %s, '%s'", c.name, word, got, c.verdict, c.expect);
    }
    fclose(f);
    assert_true(count > 50);
}

/* However few bytes have come: never a verdict that more bytes would change. */
static void prefixes(void **state)
{
    struct fixture c;
    FILE *f = fopen(CASES, "re");
    (void)state;
    assert_non_null(f);
    while (next_case(f, &c)) {
        char name[SERVER_NAME_MAX + 1], before[SERVER_NAME_MAX + 1] = "";
        const char *wrong, *wrong_before = NULL;
        enum client_hello settled = CLIENT_HELLO_MORE;
        for (size_t n = 0; n <= c.size; n++) {
            enum client_hello verdict = read_exactly(c.bytes, n, name, &wrong);
            if (settled != CLIENT_HELLO_MORE && (verdict != settled || strcmp(name, before) != 0 || wrong != wrong_before))
                if (strcmp(c.name, "a-second-message") != 0)   /* told only when it is seen */
                    fail_msg("%s: another verdict with %zu bytes", c.name, n);
            settled = verdict;
            wrong_before = wrong;
            snprintf(before, sizeof before, "%s", name);
        }
    }
    fclose(f);
}

static void damage(void **state)
{
    struct test_random r = {.seed = test_seed()};
    struct fixture c;
    FILE *f = fopen(CASES, "re");
    (void)state;
    assert_non_null(f);
    while (next_case(f, &c))
        for (unsigned i = 0; c.size > 0 && i < 300; i++) {
            uint8_t bytes[sizeof c.bytes];
            char name[SERVER_NAME_MAX + 1];
            const char *wrong;
            memcpy(bytes, c.bytes, c.size);
            for (unsigned k = 1 + test_u32(&r) % 3; k > 0; k--)
                bytes[test_u32(&r) % c.size] = (uint8_t)test_u32(&r);
            enum client_hello verdict = read_exactly(bytes, c.size, name, &wrong);
            assert_int_equal(verdict == CLIENT_HELLO_BAD, wrong != NULL);
            assert_true(name[0] == '\0' || (verdict == CLIENT_HELLO_WHOLE && server_name_ok(name, strlen(name))));
        }
    fclose(f);
}

/* A hello as long as can be, in one record and in many; one byte more is refused before it has come. */
static void longest(void **state)
{
    static uint8_t bytes[CLIENT_HELLO_MAX + 1];
    const uint8_t head[] = {22, 3, 1, (CLIENT_HELLO_MAX - 5) >> 8, (CLIENT_HELLO_MAX - 5) & 255, 1, 0, (CLIENT_HELLO_MAX - 9) >> 8, (CLIENT_HELLO_MAX - 9) & 255, 3, 3};
    const size_t padding = CLIENT_HELLO_MAX - 5 - 4 - (2 + 32 + 1 + 4 + 2 + 2 + 4);
    char name[SERVER_NAME_MAX + 1];
    const char *wrong;
    (void)state;
    memcpy(bytes, head, sizeof head);
    uint8_t *p = bytes + 5 + 4 + 2 + 32;
    const uint8_t rest[] = {0, 0, 2, 0x13, 1, 1, 0, (uint8_t)((padding + 4) >> 8), (uint8_t)(padding + 4), 0, 21, (uint8_t)(padding >> 8), (uint8_t)padding};
    memcpy(p, rest, sizeof rest);
    assert_int_equal(read_exactly(bytes, CLIENT_HELLO_MAX - 1, name, &wrong), CLIENT_HELLO_MORE);
    assert_int_equal(read_exactly(bytes, CLIENT_HELLO_MAX, name, &wrong), CLIENT_HELLO_WHOLE);
    assert_string_equal(name, "");
    bytes[4]++;
    bytes[8]++;
    assert_int_equal(read_exactly(bytes, 9, name, &wrong), CLIENT_HELLO_BAD);
    assert_string_equal(wrong, "a ClientHello longer than 16 KiB");
    for (size_t i = 0; i < sizeof bytes; i += 6)           /* in records of one byte it does not fit */
        memcpy(bytes + i, (const uint8_t[]){22, 3, 1, 0, 1, i ? 0 : 1}, MIN((size_t)6, sizeof bytes - i));
    bytes[2 * 6 + 5] = 0x3f;                               /* 16,128 bytes */
    assert_int_equal(read_exactly(bytes, CLIENT_HELLO_MAX - 1, name, &wrong), CLIENT_HELLO_MORE);
    assert_int_equal(read_exactly(bytes, CLIENT_HELLO_MAX, name, &wrong), CLIENT_HELLO_BAD);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(cases), cmocka_unit_test(prefixes), cmocka_unit_test(damage), cmocka_unit_test(longest)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
