/* model_config as JSON: in manifests and in the metadata of exported files. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "model/model.h"

static void list(char *out, size_t size, const uint32_t *v, uint32_t n)
{
    size_t used = 0;
    out[0] = '\0';
    for (uint32_t i = 0; i < n && used < size; i++)
        used += (size_t)snprintf(out + used, size - used, "%s%u", i ? "," : "", v[i]);
}

int model_config_print(const struct model_config *c, char *out, size_t size)
{
    char conv[128], hidden[128];
    list(conv, sizeof conv, c->conv, c->conv_count);
    list(hidden, sizeof hidden, c->hidden, c->hidden_count);
    return snprintf(out, size,
                    "{\"batch_norm\":%s,\"classes\":%u,\"conv\":[%s],\"deviation\":[%.9g,%.9g,%.9g,%.9g],\"family\":\"%s\",\"hidden\":[%s],"
                    "\"input\":[%u,%u,%u],\"loss\":\"cross_entropy\",\"mean\":[%.9g,%.9g,%.9g,%.9g]}",
                    c->batch_norm ? "true" : "false", c->classes, conv, (double)c->deviation[0], (double)c->deviation[1], (double)c->deviation[2],
                    (double)c->deviation[3], c->family == MODEL_CNN ? "cnn" : "mlp", hidden, c->channels, c->height, c->width, (double)c->mean[0],
                    (double)c->mean[1], (double)c->mean[2], (double)c->mean[3]);
}

static bool read_list(const json_t *o, const char *key, uint32_t *out, uint32_t max, uint32_t *count)
{
    const json_t *a = json_object_get(o, key);
    if (!json_is_array(a) || json_array_size(a) > max)
        return false;
    *count = (uint32_t)json_array_size(a);
    for (uint32_t i = 0; i < *count; i++) {
        const json_t *v = json_array_get(a, i);
        if (!json_is_integer(v) || json_integer_value(v) < 1 || json_integer_value(v) > 65536)
            return false;
        out[i] = (uint32_t)json_integer_value(v);
    }
    return true;
}

static bool read_floats(const json_t *o, const char *key, float out[4])
{
    const json_t *a = json_object_get(o, key);
    if (!json_is_array(a) || json_array_size(a) != 4)
        return false;
    for (uint32_t i = 0; i < 4; i++) {
        if (!json_is_number(json_array_get(a, i)))
            return false;
        out[i] = (float)json_number_value(json_array_get(a, i));
    }
    return true;
}

int model_config_parse(const char *json, struct model_config *out, struct err *err)
{
    struct model_config c = {.loss = MODEL_CROSS_ENTROPY};
    uint32_t input[3], dims = 0;
    json_t *o = json_loads(json, JSON_REJECT_DUPLICATES, NULL);
    const char *family = json_string_value(json_object_get(o, "family"));
    const json_t *classes = json_object_get(o, "classes");
    bool ok = family && (strcmp(family, "cnn") == 0 || strcmp(family, "mlp") == 0) && json_is_integer(classes) && json_integer_value(classes) >= 2 &&
              json_integer_value(classes) <= 256 && read_list(o, "conv", c.conv, MODEL_LIST_MAX, &c.conv_count) &&
              read_list(o, "hidden", c.hidden, MODEL_LIST_MAX, &c.hidden_count) && read_list(o, "input", input, 3, &dims) && dims == 3 &&
              read_floats(o, "mean", c.mean) && read_floats(o, "deviation", c.deviation) && json_is_boolean(json_object_get(o, "batch_norm"));
    if (ok) {
        c.family = strcmp(family, "cnn") == 0 ? MODEL_CNN : MODEL_MLP;
        c.classes = (uint32_t)json_integer_value(classes);
        c.batch_norm = json_is_true(json_object_get(o, "batch_norm"));
        c.channels = input[0];
        c.height = input[1];
        c.width = input[2];
        *out = c;
    }
    json_decref(o);
    return ok ? 0 : err_set(err, ERR_CORRUPT, "the model's configuration is damaged or from another version");
}
