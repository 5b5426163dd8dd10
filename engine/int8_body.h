/* The integer kernels, compiled once per instruction set (int8_*.c), which brings its vectors: LANES channels in an acc_t, STEP bytes of x in one
 * instruction, blocks of PIXELS outputs times VECTORS vectors of channels in registers. Sums are of integers, so their order is free. */
#include <stdbool.h>
#include <string.h>

INLINE uint32_t steps_of(uint32_t depth) { return (depth + STEP - 1) / STEP; }

/* Where one output's inputs lie: `taps` x `taps` runs of `depth` bytes. */
struct window { const uint8_t *x; size_t stride, row, column; uint32_t taps, depth; };   /* stride: from one output to the next */
struct finish { const int32_t *offset; const float *scale; float lo, hi; int32_t zero; uint32_t cp; };

INLINE void block(const struct window *in, const uint8_t *pack, const struct finish *f, uint32_t channel, void *y, bool floats, const unsigned pixels,
                  const unsigned vectors)
{
    acc_t acc[PIXELS][VECTORS];
    uint32_t steps = steps_of(in->depth);
    size_t pack_row = (size_t)f->cp * STEP * PACK_BYTES;
    const uint8_t *w = pack + (size_t)channel * STEP * PACK_BYTES;
    for (unsigned p = 0; p < pixels; p++)
        for (unsigned v = 0; v < vectors; v++)
            acc[p][v] = acc_load(f->offset + channel + v * LANES);
    for (uint32_t ty = 0; ty < in->taps; ty++)
        for (uint32_t tx = 0; tx < in->taps; tx++) {
            const uint8_t *x = in->x + ty * in->row + tx * in->column;
            for (uint32_t s = 0; s < steps; s++, w += pack_row, x += STEP) {
                acc_t wv[VECTORS];
                for (unsigned v = 0; v < vectors; v++)
                    wv[v] = w_load(w + v * LANES * STEP * PACK_BYTES);
                for (unsigned p = 0; p < pixels; p++) {
                    acc_t xv = x_load(x + p * in->stride);
                    for (unsigned v = 0; v < vectors; v++)
                        acc[p][v] = acc_dot(acc[p][v], xv, wv[v]);
                }
            }
        }
    for (unsigned p = 0; p < pixels; p++)
        for (unsigned v = 0; v < vectors; v++) {
            uint32_t c = channel + v * LANES;
            if (floats)
                store_float((float *)y + (size_t)p * f->cp + c, acc[p][v], f->scale + c);
            else
                store_u8((uint8_t *)y + (size_t)p * f->cp + c, acc[p][v], f->scale + c, f->lo, f->hi, f->zero);
        }
}

INLINE void channels(const struct window *in, const uint8_t *pack, const struct finish *f, void *y, bool floats, const unsigned pixels)
{
    uint32_t c = 0;
    for (; c + VECTORS * LANES <= f->cp; c += VECTORS * LANES)
        block(in, pack, f, c, y, floats, pixels, VECTORS);
#if VECTORS > 2
    for (; c + 2 * LANES <= f->cp; c += 2 * LANES)
        block(in, pack, f, c, y, floats, pixels, 2);
#endif
    for (; c < f->cp; c += LANES)
        block(in, pack, f, c, y, floats, pixels, 1);
}

/* `count` outputs side by side. */
static void outputs(struct window in, const uint8_t *pack, const struct finish *f, void *y, bool floats, uint32_t count)
{
    size_t output = (size_t)f->cp * (floats ? sizeof(float) : 1);
    uint32_t i = 0;
    for (; i + PIXELS <= count; i += PIXELS, in.x += PIXELS * in.stride)
        channels(&in, pack, f, (uint8_t *)y + i * output, floats, PIXELS);
    for (; i + 4 <= count; i += 4, in.x += 4 * in.stride)
        channels(&in, pack, f, (uint8_t *)y + i * output, floats, 4);
    for (; i < count; i++, in.x += in.stride)
        channels(&in, pack, f, (uint8_t *)y + i * output, floats, 1);
}

static void conv(void *const *p, const void *params)
{
    const struct int8_params *q = params;
    struct finish f = {p[2], p[3], (float)(q->least - q->zero_out), (float)(255 - q->zero_out), q->zero_out, q->out.cp};
    size_t row = int8_row(q->out);
    for (uint32_t n = 0; n < q->count; n++) {
        const uint8_t *x = (const uint8_t *)p[0] + n * int8_image(q->in);
        uint8_t *y = (uint8_t *)p[4] + n * int8_image(q->out);
        memset(y, q->zero_out, row);
        memset(y + (q->out.height + 1) * row, q->zero_out, row);
        for (uint32_t r = 0; r < q->out.height; r++) {
            struct window in = {x + r * int8_row(q->in), q->in.cp, int8_row(q->in), q->in.cp, 3, q->in.channels};
            uint8_t *to = y + (r + 1) * row;
            memset(to, q->zero_out, q->out.cp);
            outputs(in, p[1], &f, to + q->out.cp, false, q->out.width);
            memset(to + row - q->out.cp, q->zero_out, q->out.cp);
        }
    }
}

static void dense_any(void *const *p, const struct int8_params *q, bool floats)
{
    struct finish f = {p[2], p[3], (float)(q->least - q->zero_out), (float)(255 - q->zero_out), q->zero_out, q->out.cp};
    struct window in = {p[0], q->in.cp, 0, 0, 1, q->in.channels};
    outputs(in, p[1], &f, p[4], floats, q->count);
}

static void dense(void *const *p, const void *params) { dense_any(p, params, false); }
static void dense_float(void *const *p, const void *params) { dense_any(p, params, true); }

static void pack_layer(const int8_t *w, uint8_t *pack, uint32_t taps, uint32_t depth, uint32_t channel_count, uint32_t cp)
{
    uint32_t steps = steps_of(depth);
    memset(pack, 0, (size_t)taps * steps * STEP * cp * PACK_BYTES);
    for (uint32_t c = 0; c < channel_count; c++)
        for (uint32_t i = 0; i < depth; i++)
            for (uint32_t t = 0; t < taps; t++)
                pack_put(pack, t * steps + i / STEP, cp, c, i % STEP, w[((size_t)c * depth + i) * taps + t]);
}

static void pack_conv(void *const *p, const void *params)
{
    const struct int8_params *q = params;
    pack_layer(p[0], p[1], 9, q->in.channels, q->out.channels, q->out.cp);
}

static void pack_dense(void *const *p, const void *params)
{
    const struct int8_params *q = params;
    pack_layer(p[0], p[1], 1, q->in.channels, q->out.channels, q->out.cp);
}

const struct int8_set TABLE = {NAME, {[I_PACK_CONV] = pack_conv, [I_PACK_DENSE] = pack_dense, [I_CONV] = conv, [I_DENSE] = dense, [I_DENSE_FLOAT] = dense_float}};
