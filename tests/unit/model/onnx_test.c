/* ONNX out and in: the same weights and bytes again; whatever is cut, changed or foreign is refused with a reason, and never crashes. */
#include "tests/unit/unit.h"

#include "model/onnx.h"

static const struct model_config tiny = {.family = MODEL_MLP, .classes = 2, .channels = 1, .height = 1, .width = 2, .mean = {0.5f},
                                         .deviation = {0.25f, 1, 1, 1}};
static const struct model_config small_cnn = {.family = MODEL_CNN, .classes = 3, .channels = 2, .height = 5, .width = 4, .conv_count = 1, .conv = {2},
                                              .hidden_count = 1, .hidden = {3}, .batch_norm = true, .mean = {0.1f, 0.2f}, .deviation = {0.3f, 0, 1, 1}};
static const struct model_config large_mlp = {.family = MODEL_MLP, .classes = 10, .channels = 3, .height = 8, .width = 7, .hidden_count = 2,
                                              .hidden = {33, 5}, .mean = {0.5f}, .deviation = {0.25f, 1, 1, 1}};

struct made { struct graph *g; struct layout l; float *w; uint8_t *file; size_t size; };

static void make(struct made *m, const struct model_config *c)
{
    struct err e = ERR_INIT;
    void *file;
    assert_ok(graph_build(c, &m->g, &e));
    assert_ok(graph_layout(m->g, &m->l, &e));
    m->w = calloc(m->l.elems, sizeof *m->w);
    graph_init_weights(m->g, &m->l, 7, m->w);
    assert_ok(onnx_write(m->g, &m->l, m->w, &file, &m->size, &e));
    m->file = file;
}

static void unmake(struct made *m)
{
    graph_free(m->g);
    layout_fini(&m->l);
    free(m->w);
    free(m->file);
}

static int read_again(const void *file, size_t size, float *weights, size_t bytes, struct err *e)
{
    struct graph *g;
    struct layout l;
    float *w;
    *e = (struct err)ERR_INIT;
    int rc = onnx_read(file, size, &g, &l, &w, e);
    if (rc < 0)
        return rc;
    if (weights && l.elems * sizeof *w == bytes)
        memcpy(weights, w, bytes);
    pages_free(w, l.elems * sizeof *w);
    layout_fini(&l);
    graph_free(g);
    return 0;
}

static void test_round_trip(void **state)
{
    (void)state;
    const struct model_config *all[] = {&tiny, &small_cnn, &large_mlp};
    for (unsigned i = 0; i < ARRAY_LEN(all); i++) {
        struct err e = ERR_INIT;
        struct made m;
        void *again;
        size_t n;
        make(&m, all[i]);
        float *w = calloc(m.l.elems, sizeof *w);
        assert_ok(read_again(m.file, m.size, w, m.l.elems * sizeof *w, &e));
        assert_memory_equal(w, m.w, m.l.elems * sizeof *w);
        assert_ok(onnx_write(m.g, &m.l, w, &again, &n, &e));
        assert_int_equal(n, m.size);
        assert_memory_equal(again, m.file, n);
        free(again);
        free(w);
        unmake(&m);
    }
}

static void test_every_cut_is_refused(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct made m;
    make(&m, &small_cnn);
    for (size_t cut = 0; cut < m.size; cut++) {
        uint8_t *part = malloc(cut ? cut : 1);   /* its own block: a read past the end is seen by the sanitizer */
        memcpy(part, m.file, cut);
        assert_true(read_again(part, cut, NULL, 0, &e) < 0);
        assert_true(strlen(e.text) > 20);
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
    make(&m, &small_cnn);
    unsigned refused = 0;
    for (size_t at = 0; at < m.size; at++) {
        uint8_t was = m.file[at];
        m.file[at] ^= (uint8_t)(1 + test_u32(&random) % 255);
        int rc = read_again(m.file, m.size, NULL, 0, &e);
        assert_true(rc == 0 || rc == ERR_CORRUPT || rc == ERR_USAGE);
        refused += rc < 0;
        m.file[at] = was;
    }
    assert_true(refused > m.size / 3);   /* the rest lies in weights, labels and the producer's version */
    assert_ok(read_again(m.file, m.size, NULL, 0, &e));
    unmake(&m);
}

static uint8_t *find(struct made *m, const char *text)
{
    uint8_t *at = memmem(m->file, m->size, text, strlen(text));
    assert_non_null(at);
    return at;
}

static void test_changes_are_named(void **state)
{
    (void)state;
    static const struct { const char *what, *to, *says; } change[] = {
        {"Relu", "Tanh", "node"},                            /* another activation */
        {"bn1.running_mean\x4a", "bn1.running_meam\x4a", "'bn1.running_meam' is not part"},   /* 0x4a: raw_data follows, so this is the initializer */
        {"\"classes\":3", "\"classes\":4", "fc2.weight"},
        {"viaduct.model", "viaduct.mode1", "own exports"},
        {"\"mean\":[0.1", "\"mean\":[0.2", "input.mean"},
        {"viaduct.labels", "viaduct-labels", "entries"},
    };
    for (unsigned i = 0; i < ARRAY_LEN(change); i++) {
        struct err e = ERR_INIT;
        struct made m;
        make(&m, &small_cnn);
        memcpy(find(&m, change[i].what), change[i].to, strlen(change[i].to));
        assert_true(read_again(m.file, m.size, NULL, 0, &e) < 0);
        assert_non_null(strstr(e.text, change[i].says));
        unmake(&m);
    }
}

static void test_foreign_files(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct pb model = {0}, graph = {0};
    pb_string(&graph, GRAPH_NAME, "torch");
    pb_uint(&model, MODEL_IR_VERSION, 8);
    pb_string(&model, MODEL_PRODUCER, "pytorch");
    pb_message(&model, MODEL_GRAPH, &graph);
    assert_int_equal(read_again(model.data, model.size, NULL, 0, &e), ERR_USAGE);
    assert_non_null(strstr(e.text, "own exports"));
    pb_free(&model);
    assert_int_equal(read_again("#!/bin/sh\n", 10, NULL, 0, &e), ERR_CORRUPT);
    assert_non_null(strstr(e.text, "not an ONNX file"));
}

/* A few bytes that ask for gigabytes of weights get none. */
static void test_limits_before_memory(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    static const char *const key[] = {"viaduct.model", "viaduct.labels", "viaduct.input", "viaduct.output"};
    struct model_config c = {.family = MODEL_MLP, .classes = 2, .channels = 1, .height = 64, .width = 64, .hidden_count = 2, .hidden = {30000, 30000},
                             .mean = {0.5f}, .deviation = {0.25f, 1, 1, 1}};
    char config[ONNX_CONFIG_MAX];
    struct pb model = {0}, graph = {0}, opset = {0};
    model_config_print(&c, config, sizeof config);
    pb_string(&graph, GRAPH_NAME, "viaduct");
    pb_uint(&model, MODEL_IR_VERSION, ONNX_IR);
    pb_message(&model, MODEL_GRAPH, &graph);
    pb_uint(&opset, OPSET_VERSION, ONNX_OPSET);
    pb_message(&model, MODEL_OPSET, &opset);
    for (unsigned i = 0; i < ARRAY_LEN(key); i++) {
        struct pb entry = {0};
        pb_string(&entry, ENTRY_KEY, key[i]);
        pb_string(&entry, ENTRY_VALUE, config);
        pb_message(&model, MODEL_METADATA, &entry);
    }
    assert_int_equal(read_again(model.data, model.size, NULL, 0, &e), ERR_CORRUPT);
    assert_non_null(strstr(e.text, "asks for"));
    pb_free(&model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_every_cut_is_refused), cmocka_unit_test(test_every_changed_byte),
        cmocka_unit_test(test_changes_are_named), cmocka_unit_test(test_foreign_files), cmocka_unit_test(test_limits_before_memory),
    };
    return cmocka_run_group_tests_name("onnx", tests, NULL, NULL);
}
