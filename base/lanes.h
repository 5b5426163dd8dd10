/* Lanes: the fixed binary tree that every sum of gradients follows, whoever computes it.
 *
 * The global batch of a round is cut into L lanes. Node [lo, hi) of the tree over [0, L) has the children [lo, mid) and
 * [mid, hi), mid = (lo + hi) / 2; a leaf is one lane. The sum of a node is sum(left) + sum(right), in that order. A rank
 * holds a contiguous lane range and ships the sums of the maximal tree nodes inside it, so the bits of the total do not
 * depend on how lanes are spread over ranks and gangs. Nodes are nested or disjoint, hence names never half-overlap. */
#ifndef VIADUCT_BASE_LANES_H
#define VIADUCT_BASE_LANES_H

#include <stdbool.h>
#include <stdint.h>

#define LANES_MAX 64
#define LANE_NODES_MAX 12          /* maximal nodes inside one contiguous range of LANES_MAX lanes */

struct lane_range { uint16_t lo, hi; };

static inline bool lane_range_eq(struct lane_range a, struct lane_range b) { return a.lo == b.lo && a.hi == b.hi; }
static inline uint64_t lane_mask(struct lane_range r)   /* bit per lane */
{
    uint64_t below_hi = r.hi >= 64 ? ~0ull : (1ull << r.hi) - 1;
    return r.lo >= 64 ? 0 : below_hi & ~((1ull << r.lo) - 1);
}

/* Lanes of part `i` of `n`: [L*i/n, L*(i+1)/n). */
struct lane_range lanes_of_part(unsigned lanes, unsigned i, unsigned n);
/* Contiguous ranges for n parts, in their order; part i computes units[i] lanes at the same time (0: it gets none). Nobody is idle while there are lanes enough.
 * A lane is not divided, so many cuts take equally long; each node is a sum that crosses to the shards. Of the cuts that take at most an eighth longer than the
 * quickest: the one of fewest nodes, then the nearest to the parts' proportions. */
#define LANE_PARTS_MAX 8
void lanes_over(unsigned lanes, const uint32_t *units, unsigned n, struct lane_range *out);
/* The maximal tree nodes inside `range`, in lane order; returns their number (0 for an empty range). */
unsigned lane_nodes(unsigned lanes, struct lane_range range, struct lane_range out[LANE_NODES_MAX]);
bool lane_is_node(unsigned lanes, struct lane_range node);
/* Samples of lane `lane` when a round holds n samples: positions [n*l/L, n*(l+1)/L) within the round. */
struct sample_span { uint64_t first; uint32_t count; };
struct sample_span lane_samples(uint32_t n, unsigned lanes, unsigned lane);

/* Adds the nodes of an exact cover in tree order. `parts[i]` is the sum of node `nodes[i]`; nodes are disjoint, sorted by
 * lo, and together exactly `total`. The result is written to dst, which may be parts[0] but no other part.
 * scratch: n floats for each level, i.e. LANE_DEPTH_MAX * n floats. */
#define LANE_DEPTH_MAX 7
void lane_sum_f32(unsigned lanes, struct lane_range total, const struct lane_range *nodes, const float *const *parts,
                  unsigned count, float *dst, uint64_t n, float *scratch);
double lane_sum_f64(unsigned lanes, struct lane_range total, const struct lane_range *nodes, const double *parts,
                    unsigned count);

#endif
