/* Building a graph: edges, nodes, differentiation, layout, initial weights. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/philox.h"
#include "model/ops.h"

int graph_edge(struct graph *g, const struct edge *e, uint16_t *out, struct err *err)
{
    if (g->edge_count == GRAPH_EDGES_MAX)
        return err_set(err, ERR_USAGE, "the model has more than %d values; use fewer layers", GRAPH_EDGES_MAX);
    g->edge[g->edge_count] = *e;
    g->edge[g->edge_count].producer = -1;
    *out = (uint16_t)g->edge_count++;
    return 0;
}

int graph_node(struct graph *g, enum op op, const uint16_t *in, unsigned in_count, const uint16_t *out, unsigned out_count, struct err *err)
{
    if (g->node_count == GRAPH_NODES_MAX)
        return err_set(err, ERR_USAGE, "the model has more than %d operations; use fewer layers", GRAPH_NODES_MAX);
    CHECK(in_count == op_table[op].in_count && out_count <= NODE_EDGES_MAX);
    struct node *n = &g->node[g->node_count];
    *n = (struct node){.op = op, .in_count = (uint8_t)in_count, .out_count = (uint8_t)out_count};
    memcpy(n->in, in, in_count * sizeof *in);
    memcpy(n->out, out, out_count * sizeof *out);
    for (unsigned i = 0; i < out_count; i++)
        g->edge[out[i]].producer = (int)g->node_count;
    g->node_count++;
    return 0;
}

int graph_apply(struct graph *g, enum op op, const char *name, const uint16_t *in, unsigned in_count, uint16_t *out, struct err *err)
{
    struct edge e = {.kind = EDGE_VALUE, .dtype = DTYPE_F32, .sharding = SHARD_REPLICATED, .tensor = -1};
    snprintf(e.name, sizeof e.name, "%s", name);
    if (op_table[op].shape(g, in, &e.dim_count, e.dims, err) < 0)
        return err_wrap(err, "%s", name);
    uint16_t made;   /* callers may pass the same variable as input and output */
    TRY(graph_edge(g, &e, &made, err));
    TRY(graph_node(g, op, in, in_count, &made, 1, err));
    *out = made;
    return 0;
}

/* Consumers of an edge among the forward nodes. */
static unsigned consumers(const struct graph *g, uint16_t e)
{
    unsigned n = 0;
    for (uint32_t k = 0; k < g->forward_count; k++)
        for (unsigned i = 0; i < g->node[k].in_count; i++)
            n += g->node[k].in[i] == e;
    return n;
}

int graph_differentiate(struct graph *g, struct err *err)
{
    g->forward_count = g->node_count;
    uint16_t dy = NO_EDGE;
    for (uint32_t n = g->forward_count; n-- > 0;) {
        const struct op_row *row = &op_table[g->node[n].op];
        if (!row->gradient)
            return 0;   /* the input's own node: nothing below it learns */
        uint16_t x = g->node[n].in[0];
        if (consumers(g, x) != 1)
            return err_set(err, ERR_USAGE, "value %s is used more than once; sums of gradients are not in this version", g->edge[x].name);
        int producer = g->edge[x].producer;
        bool wants_dx = producer >= 0 && op_table[g->node[producer].op].gradient != NULL;
        uint16_t dx;
        TRY(row->gradient(g, n, dy, wants_dx, &dx, err));
        dy = dx;
    }
    return 0;
}

void graph_free(struct graph *g) { free(g); }

int graph_layout(const struct graph *g, struct layout *out, struct err *err)
{
    struct tensor_desc *t = calloc(GRAPH_EDGES_MAX, sizeof *t);
    if (!t)
        return err_set(err, ERR_NO_MEMORY, "no memory for the layout");
    uint32_t count = 0;
    for (uint32_t e = 0; e < g->edge_count; e++) {
        const struct edge *p = &g->edge[e];
        if (p->kind != EDGE_PARAMETER && p->kind != EDGE_STATE)
            continue;
        CHECK(p->tensor == (int)count);
        memcpy(t[count].name, p->name, sizeof t[count].name);
        t[count].kind = p->kind == EDGE_STATE ? TENSOR_STATE : TENSOR_PARAMETER;
        t[count].dim_count = p->dim_count;
        for (uint32_t d = 0; d < p->dim_count; d++)
            t[count].dims[d] = p->dims[d];
        count++;
    }
    int rc = layout_init(out, t, count, err);
    free(t);
    return rc;
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* As PyTorch's defaults: weights and dense biases uniform in +-1/sqrt(fan in); norms 1 and 0; running variance 1. */
void graph_init_weights(const struct graph *g, const struct layout *l, uint64_t seed, float *arena)
{
    (void)g;
    uint64_t key = philox_key(seed, STREAM_INIT);
    uint64_t fan_in = 1;
    memset(arena, 0, l->elems * sizeof *arena);
    for (uint32_t t = 0; t < l->tensor_count; t++) {
        const struct tensor_desc *d = &l->tensors[t];
        float *w = arena + d->offset;
        bool norm = strncmp(d->name, "bn", 2) == 0;
        if (d->dim_count >= 2) {
            fan_in = 1;
            for (uint32_t k = 1; k < d->dim_count; k++)
                fan_in *= d->dims[k];
        }
        if (norm) {
            float v = ends_with(d->name, ".weight") || ends_with(d->name, ".running_var") ? 1 : 0;
            for (uint64_t i = 0; i < d->elems; i++)
                w[i] = v;
            continue;
        }
        float bound = (float)(1 / sqrt((double)fan_in));   /* a bias follows its weights, and has their fan in */
        for (uint64_t i = 0; i < d->elems; i++) {
            struct philox r = philox4x32(key, (uint32_t)(i / 4), (uint32_t)((i / 4) >> 32), t, 0);
            w[i] = (2 * philox_unit(r.v[i % 4]) - 1) * bound;
        }
    }
}
