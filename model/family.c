/* Families: short programs that build graphs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/ops.h"

struct builder { struct graph *g; int tensors; struct err *err; };

static int tensor(struct builder *b, enum edge_kind kind, const char *layer, const char *part, uint32_t dim_count, const uint32_t *dims, uint16_t *out)
{
    struct edge e = {.kind = kind, .dtype = DTYPE_F32, .sharding = SHARD_REPLICATED, .dim_count = dim_count, .tensor = b->tensors++};
    snprintf(e.name, sizeof e.name, "%s.%s", layer, part);
    memcpy(e.dims, dims, dim_count * sizeof *dims);
    return graph_edge(b->g, &e, out, b->err);
}

static int dense(struct builder *b, const char *name, uint32_t features, uint16_t *x)
{
    uint16_t in[3] = {*x};
    uint32_t dims[2] = {features, b->g->edge[*x].dims[0]};
    TRY(tensor(b, EDGE_PARAMETER, name, "weight", 2, dims, &in[1]));
    TRY(tensor(b, EDGE_PARAMETER, name, "bias", 1, dims, &in[2]));
    return graph_apply(b->g, OP_DENSE, name, in, 3, x, b->err);
}

static int head(struct builder *b, const struct model_config *c, uint16_t x)
{
    char name[32];
    for (uint32_t i = 0; i < c->hidden_count; i++) {
        snprintf(name, sizeof name, "fc%u", i + 1);
        TRY(dense(b, name, c->hidden[i], &x));
        snprintf(name, sizeof name, "fc%u.relu", i + 1);
        TRY(graph_apply(b->g, OP_RELU, name, &x, 1, &x, b->err));
    }
    snprintf(name, sizeof name, "fc%u", c->hidden_count + 1);
    TRY(dense(b, name, c->classes, &x));
    b->g->logits = x;
    uint16_t in[2] = {x, b->g->labels}, loss;
    return graph_apply(b->g, OP_XENT, "loss", in, 2, &loss, b->err);
}

static int conv_stage(struct builder *b, const struct model_config *c, uint32_t i, uint16_t *x)
{
    char name[32];
    uint16_t in[5] = {*x};
    uint32_t dims[4] = {c->conv[i], b->g->edge[*x].dims[0], 3, 3};
    snprintf(name, sizeof name, "conv%u", i + 1);
    TRY(tensor(b, EDGE_PARAMETER, name, "weight", 4, dims, &in[1]));
    TRY(graph_apply(b->g, OP_CONV, name, in, 2, x, b->err));
    if (c->batch_norm) {
        snprintf(name, sizeof name, "bn%u", i + 1);
        in[0] = *x;
        TRY(tensor(b, EDGE_PARAMETER, name, "weight", 1, dims, &in[1]));
        TRY(tensor(b, EDGE_PARAMETER, name, "bias", 1, dims, &in[2]));
        TRY(tensor(b, EDGE_STATE, name, "running_mean", 1, dims, &in[3]));
        TRY(tensor(b, EDGE_STATE, name, "running_var", 1, dims, &in[4]));
        TRY(graph_apply(b->g, OP_BATCHNORM, name, in, 5, x, b->err));
    }
    snprintf(name, sizeof name, "conv%u.relu", i + 1);
    TRY(graph_apply(b->g, OP_RELU, name, x, 1, x, b->err));
    snprintf(name, sizeof name, "conv%u.pool", i + 1);
    return graph_apply(b->g, OP_MAXPOOL, name, x, 1, x, b->err);
}

static int build(struct builder *b, const struct model_config *c)
{
    struct graph *g = b->g;
    struct edge pixels = {.name = "pixels", .kind = EDGE_PIXELS, .dtype = DTYPE_U8, .dim_count = 3, .dims = {c->channels, c->height, c->width}, .tensor = -1};
    struct edge labels = {.name = "labels", .kind = EDGE_LABELS, .dtype = DTYPE_U8, .dim_count = 1, .dims = {1}, .tensor = -1};
    TRY(graph_edge(g, &pixels, &g->pixels, b->err));
    TRY(graph_edge(g, &labels, &g->labels, b->err));
    uint16_t x;
    TRY(graph_apply(g, OP_NORMALIZE, "normalized", &g->pixels, 1, &x, b->err));
    for (uint32_t i = 0; c->family == MODEL_CNN && i < c->conv_count; i++)
        TRY(conv_stage(b, c, i, &x));
    TRY(graph_apply(g, OP_FLATTEN, "flat", &x, 1, &x, b->err));
    TRY(head(b, c, x));
    return graph_differentiate(g, b->err);
}

static int check(const struct model_config *c, struct err *err)
{
    if (c->loss != MODEL_CROSS_ENTROPY)
        return err_set(err, ERR_USAGE, "train.loss: only cross_entropy is in this version");
    if (c->channels < 1 || c->channels > 4 || c->height < 1 || c->width < 1 || c->height > 4096 || c->width > 4096)
        return err_set(err, ERR_USAGE, "model.input [%u, %u, %u] is out of limits: 1 to 4 channels, 1 to 4096 pixels a side", c->channels, c->height, c->width);
    if (c->classes < 2 || c->classes > 256)
        return err_set(err, ERR_USAGE, "model.classes: 2 to 256 are allowed, not %u", c->classes);
    if (c->conv_count > MODEL_LIST_MAX || c->hidden_count > MODEL_LIST_MAX)
        return err_set(err, ERR_USAGE, "a list of layers holds at most %d", MODEL_LIST_MAX);
    for (uint32_t i = 0; i < c->conv_count; i++)
        if (c->conv[i] < 1 || c->conv[i] > 2048)
            return err_set(err, ERR_USAGE, "model.channels[%u]: 1 to 2048 are allowed, not %u", i, c->conv[i]);
    for (uint32_t i = 0; i < c->hidden_count; i++)
        if (c->hidden[i] < 1 || c->hidden[i] > 65536)
            return err_set(err, ERR_USAGE, "model.hidden[%u]: 1 to 65536 are allowed, not %u", i, c->hidden[i]);
    return 0;
}

int graph_build(const struct model_config *config, struct graph **out, struct err *err)
{
    TRY(check(config, err));
    struct graph *g = calloc(1, sizeof *g);
    if (!g)
        return err_set(err, ERR_NO_MEMORY, "no memory for the graph");
    g->config = *config;
    struct builder b = {.g = g, .err = err};
    int rc = build(&b, config);
    if (rc < 0) {
        graph_free(g);
        return rc;
    }
    *out = g;
    return 0;
}
