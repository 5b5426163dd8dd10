/* placeholder */
#include <stdlib.h>
#include <string.h>

#include "model.h"

#define RULE_NAME(name, text) #name,
static const char *const rule_names[] = {MODEL_RULES(RULE_NAME)};

int main(int argc, char **argv)
{
    struct bound b = {.name = "try", .shards = 1, .copies = 2, .gangs = 1, .rounds = 1, .window = 3, .ahead = 3, .kinds = ""};
    uint64_t rules = (1ull << RULE_COUNT) - 1, max = 4000000;
    for (int i = 1; i < argc; i++) {
        char *v = strchr(argv[i], '=');
        if (!v) continue;
        *v++ = 0;
        int n = atoi(v);
        if (!strcmp(argv[i], "s")) b.shards = n; else if (!strcmp(argv[i], "c")) b.copies = n; else if (!strcmp(argv[i], "g")) b.gangs = n;
        else if (!strcmp(argv[i], "r")) b.rounds = n; else if (!strcmp(argv[i], "f")) b.faults = n; else if (!strcmp(argv[i], "k")) b.kinds = v;
        else if (!strcmp(argv[i], "late")) b.late = n; else if (!strcmp(argv[i], "att")) b.attempts = n; else if (!strcmp(argv[i], "lanes")) b.lanes = n;
        else if (!strcmp(argv[i], "ck")) b.checkpoint = n; else if (!strcmp(argv[i], "seeds")) b.seeds = n; else if (!strcmp(argv[i], "w")) b.window = n;
        else if (!strcmp(argv[i], "u")) b.ahead = n; else if (!strcmp(argv[i], "max")) max = 1000ull * n;
        else if (!strcmp(argv[i], "off")) for (char *t = strtok(v, ","); t; t = strtok(NULL, ",")) for (int k = 0; k < RULE_COUNT; k++) if (!strcmp(t, rule_names[k])) rules &= ~(1ull << k);
    }
    struct outcome o = explore(&b, rules, max, stdout);
    printf("%s: states %llu transitions %llu depth %llu cut %llu full %d seconds %.1f bytes %zu\n", o.violation ? o.violation : "OK", (unsigned long long)o.states, (unsigned long long)o.transitions, (unsigned long long)o.depth, (unsigned long long)o.cut, o.full, o.seconds, sizeof(struct state));
    return o.violation != NULL;
}
