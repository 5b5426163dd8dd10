/* Reads an ONNX file that onnx_write wrote. The configuration in its metadata says what graph it must hold; nodes, ends and initializers are held
 * against that graph, so that a file which another tool has changed is refused instead of being evaluated as something that it is not. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "model/onnx.h"

static int undecodable(const struct pb_reader *r, const char *what, struct err *err)
{
    return err_set(err, ERR_CORRUPT, "%s does not decode at byte %zu: not an ONNX file, or a damaged one; export the model again", what, r->pos);
}

static bool is_text(struct bytes b, const char *text) { return b.n == strlen(text) && memcmp(b.p, text, b.n) == 0; }

static int read_metadata(struct bytes entry, struct onnx_file *f, struct err *err)
{
    struct pb_reader r = pb_over(entry.p, entry.n);
    struct bytes key = {0}, value = {0};
    for (struct pb_field k; pb_next(&r, &k);)
        if (k.wire == PB_BYTES && k.number == ENTRY_KEY)
            key = (struct bytes){k.bytes, k.size};
        else if (k.wire == PB_BYTES && k.number == ENTRY_VALUE)
            value = (struct bytes){k.bytes, k.size};
    if (r.bad)
        return undecodable(&r, "an entry of the metadata", err);
    f->entries += key.n > 8 && memcmp(key.p, "viaduct.", 8) == 0;
    if (is_text(key, ONNX_CONFIG_KEY)) {
        f->config = value;
        f->configs++;
    } else if (is_text(key, ONNX_FLOAT_LAYERS_KEY)) {
        f->float_layers = value;
        f->lists++;
    }
    return 0;
}

static int read_opset(struct bytes entry, struct onnx_file *f, struct err *err)
{
    struct pb_reader r = pb_over(entry.p, entry.n);
    f->opsets++;
    for (struct pb_field k; pb_next(&r, &k);)
        if (k.wire == PB_VARINT && k.number == OPSET_VERSION)
            f->opset = k.value;
        else if (k.wire == PB_BYTES && k.number == OPSET_DOMAIN && k.size)
            f->opsets++;   /* an operator set of somebody else's */
    return r.bad ? undecodable(&r, "the operator set", err) : 0;
}

static int read_fields(const void *p, size_t size, struct onnx_file *f, struct err *err)
{
    struct pb_reader r = pb_over(p, size);
    for (struct pb_field k; pb_next(&r, &k);) {
        struct bytes b = {k.bytes, k.size};
        if (k.wire == PB_VARINT && k.number == MODEL_IR_VERSION)
            f->ir = k.value;
        else if (k.wire == PB_BYTES && k.number == MODEL_METADATA)
            TRY(read_metadata(b, f, err));
        else if (k.wire == PB_BYTES && k.number == MODEL_OPSET)
            TRY(read_opset(b, f, err));
        else if (k.wire == PB_BYTES && k.number == MODEL_GRAPH) {
            f->graph = b;
            f->graphs++;
        }
    }
    return r.bad || size == 0 ? undecodable(&r, "the file", err) : 0;
}

static int check_fields(const struct onnx_file *f, unsigned lists, struct err *err)
{
    if (f->configs == 0)
        return err_set(err, ERR_USAGE, "the model was not exported by viaduct: it has no %s in its metadata; this version reads its own exports only",
                       ONNX_CONFIG_KEY);
    if (f->configs > 1 || f->graphs != 1)
        return err_set(err, ERR_CORRUPT, "the file holds %u graphs and %u configurations, not one of each; export the model again", f->graphs, f->configs);
    if (f->entries != ONNX_ENTRIES + lists || f->lists != lists)
        return err_set(err, ERR_CORRUPT, "the metadata holds %u entries of viaduct, not %d: the file was cut or changed; export the model again",
                       f->entries, ONNX_ENTRIES + (int)lists);
    if (f->opsets != 1 || f->opset != ONNX_OPSET || f->ir != ONNX_IR)
        return err_set(err, ERR_CORRUPT, "the file is not of opset %d and IR version %d, as exported; another tool has converted it", ONNX_OPSET, ONNX_IR);
    return 0;
}

static int read_config(struct bytes b, struct model_config *c, struct err *err)
{
    char text[ONNX_CONFIG_MAX];
    if (b.n >= sizeof text)
        return err_set(err, ERR_CORRUPT, "%s in the metadata holds %zu bytes, at most %zu are allowed", ONNX_CONFIG_KEY, b.n, sizeof text - 1);
    if (b.n)
        memcpy(text, b.p, b.n);
    text[b.n] = '\0';
    TRY(model_config_parse(text, c, err));
    for (int i = 0; i < 4; i++)
        if (!isfinite(c->mean[i]) || !isfinite(c->deviation[i]))
            return err_set(err, ERR_CORRUPT, "%s in the metadata: mean and deviation must be finite", ONNX_CONFIG_KEY);
    return 0;
}

int onnx_open(const void *file, size_t size, bool quantized, struct onnx_file *f, struct err *err)
{
    *f = (struct onnx_file){0};
    TRY(read_fields(file, size, f, err));
    TRY(check_fields(f, quantized, err));
    return read_config(f->config, &f->parsed, err);
}

bool onnx_is_quantized(const void *file, size_t size)
{
    struct onnx_file f = {0};
    struct err ignored = ERR_INIT;   /* whoever opens the file next says what is wrong with it */
    return read_fields(file, size, &f, &ignored) == 0 && f.lists > 0;
}

/* ---- the graph, against what it must be ---- */
struct tensor { struct bytes name, raw; uint32_t dim_count; uint64_t dims[TENSOR_DIMS_MAX]; uint64_t type; };

static int read_tensor(struct bytes b, struct tensor *t, struct err *err)
{
    struct pb_reader r = pb_over(b.p, b.n);
    for (struct pb_field k; pb_next(&r, &k);) {
        struct bytes v = {k.bytes, k.size};
        if (k.number == TENSOR_DIM && k.wire == PB_VARINT && t->dim_count < TENSOR_DIMS_MAX)
            t->dims[t->dim_count++] = k.value;
        else if (k.number == TENSOR_TYPE && k.wire == PB_VARINT)
            t->type = k.value;
        else if (k.number == TENSOR_NAME && k.wire == PB_BYTES)
            t->name = v;
        else if (k.number == TENSOR_RAW && k.wire == PB_BYTES)
            t->raw = v;
        else
            return err_set(err, ERR_CORRUPT, "initializer '%.*s' has field %u, which exports of this version do not have",
                           (int)MIN(t->name.n, TENSOR_NAME_MAX), (const char *)t->name.p, k.number);
    }
    return r.bad ? undecodable(&r, "an initializer", err) : 0;
}

static int check_tensor(const struct tensor *t, const struct onnx_want *w, struct err *err)
{
    static const char *const type[] = {[ONNX_FLOAT] = "float32", [ONNX_UINT8] = "uint8", [ONNX_INT8] = "int8", [ONNX_INT32] = "int32", [ONNX_INT64] = "int64"};
    uint64_t elems = 1;
    bool same = t->dim_count == w->dim_count;
    for (uint32_t i = 0; i < w->dim_count && same; i++) {
        same = t->dims[i] == w->dims[i];
        elems *= w->dims[i];
    }
    if (!same)
        return err_set(err, ERR_CORRUPT, "initializer '%s' does not have the shape that the configuration gives it", w->name);
    if (t->type != w->type || t->raw.n != w->bytes)
        return err_set(err, ERR_CORRUPT, "initializer '%s' does not hold %llu %s values; export the model again", w->name, (unsigned long long)elems,
                       type[w->type]);
    if (w->must && memcmp(w->must, t->raw.p, t->raw.n) != 0)
        return err_set(err, ERR_CORRUPT, "initializer '%s' differs from the configuration in the metadata; export the model again", w->name);
    return 0;
}

struct reading { struct onnx_want *want; unsigned count; struct pb_reader nodes, ends; unsigned node; };   /* nodes, ends: still expected, in order */

static int take_initializer(struct reading *r, struct bytes b, struct err *err)
{
    struct tensor t = {0};
    TRY(read_tensor(b, &t, err));
    for (unsigned i = 0; i < r->count; i++) {
        struct onnx_want *w = &r->want[i];
        if (!is_text(t.name, w->name))
            continue;
        if (w->seen)
            return err_set(err, ERR_CORRUPT, "initializer '%s' stands in the file twice", w->name);
        w->seen = true;
        TRY(check_tensor(&t, w, err));
        if (w->to)
            memcpy(w->to, t.raw.p, t.raw.n);
        return 0;
    }
    return err_set(err, ERR_CORRUPT, "initializer '%.*s' is not part of the model that the configuration describes", (int)MIN(t.name.n, TENSOR_NAME_MAX),
                   (const char *)t.name.p);
}

static bool expected(struct pb_reader *r, const struct pb_field *got)
{
    struct pb_field want;
    return pb_next(r, &want) && want.number == got->number && want.size == got->size && memcmp(want.bytes, got->bytes, got->size) == 0;
}

static int take_field(struct reading *r, const struct pb_field *k, struct err *err)
{
    if (k->wire != PB_BYTES)
        return 0;
    if (k->number == GRAPH_INITIALIZER)
        return take_initializer(r, (struct bytes){k->bytes, k->size}, err);
    if (k->number == GRAPH_NODE && (r->node++, !expected(&r->nodes, k)))
        return err_set(err, ERR_CORRUPT, "node %u is not the one that viaduct exports for this model; another tool has changed the file", r->node);
    if ((k->number == GRAPH_INPUT || k->number == GRAPH_OUTPUT) && !expected(&r->ends, k))
        return err_set(err, ERR_CORRUPT, "input and output are not those that viaduct exports; another tool has changed the file");
    return 0;
}

int onnx_take(struct bytes graph, struct pb_reader nodes, struct pb_reader ends, struct onnx_want *want, unsigned count, struct err *err)
{
    struct pb_reader fields = pb_over(graph.p, graph.n);
    struct reading r = {.want = want, .count = count, .nodes = nodes, .ends = ends};
    for (struct pb_field k; pb_next(&fields, &k);)
        TRY(take_field(&r, &k, err));
    if (fields.bad)
        return undecodable(&fields, "the graph", err);
    if (r.nodes.pos != r.nodes.size || r.ends.pos != r.ends.size)
        return err_set(err, ERR_CORRUPT, "the graph ends after node %u, before its logits are made; export the model again", r.node);
    for (unsigned i = 0; i < count; i++)
        if (!want[i].seen)
            return err_set(err, ERR_CORRUPT, "initializer '%s' is missing; export the model again", want[i].name);
    return 0;
}

/* ---- a float model ---- */
/* The file must be large enough for the weights that its configuration asks for: only then is memory taken for them. */
static int check_room(const struct layout *l, size_t size, struct err *err)
{
    uint64_t bytes = 0;
    for (uint32_t t = 0; t < l->tensor_count; t++)
        bytes += l->tensors[t].elems * sizeof(float);
    return bytes <= size ? 0 : err_set(err, ERR_CORRUPT, "the configuration asks for %llu bytes of weights, the file holds %zu bytes in all",
                                       (unsigned long long)bytes, size);
}

static void want_constants(const struct model_config *c, float constant[ONNX_CONSTANTS][4], struct onnx_want *w)
{
    for (int i = 0; i < ONNX_CONSTANTS; i++) {
        onnx_constant(c, i, constant[i]);
        w[i] = (struct onnx_want){.type = ONNX_FLOAT, .dim_count = 3, .dims = {c->channels, 1, 1}, .bytes = c->channels * sizeof(float), .must = constant[i]};
        snprintf(w[i].name, sizeof w[i].name, "%s", onnx_constant_name[i]);
    }
}

static int fill(const struct graph *g, const struct layout *l, struct bytes graph, float *weights, struct err *err)
{
    float constant[ONNX_CONSTANTS][4];
    struct pb nodes = {0}, ends = {0};
    unsigned count = ONNX_CONSTANTS + l->tensor_count;
    struct onnx_want *want = calloc(count, sizeof *want);
    onnx_nodes(g, &nodes);
    onnx_ends(g, &ends);
    int rc = want && !nodes.failed && !ends.failed ? 0 : err_set(err, ERR_NO_MEMORY, "no memory to read the model");
    if (rc == 0) {
        want_constants(&g->config, constant, want);
        for (uint32_t t = 0; t < l->tensor_count; t++) {
            const struct tensor_desc *d = &l->tensors[t];
            struct onnx_want *w = &want[ONNX_CONSTANTS + t];
            *w = (struct onnx_want){.type = ONNX_FLOAT, .dim_count = d->dim_count, .bytes = d->elems * sizeof(float), .to = weights + d->offset};
            memcpy(w->name, d->name, sizeof d->name);
            memcpy(w->dims, d->dims, d->dim_count * sizeof *d->dims);
        }
        rc = onnx_take(graph, pb_over(nodes.data, nodes.size), pb_over(ends.data, ends.size), want, count, err);
    }
    free(want);
    pb_free(&nodes);
    pb_free(&ends);
    return rc;
}

static int read_weights(const struct graph *g, struct bytes graph, size_t size, struct layout *l, float **weights, struct err *err)
{
    struct layout made;
    if (graph_layout(g, &made, err) < 0)
        return err->code = ERR_CORRUPT, err_wrap(err, "%s in the metadata", ONNX_CONFIG_KEY);
    size_t bytes = made.elems * sizeof(float);
    int rc = check_room(&made, size, err);
    float *w = rc == 0 ? pages_alloc(bytes, err) : NULL;
    if (rc == 0 && !w)
        rc = ERR_NO_MEMORY;
    if (rc == 0)
        rc = fill(g, &made, graph, w, err);
    if (rc < 0) {
        if (w)
            pages_free(w, bytes);
        layout_fini(&made);
        return rc;
    }
    *l = made;
    *weights = w;
    return 0;
}

int onnx_read(const void *file, size_t size, struct graph **g, struct layout *l, float **weights, struct err *err)
{
    struct onnx_file f;
    struct graph *made;
    TRY(onnx_open(file, size, false, &f, err));
    if (graph_build(&f.parsed, &made, err) < 0)
        return err->code = ERR_CORRUPT, err_wrap(err, "%s in the metadata", ONNX_CONFIG_KEY);
    int rc = read_weights(made, f.graph, size, l, weights, err);
    if (rc < 0) {
        graph_free(made);
        return rc;
    }
    *g = made;
    return 0;
}
