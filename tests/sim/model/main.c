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
enum { SMALL_STATES = 3000000, LARGE_STATES = 12000000 };

static const struct bound small_bounds[] = {
    /* name, shards, copies, gangs, rounds, faults of which kinds, late, attempts, lanes, checkpoint, seeds, window, ahead */
    {"coordinator",       1, 2, 1, 2, 1, "CH",        0, false, false, 0, false, 1, 1},
    {"process",           1, 2, 1, 2, 1, "P",         0, false, false, 0, false, 3, 3},
    {"site",              1, 2, 1, 1, 1, "S",         0, false, false, 0, false, 3, 3},
    {"gang",              2, 1, 2, 1, 1, "G",         0, false, true,  0, false, 3, 3},
    {"attempts",          2, 1, 1, 2, 1, "G",         0, true,  false, 0, false, 3, 3},
    {"zombie",            1, 2, 1, 1, 1, "Z",         0, true,  false, 0, false, 3, 3},
    {"late",              1, 1, 1, 1, 2, "PGH",       1, true,  false, 0, false, 3, 3},
    {"rollback",          2, 1, 1, 2, 1, "P",         0, false, false, 0, false, 3, 3},
    {"rollback-zombie",   2, 1, 1, 1, 1, "Z",         0, true,  false, 0, false, 3, 3},
    {"checkpoint",        2, 1, 1, 1, 1, "PH",        0, true,  false, 1, false, 3, 3},
    {"last-checkpoint",   1, 2, 1, 1, 2, "P",         0, false, false, 1, false, 3, 3},
    {"excluded",          1, 2, 1, 1, 2, "QH",        0, true,  false, 0, false, 3, 3},
    {"far-behind",        1, 2, 1, 3, 1, "P",         0, false, false, 0, false, 1, 1},
    {"three-copies",      1, 3, 1, 1, 1, "P",         0, false, false, 0, false, 3, 3},
    {"three-copies-site", 1, 3, 1, 1, 1, "s",         0, false, false, 0, false, 3, 3},
    {"seeds",             1, 3, 1, 1, 0, "",          0, false, false, 0, true,  3, 3},
    {"seeds-two-shards",  2, 2, 1, 1, 0, "",          0, false, false, 0, true,  3, 3},
};

static const struct bound large_bounds[] = {
    {"large-any",         1, 2, 1, 2, 1, "GPQZCHSB",  0, true,  false, 0, false, 2, 1},
    {"large-two",         1, 2, 1, 1, 2, "GPQCHS",    0, true,  false, 0, false, 3, 3},
    {"large-late",        1, 2, 1, 1, 1, "GPQZCHSB",  1, true,  false, 0, false, 3, 3},
    {"large-three",       1, 3, 1, 2, 1, "PCHs",      0, false, false, 0, false, 2, 1},
    {"large-far",         1, 3, 1, 3, 1, "P",         0, false, false, 0, false, 1, 1},
    {"large-shards",      2, 2, 1, 1, 1, "GPCHB",     0, true,  false, 0, false, 3, 3},
    {"large-gangs",       2, 1, 2, 1, 1, "GPQZCH",    0, true,  true,  1, false, 3, 3},
};

struct removal { const char *bound; enum rule rule; };
static const struct removal small_removals[] = {
    {"site", STAB}, {"coordinator", TELL}, {"coordinator", CHAIN}, {"zombie", EPMSG}, {"gang", KEEP}, {"gang", NEST}, {"attempts", ATT},
    {"rollback", GENHELD}, {"process", INST}, {"excluded", WIPE}, {"coordinator", ENV}, {"process", COPYVER}, {"last-checkpoint", COPYSYNC},
    {"process", COMPLETE}, {"three-copies-site", LAG}, {"process", HELD}, {"three-copies", INFER2}, {"three-copies", INFERV},
    {"last-checkpoint", LASTREC}, {"far-behind", WINDOW}, {"coordinator", AHEAD}, {"coordinator", RECOV}, {"site", REPORT}, {"attempts", SUM},
    {"late", NEWVIEW}, {"last-checkpoint", PROMOTE}, {"excluded", VIEWSYNC}, {"checkpoint", CKGEN}, {"checkpoint", CKLOG}, {"seeds", SEEDCOPY},
    {"seeds-two-shards", NEEDSEED},
};
static const struct removal large_removals[] = {{"large-three", SLACK}};

/* Without one of these alone nothing breaks: another rule keeps the damage out, and only without both it comes. RULE_COUNT: more than one does. */
static const struct { const char *bound; enum rule rule, by; } covered[] = {
    {"rollback-zombie", EPPULL, GENPULL}, {"rollback-zombie", GENPULL, EPPULL}, {"late", GENREC, RULE_COUNT},
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

static void each_off(struct tally *t, const struct removal *removed, size_t count, uint64_t states)
{
    char what[256];
    for (size_t i = 0; i < count; i++) {
        struct outcome o = explore(bound_named(removed[i].bound), ALL_RULES & ~(1ull << removed[i].rule), states, NULL);
        snprintf(what, sizeof what, "without %s, bound %s", rule_name[removed[i].rule], removed[i].bound);
        tell(t, o.violation != NULL, what, &o);
    }
}

static void each_covered(struct tally *t)
{
    char what[256];
    for (size_t i = 0; i < COUNT(covered); i++) {
        const struct bound *b = bound_named(covered[i].bound);
        uint64_t rules = ALL_RULES & ~(1ull << covered[i].rule);
        bool several = covered[i].by == RULE_COUNT;
        struct outcome o = explore(b, rules, SMALL_STATES, NULL);
        snprintf(what, sizeof what, "without %s alone, bound %s, covered by %s", rule_name[covered[i].rule], b->name,
                 several ? "several fences" : rule_name[covered[i].by]);
        tell(t, !o.violation && !o.full, what, &o);
        if (several)
            continue;
        o = explore(b, rules & ~(1ull << covered[i].by), SMALL_STATES, NULL);
        snprintf(what, sizeof what, "without %s and %s, bound %s", rule_name[covered[i].rule], rule_name[covered[i].by], b->name);
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
        each_off(&t, large_removals, COUNT(large_removals), LARGE_STATES);
    } else if (argc == 1) {
        all_on(&t, small_bounds, COUNT(small_bounds), SMALL_STATES);
        each_off(&t, small_removals, COUNT(small_removals), SMALL_STATES);
        each_covered(&t);
    } else {
        fprintf(stderr, "usage: model [--large | --list | --bound NAME [--off RULE,RULE]]\n");
        return 2;
    }
    printf("# %llu states, %.1f s\n1..%u\n", (unsigned long long)t.states, t.seconds, t.tests);
    return t.failed > 0;
}
