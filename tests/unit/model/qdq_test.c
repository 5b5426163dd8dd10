/* Quantized models as ONNX files: the same integers and bytes again, for every choice of float layers; whatever is cut, changed or foreign is refused
 * with a reason, and never crashes. Rules of quantization itself. */
#include "tests/unit/unit.h"

#include <math.h>

#include "model/onnx.h"

static const struct model_config cnn = {.family = MODEL_CNN, .classes = 3, .channels = 2, .height = 6, .width = 5, .conv_count = 1, .conv = {2},
                                        .hidden_count = 1, .hidden = {3}, .batch_norm = true, .mean = {0.1f, 0.2f}, .deviation = {0.3f, 0, 1, 1}};
static const struct model_config gray = {.family = MODEL_CNN, .classes = 3, .channels = 1, .height = 9, .width = 8, .conv_count = 2, .conv = {3, 5},
                                         .hidden_count = 1, .hidden = {4}, .batch_norm = true, .mean = {0.1f}, .deviation = {0.3f, 1, 1, 1}};
static const struct model_config mlp = {.family = MODEL_MLP, .classes = 4, .channels = 3, .height = 4, .width = 5, .hidden_count = 2, .hidden = {33, 5},
                                        .mean = {0.5f}, .deviation = {0.25f, 1, 1, 1}};

struct made { struct graph *g; struct layout l; float *w; struct quantized_model *m; uint8_t *file; size_t size; };

static void write_file(struct made *m)
{
    struct err e = ERR_INIT;
    void *file;
    free(m->file);
    assert_ok(onnx_write_quantized(m->m, &file, &m->size, &e));
    m->file = file;
}

static void make(struct made *m, const struct model_config *c, uint64_t layers)
{
    struct err e = ERR_INIT;
    struct value_range range[GRAPH_EDGES_MAX];
    *m = (struct made){0};
    assert_ok(graph_build(c, &m->g, &e));
    assert_ok(graph_layout(m->g, &m->l, &e));
    m->w = calloc(m->l.elems, sizeof *m->w);
    graph_init_weights(m->g, &m->l, 7, m->w);
    assert_ok(quantized_model_fold(m->g, &m->l, m->w, &m->m, &e));
    for (unsigned i = 0; i < GRAPH_EDGES_MAX; i++)
        range[i] = (struct value_range){i % 3 ? 0 : -1.5f, 0.5f + (float)i};
    quantized_model_plan(m->m, layers);
    quantized_model_set(m->m, range);
    write_file(m);
}

static void unmake(struct made *m)
{
    graph_free(m->g);
    layout_fini(&m->l);
    free(m->w);
    quantized_model_free(m->m);
    free(m->file);
}

static int read_again(const void *file, size_t size, struct err *e)
{
    struct quantized_model *m;
    *e = (struct err)ERR_INIT;
    int rc = onnx_read_quantized(file, size, &m, e);
    if (rc == 0)
        quantized_model_free(m);
    return rc;
}

static void test_round_trip(void **state)
{
    (void)state;
    const struct model_config *all[] = {&cnn, &gray, &mlp};
    for (unsigned i = 0; i < ARRAY_LEN(all); i++)
        for (uint64_t layers = 0; layers < 16; layers++) {
            struct err e = ERR_INIT;
            struct made m;
            struct quantized_model *r;
            void *again;
            size_t n;
            make(&m, all[i], layers);
            assert_true(onnx_is_quantized(m.file, m.size));
            assert_ok(onnx_read_quantized(m.file, m.size, &r, &e));
            assert_int_equal(r->layer_count, m.m->layer_count);
            for (uint32_t k = 0; k < r->layer_count; k++) {
                const struct quant_layer *a = &r->layer[k], *b = &m.m->layer[k];
                assert_true(a->on == b->on && a->channels == b->channels && a->depth == b->depth);
                if (!a->on)
                    continue;
                assert_memory_equal(a->weight, b->weight, (size_t)a->channels * a->depth);
                assert_memory_equal(a->scale, b->scale, a->channels * sizeof *a->scale);
                assert_memory_equal(a->bias, b->bias, a->channels * sizeof *a->bias);
            }
            for (uint32_t v = 0; v < r->graph->edge_count; v++)
                assert_true(r->value[v].on == m.m->value[v].on && r->value[v].scale == m.m->value[v].scale && r->value[v].zero == m.m->value[v].zero);
            assert_ok(onnx_write_quantized(r, &again, &n, &e));
            assert_int_equal(n, m.size);
            assert_memory_equal(again, m.file, n);
            free(again);
            quantized_model_free(r);
            unmake(&m);
        }
}

static void test_every_cut_is_refused(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct made m;
    make(&m, &cnn, 5);
    for (size_t cut = 0; cut < m.size; cut++) {
        uint8_t *part = malloc(cut ? cut : 1);   /* its own block: a read past the end is seen by the sanitizer */
        memcpy(part, m.file, cut);
        assert_true(read_again(part, cut, &e) < 0);
        assert_true(strlen(e.text) > 20);
        onnx_is_quantized(part, cut);
        free(part);
    }
    unmake(&m);
}

static void test_every_changed_byte(void **state)
{
    (void)state;
    struct test_random random = {test_seed(), 0};
    struct err e = ERR_INIT;
    struct made m;
    make(&m, &gray, ~0ull);
    unsigned refused = 0;
    for (size_t at = 0; at < m.size; at++) {
        uint8_t was = m.file[at];
        m.file[at] ^= (uint8_t)(1 + test_u32(&random) % 255);
        int rc = read_again(m.file, m.size, &e);
        assert_true(rc == 0 || rc == ERR_CORRUPT || rc == ERR_USAGE);
        refused += rc < 0;
        m.file[at] = was;
    }
    assert_true(refused > m.size / 2);
    assert_ok(read_again(m.file, m.size, &e));
    unmake(&m);
}

static void test_changes_are_named(void **state)
{
    (void)state;
    static const struct { const char *what, *to, *says; } change[] = {
        {"Relu", "Tanh", "node"},
        {"QuantizeLinear", "QuantizeLinexr", "node"},
        {"viaduct.float_layers", "viaduct.float_lavers", "entries"},
        {"[\"fc1\"]", "[\"fc9\"]", "float_layers"},
        {"\"classes\":3", "\"classes\":4", "fc2.weight"},
        {"viaduct.model", "viaduct.mode1", "own exports"},
    };
    for (unsigned i = 0; i < ARRAY_LEN(change); i++) {
        struct err e = ERR_INIT;
        struct made m;
        make(&m, &gray, 0xb);
        uint8_t *at = memmem(m.file, m.size, change[i].what, strlen(change[i].what));
        assert_non_null(at);
        memcpy(at, change[i].to, strlen(change[i].to));
        assert_true(read_again(m.file, m.size, &e) < 0);
        if (!strstr(e.text, change[i].says))
            fail_msg("%s", e.text);
        unmake(&m);
    }
}

static void test_numbers_out_of_range(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct made m;
    make(&m, &gray, ~0ull);
    float was = m.m->layer[1].scale[2];
    for (unsigned i = 0; i < 3; i++) {
        m.m->layer[1].scale[2] = (float[]){0, -1, NAN}[i];
        write_file(&m);
        assert_int_equal(read_again(m.file, m.size, &e), ERR_CORRUPT);
        assert_non_null(strstr(e.text, "channel 2 is out of range"));
    }
    m.m->layer[1].scale[2] = was;
    m.m->layer[0].bias[0] = INT32_MIN;
    write_file(&m);
    assert_int_equal(read_again(m.file, m.size, &e), ERR_CORRUPT);
    assert_non_null(strstr(e.text, "bias of channel 0"));
    m.m->layer[0].bias[0] = 0;
    for (uint32_t v = 0; v < m.m->graph->edge_count; v++)
        m.m->value[v].scale = m.m->value[v].on ? INFINITY : 0;
    write_file(&m);
    assert_int_equal(read_again(m.file, m.size, &e), ERR_CORRUPT);
    unmake(&m);
}

static void test_float_and_quantized_readers_refuse_each_other(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct made m;
    struct graph *g;
    struct layout l;
    float *w;
    void *file;
    size_t size;
    make(&m, &cnn, ~0ull);
    assert_int_equal(onnx_read(m.file, m.size, &g, &l, &w, &e), ERR_CORRUPT);
    assert_ok(onnx_write(m.g, &m.l, m.w, &file, &size, &e));
    assert_false(onnx_is_quantized(file, size));
    assert_int_equal(read_again(file, size, &e), ERR_CORRUPT);
    free(file);
    unmake(&m);
}

/* ---- quantization itself ---- */
static void test_scales(void **state)
{
    (void)state;
    struct made m;
    make(&m, &gray, ~0ull);
    for (uint32_t v = 0; v < m.m->graph->edge_count; v++) {
        const struct quant_value *q = &m.m->value[v];
        uint16_t root = quantized_range_edge(m.m->graph, (uint16_t)v);
        if (!q->on)
            continue;
        assert_true(q->scale == m.m->value[root].scale && q->zero == m.m->value[root].zero);
        assert_true(fabsf((float)(255 - q->zero) * q->scale - (0.5f + (float)root)) <= q->scale);   /* the range's end, to a step */
    }
    for (uint32_t i = 0; i < m.m->layer_count; i++) {
        const struct quant_layer *q = &m.m->layer[i];
        const struct node *n = &m.m->graph->node[q->node];
        const float *w = m.m->weights + m.m->layout.tensors[m.m->graph->edge[n->in[1]].tensor].offset;
        for (uint32_t c = 0; c < q->channels; c++) {
            int most = 0;
            for (uint32_t k = 0; k < q->depth; k++) {
                int8_t got = q->weight[(size_t)c * q->depth + k];
                most = abs(got) > most ? abs(got) : most;
                assert_true(fabsf((float)got * q->scale[c] - w[(size_t)c * q->depth + k]) <= 0.50001f * q->scale[c]);
            }
            assert_int_equal(most, 127);   /* per channel, symmetric, nothing cut */
        }
    }
    unmake(&m);
}

static void test_dead_channels_and_large_biases(void **state)
{
    (void)state;
    struct made m;
    struct value_range range[GRAPH_EDGES_MAX];
    make(&m, &mlp, ~0ull);
    for (unsigned i = 0; i < GRAPH_EDGES_MAX; i++)
        range[i] = (struct value_range){0, i % 2 ? 1e-9f : 0};
    const struct tensor_desc *w = &m.m->layout.tensors[layout_find(&m.m->layout, "fc1.weight")], *b = &m.m->layout.tensors[layout_find(&m.m->layout, "fc1.bias")];
    memset(m.m->weights + w->offset, 0, 2 * w->dims[1] * sizeof(float));   /* two pruned channels */
    m.m->weights[b->offset] = 0;
    m.m->weights[b->offset + 1] = 1e6f;
    quantized_model_set(m.m, range);
    const struct quant_layer *q = &m.m->layer[0];
    float input = m.m->value[m.m->graph->node[q->node].in[0]].scale;
    assert_true(q->scale[0] > 0 && q->bias[0] == 0);
    assert_true(abs(q->bias[1]) <= QUANT_BIAS_MAX);
    assert_true(fabs((double)q->bias[1] * (double)(input * q->scale[1]) - 1e6) < 1);
    struct err e = ERR_INIT;
    write_file(&m);
    assert_ok(read_again(m.file, m.size, &e));
    unmake(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_every_cut_is_refused), cmocka_unit_test(test_every_changed_byte),
        cmocka_unit_test(test_changes_are_named), cmocka_unit_test(test_numbers_out_of_range),
        cmocka_unit_test(test_float_and_quantized_readers_refuse_each_other), cmocka_unit_test(test_scales),
        cmocka_unit_test(test_dead_channels_and_large_biases),
    };
    return cmocka_run_group_tests_name("qdq", tests, NULL, NULL);
}
