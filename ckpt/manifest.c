/* The manifest as JSON: keys sorted, no time stamps, so that every site encodes the same bytes. */
#include "ckpt/ckpt.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

#define MANIFEST_BYTES_MAX ((size_t)16 << 20)

struct text { char *at; size_t size, used; bool failed; };

static void add(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void add(struct text *t, const char *fmt, ...)
{
    for (int turn = 0; turn < 2 && !t->failed; turn++) {
        va_list ap;
        va_start(ap, fmt);
        int n = vsnprintf(t->at ? t->at + t->used : NULL, t->size - t->used, fmt, ap);
        va_end(ap);
        if ((size_t)n < t->size - t->used) {
            t->used += (size_t)n;
            return;
        }
        size_t want = (t->size + (size_t)n) * 2 + 4096;
        char *grown = realloc(t->at, want);
        t->failed = !grown;
        if (grown) {
            t->at = grown;
            t->size = want;
        }
    }
}

static void add_quoted(struct text *t, const char *s)
{
    size_t n = 6 * strlen(s) + 3;
    char *quoted = malloc(n);
    t->failed = t->failed || !quoted;
    if (quoted) {
        json_quote(quoted, n, s);
        add(t, "%s", quoted);
    }
    free(quoted);
}

static void add_meta(struct text *t, const struct ckpt_meta *m)
{
    add(t, "\"data_sha256\":\"%s\",\"generation\":%u,\"job\":", m->data_sha256, m->generation);
    add_quoted(t, m->job_id);
    add(t, ",\"log_position\":%" PRIu64 ",\"model\":", m->log_position);
    add_quoted(t, m->model_json ? m->model_json : "");
    add(t, ",\"optimizer\":");
    add_quoted(t, m->optimizer);
    add(t, ",\"pass\":%u,\"phase\":", m->pass);
    add_quoted(t, m->phase);
    add(t, ",\"position\":%" PRIu64 ",\"samples_per_pass\":%" PRIu64 ",\"seed\":%" PRIu64 ",\"slots\":[", m->position, m->samples_per_pass, m->seed);
    for (uint32_t s = 0; s < m->slot_count; s++) {
        add(t, "%s", s ? "," : "");
        add_quoted(t, m->slot_name[s]);
    }
    add(t, "],\"spec\":");
    add_quoted(t, m->spec_yaml ? m->spec_yaml : "");
    add(t, ",\"spec_sha256\":\"%s\",\"step\":%" PRIu64 ",\"version\":%d,\"view\":%u", m->spec_sha256, m->step, CKPT_VERSION, m->view);
}

static void add_tensor(struct text *t, const struct ckpt_manifest *m, const struct tensor_desc *d)
{
    add(t, "{\"blocks\":[");   /* [part, number of blocks] runs, in block order */
    for (uint32_t b = d->first_block, first = 1; b < d->first_block + d->block_count; first = 0) {
        uint32_t end = b;
        while (end < d->first_block + d->block_count && m->part_of_block[end] == m->part_of_block[b])
            end++;
        add(t, "%s[%u,%u]", first ? "" : ",", m->part_of_block[b], end - b);
        b = end;
    }
    add(t, "],\"dims\":[");
    for (uint32_t k = 0; k < d->dim_count; k++)
        add(t, "%s%" PRIu64, k ? "," : "", d->dims[k]);
    add(t, "],\"kind\":\"%s\",\"name\":", d->kind == TENSOR_STATE ? "state" : "parameter");
    add_quoted(t, d->name);
    add(t, "}");
}

int ckpt_manifest_encode(const struct ckpt_manifest *m, char **out, size_t *size, struct err *err)
{
    struct text t = {0};
    char hex[SHA256_HEX];
    add(&t, "{\"meta\":{");
    add_meta(&t, &m->meta);
    add(&t, "},\n\"parts\":[");
    for (uint32_t p = 0; p < m->part_count; p++) {
        hex_of(m->part[p].sha256, SHA256_BYTES, hex);
        add(&t, "%s{\"bytes\":%" PRIu64 ",\"index\":%u,\"sha256\":\"%s\"}", p ? ",\n" : "", m->part[p].size_bytes, m->part[p].index, hex);
    }
    add(&t, "],\n\"tensors\":[");
    for (uint32_t k = 0; k < m->layout.tensor_count; k++) {
        add(&t, "%s", k ? ",\n" : "");
        add_tensor(&t, m, &m->layout.tensors[k]);
    }
    add(&t, "]}\n");
    if (t.failed) {
        free(t.at);
        return err_set(err, ERR_NO_MEMORY, "no memory for a manifest");
    }
    *out = t.at;
    *size = t.used;
    return 0;
}

/* ---- decoding ---- */
struct source { bool bad; };

static uint64_t number(struct source *s, const json_t *o, const char *key, uint64_t max)
{
    const json_t *v = json_object_get(o, key);
    if (!json_is_integer(v) || json_integer_value(v) < 0 || (uint64_t)json_integer_value(v) > max) {
        s->bad = true;
        return 0;
    }
    return (uint64_t)json_integer_value(v);
}

static void string(struct source *s, const json_t *o, const char *key, char *out, size_t size)
{
    const char *v = json_string_value(json_object_get(o, key));
    if (!v || strlen(v) >= size)
        s->bad = true;
    else
        snprintf(out, size, "%s", v);
}

static const char *text_in(struct source *s, struct arena *a, const json_t *o, const char *key)
{
    const char *v = json_string_value(json_object_get(o, key));
    char *copy = v ? arena_strdup(a, v) : NULL;
    s->bad = s->bad || !copy;
    return copy ? copy : "";
}

static void read_meta(struct source *s, struct arena *a, const json_t *o, struct ckpt_meta *m)
{
    const json_t *slots = json_object_get(o, "slots");
    string(s, o, "job", m->job_id, sizeof m->job_id);
    string(s, o, "phase", m->phase, sizeof m->phase);
    string(s, o, "optimizer", m->optimizer, sizeof m->optimizer);
    string(s, o, "spec_sha256", m->spec_sha256, sizeof m->spec_sha256);
    string(s, o, "data_sha256", m->data_sha256, sizeof m->data_sha256);
    m->generation = (uint32_t)number(s, o, "generation", UINT32_MAX);
    m->view = (uint32_t)number(s, o, "view", UINT32_MAX);
    m->pass = (uint32_t)number(s, o, "pass", UINT32_MAX);
    m->step = number(s, o, "step", INT64_MAX);
    m->position = number(s, o, "position", INT64_MAX);
    m->log_position = number(s, o, "log_position", INT64_MAX);
    m->seed = number(s, o, "seed", INT64_MAX);
    m->samples_per_pass = number(s, o, "samples_per_pass", INT64_MAX);
    m->model_json = text_in(s, a, o, "model");
    m->spec_yaml = text_in(s, a, o, "spec");
    m->slot_count = (uint32_t)json_array_size(slots);
    if (!json_is_array(slots) || m->slot_count > CKPT_SLOTS_MAX) {
        s->bad = true;
        m->slot_count = 0;
    }
    for (uint32_t i = 0; i < m->slot_count; i++) {
        const char *name = json_string_value(json_array_get(slots, i));
        if (!name || !*name || strlen(name) >= sizeof m->slot_name[i] || strpbrk(name, "/."))
            s->bad = true;
        else
            snprintf(m->slot_name[i], sizeof m->slot_name[i], "%s", name);
    }
}

static void read_parts(struct source *s, const json_t *a, struct ckpt_manifest *m)
{
    if (!json_is_array(a) || json_array_size(a) > CKPT_PARTS_MAX) {
        s->bad = true;
        return;
    }
    m->part_count = (uint32_t)json_array_size(a);
    for (uint32_t p = 0; p < m->part_count; p++) {
        const json_t *o = json_array_get(a, p);
        char hex[SHA256_HEX] = "";
        m->part[p].index = (uint32_t)number(s, o, "index", CKPT_PARTS_MAX - 1);
        m->part[p].size_bytes = number(s, o, "bytes", INT64_MAX);
        string(s, o, "sha256", hex, sizeof hex);
        s->bad = s->bad || hex_read(hex, m->part[p].sha256, SHA256_BYTES) < 0;
    }
}

static void read_tensor(struct source *s, const json_t *o, struct tensor_desc *t)
{
    const json_t *dims = json_object_get(o, "dims");
    char kind[16] = "";
    string(s, o, "name", t->name, sizeof t->name);
    string(s, o, "kind", kind, sizeof kind);
    t->kind = strcmp(kind, "state") == 0 ? TENSOR_STATE : TENSOR_PARAMETER;
    t->dim_count = (uint32_t)json_array_size(dims);
    if ((strcmp(kind, "state") != 0 && strcmp(kind, "parameter") != 0) || !json_is_array(dims) || t->dim_count > TENSOR_DIMS_MAX) {
        s->bad = true;
        t->dim_count = 0;
    }
    for (uint32_t k = 0; k < t->dim_count; k++) {
        const json_t *v = json_array_get(dims, k);
        s->bad = s->bad || !json_is_integer(v) || json_integer_value(v) < 1;
        t->dims[k] = (uint64_t)json_integer_value(v);
    }
}

static void read_boxes(struct source *s, const json_t *tensors, struct ckpt_manifest *m)
{
    for (uint32_t k = 0; k < m->layout.tensor_count && !s->bad; k++) {
        const struct tensor_desc *d = &m->layout.tensors[k];
        const json_t *runs = json_object_get(json_array_get(tensors, k), "blocks");
        uint32_t at = d->first_block, end = d->first_block + d->block_count;
        for (size_t i = 0; i < json_array_size(runs) && !s->bad; i++) {
            const json_t *run = json_array_get(runs, i), *part = json_array_get(run, 0), *count = json_array_get(run, 1);
            s->bad = !json_is_integer(part) || !json_is_integer(count) || json_integer_value(part) < 0 || json_integer_value(part) >= m->part_count ||
                     json_integer_value(count) < 1 || json_integer_value(count) > end - at;
            for (json_int_t n = 0; !s->bad && n < json_integer_value(count); n++)
                m->part_of_block[at++] = (uint32_t)json_integer_value(part);
        }
        s->bad = s->bad || at != end;
    }
}

static int read_manifest(const json_t *o, struct ckpt_manifest *m, struct err *err)
{
    struct source s = {0};
    const json_t *tensors = json_object_get(o, "tensors"), *meta = json_object_get(o, "meta");
    if (number(&s, meta, "version", 1000) != CKPT_VERSION && !s.bad)
        return err_set(err, ERR_CONFLICT, "the manifest has version %lld, this program reads %d", (long long)json_integer_value(json_object_get(meta, "version")),
                       CKPT_VERSION);
    size_t count = json_array_size(tensors);
    if (!json_is_array(tensors) || count == 0 || count > LAYOUT_TENSORS_MAX)
        return err_set(err, ERR_CORRUPT, "the manifest lists no tensors, or too many");
    read_meta(&s, &m->arena, meta, &m->meta);
    read_parts(&s, json_object_get(o, "parts"), m);
    struct tensor_desc *t = calloc(count, sizeof *t);
    if (!t)
        return err_set(err, ERR_NO_MEMORY, "no memory for a manifest");
    for (size_t k = 0; k < count; k++)
        read_tensor(&s, json_array_get(tensors, k), &t[k]);
    int rc = s.bad ? 0 : layout_init(&m->layout, t, (uint32_t)count, err);
    free(t);
    if (rc < 0)
        return err->code = ERR_CORRUPT;
    if (!s.bad) {
        m->part_of_block = calloc(m->layout.block_count, sizeof *m->part_of_block);
        if (!m->part_of_block)
            return err_set(err, ERR_NO_MEMORY, "no memory for a manifest");
        read_boxes(&s, tensors, m);
    }
    return s.bad ? err_set(err, ERR_CORRUPT, "the manifest is damaged: a field is missing or out of limits") : 0;
}

int ckpt_manifest_decode(const char *text, size_t size, struct ckpt_manifest *out, struct err *err)
{
    struct ckpt_manifest m = {0};
    if (size > MANIFEST_BYTES_MAX)
        return err_set(err, ERR_CORRUPT, "the manifest holds %zu bytes, at most %zu are allowed", size, MANIFEST_BYTES_MAX);
    TRY(arena_init(&m.arena, 2 * size + 4096, err));
    json_error_t why;
    json_t *o = json_loadb(text, size, JSON_REJECT_DUPLICATES, &why);
    int rc = o ? read_manifest(o, &m, err) : err_set(err, ERR_CORRUPT, "the manifest is no JSON: %s", why.text);
    json_decref(o);
    if (rc < 0) {
        ckpt_manifest_fini(&m);
        return rc;
    }
    *out = m;
    return 0;
}

void ckpt_manifest_fini(struct ckpt_manifest *m)
{
    layout_fini(&m->layout);
    free(m->part_of_block);
    if (m->arena.memory)
        arena_fini(&m->arena);
    *m = (struct ckpt_manifest){0};
}
