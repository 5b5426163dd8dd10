/* Loss, accuracy and latency by our own engine. Threads take turns over fixed pieces of the data, whose sums are added in order: the result does not
 * depend on how many there are. */
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "data/data.h"
#include "engine/engine.h"
#include "export/parts.h"

#define PIECE 250                    /* samples */
#define THREADS_MAX 64
#define LATENCY_RUNS 400
#define LATENCY_WARM_UP 20
#define LATENCY_NS 700000000u        /* measures no longer than this */

struct evaluator {
    const struct exported_model *m;
    const struct dataset *data;
    struct device *device;
    struct lane_metrics *piece;
    uint64_t pieces;
};
struct turn { struct evaluator *e; unsigned first, step; pthread_t thread; int rc; struct err err; };

static int take_pieces(struct turn *t, struct engine *engine)
{
    struct evaluator *e = t->e;
    TRY(engine_set_weights(engine, e->m->weights, &t->err));
    for (uint64_t p = t->first; p < e->pieces; p += t->step) {
        uint64_t at = p * PIECE, n = MIN(PIECE, e->data->count - at);
        TRY(engine_eval(engine, e->data->pixels + at * e->data->sample_bytes, e->data->labels + at, n, &e->piece[p], &t->err));
    }
    return 0;
}

static void *take_turn(void *arg)
{
    struct turn *t = arg;
    struct engine *engine = NULL;
    t->rc = engine_open(t->e->m->graph, &t->e->m->layout, t->e->device, 1, PIECE, &engine, &t->err);
    if (t->rc == 0)
        t->rc = take_pieces(t, engine);
    engine_close(engine);
    return NULL;
}

static unsigned usable_threads(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? (unsigned)CPU_COUNT(&set) : 1;
}

static int take_turns(struct evaluator *e, unsigned threads, struct err *err)
{
    struct turn turn[THREADS_MAX];
    unsigned started = 0;
    int rc = 0;
    threads = (unsigned)MIN(MIN(threads ? threads : usable_threads(), (unsigned)THREADS_MAX), e->pieces);
    for (unsigned i = 0; i < threads; i++)
        turn[i] = (struct turn){.e = e, .first = i, .step = threads, .err = ERR_INIT};
    for (unsigned i = 1; i < threads; i++, started++)
        if (pthread_create(&turn[i].thread, NULL, take_turn, &turn[i]) != 0) {
            rc = err_set(err, ERR_FAILED, "cannot start thread %u of %u to evaluate; ask for fewer", i + 1, threads);
            break;
        }
    if (rc == 0)
        take_turn(&turn[0]);
    for (unsigned i = 1; i <= started; i++)
        pthread_join(turn[i].thread, NULL);
    for (unsigned i = 0; i <= started && rc == 0; i++)
        if (turn[i].rc < 0) {
            *err = turn[i].err;
            rc = turn[i].rc;
        }
    return rc;
}

static int evaluate(struct evaluator *e, unsigned threads, struct evaluation *out, struct err *err)
{
    struct lane_metrics total = {0};
    TRY(take_turns(e, threads, err));
    for (uint64_t p = 0; p < e->pieces; p++) {
        total.loss_sum += e->piece[p].loss_sum;
        total.correct += e->piece[p].correct;
        total.samples += e->piece[p].samples;
    }
    *out = (struct evaluation){.loss = total.loss_sum / (double)total.samples, .accuracy = (double)total.correct / (double)total.samples,
                               .samples = total.samples};
    return 0;
}

int exported_model_evaluate(const struct exported_model *m, const struct job_spec *spec, unsigned threads, struct evaluation *out, struct err *err)
{
    const struct model_config *c = &m->config;
    struct dataset data;
    if (!m->graph)
        return err_set(err, ERR_USAGE, "the checkpoint holds no description of its model: its trainer was not viaduct's own, which must evaluate it itself");
    if (!spec->has_eval)
        return err_set(err, ERR_USAGE, "the spec names no data.eval");
    TRY(dataset_open_idx(&data, spec->eval.images, spec->eval.labels, c->channels, c->height, c->width, c->classes, err));
    struct evaluator e = {.m = m, .data = &data, .pieces = (data.count + PIECE - 1) / PIECE};
    int rc = e.pieces ? device_open("cpu", &e.device, err) : err_set(err, ERR_USAGE, "%s holds no sample", spec->eval.images);
    if (rc == 0 && !(e.piece = calloc(e.pieces, sizeof *e.piece)))
        rc = err_set(err, ERR_NO_MEMORY, "no memory to evaluate %llu samples", (unsigned long long)data.count);
    if (rc == 0)
        rc = evaluate(&e, threads, out, err);
    free(e.piece);
    if (e.device)
        device_close(e.device);
    dataset_close(&data);
    return rc;
}

/* ---- latency ---- */
static int ascending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static int time_runs(struct engine *e, const float *pixels, uint64_t ns[LATENCY_RUNS], unsigned *runs, struct err *err)
{
    float logits[256];
    uint64_t end = clock_now_ns() + LATENCY_NS;
    *runs = 0;
    for (unsigned i = 0; i < LATENCY_WARM_UP + LATENCY_RUNS && (*runs == 0 || clock_now_ns() < end); i++) {
        uint64_t start = clock_now_ns();
        TRY(engine_infer(e, pixels, 1, logits, err));
        if (i >= LATENCY_WARM_UP || clock_now_ns() >= end)
            ns[(*runs)++] = clock_now_ns() - start;
    }
    return 0;
}

static int with_engine(const struct exported_model *m, struct device *d, uint64_t ns[LATENCY_RUNS], unsigned *runs, struct err *err)
{
    struct engine *e;
    float *pixels = calloc((size_t)m->config.channels * m->config.height * m->config.width, sizeof *pixels);
    if (!pixels)
        return err_set(err, ERR_NO_MEMORY, "no memory for one sample");
    int rc = engine_open(m->graph, &m->layout, d, 1, 1, &e, err);
    if (rc == 0) {
        rc = engine_set_weights(e, m->weights, err);
        if (rc == 0)
            rc = time_runs(e, pixels, ns, runs, err);
        engine_close(e);
    }
    free(pixels);
    return rc;
}

int measure_latency(const struct exported_model *m, struct latency *out, struct err *err)
{
    struct device *d;
    uint64_t ns[LATENCY_RUNS];
    unsigned runs = 0;
    TRY(device_open("cpu", &d, err));
    int rc = with_engine(m, d, ns, &runs, err);
    device_close(d);
    if (rc < 0)
        return rc;
    qsort(ns, runs, sizeof *ns, ascending);
    *out = (struct latency){.p50 = (double)ns[runs / 2] / 1e6, .p99 = (double)ns[(runs - 1) * 99 / 100] / 1e6};
    return 0;
}
