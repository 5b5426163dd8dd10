/* Histograms of values on training images, and ranges cut from them. A histogram covers [-reach, reach) with equal bins; reach is a power of two that
 * doubles, merging bins in pairs, so the result does not depend on the order of the values. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "engine/engine.h"
#include "export/parts.h"

#define BINS 4096u
#define LEVELS 256u
#define BATCH 64u
#define PERCENTILE 99.99

struct histogram { float lo, hi, reach; uint64_t bin[BINS]; };   /* lo <= 0 <= hi: zero is always in the range */

struct calibration {
    const struct graph *graph;
    uint64_t images;
    struct histogram *of[GRAPH_EDGES_MAX];
    bool no_memory;
};

uint64_t calibration_sample(uint64_t seed, uint64_t count, uint64_t p) { return permute(philox_key(seed, STREAM_CALIBRATION), 0, count, p); }

/* ---- counting ---- */
static void widen(struct histogram *h, float v)
{
    while (fabsf(v) >= h->reach) {
        uint64_t wide[BINS] = {0};
        for (uint32_t i = 0; i < BINS; i++)
            wide[BINS / 4 + i / 2] += h->bin[i];
        memcpy(h->bin, wide, sizeof wide);
        h->reach *= 2;
    }
}

static void count_values(struct histogram *h, const float *v, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        if (!isfinite(v[i]))
            continue;   /* one image of the training set; over data.eval the model's loss is finite */
        h->lo = fminf(h->lo, v[i]);
        h->hi = fmaxf(h->hi, v[i]);
        if (fabsf(v[i]) >= h->reach)
            widen(h, v[i]);
        uint32_t bin = (uint32_t)((v[i] / h->reach + 1) * (BINS / 2));
        h->bin[MIN(bin, BINS - 1)]++;
    }
}

static void look(void *arg, uint16_t edge, const float *v, uint32_t count, uint64_t elems)
{
    struct calibration *c = arg;
    if (quantized_range_edge(c->graph, edge) != edge || edge == c->graph->logits)
        return;
    if (!c->of[edge] && (c->of[edge] = calloc(1, sizeof *c->of[edge])))
        c->of[edge]->reach = 0x1p-10f;
    if (c->of[edge])
        count_values(c->of[edge], v, count * elems);
    else
        c->no_memory = true;
}

static int observe(struct calibration *c, struct quantized_engine *e, const struct dataset *train, uint64_t seed, struct err *err)
{
    uint8_t *batch = malloc(BATCH * (size_t)train->sample_bytes);
    int rc = batch ? 0 : err_set(err, ERR_NO_MEMORY, "no memory for %u images", BATCH);
    for (uint64_t at = 0, n; at < c->images && rc == 0; at += n) {
        n = MIN(BATCH, c->images - at);
        for (uint64_t i = 0; i < n; i++)
            memcpy(batch + i * train->sample_bytes, train->pixels + calibration_sample(seed, train->count, at + i) * train->sample_bytes, train->sample_bytes);
        rc = quantized_engine_observe(e, batch, (uint32_t)n, look, c, err);
        if (rc == 0 && c->no_memory)
            rc = err_set(err, ERR_NO_MEMORY, "no memory for histograms of the model's values");
    }
    free(batch);
    return rc;
}

int calibration_measure(const struct quantized_model *in_float, const struct dataset *train, uint64_t seed, uint64_t images, struct calibration **out,
                        struct err *err)
{
    struct device *d = NULL;
    struct quantized_engine *e = NULL;
    struct calibration *c = calloc(1, sizeof *c);
    if (!c)
        return err_set(err, ERR_NO_MEMORY, "no memory to calibrate");
    *c = (struct calibration){.graph = in_float->graph, .images = MIN(images, train->count)};
    int rc = device_open("cpu", &d, err);
    if (rc == 0)
        rc = quantized_engine_open(in_float, d, BATCH, NULL, &e, err);
    if (rc == 0)
        rc = observe(c, e, train, seed, err);
    quantized_engine_close(e);
    if (d)
        device_close(d);
    if (rc < 0) {
        calibration_free(c);
        return rc;
    }
    *out = c;
    return 0;
}

void calibration_free(struct calibration *c)
{
    for (uint32_t e = 0; c && e < GRAPH_EDGES_MAX; e++)
        free(c->of[e]);
    free(c);
}

uint64_t calibration_images(const struct calibration *c) { return c->images; }

/* ---- cutting ---- */
static double center(const struct histogram *h, uint32_t bin) { return ((double)bin + 0.5) * 2 / BINS * (double)h->reach - (double)h->reach; }

static struct value_range whole(const struct histogram *h) { return (struct value_range){h->lo, h->hi}; }

static struct value_range percentile(const struct histogram *h)
{
    uint64_t total = 0, below = 0, above = 0;
    uint32_t lo = 0, hi = BINS - 1;
    for (uint32_t i = 0; i < BINS; i++)
        total += h->bin[i];
    double cut = (double)total * (100 - PERCENTILE) / 200;
    while (lo < hi && (double)(below + h->bin[lo]) <= cut)
        below += h->bin[lo++];
    while (hi > lo && (double)(above + h->bin[hi]) <= cut)
        above += h->bin[hi--];
    double width = 2.0 / BINS * (double)h->reach, left = lo * width - (double)h->reach, right = (hi + 1) * width - (double)h->reach;
    return (struct value_range){fminf(0, fmaxf(h->lo, (float)left)), fmaxf(0, fminf(h->hi, (float)right))};
}

/* Squared error of quantizing with this range. */
static double error_of(const struct histogram *h, double lo, double hi)
{
    double step = (hi - lo) / (LEVELS - 1), sum = 0;
    if (step <= 0)
        return 0;
    for (uint32_t i = 0; i < BINS; i++) {
        if (!h->bin[i])
            continue;
        double x = center(h, i), q = fmin(LEVELS - 1, fmax(0, nearbyint((x - lo) / step)));
        double inside = x > lo && x < hi ? step * step / 12 : (x - (lo + q * step)) * (x - (lo + q * step));   /* bins may be as wide as steps */
        sum += inside * (double)h->bin[i];
    }
    return sum;
}

static struct value_range least_error(const struct histogram *h)
{
    struct value_range best = whole(h);
    double lo = fmin(0, (double)h->lo), hi = fmax(0, (double)h->hi), least = error_of(h, lo, hi);
    for (unsigned k = 1; k < 140; k++) {
        double part = 1 - k * 0.005, e = error_of(h, lo * part, hi * part);
        if (e < least) {
            least = e;
            best = (struct value_range){(float)(lo * part), (float)(hi * part)};
        }
    }
    return best;
}

/* Kullback-Leibler divergence of what is left when everything above `cut` bins is put into the last one and the rest merged to half of the levels. */
static double divergence(const uint64_t *bin, uint32_t cut, uint32_t bins, double total)
{
    double last = 0, sum = 0;
    for (uint32_t i = cut - 1; i < bins; i++)
        last += (double)bin[i];
    for (uint32_t level = 0; level < LEVELS / 2; level++) {
        uint32_t from = (uint32_t)((uint64_t)level * cut / (LEVELS / 2)), to = (uint32_t)((uint64_t)(level + 1) * cut / (LEVELS / 2)), filled = 0;
        double mass = 0;
        for (uint32_t i = from; i < to; i++) {
            mass += (double)bin[i];
            filled += bin[i] > 0;
        }
        for (uint32_t i = from; i < to; i++) {
            double p = i == cut - 1 ? last : (double)bin[i], q = filled && bin[i] ? mass / filled : 0;
            if (p > 0)
                sum += p / total * log(p / (q > 0 ? q : 1e-9 * total));
        }
    }
    return sum;
}

/* Of values that are not negative; others keep their whole range. */
static struct value_range least_divergence(const struct histogram *h)
{
    const uint64_t *bin = h->bin + BINS / 2;
    double total = 0, least = INFINITY;
    uint32_t used = 0, best = 0;
    for (uint32_t i = 1; i < BINS / 2; i++) {   /* without zeros, most of what a ReLU gives */
        total += (double)bin[i];
        used = bin[i] ? i + 1 : used;
    }
    if (h->lo < 0 || used <= LEVELS / 2)
        return whole(h);
    for (uint32_t cut = LEVELS / 2; cut <= used; cut += 4) {
        double d = divergence(bin, cut, used, total);
        if (d < least) {
            least = d;
            best = cut;
        }
    }
    return (struct value_range){0, fminf(h->hi, (float)best * 2 / BINS * h->reach)};
}

void calibration_ranges(const struct calibration *c, enum job_calibration how, struct value_range range[GRAPH_EDGES_MAX])
{
    static struct value_range (*const cut[])(const struct histogram *) = {
        [CALIBRATION_MSE] = least_error, [CALIBRATION_PERCENTILE] = percentile, [CALIBRATION_ENTROPY] = least_divergence, [CALIBRATION_MINMAX] = whole};
    memset(range, 0, sizeof *range * GRAPH_EDGES_MAX);
    for (uint32_t e = 0; e < c->graph->edge_count; e++) {
        int producer = c->graph->edge[e].producer;
        if (producer >= 0 && c->graph->node[producer].op == OP_NORMALIZE)
            range[e] = quantized_input_range(&c->graph->config);   /* known, whatever images were seen */
        else if (c->of[e])
            range[e] = cut[how](c->of[e]);
    }
}
