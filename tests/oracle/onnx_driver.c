/* Writes what ONNX Runtime is held against: for each of some models a folder with model.onnx, model.safetensors, random inputs, the engine's logits,
 * and every tensor as raw bytes. onnx_driver OUT-FOLDER */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "engine/engine.h"
#include "export/export.h"

#define SAMPLES 64

struct example { const char *name; struct model_config config; };
static const struct example example[] = {
    {"demo-cnn", {.family = MODEL_CNN, .classes = 10, .channels = 1, .height = 28, .width = 28, .conv_count = 2, .conv = {24, 48}, .hidden_count = 1,
                  .hidden = {128}, .batch_norm = true, .mean = {0.286f}, .deviation = {0.353f, 1, 1, 1}}},
    {"odd-cnn", {.family = MODEL_CNN, .classes = 5, .channels = 3, .height = 19, .width = 13, .conv_count = 2, .conv = {3, 25}, .hidden_count = 2,
                 .hidden = {7, 9}, .batch_norm = true, .mean = {0.4f, 0.5f, 0.1f}, .deviation = {0.3f, 0.2f, 0, 1}}},
    {"plain-cnn", {.family = MODEL_CNN, .classes = 2, .channels = 2, .height = 8, .width = 9, .conv_count = 1, .conv = {40}, .mean = {0.5f, 0.25f},
                   .deviation = {0.5f, 0.25f, 1, 1}}},
    {"mlp", {.family = MODEL_MLP, .classes = 10, .channels = 1, .height = 28, .width = 28, .hidden_count = 2, .hidden = {128, 33}, .mean = {0.286f},
             .deviation = {0.353f, 1, 1, 1}}},
    {"linear", {.family = MODEL_MLP, .classes = 3, .channels = 3, .height = 4, .width = 5, .mean = {0.5f, 0.4f, 0.3f}, .deviation = {0.25f, 0.5f, 0.75f, 1}}},
};

static int put(const char *dir, const char *name, const void *p, size_t bytes, struct err *err)
{
    char path[1300];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return fs_write_file(&fs_real, path, p, bytes, err);
}

static int infer(const struct exported_model *m, const float *pixels, float *logits, struct err *err)
{
    struct device *d;
    struct engine *e;
    TRY(device_open("cpu", &d, err));
    TRY(engine_open(m->graph, &m->layout, d, 1, SAMPLES, &e, err));
    TRY(engine_set_weights(e, m->weights, err));
    TRY(engine_infer(e, pixels, SAMPLES, logits, err));
    engine_close(e);
    device_close(d);
    return 0;
}

static int put_tensors(const struct exported_model *m, const char *dir, struct err *err)
{
    char list[8192];
    size_t used = 0;
    for (uint32_t t = 0; t < m->layout.tensor_count; t++) {
        const struct tensor_desc *d = &m->layout.tensors[t];
        char name[200];
        snprintf(name, sizeof name, "tensor.%s", d->name);
        TRY(put(dir, name, m->weights + d->offset, d->elems * sizeof(float), err));
        used += (size_t)snprintf(list + used, sizeof list - used, "%s", d->name);
        for (uint32_t i = 0; i < d->dim_count; i++)
            used += (size_t)snprintf(list + used, sizeof list - used, " %llu", (unsigned long long)d->dims[i]);
        used += (size_t)snprintf(list + used, sizeof list - used, "\n");
    }
    return put(dir, "tensors.txt", list, used, err);
}

static int run(const struct example *x, const char *root, struct err *err)
{
    struct exported_model m = {.config = x->config};
    char dir[1000];
    uint64_t key = philox_key(11, STREAM_INIT);
    snprintf(dir, sizeof dir, "%s/%s", root, x->name);
    TRY(graph_build(&m.config, &m.graph, err));
    TRY(graph_layout(m.graph, &m.layout, err));
    m.weights_bytes = m.layout.elems * sizeof(float);
    m.weights = pages_alloc(m.weights_bytes, err);
    graph_init_weights(m.graph, &m.layout, 3, m.weights);
    for (uint64_t i = 0; i < m.layout.elems; i++)   /* norms and statistics of a trained model */
        m.weights[i] += 0.2f * philox_unit(philox4x32(key, (uint32_t)i, 0, 0, 1).v[0]);
    size_t sample = (size_t)m.config.channels * m.config.height * m.config.width;
    float *pixels = calloc(SAMPLES * sample, sizeof *pixels), *logits = calloc(SAMPLES * (size_t)m.config.classes, sizeof *logits);
    for (size_t i = 0; i < SAMPLES * sample; i++)
        pixels[i] = philox_unit(philox4x32(key, (uint32_t)i, 0, 0, 2).v[0]);
    TRY(exported_model_write(&m, dir, EXPORT_ONNX | EXPORT_SAFETENSORS, err));
    TRY(infer(&m, pixels, logits, err));
    TRY(put_tensors(&m, dir, err));
    TRY(put(dir, "pixels", pixels, SAMPLES * sample * sizeof *pixels, err));
    TRY(put(dir, "logits", logits, SAMPLES * (size_t)m.config.classes * sizeof *logits, err));
    free(pixels);
    free(logits);
    exported_model_close(&m);
    return 0;
}

int main(int argc, char **argv)
{
    struct err err = ERR_INIT;
    int rc = argc == 2 ? 0 : err_set(&err, ERR_USAGE, "one folder is needed");
    for (unsigned i = 0; i < ARRAY_LEN(example) && rc == 0; i++)
        rc = run(&example[i], argv[1], &err);
    if (rc < 0)
        fprintf(stderr, "onnx_driver: %s\n", err.text);
    return rc < 0;
}
