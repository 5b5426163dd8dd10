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

struct graph;                        /* opaque; private header model/graph.h is read by engine and export through accessors below */

/* Builds the forward graph with its loss; shapes are symbolic in the batch only. */
int graph_build(const struct model_config *config, struct graph **out, struct err *err);
void graph_free(struct graph *g);
/* Parameters and states in declaration order, as ONNX initializers are named; the caller calls layout_fini. */
int graph_layout(const struct graph *g, struct layout *out, struct err *err);
/* Initial value of the flat arena (layout->elems floats): a pure function of (graph, seed). */
void graph_init_weights(const struct graph *g, const struct layout *l, uint64_t seed, float *arena);

/* config as YAML flow/JSON text for manifests, and back (limits, ERR_CORRUPT). */
int model_config_print(const struct model_config *c, char *out, size_t size);
int model_config_parse(const char *json, struct model_config *out, struct err *err);

#endif
