/* Is the quantized model good enough? Both models answer the same samples, so what counts is where they differ: each sample was won, lost or left alone
 * by quantization. The paired bootstrap draws as many samples again, with replacement (Efron and Tibshirani, "An introduction to the bootstrap", 1993);
 * of such a draw only the numbers won and lost matter, and these are multinomial, so they are drawn as two binomials. */
#include <math.h>
#include <stdlib.h>

#include "base/base.h"
#include "export/parts.h"

#define RESAMPLES 10000

struct stream { uint64_t key; uint32_t draw, at; };

static double uniform(struct stream *s)   /* in (0, 1] */
{
    struct philox r = philox4x32(s->key, s->at++, s->draw, 0, 0);
    return ((double)((uint64_t)r.v[0] << 20 | r.v[1] >> 12) + 1) * 0x1p-52;
}

/* By waiting times between successes; p is small where it matters, so few are needed. */
static uint64_t binomial(struct stream *s, uint64_t n, double p)
{
    if (p <= 0 || n == 0)
        return 0;
    if (p > 0.5)
        return n - binomial(s, n, 1 - p);
    double tried = 0, fail = log1p(-p);
    for (uint64_t successes = 0;; successes++) {
        tried += floor(log(uniform(s)) / fail) + 1;
        if (tried > (double)n)
            return successes;
    }
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

struct gate gate_decide(const uint8_t *labels, const uint8_t *with_float, const uint8_t *with_integers, uint64_t count, uint64_t seed, double max_drop)
{
    uint64_t won = 0, lost = 0;
    for (uint64_t i = 0; i < count; i++) {
        won += with_integers[i] == labels[i] && with_float[i] != labels[i];
        lost += with_integers[i] != labels[i] && with_float[i] == labels[i];
    }
    double n = (double)count, p_won = (double)won / n, p_lost = won == count ? 0 : (double)lost / (double)(count - won);
    static const uint32_t lowest = RESAMPLES / 20;
    double gain[RESAMPLES];
    for (uint32_t i = 0; i < RESAMPLES; i++) {
        struct stream s = {philox_key(seed, STREAM_BOOTSTRAP), i, 0};
        uint64_t w = binomial(&s, count, p_won), l = binomial(&s, count - w, p_lost);
        gain[i] = ((double)w - (double)l) / n;
    }
    qsort(gain, RESAMPLES, sizeof *gain, ascending);
    return (struct gate){.passed = gain[lowest] >= -max_drop, .drop = ((double)lost - (double)won) / n, .low95 = gain[lowest], .max_drop = max_drop};
}
