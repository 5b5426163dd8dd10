/* A model card (card/model-card.json) read back: what a registry keeps of it. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "export/registry_db.h"

/* What is read from where; a value of the wrong kind counts as missing. */
static bool text(const json_t *o, const char *key, char *out, size_t size)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s && snprintf(out, size, "%s", s) < (int)size;
}

static double real(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

static bool hash(const json_t *o, const char *key, char out[SHA256_HEX])
{
    uint8_t bytes[SHA256_BYTES];
    const char *s = json_string_value(json_object_get(o, key));
    if (!s || hex_read(s, bytes, sizeof bytes) < 0)
        return false;
    hex_of(bytes, sizeof bytes, out);
    return true;
}

static bool count(const json_t *o, const char *key, int64_t *out)
{
    const json_t *v = json_object_get(o, key);
    *out = json_integer_value(v);
    return json_is_integer(v) && *out >= 0;
}

static bool dimension(const json_t *list, size_t i, int64_t *out)
{
    *out = json_integer_value(json_array_get(list, i));
    return *out > 0 && *out <= 1 << 20;
}

static bool read_lineage(const json_t *l, struct registry_version *out)
{
    text(l, "job", out->job, sizeof out->job);
    text(l, "commit", out->commit, sizeof out->commit);
    hash(l, "data_sha256", out->data_sha256);
    return count(l, "step", &out->step) && count(l, "generation", &out->generation) && hash(l, "spec_sha256", out->spec_sha256) &&
           hash(l, "weights_sha256", out->weights_sha256) && hash(l, "exported_sha256", out->exported_sha256);
}

static int read_card(const json_t *card, struct registry_version *out, struct err *err)
{
    const json_t *export = json_object_get(card, "export"), *gate = json_object_get(export, "gate");
    const json_t *in = json_object_get(json_object_get(card, "input"), "shape"), *logits = json_object_get(json_object_get(card, "output"), "shape");
    out->accuracy_float = real(json_object_get(export, "float"), "accuracy");
    out->drop = real(gate, "drop");
    out->low95 = real(gate, "low95");
    out->max_drop = real(gate, "max_drop");
    if (json_is_object(gate) && !json_is_true(json_object_get(gate, "passed")))
        return err_set(err, ERR_JOB, "its gate failed: accuracy dropped by %.4f with a lower 95 %% bound of %+.4f, and export.gate.max_drop is %g; only what passed is "
                       "registered", out->drop, out->low95, out->max_drop);
    const char *kind = json_is_object(json_object_get(export, "quantized")) ? "quantized" : "float";
    const json_t *file = json_object_get(export, kind);
    snprintf(out->kind, sizeof out->kind, "%s", kind);
    out->accuracy = real(file, "accuracy");
    if (!text(card, "name", out->model, sizeof out->model) || !hash(file, "sha256", out->sha256) || !count(file, "bytes", &out->bytes) ||
        !dimension(in, 1, &out->channels) || !dimension(in, 2, &out->height) || !dimension(in, 3, &out->width) || !dimension(logits, 1, &out->classes) ||
        !read_lineage(json_object_get(card, "lineage"), out))
        return err_set(err, ERR_CORRUPT, "it lacks what a version is known by (an earlier program wrote it?)");
    return 0;
}

int registry_card_decode(const void *bytes, size_t size, struct registry_version *out, struct err *err)
{
    json_error_t why;
    json_t *card = json_loadb(bytes, size, JSON_REJECT_DUPLICATES, &why);
    if (!card)
        return err_set(err, ERR_CORRUPT, "line %d does not decode: %s", why.line, why.text);
    *out = (struct registry_version){.drop = NAN, .low95 = NAN, .max_drop = NAN};
    int rc = read_card(card, out, err);
    json_decref(card);
    return rc;
}
