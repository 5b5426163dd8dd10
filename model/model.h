/* model: what is trained. A typed graph of coarse operations, built by a family or read from ONNX; shape rules, autodiff and the
 * ONNX reader and writer are passes over it. How it runs is engine/. Edges carry shape, dtype and a sharding type. */
#ifndef VIADUCT_MODEL_MODEL_H
#define VIADUCT_MODEL_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/arena.h"
#include "base/err.h"
#include "base/layout.h"

enum model_family { MODEL_MLP, MODEL_CNN };
enum model_loss { MODEL_CROSS_ENTROPY, MODEL_MSE, MODEL_BCE };

#define MODEL_LIST_MAX 8
struct model_config {                /* plain data, printable, embedded in manifests */
    enum model_family family;
    enum model_loss loss;
    uint32_t classes;
    uint32_t channels, height, width;                       /* input; mlp: channels*height*width inputs */
    uint32_t conv_count, conv[MODEL_LIST_MAX];              /* cnn: output channels of each (conv 3x3 -> norm -> ReLU -> max pool) */
    uint32_t hidden_count, hidden[MODEL_LIST_MAX];
    bool batch_norm;
    float mean[4], deviation[4];                            /* per input channel, of pixels in [0, 1]; constants of the graph */
};

/* ---- the graph: nodes in execution order, edges between them; open data, owned by graph_free ---- */
enum dtype { DTYPE_F32, DTYPE_U8 };
enum sharding { SHARD_REPLICATED, SHARD_SPLIT, SHARD_PARTIAL };     /* of an edge over ranks; everything is replicated in this version */
enum edge_kind { EDGE_VALUE, EDGE_PARAMETER, EDGE_STATE, EDGE_PIXELS, EDGE_LABELS };

enum op {
    OP_NORMALIZE,     /* pixels -> x: (pixel / 255 - mean) / deviation per channel */
    OP_CONV,          /* x, w -> y: 3 x 3, stride 1, padding 1, no bias */
    OP_CONV_BIAS,     /* x, w, b -> y: the same with a bias; in folded graphs only, which are not trained */
    OP_BATCHNORM,     /* x, gamma, beta, running mean, running variance -> y */
    OP_RELU,          /* x -> y */
    OP_MAXPOOL,       /* x -> y: 2 x 2, stride 2, odd edges dropped */
    OP_FLATTEN,       /* x [C, H, W] -> y [C*H*W] */
    OP_DENSE,         /* x, w [out, in], b -> y */
    OP_XENT,          /* logits, labels -> loss: softmax cross-entropy, summed over samples */
    /* backward: d* are gradients of the sum of losses */
    OP_XENT_GRAD,     /* logits, labels -> dlogits */
    OP_DENSE_DX,      /* dy, w -> dx */
    OP_DENSE_DW,      /* dy, x -> dw, db */
    OP_FLATTEN_GRAD,  /* dy -> dx */
    OP_MAXPOOL_GRAD,  /* dy, x -> dx */
    OP_RELU_GRAD,     /* dy, y -> dx */
    OP_BATCHNORM_GRAD,/* dy, x, gamma -> dx, dgamma, dbeta, count * mean, count * variance */
    OP_CONV_DX,       /* dy, w -> dx */
    OP_CONV_DW,       /* dy, x -> dw */
    OPS
};

#define NODE_EDGES_MAX 6
#define GRAPH_NODES_MAX 512
#define GRAPH_EDGES_MAX 1024
#define NO_EDGE UINT16_MAX

struct edge {
    char name[TENSOR_NAME_MAX];
    enum edge_kind kind;
    enum dtype dtype;
    enum sharding sharding;
    uint32_t dim_count, dims[4];      /* values: per sample (the batch is symbolic), [C, H, W] or [features] */
    int tensor;                       /* parameters and states: index in the layout; gradients of them: the same index; else -1 */
    bool is_gradient;                 /* of tensor `tensor` */
    int producer;                     /* node, or -1 */
};

struct node { enum op op; uint8_t in_count, out_count; uint16_t in[NODE_EDGES_MAX], out[NODE_EDGES_MAX]; };

struct graph {
    struct model_config config;
    uint32_t node_count, edge_count;
    uint32_t forward_count;           /* nodes before the first backward one */
    uint16_t pixels, labels, logits;  /* edges */
    struct node node[GRAPH_NODES_MAX];
    struct edge edge[GRAPH_EDGES_MAX];
};
const char *op_name(enum op op);
/* Appends the backward pass: for each forward node in reverse, the gradient nodes of its table row; a value with several consumers is refused
 * (no family of this version has one). Called by graph_build. */
int graph_differentiate(struct graph *g, struct err *err);

/* Builds the forward graph with its loss; shapes are symbolic in the batch only. */
int graph_build(const struct model_config *config, struct graph **out, struct err *err);
void graph_free(struct graph *g);
/* Parameters and states in declaration order, as ONNX initializers are named; the caller calls layout_fini. */
int graph_layout(const struct graph *g, struct layout *out, struct err *err);
/* Initial value of the flat arena (layout->elems floats): a pure function of (graph, seed). */
void graph_init_weights(const struct graph *g, const struct layout *l, uint64_t seed, float *arena);

/* ---- after training ---- */
/* The graph without its loss and with every batch norm folded into the convolution before it: for inference only (no labels, nothing to train). */
int graph_fold(const struct graph *g, struct graph **out, struct err *err);
/* The weights that make the folded graph compute what the whole one computes with running statistics; `out` is of the folded layout. */
void graph_fold_weights(const struct graph *g, const struct layout *l, const float *weights, const struct layout *folded, float *out);

/* A folded model of which layers and values may be integers, by ONNX's rules: value = (u8 - zero) * scale, one scale a tensor; weight = s8 * scale, one
 * scale an output channel; bias s32 with scale (input's * weight's). Layers that are off compute in float. */
#define QUANT_LAYERS_MAX 64
#define QUANT_DEPTH_MAX 32768u       /* products summed by one output: keeps every sum in 31 bits; deeper layers stay in float */
#define QUANT_BIAS_MAX (1 << 29)
struct quant_value { bool on; uint8_t zero; float scale; };
struct quant_layer {                 /* a convolution or dense node */
    uint32_t node, channels, depth;  /* output channels; weights of each */
    bool on;
    int8_t *weight;                  /* [channels][depth], in the order of the float weights */
    float *scale;                    /* [channels] */
    int32_t *bias;
};
struct value_range { float lo, hi; };
struct quantized_model {             /* freed by quantized_model_free */
    struct graph *graph;             /* folded */
    struct layout layout;
    float *weights;                  /* of the folded layout; a model read from a file has those of its float layers only */
    size_t weights_bytes;
    uint32_t layer_count;
    struct quant_layer layer[QUANT_LAYERS_MAX];
    struct quant_value value[GRAPH_EDGES_MAX];
};
/* Folded, all in float. */
int quantized_model_fold(const struct graph *g, const struct layout *l, const float *weights, struct quantized_model **out, struct err *err);
void quantized_model_free(struct quantized_model *m);
const char *quantized_layer_name(const struct quantized_model *m, uint32_t layer);
/* Which layers are integers (bit i: layer i; too deep ones never are), and from that which values. Scales are set afterwards. */
void quantized_model_plan(struct quantized_model *m, uint64_t layers);
/* Scales of values from ranges (by edge: of the edges that quantized_range_edge names), then weights and biases. */
void quantized_model_set(struct quantized_model *m, const struct value_range *range);
/* The edge whose range a value shares: pooling and flattening change no value. */
uint16_t quantized_range_edge(const struct graph *folded, uint16_t edge);
/* Whether the division by the deviation is left to the quantization of the input, because all channels have the same one; then centered pixels are
 * quantized by quantized_input_scale. */
bool quantized_input_divides(const struct quantized_model *m);
float quantized_input_scale(const struct quantized_model *m);
/* What the model's input can be: pixels in [0, 1], normalized. */
struct value_range quantized_input_range(const struct model_config *c);

/* config as YAML flow/JSON text for manifests, and back (limits, ERR_CORRUPT). */
int model_config_print(const struct model_config *c, char *out, size_t size);
int model_config_parse(const char *json, struct model_config *out, struct err *err);
/* The class labels "0" to "n-1" as a JSON list, for the metadata of exported files. */
int model_labels_print(const struct model_config *c, char *out, size_t size);

/* ---- ONNX, opset 17: input "input", float32 N x C x H x W in [0, 1]; output "logits"; initializers named as the layout's tensors ---- */
#define MODEL_NORM_EPS 1e-5f         /* of every batch norm */
#define ONNX_BYTES_MAX 0x7fffffffu   /* protobuf's limit of one message */
/* The file's bytes, a pure function of the arguments; *out: malloc. */
int onnx_write(const struct graph *g, const struct layout *l, const float *weights, void **out, size_t *size, struct err *err);
/* Reads what onnx_write wrote and refuses anything else: ERR_USAGE for another program's model, ERR_CORRUPT naming what is damaged or changed.
 * The caller frees: graph_free, layout_fini, pages_free(weights, elems * 4). */
int onnx_read(const void *file, size_t size, struct graph **g, struct layout *l, float **weights, struct err *err);
/* The same for quantized models, as QuantizeLinear and DequantizeLinear around float operations (QDQ), which runtimes fuse to integer ones. */
int onnx_write_quantized(const struct quantized_model *m, void **out, size_t *size, struct err *err);
int onnx_read_quantized(const void *file, size_t size, struct quantized_model **out, struct err *err);
/* Whether the metadata says that onnx_write_quantized made it; damaged files say no. */
bool onnx_is_quantized(const void *file, size_t size);

#endif
