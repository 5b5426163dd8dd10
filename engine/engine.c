/* The engine: programs cached by (samples, kind), one arena and one stream per slot, packed weights shared by all slots. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "engine/program.h"

#define PROGRAMS_MAX 64
#define CALL_TIMEOUT_MS 600000

struct slot { struct stream *stream; void *arena; uint64_t arena_bytes; };

struct engine {
    const struct graph *g;
    const struct layout *l;
    struct device *device;
    const engine_kernel *kernels;
    unsigned threads;
    uint32_t batch_max;
    struct packing packing;
    void *packed;
    const float *weights;
    struct slot *slot;
    pthread_mutex_t lock;             /* of the program cache */
    struct program *program[PROGRAMS_MAX];
    unsigned program_count;
};

static const engine_kernel *choose_kernels(void)
{
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw"))
        return kernels_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return kernels_avx2;
    return kernels_base;
}

static int find_program(struct engine *e, uint32_t samples, enum program_kind kind, const struct program **out, struct err *err)
{
    int rc = 0;
    *out = NULL;
    pthread_mutex_lock(&e->lock);
    for (unsigned i = 0; i < e->program_count && !*out; i++)
        if (e->program[i]->samples == samples && e->program[i]->kind == kind)
            *out = e->program[i];
    if (!*out) {
        struct program *p = e->program_count < PROGRAMS_MAX ? calloc(1, sizeof *p) : NULL;
        rc = p ? program_lower(e->g, e->l, &e->packing, samples, kind, true, p, err)
               : err_set(err, ERR_NO_MEMORY, "more than %d lane sizes in one run", PROGRAMS_MAX);
        if (rc == 0)
            *out = e->program[e->program_count++] = p;
        else
            free(p);
    }
    pthread_mutex_unlock(&e->lock);
    return rc;
}

/* A smaller program may pack worse than the largest one: then its slot's arena grows, once. */
static int fit_arena(struct engine *e, struct slot *s, uint64_t bytes, struct err *err)
{
    if (s->arena_bytes >= bytes)
        return 0;
    void *arena;
    TRY(device_alloc(e->device, bytes, &arena, err));
    device_free(e->device, s->arena, s->arena_bytes);
    s->arena = arena;
    s->arena_bytes = bytes;
    return 0;
}

struct bases { const void *pixels, *labels; float *gradient; struct lane_metrics *metrics; };

static void *resolve(const struct engine *e, const struct slot *s, const struct bases *b, struct operand o)
{
    switch (o.place) {
    case AT_ARENA: return (uint8_t *)s->arena + o.offset;
    case AT_WEIGHTS: return (uint8_t *)(uintptr_t)e->weights + o.offset;
    case AT_PACKED: return (uint8_t *)e->packed + o.offset;
    case AT_GRADIENT: return (uint8_t *)b->gradient + o.offset;
    case AT_PIXELS: return (void *)(uintptr_t)b->pixels;
    case AT_LABELS: return (void *)(uintptr_t)b->labels;
    case AT_METRICS: return b->metrics;
    case AT_NONE: break;
    }
    return NULL;
}

static int run_calls(struct engine *e, struct slot *s, const struct bases *b, const struct call *calls, uint32_t count, struct err *err)
{
    struct handle last = {0};
    for (uint32_t c = 0; c < count; c++) {
        const struct call *k = &calls[c];
        void *pointer[KERNEL_POINTERS_MAX];
        uint32_t host = 0;
        for (unsigned i = 0; i < k->count; i++) {
            pointer[i] = resolve(e, s, b, k->operand[i]);
            enum place at = k->operand[i].place;
            host |= (uint32_t)(at == AT_PIXELS || at == AT_LABELS || at == AT_METRICS) << i;
        }
        TRY(stream_launch(s->stream, e->kernels[k->kernel], pointer, k->count, host, &k->params, sizeof k->params, &last, err));
    }
    return handle_wait(last, CALL_TIMEOUT_MS, err);
}

static int set_up(struct engine *e, struct err *err)
{
    TRY(packing_plan(e->g, e->l, &e->packing, err));
    TRY(device_alloc(e->device, e->packing.bytes, &e->packed, err));
    uint64_t bytes = 0;
    for (int kind = PROGRAM_TRAIN; kind <= PROGRAM_INFER; kind++) {
        const struct program *p;
        TRY(find_program(e, e->batch_max, (enum program_kind)kind, &p, err));
        bytes = p->arena_bytes > bytes ? p->arena_bytes : bytes;
    }
    for (unsigned i = 0; i < e->threads; i++) {
        TRY(stream_open(e->device, &e->slot[i].stream, err));
        TRY(fit_arena(e, &e->slot[i], bytes, err));
    }
    return 0;
}

int engine_open(const struct graph *g, const struct layout *l, struct device *d, unsigned threads, uint32_t lane_batch_max, struct engine **out,
                struct err *err)
{
    CHECK(threads > 0 && lane_batch_max > 0);
    struct engine *e = calloc(1, sizeof *e);
    struct slot *slots = calloc(threads, sizeof *slots);
    if (!e || !slots) {
        free(e);
        free(slots);
        return err_set(err, ERR_NO_MEMORY, "no memory for the engine");
    }
    *e = (struct engine){.g = g, .l = l, .device = d, .kernels = choose_kernels(), .threads = threads, .batch_max = lane_batch_max, .slot = slots};
    pthread_mutex_init(&e->lock, NULL);
    int rc = set_up(e, err);
    if (rc < 0) {
        engine_close(e);
        return rc;
    }
    *out = e;
    return 0;
}

void engine_close(struct engine *e)
{
    if (!e)
        return;
    for (unsigned i = 0; i < e->threads; i++) {
        stream_close(e->slot[i].stream);
        device_free(e->device, e->slot[i].arena, e->slot[i].arena_bytes);
    }
    for (unsigned i = 0; i < e->program_count; i++)
        free(e->program[i]);
    device_free(e->device, e->packed, e->packing.bytes);
    pthread_mutex_destroy(&e->lock);
    free(e->slot);
    free(e);
}

uint64_t engine_memory_bytes(const struct engine *e)
{
    uint64_t n = e->packing.bytes;
    for (unsigned i = 0; i < e->threads; i++)
        n += e->slot[i].arena_bytes;
    return n;
}

double engine_flops_per_sample(const struct engine *e)
{
    double flops = 0;
    for (uint32_t n = 0; n < e->g->node_count; n++) {
        const struct node *k = &e->g->node[n];
        const struct edge *w = NULL, *y = &e->g->edge[k->in[0]];
        if (k->op == OP_CONV || k->op == OP_CONV_DX || k->op == OP_DENSE || k->op == OP_DENSE_DX)
            w = &e->g->edge[k->in[1]];
        else if (k->op == OP_CONV_DW || k->op == OP_DENSE_DW)
            w = &e->g->edge[k->out[0]];
        if (!w)
            continue;
        double positions = w->dim_count == 4 ? (double)y->dims[1] * y->dims[2] : 1, elems = 1;
        for (uint32_t d = 0; d < w->dim_count; d++)
            elems *= w->dims[d];
        flops += 2 * positions * elems;
    }
    return flops;
}

int engine_set_weights(struct engine *e, const float *arena, struct err *err)
{
    e->weights = arena;
    return run_calls(e, &e->slot[0], &(struct bases){0}, e->packing.call, e->packing.call_count, err);
}

int engine_lane(struct engine *e, unsigned slot, const uint8_t *pixels, const uint8_t *labels, uint32_t count, float *grad, struct lane_metrics *out,
                struct err *err)
{
    CHECK(slot < e->threads && count > 0 && count <= e->batch_max && e->weights);
    const struct program *p;
    TRY(find_program(e, count, PROGRAM_TRAIN, &p, err));
    TRY(fit_arena(e, &e->slot[slot], p->arena_bytes, err));
    struct bases b = {pixels, labels, grad, out};
    return run_calls(e, &e->slot[slot], &b, p->call, p->call_count, err);
}

struct stream *engine_stream(const struct engine *e, unsigned slot) { return e->slot[slot].stream; }

int engine_eval(struct engine *e, const uint8_t *pixels, const uint8_t *labels, uint64_t count, struct lane_metrics *out, struct err *err)
{
    struct lane_metrics total = {0};
    const struct edge *x = &e->g->edge[e->g->pixels];
    size_t sample = (size_t)x->dims[0] * x->dims[1] * x->dims[2];
    for (uint64_t at = 0; at < count;) {
        uint32_t n = count - at < e->batch_max ? (uint32_t)(count - at) : e->batch_max;
        const struct program *p;
        struct lane_metrics part;
        TRY(find_program(e, n, PROGRAM_EVAL, &p, err));
        TRY(fit_arena(e, &e->slot[0], p->arena_bytes, err));
        struct bases b = {pixels + at * sample, labels + at, NULL, &part};
        TRY(run_calls(e, &e->slot[0], &b, p->call, p->call_count, err));
        total.loss_sum += part.loss_sum;
        total.correct += part.correct;
        total.samples += part.samples;
        total.nonfinite += part.nonfinite;
        at += n;
    }
    *out = total;
    return 0;
}

int engine_infer(struct engine *e, const float *pixels, uint32_t count, float *logits, struct err *err)
{
    const struct edge *x = &e->g->edge[e->g->pixels];
    uint32_t classes = e->g->edge[e->g->logits].dims[0];
    size_t sample = (size_t)x->dims[0] * x->dims[1] * x->dims[2];
    for (uint32_t at = 0; at < count;) {
        uint32_t n = count - at < e->batch_max ? count - at : e->batch_max;
        const struct program *p;
        struct handle h;
        TRY(find_program(e, n, PROGRAM_INFER, &p, err));
        TRY(fit_arena(e, &e->slot[0], p->arena_bytes, err));
        struct bases b = {pixels + at * sample, NULL, NULL, NULL};
        TRY(run_calls(e, &e->slot[0], &b, p->call, p->call_count, err));
        TRY(stream_copy(e->slot[0].stream, logits + (size_t)at * classes, SPACE_HOST, (uint8_t *)e->slot[0].arena + p->logits_offset,
                        device_space(e->device), (size_t)n * classes * sizeof(float), &h, err));
        TRY(handle_wait(h, CALL_TIMEOUT_MS, err));
        at += n;
    }
    return 0;
}
