/* The table of operations: one row each. Builders append a node with its output edges, shapes worked out by the row's rule. */
#ifndef VIADUCT_MODEL_OPS_H
#define VIADUCT_MODEL_OPS_H

#include "model/model.h"

struct op_row {
    const char *name;
    uint8_t in_count;
    /* Shape of the value that the node makes from its first input and weights; ERR_USAGE names what does not fit. NULL: backward nodes. */
    int (*shape)(const struct graph *g, const uint16_t *in, uint32_t *dim_count, uint32_t dims[4], struct err *err);
    /* Emits the gradient nodes of forward node `n`, given the gradient of its output; returns the gradient of its first input, NO_EDGE when that
     * needs none. */
    int (*gradient)(struct graph *g, uint32_t n, uint16_t dy, bool wants_dx, uint16_t *dx, struct err *err);
};
extern const struct op_row op_table[OPS];

int graph_edge(struct graph *g, const struct edge *e, uint16_t *out, struct err *err);
int graph_node(struct graph *g, enum op op, const uint16_t *in, unsigned in_count, const uint16_t *out, unsigned out_count, struct err *err);
/* A forward node whose value edge is named after it. */
int graph_apply(struct graph *g, enum op op, const char *name, const uint16_t *in, unsigned in_count, uint16_t *out, struct err *err);

#endif
