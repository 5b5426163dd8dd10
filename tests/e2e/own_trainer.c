/* A training process of one's own: softmax regression on samples that it makes up, trained through client/viaduct.h alone. No engine, no data room:
 * this is what any C program can do (the run's spec says sites, batch, lanes, optimizer; the model is ours). Started by the agent of a run:
 *   viaduct run job.yaml --worker ./own_trainer export=null */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "client/viaduct.h"

enum { INPUTS = 32, CLASSES = 4, SAMPLES = 4096 };

static unsigned mix(unsigned x)
{
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    return x ^ x >> 16;
}

/* Sample i: class i mod CLASSES, its inputs a pattern of that class under noise. */
static unsigned make_sample(unsigned i, float x[INPUTS])
{
    unsigned label = i % CLASSES;
    for (unsigned k = 0; k < INPUTS; k++)
        x[k] = (mix(label * 97 + k) & 1 ? 0.5f : -0.5f) + ((float)(mix(i * INPUTS + k) & 0xffff) / 32768.0f - 1.0f);
    return label;
}

/* The arena comes zeroed, and zero is where softmax regression starts. */
static void zeros(void *arg, unsigned long seed, float *arena)
{
    (void)arg;
    (void)seed;
    (void)arena;
}

/* Adds one sample's gradient; returns its loss. */
static double learn(const float *w, const float *b, unsigned i, float *dw, float *db, unsigned long *correct)
{
    float x[INPUTS], z[CLASSES], sum = 0, top;
    unsigned label = make_sample(i, x), best = 0;
    for (unsigned c = 0; c < CLASSES; c++) {
        z[c] = b[c];
        for (unsigned k = 0; k < INPUTS; k++)
            z[c] += w[c * INPUTS + k] * x[k];
        best = z[c] > z[best] ? c : best;
    }
    top = z[best];
    for (unsigned c = 0; c < CLASSES; c++)
        sum += z[c] = expf(z[c] - top);
    for (unsigned c = 0; c < CLASSES; c++) {
        float d = z[c] / sum - (c == label);
        db[c] += d;
        for (unsigned k = 0; k < INPUTS; k++)
            dw[c * INPUTS + k] += d * x[k];
    }
    *correct += best == label;
    return -log((double)(z[label] / sum));
}

int main(void)
{
    static const struct viaduct_tensor tensors[] = {{.name = "weight", .dim_count = 2, .dims = {CLASSES, INPUTS}}, {.name = "bias", .dim_count = 1, .dims = {CLASSES}}};
    struct viaduct_config config = {.rank = -1, .incarnation = -1, .tensor = tensors, .tensor_count = 2, .samples_per_pass = SAMPLES, .init = zeros};
    struct viaduct_error error = {0};
    struct viaduct_step step;
    struct viaduct_totals totals[64];
    struct viaduct *v = NULL;
    int rc = viaduct_join(&config, &v, &error);
    while (rc == 0 && (rc = viaduct_next(v, &step, &error)) == 0 && !step.finished) {
        for (unsigned lane = step.lane_lo; lane < step.lane_hi; lane++) {
            struct viaduct_totals *t = &totals[lane - step.lane_lo];
            float *gradient = viaduct_gradient(v, lane), *dw = gradient + viaduct_offset(v, 0), *db = gradient + viaduct_offset(v, 1);
            unsigned long first;
            unsigned count;
            viaduct_lane(v, lane, &first, &count);
            memset(gradient, 0, viaduct_elements(v) * sizeof *gradient);
            memset(t, 0, sizeof *t);
            for (t->samples = 0; t->samples < count; t->samples++)
                t->loss_sum += learn(step.weights + viaduct_offset(v, 0), step.weights + viaduct_offset(v, 1), (unsigned)viaduct_sample(v, first + t->samples), dw, db,
                                     &t->correct);
        }
        rc = viaduct_contribute(v, totals, &error);
    }
    viaduct_leave(v);
    if (rc < 0)
        fprintf(stderr, "own_trainer: %s\n", error.text);
    return rc == 0 ? 0 : rc == -11 ? 75 : 1;
}
