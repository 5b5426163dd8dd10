/* Layout: the tensors of a model as one flat fp32 arena of blocks. Shared by engine, client, shards and checkpoints.
 *
 * Tensors lie in declaration order, each starting at a multiple of LAYOUT_ALIGN elements. A tensor slice is cut into
 * blocks of BLOCK_ELEMS elements (the last may be short). A block is the unit of ownership everywhere; its id is
 * (tensor, slice, index); slices are always 1 in this version. */
#ifndef VIADUCT_BASE_LAYOUT_H
#define VIADUCT_BASE_LAYOUT_H

#include <stdbool.h>
#include <stdint.h>
#include "base/cursor.h"
#include "base/err.h"

#define BLOCK_ELEMS 65536u
#define LAYOUT_ALIGN 64u
#define TENSOR_NAME_MAX 128
#define TENSOR_DIMS_MAX 8
#define LAYOUT_TENSORS_MAX 4096
#define LAYOUT_BLOCKS_MAX 65536

enum tensor_kind { TENSOR_PARAMETER = 1, TENSOR_STATE = 2 };   /* state: running statistics, moved by average, not by gradient */

struct tensor_desc {
    char name[TENSOR_NAME_MAX];
    enum tensor_kind kind;
    uint32_t dim_count;
    uint64_t dims[TENSOR_DIMS_MAX];
    uint64_t elems, offset;          /* offset: first element in the flat arena */
    uint32_t first_block, block_count;
};

/* Pruned are the weights of convolutions and dense layers: parameters of at least two dimensions. Biases, scales and shifts of norms have one, and there are
 * few of them; states are no weights. */
static inline bool tensor_prunable(const struct tensor_desc *t) { return t->kind == TENSOR_PARAMETER && t->dim_count >= 2; }

struct block_desc {
    uint32_t tensor, slice, index;
    uint32_t elems;
    uint64_t offset;                 /* first element in the flat arena */
};

struct layout {                      /* owned by its creator; layout_fini frees */
    uint32_t tensor_count, block_count;
    uint64_t elems;                  /* size of the flat arena, alignment included */
    struct tensor_desc *tensors;
    struct block_desc *blocks;
};

/* Declares `count` tensors of which name, kind, dim_count and dims are set; computes the rest. Refuses empty and duplicate names, zero dims. */
int layout_init(struct layout *l, const struct tensor_desc *tensors, uint32_t count, struct err *err);
void layout_fini(struct layout *l);
int layout_find(const struct layout *l, const char *name);       /* tensor index or -1 */
void layout_encode(const struct layout *l, struct writer *w);
int layout_decode(struct layout *l, struct reader *r, struct err *err);
uint64_t layout_hash(const struct layout *l);

/* Shard of each block: contiguous runs of blocks of nearly equal element counts, a pure function of layout and shard count. */
void layout_shards(const struct layout *l, uint32_t shards, uint32_t *shard_of_block);

#endif
