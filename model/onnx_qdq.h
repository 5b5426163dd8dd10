/* What writer and reader of quantized files share: nodes and initializers of QuantizeLinear and DequantizeLinear around float operations. */
#ifndef VIADUCT_MODEL_ONNX_QDQ_H
#define VIADUCT_MODEL_ONNX_QDQ_H

#include "model/onnx.h"

#define FLOAT_LAYERS_MAX 4096
/* The layers that stay in float, as a JSON list. */
void qdq_float_layers(const struct quantized_model *m, char out[FLOAT_LAYERS_MAX]);
void qdq_nodes(const struct quantized_model *m, struct pb *out);

/* Initializers but the normalization's. Constants that no field of the model holds (zero points, shapes, scales of biases) lie in `own`. */
struct qdq_own {
    int8_t *zeros, *channels_last;   /* channels_last: weights of the layer behind Flatten, in that order */
    float *bias_scale, input_scale;
    int64_t shape[2];
};
struct qdq_tensors { unsigned count; struct onnx_want *want; struct qdq_own own; };
/* Room for all of them: calculated from the plan alone. */
uint64_t qdq_bytes(const struct quantized_model *m);
/* Images are flattened channels last when an integer layer follows: runtimes keep integer images in that order, so that nothing is transposed. -1: none,
 * else the layer whose weights are in that order. */
int qdq_channels_last(const struct quantized_model *m);
/* Its weights, [out][C][H][W] <-> [out][H][W][C]. */
void qdq_permute(const struct quantized_model *m, int layer, const int8_t *from, int8_t *to, bool to_channels_last);
/* How many of the normalization's constants the file has. */
static inline unsigned qdq_constants(const struct quantized_model *m) { return quantized_input_divides(m) ? 1 : ONNX_CONSTANTS; }
int qdq_tensors_open(struct quantized_model *m, struct qdq_tensors *out, struct err *err);
void qdq_tensors_close(struct qdq_tensors *t);

#endif
