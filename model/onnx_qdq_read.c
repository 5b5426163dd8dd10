/* Reads a file that onnx_write_quantized wrote, as strictly as onnx_read: the configuration and the list of float layers say what it must hold. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "model/onnx_qdq.h"
#include "model/quantize.h"

static int read_plan(struct quantized_model *m, struct bytes list, struct err *err)
{
    char text[FLOAT_LAYERS_MAX], again[FLOAT_LAYERS_MAX], quoted[TENSOR_NAME_MAX + 2];
    uint64_t layers = 0;
    if (list.n >= sizeof text)
        return err_set(err, ERR_CORRUPT, "%s in the metadata holds %zu bytes, at most %zu are allowed", ONNX_FLOAT_LAYERS_KEY, list.n, sizeof text - 1);
    if (list.n)
        memcpy(text, list.p, list.n);
    text[list.n] = '\0';
    for (uint32_t i = 0; i < m->layer_count; i++) {
        CHECK(snprintf(quoted, sizeof quoted, "\"%s\"", quantized_layer_name(m, i)) < (int)sizeof quoted);
        layers |= (uint64_t)!strstr(text, quoted) << i;
    }
    quantized_model_plan(m, layers);
    qdq_float_layers(m, again);
    return strlen(text) == list.n && strcmp(text, again) == 0
               ? 0
               : err_set(err, ERR_CORRUPT, "%s in the metadata does not list layers of this model; export the model again", ONNX_FLOAT_LAYERS_KEY);
}

/* Pooled and flattened values have no scale of their own in the file. */
static void share_scales(struct quantized_model *m)
{
    for (uint32_t e = 0; e < m->graph->edge_count; e++)
        if (m->value[e].on)
            m->value[e] = m->value[quantized_range_edge(m->graph, (uint16_t)e)];
}

static bool good_scale(float s) { return s >= 1e-13f && s <= 1e30f; }

static int check_layer(const struct quantized_model *m, uint32_t i, const float *bias_scale, struct err *err)
{
    const struct quant_layer *q = &m->layer[i];
    float input = m->value[m->graph->node[q->node].in[0]].scale;
    for (uint32_t c = 0; c < q->channels; c++) {
        if (!good_scale(q->scale[c]) || bias_scale[c] != input * q->scale[c])
            return err_set(err, ERR_CORRUPT, "%s: the scale of channel %u is out of range, or the bias has another one than input times weight",
                           quantized_layer_name(m, i), c);
        if (q->bias[c] > QUANT_BIAS_MAX || q->bias[c] < -QUANT_BIAS_MAX)
            return err_set(err, ERR_CORRUPT, "%s: the bias of channel %u is out of range", quantized_layer_name(m, i), c);
    }
    return 0;
}

static int check_numbers(const struct quantized_model *m, const float *bias_scale, struct err *err)
{
    for (uint32_t e = 0; e < m->graph->edge_count; e++)
        if (m->value[e].on && !good_scale(m->value[e].scale))
            return err_set(err, ERR_CORRUPT, "%s: the scale is no positive number in range", m->graph->edge[e].name);
    for (uint32_t i = 0; i < m->layer_count; bias_scale += m->layer[i++].channels)
        if (m->layer[i].on)
            TRY(check_layer(m, i, bias_scale, err));
    return 0;
}

static int take_all(struct quantized_model *m, struct bytes graph, struct qdq_tensors *t, struct err *err)
{
    float constant[ONNX_CONSTANTS][4];
    struct pb nodes = {0}, ends = {0};
    for (unsigned i = 0; i < qdq_constants(m); i++) {
        struct onnx_want *w = &t->want[t->count++];
        onnx_constant(&m->graph->config, (int)i, constant[i]);
        *w = (struct onnx_want){.type = ONNX_FLOAT, .dim_count = 3, .dims = {m->graph->config.channels, 1, 1},
                                .bytes = m->graph->config.channels * sizeof(float), .must = constant[i]};
        snprintf(w->name, sizeof w->name, "%s", onnx_constant_name[i]);
    }
    qdq_nodes(m, &nodes);
    onnx_ends(m->graph, &ends);
    int rc = nodes.failed || ends.failed ? err_set(err, ERR_NO_MEMORY, "no memory to read the model")
                                         : onnx_take(graph, pb_over(nodes.data, nodes.size), pb_over(ends.data, ends.size), t->want, t->count, err);
    pb_free(&nodes);
    pb_free(&ends);
    return rc;
}

static int fill(struct quantized_model *m, struct bytes graph, struct err *err)
{
    struct qdq_tensors t;
    TRY(qdq_tensors_open(m, &t, err));
    int rc = take_all(m, graph, &t, err);
    if (rc == 0) {
        int last = qdq_channels_last(m);
        if (last >= 0)
            qdq_permute(m, last, t.own.channels_last, m->layer[last].weight, false);
        share_scales(m);
        rc = check_numbers(m, t.own.bias_scale, err);
    }
    if (rc == 0 && quantized_input_divides(m) && (t.own.input_scale != quantized_input_scale(m) || !good_scale(t.own.input_scale)))
        rc = err_set(err, ERR_CORRUPT, "centered_scale is not the deviation times normalized_scale; export the model again");
    qdq_tensors_close(&t);
    return rc;
}

/* Weights are at least a byte each: only a file large enough gets memory for them. */
static int check_room(const struct graph *folded, size_t size, struct err *err)
{
    uint64_t bytes = 0;
    for (uint32_t e = 0; e < folded->edge_count; e++) {
        const struct edge *p = &folded->edge[e];
        uint64_t elems = p->kind == EDGE_PARAMETER;
        for (uint32_t d = 0; d < p->dim_count && p->kind == EDGE_PARAMETER; d++)
            elems *= p->dims[d];
        bytes += elems;
    }
    return bytes <= size ? 0 : err_set(err, ERR_CORRUPT, "the configuration asks for %llu bytes of weights at least, the file holds %zu bytes in all",
                                       (unsigned long long)bytes, size);
}

static int over_config(const struct model_config *c, size_t size, struct quantized_model **out, struct err *err)
{
    struct graph *whole, *folded;
    TRY(graph_build(c, &whole, err));
    int rc = graph_fold(whole, &folded, err);
    graph_free(whole);
    if (rc == 0 && (rc = check_room(folded, size, err)) < 0)
        graph_free(folded);
    return rc == 0 ? quantized_model_over(folded, out, err) : rc;
}

int onnx_read_quantized(const void *file, size_t size, struct quantized_model **out, struct err *err)
{
    struct onnx_file f;
    struct quantized_model *m;
    TRY(onnx_open(file, size, true, &f, err));
    int rc = over_config(&f.parsed, size, &m, err);
    if (rc < 0)
        return err->code = rc == ERR_USAGE ? ERR_CORRUPT : rc, err_wrap(err, "%s in the metadata", ONNX_CONFIG_KEY);
    rc = read_plan(m, f.float_layers, err);
    if (rc == 0)
        rc = fill(m, f.graph, err);
    if (rc < 0) {
        quantized_model_free(m);
        return rc;
    }
    *out = m;
    return 0;
}
