/* Between quantization and the reader of quantized files. */
#ifndef VIADUCT_MODEL_QUANTIZE_H
#define VIADUCT_MODEL_QUANTIZE_H

#include "model/model.h"

/* An empty quantized model over a folded graph, which it takes in every case. */
int quantized_model_over(struct graph *folded, struct quantized_model **out, struct err *err);

#endif
