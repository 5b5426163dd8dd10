/* The nodes and initializers of a quantized file. Runtimes fuse them to integer operations by pattern, so the patterns of ONNX Runtime's matcher are kept:
 * a convolution's x, w and bias come from DequantizeLinear and its ReLU's output goes to exactly one QuantizeLinear with an explicit zero point; weights
 * have axis 0; pooling and Reshape (instead of Flatten) stand between pairs of equal scale; dense layers are Gemm with transB. */
#include "model/onnx_qdq.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

#define NAME_MAX_CHARS (TENSOR_NAME_MAX + 16)

static void suffixed(const char *name, const char *suffix, char out[NAME_MAX_CHARS])
{
    CHECK(snprintf(out, NAME_MAX_CHARS, "%s_%s", name, suffix) < NAME_MAX_CHARS);
}

static const struct quant_layer *layer_of(const struct quantized_model *m, uint32_t node)
{
    for (uint32_t i = 0; i < m->layer_count; i++)
        if (m->layer[i].node == node)
            return &m->layer[i];
    return NULL;
}

void qdq_float_layers(const struct quantized_model *m, char out[FLOAT_LAYERS_MAX])
{
    size_t used = (size_t)snprintf(out, FLOAT_LAYERS_MAX, "[");
    for (uint32_t i = 0; i < m->layer_count; i++)
        if (!m->layer[i].on && used < FLOAT_LAYERS_MAX)
            used += (size_t)snprintf(out + used, FLOAT_LAYERS_MAX - used, "%s\"%s\"", used > 1 ? "," : "", quantized_layer_name(m, i));
    CHECK(used + 1 < FLOAT_LAYERS_MAX);
    snprintf(out + used, FLOAT_LAYERS_MAX - used, "]");
}

/* ---- flattening ---- */
static const struct node *flatten_of(const struct quantized_model *m)
{
    for (uint32_t k = 0; k < m->graph->node_count; k++)
        if (m->graph->node[k].op == OP_FLATTEN)
            return &m->graph->node[k];
    return NULL;
}

int qdq_channels_last(const struct quantized_model *m)
{
    const struct node *f = flatten_of(m);
    if (!f || m->graph->edge[f->in[0]].dims[0] == 1)
        return -1;
    for (uint32_t i = 0; i < m->layer_count; i++)
        if (m->layer[i].on && m->graph->node[m->layer[i].node].in[0] == f->out[0])
            return (int)i;
    return -1;
}

void qdq_permute(const struct quantized_model *m, int layer, const int8_t *from, int8_t *to, bool to_channels_last)
{
    const struct edge *image = &m->graph->edge[flatten_of(m)->in[0]];
    size_t channels = image->dims[0], plane = (size_t)image->dims[1] * image->dims[2];
    for (size_t o = 0; o < m->layer[layer].channels; o++, from += channels * plane, to += channels * plane)
        for (size_t c = 0; c < channels; c++)
            for (size_t i = 0; i < plane; i++)
                if (to_channels_last)
                    to[i * channels + c] = from[c * plane + i];
                else
                    to[c * plane + i] = from[i * channels + c];
}

/* ---- nodes ---- */
/* The tensor `name` from its integer form, whose scale and zero point are those of `owner`. */
static void dequantize(struct pb *out, const char *name, const char *owner, bool zero_point, bool per_channel)
{
    char from[NAME_MAX_CHARS], scale[NAME_MAX_CHARS], zero[NAME_MAX_CHARS], to[NAME_MAX_CHARS];
    suffixed(name, "quantized", from);
    suffixed(owner, "scale", scale);
    suffixed(owner, "zero_point", zero);
    suffixed(name, "dequantized", to);
    struct pb node = onnx_node("DequantizeLinear", (const char *[]){from, scale, zero}, zero_point ? 3 : 2, to);
    if (per_channel)
        onnx_int(&node, "axis", 0);
    pb_message(out, GRAPH_NODE, &node);
}

/* `name` to its integer form and back, with the scale and zero point of `owner`; quantized by a scale of its own (from_scale) if there is one. */
static void pair(const char *name, const char *from, const char *from_scale, const char *owner, struct pb *out)
{
    char scale[NAME_MAX_CHARS], zero[NAME_MAX_CHARS], to[NAME_MAX_CHARS];
    suffixed(owner, "scale", scale);
    suffixed(owner, "zero_point", zero);
    suffixed(name, "quantized", to);
    struct pb node = onnx_node("QuantizeLinear", (const char *[]){from, from_scale ? from_scale : scale, zero}, 3, to);
    pb_message(out, GRAPH_NODE, &node);
    dequantize(out, name, owner, true, false);
}

static const char *owner_of(const struct quantized_model *m, uint16_t edge) { return m->graph->edge[quantized_range_edge(m->graph, edge)].name; }

static void value_pair(const struct quantized_model *m, uint16_t edge, struct pb *out)
{
    const char *name = onnx_value_name(m->graph, edge);
    pair(name, name, NULL, owner_of(m, edge), out);
}

/* Sub and Div; or Sub alone, when the value is quantized by a scale that divides as well. */
static void normalization(const struct quantized_model *m, const struct node *n, struct pb *out)
{
    if (!quantized_input_divides(m)) {
        onnx_normalization(m->graph, n, out);
        if (m->value[n->out[0]].on)
            value_pair(m, n->out[0], out);
        return;
    }
    const char *name = onnx_value_name(m->graph, n->out[0]);
    onnx_subtraction(m->graph, n, out);
    pair(name, "centered", "centered_scale", name, out);
}

/* The image that is flattened, channels last. */
static void transposition(const struct quantized_model *m, const struct node *n, struct pb *out)
{
    char from[NAME_MAX_CHARS];
    suffixed(onnx_value_name(m->graph, n->in[0]), "dequantized", from);
    struct pb node = onnx_node("Transpose", (const char *[]){from}, 1, "channels_last");
    onnx_ints(&node, "perm", 4, (uint64_t[]){0, 2, 3, 1});
    pb_message(out, GRAPH_NODE, &node);
    pair("channels_last", "channels_last", NULL, owner_of(m, n->in[0]), out);
}

/* ONNX Runtime quantizes a float layer itself, weights by one scale, when its input comes from DequantizeLinear and its output goes to QuantizeLinear.
 * A ReLU over values that are not negative anyway keeps it as it is. */
static bool needs_guard(const struct quantized_model *m, uint32_t k)
{
    const struct node *n = &m->graph->node[k];
    const struct quant_layer *q = layer_of(m, k);
    int from = m->graph->edge[quantized_range_edge(m->graph, n->in[0])].producer;
    if (!q || q->on || !m->value[n->in[0]].on || from < 0 || m->graph->node[from].op != OP_RELU)
        return false;
    for (uint32_t next = 0; next < m->graph->node_count; next++)
        if (m->graph->node[next].op == OP_RELU && m->graph->node[next].in[0] == n->out[0])
            return m->value[m->graph->node[next].out[0]].on;
    return false;
}

static void guard(const char *from, const char *to, struct pb *out)
{
    struct pb node = onnx_node("Relu", (const char *[]){from}, 1, to);
    pb_message(out, GRAPH_NODE, &node);
}

static void operation(const struct quantized_model *m, uint32_t k, struct pb *out)
{
    static const char *const name[OPS] = {[OP_CONV_BIAS] = "Conv", [OP_RELU] = "Relu", [OP_MAXPOOL] = "MaxPool", [OP_FLATTEN] = "Reshape", [OP_DENSE] = "Gemm"};
    const struct node *n = &m->graph->node[k];
    const struct quant_layer *q = layer_of(m, k);
    char text[3][NAME_MAX_CHARS];
    const char *in[3];
    CHECK(name[n->op] != NULL && n->in_count <= 3);
    for (unsigned i = 0; i < n->in_count; i++) {
        const char *plain = onnx_value_name(m->graph, n->in[i]);
        bool integers = i == 0 ? m->value[n->in[0]].on : q && q->on;
        if (i > 0 && integers)
            dequantize(out, plain, plain, i == 1, true);
        suffixed(plain, "dequantized", text[i]);
        in[i] = integers ? text[i] : plain;
    }
    unsigned count = n->in_count;
    char guarded[NAME_MAX_CHARS];
    if (needs_guard(m, k)) {
        suffixed(onnx_value_name(m->graph, n->in[0]), "guarded", guarded);
        guard(in[0], guarded, out);
        in[0] = guarded;
    }
    if (n->op == OP_FLATTEN) {
        if (qdq_channels_last(m) >= 0) {
            transposition(m, n, out);
            in[0] = "channels_last_dequantized";
        }
        suffixed(onnx_value_name(m->graph, n->out[0]), "shape", text[1]);
        in[count++] = text[1];
    }
    struct pb node = onnx_node(name[n->op], in, count, onnx_value_name(m->graph, n->out[0]));
    if (n->op != OP_FLATTEN)
        onnx_attributes(n->op, &node);
    pb_message(out, GRAPH_NODE, &node);
}

void qdq_nodes(const struct quantized_model *m, struct pb *out)
{
    for (uint32_t k = 0; k < m->graph->node_count; k++) {
        const struct node *n = &m->graph->node[k];
        if (n->op == OP_NORMALIZE) {
            normalization(m, n, out);
            continue;
        }
        operation(m, k, out);
        if (m->value[n->out[0]].on)
            value_pair(m, n->out[0], out);
    }
}

/* ---- initializers ---- */
uint64_t qdq_bytes(const struct quantized_model *m)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < m->layer_count; i++)
        bytes += (uint64_t)m->layer[i].channels * (m->layer[i].on ? m->layer[i].depth + 8 : (m->layer[i].depth + 1) * sizeof(float));
    return bytes;
}

static struct onnx_want *add(struct qdq_tensors *t, const char *name, const char *suffix, enum onnx_type type, uint64_t bytes, void *to, const void *must)
{
    struct onnx_want *w = &t->want[t->count++];
    *w = (struct onnx_want){.type = type, .bytes = bytes, .to = to, .must = must};
    CHECK(snprintf(w->name, sizeof w->name, "%s%s", name, suffix) < (int)sizeof w->name);
    return w;
}

static void shaped(struct onnx_want *w, const struct edge *like, uint32_t dim_count)
{
    w->dim_count = dim_count;
    for (uint32_t i = 0; i < dim_count; i++)
        w->dims[i] = like->dims[i];
}

static void add_layer(struct quantized_model *m, struct quant_layer *q, uint64_t at, struct qdq_tensors *t)
{
    const struct node *n = &m->graph->node[q->node];
    const struct edge *w = &m->graph->edge[n->in[1]], *b = &m->graph->edge[n->in[2]];
    uint64_t weights = (uint64_t)q->channels * q->depth, channels = q->channels;
    if (!q->on) {
        shaped(add(t, w->name, "", ONNX_FLOAT, weights * sizeof(float), m->weights + m->layout.tensors[w->tensor].offset, NULL), w, w->dim_count);
        shaped(add(t, b->name, "", ONNX_FLOAT, channels * sizeof(float), m->weights + m->layout.tensors[b->tensor].offset, NULL), w, 1);
        return;
    }
    int8_t *to = q == &m->layer[0] + qdq_channels_last(m) ? t->own.channels_last : q->weight;
    shaped(add(t, w->name, "_quantized", ONNX_INT8, weights, to, NULL), w, w->dim_count);
    shaped(add(t, w->name, "_scale", ONNX_FLOAT, channels * sizeof(float), q->scale, NULL), w, 1);
    shaped(add(t, w->name, "_zero_point", ONNX_INT8, channels, NULL, t->own.zeros), w, 1);
    shaped(add(t, b->name, "_quantized", ONNX_INT32, channels * sizeof(int32_t), q->bias, NULL), w, 1);
    shaped(add(t, b->name, "_scale", ONNX_FLOAT, channels * sizeof(float), t->own.bias_scale + at, NULL), w, 1);
}

static void add_value(struct quantized_model *m, uint16_t edge, struct qdq_tensors *t)
{
    struct quant_value *v = &m->value[edge];
    const char *name = m->graph->edge[edge].name;
    if (!v->on || quantized_range_edge(m->graph, edge) != edge)
        return;
    add(t, name, "_scale", ONNX_FLOAT, sizeof v->scale, &v->scale, NULL);
    add(t, name, "_zero_point", ONNX_UINT8, sizeof v->zero, &v->zero, NULL);
}

int qdq_tensors_open(struct quantized_model *m, struct qdq_tensors *out, struct err *err)
{
    uint64_t channels = 0, at = 0;
    uint32_t most = 1;
    for (uint32_t i = 0; i < m->layer_count; i++) {
        channels += m->layer[i].channels;
        most = MAX(most, m->layer[i].channels);
    }
    int last = qdq_channels_last(m);
    struct qdq_tensors t = {.want = calloc(QUANT_LAYERS_MAX * 5 + GRAPH_EDGES_MAX * 2 + 1, sizeof *t.want)};
    t.own.zeros = calloc(most, 1);
    t.own.bias_scale = calloc(channels ? channels : 1, sizeof *t.own.bias_scale);
    t.own.channels_last = calloc(last >= 0 ? m->layer[last].channels : 1, last >= 0 ? m->layer[last].depth : 1);
    *out = t;
    if (!t.want || !t.own.zeros || !t.own.bias_scale || !t.own.channels_last) {
        qdq_tensors_close(out);
        return err_set(err, ERR_NO_MEMORY, "no memory for the tensors of a quantized model");
    }
    for (uint32_t k = 0; k < m->graph->node_count; k++)
        if (m->graph->node[k].op == OP_FLATTEN) {
            out->own.shape[1] = m->graph->edge[m->graph->node[k].out[0]].dims[0];   /* [0, n]: the batch stays */
            struct onnx_want *w = add(out, m->graph->edge[m->graph->node[k].out[0]].name, "_shape", ONNX_INT64, sizeof out->own.shape, NULL, out->own.shape);
            w->dim_count = 1;
            w->dims[0] = 2;
        }
    for (uint32_t i = 0; i < m->layer_count; i++) {
        add_layer(m, &m->layer[i], at, out);
        at += m->layer[i].channels;
    }
    for (uint32_t e = 0; e < m->graph->edge_count; e++)
        add_value(m, (uint16_t)e, out);
    if (qdq_constants(m) < ONNX_CONSTANTS)
        add(out, "centered", "_scale", ONNX_FLOAT, sizeof out->own.input_scale, &out->own.input_scale, NULL);
    return 0;
}

void qdq_tensors_close(struct qdq_tensors *t)
{
    free(t->want);
    free(t->own.zeros);
    free(t->own.channels_last);
    free(t->own.bias_scale);
    *t = (struct qdq_tensors){0};
}

static void fill_bias_scales(const struct quantized_model *m, float *to)
{
    for (uint32_t i = 0; i < m->layer_count; to += m->layer[i++].channels)
        for (uint32_t c = 0; m->layer[i].on && c < m->layer[i].channels; c++)
            to[c] = m->value[m->graph->node[m->layer[i].node].in[0]].scale * m->layer[i].scale[c];
}

int onnx_write_quantized(const struct quantized_model *m, void **out, size_t *size, struct err *err)
{
    char layers[FLOAT_LAYERS_MAX];
    struct pb model = {0}, graph = {0};
    struct qdq_tensors t;
    if (qdq_bytes(m) > ONNX_BYTES_MAX - (1u << 22))
        return err_set(err, ERR_USAGE, "the quantized model is larger than the 2 GiB that one ONNX file can hold");
    TRY(qdq_tensors_open((struct quantized_model *)(uintptr_t)m, &t, err));   /* it is only read here */
    int last = qdq_channels_last(m);
    fill_bias_scales(m, t.own.bias_scale);
    t.own.input_scale = quantized_input_scale(m);
    if (last >= 0)
        qdq_permute(m, last, m->layer[last].weight, t.own.channels_last, true);
    qdq_nodes(m, &graph);
    pb_string(&graph, GRAPH_NAME, "viaduct");
    onnx_constants(&m->graph->config, qdq_constants(m), &graph);
    for (unsigned i = 0; i < t.count; i++)
        onnx_initializer(&graph, t.want[i].name, t.want[i].type, t.want[i].dims, t.want[i].dim_count, t.want[i].to ? t.want[i].to : t.want[i].must, t.want[i].bytes);
    onnx_frame(m->graph, &graph, &model);
    qdq_float_layers(m, layers);
    onnx_metadata(&model, ONNX_FLOAT_LAYERS_KEY, layers);
    qdq_tensors_close(&t);
    return onnx_finish(&model, m->layout.elems, out, size, err);
}
