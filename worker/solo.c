/* One training step, whole: lanes -> sum in tree order -> optimizer. The steps of a gang are the same ones with other processes in between. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "worker/pool.h"
#include "worker/worker.h"

struct solo {
    const struct trainee *t;
    const struct job_spec *spec;
    struct engine *engine;
    struct pool *pool;
    struct feeder *feeder;
    unsigned threads;
    uint64_t step, steps, steps_per_pass;
    float *weights, *slots[2], *lane, *sum, *scratch;   /* lane: one flat gradient for each lane */
    /* of the step under way */
    uint32_t pass, count;
    uint64_t first;
    struct lane_metrics metrics[LANES_MAX];
    struct err lane_err[LANES_MAX];
    int lane_rc[LANES_MAX];
};

static size_t flat_bytes(const struct solo *s) { return s->t->layout.elems * sizeof(float); }

static int allocate(struct solo *s, struct err *err)
{
    struct { float **to; size_t copies; } wanted[] = {{&s->weights, 1}, {&s->slots[0], 1}, {&s->slots[1], 1}, {&s->lane, s->spec->lanes},
                                                      {&s->sum, 1}, {&s->scratch, LANE_DEPTH_MAX}};
    for (unsigned i = 0; i < ARRAY_LEN(wanted); i++) {
        *wanted[i].to = pages_alloc(flat_bytes(s) * wanted[i].copies, err);
        if (!*wanted[i].to)
            return ERR_NO_MEMORY;
    }
    return 0;
}

static int set_up(struct solo *s, struct err *err)
{
    uint32_t lane_max = (s->spec->batch + s->spec->lanes - 1) / s->spec->lanes;
    TRY(allocate(s, err));
    TRY(engine_open(s->t->graph, &s->t->layout, s->t->device, s->threads, lane_max, &s->engine, err));
    TRY(pool_open(s->threads, &s->pool, err));
    TRY(feeder_open(&s->t->train, s->spec->seed, lane_max, 2 * s->threads + s->spec->lanes, &s->feeder, err));
    graph_init_weights(s->t->graph, &s->t->layout, s->spec->seed, s->weights);
    return 0;
}

int solo_open(const struct trainee *t, const struct job_spec *spec, unsigned threads, struct solo **out, struct err *err)
{
    struct solo *s = calloc(1, sizeof *s);
    if (!s)
        return err_set(err, ERR_NO_MEMORY, "no memory to train");
    *s = (struct solo){.t = t, .spec = spec, .threads = threads, .steps = job_steps(spec, t->train.count),
                       .steps_per_pass = (t->train.count + spec->batch - 1) / spec->batch};
    int rc = set_up(s, err);
    if (rc < 0) {
        solo_close(s);
        return rc;
    }
    *out = s;
    return 0;
}

void solo_close(struct solo *s)
{
    if (!s)
        return;
    feeder_close(s->feeder);
    pool_close(s->pool);
    engine_close(s->engine);
    pages_free(s->weights, flat_bytes(s));
    pages_free(s->slots[0], flat_bytes(s));
    pages_free(s->slots[1], flat_bytes(s));
    pages_free(s->lane, flat_bytes(s) * s->spec->lanes);
    pages_free(s->sum, flat_bytes(s));
    pages_free(s->scratch, flat_bytes(s) * LANE_DEPTH_MAX);
    free(s);
}

static struct lane_request request_of(const struct solo *s, uint64_t step, unsigned lane)
{
    uint64_t first = step % s->steps_per_pass * s->spec->batch, left = s->t->train.count - first;
    uint32_t count = left < s->spec->batch ? (uint32_t)left : s->spec->batch;
    struct sample_span span = lane_samples(count, s->spec->lanes, lane);
    return (struct lane_request){(uint32_t)(step / s->steps_per_pass), first + span.first, span.count};
}

static void run_lane(void *arg, unsigned lane, unsigned slot)
{
    struct solo *s = arg;
    float *gradient = s->lane + (size_t)lane * s->t->layout.elems;
    struct lane_request r = request_of(s, s->step, lane);
    const uint8_t *pixels, *labels;
    s->metrics[lane] = (struct lane_metrics){0};
    s->lane_rc[lane] = 0;
    if (r.count == 0) {
        memset(gradient, 0, flat_bytes(s));   /* an empty lane contributes nothing, under its name */
        return;
    }
    feeder_take(s->feeder, r, slot, &pixels, &labels);
    s->lane_rc[lane] = engine_lane(s->engine, slot, pixels, labels, r.count, gradient, &s->metrics[lane], &s->lane_err[lane]);
}

static void ask_ahead(struct solo *s)
{
    struct lane_request ahead[LANES_MAX];
    if (s->step + 1 >= s->steps)
        return;
    for (unsigned l = 0; l < s->spec->lanes; l++)
        ahead[l] = request_of(s, s->step + 1, l);
    feeder_ask(s->feeder, ahead, s->spec->lanes);
}

static int gather_metrics(struct solo *s, struct lane_metrics *out, struct err *err)
{
    struct lane_metrics total = {0};
    struct lane_range leaf[LANES_MAX];
    double loss[LANES_MAX];
    for (unsigned l = 0; l < s->spec->lanes; l++) {
        if (s->lane_rc[l] < 0)
            return *err = s->lane_err[l], err_wrap(err, "step %llu, lane %u", (unsigned long long)s->step + 1, l);
        if (s->metrics[l].nonfinite)
            return err_set(err, ERR_DIVERGED, "the loss is not finite at step %llu in lane %u (%u of %llu samples); start anew with a lower train.optimizer.lr or with clip",
                           (unsigned long long)s->step + 1, l, s->metrics[l].nonfinite, (unsigned long long)s->metrics[l].samples);
        leaf[l] = (struct lane_range){(uint16_t)l, (uint16_t)(l + 1)};
        loss[l] = s->metrics[l].loss_sum;
        total.correct += s->metrics[l].correct;
        total.samples += s->metrics[l].samples;
    }
    total.loss_sum = lane_sum_f64(s->spec->lanes, (struct lane_range){0, (uint16_t)s->spec->lanes}, leaf, loss, s->spec->lanes);
    *out = total;
    return 0;
}

static float clip_factor(const struct solo *s, uint64_t samples)
{
    const struct layout *l = &s->t->layout;
    double squares = 0;
    uint32_t nonfinite;
    if (s->spec->optimizer.clip == 0)
        return 1;
    for (uint32_t b = 0; b < l->block_count; b++)   /* in block-id order, as the coordinator adds them */
        if (l->tensors[l->blocks[b].tensor].kind == TENSOR_PARAMETER)
            squares += block_square_sum(s->sum + l->blocks[b].offset, l->blocks[b].elems, &nonfinite);
    double factor = s->spec->optimizer.clip / (sqrt(squares) / (double)samples + 1e-6);
    return factor < 1 ? (float)factor : 1;
}

int solo_step(struct solo *s, struct lane_metrics *out, struct err *err)
{
    const struct layout *l = &s->t->layout;
    struct lane_range leaf[LANES_MAX];
    const float *part[LANES_MAX];
    TRY(engine_set_weights(s->engine, s->weights, err));
    pool_run(s->pool, s->spec->lanes, run_lane, s);
    ask_ahead(s);
    TRY(gather_metrics(s, out, err));
    for (unsigned k = 0; k < s->spec->lanes; k++) {
        leaf[k] = (struct lane_range){(uint16_t)k, (uint16_t)(k + 1)};
        part[k] = s->lane + (size_t)k * l->elems;
    }
    lane_sum_f32(s->spec->lanes, (struct lane_range){0, (uint16_t)s->spec->lanes}, leaf, part, s->spec->lanes, s->sum, l->elems, s->scratch);
    float lr = (float)job_lr(&s->spec->optimizer, s->step, s->steps), clip = clip_factor(s, out->samples);
    for (uint32_t b = 0; b < l->block_count; b++) {
        const struct block_desc *d = &l->blocks[b];
        float *slots[2] = {s->slots[0] + d->offset, s->slots[1] + d->offset};
        optim_apply(&s->t->optim, l->tensors[d->tensor].kind, s->weights + d->offset, slots, s->sum + d->offset, d->elems, (double)out->samples, lr, clip,
                    s->step + 1);
    }
    s->step++;
    return 0;
}

int solo_eval(struct solo *s, struct lane_metrics *out, struct err *err)
{
    if (!s->t->eval.count)
        return err_set(err, ERR_USAGE, "the spec names no data.eval");
    TRY(engine_set_weights(s->engine, s->weights, err));
    return engine_eval(s->engine, s->t->eval.pixels, s->t->eval.labels, s->t->eval.count, out, err);
}

uint64_t solo_steps(const struct solo *s) { return s->steps; }
uint64_t solo_step_now(const struct solo *s) { return s->step; }
const float *solo_weights(const struct solo *s) { return s->weights; }
double solo_flops_per_sample(const struct solo *s) { return engine_flops_per_sample(s->engine); }
