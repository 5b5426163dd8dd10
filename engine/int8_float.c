/* What quantized inference does in float, and integer work that no instruction set does differently. Sums run in one fixed order over the inputs,
 * vectors over output channels, and nothing is contracted: the same bits on every CPU. */
#include <math.h>
#include <string.h>

#include "engine/int8.h"

#ifdef __SANITIZE_THREAD__   /* its runtime is not there yet when clones are chosen */
#define WIDTHS
#else
#define WIDTHS __attribute__((target_clones("avx512f", "avx2", "default")))
#endif
#define INLINE static inline __attribute__((always_inline))
typedef float v16 __attribute__((vector_size(64), aligned(4), may_alias));

/* ---- in and out of integers ---- */
static void offsets(void *const *p, const void *params)
{
    const struct int8_params *q = params;
    const int8_t *w = p[0];
    const int32_t *bias = p[1];
    int32_t *to = p[2];
    for (uint32_t c = 0; c < q->out.cp; c++) {
        int32_t sum = 0;
        for (uint32_t i = 0; i < q->in.channels && c < q->out.channels; i++)
            sum += w[(size_t)c * q->in.channels + i];
        to[c] = c < q->out.channels ? bias[c] - q->zero_in * sum : 0;
    }
}

static void multipliers(void *const *p, const void *params)
{
    const struct int8_params *q = params;
    const float *weight = p[0];
    float *to = p[1];
    for (uint32_t c = 0; c < q->out.cp; c++)
        to[c] = c < q->out.channels ? q->scale * weight[c] / q->scale_out : 0;
}

static void bias(void *const *p, const void *params)
{
    const struct int8_params *q = params;
    memset(p[1], 0, q->out.cp * sizeof(float));
    memcpy(p[1], p[0], q->out.channels * sizeof(float));
}

static size_t elems_of(const struct int8_params *q) { return q->count * (q->in.height ? int8_image(q->in) : q->in.cp); }

WIDTHS static void quantize(void *const *p, const void *params)
{
    const struct int8_params *q = params;
    const float *restrict x = p[0];
    uint8_t *restrict y = p[1];
    size_t n = elems_of(q);
    float lo = (float)-q->zero_out, hi = (float)(255 - q->zero_out), s = q->scale;
    int32_t zero = q->zero_out;
    for (size_t i = 0; i < n; i++) {
        float v = x[i] / s;
        v = v > lo ? v : lo;
        v = v < hi ? v : hi;
        y[i] = (uint8_t)((int32_t)rintf(v) + zero);
    }
}

WIDTHS static void dequantize(void *const *p, const void *params)
{
    const struct int8_params *q = params;
    const uint8_t *restrict x = p[0];
    float *restrict y = p[1];
    size_t n = elems_of(q);
    for (size_t i = 0; i < n; i++)
        y[i] = (float)(x[i] - q->zero_in) * q->scale;
}

static void normalize_u8(void *const *p, const void *params)
{
    const struct int8_params *q = params;
    size_t plane = (size_t)q->out.height * q->out.width;
    for (uint32_t n = 0; n < q->count; n++) {
        float *y = (float *)p[1] + n * int8_image(q->out);
        memset(y, 0, int8_image(q->out) * sizeof *y);
        for (uint32_t c = 0; c < q->out.channels; c++) {
            const uint8_t *x = (const uint8_t *)p[0] + ((size_t)n * q->out.channels + c) * plane;
            for (uint32_t r = 0; r < q->out.height; r++)
                for (uint32_t i = 0; i < q->out.width; i++)
                    y[int8_interior(q->out) + r * int8_row(q->out) + (size_t)i * q->out.cp + c] =
                        ((float)x[(size_t)r * q->out.width + i] / 255 - q->mean[c]) / q->deviation[c];
        }
    }
}

static void normalize_f32(void *const *p, const void *params)
{
    const struct int8_params *q = params;
    size_t plane = (size_t)q->out.height * q->out.width;
    for (uint32_t n = 0; n < q->count; n++) {
        float *y = (float *)p[1] + n * int8_image(q->out);
        memset(y, 0, int8_image(q->out) * sizeof *y);
        for (uint32_t c = 0; c < q->out.channels; c++) {
            const float *x = (const float *)p[0] + ((size_t)n * q->out.channels + c) * plane;
            for (uint32_t r = 0; r < q->out.height; r++)
                for (uint32_t i = 0; i < q->out.width; i++)
                    y[int8_interior(q->out) + r * int8_row(q->out) + (size_t)i * q->out.cp + c] =
                        (x[(size_t)r * q->out.width + i] - q->mean[c]) / q->deviation[c];
        }
    }
}

/* ---- float layers ---- */
static void pack_float(const float *w, float *pack, uint32_t taps, uint32_t depth, uint32_t channels, uint32_t cp)
{
    memset(pack, 0, (size_t)taps * depth * cp * sizeof *pack);
    for (uint32_t c = 0; c < channels; c++)
        for (uint32_t i = 0; i < depth; i++)
            for (uint32_t t = 0; t < taps; t++)
                pack[((size_t)t * depth + i) * cp + c] = w[((size_t)c * depth + i) * taps + t];
}

static void pack_conv(void *const *p, const void *params)
{
    const struct int8_params *q = params;
    pack_float(p[0], p[1], 9, q->in.channels, q->out.channels, q->out.cp);
}

static void pack_dense(void *const *p, const void *params)
{
    const struct int8_params *q = params;
    pack_float(p[0], p[1], 1, q->in.channels, q->out.channels, q->out.cp);
}

struct window { const float *x; size_t stride, row, column; uint32_t taps, depth; };

INLINE void block(const struct window *in, const float *pack, const float *offset, uint32_t cp, uint32_t c, float *y, float least, const unsigned pixels)
{
    v16 acc[8] = {0}, b = *(const v16 *)(offset + c);
    const float *w = pack + c;
    for (uint32_t ty = 0; ty < in->taps; ty++)
        for (uint32_t tx = 0; tx < in->taps; tx++) {
            const float *x = in->x + ty * in->row + tx * in->column;
            for (uint32_t i = 0; i < in->depth; i++, w += cp)
                for (unsigned p = 0; p < pixels; p++)
                    acc[p] += x[p * in->stride + i] * *(const v16 *)w;
        }
    for (unsigned p = 0; p < pixels; p++) {
        v16 v = acc[p] + b;
        for (unsigned i = 0; i < 16; i++)
            y[(size_t)p * cp + c + i] = v[i] > least ? v[i] : least;
    }
}

WIDTHS static void outputs(struct window in, const float *pack, const float *offset, uint32_t cp, float *y, float least, uint32_t count)
{
    uint32_t i = 0;
    for (; i + 8 <= count; i += 8, in.x += 8 * in.stride)
        for (uint32_t c = 0; c < cp; c += 16)
            block(&in, pack, offset, cp, c, y + (size_t)i * cp, least, 8);
    for (; i < count; i++, in.x += in.stride)
        for (uint32_t c = 0; c < cp; c += 16)
            block(&in, pack, offset, cp, c, y + (size_t)i * cp, least, 1);
}

static void conv(void *const *p, const void *params)
{
    const struct int8_params *q = params;
    float least = q->relu ? 0 : -INFINITY;
    for (uint32_t n = 0; n < q->count; n++) {
        const float *x = (const float *)p[0] + n * int8_image(q->in);
        float *y = (float *)p[3] + n * int8_image(q->out);
        memset(y, 0, int8_image(q->out) * sizeof *y);
        for (uint32_t r = 0; r < q->out.height; r++) {
            struct window in = {x + r * int8_row(q->in), q->in.cp, int8_row(q->in), q->in.cp, 3, q->in.channels};
            outputs(in, p[1], p[2], q->out.cp, y + int8_interior(q->out) + r * int8_row(q->out), least, q->out.width);
        }
    }
}

static void dense(void *const *p, const void *params)
{
    const struct int8_params *q = params;
    struct window in = {p[0], q->in.cp, 0, 0, 1, q->in.channels};
    outputs(in, p[1], p[2], q->out.cp, p[3], q->relu ? 0 : -INFINITY, q->count);
}

WIDTHS static void relu(void *const *p, const void *params)
{
    const struct int8_params *q = params;
    const float *restrict x = p[0];
    float *restrict y = p[1];
    size_t n = elems_of(q);
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] > 0 ? x[i] : 0;
}

/* ---- values that stay the same ---- */
#define POOL(NAME, TYPE, BORDER)                                                                                                             \
    WIDTHS static void NAME(void *const *p, const void *params)                                                                              \
    {                                                                                                                                        \
        const struct int8_params *q = params;                                                                                                \
        size_t row = int8_row(q->in), cp = q->in.cp;                                                                                         \
        for (uint32_t n = 0; n < q->count; n++) {                                                                                            \
            const TYPE *x = (const TYPE *)p[0] + n * int8_image(q->in) + int8_interior(q->in);                                               \
            TYPE *y = (TYPE *)p[1] + n * int8_image(q->out);                                                                                 \
            memset(y, BORDER, int8_image(q->out) * sizeof *y);                                                                               \
            for (uint32_t r = 0; r < q->out.height; r++)                                                                                     \
                for (uint32_t i = 0; i < q->out.width; i++) {                                                                                \
                    const TYPE *restrict a = x + 2 * r * row + 2 * i * cp;                                                                   \
                    TYPE *restrict to = y + int8_interior(q->out) + r * int8_row(q->out) + i * cp;                                           \
                    for (size_t c = 0; c < cp; c++) {                                                                                        \
                        TYPE top = a[c] > a[cp + c] ? a[c] : a[cp + c], low = a[row + c] > a[row + cp + c] ? a[row + c] : a[row + cp + c];   \
                        to[c] = top > low ? top : low;                                                                                       \
                    }                                                                                                                        \
                }                                                                                                                            \
        }                                                                                                                                    \
    }

#define FLATTEN(NAME, TYPE)                                                                                                                  \
    static void NAME(void *const *p, const void *params)                                                                                     \
    {                                                                                                                                        \
        const struct int8_params *q = params;                                                                                                \
        for (uint32_t n = 0; n < q->count; n++) {                                                                                            \
            const TYPE *x = (const TYPE *)p[0] + n * int8_image(q->in) + int8_interior(q->in);                                               \
            TYPE *y = (TYPE *)p[1] + (size_t)n * q->out.cp;                                                                                  \
            size_t plane = (size_t)q->in.height * q->in.width;                                                                               \
            memset(y + q->out.channels, 0, (q->out.cp - q->out.channels) * sizeof *y);                                                       \
            for (uint32_t r = 0; r < q->in.height; r++)                                                                                      \
                for (uint32_t i = 0; i < q->in.width; i++)                                                                                   \
                    for (uint32_t c = 0; c < q->in.channels; c++)                                                                            \
                        y[c * plane + (size_t)r * q->in.width + i] = x[r * int8_row(q->in) + (size_t)i * q->in.cp + c];                      \
        }                                                                                                                                    \
    }

POOL(pool_u8, uint8_t, q->zero_out)
POOL(pool_f32, float, 0)
FLATTEN(flatten_u8, uint8_t)
FLATTEN(flatten_f32, float)

const kernel_fn int8_common[INT8_KERNELS] = {
    [I_OFFSETS] = offsets, [I_MULTIPLIERS] = multipliers, [F_BIAS] = bias, [I_POOL] = pool_u8, [I_FLATTEN] = flatten_u8,
    [F_NORMALIZE_U8] = normalize_u8, [F_NORMALIZE_F32] = normalize_f32,
    [F_QUANTIZE] = quantize, [F_DEQUANTIZE] = dequantize, [F_PACK_CONV] = pack_conv, [F_PACK_DENSE] = pack_dense, [F_CONV] = conv, [F_DENSE] = dense,
    [F_RELU] = relu, [F_POOL] = pool_f32, [F_FLATTEN] = flatten_f32,
};
