/* What this machine does in the moment of planning: lanes of synthetic samples through the real engine, the optimizer, and a local socket. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/base.h"
#include "coordinator/plan.h"
#include "engine/engine.h"

#define LANES_MS 300                  /* of measuring */
#define ONE_LANE_MS 100               /* a longer lane is measured with fewer samples */
#define TIMES_MAX 512
#define AT_ONCE_MAX 16
#define CHUNK (64u << 10)
#define LINK_MIB 16u

struct bench {
    struct engine *engine;
    const uint8_t *pixels, *labels;
    uint32_t count;
    uint64_t until_ms;
};
struct runner {
    struct bench *b;
    unsigned slot, times;
    float *gradient;
    double ms[TIMES_MAX];
    int rc;
    struct err err;
    pthread_t thread;
    bool started;
};

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static int one_lane(struct runner *r, double *ms)
{
    struct lane_metrics m;
    uint64_t begin = clock_now_ns();
    r->rc = engine_lane(r->b->engine, r->slot, r->b->pixels, r->b->labels, r->b->count, r->gradient, &m, &r->err);
    *ms = (double)(clock_now_ns() - begin) / 1e6;
    return r->rc;
}

static void *run_lanes(void *arg)
{
    struct runner *r = arg;
    double warm_up;
    one_lane(r, &warm_up);
    while (r->rc == 0 && r->times < TIMES_MAX && (r->times == 0 || clock_now_ms() < r->b->until_ms))
        if (one_lane(r, &r->ms[r->times]) == 0)
            r->times++;
    return NULL;
}

static int join_runners(struct runner *r, unsigned count, double *median, struct err *err)
{
    double *all = malloc(sizeof *all * count * TIMES_MAX);
    unsigned n = 0;
    int rc = all ? 0 : err_set(err, ERR_NO_MEMORY, "no memory for timings");
    for (unsigned i = 0; i < count; i++) {
        if (r[i].started)
            pthread_join(r[i].thread, NULL);
        if (r[i].rc < 0 && rc == 0)
            *err = r[i].err, rc = r[i].rc;
        for (unsigned k = 0; rc == 0 && k < r[i].times; k++)
            all[n++] = r[i].ms[k];
    }
    if (rc == 0) {
        qsort(all, n, sizeof *all, by_value);
        *median = all[n / 2];
    }
    free(all);
    return rc;
}

/* Lanes side by side, because cores share memory and heat: the median of all of them. */
static int time_lanes(struct bench *b, struct runner *r, struct plan_probe *out, struct err *err)
{
    double ms, each;
    b->count = out->lane_samples < 4 ? out->lane_samples : 4;
    for (int i = 0; i < 2; i++)       /* the first one touches memory */
        if (one_lane(&r[0], &ms) < 0)
            return *err = r[0].err, r[0].rc;
    each = ms / b->count;
    out->measured_samples = out->lane_samples;
    if (each * out->lane_samples > ONE_LANE_MS)
        out->measured_samples = each > ONE_LANE_MS ? 1 : (uint32_t)(ONE_LANE_MS / each);
    b->count = out->measured_samples;
    b->until_ms = clock_now_ms() + LANES_MS;
    for (unsigned i = 1; i < out->at_once; i++)
        r[i].started = pthread_create(&r[i].thread, NULL, run_lanes, &r[i]) == 0;
    run_lanes(&r[0]);
    int rc = join_runners(r, out->at_once, &ms, err);
    if (rc == 0)
        out->lane_ms = ms * out->lane_samples / out->measured_samples;
    return rc;
}

static void time_optimizer(const struct job_spec *spec, const struct layout *l, float *memory, struct plan_probe *out)
{
    const struct job_optim *o = &spec->optimizer;
    struct optim_config c = {.kind = o->name == OPTIMIZER_SGD ? OPTIM_SGD : OPTIM_ADAMW, .weight_decay = (float)o->weight_decay, .beta1 = (float)o->beta1,
                             .beta2 = (float)o->beta2, .eps = (float)o->eps, .momentum = (float)o->momentum, .nesterov = o->nesterov, .state_momentum = 0.1f};
    double ms[3];
    for (unsigned turn = 0; turn < ARRAY_LEN(ms); turn++) {
        uint64_t begin = clock_now_ns();
        for (uint32_t b = 0; b < l->block_count; b++) {
            const struct block_desc *d = &l->blocks[b];
            float *slots[2] = {memory + l->elems + d->offset, memory + 2 * l->elems + d->offset};
            optim_apply(&c, l->tensors[d->tensor].kind, memory + d->offset, slots, memory + 3 * l->elems + d->offset, d->elems, spec->batch, 1e-3f, 1, turn + 1);
        }
        ms[turn] = (double)(clock_now_ns() - begin) / 1e6;
    }
    out->apply_ms = MIN(ms[1], ms[2]);
}

static int pass_through(int from, int to, const uint8_t *sent, uint8_t *got)
{
    for (size_t n = 0; n < CHUNK;) {
        ssize_t k = write(from, sent + n, CHUNK - n);
        if (k < 0)
            return -1;
        for (size_t end = n + (size_t)k; n < end;) {
            ssize_t m = read(to, got + n, end - n);
            if (m <= 0)
                return -1;
            n += (size_t)m;
        }
    }
    return xxh64_of(sent, CHUNK, 0) == xxh64_of(got, CHUNK, 0) ? 0 : -1;
}

static int time_link(struct plan_probe *out, struct err *err)
{
    int fd[2], rc = 0;
    uint8_t *buffer = calloc(2, CHUNK);
    if (!buffer || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) < 0) {
        free(buffer);
        return err_set(err, ERR_FAILED, "no socket to measure with: raise the limit of open files (ulimit -n)");
    }
    uint64_t begin = clock_now_ns();
    unsigned chunks = LINK_MIB * (1u << 20) / CHUNK;
    for (unsigned i = 0; i < chunks && rc == 0; i++)
        rc = pass_through(fd[0], fd[1], buffer, buffer + CHUNK);
    out->link_bytes_per_second = (double)chunks * CHUNK / ((double)(clock_now_ns() - begin) / 1e9);
    close(fd[0]);
    close(fd[1]);
    free(buffer);
    return rc == 0 ? 0 : err_set(err, ERR_FAILED, "a local socket lost bytes while it was measured");
}

static int open_engine(struct bench *b, const struct graph *g, const struct layout *l, struct device *d, struct plan_probe *out, struct err *err)
{
    unsigned slots = MAX(out->at_once, 2);
    TRY(engine_open(g, l, d, 1, out->lane_samples, &b->engine, err));
    out->engine_bytes = engine_memory_bytes(b->engine);
    engine_close(b->engine);
    b->engine = NULL;
    TRY(engine_open(g, l, d, slots, out->lane_samples, &b->engine, err));
    out->engine_bytes_per_slot = (engine_memory_bytes(b->engine) - out->engine_bytes) / (slots - 1);
    return 0;
}

static int measure(struct bench *b, const struct job_spec *spec, const struct layout *l, float *memory, struct plan_probe *out, struct err *err)
{
    struct runner *r = calloc(out->at_once, sizeof *r);
    if (!r)
        return err_set(err, ERR_NO_MEMORY, "no memory to measure with");
    for (unsigned i = 0; i < out->at_once; i++)
        r[i] = (struct runner){.b = b, .slot = i, .gradient = memory + (3 + i) * l->elems};
    int rc = engine_set_weights(b->engine, memory, err);
    if (rc == 0)
        rc = time_lanes(b, r, out, err);
    free(r);
    TRY(rc);
    time_optimizer(spec, l, memory, out);
    return time_link(out, err);
}

int plan_probe(const struct job_spec *spec, const struct graph *g, const struct layout *l, unsigned threads, struct plan_probe *out, struct err *err)
{
    struct bench b = {0};
    struct device *device = NULL;
    *out = (struct plan_probe){.at_once = MIN(MAX(threads, 1), AT_ONCE_MAX), .lane_samples = (spec->batch + spec->lanes - 1) / spec->lanes};
    size_t sample = (size_t)g->config.channels * g->config.height * g->config.width, floats = l->elems * (3 + out->at_once) * sizeof(float);
    uint8_t *samples = malloc(out->lane_samples * (sample + 1));
    float *memory = pages_alloc(floats, err);
    int rc = samples && memory ? device_open("cpu", &device, err) : err_set(err, ERR_NO_MEMORY, "no memory for a lane of synthetic samples");
    if (rc == 0) {
        for (size_t i = 0; i < out->lane_samples * sample; i++)
            samples[i] = (uint8_t)(i * 2654435761u >> 13);
        for (uint32_t i = 0; i < out->lane_samples; i++)
            samples[out->lane_samples * sample + i] = (uint8_t)(i % g->config.classes);
        b.pixels = samples;
        b.labels = samples + out->lane_samples * sample;
        graph_init_weights(g, l, spec->seed, memory);
        rc = open_engine(&b, g, l, device, out, err);
    }
    if (rc == 0)
        rc = measure(&b, spec, l, memory, out, err);
    engine_close(b.engine);
    device_close(device);
    pages_free(memory, floats);
    free(samples);
    return rc;
}
