/* engine: how a graph runs. Compiling makes a memory plan and a flat, shape-specialised program: nothing is allocated and no graph is
 * walked inside a step. Also the optimizers, which workers and parameter-server shards share. */
#ifndef VIADUCT_ENGINE_ENGINE_H
#define VIADUCT_ENGINE_ENGINE_H

#include <stdint.h>
#include "base/err.h"
#include "base/layout.h"
#include "device/device.h"
#include "model/model.h"

struct engine;                        /* compiled model for one rank: one lane arena per thread */

struct lane_metrics {                 /* of one lane, sums over samples; loss in double */
    double loss_sum;
    uint64_t correct, samples;
    uint32_t nonfinite;               /* non-finite values met in the loss */
};

/* threads: lanes that may run at the same time (each has its own activation arena). lane_batch_max: samples in the largest lane. */
int engine_open(const struct graph *g, const struct layout *l, struct device *d, unsigned threads, uint32_t lane_batch_max,
                struct engine **out, struct err *err);
void engine_close(struct engine *e);
uint64_t engine_memory_bytes(const struct engine *e);
double engine_flops_per_sample(const struct engine *e);     /* forward and backward, multiply-add = 2 */

/* Weights: the flat arena in layout order (host memory; SPACE_DEVICE when the device's space is that). Packed forms that kernels want
 * are made here, once per step, before any lane runs. */
int engine_set_weights(struct engine *e, const float *arena, struct err *err);

/* One lane: forward and backward of `count` samples (0 < count <= lane_batch_max), on thread slot `slot` (< threads); slots may run
 * concurrently. pixels: count * C*H*W bytes, labels: count. grad (layout->elems floats) is overwritten: for parameters the SUM over samples
 * of the gradient, for states count * statistic. Bits depend on weights, samples and count only; never on slot or threads. */
int engine_lane(struct engine *e, unsigned slot, const uint8_t *pixels, const uint8_t *labels, uint32_t count, float *grad,
                struct lane_metrics *out, struct err *err);

/* On which a slot's calls follow one another. */
struct stream *engine_stream(const struct engine *e, unsigned slot);

/* Evaluation with running statistics: loss sum and correct count of `count` samples, any count; uses slot 0.. of all threads in order. */
int engine_eval(struct engine *e, const uint8_t *pixels, const uint8_t *labels, uint64_t count, struct lane_metrics *out,
                struct err *err);
/* Logits (count * classes floats) with running statistics; pixels as floats in [0, 1], N x C x H x W. */
int engine_infer(struct engine *e, const float *pixels, uint32_t count, float *logits, struct err *err);

/* ---- optimizers: one function for ranks and shards, explicit about every rounding, the same bits on every machine ---- */
enum optim_kind { OPTIM_SGD, OPTIM_ADAMW };
struct optim_config { enum optim_kind kind; float weight_decay, beta1, beta2, eps, momentum; uint32_t nesterov; float state_momentum; };
/* state_momentum: moving average of TENSOR_STATE blocks, new = (1 - m) * old + m * mean; PyTorch's 0.1. */
unsigned optim_slots(const struct optim_config *c);          /* floats of optimizer state per element: sgd 1 (0 without momentum), adamw 2 */
const char *optim_slot_name(const struct optim_config *c, unsigned slot);   /* "momentum"; "exp_avg", "exp_avg_sq" */
/* One committed round on one block. sum: contribution summed over samples; inv_count = 1/samples in float; lr and clip from the record;
 * step: number of applied records after this one (from 1), for bias correction. slots: optim_slots() arrays of n floats. In place. */
void optim_apply(const struct optim_config *c, enum tensor_kind kind, float *weights, float *const *slots, const float *sum,
                 uint64_t n, double samples, float lr, float clip, uint64_t step);
/* The same for a block of a pruned tensor. Its mask is the set of its zeros: first weights below `threshold` (0: none) become zero, then whatever is exactly zero
 * stays so, with its moments. The mask thus needs no memory, file or message of its own, and cannot disagree with the weights. */
void optim_apply_masked(const struct optim_config *c, float *weights, float *const *slots, const float *sum, uint64_t n, double samples, float lr, float clip,
                        uint64_t step, float threshold);
/* Sum of squares in double, fixed order, and the count of non-finite values; for PREPARED. */
double block_square_sum(const float *v, uint64_t n, uint32_t *nonfinite);

#endif
