/* Quantized inference against a plain twin that follows ONNX's QDQ definition, on every instruction set of this CPU; folding against the whole graph. */
#include "tests/unit/unit.h"

#include <math.h>

#include "engine/engine.h"

static const char *const sets[] = {"avx512vnni", "avx2", "plain"};
static const struct model_config configs[] = {
    {.family = MODEL_CNN, .classes = 10, .channels = 1, .height = 28, .width = 28, .conv_count = 2, .conv = {24, 48}, .hidden_count = 1, .hidden = {128},
     .batch_norm = true, .mean = {0.286f}, .deviation = {0.353f, 1, 1, 1}},
    {.family = MODEL_CNN, .classes = 5, .channels = 3, .height = 19, .width = 13, .conv_count = 2, .conv = {3, 25}, .hidden_count = 2, .hidden = {7, 9},
     .batch_norm = true, .mean = {0.4f, 0.5f, 0.1f}, .deviation = {0.3f, 0.2f, 0, 1}},
    {.family = MODEL_CNN, .classes = 2, .channels = 2, .height = 8, .width = 9, .conv_count = 1, .conv = {40}, .mean = {0.5f, 0.25f},
     .deviation = {0.5f, 0.25f, 1, 1}},
    {.family = MODEL_MLP, .classes = 10, .channels = 1, .height = 28, .width = 28, .hidden_count = 2, .hidden = {128, 33}, .mean = {0.286f},
     .deviation = {0.353f, 1, 1, 1}},
    {.family = MODEL_MLP, .classes = 3, .channels = 3, .height = 4, .width = 5, .mean = {0.5f, 0.4f, 0.3f}, .deviation = {0.25f, 0.5f, 0.75f, 1}},
};

struct trained { struct graph *g; struct layout l; float *w; };

static void train(struct trained *t, const struct model_config *c, uint64_t seed)
{
    struct err e = ERR_INIT;
    struct test_random random = {seed, 0};
    assert_ok(graph_build(c, &t->g, &e));
    assert_ok(graph_layout(t->g, &t->l, &e));
    t->w = calloc(t->l.elems, sizeof *t->w);
    graph_init_weights(t->g, &t->l, seed, t->w);
    for (uint32_t k = 0; k < t->l.tensor_count; k++)
        for (uint64_t i = 0; i < t->l.tensors[k].elems; i++)
            t->w[t->l.tensors[k].offset + i] += t->l.tensors[k].dim_count == 1 ? 0.2f + 0.1f * test_float(&random) : 0;
}

static void untrain(struct trained *t)
{
    graph_free(t->g);
    layout_fini(&t->l);
    free(t->w);
}

/* ---- the twin ---- */
struct value { float *f; uint8_t *q; uint32_t c, h, w; };

static size_t elems(const struct value *v) { return (size_t)v->c * v->h * v->w; }
static int32_t saturate(float v, int32_t zero) { return (int32_t)fminf(255, fmaxf(0, nearbyintf(v) + (float)zero)); }

/* In float, whichever form the value has. */
static double real(const struct value *v, const struct quant_value *q, size_t i)
{
    return q->on ? (double)((float)(v->q[i] - q->zero) * q->scale) : (double)v->f[i];
}

static struct value make_value(const struct quantized_model *m, uint16_t edge)
{
    const struct edge *e = &m->graph->edge[edge];
    struct value v = {.c = e->dims[0], .h = e->dim_count == 3 ? e->dims[1] : 1, .w = e->dim_count == 3 ? e->dims[2] : 1};
    v.f = calloc(elems(&v), sizeof *v.f);
    v.q = calloc(elems(&v), 1);
    return v;
}

static void give(const struct quant_value *q, struct value *v)
{
    for (size_t i = 0; q->on && i < elems(v); i++)
        v->q[i] = (uint8_t)saturate(v->f[i] / q->scale, q->zero);
}

/* Input `i` of output (c, y, x); -1 outside. */
static long input_of(const struct value *x, bool conv, uint32_t i, uint32_t py, uint32_t px)
{
    if (!conv)
        return i;
    long c = i / 9, y = (long)py + i % 9 / 3 - 1, at = (long)px + i % 3 - 1;
    return y < 0 || at < 0 || y >= x->h || at >= x->w ? -1 : (c * x->h + y) * x->w + at;
}

static void layer_twin(const struct quantized_model *m, const struct quant_layer *l, const struct value *x, struct value *y, bool relu, uint16_t out)
{
    const struct node *n = &m->graph->node[l->node];
    const struct quant_value *qx = &m->value[n->in[0]], *qy = &m->value[out];
    bool conv = n->op == OP_CONV_BIAS;
    const float *w = m->weights + m->layout.tensors[m->graph->edge[n->in[1]].tensor].offset;
    const float *b = m->weights + m->layout.tensors[m->graph->edge[n->in[2]].tensor].offset;
    for (size_t o = 0; o < elems(y); o++) {
        uint32_t c = (uint32_t)(o / (y->h * y->w)), py = (uint32_t)(o / y->w % y->h), px = (uint32_t)(o % y->w);
        int64_t sum = l->bias[c];
        double exact = (double)b[c];
        for (uint32_t i = 0; i < l->depth; i++) {
            long at = input_of(x, conv, i, py, px);
            if (at >= 0 && l->on)
                sum += (int64_t)(x->q[at] - qx->zero) * l->weight[(size_t)c * l->depth + i];
            else if (at >= 0)
                exact += real(x, qx, (size_t)at) * (double)w[(size_t)c * l->depth + i];
        }
        if (!l->on) {
            y->f[o] = (float)(relu ? fmax(exact, 0) : exact);
        } else if (qy->on) {
            int32_t q = saturate((float)sum * (qx->scale * l->scale[c] / qy->scale), qy->zero);
            y->q[o] = (uint8_t)(relu && q < qy->zero ? qy->zero : q);
        } else {
            y->f[o] = (float)sum * (qx->scale * l->scale[c]);
        }
    }
    if (!l->on)
        give(qy, y);
}

static void pool_twin(const struct value *x, struct value *y)
{
    for (size_t o = 0; o < elems(y); o++) {
        size_t c = o / (y->h * y->w), at = (c * x->h + 2 * (o / y->w % y->h)) * x->w + 2 * (o % y->w), i[4] = {at, at + 1, at + x->w, at + x->w + 1};
        y->f[o] = x->f[at];
        y->q[o] = x->q[at];
        for (unsigned k = 1; k < 4; k++) {
            y->f[o] = fmaxf(y->f[o], x->f[i[k]]);
            y->q[o] = x->q[i[k]] > y->q[o] ? x->q[i[k]] : y->q[o];
        }
    }
}

static void twin(const struct quantized_model *m, const float *pixels, float *logits)
{
    const struct graph *g = m->graph;
    struct value *v = calloc(g->edge_count, sizeof *v);
    for (uint32_t k = 0; k < g->node_count; k++) {
        const struct node *n = &g->node[k];
        uint16_t out = n->out[0];
        bool relu = k + 1 < g->node_count && g->node[k + 1].op == OP_RELU;
        v[out] = make_value(m, out);
        struct value *x = &v[n->in[0]], *y = &v[out];
        if (n->op == OP_NORMALIZE) {
            for (size_t i = 0; i < elems(y); i++) {
                size_t c = i / (y->h * y->w);
                float d = g->config.deviation[c] != 0 ? g->config.deviation[c] : 1;
                y->f[i] = (pixels[i] - g->config.mean[c]) / (quantized_input_divides(m) ? 1 : d);
            }
            struct quant_value q = m->value[out];
            q.scale = quantized_input_divides(m) ? quantized_input_scale(m) : q.scale;
            give(&q, y);
        } else if (n->op == OP_RELU) {
            free(y->f), free(y->q);
            *y = *x;   /* done with its layer */
            *x = (struct value){0};
        } else if (n->op == OP_MAXPOOL) {
            pool_twin(x, y);
        } else if (n->op == OP_FLATTEN) {
            memcpy(y->f, x->f, elems(y) * sizeof *y->f);
            memcpy(y->q, x->q, elems(y));
        } else {
            for (uint32_t i = 0; i < m->layer_count; i++)
                if (m->layer[i].node == k)
                    layer_twin(m, &m->layer[i], x, y, relu, relu ? g->node[k + 1].out[0] : out);
        }
    }
    memcpy(logits, v[g->logits].f, g->edge[g->logits].dims[0] * sizeof *logits);
    for (uint32_t i = 0; i < g->edge_count; i++) {
        free(v[i].f);
        free(v[i].q);
    }
    free(v);
}

/* ---- */
struct ranges { struct value_range r[GRAPH_EDGES_MAX]; };

static void widen(void *arg, uint16_t edge, const float *v, uint32_t count, uint64_t n)
{
    struct value_range *r = &((struct ranges *)arg)->r[edge];
    for (uint64_t i = 0; i < count * n; i++) {
        r->lo = fminf(r->lo, v[i]);
        r->hi = fmaxf(r->hi, v[i]);
    }
}

static void random_bytes_of(struct test_random *random, uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)test_u32(random);
}

static struct quantized_model *quantize(const struct trained *t, struct device *d, uint64_t layers, struct test_random *random)
{
    struct err e = ERR_INIT;
    struct quantized_model *m;
    struct quantized_engine *engine;
    struct ranges *r = calloc(1, sizeof *r);
    uint8_t pixels[16 * 28 * 28 * 3];
    random_bytes_of(random, pixels, sizeof pixels);
    assert_ok(quantized_model_fold(t->g, &t->l, t->w, &m, &e));
    assert_ok(quantized_engine_open(m, d, 16, NULL, &engine, &e));
    assert_ok(quantized_engine_observe(engine, pixels, 16, widen, r, &e));
    quantized_engine_close(engine);
    for (uint32_t k = 0; k < m->graph->edge_count; k++)   /* something must saturate */
        r->r[k].hi *= 0.8f;
    quantized_model_plan(m, layers);
    quantized_model_set(m, r->r);
    free(r);
    return m;
}

static void test_every_set_is_the_twin(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct test_random random = {test_seed(), 0};
    struct device *d;
    assert_ok(device_open("cpu", &d, &e));
    for (unsigned c = 0; c < ARRAY_LEN(configs); c++) {
        struct trained t;
        train(&t, &configs[c], 3 + c);
        struct quantized_model *m = quantize(&t, d, ~0ull, &random);
        enum { N = 13 };
        size_t sample = (size_t)configs[c].channels * configs[c].height * configs[c].width, classes = configs[c].classes;
        float *pixels = malloc(N * sample * sizeof *pixels), got[N * 10], want[N * 10];
        for (size_t i = 0; i < N * sample; i++)
            pixels[i] = philox_unit(test_u32(&random));
        for (unsigned n = 0; n < N; n++)
            twin(m, pixels + n * sample, want + n * classes);
        unsigned ran = 0;
        for (unsigned s = 0; s < ARRAY_LEN(sets); s++) {
            struct quantized_engine *engine;
            memset(got, 0x55, sizeof got);
            if (quantized_engine_open(m, d, 1 + s * 5, sets[s], &engine, &e) < 0)
                continue;
            assert_ok(quantized_engine_infer(engine, pixels, N, got, &e));
            assert_memory_equal(got, want, N * classes * sizeof *got);
            quantized_engine_close(engine);
            ran++;
        }
        assert_true(ran >= 1);
        free(pixels);
        quantized_model_free(m);
        untrain(&t);
    }
    device_close(d);
}

/* Float layers may differ from the double twin by rounding, but not from set to set. */
static void test_layers_in_float(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct test_random random = {test_seed(), 0};
    struct device *d;
    assert_ok(device_open("cpu", &d, &e));
    for (uint64_t layers = 0; layers < 16; layers++) {
        struct trained t;
        train(&t, &configs[1], 9);
        struct quantized_model *m = quantize(&t, d, layers, &random);
        size_t sample = 3 * 19 * 13;
        float pixels[4 * 3 * 19 * 13], first[20], got[20], want[20];
        for (size_t i = 0; i < 4 * sample; i++)
            pixels[i] = philox_unit(test_u32(&random));
        for (unsigned n = 0; n < 4; n++)
            twin(m, pixels + n * sample, want + n * 5);
        bool have = false;
        for (unsigned s = 0; s < ARRAY_LEN(sets); s++) {
            struct quantized_engine *engine;
            if (quantized_engine_open(m, d, 3, sets[s], &engine, &e) < 0)
                continue;
            assert_ok(quantized_engine_infer(engine, pixels, 4, got, &e));
            if (have)
                assert_memory_equal(got, first, sizeof got);
            memcpy(first, got, sizeof got);
            have = true;
            quantized_engine_close(engine);
        }
        double worst = 0, top = 0;
        for (unsigned i = 0; i < 20; i++) {
            worst = fmax(worst, fabs((double)got[i] - (double)want[i]));
            top = fmax(top, fabs((double)want[i]));
        }
        assert_true(worst <= (layers == 0 ? 1e-5 : 0.05) * top);   /* a value that rounds the other way moves by one step */
        quantized_model_free(m);
        untrain(&t);
    }
    device_close(d);
}

static void test_folded_is_the_whole_graph(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct test_random random = {test_seed(), 0};
    struct device *d;
    assert_ok(device_open("cpu", &d, &e));
    for (unsigned c = 0; c < ARRAY_LEN(configs); c++) {
        struct trained t;
        struct quantized_model *m;
        struct engine *whole;
        struct quantized_engine *folded;
        train(&t, &configs[c], 11 + c);
        assert_ok(quantized_model_fold(t.g, &t.l, t.w, &m, &e));
        for (uint32_t n = 0; n < m->graph->node_count; n++)
            assert_true(m->graph->node[n].op != OP_BATCHNORM && m->graph->node[n].op != OP_CONV);
        size_t sample = (size_t)configs[c].channels * configs[c].height * configs[c].width, count = 9 * configs[c].classes;
        float *pixels = malloc(9 * sample * sizeof *pixels), a[90], b[90];
        for (size_t i = 0; i < 9 * sample; i++)
            pixels[i] = philox_unit(test_u32(&random));
        assert_ok(engine_open(t.g, &t.l, d, 1, 4, &whole, &e));
        assert_ok(engine_set_weights(whole, t.w, &e));
        assert_ok(engine_infer(whole, pixels, 9, a, &e));
        assert_ok(quantized_engine_open(m, d, 4, NULL, &folded, &e));
        assert_ok(quantized_engine_infer(folded, pixels, 9, b, &e));
        float top = 0;
        for (size_t i = 0; i < count; i++)
            top = fmaxf(top, fabsf(a[i]));
        for (size_t i = 0; i < count; i++)
            assert_true(fabsf(a[i] - b[i]) <= 1e-5f * top);
        struct engine *refused;
        if (configs[c].conv_count)
            assert_int_equal(engine_open(m->graph, &m->layout, d, 1, 4, &refused, &e), ERR_USAGE);
        engine_close(whole);
        quantized_engine_close(folded);
        free(pixels);
        quantized_model_free(m);
        untrain(&t);
    }
    device_close(d);
}

/* Bytes and floats of the same pixels are one thing; batches of any size; predictions are the logits' maxima; device memory is never touched by the host. */
static void test_predictions(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct test_random random = {test_seed(), 0};
    struct device *d, *fake;
    struct trained t;
    enum { N = 37, SAMPLE = 3 * 19 * 13 };
    uint8_t pixels[N * SAMPLE], labels[N], one[N], other[N];
    float floats[N * SAMPLE], logits[N * 5];
    struct lane_metrics a, b;
    struct quantized_engine *engine;
    assert_ok(device_open("cpu", &d, &e));
    train(&t, &configs[1], 5);
    struct quantized_model *m = quantize(&t, d, 0xb, &random);   /* one layer in float */
    random_bytes_of(&random, pixels, sizeof pixels);
    for (size_t i = 0; i < sizeof pixels; i++)
        floats[i] = (float)pixels[i] / 255;
    for (unsigned n = 0; n < N; n++)
        labels[n] = (uint8_t)(n % 5);
    assert_ok(quantized_engine_open(m, d, 8, NULL, &engine, &e));
    assert_ok(quantized_engine_infer(engine, floats, N, logits, &e));
    assert_ok(quantized_engine_predict(engine, pixels, labels, N, one, &a, &e));
    quantized_engine_close(engine);
    uint64_t correct = 0;
    for (unsigned n = 0; n < N; n++) {
        for (unsigned k = 0; k < 5; k++)
            assert_true(logits[n * 5 + k] <= logits[n * 5 + one[n]]);
        correct += one[n] == labels[n];
    }
    assert_int_equal(a.correct, correct);
    assert_int_equal(a.samples, N);
    assert_ok(device_open("fake", &fake, &e));
    assert_ok(quantized_engine_open(m, fake, 3, NULL, &engine, &e));
    assert_ok(quantized_engine_predict(engine, pixels, labels, N, other, &b, &e));
    assert_memory_equal(one, other, N);
    assert_true(a.loss_sum == b.loss_sum && a.correct == b.correct);
    quantized_engine_close(engine);
    device_close(fake);
    assert_int_equal(quantized_engine_open(m, d, 8, "abacus", &engine, &e), ERR_NOT_FOUND);
    quantized_model_free(m);
    untrain(&t);
    device_close(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_set_is_the_twin), cmocka_unit_test(test_layers_in_float), cmocka_unit_test(test_folded_is_the_whole_graph),
        cmocka_unit_test(test_predictions),
    };
    return cmocka_run_group_tests_name("int8", tests, NULL, NULL);
}
