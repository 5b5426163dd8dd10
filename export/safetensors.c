/* safetensors: length of the header (u64, little-endian), the header as JSON padded with spaces to 8 bytes, tensors one after the other without holes.
 * Tensors are sorted by name. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "export/parts.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tensors are little-endian and copied from memory");

struct text { char *at; size_t size, used; };

static void add(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void add(struct text *t, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(t->at + t->used, t->size - t->used, fmt, ap);
    va_end(ap);
    CHECK(n >= 0 && (size_t)n < t->size - t->used);
    t->used += (size_t)n;
}

static void add_entry(struct text *t, const char *key, const char *value)
{
    char quoted[12000];
    CHECK(json_quote(quoted, sizeof quoted, value) < (int)sizeof quoted);
    add(t, ",\"%s\":%s", key, quoted);
}

static void add_metadata(struct text *t, const struct exported_model *m)
{
    char config[4096], labels[4096];
    add(t, "\"__metadata__\":{\"format\":\"viaduct\"");
    if (m->graph) {
        CHECK(model_labels_print(&m->config, labels, sizeof labels) < (int)sizeof labels);
        CHECK(model_config_print(&m->config, config, sizeof config) < (int)sizeof config);
        add_entry(t, "viaduct.labels", labels);
        add_entry(t, "viaduct.model", config);
    }
    add(t, "}");
}

static void add_tensor(struct text *t, const struct tensor_desc *d, uint64_t at)
{
    char quoted[TENSOR_NAME_MAX * 6 + 3];
    CHECK(json_quote(quoted, sizeof quoted, d->name) < (int)sizeof quoted);
    add(t, ",%s:{\"dtype\":\"F32\",\"shape\":[", quoted);
    for (uint32_t i = 0; i < d->dim_count; i++)
        add(t, "%s%llu", i ? "," : "", (unsigned long long)d->dims[i]);
    add(t, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)at, (unsigned long long)(at + d->elems * sizeof(float)));
}

static int by_name(const void *a, const void *b)
{
    const struct tensor_desc *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static int assemble(const struct exported_model *m, const struct tensor_desc **sorted, struct text *header, void **out, size_t *size, struct err *err)
{
    uint64_t at = 0;
    add(header, "{");
    add_metadata(header, m);
    for (uint32_t t = 0; t < m->layout.tensor_count; t++) {
        add_tensor(header, sorted[t], at);
        at += sorted[t]->elems * sizeof(float);
    }
    add(header, "}");
    while (header->used % 8)
        add(header, " ");
    uint64_t length = header->used;
    uint8_t *image = malloc(sizeof length + length + at);
    if (!image)
        return err_set(err, ERR_NO_MEMORY, "no memory for %llu bytes of safetensors", (unsigned long long)at);
    memcpy(image, &length, sizeof length);
    memcpy(image + sizeof length, header->at, length);
    uint8_t *data = image + sizeof length + length;
    for (uint32_t t = 0; t < m->layout.tensor_count; t++) {
        memcpy(data, m->weights + sorted[t]->offset, sorted[t]->elems * sizeof(float));
        data += sorted[t]->elems * sizeof(float);
    }
    *out = image;
    *size = (size_t)(data - image);
    return 0;
}

int safetensors_image(const struct exported_model *m, void **out, size_t *size, struct err *err)
{
    uint32_t n = m->layout.tensor_count;
    struct text header = {.size = 32768 + (size_t)n * (TENSOR_NAME_MAX * 6 + 300)};
    const struct tensor_desc **sorted = calloc(n ? n : 1, sizeof *sorted);
    header.at = malloc(header.size);
    int rc = header.at && sorted ? 0 : err_set(err, ERR_NO_MEMORY, "no memory for the names of %u tensors", n);
    if (rc == 0) {
        for (uint32_t t = 0; t < n; t++)
            sorted[t] = &m->layout.tensors[t];
        qsort(sorted, n, sizeof *sorted, by_name);
        rc = assemble(m, sorted, &header, out, size, err);
    }
    free(sorted);
    free(header.at);
    return rc;
}
