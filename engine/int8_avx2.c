/* Integer kernels with AVX2: bytes widened to 16 bits, pairs summed by vpmaddwd into 32. vpmaddubsw would saturate. */
#include <immintrin.h>

#include "engine/int8.h"

#define INLINE static inline __attribute__((always_inline))
#define LANES 8u
#define STEP 2u
#define PIXELS 4u
#define VECTORS 2u
#define NAME "avx2"
#define TABLE int8_avx2
typedef __m256i acc_t;

INLINE acc_t acc_load(const int32_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
INLINE acc_t x_load(const uint8_t *p) { return _mm256_set1_epi32(p[0] | p[1] << 16); }
INLINE acc_t w_load(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
INLINE acc_t acc_dot(acc_t a, acc_t x, acc_t w) { return _mm256_add_epi32(a, _mm256_madd_epi16(x, w)); }
INLINE void store_float(float *y, acc_t a, const float *scale) { _mm256_storeu_ps(y, _mm256_mul_ps(_mm256_cvtepi32_ps(a), _mm256_loadu_ps(scale))); }
INLINE void store_u8(uint8_t *y, acc_t a, const float *m, float lo, float hi, int32_t zero)
{
    __m256 v = _mm256_mul_ps(_mm256_cvtepi32_ps(a), _mm256_loadu_ps(m));
    v = _mm256_min_ps(_mm256_max_ps(v, _mm256_set1_ps(lo)), _mm256_set1_ps(hi));
    __m256i q = _mm256_add_epi32(_mm256_cvtps_epi32(v), _mm256_set1_epi32(zero));
    __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
    _mm_storel_epi64((__m128i *)y, _mm_packus_epi16(words, words));
}
/* [step][cp][2] of 16 bits */
INLINE void pack_put(uint8_t *pack, uint32_t step, uint32_t cp, uint32_t channel, uint32_t byte, int8_t w)
{
    int16_t wide = w;
    __builtin_memcpy(pack + (((size_t)step * cp + channel) * STEP + byte) * 2, &wide, sizeof wide);
}
#define PACK_BYTES 2u

#include "engine/int8_body.h"
