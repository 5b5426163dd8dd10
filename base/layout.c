#include "base/layout.h"

#include <stdlib.h>
#include <string.h>

#include "base/checksum.h"

/* A tensor of this many elements would not fit any machine this version can plan for. */
#define TENSOR_ELEMS_MAX (1ull << 40)

static int measure(struct tensor_desc *t, struct err *err)
{
    if (t->name[0] == '\0' || memchr(t->name, 0, sizeof t->name) == NULL)
        return err_set(err, ERR_USAGE, "a tensor needs a name of 1 to %d bytes", TENSOR_NAME_MAX - 1);
    if (t->kind != TENSOR_PARAMETER && t->kind != TENSOR_STATE)
        return err_set(err, ERR_USAGE, "tensor '%s' has the unknown kind %d", t->name, (int)t->kind);
    if (t->dim_count > TENSOR_DIMS_MAX)
        return err_set(err, ERR_USAGE, "tensor '%s' has %u dimensions, at most %d are allowed", t->name, t->dim_count,
                       TENSOR_DIMS_MAX);
    t->elems = 1;
    for (uint32_t d = 0; d < t->dim_count; d++) {
        if (t->dims[d] == 0 || t->dims[d] > TENSOR_ELEMS_MAX / t->elems)
            return err_set(err, ERR_USAGE, "tensor '%s': dimension %u of %llu is zero or too large", t->name, d,
                           (unsigned long long)t->dims[d]);
        t->elems *= t->dims[d];
    }
    t->block_count = (uint32_t)((t->elems + BLOCK_ELEMS - 1) / BLOCK_ELEMS);
    return 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int refuse_duplicates(const struct layout *l, struct err *err)
{
    const char **names = malloc(l->tensor_count * sizeof *names);
    if (!names)
        return err_set(err, ERR_NO_MEMORY, "no memory for %u tensor names", l->tensor_count);
    for (uint32_t t = 0; t < l->tensor_count; t++)
        names[t] = l->tensors[t].name;
    qsort(names, l->tensor_count, sizeof *names, by_name);
    int rc = 0;
    for (uint32_t t = 1; t < l->tensor_count && rc == 0; t++)
        if (strcmp(names[t - 1], names[t]) == 0)
            rc = err_set(err, ERR_USAGE, "two tensors are named '%s'; names must differ", names[t]);
    free(names);
    return rc;
}

static int lay_out(struct layout *l, struct err *err)
{
    uint64_t offset = 0, blocks = 0;
    for (uint32_t i = 0; i < l->tensor_count; i++) {
        struct tensor_desc *t = &l->tensors[i];
        TRY(measure(t, err));
        t->offset = offset;
        t->first_block = (uint32_t)blocks;
        offset += (t->elems + LAYOUT_ALIGN - 1) / LAYOUT_ALIGN * LAYOUT_ALIGN;
        blocks += t->block_count;
        if (blocks > LAYOUT_BLOCKS_MAX)
            return err_set(err, ERR_USAGE, "the model has more than %d blocks of %u elements", LAYOUT_BLOCKS_MAX, BLOCK_ELEMS);
    }
    TRY(refuse_duplicates(l, err));
    l->elems = offset;
    l->block_count = (uint32_t)blocks;
    l->blocks = calloc(blocks, sizeof *l->blocks);
    if (!l->blocks)
        return err_set(err, ERR_NO_MEMORY, "no memory for %u blocks", l->block_count);
    for (uint32_t i = 0; i < l->tensor_count; i++) {
        const struct tensor_desc *t = &l->tensors[i];
        for (uint32_t b = 0; b < t->block_count; b++) {
            uint64_t first = (uint64_t)b * BLOCK_ELEMS, left = t->elems - first;
            l->blocks[t->first_block + b] = (struct block_desc){
                .tensor = i, .index = b, .elems = (uint32_t)(left < BLOCK_ELEMS ? left : BLOCK_ELEMS), .offset = t->offset + first};
        }
    }
    return 0;
}

int layout_init(struct layout *l, const struct tensor_desc *tensors, uint32_t count, struct err *err)
{
    if (count == 0 || count > LAYOUT_TENSORS_MAX)
        return err_set(err, ERR_USAGE, "a model needs 1 to %d tensors, not %u", LAYOUT_TENSORS_MAX, count);
    struct layout made = {.tensor_count = count, .tensors = calloc(count, sizeof *made.tensors)};
    if (!made.tensors)
        return err_set(err, ERR_NO_MEMORY, "no memory for %u tensors", count);
    memcpy(made.tensors, tensors, count * sizeof *tensors);
    int rc = lay_out(&made, err);
    if (rc < 0) {
        layout_fini(&made);
        return rc;
    }
    *l = made;
    return 0;
}

void layout_fini(struct layout *l)
{
    free(l->tensors);
    free(l->blocks);
    *l = (struct layout){0};
}

int layout_find(const struct layout *l, const char *name)
{
    for (uint32_t i = 0; i < l->tensor_count; i++)
        if (strcmp(l->tensors[i].name, name) == 0)
            return (int)i;
    return -1;
}

void layout_encode(const struct layout *l, struct writer *w)
{
    put_u32(w, l->tensor_count);
    for (uint32_t i = 0; i < l->tensor_count; i++) {
        const struct tensor_desc *t = &l->tensors[i];
        put_str(w, t->name);
        put_u8(w, (uint8_t)t->kind);
        put_u8(w, (uint8_t)t->dim_count);
        for (uint32_t d = 0; d < t->dim_count; d++)
            put_u64(w, t->dims[d]);
    }
}

int layout_decode(struct layout *l, struct reader *r, struct err *err)
{
    uint32_t count = get_count(r, LAYOUT_TENSORS_MAX);
    if (r->bad || count == 0 || reader_left(r) / 5 < count)   /* the shortest tensor takes 5 bytes */
        return err_set(err, ERR_CORRUPT, "layout: the tensor count is zero, over its limit or longer than the message");
    struct tensor_desc *tensors = calloc(count, sizeof *tensors);
    if (!tensors)
        return err_set(err, ERR_NO_MEMORY, "no memory for %u tensors", count);
    for (uint32_t i = 0; i < count && !r->bad; i++) {
        struct tensor_desc *t = &tensors[i];
        get_str(r, t->name, sizeof t->name);
        t->kind = (enum tensor_kind)get_u8(r);
        t->dim_count = get_u8(r);
        if (t->dim_count > TENSOR_DIMS_MAX)
            r->bad = true;
        for (uint32_t d = 0; d < t->dim_count && !r->bad; d++)
            t->dims[d] = get_u64(r);
    }
    int rc = r->bad ? err_set(err, ERR_CORRUPT, "layout: truncated or out of limits") : layout_init(l, tensors, count, err);
    free(tensors);
    return rc;
}

uint64_t layout_hash(const struct layout *l)
{
    uint64_t h = l->tensor_count;
    for (uint32_t i = 0; i < l->tensor_count; i++) {
        const struct tensor_desc *t = &l->tensors[i];
        uint32_t head[2] = {(uint32_t)t->kind, t->dim_count};
        h = xxh64_of(t->name, strlen(t->name), h);
        h = xxh64_of(head, sizeof head, h);
        h = xxh64_of(t->dims, t->dim_count * sizeof t->dims[0], h);
    }
    return h;
}

void layout_shards(const struct layout *l, uint32_t shards, uint32_t *shard_of_block)
{
    CHECK(shards > 0);
    uint64_t total = 0, before = 0;
    for (uint32_t b = 0; b < l->block_count; b++)
        total += l->blocks[b].elems;
    for (uint32_t b = 0; b < l->block_count; b++) {
        /* The shard in which the block's middle element falls. */
        uint64_t middle = before + l->blocks[b].elems / 2, shard = middle * shards / total;
        shard_of_block[b] = (uint32_t)(shard < shards ? shard : shards - 1);
        before += l->blocks[b].elems;
    }
}
