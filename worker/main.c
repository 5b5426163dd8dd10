/* `viaduct worker`: one rank. The loop at the bottom is the whole of training: next, lanes, contribute. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include "base/base.h"
#include "client/viaduct.h"
#include "slurm/slurm.h"
#include "worker/pool.h"
#include "worker/worker.h"

struct rank {
    struct job job;
    struct trainee t;
    const char *run, *site;
    uint32_t threads;
    int64_t index, incarnation;
    char model_json[4096], data_sha256[SHA256_HEX];
    struct viaduct_tensor *tensors;
    struct viaduct *v;
    struct engine *engine;
    struct staging *staging;
    struct pool *pool;
    struct feeder *feeder;
    /* of the step under way */
    struct viaduct_step step;
    struct viaduct_totals totals[LANES_MAX];
    uint64_t waited_ns[LANES_MAX];        /* for data, by slot */
    int lane_rc[LANES_MAX];
    struct err lane_err[LANES_MAX];
};

static int from_client(const struct viaduct_error *from, struct err *err)
{
    return err_set(err, from->code, "%s", from->text);
}

/* ---- one step ---- */
static struct lane_request request_of(const struct rank *r, uint64_t step, unsigned lane)
{
    struct lane_request q;
    viaduct_lane_ahead(r->v, step, lane, &q.pass, &q.first, &q.count);
    return q;
}

static struct viaduct_memory memory_at(struct memory p) { return (struct viaduct_memory){p.pointer, p.space == SPACE_DEVICE, p.stream}; }

static int put(struct rank *r, unsigned lane, struct memory at, struct err *err)
{
    struct viaduct_error why;
    return viaduct_put_gradient(r->v, lane, memory_at(at), &why) < 0 ? from_client(&why, err) : 0;
}

static void run_lane(void *arg, unsigned item, unsigned slot)
{
    struct rank *r = arg;
    unsigned lane = r->step.lane_lo + item;
    struct lane_request q = request_of(r, r->step.step, lane);
    struct lane_metrics m = {0};
    const uint8_t *pixels, *labels;
    float *gradient = viaduct_gradient(r->v, lane);
    r->lane_rc[item] = 0;
    r->totals[item] = (struct viaduct_totals){0};
    if (q.count == 0) {
        memset(gradient, 0, viaduct_elements(r->v) * sizeof(float));   /* an empty lane contributes nothing, under its name */
        return;
    }
    failpoint(FAIL_WORKER_LANES);
    uint64_t since_ns = clock_now_ns();
    feeder_take(r->feeder, q, slot, &pixels, &labels);
    r->waited_ns[slot] += clock_now_ns() - since_ns;
    struct memory at = staging_gradient(r->staging, slot, gradient);
    r->lane_rc[item] = engine_lane(r->engine, slot, pixels, labels, q.count, at.pointer, &m, &r->lane_err[item]);
    if (r->lane_rc[item] == 0)
        r->lane_rc[item] = put(r, lane, at, &r->lane_err[item]);
    r->totals[item] = (struct viaduct_totals){m.loss_sum, m.correct, m.samples, m.nonfinite};
}

static void ask_ahead(struct rank *r)
{
    struct lane_request ahead[LANES_MAX];
    unsigned n = 0;
    if (r->step.step + 1 >= r->step.steps)
        return;
    for (uint32_t l = r->step.lane_lo; l < r->step.lane_hi; l++)
        ahead[n++] = request_of(r, r->step.step + 1, l);
    feeder_ask(r->feeder, ahead, n);
}

static int check_lanes(const struct rank *r, struct err *err)
{
    for (uint32_t i = 0; i < r->step.lane_hi - r->step.lane_lo; i++) {
        unsigned lane = r->step.lane_lo + i;
        if (r->lane_rc[i] < 0)
            return *err = r->lane_err[i], err_wrap(err, "step %llu, lane %u", (unsigned long long)r->step.step + 1, lane);
        if (r->totals[i].nonfinite)
            return err_set(err, ERR_DIVERGED, "the loss is not finite at step %llu in lane %u (%llu of %llu samples); start anew with a lower train.optimizer.lr or with clip",
                           (unsigned long long)r->step.step + 1, lane, (unsigned long long)r->totals[i].nonfinite, (unsigned long long)r->totals[i].samples);
    }
    return 0;
}

static void tell_data_wait(struct rank *r)
{
    uint64_t longest_ns = 0;
    for (uint32_t i = 0; i < MIN(r->threads, (uint32_t)LANES_MAX); i++)
        longest_ns = MAX(longest_ns, r->waited_ns[i]);
    viaduct_data_wait(r->v, (double)longest_ns / 1e9);
}

static int train_step(struct rank *r, struct err *err)
{
    struct viaduct_error why;
    struct memory weights = staging_weights(r->staging, r->step.weights);
    if (viaduct_fetch_weights(r->v, memory_at(weights), &why) < 0)
        return from_client(&why, err);
    TRY(engine_set_weights(r->engine, weights.pointer, err));
    memset(r->waited_ns, 0, sizeof r->waited_ns);
    pool_run(r->pool, r->step.lane_hi - r->step.lane_lo, run_lane, r);
    tell_data_wait(r);
    ask_ahead(r);
    TRY(check_lanes(r, err));
    return viaduct_contribute(r->v, r->totals, &why) < 0 ? from_client(&why, err) : 0;
}

static int train(struct rank *r, struct err *err)
{
    struct viaduct_error why;
    for (;;) {
        if (viaduct_next(r->v, &r->step, &why) < 0)
            return from_client(&why, err);
        if (r->step.finished)
            return 0;
        int rc = train_step(r, err);
        if (rc < 0) {
            if (rc != ERR_ABORTED && rc != ERR_TEMPORARY)
                viaduct_fail(r->v, rc, err->text);
            return rc;
        }
    }
}

/* ---- setting up ---- */
static void initial_weights(void *arg, uint64_t seed, float *arena)
{
    const struct rank *r = arg;
    graph_init_weights(r->t.graph, &r->t.layout, seed, arena);
}

static int load(struct rank *r, struct err *err)
{
    char path[700];
    snprintf(path, sizeof path, "%s/spec.yaml", r->run);
    TRY(job_load(&r->job, path, NULL, 0, false, err));
    for (uint32_t i = 0; i < r->job.spec.site_count; i++)
        if (strcmp(r->job.spec.sites[i].name, r->site) == 0)
            r->threads = r->job.spec.sites[i].threads;
    if (!r->threads)
        return err_set(err, ERR_USAGE, "%s has no site named '%s'", path, r->site);
    const char *device = getenv("VIADUCT_DEVICE");
    TRY(trainee_open(&r->t, &r->job.spec, device && *device ? device : "cpu", err));
    hex_of(r->t.train.sha256, SHA256_BYTES, r->data_sha256);
    model_config_print(&r->t.model, r->model_json, sizeof r->model_json);
    r->tensors = calloc(r->t.layout.tensor_count, sizeof *r->tensors);
    CHECK(r->tensors != NULL);
    for (uint32_t i = 0; i < r->t.layout.tensor_count; i++) {
        const struct tensor_desc *d = &r->t.layout.tensors[i];
        r->tensors[i] = (struct viaduct_tensor){.name = d->name, .state = d->kind == TENSOR_STATE, .dim_count = d->dim_count};
        memcpy(r->tensors[i].dims, d->dims, sizeof d->dims);
    }
    return 0;
}

static int set_up(struct rank *r, struct err *err)
{
    struct viaduct_error why;
    TRY(load(r, err));
    const char *transport = getenv("VIADUCT_COLLECTIVES");
    struct viaduct_config c = {.run_dir = r->run, .site = r->site, .rank = r->index, .incarnation = r->incarnation, .transport = transport && *transport ? transport : NULL,
                               .tensor = r->tensors, .tensor_count = r->t.layout.tensor_count, .samples_per_pass = r->t.train.count, .data_sha256 = r->data_sha256,
                               .model_json = r->model_json, .init = initial_weights, .arg = r};
    uint32_t lane_max = (r->job.spec.batch + r->job.spec.lanes - 1) / r->job.spec.lanes;
    TRY(engine_open(r->t.graph, &r->t.layout, r->t.device, r->threads, lane_max, &r->engine, err));
    TRY(staging_open(r->t.device, r->engine, r->t.layout.elems, r->threads, &r->staging, err));
    TRY(pool_open(r->threads, &r->pool, err));
    TRY(feeder_open(&r->t.train, r->job.spec.seed, lane_max, 2 * r->threads + r->job.spec.lanes, &r->feeder, err));
    return viaduct_join(&c, &r->v, &why) < 0 ? from_client(&why, err) : 0;
}

static void tear_down(struct rank *r)
{
    viaduct_leave(r->v);
    feeder_close(r->feeder);
    pool_close(r->pool);
    engine_close(r->engine);
    staging_close(r->staging);
    trainee_close(&r->t);
    job_fini(&r->job);
    free(r->tensors);
}

static int parse(struct rank *r, int argc, char **argv, struct err *err)
{
    r->index = r->incarnation = -1;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--run") == 0)
            r->run = argv[i + 1];
        else if (strcmp(argv[i], "--site") == 0)
            r->site = argv[i + 1];
        else if (strcmp(argv[i], "--rank") == 0)
            r->index = strtol(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--incarnation") == 0)
            r->incarnation = strtol(argv[i + 1], NULL, 10);
    }
    struct mpi_environment mpi = mpi_environment_read();
    if (r->index < 0 && mpi.ranks) {      /* mpirun started this process, and no rank outlives it */
        r->index = mpi.rank;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    }
    if (!r->run || !r->site || r->index < 0 || r->incarnation < 0)
        return err_set(err, ERR_USAGE, "--run, --site, --rank and --incarnation are needed; agents start this process by themselves");
    return 0;
}

int worker_main(int argc, char **argv)
{
    struct err err = ERR_INIT;
    struct rank *r = calloc(1, sizeof *r);
    CHECK(r != NULL);
    signal(SIGPIPE, SIG_IGN);
    int rc = parse(r, argc, argv, &err);
    if (rc == 0)
        rc = set_up(r, &err);
    if (rc == 0)
        rc = train(r, &err);
    if (rc < 0)
        fprintf(stderr, "viaduct: worker: %s\n", err.text);
    tear_down(r);
    free(r);
    return err_exit_code(rc);
}
