/* viaduct.h: what a training process calls. The only way from a trainer to coordinator, parameter server, ledger and checkpoints; the built-in
 * worker uses nothing else, and any C program can do the same (tests/e2e/own_trainer.c). Plain C, no other header of the project needed.
 *
 *   viaduct_join -> { viaduct_next -> fill the gradients of the own lanes -> viaduct_contribute } ... until viaduct_next says finished -> viaduct_leave
 *
 * A process is one rank of a site's gang. All calls of one handle come from one thread, except viaduct_gradient, viaduct_put_gradient, viaduct_sample and viaduct_lane,
 * which any thread may call between viaduct_next and viaduct_contribute. Functions return 0 or a negative code and put a message into
 * viaduct_error: -2 wrong arguments, -3 or -12 the job failed (-12: not finite), -7 try again, -10 no memory, -11 the gang is over:
 * leave and exit with 75; of any other the text says what it is. */
#ifndef VIADUCT_CLIENT_VIADUCT_H
#define VIADUCT_CLIENT_VIADUCT_H

#include <stdbool.h>
#include <stdint.h>

#define VIADUCT_API __attribute__((visibility("default")))

struct viaduct;

struct viaduct_error { int code; char text[768]; };

struct viaduct_tensor {               /* fp32; every rank of the job declares the same tensors in the same order */
    const char *name;
    bool state;                       /* a running statistic: moved by average of what lanes contribute, not by gradient */
    uint32_t dim_count;
    uint64_t dims[8];
};

struct viaduct_config {
    /* Who: NULL and -1 take what the agent put into the environment (VIADUCT_RUN, VIADUCT_SITE, VIADUCT_RANK, VIADUCT_INCARNATION). At a
     * site of several hosts VIADUCT_HOST_INDEX and VIADUCT_HOST_ADDRESS say which this is, and where the others reach it. */
    const char *run_dir, *site;
    int64_t rank, incarnation;
    const char *transport;            /* of in-site sums: NULL as the ranks' hosts ask for, or "mpi" inside an MPI world */
    const struct viaduct_tensor *tensor;
    uint32_t tensor_count;
    uint64_t samples_per_pass;
    const char *data_sha256;          /* NULL: not said */
    const char *model_json;           /* put into manifests; NULL: none */
    /* Initial value of all tensors at their offsets in the flat arena, which comes zeroed; a pure function of the job's seed. Must be given. */
    void (*init)(void *arg, uint64_t seed, float *arena);
    void *arg;
};

/* Blocks until the coordinator has accepted this rank and told the plan. */
VIADUCT_API int viaduct_join(const struct viaduct_config *config, struct viaduct **out, struct viaduct_error *error);
/* Orderly end; frees. After an error too. */
VIADUCT_API void viaduct_leave(struct viaduct *v);

VIADUCT_API uint64_t viaduct_elements(const struct viaduct *v);                      /* of the flat arena, padding included */
VIADUCT_API uint64_t viaduct_offset(const struct viaduct *v, uint32_t tensor);       /* first element of a tensor in the flat arena */
VIADUCT_API uint32_t viaduct_lanes(const struct viaduct *v);                         /* of the job */
VIADUCT_API uint32_t viaduct_batch(const struct viaduct *v);

struct viaduct_step {
    bool finished;                    /* no step is left: leave */
    uint64_t step, steps;             /* step: from 0 */
    uint32_t pass;                    /* from 0 */
    uint64_t first;                   /* ledger: this step takes samples [first, first + count) of the pass */
    uint32_t count;
    uint32_t lane_lo, lane_hi;        /* this rank's lanes; may be none */
    const float *weights;             /* flat arena, valid until viaduct_contribute returns */
};
/* Waits until the version that this step needs is published and whole in this process; gathers it over the gang. Blocks without spinning. */
VIADUCT_API int viaduct_next(struct viaduct *v, struct viaduct_step *out, struct viaduct_error *error);
/* Samples of a lane in the present step: positions [first, first + count) of the pass; and which sample of the data set stands at a position. */
VIADUCT_API void viaduct_lane(const struct viaduct *v, uint32_t lane, uint64_t *first, uint32_t *count);
VIADUCT_API void viaduct_lane_ahead(const struct viaduct *v, uint64_t step, uint32_t lane, uint32_t *pass, uint64_t *first, uint32_t *count);
VIADUCT_API uint64_t viaduct_sample(const struct viaduct *v, uint64_t position);
/* Where the lane's gradient goes: viaduct_elements floats; parameters: SUM over the lane's samples; states: count * statistic. */
VIADUCT_API float *viaduct_gradient(struct viaduct *v, uint32_t lane);

/* A trainer whose memory is an accelerator's (space 1; stream: a struct stream of device/device.h) or lies elsewhere on the host (space 0, stream NULL) hands
 * over instead of filling and reading in place. Both move viaduct_elements floats; nothing is copied onto itself. */
struct viaduct_memory { void *pointer; int space; void *stream; };
/* The step's weights, whole when it returns. */
VIADUCT_API int viaduct_fetch_weights(struct viaduct *v, struct viaduct_memory to, struct viaduct_error *error);
/* Any thread. Submits the copy; later calls of the same stream may overwrite the memory. viaduct_contribute waits for it, at most a minute. */
VIADUCT_API int viaduct_put_gradient(struct viaduct *v, uint32_t lane, struct viaduct_memory from, struct viaduct_error *error);
/* Of the present step: seconds that the trainer stood still for want of data, over its threads the longest; without it that time counts as computing. */
VIADUCT_API void viaduct_data_wait(struct viaduct *v, double seconds);

struct viaduct_totals { double loss_sum; uint64_t correct, samples, nonfinite; };     /* of one lane */
/* totals: of lanes lane_lo .. lane_hi - 1. */
VIADUCT_API int viaduct_contribute(struct viaduct *v, const struct viaduct_totals *totals, struct viaduct_error *error);
/* The job cannot go on: tells the coordinator, which ends it with this text. code: -3, or -12 when the loss is not finite, so that a resume would end the same way. */
VIADUCT_API void viaduct_fail(struct viaduct *v, int code, const char *text);

#endif
