/* ONNX's messages by field number, and the parts of a file that writer and reader share. */
#ifndef VIADUCT_MODEL_ONNX_H
#define VIADUCT_MODEL_ONNX_H

#include "base/protobuf.h"
#include "model/model.h"

#define ONNX_IR 8
#define ONNX_OPSET 17
#define ONNX_CONFIG_KEY "viaduct.model"
#define ONNX_CONFIG_MAX 4096
#define ONNX_ENTRIES 4                /* viaduct.model, .labels, .input, .output */
#define ONNX_FLOAT_LAYERS_KEY "viaduct.float_layers"   /* one more entry, in quantized files only: a JSON list of layers that stayed in float */
enum onnx_type { ONNX_FLOAT = 1, ONNX_UINT8 = 2, ONNX_INT8 = 3, ONNX_INT32 = 6, ONNX_INT64 = 7 };   /* TensorProto.DataType */

enum onnx_model_field { MODEL_IR_VERSION = 1, MODEL_PRODUCER = 2, MODEL_PRODUCER_VERSION = 3, MODEL_GRAPH = 7, MODEL_OPSET = 8, MODEL_METADATA = 14 };
enum onnx_opset_field { OPSET_DOMAIN = 1, OPSET_VERSION = 2 };
enum onnx_entry_field { ENTRY_KEY = 1, ENTRY_VALUE = 2 };
enum onnx_graph_field { GRAPH_NODE = 1, GRAPH_NAME = 2, GRAPH_INITIALIZER = 5, GRAPH_INPUT = 11, GRAPH_OUTPUT = 12 };
enum onnx_node_field { NODE_INPUT = 1, NODE_OUTPUT = 2, NODE_NAME = 3, NODE_OP = 4, NODE_ATTRIBUTE = 5 };
enum onnx_attribute_field { ATTRIBUTE_NAME = 1, ATTRIBUTE_FLOAT = 2, ATTRIBUTE_INT = 3, ATTRIBUTE_INTS = 8, ATTRIBUTE_TYPE = 20 };
enum onnx_tensor_field { TENSOR_DIM = 1, TENSOR_TYPE = 2, TENSOR_NAME = 8, TENSOR_RAW = 9 };
enum onnx_value_field { VALUE_NAME = 1, VALUE_TYPE = 2, VALUE_DOC = 3 };

/* Constants of the normalization: initializers beside the layout's tensors, shape [C, 1, 1]. */
enum { ONNX_MEAN, ONNX_DEVIATION, ONNX_CONSTANTS };
extern const char *const onnx_constant_name[ONNX_CONSTANTS];
void onnx_constant(const struct model_config *c, int which, float out[4]);

/* ---- writing ---- */
/* A node that is named after its output. */
struct pb onnx_node(const char *op, const char *const *in, unsigned count, const char *out);
void onnx_ints(struct pb *node, const char *name, unsigned count, const uint64_t *v);
void onnx_int(struct pb *node, const char *name, uint64_t v);
/* kernel_shape, pads and the like of an operation of ours. */
void onnx_attributes(enum op op, struct pb *node);
void onnx_subtraction(const struct graph *g, const struct node *n, struct pb *out);   /* input -> "centered" */
void onnx_normalization(const struct graph *g, const struct node *n, struct pb *out);
const char *onnx_value_name(const struct graph *g, uint16_t edge);
void onnx_initializer(struct pb *graph, const char *name, enum onnx_type type, const uint64_t *dims, uint32_t dim_count, const void *v, uint64_t bytes);
void onnx_constants(const struct model_config *c, unsigned count, struct pb *graph);   /* the first `count` of them */
/* The float graph's nodes, and any graph's input and output, each as a field of GraphProto. A file of ours has exactly these. */
void onnx_nodes(const struct graph *g, struct pb *out);
void onnx_ends(const struct graph *g, struct pb *out);
void onnx_metadata(struct pb *model, const char *key, const char *value);
/* Name, ends, operator set and metadata around nodes and initializers; `graph` is taken. */
void onnx_frame(const struct graph *g, struct pb *graph, struct pb *model);
int onnx_finish(struct pb *model, uint64_t elems, void **out, size_t *size, struct err *err);

/* ---- reading: a file holds exactly the nodes, ends and initializers that its configuration calls for ---- */
struct bytes { const uint8_t *p; size_t n; };
struct onnx_file {
    struct bytes graph, config, float_layers;
    unsigned graphs, configs, lists, entries, opsets;
    uint64_t ir, opset;
    struct model_config parsed;
};
/* quantized: whether the metadata must have the list of float layers, or must not. */
int onnx_open(const void *file, size_t size, bool quantized, struct onnx_file *f, struct err *err);
struct onnx_want {                    /* an initializer: where its bytes go, or what they must be */
    char name[TENSOR_NAME_MAX + 16];
    enum onnx_type type;
    uint32_t dim_count;
    uint64_t dims[4], bytes;
    void *to;
    const void *must;
    bool seen;
};
int onnx_take(struct bytes graph, struct pb_reader nodes, struct pb_reader ends, struct onnx_want *want, unsigned count, struct err *err);

#endif
