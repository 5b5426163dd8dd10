/* worker: the built-in training process, a rank of a gang (main.c), and a process that trains alone (`viaduct bench train`, solo.c): both run the same
 * lanes, summation tree, order of samples and optimizer. Towards the rest of the run it calls client/viaduct.h and nothing else. */
#ifndef VIADUCT_WORKER_WORKER_H
#define VIADUCT_WORKER_WORKER_H

#include "data/data.h"
#include "engine/engine.h"
#include "jobs/jobs.h"

/* `viaduct worker --run DIR --site NAME --rank R --incarnation I` */
int worker_main(int argc, char **argv);

struct trainee {                      /* what a spec trains: data, graph, layout; owned, trainee_close frees */
    struct dataset train, eval;       /* eval.count 0: none */
    struct model_config model;
    struct graph *graph;
    struct layout layout;
    struct device *device;
    struct optim_config optim;
};
/* device: "cpu", or "fake" in tests (device.h). */
int trainee_open(struct trainee *t, const struct job_spec *spec, const char *device, struct err *err);
void trainee_close(struct trainee *t);

/* Where a rank's weights and gradients lie while it computes: where the gang has them (`host`) when the device is the host, else in device memory, into and
 * out of which the client copies. Slots as the engine's. */
struct staging;
int staging_open(struct device *d, const struct engine *e, uint64_t elems, unsigned slots, struct staging **out, struct err *err);
void staging_close(struct staging *s);
struct memory staging_weights(const struct staging *s, const float *host);
struct memory staging_gradient(const struct staging *s, unsigned slot, float *host);

/* One process that trains alone. */
struct solo;
int solo_open(const struct trainee *t, const struct job_spec *spec, unsigned threads, struct solo **out, struct err *err);
void solo_close(struct solo *s);
/* One step: every lane, the sum in tree order, the optimizer. ERR_JOB naming step and lane when the loss is not finite. */
int solo_step(struct solo *s, struct lane_metrics *out, struct err *err);
int solo_eval(struct solo *s, struct lane_metrics *out, struct err *err);
uint64_t solo_steps(const struct solo *s);         /* of the whole run by the spec */
uint64_t solo_step_now(const struct solo *s);
const float *solo_weights(const struct solo *s);
double solo_flops_per_sample(const struct solo *s);

#endif
