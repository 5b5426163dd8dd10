/* Programs: a graph lowered to a flat list of kernel calls over one arena, for a fixed number of samples. */
#ifndef VIADUCT_ENGINE_PROGRAM_H
#define VIADUCT_ENGINE_PROGRAM_H

#include "engine/engine.h"
#include "engine/kernels.h"

/* Where a call's pointer comes from; the base is known when a lane runs. */
enum place { AT_NONE, AT_ARENA, AT_WEIGHTS, AT_PACKED, AT_GRADIENT, AT_PIXELS, AT_LABELS, AT_METRICS };
struct operand { enum place place; uint64_t offset; };   /* bytes */

struct call {
    enum kernel_id kernel;
    uint8_t count;
    struct operand operand[12];
    union {
        struct normalize_params normalize; struct conv_params conv; struct norm_params norm; struct pool_params pool; struct vector_params vector;
        struct image_params image; struct dense_params dense; struct xent_params xent;
    } params;
};

enum program_kind { PROGRAM_TRAIN, PROGRAM_EVAL, PROGRAM_INFER };   /* INFER: float pixels in, logits stay in the arena */
#define PROGRAM_CALLS_MAX GRAPH_NODES_MAX
struct program {
    uint32_t samples;
    enum program_kind kind;
    uint32_t call_count;
    struct call call[PROGRAM_CALLS_MAX];
    uint64_t arena_bytes;             /* as planned by liveness */
    uint64_t logits_offset;           /* in the arena */
};

/* Packed forms of the weights, made once per step: a list of calls and the size of their buffer. */
struct packing { uint32_t call_count; struct call call[64]; uint64_t bytes; uint64_t forward_of[LAYOUT_TENSORS_MAX / 8], backward_of[LAYOUT_TENSORS_MAX / 8]; };

int packing_plan(const struct graph *g, const struct layout *l, struct packing *out, struct err *err);
/* Lowers with fusion: batch norm + ReLU + pool become one call each way, dense + ReLU one forward call. fuse = false lowers every node by itself. */
int program_lower(const struct graph *g, const struct layout *l, const struct packing *packing, uint32_t samples, enum program_kind kind, bool fuse,
                  struct program *out, struct err *err);

/* Offsets for buffers that live over [first, last] calls so that those alive together do not overlap: best fit by decreasing size. */
struct interval { uint64_t bytes; uint32_t first, last; uint64_t offset; };
uint64_t memory_plan(struct interval *intervals, uint32_t count);

#endif
