/* Integer kernels with AVX-512 VNNI: vpdpbusd sums four products u8 * s8 into 32 bits without saturation on the way. */
#include <immintrin.h>

#include "engine/int8.h"

#define INLINE static inline __attribute__((always_inline))
#define LANES 16u
#define STEP 4u                       /* bytes of x in one instruction */
#define PIXELS 8u
#define VECTORS 3u
#define NAME "avx512vnni"
#define TABLE int8_avx512
typedef __m512i acc_t;

INLINE acc_t acc_load(const int32_t *p) { return _mm512_loadu_si512(p); }
INLINE acc_t x_load(const uint8_t *p)
{
    int32_t four;
    __builtin_memcpy(&four, p, sizeof four);
    return _mm512_set1_epi32(four);
}
INLINE acc_t w_load(const uint8_t *p) { return _mm512_loadu_si512(p); }
INLINE acc_t acc_dot(acc_t a, acc_t x, acc_t w) { return _mm512_dpbusd_epi32(a, x, w); }
INLINE void store_float(float *y, acc_t a, const float *scale) { _mm512_storeu_ps(y, _mm512_mul_ps(_mm512_cvtepi32_ps(a), _mm512_loadu_ps(scale))); }
INLINE void store_u8(uint8_t *y, acc_t a, const float *m, float lo, float hi, int32_t zero)
{
    __m512 v = _mm512_mul_ps(_mm512_cvtepi32_ps(a), _mm512_loadu_ps(m));
    v = _mm512_min_ps(_mm512_max_ps(v, _mm512_set1_ps(lo)), _mm512_set1_ps(hi));
    _mm_storeu_si128((__m128i *)y, _mm512_cvtusepi32_epi8(_mm512_add_epi32(_mm512_cvtps_epi32(v), _mm512_set1_epi32(zero))));
}
/* [step][cp][4] */
INLINE void pack_put(uint8_t *pack, uint32_t step, uint32_t cp, uint32_t channel, uint32_t byte, int8_t w)
{
    pack[((size_t)step * cp + channel) * STEP + byte] = (uint8_t)w;
}
#define PACK_BYTES 1u

#include "engine/int8_body.h"
