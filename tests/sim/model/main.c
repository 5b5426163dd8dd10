/* model [--large]: TAP. Every bound with all rules in force: no violation, and the goal stays reachable. Then, in small bounds, each rule taken
 * out, in a bound that is clean with it, must lead to a violation.
 * model --bound NAME [--off RULE,RULE]: one search; prints the shortest way to a violation. --list: bounds and rules. */
#include <stdlib.h>
#include <string.h>

#include "model.h"

#define RULE_NAME(name, text) #name,
#define RULE_TEXT(name, text) text,
static const char *const rule_name[] = {MODEL_RULES(RULE_NAME)};
static const char *const rule_text[] = {MODEL_RULES(RULE_TEXT)};
static const uint64_t ALL_RULES = (1ull << RULE_COUNT) - 1;
enum { SMALL_STATES = 3000000, LARGE_STATES = 24000000 };

static const struct bound small_bounds[] = {
    {.name = "coordinator", .shards = 1, .copies = 2, .gangs = 1, .rounds = 2, .faults = 1, .kinds = "CH", .window = 1, .ahead = 1},
    {.name = "process", .shards = 1, .copies = 2, .gangs = 1, .rounds = 2, .faults = 1, .kinds = "P", .window = 3, .ahead = 3},
    {.name = "site", .shards = 1, .copies = 2, .gangs = 1, .rounds = 1, .faults = 1, .kinds = "S", .window = 3, .ahead = 3},
    {.name = "gang", .shards = 2, .copies = 1, .gangs = 2, .rounds = 1, .faults = 1, .kinds = "G", .lanes = true, .window = 3, .ahead = 3},
    {.name = "attempts", .shards = 2, .copies = 1, .gangs = 1, .rounds = 2, .faults = 1, .kinds = "G", .attempts = true, .window = 3, .ahead = 3},
    {.name = "zombie", .shards = 1, .copies = 2, .gangs = 1, .rounds = 1, .faults = 1, .kinds = "Z", .attempts = true, .window = 3, .ahead = 3},
    {.name = "late", .shards = 1, .copies = 1, .gangs = 1, .rounds = 1, .faults = 2, .kinds = "PGH", .late = 1, .attempts = true, .window = 3, .ahead = 3},
    {.name = "rollback", .shards = 2, .copies = 1, .gangs = 1, .rounds = 2, .faults = 1, .kinds = "P", .window = 3, .ahead = 3},
    {.name = "rollback-zombie", .shards = 2, .copies = 1, .gangs = 1, .rounds = 1, .faults = 1, .kinds = "Z", .attempts = true, .window = 3, .ahead = 3},
    {.name = "checkpoint", .shards = 2, .copies = 1, .gangs = 1, .rounds = 1, .faults = 1, .kinds = "PH", .attempts = true, .checkpoint = 1, .window = 3, .ahead = 3},
    {.name = "last-checkpoint", .shards = 1, .copies = 2, .gangs = 1, .rounds = 1, .faults = 2, .kinds = "P", .checkpoint = 1, .window = 3, .ahead = 3},
    {.name = "excluded", .shards = 1, .copies = 2, .gangs = 1, .rounds = 1, .faults = 2, .kinds = "QH", .attempts = true, .window = 3, .ahead = 3},
    {.name = "far-behind", .shards = 1, .copies = 2, .gangs = 1, .rounds = 3, .faults = 1, .kinds = "P", .window = 1, .ahead = 1},
    {.name = "three-copies", .shards = 1, .copies = 3, .gangs = 1, .rounds = 1, .faults = 1, .kinds = "P", .window = 3, .ahead = 3},
    {.name = "three-copies-site", .shards = 1, .copies = 3, .gangs = 1, .rounds = 1, .faults = 1, .kinds = "s", .window = 3, .ahead = 3},
    {.name = "seeds", .shards = 1, .copies = 3, .gangs = 1, .rounds = 1, .kinds = "", .seeds = true, .window = 3, .ahead = 3},
    {.name = "seeds-two-shards", .shards = 2, .copies = 2, .gangs = 1, .rounds = 1, .kinds = "", .seeds = true, .window = 3, .ahead = 3},
};

static const struct bound large_bounds[] = {
    {.name = "large-any", .shards = 1, .copies = 2, .gangs = 1, .rounds = 2, .faults = 1, .kinds = "GPQZCHSB", .attempts = true, .window = 2, .ahead = 1},
    {.name = "large-two", .shards = 1, .copies = 2, .gangs = 1, .rounds = 1, .faults = 2, .kinds = "GPQCHS", .attempts = true, .window = 3, .ahead = 3},
    {.name = "large-late", .shards = 1, .copies = 2, .gangs = 1, .rounds = 1, .faults = 1, .kinds = "GPQZCHSB", .late = 1, .attempts = true, .window = 3, .ahead = 3},
    {.name = "large-three", .shards = 1, .copies = 3, .gangs = 1, .rounds = 2, .faults = 1, .kinds = "PCHs", .window = 2, .ahead = 1},
    {.name = "large-far", .shards = 1, .copies = 3, .gangs = 1, .rounds = 3, .faults = 1, .kinds = "P", .window = 1, .ahead = 1},
    {.name = "large-shards", .shards = 2, .copies = 2, .gangs = 1, .rounds = 1, .faults = 1, .kinds = "GPQCHSB", .attempts = true, .window = 3, .ahead = 3},
    {.name = "large-gangs", .shards = 2, .copies = 1, .gangs = 2, .rounds = 1, .faults = 2, .kinds = "GPCH", .attempts = true, .lanes = true, .checkpoint = 1, .window = 3, .ahead = 3},
};

/* Two rules: each covers for the other, and only without both something breaks. */
static const struct removal { const char *bound; int rule, covered_by; } removals[] = {
    {"site", STAB, -1}, {"coordinator", TELL, -1}, {"coordinator", CHAIN, -1}, {"zombie", EPMSG, -1}, {"rollback-zombie", EPPULL, GENPULL},
    {"rollback-zombie", GENPULL, EPPULL}, {"gang", KEEP, -1}, {"gang", NEST, -1}, {"attempts", ATT, -1}, {"rollback", GENHELD, -1}, {"process", INST, -1},
    {"excluded", WIPE, -1}, {"coordinator", ENV, -1}, {"process", COPYVER, -1}, {"last-checkpoint", COPYSYNC, -1}, {"process", COMPLETE, -1},
    {"three-copies-site", LAG, -1}, {"process", HELD, -1}, {"three-copies", INFER2, -1}, {"three-copies", INFERV, -1}, {"last-checkpoint", LASTREC, -1},
    {"far-behind", WINDOW, -1}, {"coordinator", AHEAD, -1}, {"coordinator", RECOV, -1}, {"site", REPORT, -1}, {"attempts", SUM, -1}, {"late", NEWVIEW, -1},
    {"excluded", VIEWSYNC, -1}, {"checkpoint", CKGEN, -1}, {"checkpoint", CKLOG, -1}, {"seeds", SEEDCOPY, -1}, {"seeds-two-shards", NEEDSEED, -1},
};

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

static const struct bound *bound_named(const char *name)
{
    for (size_t i = 0; i < COUNT(small_bounds); i++)
        if (strcmp(small_bounds[i].name, name) == 0)
            return &small_bounds[i];
    for (size_t i = 0; i < COUNT(large_bounds); i++)
        if (strcmp(large_bounds[i].name, name) == 0)
            return &large_bounds[i];
    return NULL;
}

struct tally { unsigned tests, failed; uint64_t states; double seconds; };

static void tell(struct tally *t, bool ok, const char *what, const struct outcome *o)
{
    t->tests++;
    t->failed += !ok;
    t->states += o->states;
    t->seconds += o->seconds;
    printf("%sok %u - %s: %s; %llu states, %llu steps, depth %llu, %.1f s%s\n", ok ? "" : "not ", t->tests, what, o->violation ? o->violation : "no violation",
           (unsigned long long)o->states, (unsigned long long)o->transitions, (unsigned long long)o->depth, o->seconds,
           o->full ? " (not exhausted)" : o->cut ? " (steps were cut)" : "");
    fflush(stdout);
}

static void all_on(struct tally *t, const struct bound *bounds, size_t count, uint64_t states)
{
    char what[128];
    for (size_t i = 0; i < count; i++) {
        struct outcome o = explore(&bounds[i], ALL_RULES, states, stderr);
        snprintf(what, sizeof what, "all rules, bound %s", bounds[i].name);
        tell(t, !o.violation && !o.full && !o.cut, what, &o);
    }
}

static void each_off(struct tally *t)
{
    char what[256];
    for (size_t i = 0; i < COUNT(removals); i++) {
        const struct removal *r = &removals[i];
        const struct bound *b = bound_named(r->bound);
        uint64_t rules = ALL_RULES & ~(1ull << r->rule);
        struct outcome o = explore(b, rules, SMALL_STATES, NULL);
        if (r->covered_by < 0) {
            snprintf(what, sizeof what, "without %s, bound %s", rule_name[r->rule], b->name);
            tell(t, o.violation != NULL, what, &o);
            continue;
        }
        snprintf(what, sizeof what, "without %s alone, bound %s: %s covers for it", rule_name[r->rule], b->name, rule_name[r->covered_by]);
        tell(t, !o.violation && !o.full, what, &o);
        o = explore(b, rules & ~(1ull << r->covered_by), SMALL_STATES, NULL);
        snprintf(what, sizeof what, "without %s and %s, bound %s", rule_name[r->rule], rule_name[r->covered_by], b->name);
        tell(t, o.violation != NULL, what, &o);
    }
}

static uint64_t rules_without(char *list)
{
    uint64_t rules = ALL_RULES;
    for (char *name = strtok(list, ","); name; name = strtok(NULL, ",")) {
        int found = -1;
        for (int k = 0; k < RULE_COUNT; k++)
            if (strcmp(name, rule_name[k]) == 0)
                found = k;
        if (found < 0) {
            fprintf(stderr, "no rule is called %s; --list prints them\n", name);
            exit(2);
        }
        rules &= ~(1ull << found);
    }
    return rules;
}

static int one(const char *name, char *off)
{
    const struct bound *b = bound_named(name);
    struct tally t = {0};
    if (!b) {
        fprintf(stderr, "no bound is called %s; --list prints them\n", name);
        return 2;
    }
    struct outcome o = explore(b, off ? rules_without(off) : ALL_RULES, LARGE_STATES, stdout);
    tell(&t, !o.violation && !o.full && !o.cut, name, &o);
    return t.failed > 0;
}

static int list(void)
{
    for (size_t i = 0; i < COUNT(small_bounds) + COUNT(large_bounds); i++) {
        const struct bound *b = i < COUNT(small_bounds) ? &small_bounds[i] : &large_bounds[i - COUNT(small_bounds)];
        printf("%-18s %u shards x %u copies, %u gangs, %u rounds, %u faults of \"%s\"%s%s%s%s, checkpoint %u, window %u, ahead %u\n", b->name, b->shards,
               b->copies, b->gangs, b->rounds, b->faults, b->kinds, b->late ? ", late" : "", b->attempts ? ", attempts" : "", b->lanes ? ", lanes" : "",
               b->seeds ? ", seeds" : "", b->checkpoint, b->window, b->ahead);
    }
    for (int k = 0; k < RULE_COUNT; k++)
        printf("%-10s %s\n", rule_name[k], rule_text[k]);
    return 0;
}

int main(int argc, char **argv)
{
    struct tally t = {0};
    if (argc == 2 && strcmp(argv[1], "--list") == 0)
        return list();
    if (argc >= 3 && strcmp(argv[1], "--bound") == 0)
        return one(argv[2], argc == 5 && strcmp(argv[3], "--off") == 0 ? argv[4] : NULL);
    if (argc == 2 && strcmp(argv[1], "--large") == 0) {
        all_on(&t, large_bounds, COUNT(large_bounds), LARGE_STATES);
    } else if (argc == 1) {
        all_on(&t, small_bounds, COUNT(small_bounds), SMALL_STATES);
        each_off(&t);
    } else {
        fprintf(stderr, "usage: model [--large | --list | --bound NAME [--off RULE,RULE]]\n");
        return 2;
    }
    printf("# %llu states, %.1f s\n1..%u\n", (unsigned long long)t.states, t.seconds, t.tests);
    return t.failed > 0;
}
