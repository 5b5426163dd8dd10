/* What every unit test includes. */
#ifndef VIADUCT_TESTS_UNIT_H
#define VIADUCT_TESTS_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

#define assert_ok(call) do { int ok_rc_ = (call); \
    if (ok_rc_ < 0) fail_msg("%s: %d: %s", #call, ok_rc_, e.text); } while (0)

/* Every skip says why; tests/run.sh shows it. */
#define test_skip(why) do { fprintf(stderr, "# skipped: %s\n", why); skip(); } while (0)

/* Random numbers of a test: fresh each run when VIADUCT_TEST_SEED is not set; the seed is printed, so that a failure can be repeated. */
static inline uint64_t test_seed(void)
{
    const char *text = getenv("VIADUCT_TEST_SEED");
    uint64_t seed = text ? strtoull(text, NULL, 10) : 0;
    if (!text)
        random_bytes(&seed, 4);
    fprintf(stderr, "# VIADUCT_TEST_SEED=%llu\n", (unsigned long long)seed);
    return seed;
}
struct test_random { uint64_t seed; uint32_t at; };
static inline uint32_t test_u32(struct test_random *r) { return philox4x32(r->seed, r->at++, 0, 0, 0).v[0]; }
static inline float test_float(struct test_random *r) { return 2 * philox_unit(test_u32(r)) - 1; }

#endif
