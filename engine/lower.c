/* Lowering: graph nodes become kernel calls. A first walk emits calls whose arena operands name buffers; liveness over the calls then gives
 * every buffer its offset. */
#include <stdlib.h>
#include <string.h>

#include "engine/program.h"

#define NORM_EPS MODEL_NORM_EPS
#define BUFFERS_MAX (GRAPH_EDGES_MAX + 64)

struct lowering {
    const struct graph *g;
    const struct layout *l;
    const struct packing *packing;
    struct program *out;
    bool fuse;
    struct interval buffer[BUFFERS_MAX];
    uint32_t buffer_count;
    int edge_buffer[GRAPH_EDGES_MAX];     /* -1: none yet */
    int stats_buffer[GRAPH_NODES_MAX], index_buffer[GRAPH_NODES_MAX];   /* of a batch norm node */
    bool done[GRAPH_NODES_MAX];           /* emitted as part of a fused call */
    struct err *err;
};

static struct image_shape shape_of(const struct edge *e)
{
    return (struct image_shape){e->dims[0], e->dims[1], e->dims[2], padded_channels(e->dims[0])};
}

static bool is_image(const struct edge *e) { return e->dim_count == 3; }

static uint64_t bytes_of(const struct lowering *w, const struct edge *e)
{
    return sizeof(float) * w->out->samples * (is_image(e) ? image_elems(shape_of(e)) : e->dims[0]);
}

static int new_buffer(struct lowering *w, uint64_t bytes)
{
    CHECK(w->buffer_count < BUFFERS_MAX);
    w->buffer[w->buffer_count] = (struct interval){.bytes = bytes, .first = UINT32_MAX};
    return (int)w->buffer_count++;
}

/* ---- operands; buffers are numbered until the plan is made ---- */
static struct operand arena(int buffer) { return (struct operand){AT_ARENA, (uint64_t)buffer}; }

static struct operand value(struct lowering *w, uint16_t e)
{
    if (e == w->g->pixels)
        return (struct operand){AT_PIXELS, 0};
    if (e == w->g->labels)
        return (struct operand){AT_LABELS, 0};
    if (w->edge_buffer[e] < 0)
        w->edge_buffer[e] = new_buffer(w, bytes_of(w, &w->g->edge[e]));
    return arena(w->edge_buffer[e]);
}

static struct operand weight(const struct lowering *w, uint16_t e)
{
    return (struct operand){AT_WEIGHTS, w->l->tensors[w->g->edge[e].tensor].offset * sizeof(float)};
}

static struct operand gradient(const struct lowering *w, uint16_t e)
{
    return (struct operand){AT_GRADIENT, w->l->tensors[w->g->edge[e].tensor].offset * sizeof(float)};
}

static struct call *add(struct lowering *w, enum kernel_id kernel, unsigned count, const struct operand *operands)
{
    CHECK(w->out->call_count < PROGRAM_CALLS_MAX && count <= 12);
    struct call *c = &w->out->call[w->out->call_count++];
    memset(c, 0, sizeof *c);
    c->kernel = kernel;
    c->count = (uint8_t)count;
    memcpy(c->operand, operands, count * sizeof *operands);
    return c;
}

/* ---- patterns ---- */
static int consumer_of(const struct graph *g, uint16_t e, uint32_t from, uint32_t to)
{
    int found = -1;
    for (uint32_t n = from; n < to; n++)
        for (unsigned i = 0; i < g->node[n].in_count; i++)
            if (g->node[n].in[i] == e) {
                if (found >= 0)
                    return -1;
                found = (int)n;
            }
    return found;
}

static int next_forward(const struct lowering *w, uint32_t n, enum op op)
{
    int k = consumer_of(w->g, w->g->node[n].out[0], 0, w->g->forward_count);
    return k >= 0 && w->g->node[k].op == op ? k : -1;
}

static int forward_norm_of(const struct lowering *w, uint16_t x)
{
    for (uint32_t n = 0; n < w->g->forward_count; n++)
        if (w->g->node[n].op == OP_BATCHNORM && w->g->node[n].in[0] == x)
            return (int)n;
    return -1;
}

/* ---- forward ---- */
static void lower_normalize(struct lowering *w, const struct node *n)
{
    const struct model_config *c = &w->g->config;
    bool floats = w->out->kind == PROGRAM_INFER;
    struct call *k = add(w, floats ? K_NORMALIZE_F32 : K_NORMALIZE, 2, (struct operand[]){value(w, n->in[0]), value(w, n->out[0])});
    k->params.normalize = (struct normalize_params){.shape = shape_of(&w->g->edge[n->out[0]]), .count = w->out->samples};
    for (unsigned i = 0; i < 4; i++) {
        float deviation = c->deviation[i] != 0 ? c->deviation[i] : 1;
        k->params.normalize.scale[i] = 1 / (255 * deviation);
        k->params.normalize.shift[i] = -c->mean[i] / deviation;
    }
}

static void lower_conv(struct lowering *w, const struct node *n)
{
    int t = w->g->edge[n->in[1]].tensor;
    struct operand pack = {AT_PACKED, w->packing->forward_of[t]};
    struct call *k = add(w, K_CONV, 3, (struct operand[]){value(w, n->in[0]), pack, value(w, n->out[0])});
    k->params.conv = (struct conv_params){shape_of(&w->g->edge[n->in[0]]), shape_of(&w->g->edge[n->out[0]]), w->out->samples};
}

static void lower_batchnorm(struct lowering *w, uint32_t index)
{
    const struct node *n = &w->g->node[index];
    struct image_shape s = shape_of(&w->g->edge[n->in[0]]);
    struct norm_params params = {.shape = s, .count = w->out->samples, .eps = NORM_EPS};
    w->stats_buffer[index] = new_buffer(w, 4 * sizeof(float) * s.cp);
    struct operand stats = arena(w->stats_buffer[index]), x = value(w, n->in[0]), gamma = weight(w, n->in[1]), beta = weight(w, n->in[2]);
    if (w->out->kind == PROGRAM_TRAIN)
        add(w, K_NORM_STATS, 2, (struct operand[]){x, stats})->params.norm = params;
    else
        add(w, K_NORM_RUNNING, 3, (struct operand[]){weight(w, n->in[3]), weight(w, n->in[4]), stats})->params.norm = params;
    int act = next_forward(w, index, OP_RELU), pool = act >= 0 ? next_forward(w, (uint32_t)act, OP_MAXPOOL) : -1;
    if (!w->fuse || pool < 0) {
        add(w, K_NORM_APPLY, 5, (struct operand[]){x, stats, gamma, beta, value(w, n->out[0])})->params.norm = params;
        return;
    }
    uint16_t out = w->g->node[pool].out[0];
    w->index_buffer[index] = new_buffer(w, bytes_of(w, &w->g->edge[out]));
    add(w, K_NORM_RELU_POOL, 6, (struct operand[]){x, stats, gamma, beta, value(w, out), arena(w->index_buffer[index])})->params.norm = params;
    w->done[act] = w->done[pool] = true;
}

static void lower_elementwise(struct lowering *w, enum kernel_id kernel, unsigned count, const uint16_t *edges)
{
    struct operand o[3];
    for (unsigned i = 0; i < count; i++)
        o[i] = value(w, edges[i]);
    add(w, kernel, count, o)->params.vector.elems = bytes_of(w, &w->g->edge[edges[0]]) / sizeof(float);
}

static void lower_pool(struct lowering *w, enum kernel_id kernel, unsigned count, const uint16_t *edges, uint16_t in, uint16_t out)
{
    struct operand o[3];
    for (unsigned i = 0; i < count; i++)
        o[i] = value(w, edges[i]);
    add(w, kernel, count, o)->params.pool = (struct pool_params){shape_of(&w->g->edge[in]), shape_of(&w->g->edge[out]), w->out->samples};
}

static void lower_flatten(struct lowering *w, enum kernel_id kernel, uint16_t from, uint16_t to, uint16_t image)
{
    add(w, kernel, 2, (struct operand[]){value(w, from), value(w, to)})->params.image =
        (struct image_params){shape_of(&w->g->edge[image]), w->out->samples};
}

static struct dense_params dense_of(const struct lowering *w, uint16_t weights, bool relu)
{
    const struct edge *e = &w->g->edge[weights];
    return (struct dense_params){w->out->samples, e->dims[1], e->dims[0], relu};
}

static void lower_dense(struct lowering *w, uint32_t index)
{
    const struct node *n = &w->g->node[index];
    int act = w->fuse ? next_forward(w, index, OP_RELU) : -1;
    uint16_t out = act >= 0 ? w->g->node[act].out[0] : n->out[0];
    struct call *k = add(w, K_DENSE, 4, (struct operand[]){value(w, n->in[0]), weight(w, n->in[1]), weight(w, n->in[2]), value(w, out)});
    k->params.dense = dense_of(w, n->in[1], act >= 0);
    if (act >= 0)
        w->done[act] = true;
}

/* ---- backward ---- */
static void lower_norm_grad(struct lowering *w, uint32_t index)
{
    const struct node *n = &w->g->node[index];
    int f = forward_norm_of(w, n->in[1]);
    struct norm_params params = {.shape = shape_of(&w->g->edge[n->in[1]]), .count = w->out->samples, .eps = NORM_EPS};
    struct operand o[9] = {value(w, n->in[0]), value(w, n->in[1]), arena(w->stats_buffer[f]), weight(w, n->in[2]), value(w, n->out[0])};
    for (unsigned i = 1; i < 5; i++)
        o[4 + i] = gradient(w, n->out[i]);
    add(w, K_NORM_GRAD, 9, o)->params.norm = params;
}

/* pool gradient -> ReLU gradient -> norm gradient, when the forward three were fused */
static bool lower_fused_grad(struct lowering *w, uint32_t index)
{
    const struct graph *g = w->g;
    const struct node *pool = &g->node[index];
    int act = consumer_of(g, pool->out[0], g->forward_count, g->node_count);
    int norm = act >= 0 && g->node[act].op == OP_RELU_GRAD ? consumer_of(g, g->node[act].out[0], g->forward_count, g->node_count) : -1;
    if (norm < 0 || g->node[norm].op != OP_BATCHNORM_GRAD)
        return false;
    const struct node *n = &g->node[norm];
    int f = forward_norm_of(w, n->in[1]);
    if (f < 0 || w->index_buffer[f] < 0)
        return false;
    struct norm_params params = {.shape = shape_of(&g->edge[n->in[1]]), .count = w->out->samples, .eps = NORM_EPS};
    struct operand o[10] = {value(w, pool->in[0]), arena(w->index_buffer[f]), value(w, n->in[1]), arena(w->stats_buffer[f]), weight(w, n->in[2]),
                            value(w, n->out[0])};
    for (unsigned i = 1; i < 5; i++)
        o[5 + i] = gradient(w, n->out[i]);
    add(w, K_NORM_RELU_POOL_GRAD, 10, o)->params.norm = params;
    w->done[act] = w->done[norm] = true;
    return true;
}

static void lower_conv_dx(struct lowering *w, const struct node *n)
{
    int t = w->g->edge[n->in[1]].tensor;
    struct operand pack = {AT_PACKED, w->packing->backward_of[t]};
    struct call *k = add(w, K_CONV, 3, (struct operand[]){value(w, n->in[0]), pack, value(w, n->out[0])});
    k->params.conv = (struct conv_params){shape_of(&w->g->edge[n->in[0]]), shape_of(&w->g->edge[n->out[0]]), w->out->samples};
}

static void lower_conv_dw(struct lowering *w, const struct node *n)
{
    struct image_shape out = shape_of(&w->g->edge[n->in[0]]), in = shape_of(&w->g->edge[n->in[1]]);
    int scratch = new_buffer(w, sizeof(float) * 9 * in.cp * out.cp);
    struct call *k = add(w, K_CONV_DW, 4, (struct operand[]){value(w, n->in[0]), value(w, n->in[1]), gradient(w, n->out[0]), arena(scratch)});
    k->params.conv = (struct conv_params){in, out, w->out->samples};
}

static void lower_node(struct lowering *w, uint32_t i)
{
    const struct node *n = &w->g->node[i];
    switch (n->op) {
    case OP_NORMALIZE: lower_normalize(w, n); break;
    case OP_CONV: lower_conv(w, n); break;
    case OP_BATCHNORM: lower_batchnorm(w, i); break;
    case OP_RELU: lower_elementwise(w, K_RELU, 2, (uint16_t[]){n->in[0], n->out[0]}); break;
    case OP_MAXPOOL: lower_pool(w, K_POOL, 2, (uint16_t[]){n->in[0], n->out[0]}, n->in[0], n->out[0]); break;
    case OP_FLATTEN: lower_flatten(w, K_FLATTEN, n->in[0], n->out[0], n->in[0]); break;
    case OP_DENSE: lower_dense(w, i); break;
    case OP_XENT:
        if (w->out->kind != PROGRAM_INFER)
            add(w, K_XENT, 3, (struct operand[]){value(w, n->in[0]), value(w, n->in[1]), {AT_METRICS, 0}})->params.xent =
                (struct xent_params){w->out->samples, w->g->edge[n->in[0]].dims[0]};
        break;
    case OP_XENT_GRAD:
        add(w, K_XENT_GRAD, 3, (struct operand[]){value(w, n->in[0]), value(w, n->in[1]), value(w, n->out[0])})->params.xent =
            (struct xent_params){w->out->samples, w->g->edge[n->in[0]].dims[0]};
        break;
    case OP_DENSE_DW:
        add(w, K_DENSE_DW, 4, (struct operand[]){value(w, n->in[0]), value(w, n->in[1]), gradient(w, n->out[0]), gradient(w, n->out[1])})->params.dense =
            dense_of(w, n->out[0], false);
        break;
    case OP_DENSE_DX:
        add(w, K_DENSE_DX, 3, (struct operand[]){value(w, n->in[0]), weight(w, n->in[1]), value(w, n->out[0])})->params.dense =
            dense_of(w, n->in[1], false);
        break;
    case OP_FLATTEN_GRAD: lower_flatten(w, K_FLATTEN_GRAD, n->in[0], n->out[0], n->out[0]); break;
    case OP_MAXPOOL_GRAD:
        if (!w->fuse || !lower_fused_grad(w, i))
            lower_pool(w, K_POOL_GRAD, 3, (uint16_t[]){n->in[0], n->in[1], n->out[0]}, n->in[1], n->in[0]);
        break;
    case OP_RELU_GRAD: lower_elementwise(w, K_RELU_GRAD, 3, (uint16_t[]){n->in[0], n->in[1], n->out[0]}); break;
    case OP_BATCHNORM_GRAD: lower_norm_grad(w, i); break;
    case OP_CONV_DX: lower_conv_dx(w, n); break;
    case OP_CONV_DW: lower_conv_dw(w, n); break;
    case OP_CONV_BIAS: case OPS: break;   /* not in graphs that are trained: packing_plan refuses folded ones */
    }
}

static void place_buffers(struct lowering *w)
{
    struct program *p = w->out;
    for (uint32_t c = 0; c < p->call_count; c++)
        for (unsigned i = 0; i < p->call[c].count; i++)
            if (p->call[c].operand[i].place == AT_ARENA) {
                struct interval *b = &w->buffer[p->call[c].operand[i].offset];
                b->first = b->first < c ? b->first : c;
                b->last = c;
            }
    int logits = w->edge_buffer[w->g->logits];
    w->buffer[logits].last = p->call_count;   /* read after the program */
    p->arena_bytes = memory_plan(w->buffer, w->buffer_count);
    for (uint32_t c = 0; c < p->call_count; c++)
        for (unsigned i = 0; i < p->call[c].count; i++)
            if (p->call[c].operand[i].place == AT_ARENA)
                p->call[c].operand[i].offset = w->buffer[p->call[c].operand[i].offset].offset;
    p->logits_offset = w->buffer[logits].offset;
}

int program_lower(const struct graph *g, const struct layout *l, const struct packing *packing, uint32_t samples, enum program_kind kind, bool fuse,
                  struct program *out, struct err *err)
{
    struct lowering *w = calloc(1, sizeof *w);
    if (!w)
        return err_set(err, ERR_NO_MEMORY, "no memory to compile the model");
    *w = (struct lowering){.g = g, .l = l, .packing = packing, .out = out, .fuse = fuse, .err = err};
    memset(w->edge_buffer, -1, sizeof w->edge_buffer);
    memset(w->stats_buffer, -1, sizeof w->stats_buffer);
    memset(w->index_buffer, -1, sizeof w->index_buffer);
    out->samples = samples;
    out->kind = kind;
    out->call_count = 0;
    uint32_t end = kind == PROGRAM_TRAIN ? g->node_count : g->forward_count;
    for (uint32_t n = 0; n < end; n++)
        if (!w->done[n])
            lower_node(w, n);
    place_buffers(w);
    free(w);
    return 0;
}

int packing_plan(const struct graph *g, const struct layout *l, struct packing *out, struct err *err)
{
    memset(out, 0, sizeof *out);
    for (uint32_t n = 0; n < g->forward_count; n++) {
        const struct node *k = &g->node[n];
        if (k->op == OP_CONV_BIAS)
            return err_set(err, ERR_USAGE, "a folded graph runs in the quantized engine only");
        if (k->op != OP_CONV)
            continue;
        int t = g->edge[k->in[1]].tensor;
        struct conv_params params = {shape_of(&g->edge[k->in[0]]), shape_of(&g->edge[k->out[0]]), 0};
        if (out->call_count + 2 > 64 || (unsigned)t >= LAYOUT_TENSORS_MAX / 8)
            return err_set(err, ERR_USAGE, "the model has more convolutions than this version compiles (32)");
        uint64_t sizes[2] = {sizeof(float) * 9 * params.in.cp * params.out.cp, sizeof(float) * 9 * params.in.cp * params.out.cp};
        for (unsigned side = 0; side < 2; side++) {
            struct call *c = &out->call[out->call_count++];
            *c = (struct call){.kernel = side ? K_PACK_CONV_DX : K_PACK_CONV, .count = 2};
            c->operand[0] = (struct operand){AT_WEIGHTS, l->tensors[t].offset * sizeof(float)};
            c->operand[1] = (struct operand){AT_PACKED, out->bytes};
            c->params.conv = params;
            *(side ? &out->backward_of[t] : &out->forward_of[t]) = out->bytes;
            out->bytes += (sizes[side] + 255) / 256 * 256;
        }
    }
    return 0;
}
