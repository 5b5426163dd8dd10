/* Inside of quantized inference: kernels, programs.
 *
 * Images are [n][H + 2][W + 2][cp], channels last, with a border of one pixel that holds zero (its integer in u8 images), the padding of 3 x 3
 * convolutions; vectors are [n][cp]. The normalized input has cp 4, everything else a multiple of 16, so that kernels store whole vectors. Padded
 * channels may hold anything: their weights are 0. */
#ifndef VIADUCT_ENGINE_INT8_H
#define VIADUCT_ENGINE_INT8_H

#include "engine/engine.h"

struct int8_shape { uint32_t channels, height, width, cp; };      /* vectors: height and width 1, no border */
static inline size_t int8_row(struct int8_shape s) { return (size_t)(s.width + 2) * s.cp; }
static inline size_t int8_image(struct int8_shape s) { return (s.height + 2) * int8_row(s); }
static inline size_t int8_interior(struct int8_shape s) { return int8_row(s) + s.cp; }

struct int8_params {
    uint32_t count;
    struct int8_shape in, out;
    uint8_t zero_in, zero_out, least;  /* least: lower end of what a layer gives, zero_out behind a ReLU */
    uint8_t relu;                      /* float layers */
    float scale, scale_out, mean[4], deviation[4];
};

enum int8_kernel {
    /* one table per instruction set */
    I_PACK_CONV,      /* w s8 [co][ci][3][3] -> pack */
    I_PACK_DENSE,     /* w s8 [out][in] -> pack */
    I_CONV,           /* x u8 image, pack, offsets s32 [cp], multipliers f32 [cp] -> y u8 image */
    I_DENSE,          /* the same of u8 vectors */
    I_DENSE_FLOAT,    /* x, pack, offsets, scales -> y f32 vectors */
    /* one for all sets */
    I_OFFSETS,        /* w s8 [channels][depth], bias s32 -> offsets: bias - zero_in * sum of weights; in.channels: depth */
    I_MULTIPLIERS,    /* weights' scales f32 [channels] -> multipliers: scale * weight's / scale_out */
    I_POOL, I_FLATTEN,                /* u8 */
    F_NORMALIZE_U8,   /* pixels u8 [n][C][H][W] -> f32 image: (pixel / 255 - mean) / deviation */
    F_NORMALIZE_F32,
    F_QUANTIZE,       /* f32 -> u8, whole images or vectors */
    F_DEQUANTIZE,
    F_PACK_CONV, F_PACK_DENSE,        /* f32 -> [tap][ci][cop], [in][outp] */
    F_BIAS,           /* f32 [channels] -> [cp] */
    F_CONV, F_DENSE,  /* x, pack, bias f32 [cp] -> y, ReLU on request */
    F_RELU, F_POOL, F_FLATTEN,
    INT8_KERNELS
};
#define INT8_SET_KERNELS I_OFFSETS      /* how many differ from set to set */

struct int8_set { const char *name; kernel_fn kernel[INT8_SET_KERNELS]; };
extern const struct int8_set int8_avx512, int8_avx2, int8_plain;
extern const kernel_fn int8_common[INT8_KERNELS];   /* from I_OFFSETS on */

/* Bytes of a pack in any set's order. */
static inline uint64_t int8_pack_bytes(uint32_t taps, uint32_t depth, uint32_t cp) { return (uint64_t)taps * ((depth + 3) / 4 * 4) * cp * 2; }

/* ---- programs ---- */
#define INT8_POINTERS 6
enum int8_place { Q_ARENA, Q_CONSTANT, Q_SOURCE, Q_PIXELS };
struct int8_operand { enum int8_place place; uint64_t offset; const void *source; };
struct int8_call { enum int8_kernel kernel; uint8_t count; struct int8_operand operand[INT8_POINTERS]; struct int8_params params; };

#define INT8_CALLS_MAX 256
struct int8_value { uint64_t offset; struct int8_shape shape; bool kept; };   /* kept: in float, at this offset */
struct int8_program {
    uint32_t samples, call_count, set_up_count;
    struct int8_call call[INT8_CALLS_MAX];
    struct int8_call set_up[INT8_CALLS_MAX];    /* once: packs, offsets, biases */
    uint64_t arena_bytes, constant_bytes, logits_offset;
    struct int8_value value[GRAPH_EDGES_MAX];   /* of the graph's edges */
};
/* floats: pixels are floats; keep: float values stay readable after the program. Constants lie at the same places in every program of a model. */
int int8_lower(const struct quantized_model *m, uint32_t samples, bool floats, bool keep, struct int8_program *out, struct err *err);

#endif
