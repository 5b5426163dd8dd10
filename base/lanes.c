#include "base/lanes.h"

#include <string.h>

#include "base/err.h"

struct lane_range lanes_of_part(unsigned lanes, unsigned i, unsigned n)
{
    CHECK(n > 0 && i < n);
    return (struct lane_range){(uint16_t)(lanes * i / n), (uint16_t)(lanes * (i + 1) / n)};
}

static unsigned nodes_under(struct lane_range node, struct lane_range range, struct lane_range *out, unsigned count)
{
    if (node.hi <= range.lo || node.lo >= range.hi)
        return count;
    if (node.lo >= range.lo && node.hi <= range.hi) {
        CHECK(count < LANE_NODES_MAX);
        out[count] = node;
        return count + 1;
    }
    uint16_t mid = (uint16_t)((node.lo + node.hi) / 2);
    count = nodes_under((struct lane_range){node.lo, mid}, range, out, count);
    return nodes_under((struct lane_range){mid, node.hi}, range, out, count);
}

unsigned lane_nodes(unsigned lanes, struct lane_range range, struct lane_range out[LANE_NODES_MAX])
{
    CHECK(lanes >= 1 && lanes <= LANES_MAX);
    if (range.lo >= range.hi)
        return 0;
    return nodes_under((struct lane_range){0, (uint16_t)lanes}, range, out, 0);
}

/* Turns of the busiest part in the quickest cut. */
static unsigned quickest(unsigned lanes, const uint32_t *units, unsigned n)
{
    uint64_t at_once = 0;
    for (unsigned i = 0; i < n; i++)
        at_once += units[i];
    return at_once ? (unsigned)((lanes + at_once - 1) / at_once) : 0;
}

struct cut { uint64_t cost; uint16_t from; };   /* of the cheapest way to give the first lanes to the first parts; where the last of them begins */
#define NO_CUT UINT64_MAX
#define NODE_COST ((uint64_t)1 << 48)           /* above all differences from proportion */

void lanes_over(unsigned lanes, const uint32_t *units, unsigned n, struct lane_range *out)
{
    struct cut best[LANE_PARTS_MAX + 1][LANES_MAX + 1];
    struct lane_range node[LANE_NODES_MAX];
    uint64_t total = 0, before = 0;
    unsigned turns = quickest(lanes, units, n), parts = 0;
    CHECK(lanes >= 1 && lanes <= LANES_MAX && n <= LANE_PARTS_MAX);
    turns += turns / 8;
    for (unsigned i = 0; i < n; i++) {
        total += units[i];
        parts += units[i] > 0;
    }
    for (unsigned hi = 0; hi <= lanes; hi++)
        best[0][hi] = (struct cut){hi == 0 ? 0 : NO_CUT, 0};
    for (unsigned i = 0; i < n; i++) {
        before += units[i];
        unsigned least = total <= lanes ? units[i] : units[i] > 0 && parts <= lanes;
        for (unsigned hi = 0; hi <= lanes; hi++) {
            uint64_t ideal = before * lanes, at = hi * total, off = at > ideal ? at - ideal : ideal - at;
            best[i + 1][hi].cost = NO_CUT;
            for (unsigned lo = 0; lo + least <= hi; lo++) {
                if (best[i][lo].cost == NO_CUT || hi - lo > (uint64_t)units[i] * turns)
                    continue;
                uint64_t cost = best[i][lo].cost + off + NODE_COST * lane_nodes(lanes, (struct lane_range){(uint16_t)lo, (uint16_t)hi}, node);
                if (cost < best[i + 1][hi].cost)
                    best[i + 1][hi] = (struct cut){cost, (uint16_t)lo};
            }
        }
    }
    uint16_t hi = (uint16_t)lanes;
    CHECK(total == 0 || best[n][lanes].cost != NO_CUT);
    for (unsigned i = n; i-- > 0;) {
        out[i] = total ? (struct lane_range){best[i + 1][hi].from, hi} : (struct lane_range){0, 0};
        hi = out[i].lo;
    }
}

bool lane_is_node(unsigned lanes, struct lane_range node)
{
    if (node.lo >= node.hi || node.hi > lanes)
        return false;
    struct lane_range n = {0, (uint16_t)lanes};
    while (!lane_range_eq(n, node)) {
        uint16_t mid = (uint16_t)((n.lo + n.hi) / 2);
        if (node.hi <= mid)
            n.hi = mid;
        else if (node.lo >= mid)
            n.lo = mid;
        else
            return false;
    }
    return true;
}

struct sample_span lane_samples(uint32_t n, unsigned lanes, unsigned lane)
{
    uint64_t first = (uint64_t)n * lane / lanes, end = (uint64_t)n * (lane + 1) / lanes;
    return (struct sample_span){first, (uint32_t)(end - first)};
}

struct summation {
    const struct lane_range *nodes;
    const float *const *parts;
    unsigned count;
    uint64_t n;
};

/* Sum of `node` written to dst, or the part itself when the node is one; scratch holds one level of n floats per call depth. */
static const float *sum_node(const struct summation *s, struct lane_range node, float *dst, float *scratch)
{
    for (unsigned i = 0; i < s->count; i++)
        if (lane_range_eq(s->nodes[i], node))
            return s->parts[i];
    CHECK(node.hi - node.lo > 1);
    uint16_t mid = (uint16_t)((node.lo + node.hi) / 2);
    const float *left = sum_node(s, (struct lane_range){node.lo, mid}, dst, scratch + s->n);
    const float *right = sum_node(s, (struct lane_range){mid, node.hi}, scratch, scratch + s->n);
    for (uint64_t i = 0; i < s->n; i++)
        dst[i] = left[i] + right[i];
    return dst;
}

void lane_sum_f32(unsigned lanes, struct lane_range total, const struct lane_range *nodes, const float *const *parts,
                  unsigned count, float *dst, uint64_t n, float *scratch)
{
    CHECK(lane_is_node(lanes, total));
    struct summation s = {nodes, parts, count, n};
    const float *sum = sum_node(&s, total, dst, scratch);
    if (sum != dst)
        memmove(dst, sum, n * sizeof *dst);
}

static double sum_node_f64(struct lane_range node, const struct lane_range *nodes, const double *parts, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (lane_range_eq(nodes[i], node))
            return parts[i];
    CHECK(node.hi - node.lo > 1);
    uint16_t mid = (uint16_t)((node.lo + node.hi) / 2);
    double left = sum_node_f64((struct lane_range){node.lo, mid}, nodes, parts, count);
    return left + sum_node_f64((struct lane_range){mid, node.hi}, nodes, parts, count);
}

double lane_sum_f64(unsigned lanes, struct lane_range total, const struct lane_range *nodes, const double *parts,
                    unsigned count)
{
    CHECK(lane_is_node(lanes, total));
    return sum_node_f64(total, nodes, parts, count);
}
