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
#define ONNX_FLOAT 1                  /* TensorProto.DataType */

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

/* The graph's nodes, input and output, each as a field of GraphProto. A file of ours has exactly these. */
void onnx_nodes(const struct graph *g, struct pb *out);
void onnx_ends(const struct graph *g, struct pb *out);

#endif
