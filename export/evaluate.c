/* Loss and accuracy by our own engine. Threads take turns over fixed pieces of the data, whose sums are added in order: the result does not depend on how
 * many there are. */
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "engine/engine.h"
#include "export/parts.h"

#define PIECE 250                    /* samples */
#define THREADS_MAX 64

struct evaluator {
    const struct exported_model *m;
    const struct dataset *data;
    struct device *device;
    struct lane_metrics *piece;
    uint8_t *predicted;
    uint64_t pieces;
};
struct turn { struct evaluator *e; unsigned first, step; pthread_t thread; int rc; struct err err; };
struct either { struct engine *floats; struct quantized_engine *integers; };

static int open_either(const struct evaluator *e, struct either *out, struct err *err)
{
    if (e->m->quantized)
        return quantized_engine_open(e->m->quantized, e->device, PIECE, NULL, &out->integers, err);
    TRY(engine_open(e->m->graph, &e->m->layout, e->device, 1, PIECE, &out->floats, err));
    return engine_set_weights(out->floats, e->m->weights, err);
}

static int take_piece(const struct evaluator *e, const struct either *engine, uint64_t p, struct err *err)
{
    uint64_t at = p * PIECE, n = MIN(PIECE, e->data->count - at);
    const uint8_t *pixels = e->data->pixels + at * e->data->sample_bytes, *labels = e->data->labels + at;
    uint8_t *predicted = e->predicted ? e->predicted + at : NULL;
    return engine->integers ? quantized_engine_predict(engine->integers, pixels, labels, n, predicted, &e->piece[p], err)
                            : engine_predict(engine->floats, pixels, labels, n, predicted, &e->piece[p], err);
}

static void *take_turn(void *arg)
{
    struct turn *t = arg;
    struct either engine = {NULL, NULL};
    t->rc = open_either(t->e, &engine, &t->err);
    for (uint64_t p = t->first; p < t->e->pieces && t->rc == 0; p += t->step)
        t->rc = take_piece(t->e, &engine, p, &t->err);
    engine_close(engine.floats);
    quantized_engine_close(engine.integers);
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

int exported_model_predict(const struct exported_model *m, const struct dataset *data, unsigned threads, uint8_t *predicted, struct evaluation *out,
                           struct err *err)
{
    struct evaluator e = {.m = m, .data = data, .predicted = predicted, .pieces = (data->count + PIECE - 1) / PIECE};
    TRY(device_open("cpu", &e.device, err));
    e.piece = calloc(e.pieces, sizeof *e.piece);
    int rc = e.piece ? evaluate(&e, threads, out, err) : err_set(err, ERR_NO_MEMORY, "no memory to evaluate %llu samples", (unsigned long long)data->count);
    free(e.piece);
    device_close(e.device);
    return rc;
}

int open_eval_data(const struct job_spec *spec, const struct model_config *c, struct dataset *out, struct err *err)
{
    if (!spec->has_eval)
        return err_set(err, ERR_USAGE, "the spec names no data.eval");
    TRY(dataset_open_idx(out, spec->eval.images, spec->eval.labels, c->channels, c->height, c->width, c->classes, err));
    if (out->count)
        return 0;
    dataset_close(out);
    return err_set(err, ERR_USAGE, "%s holds no sample", spec->eval.images);
}

int exported_model_evaluate(const struct exported_model *m, const struct job_spec *spec, unsigned threads, struct evaluation *out, struct err *err)
{
    struct dataset data;
    if (!m->graph && !m->quantized)
        return err_set(err, ERR_USAGE, "the checkpoint holds no description of its model: its trainer was not viaduct's own, which must evaluate it itself");
    TRY(open_eval_data(spec, &m->config, &data, err));
    int rc = exported_model_predict(m, &data, threads, NULL, out, err);
    dataset_close(&data);
    return rc;
}
