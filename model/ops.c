#include "model/ops.h"

#include <stdio.h>
#include <string.h>

/* ---- shapes ---- */
static const struct edge *at(const struct graph *g, uint16_t e) { return &g->edge[e]; }

static int same_shape(const struct graph *g, const uint16_t *in, uint32_t *count, uint32_t dims[4], struct err *err)
{
    (void)err;
    *count = at(g, in[0])->dim_count;
    memcpy(dims, at(g, in[0])->dims, sizeof at(g, in[0])->dims);
    return 0;
}

static int conv_shape(const struct graph *g, const uint16_t *in, uint32_t *count, uint32_t dims[4], struct err *err)
{
    const struct edge *x = at(g, in[0]), *w = at(g, in[1]);
    if (x->dim_count != 3 || w->dim_count != 4 || w->dims[1] != x->dims[0] || w->dims[2] != 3 || w->dims[3] != 3)
        return err_set(err, ERR_USAGE, "%s: the weights do not fit an input of %u channels", w->name, x->dims[0]);
    *count = 3;
    dims[0] = w->dims[0];
    dims[1] = x->dims[1];
    dims[2] = x->dims[2];
    return 0;
}

static int pool_shape(const struct graph *g, const uint16_t *in, uint32_t *count, uint32_t dims[4], struct err *err)
{
    const struct edge *x = at(g, in[0]);
    if (x->dim_count != 3 || x->dims[1] < 2 || x->dims[2] < 2)
        return err_set(err, ERR_USAGE, "%s: %u x %u is too small to be pooled 2 x 2; use fewer channels entries", x->name, x->dims[1], x->dims[2]);
    *count = 3;
    dims[0] = x->dims[0];
    dims[1] = x->dims[1] / 2;
    dims[2] = x->dims[2] / 2;
    return 0;
}

static int flatten_shape(const struct graph *g, const uint16_t *in, uint32_t *count, uint32_t dims[4], struct err *err)
{
    (void)err;
    const struct edge *x = at(g, in[0]);
    *count = 1;
    dims[0] = x->dims[0] * x->dims[1] * x->dims[2];
    return 0;
}

static int dense_shape(const struct graph *g, const uint16_t *in, uint32_t *count, uint32_t dims[4], struct err *err)
{
    const struct edge *x = at(g, in[0]), *w = at(g, in[1]);
    if (x->dim_count != 1 || w->dims[1] != x->dims[0])
        return err_set(err, ERR_USAGE, "%s: the weights do not fit an input of %u features", w->name, x->dims[0]);
    *count = 1;
    dims[0] = w->dims[0];
    return 0;
}

/* ---- gradients ---- */
static int gradient_edge(struct graph *g, uint16_t of, uint16_t *out, struct err *err)
{
    struct edge e = *at(g, of);
    char name[sizeof e.name];
    snprintf(name, sizeof name, "d(%.*s)", (int)sizeof name - 4, e.name);
    memcpy(e.name, name, sizeof name);
    e.is_gradient = e.tensor >= 0;
    e.kind = EDGE_VALUE;
    return graph_edge(g, &e, out, err);
}

static int one_out(struct graph *g, enum op op, const uint16_t *in, unsigned count, uint16_t like, uint16_t *dx, struct err *err)
{
    TRY(gradient_edge(g, like, dx, err));
    return graph_node(g, op, in, count, dx, 1, err);
}

static int xent_gradient(struct graph *g, uint32_t n, uint16_t dy, bool wants_dx, uint16_t *dx, struct err *err)
{
    (void)dy;
    (void)wants_dx;
    const struct node *f = &g->node[n];
    uint16_t in[2] = {f->in[0], f->in[1]};
    return one_out(g, OP_XENT_GRAD, in, 2, in[0], dx, err);
}

static int dense_gradient(struct graph *g, uint32_t n, uint16_t dy, bool wants_dx, uint16_t *dx, struct err *err)
{
    uint16_t x = g->node[n].in[0], w = g->node[n].in[1], b = g->node[n].in[2], out[2], in[2] = {dy, x};
    TRY(gradient_edge(g, w, &out[0], err));
    TRY(gradient_edge(g, b, &out[1], err));
    TRY(graph_node(g, OP_DENSE_DW, in, 2, out, 2, err));
    *dx = NO_EDGE;
    in[1] = w;
    return wants_dx ? one_out(g, OP_DENSE_DX, in, 2, x, dx, err) : 0;
}

static int flatten_gradient(struct graph *g, uint32_t n, uint16_t dy, bool wants_dx, uint16_t *dx, struct err *err)
{
    *dx = NO_EDGE;
    return wants_dx ? one_out(g, OP_FLATTEN_GRAD, &dy, 1, g->node[n].in[0], dx, err) : 0;
}

static int pool_gradient(struct graph *g, uint32_t n, uint16_t dy, bool wants_dx, uint16_t *dx, struct err *err)
{
    uint16_t in[2] = {dy, g->node[n].in[0]};
    *dx = NO_EDGE;
    return wants_dx ? one_out(g, OP_MAXPOOL_GRAD, in, 2, in[1], dx, err) : 0;
}

static int relu_gradient(struct graph *g, uint32_t n, uint16_t dy, bool wants_dx, uint16_t *dx, struct err *err)
{
    uint16_t in[2] = {dy, g->node[n].out[0]};
    *dx = NO_EDGE;
    return wants_dx ? one_out(g, OP_RELU_GRAD, in, 2, g->node[n].in[0], dx, err) : 0;
}

static int batchnorm_gradient(struct graph *g, uint32_t n, uint16_t dy, bool wants_dx, uint16_t *dx, struct err *err)
{
    (void)wants_dx;
    struct node f = g->node[n];
    uint16_t in[3] = {dy, f.in[0], f.in[1]}, out[5];
    TRY(gradient_edge(g, f.in[0], &out[0], err));
    for (unsigned i = 1; i < 5; i++)
        TRY(gradient_edge(g, f.in[i], &out[i], err));
    *dx = out[0];
    return graph_node(g, OP_BATCHNORM_GRAD, in, 3, out, 5, err);
}

static int conv_gradient(struct graph *g, uint32_t n, uint16_t dy, bool wants_dx, uint16_t *dx, struct err *err)
{
    uint16_t x = g->node[n].in[0], w = g->node[n].in[1], in[2] = {dy, x}, dw;
    TRY(gradient_edge(g, w, &dw, err));
    TRY(graph_node(g, OP_CONV_DW, in, 2, &dw, 1, err));
    *dx = NO_EDGE;
    in[1] = w;
    return wants_dx ? one_out(g, OP_CONV_DX, in, 2, x, dx, err) : 0;
}

const struct op_row op_table[OPS] = {
    [OP_NORMALIZE] = {"Normalize", 1, same_shape, NULL},
    [OP_CONV] = {"Conv", 2, conv_shape, conv_gradient},
    [OP_CONV_BIAS] = {"Conv", 3, conv_shape, NULL},
    [OP_BATCHNORM] = {"BatchNormalization", 5, same_shape, batchnorm_gradient},
    [OP_RELU] = {"Relu", 1, same_shape, relu_gradient},
    [OP_MAXPOOL] = {"MaxPool", 1, pool_shape, pool_gradient},
    [OP_FLATTEN] = {"Flatten", 1, flatten_shape, flatten_gradient},
    [OP_DENSE] = {"Gemm", 3, dense_shape, dense_gradient},
    [OP_XENT] = {"SoftmaxCrossEntropyLoss", 2, same_shape, xent_gradient},
    [OP_XENT_GRAD] = {"XentGrad", 2, NULL, NULL},
    [OP_DENSE_DX] = {"DenseDX", 2, NULL, NULL},
    [OP_DENSE_DW] = {"DenseDW", 2, NULL, NULL},
    [OP_FLATTEN_GRAD] = {"FlattenGrad", 1, NULL, NULL},
    [OP_MAXPOOL_GRAD] = {"MaxPoolGrad", 2, NULL, NULL},
    [OP_RELU_GRAD] = {"ReluGrad", 2, NULL, NULL},
    [OP_BATCHNORM_GRAD] = {"BatchNormGrad", 3, NULL, NULL},
    [OP_CONV_DX] = {"ConvDX", 2, NULL, NULL},
    [OP_CONV_DW] = {"ConvDW", 2, NULL, NULL},
};

const char *op_name(enum op op) { return op_table[op].name; }
