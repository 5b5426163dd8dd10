/* Ways to quantize, in the order of their cost, until one passes the gate: the calibration that the spec asks for, the others, more images, then
 * layers back to float, the most sensitive one first. Sensitivity: squared error of the logits on calibration images with that layer alone quantized. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "engine/engine.h"
#include "export/parts.h"

#define MORE_IMAGES 4u               /* times */
#define JUDGED_IMAGES 256u           /* for sensitivity */
#define ALL_LAYERS (~0ull)

struct climb {
    const struct ladder_input *in;
    struct ladder *out;
    struct quantized_model *m;       /* taken over by out->best at the end */
    struct calibration *few, *many;
    struct value_range range[GRAPH_EDGES_MAX];
    uint8_t *predicted;
    uint64_t best_layers;
    enum job_calibration best_how;
    bool best_many;
};

static void apply(struct climb *c, enum job_calibration how, bool many, uint64_t layers)
{
    calibration_ranges(many ? c->many : c->few, how, c->range);
    quantized_model_plan(c->m, layers);
    quantized_model_set(c->m, c->range);
}

static void name_rung(const struct climb *c, struct rung *r, enum job_calibration how, bool many)
{
    int n = snprintf(r->name, sizeof r->name, "%s ranges of %llu images", job_calibration_name(how),
                     (unsigned long long)calibration_images(many ? c->many : c->few));
    const char *before = ", in float: ";
    for (uint32_t i = 0; i < c->m->layer_count && n < (int)sizeof r->name; i++)
        if (!c->m->layer[i].on) {
            n += snprintf(r->name + n, sizeof r->name - (size_t)n, "%s%s", before, quantized_layer_name(c->m, i));
            before = ", ";
        }
}

static uint64_t layers_on(const struct quantized_model *m)
{
    uint64_t on = 0;
    for (uint32_t i = 0; i < m->layer_count; i++)
        on |= (uint64_t)m->layer[i].on << i;
    return on;
}

/* One rung; better ones are remembered. */
static int rung(struct climb *c, enum job_calibration how, bool many, uint64_t layers, bool *passed, struct err *err)
{
    const struct ladder_input *in = c->in;
    struct ladder *l = c->out;
    struct exported_model candidate = {.config = in->model->config, .quantized = c->m};
    CHECK(l->count < RUNGS_MAX);
    struct rung *r = &l->rung[l->count];
    apply(c, how, many, layers);
    name_rung(c, r, how, many);
    r->layers = layers_on(c->m);
    if (!r->layers)
        return err_set(err, ERR_JOB, "no layer can be quantized: each output sums more than %u products; leave out export.quantize", QUANT_DEPTH_MAX);
    TRY(exported_model_predict(&candidate, in->eval, 0, c->predicted, &r->eval, err));
    r->gate = gate_decide(in->eval->labels, in->with_float, c->predicted, in->eval->count, in->spec->seed, in->spec->quantize.max_drop);
    log_info(in->log, "quantized by %s: accuracy %.4f, %+.4f to float, lower 95 %% bound %+.4f, allowed %+.4f: %s", r->name, r->eval.accuracy, 0 - r->gate.drop,
             r->gate.low95, 0 - r->gate.max_drop, r->gate.passed ? "passed" : "not enough");
    *passed = r->gate.passed;
    if (l->count == 0 || r->gate.passed || r->gate.low95 > l->rung[l->chosen].gate.low95) {
        l->chosen = l->count;
        memcpy(l->predicted, c->predicted, in->eval->count);
        c->best_layers = layers;
        c->best_how = how;
        c->best_many = many;
    }
    l->count++;
    return 0;
}

/* ---- sensitivity ---- */
static int logits_of(struct climb *c, struct device *d, const uint8_t *pixels, uint32_t count, float *logits, struct err *err)
{
    struct quantized_engine *e;
    size_t elems = (size_t)count * c->in->train->sample_bytes;
    float *floats = malloc(elems * sizeof *floats);
    if (!floats)
        return err_set(err, ERR_NO_MEMORY, "no memory for %u images", count);
    for (size_t i = 0; i < elems; i++)
        floats[i] = (float)pixels[i] / 255;
    int rc = quantized_engine_open(c->m, d, 64, NULL, &e, err);
    if (rc == 0) {
        rc = quantized_engine_infer(e, floats, count, logits, err);
        quantized_engine_close(e);
    }
    free(floats);
    return rc;
}

static int measure_layers(struct climb *c, struct device *d, const uint8_t *pixels, uint32_t count, float *logits[2], double error[QUANT_LAYERS_MAX],
                          struct err *err)
{
    size_t n = (size_t)count * c->in->model->config.classes;
    apply(c, c->best_how, c->best_many, 0);
    TRY(logits_of(c, d, pixels, count, logits[0], err));
    for (uint32_t i = 0; i < c->m->layer_count; i++) {
        apply(c, c->best_how, c->best_many, 1ull << i);
        TRY(logits_of(c, d, pixels, count, logits[1], err));
        error[i] = 0;
        for (size_t k = 0; k < n; k++) {
            double off = (double)logits[1][k] - (double)logits[0][k];
            error[i] += off * off / (double)n;
        }
    }
    return 0;
}

static int sensitivity(struct climb *c, double error[QUANT_LAYERS_MAX], struct err *err)
{
    const struct dataset *train = c->in->train;
    uint32_t count = (uint32_t)MIN(JUDGED_IMAGES, train->count);
    size_t n = (size_t)count * c->in->model->config.classes;
    struct device *d = NULL;
    uint8_t *pixels = malloc((size_t)count * train->sample_bytes);
    float *logits[2] = {malloc(n * sizeof(float)), malloc(n * sizeof(float))};
    int rc = pixels && logits[0] && logits[1] ? device_open("cpu", &d, err) : err_set(err, ERR_NO_MEMORY, "no memory for %u images", count);
    for (uint32_t i = 0; i < count && rc == 0; i++)
        memcpy(pixels + (size_t)i * train->sample_bytes, train->pixels + calibration_sample(c->in->spec->seed, train->count, i) * train->sample_bytes,
               train->sample_bytes);
    if (rc == 0)
        rc = measure_layers(c, d, pixels, count, logits, error, err);
    if (d)
        device_close(d);
    free(pixels);
    free(logits[0]);
    free(logits[1]);
    return rc;
}

static int layers_to_float(struct climb *c, bool *passed, struct err *err)
{
    double error[QUANT_LAYERS_MAX];
    enum job_calibration how = c->best_how;
    bool many = c->best_many;
    TRY(sensitivity(c, error, err));
    quantized_model_plan(c->m, ALL_LAYERS);
    for (uint64_t layers = layers_on(c->m); layers & (layers - 1) && !*passed;) {   /* until one is left */
        uint32_t worst = (uint32_t)__builtin_ctzll(layers);
        for (uint32_t i = worst + 1; i < c->m->layer_count; i++)
            if (layers >> i & 1 && error[i] > error[worst])
                worst = i;
        log_info(c->in->log, "most sensitive layer: %s, squared error of the logits %.3g", quantized_layer_name(c->m, worst), error[worst]);
        layers &= ~(1ull << worst);
        TRY(rung(c, how, many, layers, passed, err));
    }
    return 0;
}

/* ---- ---- */
static int rungs(struct climb *c, struct err *err)
{
    const struct job_quantize *q = &c->in->spec->quantize;
    bool passed = false;
    TRY(calibration_measure(c->m, c->in->train, c->in->spec->seed, q->images, &c->few, err));
    TRY(rung(c, q->calibration, false, ALL_LAYERS, &passed, err));
    for (int how = CALIBRATION_MSE; how <= CALIBRATION_MINMAX && !passed; how++)
        if (how != (int)q->calibration)
            TRY(rung(c, (enum job_calibration)how, false, ALL_LAYERS, &passed, err));
    if (!passed) {
        quantized_model_plan(c->m, 0);
        TRY(calibration_measure(c->m, c->in->train, c->in->spec->seed, (uint64_t)q->images * MORE_IMAGES, &c->many, err));
        TRY(rung(c, c->best_how, true, ALL_LAYERS, &passed, err));
    }
    if (!passed)
        TRY(layers_to_float(c, &passed, err));
    apply(c, c->best_how, c->best_many, c->best_layers);
    c->out->images = calibration_images(c->best_many ? c->many : c->few);
    return 0;
}

/* Samples that never differ say nothing of those that were not drawn: of n alike, a share of up to 1 - 0.05^(1/n) may be lost (Clopper and Pearson 1934). */
static void warn_of_few_samples(const struct ladder_input *in)
{
    double max_drop = in->spec->quantize.max_drop, unseen = 1 - pow(0.05, 1 / (double)in->eval->count);
    if (max_drop > 0 && unseen > max_drop)
        log_warn(in->log, "data.eval holds %llu samples: with 95 %% confidence a drop of %.4f can go unseen in so few, and export.gate.max_drop is %g; the gate needs more",
                 (unsigned long long)in->eval->count, unseen, max_drop);
}

int ladder_climb(const struct ladder_input *in, struct ladder *out, struct err *err)
{
    warn_of_few_samples(in);
    *out = (struct ladder){.count = 0};
    struct climb *c = calloc(1, sizeof *c);
    if (!c)
        return err_set(err, ERR_NO_MEMORY, "no memory to quantize the model");
    *c = (struct climb){.in = in, .out = out, .predicted = malloc(in->eval->count)};
    out->predicted = malloc(in->eval->count);
    int rc = c->predicted && out->predicted ? 0 : err_set(err, ERR_NO_MEMORY, "no memory for %llu answers", (unsigned long long)in->eval->count);
    if (rc == 0)
        rc = quantized_model_fold(in->model->graph, &in->model->layout, in->model->weights, &c->m, err);
    if (rc == 0)
        rc = rungs(c, err);
    out->best = (struct exported_model){.config = in->model->config, .quantized = c->m};
    calibration_free(c->few);
    calibration_free(c->many);
    free(c->predicted);
    free(c);
    if (rc < 0)
        ladder_close(out);
    return rc;
}

void ladder_close(struct ladder *l)
{
    exported_model_close(&l->best);
    free(l->predicted);
    *l = (struct ladder){.count = 0};
}
