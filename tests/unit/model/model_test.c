/* Graphs: shapes, parameters, differentiation, weights from the seed, configuration as text. */
#include "tests/unit/unit.h"

#include <math.h>

#include "model/model.h"

static const struct model_config demo = {.family = MODEL_CNN, .classes = 10, .channels = 1, .height = 28, .width = 28, .conv_count = 2, .conv = {24, 48},
                                         .hidden_count = 1, .hidden = {128}, .batch_norm = true, .mean = {0.25f}, .deviation = {0.5f, 1, 1, 1}};

static void test_demo_network(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct graph *g;
    struct layout l;
    assert_ok(graph_build(&demo, &g, &e));
    assert_ok(graph_layout(g, &l, &e));
    uint64_t parameters = 0, states = 0;
    for (uint32_t t = 0; t < l.tensor_count; t++)
        *(l.tensors[t].kind == TENSOR_PARAMETER ? &parameters : &states) += l.tensors[t].elems;
    assert_int_equal(parameters, 313202);
    assert_int_equal(states, 2 * 24 + 2 * 48);
    static const char *const names[] = {"conv1.weight", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var", "conv2.weight", "bn2.weight",
                                        "bn2.bias", "bn2.running_mean", "bn2.running_var", "fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"};
    for (unsigned i = 0; i < ARRAY_LEN(names); i++)
        assert_string_equal(l.tensors[i].name, names[i]);
    /* conv -> norm -> ReLU -> pool, twice, then the head */
    static const enum op order[] = {OP_NORMALIZE, OP_CONV, OP_BATCHNORM, OP_RELU, OP_MAXPOOL, OP_CONV, OP_BATCHNORM, OP_RELU, OP_MAXPOOL,
                                    OP_FLATTEN, OP_DENSE, OP_RELU, OP_DENSE, OP_XENT};
    assert_int_equal(g->forward_count, ARRAY_LEN(order));
    for (unsigned i = 0; i < ARRAY_LEN(order); i++)
        assert_int_equal(g->node[i].op, order[i]);
    /* every parameter and state has exactly one gradient edge */
    for (uint32_t t = 0; t < l.tensor_count; t++) {
        unsigned found = 0;
        for (uint32_t k = 0; k < g->edge_count; k++)
            found += g->edge[k].is_gradient && g->edge[k].tensor == (int)t && g->edge[k].producer >= (int)g->forward_count;
        assert_int_equal(found, 1);
    }
    layout_fini(&l);
    graph_free(g);
}

static void test_weights_follow_from_the_seed(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct graph *g;
    struct layout l;
    assert_ok(graph_build(&demo, &g, &e));
    assert_ok(graph_layout(g, &l, &e));
    float *a = calloc(l.elems, 4), *b = calloc(l.elems, 4);
    graph_init_weights(g, &l, 1, a);
    graph_init_weights(g, &l, 1, b);
    assert_memory_equal(a, b, l.elems * 4);
    graph_init_weights(g, &l, 2, b);
    assert_memory_not_equal(a, b, l.elems * 4);
    const struct tensor_desc *fc = &l.tensors[layout_find(&l, "fc1.weight")];
    double sum = 0, squares = 0, bound = 1 / sqrt(2352.0);
    for (uint64_t i = 0; i < fc->elems; i++) {
        double w = (double)a[fc->offset + i];
        assert_true(w >= -bound && w <= bound);
        sum += w;
        squares += w * w;
    }
    assert_true(fabs(sum / (double)fc->elems) < bound / 100);
    assert_true(fabs(squares / (double)fc->elems - bound * bound / 3) < bound * bound / 100);
    assert_true(a[l.tensors[layout_find(&l, "bn1.running_var")].offset] == 1);
    assert_true(a[l.tensors[layout_find(&l, "bn1.running_mean")].offset] == 0);
    free(a);
    free(b);
    layout_fini(&l);
    graph_free(g);
}

static void test_what_does_not_fit_is_refused(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct graph *g;
    struct model_config c = demo;
    c.conv_count = 6;
    for (int i = 0; i < 6; i++)
        c.conv[i] = 8;
    assert_int_equal(graph_build(&c, &g, &e), ERR_USAGE);
    assert_non_null(strstr(e.text, "pool"));
    c = demo;
    c.classes = 1;
    assert_int_equal(graph_build(&c, &g, &e), ERR_USAGE);
    c = demo;
    c.loss = MODEL_MSE;
    assert_int_equal(graph_build(&c, &g, &e), ERR_USAGE);
}

static void test_config_round_trip(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    char text[1024], again[1024];
    struct model_config c;
    int n = model_config_print(&demo, text, sizeof text);
    assert_true(n > 0 && n < (int)sizeof text);
    assert_ok(model_config_parse(text, &c, &e));
    model_config_print(&c, again, sizeof again);
    assert_string_equal(text, again);
    for (int cut = 0; cut < n; cut++) {
        memcpy(again, text, sizeof again);
        again[cut] = '\0';
        assert_int_equal(model_config_parse(again, &c, &e), ERR_CORRUPT);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_demo_network), cmocka_unit_test(test_weights_follow_from_the_seed), cmocka_unit_test(test_what_does_not_fit_is_refused),
        cmocka_unit_test(test_config_round_trip),
    };
    return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
