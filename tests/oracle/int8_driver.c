/* What ONNX Runtime's integer inference is held against.
 *   int8_driver models OUT     some models with random weights, quantized with every choice of float layers: model.onnx, pixels, the engine's logits
 *   int8_driver run RUN OUT    of a run: the engine's logits of the quantized file over data.eval, and the calibration images that were used */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "engine/engine.h"
#include "export/parts.h"

#define SAMPLES 64u

struct example { const char *name; struct model_config config; };
static const struct example example[] = {
    {"cnn", {.family = MODEL_CNN, .classes = 10, .channels = 1, .height = 28, .width = 28, .conv_count = 2, .conv = {24, 48}, .hidden_count = 1,
             .hidden = {128}, .batch_norm = true, .mean = {0.286f}, .deviation = {0.353f, 1, 1, 1}}},
    {"odd", {.family = MODEL_CNN, .classes = 5, .channels = 3, .height = 19, .width = 13, .conv_count = 2, .conv = {3, 25}, .hidden_count = 1,
             .hidden = {7}, .batch_norm = true, .mean = {0.4f, 0.5f, 0.1f}, .deviation = {0.3f, 0.2f, 0, 1}}},
    {"mlp", {.family = MODEL_MLP, .classes = 10, .channels = 3, .height = 8, .width = 8, .hidden_count = 2, .hidden = {64, 33}, .mean = {0.286f, 0.3f, 0.5f},
             .deviation = {0.353f, 0.353f, 0.353f, 1}}},
    {"two", {.family = MODEL_MLP, .classes = 2, .channels = 1, .height = 1, .width = 2, .mean = {2}, .deviation = {1e-6f, 1, 1, 1}}},
    {"dead", {.family = MODEL_CNN, .classes = 256, .channels = 4, .height = 6, .width = 4, .conv_count = 1, .conv = {3}, .hidden_count = 1, .hidden = {20},
              .batch_norm = true, .mean = {0.1f, 0.9f, 0.5f, 0}, .deviation = {0.25f, 1e-3f, 3, 1}}},
};

static int put(const char *dir, const char *name, const void *p, size_t bytes, struct err *err)
{
    char path[1300];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return fs_write_file(&fs_real, path, p, bytes, err);
}

static int infer(const struct quantized_model *m, const float *pixels, uint32_t count, float *logits, struct err *err)
{
    struct device *d;
    struct quantized_engine *e;
    TRY(device_open("cpu", &d, err));
    TRY(quantized_engine_open(m, d, 50, NULL, &e, err));
    TRY(quantized_engine_infer(e, pixels, count, logits, err));
    quantized_engine_close(e);
    device_close(d);
    return 0;
}

/* dead: the first 3 channels of each layer give nothing, as pruned ones. */
static void random_weights(struct exported_model *m, uint64_t seed, bool dead)
{
    graph_init_weights(m->graph, &m->layout, seed, m->weights);
    for (uint64_t i = 0; i < m->layout.elems; i++)   /* norms and statistics of a trained model */
        m->weights[i] += 0.1f * philox_unit(philox4x32(seed, (uint32_t)i, 0, 0, 1).v[0]);
    for (uint32_t t = 0; dead && t < m->layout.tensor_count; t++) {
        const struct tensor_desc *d = &m->layout.tensors[t];
        for (uint64_t i = 0; !strstr(d->name, "running_var") && i < d->elems / d->dims[0] * 3; i++)
            m->weights[d->offset + i] = 0;
    }
}

static int quantize(const struct exported_model *m, struct dataset *data, uint64_t layers, struct exported_model *out, struct err *err)
{
    struct calibration *c;
    struct value_range range[GRAPH_EDGES_MAX];
    *out = (struct exported_model){.config = m->config};
    TRY(quantized_model_fold(m->graph, &m->layout, m->weights, &out->quantized, err));
    TRY(calibration_measure(out->quantized, data, 1, SAMPLES, &c, err));
    calibration_ranges(c, CALIBRATION_MSE, range);
    calibration_free(c);
    quantized_model_plan(out->quantized, layers);
    quantized_model_set(out->quantized, range);
    return 0;
}

static int put_model(const struct exported_model *m, const struct dataset *data, const char *dir, struct err *err)
{
    size_t elems = (size_t)SAMPLES * data->sample_bytes, classes = m->config.classes, used = 0;
    float *pixels = calloc(elems, sizeof *pixels), *logits = calloc(SAMPLES * classes, sizeof *logits);
    char layers[2048] = "";
    CHECK(pixels && logits);
    for (size_t i = 0; i < elems; i++)
        pixels[i] = (float)data->pixels[i] / 255;
    for (uint32_t i = 0; i < m->quantized->layer_count; i++)
        used += (size_t)snprintf(layers + used, sizeof layers - used, "%s %s\n", quantized_layer_name(m->quantized, i),
                                 m->quantized->layer[i].on ? "int8" : "float");
    TRY(exported_model_write(m, dir, EXPORT_ONNX | EXPORT_SAFETENSORS, err));
    TRY(infer(m->quantized, pixels, SAMPLES, logits, err));
    TRY(put(dir, "layers.txt", layers, used, err));
    TRY(put(dir, "pixels", pixels, elems * sizeof *pixels, err));
    TRY(put(dir, "logits", logits, SAMPLES * classes * sizeof *logits, err));
    free(pixels);
    free(logits);
    return 0;
}

static int one_example(const struct example *x, uint64_t seed, const char *root, struct err *err)
{
    struct exported_model m = {.config = x->config}, q;
    struct dataset data = {.count = SAMPLES, .sample_bytes = x->config.channels * x->config.height * x->config.width};
    TRY(graph_build(&m.config, &m.graph, err));
    TRY(graph_layout(m.graph, &m.layout, err));
    m.weights_bytes = m.layout.elems * sizeof(float);
    m.weights = pages_alloc(m.weights_bytes, err);
    data.pixels = malloc((size_t)SAMPLES * data.sample_bytes);
    CHECK(m.weights && data.pixels);
    random_weights(&m, seed, strcmp(x->name, "dead") == 0);
    for (size_t i = 0; i < (size_t)SAMPLES * data.sample_bytes; i++)
        data.pixels[i] = (uint8_t)philox4x32(seed, (uint32_t)i, 0, 0, 2).v[0];
    uint64_t all = (1ull << (x->config.conv_count + x->config.hidden_count + 1)) - 1;
    for (uint64_t layers = 1; layers <= all; layers++) {
        char dir[1000];
        snprintf(dir, sizeof dir, "%s/%s-%llx", root, x->name, (unsigned long long)layers);
        TRY(quantize(&m, &data, layers, &q, err));
        TRY(put_model(&q, &data, dir, err));
        exported_model_close(&q);
    }
    dataset_close(&data);
    exported_model_close(&m);
    return 0;
}

static int all_examples(const char *root, struct err *err)
{
    for (unsigned i = 0; i < ARRAY_LEN(example); i++)
        TRY(one_example(&example[i], 20 + i, root, err));
    return 0;
}

/* ---- a run ---- */
static int put_calibration(const struct job_spec *s, const char *dir, struct err *err)
{
    struct dataset train;
    TRY(dataset_open_idx(&train, s->train.images, s->train.labels, 0, 0, 0, s->model.classes, err));
    uint64_t n = MIN(s->quantize.images, train.count);
    float *pixels = malloc(n * train.sample_bytes * sizeof *pixels);
    CHECK(pixels != NULL);
    for (uint64_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < train.sample_bytes; k++)
            pixels[i * train.sample_bytes + k] = (float)train.pixels[calibration_sample(s->seed, train.count, i) * train.sample_bytes + k] / 255;
    TRY(put(dir, "calibration", pixels, n * train.sample_bytes * sizeof *pixels, err));
    free(pixels);
    dataset_close(&train);
    return 0;
}

static int of_run(const char *run, const char *dir, struct err *err)
{
    static struct job job;
    struct exported_model m;
    struct dataset eval;
    char path[1200];
    snprintf(path, sizeof path, "%s/spec.yaml", run);
    TRY(job_load(&job, path, NULL, 0, false, err));
    snprintf(path, sizeof path, "%s/export/quantized/model.onnx", run);
    TRY(exported_model_open(path, &m, err));
    TRY(open_eval_data(&job.spec, &m.config, &eval, err));
    size_t elems = eval.count * eval.sample_bytes;
    float *pixels = malloc(elems * sizeof *pixels), *logits = malloc(eval.count * m.config.classes * sizeof *logits);
    CHECK(pixels && logits);
    for (size_t i = 0; i < elems; i++)
        pixels[i] = (float)eval.pixels[i] / 255;
    TRY(infer(m.quantized, pixels, (uint32_t)eval.count, logits, err));
    TRY(put(dir, "pixels", pixels, elems * sizeof *pixels, err));
    TRY(put(dir, "labels", eval.labels, eval.count, err));
    TRY(put(dir, "logits", logits, eval.count * m.config.classes * sizeof *logits, err));
    TRY(put_calibration(&job.spec, dir, err));
    free(pixels);
    free(logits);
    dataset_close(&eval);
    exported_model_close(&m);
    job_fini(&job);
    return 0;
}

int main(int argc, char **argv)
{
    struct err err = ERR_INIT;
    int rc = argc == 3 && strcmp(argv[1], "models") == 0  ? all_examples(argv[2], &err)
             : argc == 4 && strcmp(argv[1], "run") == 0 ? of_run(argv[2], argv[3], &err)
                                                        : err_set(&err, ERR_USAGE, "int8_driver models OUT | run RUN OUT");
    if (rc < 0)
        fprintf(stderr, "int8_driver: %s\n", err.text);
    return rc < 0;
}
