/* A quantized model to a flat program. A value that is an integer exists as u8; a float layer that reads it gets it dequantized, and what a float layer
 * gives is quantized where the plan says so, exactly as in the exported file. */
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "engine/int8.h"
#include "engine/program.h"

#define BUFFERS_MAX (GRAPH_EDGES_MAX + 64)

struct int8_lowering {
    const struct quantized_model *m;
    struct int8_program *out;
    bool floats, keep;
    struct interval buffer[BUFFERS_MAX];
    uint32_t buffer_count;
    int as_float[GRAPH_EDGES_MAX], as_u8[GRAPH_EDGES_MAX];   /* buffers, -1: none */
    bool done[GRAPH_NODES_MAX];
};

/* ---- shapes and buffers ---- */
static struct int8_shape shape_of(const struct graph *g, uint16_t edge)
{
    const struct edge *e = &g->edge[edge];
    bool input = e->producer >= 0 && g->node[e->producer].op == OP_NORMALIZE;
    uint32_t cp = input ? 4 : (e->dims[0] + 15) / 16 * 16;
    return e->dim_count == 3 ? (struct int8_shape){e->dims[0], e->dims[1], e->dims[2], cp} : (struct int8_shape){.channels = e->dims[0], .cp = cp};
}

static int new_buffer(struct int8_lowering *w, uint16_t edge, size_t elem)
{
    struct int8_shape s = shape_of(w->m->graph, edge);
    CHECK(w->buffer_count < BUFFERS_MAX);
    w->buffer[w->buffer_count] = (struct interval){.bytes = elem * w->out->samples * (s.height ? int8_image(s) : s.cp), .first = UINT32_MAX};
    return (int)w->buffer_count++;
}

static struct int8_operand arena(int buffer)
{
    CHECK(buffer >= 0);
    return (struct int8_operand){Q_ARENA, (uint64_t)buffer, NULL};
}

static struct int8_operand constant(struct int8_lowering *w, uint64_t bytes)
{
    struct int8_operand o = {Q_CONSTANT, w->out->constant_bytes, NULL};
    w->out->constant_bytes += (bytes + 63) / 64 * 64;
    return o;
}

static struct int8_operand source(const void *p) { return (struct int8_operand){Q_SOURCE, 0, p}; }

static struct int8_params *put(struct int8_call *list, uint32_t *count, enum int8_kernel kernel, unsigned n, const struct int8_operand *o)
{
    CHECK(*count < INT8_CALLS_MAX && n <= INT8_POINTERS);
    struct int8_call *c = &list[(*count)++];
    *c = (struct int8_call){.kernel = kernel, .count = (uint8_t)n};
    memcpy(c->operand, o, n * sizeof *o);
    return &c->params;
}

static struct int8_params *add(struct int8_lowering *w, enum int8_kernel kernel, unsigned n, const struct int8_operand *o)
{
    struct int8_params *p = put(w->out->call, &w->out->call_count, kernel, n, o);
    p->count = w->out->samples;
    return p;
}

static struct int8_params *prepare(struct int8_lowering *w, enum int8_kernel kernel, unsigned n, const struct int8_operand *o)
{
    return put(w->out->set_up, &w->out->set_up_count, kernel, n, o);
}

/* ---- values in either form ---- */
static int read_float(struct int8_lowering *w, uint16_t edge)
{
    const struct quant_value *v = &w->m->value[edge];
    if (w->as_float[edge] < 0) {
        w->as_float[edge] = new_buffer(w, edge, sizeof(float));
        struct int8_params *p = add(w, F_DEQUANTIZE, 2, (struct int8_operand[]){arena(w->as_u8[edge]), arena(w->as_float[edge])});
        p->in = shape_of(w->m->graph, edge);
        p->zero_in = v->zero;
        p->scale = v->scale;
    }
    return w->as_float[edge];
}

/* A float result becomes the value, or is quantized to it. */
static void give_scaled(struct int8_lowering *w, uint16_t edge, int buffer, float scale)
{
    const struct quant_value *v = &w->m->value[edge];
    if (!v->on) {
        w->as_float[edge] = buffer;
        return;
    }
    w->as_u8[edge] = new_buffer(w, edge, 1);
    struct int8_params *p = add(w, F_QUANTIZE, 2, (struct int8_operand[]){arena(buffer), arena(w->as_u8[edge])});
    p->in = shape_of(w->m->graph, edge);
    p->zero_out = v->zero;
    p->scale = scale;
}

static void give_float(struct int8_lowering *w, uint16_t edge, int buffer) { give_scaled(w, edge, buffer, w->m->value[edge].scale); }

/* ---- nodes ---- */
static void normalize(struct int8_lowering *w, const struct node *n)
{
    const struct model_config *c = &w->m->graph->config;
    int to = new_buffer(w, n->out[0], sizeof(float));
    struct int8_operand o[2] = {{Q_PIXELS, 0, NULL}, arena(to)};
    struct int8_params *p = add(w, w->floats ? F_NORMALIZE_F32 : F_NORMALIZE_U8, 2, o);
    bool divides = quantized_input_divides(w->m);
    p->out = shape_of(w->m->graph, n->out[0]);
    for (unsigned i = 0; i < 4; i++) {
        p->mean[i] = c->mean[i];
        p->deviation[i] = c->deviation[i] != 0 && !divides ? c->deviation[i] : 1;
    }
    give_scaled(w, n->out[0], to, divides ? quantized_input_scale(w->m) : w->m->value[n->out[0]].scale);
}

static int relu_after(const struct int8_lowering *w, uint16_t edge)
{
    for (uint32_t n = 0; n < w->m->graph->node_count; n++)
        if (w->m->graph->node[n].op == OP_RELU && w->m->graph->node[n].in[0] == edge)
            return (int)n;
    return -1;
}

static void integer_layer(struct int8_lowering *w, const struct quant_layer *q, const struct node *n, uint16_t out, bool relu)
{
    bool conv = n->op == OP_CONV_BIAS;
    const struct quant_value *x = &w->m->value[n->in[0]], *y = &w->m->value[out];
    struct int8_params p = {.in = shape_of(w->m->graph, n->in[0]), .out = shape_of(w->m->graph, out), .zero_in = x->zero, .zero_out = y->on ? y->zero : 0,
                            .scale = x->scale, .scale_out = y->on ? y->scale : 1};
    struct int8_operand pack = constant(w, int8_pack_bytes(conv ? 9 : 1, p.in.channels, p.out.cp)), offset = constant(w, p.out.cp * sizeof(int32_t));
    struct int8_operand multiplier = constant(w, p.out.cp * sizeof(float));
    CHECK(x->on && (y->on || (!conv && !relu)));
    p.least = relu ? p.zero_out : 0;
    *prepare(w, conv ? I_PACK_CONV : I_PACK_DENSE, 2, (struct int8_operand[]){source(q->weight), pack}) = p;
    *prepare(w, I_MULTIPLIERS, 2, (struct int8_operand[]){source(q->scale), multiplier}) = p;
    struct int8_params *sums = prepare(w, I_OFFSETS, 3, (struct int8_operand[]){source(q->weight), source(q->bias), offset});
    *sums = p;
    sums->in.channels = q->depth;
    int to = new_buffer(w, out, y->on ? 1 : sizeof(float));
    *(y->on ? &w->as_u8[out] : &w->as_float[out]) = to;
    struct int8_operand o[5] = {arena(w->as_u8[n->in[0]]), pack, offset, multiplier, arena(to)};
    p.count = w->out->samples;
    *add(w, conv ? I_CONV : y->on ? I_DENSE : I_DENSE_FLOAT, 5, o) = p;
}

static void float_layer(struct int8_lowering *w, const struct node *n, uint16_t out, bool relu)
{
    const struct quantized_model *m = w->m;
    bool conv = n->op == OP_CONV_BIAS;
    struct int8_params p = {.count = w->out->samples, .in = shape_of(m->graph, n->in[0]), .out = shape_of(m->graph, out), .relu = relu};
    struct int8_operand pack = constant(w, (uint64_t)(conv ? 9 : 1) * p.in.channels * p.out.cp * sizeof(float)), offset = constant(w, p.out.cp * sizeof(float));
    const float *weights = m->weights + m->layout.tensors[m->graph->edge[n->in[1]].tensor].offset;
    const float *biases = m->weights + m->layout.tensors[m->graph->edge[n->in[2]].tensor].offset;
    *prepare(w, conv ? F_PACK_CONV : F_PACK_DENSE, 2, (struct int8_operand[]){source(weights), pack}) = p;
    *prepare(w, F_BIAS, 2, (struct int8_operand[]){source(biases), offset}) = p;
    int x = read_float(w, n->in[0]), to = new_buffer(w, out, sizeof(float));
    *add(w, conv ? F_CONV : F_DENSE, 4, (struct int8_operand[]){arena(x), pack, offset, arena(to)}) = p;
    give_float(w, out, to);
}

static void layer(struct int8_lowering *w, uint32_t k)
{
    const struct node *n = &w->m->graph->node[k];
    int relu = relu_after(w, n->out[0]);
    uint16_t out = relu >= 0 ? w->m->graph->node[relu].out[0] : n->out[0];
    if (relu >= 0)
        w->done[relu] = true;
    for (uint32_t i = 0; i < w->m->layer_count; i++)
        if (w->m->layer[i].node == k && w->m->layer[i].on) {
            integer_layer(w, &w->m->layer[i], n, out, relu >= 0);
            return;
        }
    float_layer(w, n, out, relu >= 0);
}

/* ReLU by itself, pooling, flattening: in the form that the value has. */
static void other(struct int8_lowering *w, const struct node *n, enum int8_kernel on_u8, enum int8_kernel on_float)
{
    bool integers = w->m->value[n->out[0]].on && n->op != OP_RELU;
    int x = integers ? w->as_u8[n->in[0]] : read_float(w, n->in[0]), to = new_buffer(w, n->out[0], integers ? 1 : sizeof(float));
    struct int8_params *p = add(w, integers ? on_u8 : on_float, 2, (struct int8_operand[]){arena(x), arena(to)});
    p->in = shape_of(w->m->graph, n->in[0]);
    p->out = shape_of(w->m->graph, n->out[0]);
    p->zero_out = w->m->value[n->out[0]].zero;
    if (integers)
        w->as_u8[n->out[0]] = to;
    else
        give_float(w, n->out[0], to);
}

static int lower_node(struct int8_lowering *w, uint32_t k, struct err *err)
{
    const struct node *n = &w->m->graph->node[k];
    switch (n->op) {
    case OP_NORMALIZE: normalize(w, n); return 0;
    case OP_CONV_BIAS: case OP_DENSE: layer(w, k); return 0;
    case OP_RELU: other(w, n, F_RELU, F_RELU); return 0;
    case OP_MAXPOOL: other(w, n, I_POOL, F_POOL); return 0;
    case OP_FLATTEN: other(w, n, I_FLATTEN, F_FLATTEN); return 0;
    default: return err_set(err, ERR_USAGE, "%s is not an operation of quantized models", op_name(n->op));
    }
}

/* ---- places ---- */
static void place_buffers(struct int8_lowering *w)
{
    struct int8_program *p = w->out;
    for (uint32_t c = 0; c < p->call_count; c++)
        for (unsigned i = 0; i < p->call[c].count; i++)
            if (p->call[c].operand[i].place == Q_ARENA) {
                struct interval *b = &w->buffer[p->call[c].operand[i].offset];
                b->first = MIN(b->first, c);
                b->last = w->keep ? p->call_count : c;
            }
    int logits = w->as_float[w->m->graph->logits];
    w->buffer[logits].last = p->call_count;   /* read after the program */
    p->arena_bytes = memory_plan(w->buffer, w->buffer_count);
    for (uint32_t c = 0; c < p->call_count; c++)
        for (unsigned i = 0; i < p->call[c].count; i++)
            if (p->call[c].operand[i].place == Q_ARENA)
                p->call[c].operand[i].offset = w->buffer[p->call[c].operand[i].offset].offset;
    p->logits_offset = w->buffer[logits].offset;
    for (uint32_t e = 0; e < w->m->graph->edge_count; e++)
        if (w->as_float[e] >= 0)
            p->value[e] = (struct int8_value){w->buffer[w->as_float[e]].offset, shape_of(w->m->graph, (uint16_t)e), w->keep};
}

int int8_lower(const struct quantized_model *m, uint32_t samples, bool floats, bool keep, struct int8_program *out, struct err *err)
{
    struct int8_lowering *w = calloc(1, sizeof *w);
    int rc = 0;
    if (!w)
        return err_set(err, ERR_NO_MEMORY, "no memory to compile the model");
    *w = (struct int8_lowering){.m = m, .out = out, .floats = floats, .keep = keep};
    *out = (struct int8_program){.samples = samples};
    memset(w->as_float, -1, sizeof w->as_float);
    memset(w->as_u8, -1, sizeof w->as_u8);
    for (uint32_t n = 0; n < m->graph->node_count && rc == 0; n++)
        if (!w->done[n])
            rc = lower_node(w, n, err);
    if (rc == 0)
        place_buffers(w);
    free(w);
    return rc;
}
