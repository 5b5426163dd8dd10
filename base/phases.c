#include "base/phases.h"

#include <stddef.h>

const char *phase_name(uint8_t kind)
{
    static const char *const names[PHASE_KINDS] = {"train", "prune"};
    return kind < PHASE_KINDS ? names[kind] : "unknown";
}

const struct phase *phases_find(const struct phases *p, uint64_t round, uint64_t *first)
{
    *first = 0;
    for (unsigned i = 0; i < p->count; i++) {
        if (round < p->at[i].end || i + 1 == p->count)
            return &p->at[i];
        *first = p->at[i].end;
    }
    return NULL;
}

bool phases_end(const struct phases *p, uint64_t version)
{
    for (unsigned i = 0; i < p->count; i++)
        if (p->at[i].end == version)
            return true;
    return false;
}

bool phases_masked(const struct phases *p, uint64_t round)
{
    uint64_t first;
    const struct phase *phase = phases_find(p, round, &first);
    return phase && phase->kind == PHASE_PRUNE;
}

double phases_ramp(const struct phases *p, uint64_t round)
{
    uint64_t first;
    const struct phase *phase = phases_find(p, round, &first);
    if (!phase || phase->kind != PHASE_PRUNE || round >= phase->end)
        return 0;
    uint64_t rounds = phase->end - first, ramp = rounds > 1 ? rounds / 2 : 1, points = ramp < PRUNE_RAMP_POINTS ? ramp : PRUNE_RAMP_POINTS;
    /* Point i of 1 to `points` is the last of the ramp's first i / points. */
    uint64_t done = round - first + 1, i = done * points / ramp;
    if (done > ramp || i == (done - 1) * points / ramp)
        return 0;
    double left = 1 - (double)i / (double)points;
    return p->sparsity * (1 - left * left * left);
}
