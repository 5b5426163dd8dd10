/* A graph as an ONNX file: opset 17, weights inside. Fields are written in the order of their numbers, as protobuf's own libraries do. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "model/onnx.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "raw_data is little-endian and copied from memory");

const char *const onnx_constant_name[ONNX_CONSTANTS] = {"input.mean", "input.deviation"};

void onnx_constant(const struct model_config *c, int which, float out[4])
{
    for (uint32_t i = 0; i < 4; i++)
        out[i] = which == ONNX_MEAN ? c->mean[i] : c->deviation[i] != 0 ? c->deviation[i] : 1;
}

int model_labels_print(const struct model_config *c, char *out, size_t size)
{
    int used = snprintf(out, size, "[");
    for (uint32_t i = 0; i < c->classes; i++)
        used += snprintf(out + used, (size_t)used < size ? size - (size_t)used : 0, "%s\"%u\"", i ? "," : "", i);
    return used + snprintf(out + used, (size_t)used < size ? size - (size_t)used : 0, "]");
}

/* ---- nodes ---- */
const char *onnx_value_name(const struct graph *g, uint16_t e) { return e == g->pixels ? "input" : e == g->logits ? "logits" : g->edge[e].name; }

struct pb onnx_node(const char *op, const char *const *in, unsigned count, const char *out)
{
    struct pb n = {0};
    for (unsigned i = 0; i < count; i++)
        pb_string(&n, NODE_INPUT, in[i]);
    pb_string(&n, NODE_OUTPUT, out);
    pb_string(&n, NODE_NAME, out);
    pb_string(&n, NODE_OP, op);
    return n;
}

void onnx_ints(struct pb *node, const char *name, unsigned count, const uint64_t *v)
{
    struct pb a = {0};
    pb_string(&a, ATTRIBUTE_NAME, name);
    for (unsigned i = 0; i < count; i++)
        pb_uint(&a, ATTRIBUTE_INTS, v[i]);
    pb_uint(&a, ATTRIBUTE_TYPE, 7);
    pb_message(node, NODE_ATTRIBUTE, &a);
}

void onnx_int(struct pb *node, const char *name, uint64_t v)
{
    struct pb a = {0};
    pb_string(&a, ATTRIBUTE_NAME, name);
    pb_uint(&a, ATTRIBUTE_INT, v);
    pb_uint(&a, ATTRIBUTE_TYPE, 2);
    pb_message(node, NODE_ATTRIBUTE, &a);
}

static void add_float(struct pb *node, const char *name, float v)
{
    struct pb a = {0};
    pb_string(&a, ATTRIBUTE_NAME, name);
    pb_float(&a, ATTRIBUTE_FLOAT, v);
    pb_uint(&a, ATTRIBUTE_TYPE, 1);
    pb_message(node, NODE_ATTRIBUTE, &a);
}

void onnx_subtraction(const struct graph *g, const struct node *n, struct pb *out)
{
    struct pb sub = onnx_node("Sub", (const char *[]){onnx_value_name(g, n->in[0]), onnx_constant_name[ONNX_MEAN]}, 2, "centered");
    pb_message(out, GRAPH_NODE, &sub);
}

void onnx_normalization(const struct graph *g, const struct node *n, struct pb *out)
{
    onnx_subtraction(g, n, out);
    struct pb div = onnx_node("Div", (const char *[]){"centered", onnx_constant_name[ONNX_DEVIATION]}, 2, onnx_value_name(g, n->out[0]));
    pb_message(out, GRAPH_NODE, &div);
}

void onnx_attributes(enum op op, struct pb *node)
{
    switch (op) {
    case OP_CONV: case OP_CONV_BIAS:
        onnx_ints(node, "kernel_shape", 2, (uint64_t[]){3, 3});
        onnx_ints(node, "pads", 4, (uint64_t[]){1, 1, 1, 1});
        onnx_ints(node, "strides", 2, (uint64_t[]){1, 1});
        break;
    case OP_BATCHNORM: add_float(node, "epsilon", MODEL_NORM_EPS); break;
    case OP_MAXPOOL:
        onnx_ints(node, "kernel_shape", 2, (uint64_t[]){2, 2});
        onnx_ints(node, "strides", 2, (uint64_t[]){2, 2});
        break;
    case OP_FLATTEN: onnx_int(node, "axis", 1); break;
    case OP_DENSE: onnx_int(node, "transB", 1); break;
    default: break;
    }
}

void onnx_nodes(const struct graph *g, struct pb *out)
{
    static const char *const name[OPS] = {[OP_CONV] = "Conv", [OP_BATCHNORM] = "BatchNormalization", [OP_RELU] = "Relu", [OP_MAXPOOL] = "MaxPool",
                                          [OP_FLATTEN] = "Flatten", [OP_DENSE] = "Gemm"};
    for (uint32_t k = 0; k < g->forward_count; k++) {
        const struct node *n = &g->node[k];
        const char *in[NODE_EDGES_MAX];
        if (n->op == OP_XENT)
            continue;   /* the loss is the trainer's, not the model's */
        if (n->op == OP_NORMALIZE) {
            onnx_normalization(g, n, out);
            continue;
        }
        CHECK(name[n->op] != NULL);
        for (unsigned i = 0; i < n->in_count; i++)
            in[i] = onnx_value_name(g, n->in[i]);
        struct pb node = onnx_node(name[n->op], in, n->in_count, onnx_value_name(g, n->out[0]));
        onnx_attributes(n->op, &node);
        pb_message(out, GRAPH_NODE, &node);
    }
}

/* ---- input and output ---- */
static void end(struct pb *out, uint32_t field, const char *name, const char *doc, const uint32_t *dims, uint32_t count)
{
    struct pb value = {0}, type = {0}, tensor = {0}, shape = {0}, batch = {0};
    pb_string(&batch, 2, "N");
    pb_message(&shape, 1, &batch);
    for (uint32_t i = 0; i < count; i++) {
        struct pb dim = {0};
        pb_uint(&dim, 1, dims[i]);
        pb_message(&shape, 1, &dim);
    }
    pb_uint(&tensor, 1, ONNX_FLOAT);
    pb_message(&tensor, 2, &shape);
    pb_message(&type, 1, &tensor);
    pb_string(&value, VALUE_NAME, name);
    pb_message(&value, VALUE_TYPE, &type);
    pb_string(&value, VALUE_DOC, doc);
    pb_message(out, field, &value);
}

void onnx_ends(const struct graph *g, struct pb *out)
{
    const struct edge *x = &g->edge[g->pixels], *y = &g->edge[g->logits];
    end(out, GRAPH_INPUT, "input", "pixels in [0, 1]; normalization is part of the graph", x->dims, x->dim_count);
    end(out, GRAPH_OUTPUT, "logits", "one value a class; softmax makes probabilities of them", y->dims, y->dim_count);
}

/* ---- weights, metadata, the file ---- */
void onnx_initializer(struct pb *graph, const char *name, enum onnx_type type, const uint64_t *dims, uint32_t dim_count, const void *v, uint64_t bytes)
{
    struct pb t = {0};
    for (uint32_t i = 0; i < dim_count; i++)
        pb_uint(&t, TENSOR_DIM, dims[i]);
    pb_uint(&t, TENSOR_TYPE, type);
    pb_string(&t, TENSOR_NAME, name);
    pb_bytes(&t, TENSOR_RAW, v, bytes);
    pb_message(graph, GRAPH_INITIALIZER, &t);
}

void onnx_constants(const struct model_config *c, unsigned count, struct pb *graph)
{
    uint64_t dims[3] = {c->channels, 1, 1};
    for (unsigned i = 0; i < count; i++) {
        float v[4];
        onnx_constant(c, (int)i, v);
        onnx_initializer(graph, onnx_constant_name[i], ONNX_FLOAT, dims, 3, v, dims[0] * sizeof *v);
    }
}

void onnx_metadata(struct pb *model, const char *key, const char *value)
{
    struct pb entry = {0};
    pb_string(&entry, ENTRY_KEY, key);
    pb_string(&entry, ENTRY_VALUE, value);
    pb_message(model, MODEL_METADATA, &entry);
}

void onnx_frame(const struct graph *g, struct pb *graph, struct pb *model)
{
    char config[ONNX_CONFIG_MAX], labels[4096];
    struct pb opset = {0};
    CHECK(model_config_print(&g->config, config, sizeof config) < (int)sizeof config);
    CHECK(model_labels_print(&g->config, labels, sizeof labels) < (int)sizeof labels);
    onnx_ends(g, graph);
    pb_uint(model, MODEL_IR_VERSION, ONNX_IR);
    pb_string(model, MODEL_PRODUCER, "viaduct");
    pb_string(model, MODEL_PRODUCER_VERSION, VIADUCT_VERSION);
    pb_message(model, MODEL_GRAPH, graph);
    pb_string(&opset, OPSET_DOMAIN, "");
    pb_uint(&opset, OPSET_VERSION, ONNX_OPSET);
    pb_message(model, MODEL_OPSET, &opset);
    onnx_metadata(model, ONNX_CONFIG_KEY, config);
    onnx_metadata(model, "viaduct.labels", labels);
    onnx_metadata(model, "viaduct.input", "input");
    onnx_metadata(model, "viaduct.output", "logits");
}

int onnx_finish(struct pb *model, uint64_t elems, void **out, size_t *size, struct err *err)
{
    if (model->failed) {
        pb_free(model);
        return err_set(err, ERR_NO_MEMORY, "no memory to write a model of %llu values as ONNX", (unsigned long long)elems);
    }
    *out = model->data;
    *size = model->size;
    return 0;
}

int onnx_write(const struct graph *g, const struct layout *l, const float *weights, void **out, size_t *size, struct err *err)
{
    struct pb model = {0}, graph = {0};
    if (l->elems > ONNX_BYTES_MAX / sizeof(float) - (1u << 20))
        return err_set(err, ERR_USAGE, "the model is larger than the 2 GiB that one ONNX file can hold; export safetensors instead");
    onnx_nodes(g, &graph);
    pb_string(&graph, GRAPH_NAME, "viaduct");
    onnx_constants(&g->config, ONNX_CONSTANTS, &graph);
    for (uint32_t t = 0; t < l->tensor_count; t++) {
        const struct tensor_desc *d = &l->tensors[t];
        onnx_initializer(&graph, d->name, ONNX_FLOAT, d->dims, d->dim_count, weights + d->offset, d->elems * sizeof(float));
    }
    onnx_frame(g, &graph, &model);
    return onnx_finish(&model, l->elems, out, size, err);
}
