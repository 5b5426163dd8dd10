/* The pool runs each item once; a step's bits do not depend on threads; a bad rate ends with a clear error. */
#include "tests/unit/unit.h"

#include <stdatomic.h>
#include <unistd.h>

#include "worker/pool.h"
#include "worker/worker.h"

struct tally { atomic_int seen[100]; atomic_int slots; };
static void count(void *arg, unsigned item, unsigned slot)
{
    struct tally *t = arg;
    atomic_fetch_add(&t->seen[item], 1);
    atomic_fetch_or(&t->slots, 1 << slot);
}

static void test_pool(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    for (unsigned threads = 1; threads <= 4; threads++) {
        struct pool *p;
        assert_ok(pool_open(threads, &p, &e));
        for (unsigned items = 0; items <= 100; items += 9) {
            static struct tally t;
            memset(&t, 0, sizeof t);
            pool_run(p, items, count, &t);
            for (unsigned i = 0; i < 100; i++)
                assert_int_equal(atomic_load(&t.seen[i]), i < items);
            assert_true(atomic_load(&t.slots) < 1 << threads);
        }
        pool_close(p);
    }
}

static const char spec[] = "viaduct: v1\nname: t\nmodel: {family: mlp, classes: 10, input: [1, 28, 28], hidden: [8]}\ndata:\n"
                           "  train: {images: /usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz,\n"
                           "          labels: /usr/share/datasets/fashion-mnist/t10k-labels-idx1-ubyte.gz}\n"
                           "train: {steps: 45, batch: 250, lanes: 7, optimizer: {lr: 1e-2, clip: 0.5}}\n";

static void train(const char *override, unsigned threads, uint64_t steps, float **weights, size_t *bytes, int want, struct err *e)
{
    static struct job job;
    struct trainee t;
    struct solo *s;
    struct lane_metrics m;
    const char *overrides[1] = {override};
    int rc = job_load_text(&job, "spec", spec, sizeof spec - 1, overrides, override != NULL, true, e);
    assert_int_equal(rc, 0);
    assert_int_equal(trainee_open(&t, &job.spec, "cpu", e), 0);
    assert_int_equal(solo_open(&t, &job.spec, threads, &s, e), 0);
    rc = 0;
    for (uint64_t i = 0; i < steps && rc == 0; i++)
        rc = solo_step(s, &m, e);
    assert_int_equal(rc, want);
    *bytes = t.layout.elems * sizeof(float);
    *weights = malloc(*bytes);
    memcpy(*weights, solo_weights(s), *bytes);
    solo_close(s);
    trainee_close(&t);
    job_fini(&job);
}

static void test_threads_do_not_change_bits(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    float *one, *other;
    size_t n, k;
    if (access("/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz", R_OK) != 0)
        test_skip("Fashion-MNIST is not installed (dataset-fashion-mnist)");
    train(NULL, 1, 45, &one, &n, 0, &e);   /* past the short last step of a pass (10000 = 40 * 250, then pass 2) */
    for (unsigned threads = 2; threads <= 4; threads++) {
        train(NULL, threads, 45, &other, &k, 0, &e);
        assert_int_equal(n, k);
        assert_memory_equal(one, other, n);
        free(other);
    }
    train("train.seed=2", 1, 45, &other, &k, 0, &e);
    assert_memory_not_equal(one, other, n);
    free(other);
    free(one);
}

static void test_divergence_is_named(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    float *w;
    size_t n;
    if (access("/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz", R_OK) != 0)
        test_skip("Fashion-MNIST is not installed (dataset-fashion-mnist)");
    train("train.optimizer={name: sgd, lr: 1e6, weight_decay: 1e6}", 1, 45, &w, &n, ERR_DIVERGED, &e);
    assert_non_null(strstr(e.text, "not finite at step"));
    free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pool), cmocka_unit_test(test_threads_do_not_change_bits),
                                       cmocka_unit_test(test_divergence_is_named)};
    return cmocka_run_group_tests_name("worker", tests, NULL, NULL);
}
