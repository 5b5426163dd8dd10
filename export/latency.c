/* How long one sample takes on one thread. */
#include <stdlib.h>

#include "base/base.h"
#include "engine/engine.h"
#include "export/parts.h"

#define LATENCY_RUNS 400
#define LATENCY_WARM_UP 20
#define LATENCY_NS 700000000u        /* measures no longer than this */

struct timed { struct engine *floats; struct quantized_engine *integers; float *pixels; uint64_t ns[LATENCY_RUNS]; unsigned runs; };

static int ascending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static int time_runs(struct timed *t, struct err *err)
{
    float logits[256];
    uint64_t end = clock_now_ns() + LATENCY_NS;
    for (unsigned i = 0; i < LATENCY_WARM_UP + LATENCY_RUNS && (t->runs == 0 || clock_now_ns() < end); i++) {
        uint64_t start = clock_now_ns();
        TRY(t->integers ? quantized_engine_infer(t->integers, t->pixels, 1, logits, err) : engine_infer(t->floats, t->pixels, 1, logits, err));
        if (i >= LATENCY_WARM_UP || clock_now_ns() >= end)
            t->ns[t->runs++] = clock_now_ns() - start;
    }
    return 0;
}

static int open_and_time(const struct exported_model *m, struct device *d, struct timed *t, struct err *err)
{
    size_t elems = (size_t)m->config.channels * m->config.height * m->config.width;
    t->pixels = calloc(elems, sizeof *t->pixels);
    if (!t->pixels)
        return err_set(err, ERR_NO_MEMORY, "no memory for one sample");
    for (size_t i = 0; i < elems; i++)   /* not zeros, which some kernels run faster on */
        t->pixels[i] = philox_unit(philox4x32(1, (uint32_t)i, 0, 0, 0).v[0]);
    if (m->quantized) {
        TRY(quantized_engine_open(m->quantized, d, 1, NULL, &t->integers, err));
    } else {
        TRY(engine_open(m->graph, &m->layout, d, 1, 1, &t->floats, err));
        TRY(engine_set_weights(t->floats, m->weights, err));
    }
    return time_runs(t, err);
}

int measure_latency(const struct exported_model *m, struct latency *out, struct err *err)
{
    struct device *d;
    struct timed t = {0};
    TRY(device_open("cpu", &d, err));
    int rc = open_and_time(m, d, &t, err);
    engine_close(t.floats);
    quantized_engine_close(t.integers);
    free(t.pixels);
    device_close(d);
    if (rc < 0)
        return rc;
    qsort(t.ns, t.runs, sizeof *t.ns, ascending);
    *out = (struct latency){.p50 = (double)t.ns[t.runs / 2] / 1e6, .p99 = (double)t.ns[(t.runs - 1) * 99 / 100] / 1e6};
    return 0;
}
