/* A quantized ONNX file; what is read must write and read again to the same bytes. Starts from a small export, since random bytes rarely are one. */
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "model/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err e = ERR_INIT;
    struct quantized_model *m, *again;
    void *one, *two;
    size_t n, k;
    onnx_is_quantized(data, size);
    if (onnx_read_quantized(data, size, &m, &e) < 0)
        return 0;
    CHECK(onnx_write_quantized(m, &one, &n, &e) == 0);
    CHECK(onnx_read_quantized(one, n, &again, &e) == 0);
    CHECK(onnx_write_quantized(again, &two, &k, &e) == 0);
    CHECK(n == k && memcmp(one, two, n) == 0);
    free(one);
    free(two);
    quantized_model_free(m);
    quantized_model_free(again);
    return 0;
}

static size_t example(uint8_t *data, size_t max, unsigned seed)
{
    static const struct model_config model[2] = {
        {.family = MODEL_MLP, .classes = 2, .channels = 2, .height = 1, .width = 2, .mean = {0.5f}, .deviation = {0.25f, 1, 1, 1}},
        {.family = MODEL_CNN, .classes = 2, .channels = 1, .height = 4, .width = 4, .conv_count = 1, .conv = {2}, .batch_norm = true, .mean = {0.5f},
         .deviation = {0.25f, 1, 1, 1}}};
    struct err e = ERR_INIT;
    struct graph *g;
    struct layout l;
    struct quantized_model *m;
    struct value_range range[GRAPH_EDGES_MAX];
    void *file;
    size_t n;
    for (unsigned i = 0; i < GRAPH_EDGES_MAX; i++)
        range[i] = (struct value_range){i % 2 ? -1 : 0, 1};
    CHECK(graph_build(&model[seed % 2], &g, &e) == 0 && graph_layout(g, &l, &e) == 0);
    float *w = calloc(l.elems, sizeof *w);
    CHECK(w != NULL);
    graph_init_weights(g, &l, seed, w);
    CHECK(quantized_model_fold(g, &l, w, &m, &e) == 0);
    quantized_model_plan(m, seed / 2 % 4);
    quantized_model_set(m, range);
    CHECK(onnx_write_quantized(m, &file, &n, &e) == 0);
    n = n < max ? n : max;
    memcpy(data, file, n);
    free(file);
    free(w);
    quantized_model_free(m);
    layout_fini(&l);
    graph_free(g);
    return n;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    return size < 64 ? example(data, max, seed) : LLVMFuzzerMutate(data, size, max);
}
