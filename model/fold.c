/* Batch norms into the convolutions before them: w' = w * gamma / sqrt(var + eps), b' = beta - mean * gamma / sqrt(var + eps). (Jacob et al.,
 * "Quantization and training of neural networks for efficient integer-arithmetic-only inference", CVPR 2018, 3.2.) */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/ops.h"

struct folding { const struct graph *from; struct graph *to; uint16_t edge[GRAPH_EDGES_MAX]; int tensors; struct err *err; };

/* "conv1.weight" -> "conv1" */
static void layer_of(const struct edge *weight, char out[TENSOR_NAME_MAX])
{
    const char *dot = strrchr(weight->name, '.');
    snprintf(out, TENSOR_NAME_MAX, "%.*s", dot ? (int)(dot - weight->name) : (int)strlen(weight->name), weight->name);
}

static int node_after(const struct graph *g, uint16_t edge, enum op op)
{
    for (uint32_t n = 0; n < g->forward_count; n++)
        if (g->node[n].op == op && g->node[n].in[0] == edge)
            return (int)n;
    return -1;
}

static int tensor(struct folding *f, const char *layer, const char *part, const struct edge *like, uint32_t dim_count, uint16_t *out)
{
    struct edge e = {.kind = EDGE_PARAMETER, .dtype = DTYPE_F32, .sharding = SHARD_REPLICATED, .dim_count = dim_count, .tensor = f->tensors++};
    snprintf(e.name, sizeof e.name, "%.*s.%s", (int)sizeof e.name - 12, layer, part);
    memcpy(e.dims, like->dims, dim_count * sizeof *e.dims);
    return graph_edge(f->to, &e, out, f->err);
}

static int layer(struct folding *f, const struct node *n, enum op op)
{
    char name[TENSOR_NAME_MAX];
    const struct edge *w = &f->from->edge[n->in[1]];
    uint16_t in[3] = {f->edge[n->in[0]]}, out;
    layer_of(w, name);
    TRY(tensor(f, name, "weight", w, w->dim_count, &in[1]));
    TRY(tensor(f, name, "bias", w, 1, &in[2]));
    TRY(graph_apply(f->to, op, name, in, 3, &out, f->err));
    f->edge[n->out[0]] = out;
    return 0;
}

static int copy_node(struct folding *f, const struct node *n)
{
    const struct graph *g = f->from;
    switch (n->op) {
    case OP_XENT: return 0;
    case OP_CONV: return layer(f, n, OP_CONV_BIAS);
    case OP_DENSE: return layer(f, n, OP_DENSE);
    case OP_BATCHNORM:
        if (g->edge[n->in[0]].producer < 0 || g->node[g->edge[n->in[0]].producer].op != OP_CONV)
            return err_set(f->err, ERR_USAGE, "%s does not follow a convolution; it cannot be folded, and such models are not quantized in this version",
                           g->edge[n->out[0]].name);
        f->edge[n->out[0]] = f->edge[n->in[0]];
        return 0;
    case OP_NORMALIZE: case OP_RELU: case OP_MAXPOOL: case OP_FLATTEN:
        return graph_apply(f->to, n->op, g->edge[n->out[0]].name, &f->edge[n->in[0]], 1, &f->edge[n->out[0]], f->err);
    default: return err_set(f->err, ERR_USAGE, "%s (%s) is not an operation that can be folded and quantized in this version", op_name(n->op),
                            g->edge[n->out[0]].name);
    }
}

static int fold(struct folding *f)
{
    TRY(graph_edge(f->to, &f->from->edge[f->from->pixels], &f->to->pixels, f->err));
    f->edge[f->from->pixels] = f->to->pixels;
    f->to->labels = NO_EDGE;
    for (uint32_t n = 0; n < f->from->forward_count; n++)
        TRY(copy_node(f, &f->from->node[n]));
    f->to->logits = f->edge[f->from->logits];
    f->to->forward_count = f->to->node_count;
    return 0;
}

int graph_fold(const struct graph *g, struct graph **out, struct err *err)
{
    struct folding *f = calloc(1, sizeof *f);
    struct graph *to = calloc(1, sizeof *to);
    int rc = f && to ? 0 : err_set(err, ERR_NO_MEMORY, "no memory for the folded graph");
    if (rc == 0) {
        *f = (struct folding){.from = g, .to = to, .err = err};
        to->config = g->config;
        rc = fold(f);
    }
    free(f);
    if (rc < 0) {
        graph_free(to);
        return rc;
    }
    *out = to;
    return 0;
}

/* ---- weights ---- */
static const float *values(const struct graph *g, const struct layout *l, const float *weights, uint16_t edge)
{
    return weights + l->tensors[g->edge[edge].tensor].offset;
}

static float *place(const struct layout *folded, float *out, const char *layer_name, const char *part)
{
    char name[TENSOR_NAME_MAX];
    snprintf(name, sizeof name, "%.*s.%s", (int)sizeof name - 12, layer_name, part);
    int t = layout_find(folded, name);
    CHECK(t >= 0);
    return out + folded->tensors[t].offset;
}

static void fold_layer(const struct graph *g, const struct layout *l, const float *weights, const struct node *n, const struct layout *folded, float *out)
{
    char name[TENSOR_NAME_MAX];
    const struct edge *w = &g->edge[n->in[1]];
    const float *from = values(g, l, weights, n->in[1]);
    uint64_t channels = w->dims[0], depth = l->tensors[w->tensor].elems / channels;
    int norm = n->op == OP_CONV ? node_after(g, n->out[0], OP_BATCHNORM) : -1;
    layer_of(w, name);
    float *to = place(folded, out, name, "weight"), *bias = place(folded, out, name, "bias");
    memcpy(to, from, channels * depth * sizeof *to);
    if (n->op == OP_DENSE)
        memcpy(bias, values(g, l, weights, n->in[2]), channels * sizeof *bias);
    for (uint64_t c = 0; norm >= 0 && c < channels; c++) {
        const uint16_t *in = g->node[norm].in;
        double factor = (double)values(g, l, weights, in[1])[c] / sqrt((double)values(g, l, weights, in[4])[c] + (double)MODEL_NORM_EPS);
        for (uint64_t i = 0; i < depth; i++)
            to[c * depth + i] = (float)((double)from[c * depth + i] * factor);
        bias[c] = (float)((double)values(g, l, weights, in[2])[c] - (double)values(g, l, weights, in[3])[c] * factor);
    }
}

void graph_fold_weights(const struct graph *g, const struct layout *l, const float *weights, const struct layout *folded, float *out)
{
    memset(out, 0, folded->elems * sizeof *out);
    for (uint32_t n = 0; n < g->forward_count; n++)
        if (g->node[n].op == OP_CONV || g->node[n].op == OP_DENSE)
            fold_layer(g, l, weights, &g->node[n], folded, out);
}
