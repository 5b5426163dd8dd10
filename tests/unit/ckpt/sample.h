/* A small checkpoint for tests: tensors whose blocks are cut in the middle of a row, over two parts, with two optimizer slots. */
#ifndef VIADUCT_TESTS_CKPT_SAMPLE_H
#define VIADUCT_TESTS_CKPT_SAMPLE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "ckpt/ckpt.h"

struct sample { struct layout l; float *weights, *slot[2]; uint32_t *shard; struct ckpt_meta meta; };

static inline int sample_open(struct sample *s, uint64_t step, struct err *e)
{
    static const struct tensor_desc tensors[] = {
        {.name = "fc/weight", .kind = TENSOR_PARAMETER, .dim_count = 2, .dims = {70, 1001}},   /* 65,536 = 65 rows and 471 elements */
        {.name = "conv.weight", .kind = TENSOR_PARAMETER, .dim_count = 4, .dims = {7, 5, 3, 3}},
        {.name = "scale", .kind = TENSOR_PARAMETER, .dim_count = 0},
        {.name = "running_mean", .kind = TENSOR_STATE, .dim_count = 1, .dims = {10}}};
    memset(s, 0, sizeof *s);
    TRY(layout_init(&s->l, tensors, 4, e));
    s->weights = calloc(s->l.elems, 4);
    s->slot[0] = calloc(s->l.elems, 4);
    s->slot[1] = calloc(s->l.elems, 4);
    s->shard = calloc(s->l.block_count, sizeof *s->shard);
    for (uint64_t i = 0; i < s->l.elems; i++) {
        s->weights[i] = (float)i + (float)step;
        s->slot[0][i] = -(float)i;
        s->slot[1][i] = 0.5f * (float)i;
    }
    for (uint32_t b = 0; b < s->l.block_count; b++)   /* the border lies inside fc/weight, in the middle of row 65 */
        s->shard[b] = b < 1 ? 0 : 1;
    s->meta = (struct ckpt_meta){.job_id = "00112233aabbccdd", .generation = 1, .step = step, .pass = 2, .position = 512, .log_position = 77, .view = 5, .seed = 1,
                                 .samples_per_pass = 60000, .phase = "train", .optimizer = "adamw", .slot_count = 2, .slot_name = {"exp_avg", "exp_avg_sq"},
                                 .spec_sha256 = "", .data_sha256 = "", .model_json = "{\"a\":1}", .spec_yaml = "viaduct: v1\n"};
    return 0;
}

static inline void sample_close(struct sample *s)
{
    layout_fini(&s->l);
    free(s->weights);
    free(s->slot[0]);
    free(s->slot[1]);
    free(s->shard);
}

static inline int sample_write(const struct sample *s, const struct fs *fs, const char *dir, struct err *e)
{
    struct ckpt_manifest m = {.meta = s->meta, .layout = s->l, .part_count = 2, .part_of_block = s->shard};
    for (uint32_t part = 0; part < 2; part++) {
        uint32_t block[64], n = 0;
        const float *weights[64], *slots[128];
        for (uint32_t b = 0; b < s->l.block_count; b++)
            if (s->shard[b] == part)
                block[n++] = b;
        for (uint32_t i = 0; i < n; i++) {
            weights[i] = s->weights + s->l.blocks[block[i]].offset;
            for (uint32_t k = 0; k < 2; k++)
                slots[k * n + i] = s->slot[k] + s->l.blocks[block[i]].offset;
        }
        struct ckpt_part_data data = {&s->l, n, block, weights, 2, slots};
        TRY(ckpt_part_write(fs, dir, s->meta.generation, s->meta.step, part, &data, &s->meta, &m.part[part], e));
    }
    return ckpt_publish(fs, dir, &m, e);
}

#endif
