/* Kernels of the CPU: one table per instruction set, chosen once when an engine opens. All are single-threaded and sum in an order that is fixed by
 * the shapes alone, so their bits depend on inputs and instruction set, never on threads or ranks.
 *
 * Images inside a program are [n][H + 2][W + 2][Cp]: channels last, padded to a multiple of 8, with a border of one zero pixel, which is the
 * padding that 3 x 3 convolutions read. */
#ifndef VIADUCT_ENGINE_KERNELS_H
#define VIADUCT_ENGINE_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#define CHANNEL_PAD 8u
static inline uint32_t padded_channels(uint32_t c) { return (c + CHANNEL_PAD - 1) / CHANNEL_PAD * CHANNEL_PAD; }

struct image_shape { uint32_t channels, height, width, cp; };        /* cp: padded channels */
static inline size_t image_elems(struct image_shape s) { return (size_t)(s.height + 2) * (s.width + 2) * s.cp; }

/* Parameters of the kernels; pointers are listed as the kernel expects them. */
struct normalize_params { struct image_shape shape; uint32_t count; float scale[4], shift[4]; };   /* out = pixel * scale + shift */
struct conv_params { struct image_shape in, out; uint32_t count; };
struct norm_params { struct image_shape shape; uint32_t count; float eps; uint32_t use_running; };
struct pool_params { struct image_shape in, out; uint32_t count; };
struct vector_params { uint64_t elems; };
struct image_params { struct image_shape shape; uint32_t count; };
struct dense_params { uint32_t count, in, out, relu; };
struct xent_params { uint32_t count, classes; };

enum kernel_id {
    K_NORMALIZE,      /* pixels u8 [n][C][H][W] -> image */
    K_NORMALIZE_F32,  /* the same from floats in [0, 1] */
    K_PACK_CONV,      /* w [co][ci][3][3] -> forward pack [9][ci][cop] */
    K_PACK_CONV_DX,   /* w -> [9 flipped][co][cip] */
    K_CONV,           /* x image, pack -> y image */
    K_CONV_DW,        /* dy image, x image, dw [co][ci][3][3], scratch [9 * cip][cop] */
    K_NORM_STATS,     /* x image -> stats [4][cp]: mean, 1 / sqrt(var + eps), biased variance, unbiased variance */
    K_NORM_RUNNING,   /* running mean, running variance -> stats */
    K_NORM_APPLY,     /* x image, stats, gamma, beta -> y image */
    K_NORM_RELU_POOL, /* x image, stats, gamma, beta -> y image, index i32 image (position in the window, -1 where the ReLU cut) */
    K_NORM_GRAD,      /* dy image, x image, stats, gamma -> dx image, dgamma, dbeta, count * mean, count * variance */
    K_NORM_RELU_POOL_GRAD, /* dy image, index, x image, stats, gamma -> the same five */
    K_RELU,           /* x -> y, also on images: the border stays zero */
    K_RELU_GRAD,      /* dy, y -> dx */
    K_POOL,           /* x image -> y image */
    K_POOL_GRAD,      /* dy image, x image -> dx image: to the first maximum of each window */
    K_FLATTEN,        /* image -> [n][C * H * W] in channel-first order */
    K_FLATTEN_GRAD,   /* back */
    K_DENSE,          /* x [n][in], w [out][in], b -> y [n][out], ReLU on request */
    K_DENSE_DX,       /* dy, w -> dx */
    K_DENSE_DW,       /* dy, x -> dw, db */
    K_XENT,           /* logits, labels -> struct lane_metrics (host) */
    K_XENT_GRAD,      /* logits, labels -> dlogits */
    KERNELS
};
typedef void (*engine_kernel)(void *const *pointer, const void *params);   /* device.h's kernel_fn */

extern const engine_kernel kernels_avx512[KERNELS], kernels_avx2[KERNELS], kernels_base[KERNELS];

#endif
