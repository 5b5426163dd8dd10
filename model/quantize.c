/* Integers for values, weights and biases of a folded model. Everything here rounds half to even in a fixed order: the same numbers on every machine. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "model/quantize.h"

static bool is_layer(enum op op) { return op == OP_CONV_BIAS || op == OP_DENSE; }
static bool keeps_values(enum op op) { return op == OP_MAXPOOL || op == OP_FLATTEN; }

static int consumer_of(const struct graph *g, uint16_t edge)
{
    for (uint32_t n = 0; n < g->node_count; n++)
        if (g->node[n].in[0] == edge)
            return (int)n;
    return -1;
}

uint16_t quantized_range_edge(const struct graph *g, uint16_t edge)
{
    while (g->edge[edge].producer >= 0 && keeps_values(g->node[g->edge[edge].producer].op))
        edge = g->node[g->edge[edge].producer].in[0];
    return edge;
}

static float deviation_of(const struct model_config *c, uint32_t channel) { return c->deviation[channel] != 0 ? c->deviation[channel] : 1; }

struct value_range quantized_input_range(const struct model_config *c)
{
    struct value_range r = {0, 0};
    for (uint32_t i = 0; i < c->channels; i++) {
        float deviation = deviation_of(c, i), lo = (0 - c->mean[i]) / deviation, hi = (1 - c->mean[i]) / deviation;
        r.lo = fminf(r.lo, fminf(lo, hi));
        r.hi = fmaxf(r.hi, fmaxf(lo, hi));
    }
    return r;
}

static const struct quant_value *input_value(const struct quantized_model *m)
{
    return &m->value[m->graph->node[consumer_of(m->graph, m->graph->pixels)].out[0]];
}

bool quantized_input_divides(const struct quantized_model *m)
{
    const struct model_config *c = &m->graph->config;
    bool same = input_value(m)->on && deviation_of(c, 0) > 0;
    for (uint32_t i = 1; i < c->channels; i++)
        same = same && deviation_of(c, i) == deviation_of(c, 0);
    return same;
}

float quantized_input_scale(const struct quantized_model *m) { return input_value(m)->scale * deviation_of(&m->graph->config, 0); }

const char *quantized_layer_name(const struct quantized_model *m, uint32_t layer)
{
    return m->graph->edge[m->graph->node[m->layer[layer].node].out[0]].name;
}

/* ---- making and freeing ---- */
static int add_layer(struct quantized_model *m, uint32_t n, struct err *err)
{
    const struct edge *w = &m->graph->edge[m->graph->node[n].in[1]];
    if (m->layer_count == QUANT_LAYERS_MAX)
        return err_set(err, ERR_USAGE, "the model has more than %d layers; this version quantizes no larger one", QUANT_LAYERS_MAX);
    struct quant_layer *q = &m->layer[m->layer_count++];
    *q = (struct quant_layer){.node = n, .channels = w->dims[0], .depth = (uint32_t)(m->layout.tensors[w->tensor].elems / w->dims[0])};
    q->weight = calloc(q->channels, q->depth);
    q->scale = calloc(q->channels, sizeof *q->scale);
    q->bias = calloc(q->channels, sizeof *q->bias);
    return q->weight && q->scale && q->bias ? 0 : err_set(err, ERR_NO_MEMORY, "no memory to quantize the model");
}

int quantized_model_over(struct graph *folded, struct quantized_model **out, struct err *err)
{
    struct quantized_model *m = calloc(1, sizeof *m);
    if (!m) {
        graph_free(folded);
        return err_set(err, ERR_NO_MEMORY, "no memory to quantize the model");
    }
    m->graph = folded;
    int rc = graph_layout(folded, &m->layout, err);
    if (rc == 0) {
        m->weights_bytes = m->layout.elems * sizeof(float);
        m->weights = pages_alloc(m->weights_bytes, err);
        rc = m->weights ? 0 : ERR_NO_MEMORY;
    }
    for (uint32_t n = 0; n < folded->node_count && rc == 0; n++)
        if (is_layer(folded->node[n].op))
            rc = add_layer(m, n, err);
    if (rc < 0) {
        quantized_model_free(m);
        return rc;
    }
    *out = m;
    return 0;
}

int quantized_model_fold(const struct graph *g, const struct layout *l, const float *weights, struct quantized_model **out, struct err *err)
{
    struct graph *folded;
    TRY(graph_fold(g, &folded, err));
    TRY(quantized_model_over(folded, out, err));
    graph_fold_weights(g, l, weights, &(*out)->layout, (*out)->weights);
    return 0;
}

void quantized_model_free(struct quantized_model *m)
{
    if (!m)
        return;
    for (uint32_t i = 0; i < m->layer_count; i++) {
        free(m->layer[i].weight);
        free(m->layer[i].scale);
        free(m->layer[i].bias);
    }
    if (m->weights)
        pages_free(m->weights, m->weights_bytes);
    layout_fini(&m->layout);
    graph_free(m->graph);
    free(m);
}

/* ---- which are integers ---- */
/* A value and what pooling and flattening make of it are integers together. */
static void turn_on(struct quantized_model *m, uint16_t edge)
{
    edge = quantized_range_edge(m->graph, edge);
    for (int n; !m->value[edge].on && edge != m->graph->logits;) {
        m->value[edge].on = true;
        n = consumer_of(m->graph, edge);
        if (n < 0 || !keeps_values(m->graph->node[n].op))
            return;
        edge = m->graph->node[n].out[0];
    }
}

void quantized_model_plan(struct quantized_model *m, uint64_t layers)
{
    memset(m->value, 0, sizeof m->value);
    for (uint32_t i = 0; i < m->layer_count; i++) {
        struct quant_layer *q = &m->layer[i];
        q->on = layers >> i & 1 && q->depth <= QUANT_DEPTH_MAX;
        if (!q->on)
            continue;
        const struct node *n = &m->graph->node[q->node];
        int next = consumer_of(m->graph, n->out[0]);
        turn_on(m, n->in[0]);
        turn_on(m, next >= 0 && m->graph->node[next].op == OP_RELU ? m->graph->node[next].out[0] : n->out[0]);
    }
}

/* ---- scales ---- */
static struct quant_value value_of(struct value_range r)
{
    float lo = fminf(r.lo, 0), hi = fmaxf(r.hi, 0), scale = (hi - lo) / 255;
    if (!(scale >= 1e-12f) || !isfinite(scale))   /* all zero: any scale holds it */
        return (struct quant_value){.on = true, .zero = 0, .scale = 1};
    float zero = rintf(-lo / scale);
    return (struct quant_value){.on = true, .zero = (uint8_t)fminf(zero, 255), .scale = scale};
}

/* The scale must leave the bias inside its integer. */
static float channel_scale(const float *w, uint32_t depth, float bias, float input_scale)
{
    float most = 0;
    for (uint32_t i = 0; i < depth; i++)
        most = fmaxf(most, fabsf(w[i]));
    float least = fabsf(bias) / input_scale / (float)(QUANT_BIAS_MAX / 2), scale = most / 127;
    return scale >= 1e-12f || least >= 1e-12f ? fmaxf(scale, fmaxf(least, 1e-12f)) : 1;
}

static void set_layer(struct quantized_model *m, struct quant_layer *q)
{
    const struct node *n = &m->graph->node[q->node];
    const float *w = m->weights + m->layout.tensors[m->graph->edge[n->in[1]].tensor].offset;
    const float *b = m->weights + m->layout.tensors[m->graph->edge[n->in[2]].tensor].offset;
    float input = m->value[n->in[0]].scale;
    for (uint32_t c = 0; c < q->channels; c++, w += q->depth) {
        float s = channel_scale(w, q->depth, b[c], input);
        q->scale[c] = s;
        for (uint32_t i = 0; i < q->depth; i++)
            q->weight[(size_t)c * q->depth + i] = (int8_t)fmaxf(-127, fminf(127, rintf(w[i] / s)));
        q->bias[c] = (int32_t)rint((double)b[c] / (double)(input * s));
    }
}

void quantized_model_set(struct quantized_model *m, const struct value_range *range)
{
    for (uint32_t e = 0; e < m->graph->edge_count; e++)
        if (m->value[e].on)
            m->value[e] = value_of(range[quantized_range_edge(m->graph, (uint16_t)e)]);
    for (uint32_t i = 0; i < m->layer_count; i++)
        if (m->layer[i].on)
            set_layer(m, &m->layer[i]);
}
