/* Histograms of |w| and the threshold that makes a share of weights zero. The bins are cut out of the floats' bits, so counting is exact: the sum of
 * histograms does not depend on who counted what, and the weights below a bin's edge are those in the bins before it. */
#ifndef VIADUCT_BASE_MAGNITUDE_H
#define VIADUCT_BASE_MAGNITUDE_H

#include <stdint.h>

/* 512 bins an octave from 2^-30 to 4; what is smaller is in the first, what is larger, or no number, in the last. */
#define MAGNITUDE_BINS 16384u

void magnitude_count(uint32_t bins[MAGNITUDE_BINS], const float *v, uint64_t n);   /* adds to what is there */
float magnitude_edge(uint32_t bin);                          /* smallest |w| of a bin */
/* The lowest edge with at least `share` of all counted weights below it; 0: none has to go. bins: `count` histograms, added up. */
float magnitude_threshold(const uint32_t *const *bins, unsigned count, double share);

#endif
