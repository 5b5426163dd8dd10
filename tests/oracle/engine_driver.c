/* Writes what PyTorch is held against: weights, a batch, its gradient and loss, and weights after some optimizer steps on the same batches.
 * engine_driver SPEC OUT-FOLDER BATCH STEPS */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "worker/worker.h"

static int write_floats(const char *dir, const char *name, const void *p, size_t bytes, struct err *err)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return fs_write_file(&fs_real, path, p, bytes, err);
}

static int run(const struct job *job, const char *dir, uint32_t batch, uint64_t steps, struct err *err)
{
    struct trainee t;
    struct engine *e;
    TRY(trainee_open(&t, &job->spec, "cpu", err));
    const struct layout *l = &t.layout;
    TRY(engine_open(t.graph, l, t.device, 1, batch, &e, err));
    size_t bytes = l->elems * sizeof(float);
    float *w = pages_alloc(bytes, err), *grad = pages_alloc(bytes, err), *m = pages_alloc(bytes, err), *v = pages_alloc(bytes, err);
    graph_init_weights(t.graph, l, job->spec.seed, w);
    TRY(write_floats(dir, "weights0", w, bytes, err));
    char info[1024];
    snprintf(info, sizeof info, "%s/info.txt", dir);
    FILE *out = fopen(info, "w");
    fprintf(out, "%.9g %.9g\n", (double)t.model.mean[0], (double)t.model.deviation[0]);
    for (uint32_t k = 0; k < l->tensor_count; k++) {
        const struct tensor_desc *d = &l->tensors[k];
        fprintf(out, "%s %d %llu %llu", d->name, (int)d->kind, (unsigned long long)d->offset, (unsigned long long)d->elems);
        for (uint32_t i = 0; i < d->dim_count; i++)
            fprintf(out, " %llu", (unsigned long long)d->dims[i]);
        fprintf(out, "\n");
    }
    fclose(out);
    double *losses = calloc(steps, sizeof *losses);
    for (uint64_t s = 0; s < steps; s++) {
        struct lane_metrics x;
        const uint8_t *pixels = t.train.pixels + s * batch * t.train.sample_bytes, *labels = t.train.labels + s * batch;
        TRY(engine_set_weights(e, w, err));
        TRY(engine_lane(e, 0, pixels, labels, batch, grad, &x, err));
        losses[s] = x.loss_sum / batch;
        if (s == 0)
            TRY(write_floats(dir, "grad0", grad, bytes, err));
        for (uint32_t b = 0; b < l->block_count; b++) {
            const struct block_desc *d = &l->blocks[b];
            float *slots[2] = {m + d->offset, v + d->offset};
            optim_apply(&t.optim, l->tensors[d->tensor].kind, w + d->offset, slots, grad + d->offset, d->elems, batch, (float)job->spec.optimizer.lr, 1, s + 1);
        }
    }
    TRY(write_floats(dir, "weights1", w, bytes, err));
    return write_floats(dir, "losses", losses, steps * sizeof *losses, err);
}

int main(int argc, char **argv)
{
    struct err err = ERR_INIT;
    static struct job job;
    if (argc != 5)
        return 2;
    int rc = job_load(&job, argv[1], NULL, 0, true, &err);
    if (rc == 0)
        rc = run(&job, argv[2], (uint32_t)strtoul(argv[3], NULL, 10), strtoull(argv[4], NULL, 10), &err);
    if (rc < 0)
        fprintf(stderr, "engine_driver: %s\n", err.text);
    return rc < 0;
}
