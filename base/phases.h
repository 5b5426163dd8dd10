/* Phases of a run: stretches of training with a rule of their own, over one count of rounds. Pure. */
#ifndef VIADUCT_BASE_PHASES_H
#define VIADUCT_BASE_PHASES_H

#include <stdbool.h>
#include <stdint.h>

enum phase_kind { PHASE_TRAIN, PHASE_PRUNE, PHASE_KINDS };   /* prune: magnitude pruning with fine-tuning */
#define PHASES_MAX 4
#define PRUNE_RAMP_POINTS 16     /* at most: rounds at which more weights become zero */

struct phase { uint8_t kind; uint64_t end; };                /* enum phase_kind; its rounds reach from the end of the one before (or 0) to `end`, which is not its own */
struct phases {
    uint8_t count;
    struct phase at[PHASES_MAX];
    double sparsity;             /* of phase prune: share of the prunable weights that are zero after its ramp */
};

const char *phase_name(uint8_t kind);
/* The phase of a round; *first: its first round. A round past the end is of the last phase. NULL: there are none. */
const struct phase *phases_find(const struct phases *p, uint64_t round, uint64_t *first);
/* Whether `version` is what a phase ends with: its checkpoint is always cut, and the next phase waits until that is durable. */
bool phases_end(const struct phases *p, uint64_t version);
/* The phase is prune: weights that are exactly zero stay zero. */
bool phases_masked(const struct phases *p, uint64_t round);
/* Share of zero weights that this round's record has to make, 0 at rounds that make none. The ramp is cubic and takes the first half of the phase:
 * s(t) = sparsity * (1 - (1 - t)^3), Zhu and Gupta, "To prune, or not to prune" (2017); the other half trains what is left. */
double phases_ramp(const struct phases *p, uint64_t round);

#endif
