#include "base/magnitude.h"

#include <math.h>
#include <string.h>

#define SHIFT 14                      /* mantissa bits below a bin */
#define LOWEST (97u << 9)             /* 2^-30: exponent field 127 - 30 */

static uint32_t bin_of(float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    bits = (bits & 0x7fffffffu) >> SHIFT;
    if (bits < LOWEST)
        return 0;
    uint32_t bin = bits - LOWEST + 1;
    return bin < MAGNITUDE_BINS ? bin : MAGNITUDE_BINS - 1;
}

void magnitude_count(uint32_t bins[MAGNITUDE_BINS], const float *v, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        bins[bin_of(v[i])]++;
}

float magnitude_edge(uint32_t bin)
{
    uint32_t bits = (bin - 1 + LOWEST) << SHIFT;
    float v;
    memcpy(&v, &bits, sizeof v);
    return bin == 0 ? 0 : v;
}

float magnitude_threshold(const uint32_t *const *bins, unsigned count, double share)
{
    uint64_t total = 0, below = 0;
    for (unsigned k = 0; k < count; k++)
        for (uint32_t b = 0; b < MAGNITUDE_BINS; b++)
            total += bins[k][b];
    uint64_t wanted = (uint64_t)ceil(share * (double)total);
    uint32_t edge = 0;
    for (; edge + 1 < MAGNITUDE_BINS && below < wanted; edge++)
        for (unsigned k = 0; k < count; k++)
            below += bins[k][edge];
    return magnitude_edge(edge);
}
