/* sim [--seeds N] [--from S] [--verbose]: one summary line; exit 1 at the first violation, which names the seed to replay.
 * Without arguments: TAP, fixed seeds and fresh ones. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/sim/sim.h"

struct sums { uint64_t seeds, events, rounds, faults, gave_up; };

static bool campaign(uint64_t from, uint64_t count, bool verbose, struct sums *sums, const char *comment)
{
    for (uint64_t s = from; s < from + count; s++) {
        struct sim_result r;
        sim_run(s, verbose, &r);
        sums->seeds++;
        sums->events += r.events;
        sums->rounds += r.rounds;
        sums->faults += r.faults;
        sums->gave_up += r.gave_up;
        if (r.violated) {
            printf("%sseed %" PRIu64 ": %s\n", comment, s, r.text);
            return false;
        }
    }
    return true;
}

static void say(const char *comment, const struct sums *s, double seconds)
{
    printf("%s%" PRIu64 " seeds, %" PRIu64 " faults, %" PRIu64 " rounds, %" PRIu64 " events, %" PRIu64 " gave up as they should, %.1f s\n", comment, s->seeds,
           s->faults, s->rounds, s->events, s->gave_up, seconds);
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int tap(void)
{
    struct sums sums = {0};
    double start = now_s();
    uint64_t fresh = (uint64_t)time(NULL) * 1000;
    bool fixed_ok = campaign(1, 1500, false, &sums, "# ");
    printf("1..2\n%s 1 - simulator, seeds 1 to 1500\n", fixed_ok ? "ok" : "not ok");
    bool fresh_ok = campaign(fresh, 700, false, &sums, "# ");
    printf("%s 2 - simulator, 700 fresh seeds from %" PRIu64 "\n", fresh_ok ? "ok" : "not ok", fresh);
    say("# ", &sums, now_s() - start);
    return fixed_ok && fresh_ok ? 0 : 1;
}

int main(int argc, char **argv)
{
    uint64_t from = 1, seeds = 1000;
    bool verbose = false;
    if (argc == 1)
        return tap();
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--seeds") && i + 1 < argc)
            seeds = strtoull(argv[++i], NULL, 10);
        else if (!strcmp(argv[i], "--from") && i + 1 < argc)
            from = strtoull(argv[++i], NULL, 10);
        else if (!strcmp(argv[i], "--verbose"))
            verbose = true;
        else {
            fprintf(stderr, "usage: sim [--seeds N] [--from S] [--verbose]\n");
            return 2;
        }
    }
    struct sums sums = {0};
    double start = now_s();
    bool ok = campaign(from, seeds, verbose, &sums, "");
    say("", &sums, now_s() - start);
    return ok ? 0 : 1;
}
