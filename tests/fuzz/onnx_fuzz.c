/* An ONNX file; what is read must write and read again to the same bytes. Starts from a small export, since random bytes rarely are one. */
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "model/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);

static void write_again(const void *data, size_t size, void **out, size_t *n)
{
    struct err e = ERR_INIT;
    struct graph *g;
    struct layout l;
    float *w;
    CHECK(onnx_read(data, size, &g, &l, &w, &e) == 0);
    CHECK(onnx_write(g, &l, w, out, n, &e) == 0);
    pages_free(w, l.elems * sizeof *w);
    layout_fini(&l);
    graph_free(g);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err e = ERR_INIT;
    struct graph *g;
    struct layout l;
    float *w;
    void *one, *two;
    size_t n, m;
    if (onnx_read(data, size, &g, &l, &w, &e) < 0)
        return 0;
    CHECK(onnx_write(g, &l, w, &one, &n, &e) == 0);
    write_again(one, n, &two, &m);
    CHECK(n == m && memcmp(one, two, n) == 0);
    free(one);
    free(two);
    pages_free(w, l.elems * sizeof *w);
    layout_fini(&l);
    graph_free(g);
    return 0;
}

static size_t example(uint8_t *data, size_t max, unsigned seed)
{
    static const struct model_config model[2] = {
        {.family = MODEL_MLP, .classes = 2, .channels = 1, .height = 1, .width = 2, .mean = {0.5f}, .deviation = {0.25f, 1, 1, 1}},
        {.family = MODEL_CNN, .classes = 2, .channels = 1, .height = 2, .width = 2, .conv_count = 1, .conv = {1}, .batch_norm = true, .mean = {0.5f},
         .deviation = {0.25f, 1, 1, 1}}};
    struct err e = ERR_INIT;
    struct graph *g;
    struct layout l;
    void *file;
    size_t n;
    CHECK(graph_build(&model[seed % 2], &g, &e) == 0 && graph_layout(g, &l, &e) == 0);
    float *w = calloc(l.elems, sizeof *w);
    CHECK(w && onnx_write(g, &l, w, &file, &n, &e) == 0);
    n = n < max ? n : max;
    memcpy(data, file, n);
    free(file);
    free(w);
    layout_fini(&l);
    graph_free(g);
    return n;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    return size < 64 ? example(data, max, seed) : LLVMFuzzerMutate(data, size, max);
}
