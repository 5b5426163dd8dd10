/* safetensors: length of the header (u64, little-endian), the header as JSON padded with spaces to 8 bytes, tensors one after the other without holes.
 * Tensors of four bytes an element come first, then by name. */
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "export/page.h"
#include "export/parts.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tensors are little-endian and copied from memory");

struct entry { char name[TENSOR_NAME_MAX + 16]; const char *dtype; uint32_t dim_count; uint64_t dims[TENSOR_DIMS_MAX], bytes; const void *data; };
struct entries { struct entry *item; uint32_t count; };

static struct entry *add(struct entries *all, const char *name, const char *suffix, const char *dtype, const struct tensor_desc *like, uint32_t dim_count,
                         uint64_t bytes, const void *data)
{
    struct entry *e = &all->item[all->count++];
    *e = (struct entry){.dtype = dtype, .dim_count = dim_count, .bytes = bytes, .data = data};
    memcpy(e->dims, like->dims, dim_count * sizeof *e->dims);
    CHECK(snprintf(e->name, sizeof e->name, "%s%s", name, suffix) < (int)sizeof e->name);
    return e;
}

static void add_floats(struct entries *all, const struct tensor_desc *d, const float *weights)
{
    add(all, d->name, "", "F32", d, d->dim_count, d->elems * sizeof(float), weights + d->offset);
}

/* Named as in the ONNX file, without what follows from the rest. */
static void add_quantized(struct entries *all, const struct quantized_model *m)
{
    static const struct tensor_desc scalar = {.dim_count = 0};
    for (uint32_t i = 0; i < m->layer_count; i++) {
        const struct quant_layer *q = &m->layer[i];
        const struct node *n = &m->graph->node[q->node];
        const struct tensor_desc *w = &m->layout.tensors[m->graph->edge[n->in[1]].tensor], *b = &m->layout.tensors[m->graph->edge[n->in[2]].tensor];
        if (!q->on) {
            add_floats(all, w, m->weights);
            add_floats(all, b, m->weights);
            continue;
        }
        add(all, w->name, "_quantized", "I8", w, w->dim_count, w->elems, q->weight);
        add(all, w->name, "_scale", "F32", w, 1, q->channels * sizeof(float), q->scale);
        add(all, b->name, "_quantized", "I32", b, 1, q->channels * sizeof(int32_t), q->bias);
    }
    for (uint32_t e = 0; e < m->graph->edge_count; e++)
        if (m->value[e].on && quantized_range_edge(m->graph, (uint16_t)e) == e) {
            add(all, m->graph->edge[e].name, "_scale", "F32", &scalar, 0, sizeof(float), &m->value[e].scale);
            add(all, m->graph->edge[e].name, "_zero_point", "U8", &scalar, 0, 1, &m->value[e].zero);
        }
}

/* Tensors of four bytes first, so that all are aligned; then by name. */
static int by_name(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    bool bytes = x->dtype[1] == '8', other = y->dtype[1] == '8';
    return bytes != other ? (bytes ? 1 : -1) : strcmp(x->name, y->name);
}

static void add_metadata(struct page *t, const struct exported_model *m)
{
    char config[4096], labels[4096];
    page_add(t, "\"__metadata__\":{\"format\":\"viaduct\"");
    if (m->graph || m->quantized) {
        CHECK(model_labels_print(&m->config, labels, sizeof labels) < (int)sizeof labels);
        CHECK(model_config_print(&m->config, config, sizeof config) < (int)sizeof config);
        page_add(t, ",\"viaduct.labels\":");
        page_quote(t, labels);
        page_add(t, ",\"viaduct.model\":");
        page_quote(t, config);
    }
    page_add(t, "}");
}

static uint64_t add_header(struct page *t, const struct exported_model *m, const struct entries *all)
{
    uint64_t at = 0;
    page_add(t, "{");
    add_metadata(t, m);
    for (uint32_t i = 0; i < all->count; i++) {
        const struct entry *e = &all->item[i];
        page_add(t, ",");
        page_quote(t, e->name);
        page_add(t, ":{\"dtype\":\"%s\",\"shape\":[", e->dtype);
        for (uint32_t d = 0; d < e->dim_count; d++)
            page_add(t, "%s%llu", d ? "," : "", (unsigned long long)e->dims[d]);
        page_add(t, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)at, (unsigned long long)(at + e->bytes));
        at += e->bytes;
    }
    page_add(t, "}");
    while (t->used % 8 && !t->failed)
        page_add(t, " ");
    return at;
}

static int assemble(const struct exported_model *m, const struct entries *all, void **out, size_t *size, struct err *err)
{
    struct page header = {0};
    uint64_t data_bytes = add_header(&header, m, all), length = header.used;
    uint8_t *image = header.failed ? NULL : malloc(sizeof length + length + data_bytes), *to = image;
    if (image) {
        memcpy(image, &length, sizeof length);
        memcpy(image + sizeof length, header.at, length);
        to = image + sizeof length + length;
        for (uint32_t i = 0; i < all->count; to += all->item[i++].bytes)
            memcpy(to, all->item[i].data, all->item[i].bytes);
    }
    page_free(&header);
    if (!image)
        return err_set(err, ERR_NO_MEMORY, "no memory for %llu bytes of safetensors", (unsigned long long)data_bytes);
    *out = image;
    *size = (size_t)(to - image);
    return 0;
}

int safetensors_image(const struct exported_model *m, void **out, size_t *size, struct err *err)
{
    uint32_t most = m->quantized ? QUANT_LAYERS_MAX * 3 + GRAPH_EDGES_MAX * 2 : m->layout.tensor_count;
    struct entries all = {.item = calloc(most ? most : 1, sizeof *all.item)};
    if (!all.item)
        return err_set(err, ERR_NO_MEMORY, "no memory for the names of %u tensors", most);
    if (m->quantized)
        add_quantized(&all, m->quantized);
    for (uint32_t t = 0; t < m->layout.tensor_count; t++)
        add_floats(&all, &m->layout.tensors[t], m->weights);
    qsort(all.item, all.count, sizeof *all.item, by_name);
    int rc = assemble(m, &all, out, size, err);
    free(all.item);
    return rc;
}
