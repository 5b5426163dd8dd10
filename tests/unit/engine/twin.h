/* Plain-loop twins of the kernels, in double, on dense channel-first arrays [n][c][h][w]: the truth that the fast kernels are held against. */
#ifndef VIADUCT_TESTS_TWIN_H
#define VIADUCT_TESTS_TWIN_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/layout.h"
#include "model/model.h"

#define TWIN_EPS 1e-5

static inline void twin_conv(const double *x, const double *w, double *y, int n, int ci, int co, int h, int wd)
{
    for (int k = 0; k < n; k++)
        for (int o = 0; o < co; o++)
            for (int r = 0; r < h; r++)
                for (int c = 0; c < wd; c++) {
                    double s = 0;
                    for (int i = 0; i < ci; i++)
                        for (int a = -1; a <= 1; a++)
                            for (int b = -1; b <= 1; b++)
                                if (r + a >= 0 && r + a < h && c + b >= 0 && c + b < wd)
                                    s += x[((k * ci + i) * h + r + a) * wd + c + b] * w[((o * ci + i) * 3 + a + 1) * 3 + b + 1];
                    y[((k * co + o) * h + r) * wd + c] = s;
                }
}

static inline void twin_norm(double *x, const double *gamma, const double *beta, int n, int c, int plane, double *mean, double *variance)
{
    for (int k = 0; k < c; k++) {
        double m = 0, v = 0;
        for (int i = 0; i < n; i++)
            for (int p = 0; p < plane; p++)
                m += x[(i * c + k) * plane + p];
        m /= n * plane;
        for (int i = 0; i < n; i++)
            for (int p = 0; p < plane; p++)
                v += (x[(i * c + k) * plane + p] - m) * (x[(i * c + k) * plane + p] - m);
        v /= n * plane;
        for (int i = 0; i < n; i++)
            for (int p = 0; p < plane; p++) {
                double *q = &x[(i * c + k) * plane + p];
                *q = (*q - m) / sqrt(v + TWIN_EPS) * gamma[k] + beta[k];
            }
        mean[k] = m;
        variance[k] = v * n * plane / (n * plane > 1 ? n * plane - 1 : 1);
    }
}

/* Loss summed over samples of the model `c` with weights `w` (flat arena in double); statistics are those of the batch. state: arena of the states'
 * contributions / samples, filled when not NULL. */
static inline double twin_loss(const struct model_config *c, const struct layout *l, const double *w, const uint8_t *pixels, const uint8_t *labels, int n,
                               double *state)
{
    int ch = (int)c->channels, h = (int)c->height, wd = (int)c->width, features = ch * h * wd, tensor = 0;
    double *x = malloc(sizeof *x * (size_t)(n * features));
    for (int k = 0; k < n; k++)
        for (int i = 0; i < features; i++)
            x[k * features + i] = ((double)pixels[k * features + i] / 255 - (double)c->mean[i / (h * wd)]) / (double)c->deviation[i / (h * wd)];
    for (uint32_t s = 0; c->family == MODEL_CNN && s < c->conv_count; s++) {
        int co = (int)c->conv[s], ph = h / 2, pw = wd / 2;
        double *y = malloc(sizeof *y * (size_t)(n * co * h * wd)), *p = malloc(sizeof *p * (size_t)(n * co * ph * pw));
        twin_conv(x, w + l->tensors[tensor++].offset, y, n, ch, co, h, wd);
        if (c->batch_norm) {
            double *mean = calloc((size_t)co, sizeof *mean), *variance = calloc((size_t)co, sizeof *mean);
            twin_norm(y, w + l->tensors[tensor].offset, w + l->tensors[tensor + 1].offset, n, co, h * wd, mean, variance);
            if (state)
                for (int k = 0; k < co; k++) {
                    state[l->tensors[tensor + 2].offset + (uint64_t)k] = mean[k];
                    state[l->tensors[tensor + 3].offset + (uint64_t)k] = variance[k];
                }
            tensor += 4;
            free(mean);
            free(variance);
        }
        for (int k = 0; k < n * co; k++)
            for (int r = 0; r < ph; r++)
                for (int q = 0; q < pw; q++) {
                    double best = 0;   /* ReLU first, then the maximum: the same as the maximum with 0 */
                    for (int j = 0; j < 4; j++)
                        best = fmax(best, y[(k * h + 2 * r + j / 2) * wd + 2 * q + j % 2]);
                    p[(k * ph + r) * pw + q] = best;
                }
        free(x);
        free(y);
        x = p;
        ch = co;
        h = ph;
        wd = pw;
        features = ch * h * wd;
    }
    for (uint32_t s = 0; s <= c->hidden_count; s++) {
        int out = (int)(s < c->hidden_count ? c->hidden[s] : c->classes);
        const double *weight = w + l->tensors[tensor].offset, *bias = w + l->tensors[tensor + 1].offset;
        double *y = malloc(sizeof *y * (size_t)(n * out));
        for (int k = 0; k < n; k++)
            for (int o = 0; o < out; o++) {
                double v = bias[o];
                for (int i = 0; i < features; i++)
                    v += x[k * features + i] * weight[o * features + i];
                y[k * out + o] = s < c->hidden_count ? fmax(v, 0) : v;
            }
        free(x);
        x = y;
        features = out;
        tensor += 2;
    }
    double loss = 0;
    for (int k = 0; k < n; k++) {
        double sum = 0;
        for (int o = 0; o < features; o++)
            sum += exp(x[k * features + o] - x[k * features + labels[k]]);
        loss += log(sum);
    }
    free(x);
    return loss;
}

#endif
