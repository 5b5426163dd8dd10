/* Integer kernels in plain C, for any CPU: one channel at a time. */
#include <math.h>

#include "engine/int8.h"

#define INLINE static inline __attribute__((always_inline))
#define LANES 1u
#define STEP 1u
#define PIXELS 4u
#define VECTORS 4u
#define NAME "plain"
#define TABLE int8_plain
typedef int32_t acc_t;

INLINE acc_t acc_load(const int32_t *p) { return *p; }
INLINE acc_t x_load(const uint8_t *p) { return *p; }
INLINE acc_t w_load(const uint8_t *p) { return (int8_t)*p; }
INLINE acc_t acc_dot(acc_t a, acc_t x, acc_t w) { return (acc_t)((uint32_t)a + (uint32_t)(x * w)); }   /* partial sums may wrap; whole ones fit */
INLINE void store_float(float *y, acc_t a, const float *scale) { *y = (float)a * *scale; }
INLINE void store_u8(uint8_t *y, acc_t a, const float *m, float lo, float hi, int32_t zero)
{
    *y = (uint8_t)((int32_t)rintf(fminf(fmaxf((float)a * *m, lo), hi)) + zero);
}
INLINE void pack_put(uint8_t *pack, uint32_t step, uint32_t cp, uint32_t channel, uint32_t byte, int8_t w)
{
    (void)byte;
    pack[(size_t)step * cp + channel] = (uint8_t)w;
}
#define PACK_BYTES 1u

#include "engine/int8_body.h"
