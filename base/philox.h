/* Counter-based randomness: Philox4x32-10 (Salmon et al., SC'11). Pure: key and counter in, numbers out.
 * key = (seed, stream); counter = (index, step, op). Every random number of a run is named by these, so any rank can make it. */
#ifndef VIADUCT_BASE_PHILOX_H
#define VIADUCT_BASE_PHILOX_H

#include <stdint.h>

struct philox { uint32_t v[4]; };
struct philox philox4x32(uint64_t key, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3);

/* Streams keep uses of one seed apart. */
enum philox_stream { STREAM_INIT = 1, STREAM_ORDER = 2, STREAM_AUGMENT = 3, STREAM_DROPOUT = 4, STREAM_CALIBRATION = 5, STREAM_BOOTSTRAP = 6 };
uint64_t philox_key(uint64_t seed, enum philox_stream stream);
static inline float philox_unit(uint32_t x) { return (float)(x >> 8) * 0x1p-24f; }   /* [0, 1) */

/* A keyed bijection of [0, n): Feistel network with cycle walking. perm(i) is the i-th sample of the pass. n >= 1. */
uint64_t permute(uint64_t key, uint32_t pass, uint64_t n, uint64_t i);
/* The order of samples: which one stands at position `p` of pass `pass` (both from 0); a keyed permutation of [0, count). */
uint64_t sample_at(uint64_t seed, uint64_t count, uint32_t pass, uint64_t p);

#endif
