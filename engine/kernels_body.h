/* The kernels' source, compiled once per instruction set (kernels_*.c), with vectors of that set: VL floats in a `vf`, PB pixels and GR rows in a
 * register block. GCC vector extensions only: no intrinsics, so every set reads the same. */
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "engine/engine.h"
#include "engine/kernels.h"

typedef float vf __attribute__((vector_size(VL * 4), aligned(4), may_alias));
typedef float v8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t i8v __attribute__((vector_size(32), aligned(4), may_alias));
#define INLINE static inline __attribute__((always_inline))

INLINE v8 splat8(float x) { return (v8){x, x, x, x, x, x, x, x}; }
INLINE vf splat(float x) { vf v = {0}; return v + x; }
INLINE size_t row_of(struct image_shape s) { return (size_t)(s.width + 2) * s.cp; }
INLINE size_t interior(struct image_shape s) { return row_of(s) + s.cp; }

/* Only the border: kernels below write the interior. */
static void zero_border(float *image, struct image_shape s)
{
    size_t row = row_of(s);
    memset(image, 0, row * sizeof *image);
    memset(image + (s.height + 1) * row, 0, row * sizeof *image);
    for (uint32_t y = 1; y <= s.height; y++) {
        memset(image + y * row, 0, s.cp * sizeof *image);
        memset(image + y * row + row - s.cp, 0, s.cp * sizeof *image);
    }
}

/* ---- input ---- */
static void normalize(void *const *p, const void *params)
{
    const struct normalize_params *q = params;
    const uint8_t *in = p[0];
    struct image_shape s = q->shape;
    size_t plane = (size_t)s.height * s.width;
    for (uint32_t n = 0; n < q->count; n++) {
        float *out = (float *)p[1] + n * image_elems(s);
        memset(out, 0, image_elems(s) * sizeof *out);
        for (uint32_t c = 0; c < s.channels; c++)
            for (uint32_t y = 0; y < s.height; y++) {
                const uint8_t *from = in + ((size_t)n * s.channels + c) * plane + (size_t)y * s.width;
                float *to = out + (y + 1) * row_of(s) + s.cp + c;
                for (uint32_t x = 0; x < s.width; x++)
                    to[(size_t)x * s.cp] = (float)from[x] * q->scale[c] + q->shift[c];
            }
    }
}

static void normalize_f32(void *const *p, const void *params)
{
    const struct normalize_params *q = params;
    const float *in = p[0];
    struct image_shape s = q->shape;
    size_t plane = (size_t)s.height * s.width;
    for (uint32_t n = 0; n < q->count; n++) {
        float *out = (float *)p[1] + n * image_elems(s);
        memset(out, 0, image_elems(s) * sizeof *out);
        for (uint32_t c = 0; c < s.channels; c++)
            for (uint32_t y = 0; y < s.height; y++)
                for (uint32_t x = 0; x < s.width; x++)
                    out[(y + 1) * row_of(s) + (size_t)(x + 1) * s.cp + c] =
                        in[((size_t)n * s.channels + c) * plane + (size_t)y * s.width + x] * 255 * q->scale[c] + q->shift[c];
    }
}

/* ---- convolution ---- */
static void pack_conv(void *const *p, const void *params)
{
    const struct conv_params *q = params;
    const float *w = p[0];
    float *pack = p[1];
    uint32_t ci = q->in.channels, co = q->out.channels, cop = q->out.cp;
    memset(pack, 0, (size_t)9 * q->in.cp * cop * sizeof *pack);
    for (uint32_t o = 0; o < co; o++)
        for (uint32_t i = 0; i < ci; i++)
            for (uint32_t k = 0; k < 9; k++)
                pack[((size_t)k * ci + i) * cop + o] = w[((size_t)o * ci + i) * 9 + k];
}

static void pack_conv_dx(void *const *p, const void *params)
{
    const struct conv_params *q = params;
    const float *w = p[0];
    float *pack = p[1];
    uint32_t ci = q->in.channels, co = q->out.channels, cip = q->in.cp;
    memset(pack, 0, (size_t)9 * q->out.cp * cip * sizeof *pack);
    for (uint32_t o = 0; o < co; o++)
        for (uint32_t i = 0; i < ci; i++)
            for (uint32_t k = 0; k < 9; k++)
                pack[((size_t)(8 - k) * co + o) * cip + i] = w[((size_t)o * ci + i) * 9 + k];
}

/* `pixels` neighbouring output pixels, `vectors` vectors of 8 output channels; the loops unroll into registers. */
INLINE void conv_block(const float *x, size_t row, uint32_t cp, uint32_t ci, const float *w, uint32_t cop, float *y, const unsigned pixels,
                       const unsigned vectors)
{
    v8 acc[PB][3];
    for (unsigned p = 0; p < pixels; p++)
        for (unsigned v = 0; v < vectors; v++)
            acc[p][v] = splat8(0);
    for (unsigned ky = 0; ky < 3; ky++)
        for (unsigned kx = 0; kx < 3; kx++) {
            const float *xp = x + ky * row + kx * cp;
            for (uint32_t i = 0; i < ci; i++, w += cop)
                for (unsigned v = 0; v < vectors; v++) {
                    v8 wv = *(const v8 *)(w + 8 * v);
                    for (unsigned p = 0; p < pixels; p++)
                        acc[p][v] += splat8(xp[p * cp + i]) * wv;
                }
        }
    for (unsigned p = 0; p < pixels; p++)
        for (unsigned v = 0; v < vectors; v++)
            *(v8 *)(y + (size_t)p * cop + 8 * v) = acc[p][v];
}

#ifdef WIDE
typedef float v16 __attribute__((vector_size(64), aligned(4), may_alias));
INLINE void conv_block_wide(const float *x, size_t row, uint32_t cp, uint32_t ci, const float *w, uint32_t cop, float *y, const unsigned pixels)
{
    v16 acc[PB][3], zero = {0};
    for (unsigned p = 0; p < pixels; p++)
        for (unsigned v = 0; v < 3; v++)
            acc[p][v] = zero;
    for (unsigned ky = 0; ky < 3; ky++)
        for (unsigned kx = 0; kx < 3; kx++) {
            const float *xp = x + ky * row + kx * cp;
            for (uint32_t i = 0; i < ci; i++, w += cop)
                for (unsigned v = 0; v < 3; v++) {
                    v16 wv = *(const v16 *)(w + 16 * v);
                    for (unsigned p = 0; p < pixels; p++)
                        acc[p][v] += (zero + xp[p * cp + i]) * wv;
                }
        }
    for (unsigned p = 0; p < pixels; p++)
        for (unsigned v = 0; v < 3; v++)
            *(v16 *)(y + (size_t)p * cop + 16 * v) = acc[p][v];
}
#endif

static void conv_row(const float *x, size_t row, uint32_t cp, uint32_t ci, const float *pack, uint32_t cop, float *y, uint32_t width)
{
    uint32_t c = 0;
#ifdef WIDE
    for (; c + 48 <= cop; c += 48) {
        uint32_t i = 0;
        for (; i + PB <= width; i += PB)
            conv_block_wide(x + (size_t)i * cp, row, cp, ci, pack + c, cop, y + (size_t)i * cop + c, PB);
        for (; i < width; i++)
            conv_block_wide(x + (size_t)i * cp, row, cp, ci, pack + c, cop, y + (size_t)i * cop + c, 1);
    }
#endif
    for (; c + 24 <= cop; c += 24) {
        uint32_t i = 0;
        for (; i + PB <= width; i += PB)
            conv_block(x + (size_t)i * cp, row, cp, ci, pack + c, cop, y + (size_t)i * cop + c, PB, 3);
        for (; i < width; i++)
            conv_block(x + (size_t)i * cp, row, cp, ci, pack + c, cop, y + (size_t)i * cop + c, 1, 3);
    }
    for (; c < cop; c += 8) {
        uint32_t i = 0;
        for (; i + PB <= width; i += PB)
            conv_block(x + (size_t)i * cp, row, cp, ci, pack + c, cop, y + (size_t)i * cop + c, PB, 1);
        for (; i < width; i++)
            conv_block(x + (size_t)i * cp, row, cp, ci, pack + c, cop, y + (size_t)i * cop + c, 1, 1);
    }
}

static void conv(void *const *p, const void *params)
{
    const struct conv_params *q = params;
    for (uint32_t n = 0; n < q->count; n++) {
        const float *x = (const float *)p[0] + n * image_elems(q->in);
        float *y = (float *)p[2] + n * image_elems(q->out);
        zero_border(y, q->out);
        for (uint32_t r = 0; r < q->out.height; r++)
            conv_row(x + r * row_of(q->in), row_of(q->in), q->in.cp, q->in.channels, p[1], q->out.cp, y + interior(q->out) + r * row_of(q->out),
                     q->out.width);
    }
}

/* Weight gradient of up to GR (tap, input channel) pairs against 24 or 8 output channels, over one image. */
INLINE void conv_dw_block(const float *x, const float *dy, struct image_shape in, struct image_shape out, const size_t *offset, float *dw, uint32_t cop,
                          const unsigned rows, const unsigned vectors)
{
    v8 acc[GR][3];
    for (unsigned r = 0; r < rows; r++)
        for (unsigned v = 0; v < vectors; v++)
            acc[r][v] = *(const v8 *)(dw + (size_t)r * cop + 8 * v);
    for (uint32_t h = 0; h < out.height; h++) {
        const float *xr = x + h * row_of(in), *dr = dy + interior(out) + h * row_of(out);
        for (uint32_t i = 0; i < out.width; i++, xr += in.cp, dr += cop) {
            v8 d[3];
            for (unsigned v = 0; v < vectors; v++)
                d[v] = *(const v8 *)(dr + 8 * v);
            for (unsigned r = 0; r < rows; r++) {
                v8 xv = splat8(xr[offset[r]]);
                for (unsigned v = 0; v < vectors; v++)
                    acc[r][v] += xv * d[v];
            }
        }
    }
    for (unsigned r = 0; r < rows; r++)
        for (unsigned v = 0; v < vectors; v++)
            *(v8 *)(dw + (size_t)r * cop + 8 * v) = acc[r][v];
}

#ifdef WIDE
INLINE void conv_dw_block_wide(const float *x, const float *dy, struct image_shape in, struct image_shape out, const size_t *offset, float *dw,
                               uint32_t cop, const unsigned rows)
{
    v16 acc[GR][3], zero = {0};
    for (unsigned r = 0; r < rows; r++)
        for (unsigned v = 0; v < 3; v++)
            acc[r][v] = *(const v16 *)(dw + (size_t)r * cop + 16 * v);
    for (uint32_t h = 0; h < out.height; h++) {
        const float *xr = x + h * row_of(in), *dr = dy + interior(out) + h * row_of(out);
        for (uint32_t i = 0; i < out.width; i++, xr += in.cp, dr += cop) {
            v16 d0 = *(const v16 *)dr, d1 = *(const v16 *)(dr + 16), d2 = *(const v16 *)(dr + 32);
            for (unsigned r = 0; r < rows; r++) {
                v16 xv = zero + xr[offset[r]];
                acc[r][0] += xv * d0;
                acc[r][1] += xv * d1;
                acc[r][2] += xv * d2;
            }
        }
    }
    for (unsigned r = 0; r < rows; r++)
        for (unsigned v = 0; v < 3; v++)
            *(v16 *)(dw + (size_t)r * cop + 16 * v) = acc[r][v];
}
#endif

static void conv_dw_rows(const float *x, const float *dy, struct image_shape in, struct image_shape out, const size_t *offset, float *dw, uint32_t rows)
{
    uint32_t c = 0, cop = out.cp;
#ifdef WIDE
    for (; c + 48 <= cop; c += 48) {
        if (rows == GR)
            conv_dw_block_wide(x, dy + c, in, out, offset, dw + c, cop, GR);
        else
            for (uint32_t r = 0; r < rows; r++)
                conv_dw_block_wide(x, dy + c, in, out, offset + r, dw + r * cop + c, cop, 1);
    }
#endif
    for (; c + 24 <= cop; c += 24) {
        if (rows == GR)
            conv_dw_block(x, dy + c, in, out, offset, dw + c, cop, GR, 3);
        else
            for (uint32_t r = 0; r < rows; r++)
                conv_dw_block(x, dy + c, in, out, offset + r, dw + r * cop + c, cop, 1, 3);
    }
    for (; c < cop; c += 8)
        for (uint32_t r = 0; r < rows; r++)
            conv_dw_block(x, dy + c, in, out, offset + r, dw + r * cop + c, cop, 1, 1);
}

static void conv_dw(void *const *p, const void *params)
{
    const struct conv_params *q = params;
    struct image_shape in = q->in, out = q->out;
    float *dw = p[2], *scratch = p[3];
    uint32_t pairs = 9 * in.channels;
    memset(scratch, 0, (size_t)pairs * out.cp * sizeof *scratch);
    for (uint32_t n = 0; n < q->count; n++) {
        const float *dy = (const float *)p[0] + n * image_elems(out), *x = (const float *)p[1] + n * image_elems(in);
        for (uint32_t first = 0; first < pairs; first += GR) {
            size_t offset[GR];
            uint32_t rows = pairs - first < GR ? pairs - first : GR;
            for (uint32_t r = 0; r < rows; r++) {
                uint32_t tap = (first + r) / in.channels, i = (first + r) % in.channels;
                offset[r] = (tap / 3) * row_of(in) + (tap % 3) * in.cp + i;
            }
            conv_dw_rows(x, dy, in, out, offset, scratch + (size_t)first * out.cp, rows);
        }
    }
    for (uint32_t o = 0; o < out.channels; o++)
        for (uint32_t i = 0; i < in.channels; i++)
            for (uint32_t k = 0; k < 9; k++)
                dw[((size_t)o * in.channels + i) * 9 + k] = scratch[((size_t)k * in.channels + i) * out.cp + o];
}

/* ---- batch norm ---- */
/* stats: mean, inverse deviation, biased variance, unbiased variance, each cp floats. Rows are summed in fp32, rows of the lane in double. */
static void norm_stats(void *const *p, const void *params)
{
    const struct norm_params *q = params;
    struct image_shape s = q->shape;
    float *stats = p[1];
    double n = (double)q->count * s.height * s.width;
    for (uint32_t c = 0; c < s.cp; c += 8) {
        double sum[8] = {0}, squares[8] = {0};
        for (uint32_t k = 0; k < q->count; k++)
            for (uint32_t h = 0; h < s.height; h++) {
                const float *x = (const float *)p[0] + k * image_elems(s) + interior(s) + h * row_of(s) + c;
                v8 row = splat8(0);
                for (uint32_t i = 0; i < s.width; i++)
                    row += *(const v8 *)(x + (size_t)i * s.cp);
                for (unsigned j = 0; j < 8; j++)
                    sum[j] += (double)row[j];
            }
        v8 mean = splat8(0);
        for (unsigned j = 0; j < 8; j++)
            mean[j] = (float)(sum[j] / n);
        for (uint32_t k = 0; k < q->count; k++)
            for (uint32_t h = 0; h < s.height; h++) {
                const float *x = (const float *)p[0] + k * image_elems(s) + interior(s) + h * row_of(s) + c;
                v8 row = splat8(0);
                for (uint32_t i = 0; i < s.width; i++) {
                    v8 d = *(const v8 *)(x + (size_t)i * s.cp) - mean;
                    row += d * d;
                }
                for (unsigned j = 0; j < 8; j++)
                    squares[j] += (double)row[j];
            }
        for (unsigned j = 0; j < 8; j++) {
            double variance = squares[j] / n;
            stats[c + j] = mean[j];
            stats[s.cp + c + j] = (float)(1 / sqrt(variance + (double)q->eps));
            stats[2 * s.cp + c + j] = (float)variance;
            stats[3 * s.cp + c + j] = (float)(n > 1 ? squares[j] / (n - 1) : variance);
        }
    }
}

static void norm_running(void *const *p, const void *params)
{
    const struct norm_params *q = params;
    const float *mean = p[0], *variance = p[1];
    float *stats = p[2];
    memset(stats, 0, 4 * (size_t)q->shape.cp * sizeof *stats);
    for (uint32_t c = 0; c < q->shape.channels; c++) {
        stats[c] = mean[c];
        stats[q->shape.cp + c] = (float)(1 / sqrt((double)variance[c] + (double)q->eps));
    }
}

/* scale and shift of a group of 8 channels; padded channels get zero */
INLINE void affine(const float *stats, const float *gamma, const float *beta, struct image_shape s, uint32_t c, v8 *scale, v8 *shift)
{
    for (unsigned j = 0; j < 8; j++) {
        bool real = c + j < s.channels;
        float k = real ? gamma[c + j] * stats[s.cp + c + j] : 0;
        (*scale)[j] = k;
        (*shift)[j] = real ? beta[c + j] - stats[c + j] * k : 0;
    }
}

static void norm_apply(void *const *p, const void *params)
{
    const struct norm_params *q = params;
    struct image_shape s = q->shape;
    for (uint32_t k = 0; k < q->count; k++) {
        const float *x = (const float *)p[0] + k * image_elems(s);
        float *y = (float *)p[4] + k * image_elems(s);
        zero_border(y, s);
        for (uint32_t c = 0; c < s.cp; c += 8) {
            v8 scale = splat8(0), shift = splat8(0);
            affine(p[1], p[2], p[3], s, c, &scale, &shift);
            for (uint32_t h = 0; h < s.height; h++) {
                size_t at = interior(s) + h * row_of(s) + c;
                for (uint32_t i = 0; i < s.width; i++, at += s.cp)
                    *(v8 *)(y + at) = *(const v8 *)(x + at) * scale + shift;
            }
        }
    }
}

INLINE v8 choose(i8v mask, v8 a, v8 b) { return (v8)((mask & (i8v)a) | (~mask & (i8v)b)); }

static void norm_relu_pool(void *const *p, const void *params)
{
    const struct norm_params *q = params;
    struct image_shape s = q->shape, o = {s.channels, s.height / 2, s.width / 2, s.cp};
    for (uint32_t k = 0; k < q->count; k++) {
        const float *x = (const float *)p[0] + k * image_elems(s);
        float *y = (float *)p[4] + k * image_elems(o);
        int32_t *index = (int32_t *)p[5] + k * image_elems(o);
        zero_border(y, o);
        for (uint32_t c = 0; c < s.cp; c += 8) {
            v8 scale = splat8(0), shift = splat8(0);
            affine(p[1], p[2], p[3], s, c, &scale, &shift);
            for (uint32_t h = 0; h < o.height; h++) {
                const float *from = x + interior(s) + 2 * h * row_of(s) + c;
                size_t to = interior(o) + h * row_of(o) + c;
                for (uint32_t i = 0; i < o.width; i++, from += 2 * (size_t)s.cp, to += o.cp) {
                    const float *at[4] = {from, from + s.cp, from + row_of(s), from + row_of(s) + s.cp};
                    v8 best = *(const v8 *)at[0] * scale + shift;
                    i8v where = {0};
                    for (int32_t j = 1; j < 4; j++) {
                        v8 v = *(const v8 *)at[j] * scale + shift;
                        i8v more = v > best;
                        best = choose(more, v, best);
                        where = (more & (where * 0 + j)) | (~more & where);
                    }
                    i8v positive = best > splat8(0);
                    *(v8 *)(y + to) = choose(positive, best, splat8(0));
                    *(i8v *)(index + to) = (positive & where) | ~positive;
                }
            }
        }
    }
}

/* The common end of both backward norms: sums of one channel group are known; outputs of the group's parameters and states. */
INLINE void norm_grad_out(void *const *out, const float *stats, struct image_shape s, uint32_t c, uint32_t count, const double *dgamma,
                          const double *dbeta)
{
    float *dg = out[0], *db = out[1], *mean = out[2], *variance = out[3];
    for (unsigned j = 0; j < 8 && c + j < s.channels; j++) {
        dg[c + j] = (float)dgamma[j];
        db[c + j] = (float)dbeta[j];
        mean[c + j] = (float)count * stats[c + j];
        variance[c + j] = (float)count * stats[3 * s.cp + c + j];
    }
}

/* dx = gamma * inv * (g - dbeta / n - xhat * dgamma / n) = a * g + b * (x - mean) + d */
struct norm_line { v8 a, b, d, mean; };
INLINE struct norm_line norm_line_of(const float *stats, const float *gamma, struct image_shape s, uint32_t c, double n, const double *dgamma,
                                     const double *dbeta)
{
    float ka[8], kb[8], kd[8];
    for (unsigned j = 0; j < 8; j++) {
        bool real = c + j < s.channels;
        double inv = (double)stats[s.cp + c + j], k = real ? (double)gamma[c + j] * inv : 0;
        ka[j] = (float)k;
        kb[j] = (float)(-k * inv * dgamma[j] / n);
        kd[j] = (float)(-k * dbeta[j] / n);
    }
    struct norm_line l = {*(const v8 *)ka, *(const v8 *)kb, *(const v8 *)kd, *(const v8 *)(stats + c)};
    return l;
}

static void norm_grad(void *const *p, const void *params)
{
    const struct norm_params *q = params;
    struct image_shape s = q->shape;
    const float *stats = p[2];
    double n = (double)q->count * s.height * s.width;
    for (uint32_t k = 0; k < q->count; k++)
        zero_border((float *)p[4] + k * image_elems(s), s);
    for (uint32_t c = 0; c < s.cp; c += 8) {
        double dgamma[8] = {0}, dbeta[8] = {0};
        v8 mean = *(const v8 *)(stats + c), inv = *(const v8 *)(stats + s.cp + c);
        for (uint32_t k = 0; k < q->count; k++)
            for (uint32_t h = 0; h < s.height; h++) {
                size_t at = k * image_elems(s) + interior(s) + h * row_of(s) + c;
                v8 sg = splat8(0), sb = splat8(0);
                for (uint32_t i = 0; i < s.width; i++, at += s.cp) {
                    v8 g = *(const v8 *)((const float *)p[0] + at), x = *(const v8 *)((const float *)p[1] + at);
                    sb += g;
                    sg += g * ((x - mean) * inv);
                }
                for (unsigned j = 0; j < 8; j++) {
                    dgamma[j] += (double)sg[j];
                    dbeta[j] += (double)sb[j];
                }
            }
        struct norm_line l = norm_line_of(stats, p[3], s, c, n, dgamma, dbeta);
        for (uint32_t k = 0; k < q->count; k++)
            for (uint32_t h = 0; h < s.height; h++) {
                size_t at = k * image_elems(s) + interior(s) + h * row_of(s) + c;
                for (uint32_t i = 0; i < s.width; i++, at += s.cp) {
                    v8 g = *(const v8 *)((const float *)p[0] + at), x = *(const v8 *)((const float *)p[1] + at);
                    *(v8 *)((float *)p[4] + at) = l.a * g + l.b * (x - l.mean) + l.d;
                }
            }
        norm_grad_out(p + 5, stats, s, c, q->count, dgamma, dbeta);
    }
}

static void norm_relu_pool_grad(void *const *p, const void *params)
{
    const struct norm_params *q = params;
    struct image_shape s = q->shape, o = {s.channels, s.height / 2, s.width / 2, s.cp};
    const float *stats = p[3];
    double n = (double)q->count * s.height * s.width;
    size_t row = row_of(s);
    for (uint32_t k = 0; k < q->count; k++)
        zero_border((float *)p[5] + k * image_elems(s), s);
    for (uint32_t c = 0; c < s.cp; c += 8) {
        double dgamma[8] = {0}, dbeta[8] = {0};
        v8 mean = *(const v8 *)(stats + c), inv = *(const v8 *)(stats + s.cp + c);
        for (uint32_t k = 0; k < q->count; k++)
            for (uint32_t h = 0; h < o.height; h++) {
                size_t at = k * image_elems(o) + interior(o) + h * row_of(o) + c;
                const float *from = (const float *)p[2] + k * image_elems(s) + interior(s) + 2 * h * row + c;
                v8 sg = splat8(0), sb = splat8(0);
                for (uint32_t i = 0; i < o.width; i++, at += o.cp, from += 2 * (size_t)s.cp) {
                    i8v where = *(const i8v *)((const int32_t *)p[1] + at);
                    v8 g = choose(where >= 0, *(const v8 *)((const float *)p[0] + at), splat8(0));
                    v8 x = choose(where == 3, *(const v8 *)(from + row + s.cp), *(const v8 *)from);
                    x = choose(where == 2, *(const v8 *)(from + row), choose(where == 1, *(const v8 *)(from + s.cp), x));
                    sb += g;
                    sg += g * ((x - mean) * inv);
                }
                for (unsigned j = 0; j < 8; j++) {
                    dgamma[j] += (double)sg[j];
                    dbeta[j] += (double)sb[j];
                }
            }
        struct norm_line l = norm_line_of(stats, p[4], s, c, n, dgamma, dbeta);
        for (uint32_t k = 0; k < q->count; k++)
            for (uint32_t h = 0; h < s.height; h++) {
                size_t at = k * image_elems(s) + interior(s) + h * row + c;
                const float *x = (const float *)p[2] + at;
                float *dx = (float *)p[5] + at;
                bool inside = h / 2 < o.height;
                size_t window = k * image_elems(o) + interior(o) + (h / 2) * row_of(o) + c;
                for (uint32_t i = 0; i < s.width; i++, x += s.cp, dx += s.cp) {
                    v8 g = splat8(0);
                    if (inside && i / 2 < o.width) {
                        size_t w = window + (size_t)(i / 2) * o.cp;
                        i8v where = *(const i8v *)((const int32_t *)p[1] + w);
                        g = choose(where == (int32_t)(h % 2 * 2 + i % 2), *(const v8 *)((const float *)p[0] + w), g);
                    }
                    *(v8 *)dx = l.a * g + l.b * (*(const v8 *)x - l.mean) + l.d;
                }
            }
        norm_grad_out(p + 6, stats, s, c, q->count, dgamma, dbeta);
    }
}

/* ---- ReLU, pooling, flattening ---- */
static void relu(void *const *p, const void *params)
{
    const struct vector_params *q = params;
    const float *x = p[0];
    float *y = p[1];
    for (uint64_t i = 0; i < q->elems; i++)
        y[i] = x[i] > 0 ? x[i] : 0;
}

static void relu_grad(void *const *p, const void *params)
{
    const struct vector_params *q = params;
    const float *dy = p[0], *y = p[1];
    float *dx = p[2];
    for (uint64_t i = 0; i < q->elems; i++)
        dx[i] = y[i] > 0 ? dy[i] : 0;
}

static void pool(void *const *p, const void *params)
{
    const struct pool_params *q = params;
    struct image_shape s = q->in, o = q->out;
    for (uint32_t k = 0; k < q->count; k++) {
        const float *x = (const float *)p[0] + k * image_elems(s);
        float *y = (float *)p[1] + k * image_elems(o);
        zero_border(y, o);
        for (uint32_t h = 0; h < o.height; h++)
            for (uint32_t i = 0; i < o.width; i++) {
                const float *a = x + interior(s) + 2 * h * row_of(s) + 2 * (size_t)i * s.cp;
                float *to = y + interior(o) + h * row_of(o) + (size_t)i * o.cp;
                for (uint32_t c = 0; c < s.cp; c++) {
                    float m = a[c];
                    m = a[s.cp + c] > m ? a[s.cp + c] : m;
                    m = a[row_of(s) + c] > m ? a[row_of(s) + c] : m;
                    to[c] = a[row_of(s) + s.cp + c] > m ? a[row_of(s) + s.cp + c] : m;
                }
            }
    }
}

static void pool_grad(void *const *p, const void *params)
{
    const struct pool_params *q = params;
    struct image_shape s = q->in, o = q->out;
    for (uint32_t k = 0; k < q->count; k++) {
        const float *dy = (const float *)p[0] + k * image_elems(o), *x = (const float *)p[1] + k * image_elems(s);
        float *dx = (float *)p[2] + k * image_elems(s);
        memset(dx, 0, image_elems(s) * sizeof *dx);
        for (uint32_t h = 0; h < o.height; h++)
            for (uint32_t i = 0; i < o.width; i++) {
                size_t at = interior(s) + 2 * h * row_of(s) + 2 * (size_t)i * s.cp, from = interior(o) + h * row_of(o) + (size_t)i * o.cp;
                for (uint32_t c = 0; c < s.channels; c++) {
                    size_t place[4] = {at + c, at + s.cp + c, at + row_of(s) + c, at + row_of(s) + s.cp + c}, best = place[0];
                    for (unsigned j = 1; j < 4; j++)
                        best = x[place[j]] > x[best] ? place[j] : best;
                    dx[best] = dy[from + c];
                }
            }
    }
}

static void flatten(void *const *p, const void *params)
{
    const struct image_params *q = params;
    struct image_shape s = q->shape;
    size_t plane = (size_t)s.height * s.width;
    for (uint32_t n = 0; n < q->count; n++) {
        const float *x = (const float *)p[0] + n * image_elems(s) + interior(s);
        float *y = (float *)p[1] + n * plane * s.channels;
        for (uint32_t h = 0; h < s.height; h++)
            for (uint32_t i = 0; i < s.width; i++)
                for (uint32_t c = 0; c < s.channels; c++)
                    y[c * plane + (size_t)h * s.width + i] = x[h * row_of(s) + (size_t)i * s.cp + c];
    }
}

static void flatten_grad(void *const *p, const void *params)
{
    const struct image_params *q = params;
    struct image_shape s = q->shape;
    size_t plane = (size_t)s.height * s.width;
    for (uint32_t n = 0; n < q->count; n++) {
        const float *dy = (const float *)p[0] + n * plane * s.channels;
        float *dx = (float *)p[1] + n * image_elems(s);
        memset(dx, 0, image_elems(s) * sizeof *dx);
        for (uint32_t h = 0; h < s.height; h++)
            for (uint32_t i = 0; i < s.width; i++)
                for (uint32_t c = 0; c < s.channels; c++)
                    dx[interior(s) + h * row_of(s) + (size_t)i * s.cp + c] = dy[c * plane + (size_t)h * s.width + i];
    }
}

/* ---- dense layers ---- */
INLINE float sum_of(vf v)
{
    float s = 0;
    for (unsigned j = 0; j < VL; j++)
        s += v[j];
    return s;
}

/* y[m][n] = sum_k x[m][k] w[n][k]: `rows` x `cols` dot products side by side. */
INLINE void dot_block(const float *x, const float *w, uint32_t k_count, float *y, uint32_t y_stride, const unsigned rows, const unsigned cols)
{
    vf acc[4][4];
    for (unsigned m = 0; m < rows; m++)
        for (unsigned n = 0; n < cols; n++)
            acc[m][n] = splat(0);
    uint32_t k = 0;
    for (; k + VL <= k_count; k += VL)
        for (unsigned n = 0; n < cols; n++) {
            vf wv = *(const vf *)(w + (size_t)n * k_count + k);
            for (unsigned m = 0; m < rows; m++)
                acc[m][n] += *(const vf *)(x + (size_t)m * k_count + k) * wv;
        }
    for (unsigned m = 0; m < rows; m++)
        for (unsigned n = 0; n < cols; n++) {
            float s = sum_of(acc[m][n]);
            for (uint32_t t = k; t < k_count; t++)
                s += x[(size_t)m * k_count + t] * w[(size_t)n * k_count + t];
            y[(size_t)m * y_stride + n] = s;
        }
}

static void dense(void *const *p, const void *params)
{
    const struct dense_params *q = params;
    const float *x = p[0], *w = p[1], *b = p[2];
    float *y = p[3];
    uint32_t n = 0;
    for (; n < q->out; n += n + 4 <= q->out ? 4 : 1) {
        unsigned cols = n + 4 <= q->out ? 4 : 1;
        uint32_t m = 0;
        for (; m + 4 <= q->count; m += 4)
            if (cols == 4)
                dot_block(x + (size_t)m * q->in, w + (size_t)n * q->in, q->in, y + (size_t)m * q->out + n, q->out, 4, 4);
            else
                dot_block(x + (size_t)m * q->in, w + (size_t)n * q->in, q->in, y + (size_t)m * q->out + n, q->out, 4, 1);
        for (; m < q->count; m++)
            if (cols == 4)
                dot_block(x + (size_t)m * q->in, w + (size_t)n * q->in, q->in, y + (size_t)m * q->out + n, q->out, 1, 4);
            else
                dot_block(x + (size_t)m * q->in, w + (size_t)n * q->in, q->in, y + (size_t)m * q->out + n, q->out, 1, 1);
    }
    for (uint32_t m = 0; m < q->count; m++)
        for (uint32_t k = 0; k < q->out; k++) {
            float v = y[(size_t)m * q->out + k] + b[k];
            y[(size_t)m * q->out + k] = q->relu && !(v > 0) ? 0 : v;
        }
}

/* c[i][k] = sum_j a[i * si + j * sj] b[j][k]: rows x (vectors * VL) outputs in registers. */
INLINE void axpy_block(const float *a, size_t si, size_t sj, const float *b, uint32_t j_count, uint32_t width, float *c, const unsigned rows,
                       const unsigned vectors)
{
    vf acc[4][4];
    for (unsigned i = 0; i < rows; i++)
        for (unsigned v = 0; v < vectors; v++)
            acc[i][v] = splat(0);
    for (uint32_t j = 0; j < j_count; j++)
        for (unsigned v = 0; v < vectors; v++) {
            vf bv = *(const vf *)(b + (size_t)j * width + VL * v);
            for (unsigned i = 0; i < rows; i++)
                acc[i][v] += splat(a[i * si + j * sj]) * bv;
        }
    for (unsigned i = 0; i < rows; i++)
        for (unsigned v = 0; v < vectors; v++)
            *(vf *)(c + (size_t)i * width + VL * v) = acc[i][v];
}

static void axpy_product(const float *a, size_t si, size_t sj, const float *b, float *c, uint32_t i_count, uint32_t j_count, uint32_t width)
{
    uint32_t k = 0;
    for (; k + 4 * VL <= width; k += 4 * VL) {
        uint32_t i = 0;
        for (; i + 4 <= i_count; i += 4)
            axpy_block(a + i * si, si, sj, b + k, j_count, width, c + (size_t)i * width + k, 4, 4);
        for (; i < i_count; i++)
            axpy_block(a + i * si, si, sj, b + k, j_count, width, c + (size_t)i * width + k, 1, 4);
    }
    for (; k + VL <= width; k += VL) {
        uint32_t i = 0;
        for (; i + 4 <= i_count; i += 4)
            axpy_block(a + i * si, si, sj, b + k, j_count, width, c + (size_t)i * width + k, 4, 1);
        for (; i < i_count; i++)
            axpy_block(a + i * si, si, sj, b + k, j_count, width, c + (size_t)i * width + k, 1, 1);
    }
    for (; k < width; k++)
        for (uint32_t i = 0; i < i_count; i++) {
            float s = 0;
            for (uint32_t j = 0; j < j_count; j++)
                s += a[i * si + j * sj] * b[(size_t)j * width + k];
            c[(size_t)i * width + k] = s;
        }
}

static void dense_dx(void *const *p, const void *params)
{
    const struct dense_params *q = params;
    axpy_product(p[0], q->out, 1, p[1], p[2], q->count, q->out, q->in);
}

static void dense_dw(void *const *p, const void *params)
{
    const struct dense_params *q = params;
    const float *dy = p[0];
    float *db = p[3];
    axpy_product(dy, 1, q->out, p[1], p[2], q->out, q->count, q->in);
    for (uint32_t n = 0; n < q->out; n++) {
        float s = 0;
        for (uint32_t m = 0; m < q->count; m++)
            s += dy[(size_t)m * q->out + n];
        db[n] = s;
    }
}

/* ---- loss ---- */
static void xent(void *const *p, const void *params)
{
    const struct xent_params *q = params;
    const uint8_t *labels = p[1];
    struct lane_metrics m = {.samples = q->count};
    for (uint32_t n = 0; n < q->count; n++) {
        const float *z = (const float *)p[0] + (size_t)n * q->classes;
        uint32_t best = 0;
        for (uint32_t k = 1; k < q->classes; k++)
            best = z[k] > z[best] ? k : best;
        double sum = 0;
        for (uint32_t k = 0; k < q->classes; k++)
            sum += exp((double)z[k] - (double)z[best]);
        double loss = log(sum) + (double)z[best] - (double)z[labels[n]];
        m.nonfinite += !isfinite(loss);
        m.loss_sum += loss;
        m.correct += best == labels[n];
    }
    *(struct lane_metrics *)p[2] = m;
}

static void xent_grad(void *const *p, const void *params)
{
    const struct xent_params *q = params;
    const uint8_t *labels = p[1];
    for (uint32_t n = 0; n < q->count; n++) {
        const float *z = (const float *)p[0] + (size_t)n * q->classes;
        float *d = (float *)p[2] + (size_t)n * q->classes;
        float top = z[0];
        for (uint32_t k = 1; k < q->classes; k++)
            top = z[k] > top ? z[k] : top;
        double sum = 0;
        for (uint32_t k = 0; k < q->classes; k++)
            sum += exp((double)z[k] - (double)top);
        for (uint32_t k = 0; k < q->classes; k++)
            d[k] = (float)(exp((double)z[k] - (double)top) / sum - (k == labels[n]));
    }
}

const engine_kernel TABLE[KERNELS] = {
    [K_NORMALIZE] = normalize, [K_NORMALIZE_F32] = normalize_f32, [K_PACK_CONV] = pack_conv, [K_PACK_CONV_DX] = pack_conv_dx, [K_CONV] = conv,
    [K_CONV_DW] = conv_dw, [K_NORM_STATS] = norm_stats, [K_NORM_RUNNING] = norm_running, [K_NORM_APPLY] = norm_apply,
    [K_NORM_RELU_POOL] = norm_relu_pool, [K_NORM_GRAD] = norm_grad, [K_NORM_RELU_POOL_GRAD] = norm_relu_pool_grad, [K_RELU] = relu,
    [K_RELU_GRAD] = relu_grad, [K_POOL] = pool, [K_POOL_GRAD] = pool_grad, [K_FLATTEN] = flatten,
    [K_FLATTEN_GRAD] = flatten_grad, [K_DENSE] = dense, [K_DENSE_DX] = dense_dx, [K_DENSE_DW] = dense_dw, [K_XENT] = xent, [K_XENT_GRAD] = xent_grad,
};
