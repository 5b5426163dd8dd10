/* Optimizers. Compiled without contraction: every product and sum below rounds once, so shards and ranks on any machine get the same bits. The
 * loops are plain and independent per element, so vector width does not matter either. AdamW: Loshchilov and Hutter, "Decoupled weight decay
 * regularization" (ICLR 2019), in the order of PyTorch's implementation; SGD with momentum as PyTorch's, without dampening. */
#include <math.h>
#include <string.h>

#include "engine/engine.h"

#define MASK_CHUNK 4096
#define OPTIM_SLOTS_MAX 2

unsigned optim_slots(const struct optim_config *c)
{
    return c->kind == OPTIM_ADAMW ? 2 : c->momentum != 0 ? 1 : 0;
}

const char *optim_slot_name(const struct optim_config *c, unsigned slot)
{
    if (c->kind == OPTIM_SGD)
        return "momentum";
    return slot == 0 ? "exp_avg" : "exp_avg_sq";
}

#ifdef __SANITIZE_THREAD__   /* its runtime is not there yet when clones are chosen */
#define WIDTHS
#else
#define WIDTHS __attribute__((target_clones("avx512f", "avx2", "default")))
#endif

WIDTHS static void adamw(float *restrict w, float *restrict m, float *restrict v, const float *restrict sum, uint64_t n, float scale, float keep, float b1,
                         float b2, float step_size, float root, float eps)
{
    float c1 = 1 - b1, c2 = 1 - b2;
    for (uint64_t i = 0; i < n; i++) {
        float g = sum[i] * scale;
        float mi = m[i] + c1 * (g - m[i]);
        float vi = b2 * v[i] + c2 * (g * g);
        m[i] = mi;
        v[i] = vi;
        w[i] = w[i] * keep - step_size * (mi / (sqrtf(vi) / root + eps));
    }
}

WIDTHS static void sgd(float *restrict w, float *restrict m, const float *restrict sum, uint64_t n, float scale, float decay, float lr, float momentum,
                       uint32_t nesterov)
{
    for (uint64_t i = 0; i < n; i++) {
        float g = sum[i] * scale + decay * w[i];
        float b = momentum * m[i] + g;
        m[i] = b;
        w[i] = w[i] - lr * (nesterov ? g + momentum * b : b);
    }
}

WIDTHS static void plain(float *restrict w, const float *restrict sum, uint64_t n, float scale, float decay, float lr)
{
    for (uint64_t i = 0; i < n; i++)
        w[i] = w[i] - lr * (sum[i] * scale + decay * w[i]);
}

WIDTHS static void average(float *restrict s, const float *restrict sum, uint64_t n, float inv, float momentum)
{
    float keep = 1 - momentum;
    for (uint64_t i = 0; i < n; i++)
        s[i] = keep * s[i] + momentum * (sum[i] * inv);
}

void optim_apply(const struct optim_config *c, enum tensor_kind kind, float *weights, float *const *slots, const float *sum, uint64_t n, double samples,
                 float lr, float clip, uint64_t step)
{
    float inv = (float)(1 / samples), scale = inv * clip;
    if (kind == TENSOR_STATE) {
        average(weights, sum, n, inv, c->state_momentum);
    } else if (c->kind == OPTIM_ADAMW) {
        double t = (double)step, correction1 = 1 - pow((double)c->beta1, t), correction2 = 1 - pow((double)c->beta2, t);
        float keep = (float)(1 - (double)lr * (double)c->weight_decay);
        adamw(weights, slots[0], slots[1], sum, n, scale, keep, c->beta1, c->beta2, (float)((double)lr / correction1), (float)sqrt(correction2), c->eps);
    } else if (c->momentum != 0) {
        sgd(weights, slots[0], sum, n, scale, c->weight_decay, lr, c->momentum, c->nesterov);
    } else {
        plain(weights, sum, n, scale, c->weight_decay, lr);
    }
}

/* The ordinary step runs over all elements, so that kept ones get its very bits; then the masked ones are put back to zero. */
void optim_apply_masked(const struct optim_config *c, float *weights, float *const *slots, const float *sum, uint64_t n, double samples, float lr, float clip,
                        uint64_t step, float threshold)
{
    uint8_t masked[MASK_CHUNK];
    unsigned slot_count = optim_slots(c);
    for (uint64_t at = 0; at < n; at += MASK_CHUNK) {
        uint64_t count = n - at < MASK_CHUNK ? n - at : MASK_CHUNK;
        float *slot[OPTIM_SLOTS_MAX] = {0};
        for (unsigned k = 0; k < slot_count; k++)
            slot[k] = slots[k] + at;
        for (uint64_t i = 0; i < count; i++)
            masked[i] = weights[at + i] == 0 || fabsf(weights[at + i]) < threshold;
        optim_apply(c, TENSOR_PARAMETER, weights + at, slot, sum + at, count, samples, lr, clip, step);
        for (uint64_t i = 0; i < count; i++)
            weights[at + i] = masked[i] ? 0 : weights[at + i];
        for (unsigned k = 0; k < slot_count; k++)
            for (uint64_t i = 0; i < count; i++)
                slot[k][i] = masked[i] ? 0 : slot[k][i];
    }
}

double block_square_sum(const float *v, uint64_t n, uint32_t *nonfinite)
{
    double part[8] = {0};
    uint32_t bad = 0;
    for (uint64_t i = 0; i < n; i++) {
        double x = (double)v[i];
        bad += !isfinite(v[i]);
        part[i % 8] += x * x;
    }
    *nonfinite = bad;
    double s = 0;
    for (unsigned j = 0; j < 8; j++)
        s += part[j];
    return s;
}
