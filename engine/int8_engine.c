/* Quantized inference: a few programs by batch size over one arena; packed weights made when it opens. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "engine/int8.h"

#define PROGRAMS 4
#define CALL_TIMEOUT_MS 600000
#define CLASSES_MAX 256

struct cached { struct int8_program *program; bool floats, keep; };

struct quantized_engine {
    const struct quantized_model *m;
    struct device *device;
    struct stream *stream;
    const struct int8_set *set;
    uint32_t batch_max;
    void *arena, *constants;
    uint64_t arena_bytes, constant_bytes;
    struct cached cache[PROGRAMS];
    unsigned next;                    /* cache entry that goes next */
};

static bool cpu_has(const struct int8_set *s)
{
    if (s == &int8_avx512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vnni");
    return s == &int8_plain || __builtin_cpu_supports("avx2");
}

static int choose(const char *name, const struct int8_set **out, struct err *err)
{
    static const struct int8_set *const sets[] = {&int8_avx512, &int8_avx2, &int8_plain};   /* best first */
    for (unsigned i = 0; i < ARRAY_LEN(sets); i++)
        if ((!name || strcmp(name, sets[i]->name) == 0) && cpu_has(sets[i])) {
            *out = sets[i];
            return 0;
        }
    return err_set(err, ERR_NOT_FOUND, "this CPU has no integer kernels '%s'", name);
}

static int run_calls(struct quantized_engine *e, const struct int8_call *calls, uint32_t count, const void *pixels, struct err *err)
{
    struct handle last = {0};
    for (uint32_t c = 0; c < count; c++) {
        const struct int8_call *k = &calls[c];
        void *pointer[INT8_POINTERS];
        uint32_t host = 0;
        for (unsigned i = 0; i < k->count; i++) {
            const struct int8_operand *o = &k->operand[i];
            const void *from = o->place == Q_SOURCE ? o->source : pixels;
            pointer[i] = o->place == Q_ARENA ? (uint8_t *)e->arena + o->offset : o->place == Q_CONSTANT ? (uint8_t *)e->constants + o->offset
                                                                                                        : (void *)(uintptr_t)from;
            host |= (uint32_t)(o->place == Q_SOURCE || o->place == Q_PIXELS) << i;
        }
        kernel_fn fn = k->kernel < INT8_SET_KERNELS ? e->set->kernel[k->kernel] : int8_common[k->kernel];
        TRY(stream_launch(e->stream, fn, pointer, k->count, host, &k->params, sizeof k->params, &last, err));
    }
    return handle_wait(last, CALL_TIMEOUT_MS, err);
}

static int fit_arena(struct quantized_engine *e, uint64_t bytes, struct err *err)
{
    void *arena;
    if (bytes <= e->arena_bytes)
        return 0;
    TRY(device_alloc(e->device, bytes, &arena, err));
    device_free(e->device, e->arena, e->arena_bytes);
    e->arena = arena;
    e->arena_bytes = bytes;
    return 0;
}

static int find_program(struct quantized_engine *e, uint32_t samples, bool floats, bool keep, const struct int8_program **out, struct err *err)
{
    for (unsigned i = 0; i < PROGRAMS; i++)
        if (e->cache[i].program && e->cache[i].program->samples == samples && e->cache[i].floats == floats && e->cache[i].keep == keep) {
            *out = e->cache[i].program;
            return 0;
        }
    struct cached *c = &e->cache[e->next++ % PROGRAMS];
    if (!c->program && !(c->program = calloc(1, sizeof *c->program)))
        return err_set(err, ERR_NO_MEMORY, "no memory to compile the model");
    *c = (struct cached){c->program, floats, keep};
    int rc = int8_lower(e->m, samples, floats, keep, c->program, err);
    if (rc == 0)
        rc = fit_arena(e, c->program->arena_bytes, err);
    if (rc < 0) {
        c->program->samples = 0;
        return rc;
    }
    *out = c->program;
    return 0;
}

static int set_up(struct quantized_engine *e, struct err *err)
{
    const struct int8_program *p;
    TRY(stream_open(e->device, &e->stream, err));
    TRY(find_program(e, e->batch_max, false, false, &p, err));
    TRY(device_alloc(e->device, p->constant_bytes, &e->constants, err));
    e->constant_bytes = p->constant_bytes;
    return run_calls(e, p->set_up, p->set_up_count, NULL, err);
}

int quantized_engine_open(const struct quantized_model *m, struct device *d, uint32_t batch_max, const char *kernels, struct quantized_engine **out,
                          struct err *err)
{
    const struct int8_set *set = NULL;
    TRY(choose(kernels, &set, err));
    CHECK(batch_max > 0 && m->graph->edge[m->graph->logits].dims[0] <= CLASSES_MAX);
    struct quantized_engine *e = calloc(1, sizeof *e);
    if (!e)
        return err_set(err, ERR_NO_MEMORY, "no memory for the engine");
    *e = (struct quantized_engine){.m = m, .device = d, .set = set, .batch_max = batch_max};
    int rc = set_up(e, err);
    if (rc < 0) {
        quantized_engine_close(e);
        return rc;
    }
    *out = e;
    return 0;
}

void quantized_engine_close(struct quantized_engine *e)
{
    if (!e)
        return;
    if (e->stream)
        stream_close(e->stream);
    device_free(e->device, e->arena, e->arena_bytes);
    device_free(e->device, e->constants, e->constant_bytes);
    for (unsigned i = 0; i < PROGRAMS; i++)
        free(e->cache[i].program);
    free(e);
}

const char *quantized_engine_kernels(const struct quantized_engine *e) { return e->set->name; }

static size_t sample_elems(const struct quantized_engine *e)
{
    const struct edge *x = &e->m->graph->edge[e->m->graph->pixels];
    return (size_t)x->dims[0] * x->dims[1] * x->dims[2];
}

/* Rows of the arena are padded; out gets `elems` of each. */
static int copy_rows(struct quantized_engine *e, const struct int8_program *p, uint64_t offset, uint32_t stride, uint32_t elems, float *out, struct err *err)
{
    struct handle h = {0};
    for (uint32_t n = 0; n < p->samples; n++)
        TRY(stream_copy(e->stream, out + (size_t)n * elems, SPACE_HOST, (uint8_t *)e->arena + offset + (size_t)n * stride * sizeof(float),
                        device_space(e->device), elems * sizeof(float), &h, err));
    return handle_wait(h, CALL_TIMEOUT_MS, err);
}

static int run_batch(struct quantized_engine *e, const void *pixels, bool floats, uint32_t n, float *logits, struct err *err)
{
    const struct int8_program *p;
    uint16_t edge = e->m->graph->logits;
    TRY(find_program(e, n, floats, false, &p, err));
    TRY(run_calls(e, p->call, p->call_count, pixels, err));
    return copy_rows(e, p, p->logits_offset, p->value[edge].shape.cp, e->m->graph->edge[edge].dims[0], logits, err);
}

int quantized_engine_infer(struct quantized_engine *e, const float *pixels, uint32_t count, float *logits, struct err *err)
{
    uint32_t classes = e->m->graph->edge[e->m->graph->logits].dims[0];
    for (uint32_t at = 0, n; at < count; at += n) {
        n = MIN(count - at, e->batch_max);
        TRY(run_batch(e, pixels + at * sample_elems(e), true, n, logits + (size_t)at * classes, err));
    }
    return 0;
}

static void judge(const float *z, uint32_t classes, uint8_t label, uint8_t *predicted, struct lane_metrics *m)
{
    uint32_t best = 0;
    double sum = 0;
    for (uint32_t k = 1; k < classes; k++)
        best = z[k] > z[best] ? k : best;
    for (uint32_t k = 0; k < classes; k++)
        sum += exp((double)z[k] - (double)z[best]);
    double loss = log(sum) + (double)z[best] - (double)z[label];
    m->nonfinite += !isfinite(loss);
    m->loss_sum += loss;
    m->correct += best == label;
    m->samples++;
    if (predicted)
        *predicted = (uint8_t)best;
}

int quantized_engine_predict(struct quantized_engine *e, const uint8_t *pixels, const uint8_t *labels, uint64_t count, uint8_t *predicted,
                             struct lane_metrics *out, struct err *err)
{
    uint32_t classes = e->m->graph->edge[e->m->graph->logits].dims[0];
    struct lane_metrics total = {0};
    float *logits = malloc(sizeof *logits * classes * e->batch_max);
    int rc = logits ? 0 : err_set(err, ERR_NO_MEMORY, "no memory for the logits of %u samples", e->batch_max);
    for (uint64_t at = 0, n; at < count && rc == 0; at += n) {
        n = MIN(count - at, e->batch_max);
        rc = run_batch(e, pixels + at * sample_elems(e), false, (uint32_t)n, logits, err);
        for (uint64_t i = 0; i < n && rc == 0; i++)
            judge(logits + i * classes, classes, labels[at + i], predicted ? predicted + at + i : NULL, &total);
    }
    free(logits);
    if (rc == 0)
        *out = total;
    return rc;
}

/* ---- calibration ---- */
/* Images come out of the arena with border and padded channels. */
static int show(struct quantized_engine *e, const struct int8_program *p, uint16_t edge, float *image, float *plain, value_look look, void *arg, struct err *err)
{
    const struct int8_value *v = &p->value[edge];
    struct int8_shape s = v->shape;
    uint64_t elems = (uint64_t)s.channels * (s.height ? s.height * s.width : 1);
    if (!s.height) {
        TRY(copy_rows(e, p, v->offset, s.cp, s.channels, plain, err));
    } else {
        struct handle h;
        TRY(stream_copy(e->stream, image, SPACE_HOST, (uint8_t *)e->arena + v->offset, device_space(e->device), p->samples * int8_image(s) * sizeof *image, &h,
                        err));
        TRY(handle_wait(h, CALL_TIMEOUT_MS, err));
        float *to = plain;
        for (uint32_t n = 0; n < p->samples; n++)
            for (uint32_t c = 0; c < s.channels; c++)
                for (uint32_t y = 0; y < s.height; y++)
                    for (uint32_t x = 0; x < s.width; x++)
                        *to++ = image[n * int8_image(s) + int8_interior(s) + y * int8_row(s) + (size_t)x * s.cp + c];
    }
    look(arg, edge, plain, p->samples, elems);
    return 0;
}

int quantized_engine_observe(struct quantized_engine *e, const uint8_t *pixels, uint32_t count, value_look look, void *arg, struct err *err)
{
    const struct int8_program *p;
    uint64_t most = 1;
    CHECK(count > 0 && count <= e->batch_max);
    TRY(find_program(e, count, false, true, &p, err));
    TRY(run_calls(e, p->call, p->call_count, pixels, err));
    for (uint32_t k = 0; k < e->m->graph->edge_count; k++)
        if (p->value[k].kept)
            most = MAX(most, p->value[k].shape.height ? int8_image(p->value[k].shape) : p->value[k].shape.cp);
    float *image = malloc(most * count * sizeof *image), *plain = malloc(most * count * sizeof *plain);
    int rc = image && plain ? 0 : err_set(err, ERR_NO_MEMORY, "no memory to look at the values of %u samples", count);
    for (uint32_t k = 0; k < e->m->graph->edge_count && rc == 0; k++)
        if (p->value[k].kept)
            rc = show(e, p, (uint16_t)k, image, plain, look, arg, err);
    free(image);
    free(plain);
    return rc;
}
