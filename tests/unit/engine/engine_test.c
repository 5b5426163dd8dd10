/* The engine: gradients against central differences of a double twin, every instruction set against the plain one, fused against unfused, the same
 * bits on every slot, thread and device, memory plans without overlap, optimizers against their formulas. */
#include "tests/unit/unit.h"

#include <math.h>
#include <pthread.h>

#include "engine/program.h"
#include "tests/unit/engine/twin.h"

struct rig {
    struct model_config c;
    struct graph *g;
    struct layout l;
    struct device *d;
    struct engine *en;
    float *w, *grad;
    uint8_t *pixels, *labels;
    uint32_t samples;
};

static void rig_open(struct rig *r, struct model_config c, const char *device, unsigned threads, uint32_t samples, uint64_t seed)
{
    struct err e = ERR_INIT;
    struct test_random random = {seed, 0};
    *r = (struct rig){.c = c, .samples = samples};
    assert_ok(graph_build(&r->c, &r->g, &e));
    assert_ok(graph_layout(r->g, &r->l, &e));
    assert_ok(device_open(device, &r->d, &e));
    assert_ok(engine_open(r->g, &r->l, r->d, threads, samples, &r->en, &e));
    r->w = calloc(r->l.elems, 4);
    r->grad = malloc(r->l.elems * 4);
    memset(r->grad, 0x7f, r->l.elems * 4);   /* poison: whatever is not written shows */
    graph_init_weights(r->g, &r->l, seed, r->w);
    for (uint64_t i = 0; i < r->l.elems; i++)
        r->w[i] += 0.1f * test_float(&random);
    uint32_t size = c.channels * c.height * c.width * samples;
    r->pixels = malloc(size);
    r->labels = malloc(samples);
    for (uint32_t i = 0; i < size; i++)
        r->pixels[i] = (uint8_t)test_u32(&random);
    for (uint32_t i = 0; i < samples; i++)
        r->labels[i] = (uint8_t)(test_u32(&random) % c.classes);
}

static void rig_close(struct rig *r)
{
    engine_close(r->en);
    device_close(r->d);
    layout_fini(&r->l);
    graph_free(r->g);
    free(r->w);
    free(r->grad);
    free(r->pixels);
    free(r->labels);
}

static const struct model_config odd_cnn = {.family = MODEL_CNN, .classes = 5, .channels = 2, .height = 11, .width = 9, .conv_count = 2, .conv = {3, 25},
                                            .hidden_count = 1, .hidden = {7}, .batch_norm = true, .mean = {0.4f, 0.5f}, .deviation = {0.3f, 0.2f, 1, 1}};
static const struct model_config plain_cnn = {.family = MODEL_CNN, .classes = 3, .channels = 1, .height = 8, .width = 8, .conv_count = 1, .conv = {48},
                                              .hidden_count = 0, .batch_norm = false, .mean = {0.5f}, .deviation = {0.5f, 1, 1, 1}};
static const struct model_config odd_mlp = {.family = MODEL_MLP, .classes = 4, .channels = 1, .height = 3, .width = 7, .hidden_count = 2, .hidden = {17, 33},
                                            .mean = {0.5f}, .deviation = {0.25f, 1, 1, 1}};

/* Central differences in double on random coordinates of every tensor; the fast gradient is fp32. */
static void check_gradient(struct model_config c, uint32_t samples, uint64_t seed)
{
    struct err e = ERR_INIT;
    struct test_random random = {seed, 1000};
    struct rig r;
    struct lane_metrics m;
    rig_open(&r, c, "cpu", 1, samples, seed);
    assert_ok(engine_set_weights(r.en, r.w, &e));
    assert_ok(engine_lane(r.en, 0, r.pixels, r.labels, samples, r.grad, &m, &e));
    double *w = calloc(r.l.elems, sizeof *w), *state = calloc(r.l.elems, sizeof *state);
    for (uint64_t i = 0; i < r.l.elems; i++)
        w[i] = (double)r.w[i];
    double loss = twin_loss(&r.c, &r.l, w, r.pixels, r.labels, (int)samples, state);
    assert_true(fabs(loss - m.loss_sum) < 2e-6 * fabs(loss));
    assert_int_equal(m.samples, samples);
    unsigned checked = 0, bent = 0;
    for (uint32_t t = 0; t < r.l.tensor_count; t++) {
        const struct tensor_desc *d = &r.l.tensors[t];
        double scale = 0;
        for (uint64_t i = 0; i < d->elems; i++) {
            double g = (double)r.grad[d->offset + i];
            assert_true(isfinite(g));
            scale += g * g;
            if (d->kind == TENSOR_STATE && fabs(g - samples * state[d->offset + i]) > 1e-4 * (1 + fabs(g)))
                fail_msg("%s[%llu]: %g, twin %g", d->name, (unsigned long long)i, g, samples * state[d->offset + i]);
        }
        scale = sqrt(scale / (double)d->elems);
        for (int k = 0; d->kind == TENSOR_PARAMETER && k < 12; k++) {
            uint64_t i = d->offset + test_u32(&random) % d->elems;
            double was = w[i], h = 1e-6 * (1 + fabs(was));
            w[i] = was + h;
            double up = twin_loss(&r.c, &r.l, w, r.pixels, r.labels, (int)samples, NULL);
            w[i] = was - h;
            double down = twin_loss(&r.c, &r.l, w, r.pixels, r.labels, (int)samples, NULL);
            w[i] = was;
            double numeric = (up - down) / (2 * h), got = (double)r.grad[i];
            /* ReLU and pooling bend: where the slopes of both sides differ there is no derivative to compare with. */
            checked++;
            if (fabs((up - loss) - (loss - down)) > 1e-3 * (fabs(up - loss) + h * scale)) {
                bent++;
                continue;
            }
            if (fabs(numeric - got) > 2e-4 * (scale + fabs(numeric)) + 1e-6)
                fail_msg("%s[%llu]: gradient %.9g, central difference %.9g", d->name, (unsigned long long)(i - d->offset), got, numeric);
        }
    }
    assert_true(bent * 5 < checked);
    free(w);
    free(state);
    rig_close(&r);
}

static void test_gradients(void **state)
{
    (void)state;
    uint64_t seed = test_seed();
    check_gradient(odd_cnn, 6, seed);
    check_gradient(odd_cnn, 1, seed + 1);
    check_gradient(plain_cnn, 3, seed + 2);
    check_gradient(odd_mlp, 5, seed + 3);
}

/* Runs one program by hand with the given kernels. */
static void run_program(const struct rig *r, const engine_kernel *kernels, bool fuse, float *grad, struct lane_metrics *m)
{
    struct err e = ERR_INIT;
    struct packing *packing = calloc(1, sizeof *packing);
    struct program *p = calloc(1, sizeof *p);
    assert_ok(packing_plan(r->g, &r->l, packing, &e));
    assert_ok(program_lower(r->g, &r->l, packing, r->samples, PROGRAM_TRAIN, fuse, p, &e));
    uint8_t *arena = pages_alloc(p->arena_bytes, &e), *packed = pages_alloc(packing->bytes, &e);
    memset(arena, 0x7f, p->arena_bytes);
    for (uint32_t c = 0; c < packing->call_count + p->call_count; c++) {
        const struct call *k = c < packing->call_count ? &packing->call[c] : &p->call[c - packing->call_count];
        void *pointer[12];
        for (unsigned i = 0; i < k->count; i++) {
            uint8_t *base[] = {NULL, arena, (uint8_t *)r->w, packed, (uint8_t *)grad, r->pixels, r->labels, (uint8_t *)m};
            pointer[i] = base[k->operand[i].place] + k->operand[i].offset;
        }
        kernels[k->kernel](pointer, &k->params);
    }
    pages_free(arena, p->arena_bytes);
    pages_free(packed, packing->bytes);
    free(packing);
    free(p);
}

static void assert_close(const struct layout *l, const float *a, const float *b, double tolerance)
{
    for (uint32_t t = 0; t < l->tensor_count; t++) {
        const struct tensor_desc *d = &l->tensors[t];
        double diff = 0, norm = 0;
        for (uint64_t i = d->offset; i < d->offset + d->elems; i++) {
            diff += pow((double)a[i] - (double)b[i], 2);
            norm += pow((double)b[i], 2);
        }
        if (!(sqrt(diff) <= tolerance * (sqrt(norm) + 1e-3)))
            fail_msg("%s differs by %.3g of its norm", d->name, sqrt(diff / norm));
    }
}

static void test_instruction_sets_and_fusion_agree(void **state)
{
    (void)state;
    static const struct model_config *const configs[] = {&odd_cnn, &plain_cnn, &odd_mlp};
    for (unsigned k = 0; k < ARRAY_LEN(configs); k++) {
        struct rig r;
        struct lane_metrics plain, other;
        rig_open(&r, *configs[k], "cpu", 1, 9, 77 + k);
        float *grad = calloc(r.l.elems, 4);
        run_program(&r, kernels_base, false, r.grad, &plain);
        run_program(&r, kernels_base, true, grad, &other);
        assert_close(&r.l, grad, r.grad, 3e-6);
        if (__builtin_cpu_supports("avx2")) {
            run_program(&r, kernels_avx2, true, grad, &other);
            assert_close(&r.l, grad, r.grad, 1e-5);
            assert_true(fabs(other.loss_sum - plain.loss_sum) < 1e-5 * plain.loss_sum);
        }
        if (__builtin_cpu_supports("avx512f")) {
            run_program(&r, kernels_avx512, true, grad, &other);
            assert_close(&r.l, grad, r.grad, 1e-5);
        }
        free(grad);
        rig_close(&r);
    }
}

struct racer { struct rig *r; unsigned slot; float *grad; int rc; };
static void *race(void *arg)
{
    struct racer *x = arg;
    struct err e = ERR_INIT;
    struct lane_metrics m;
    for (int i = 0; i < 20 && x->rc == 0; i++)
        x->rc = engine_lane(x->r->en, x->slot, x->r->pixels, x->r->labels, x->r->samples - (uint32_t)(i % 3), x->grad, &m, &e);
    if (x->rc == 0)
        x->rc = engine_lane(x->r->en, x->slot, x->r->pixels, x->r->labels, x->r->samples, x->grad, &m, &e);
    return NULL;
}

static void test_same_bits_on_every_slot_thread_and_device(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct rig r, fake;
    struct lane_metrics m;
    rig_open(&r, odd_cnn, "cpu", 3, 12, 5);
    assert_ok(engine_set_weights(r.en, r.w, &e));
    assert_ok(engine_lane(r.en, 0, r.pixels, r.labels, 12, r.grad, &m, &e));
    struct racer racers[3];
    pthread_t threads[3];
    for (unsigned i = 0; i < 3; i++) {
        racers[i] = (struct racer){&r, i, calloc(r.l.elems, 4), 0};
        pthread_create(&threads[i], NULL, race, &racers[i]);
    }
    for (unsigned i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(racers[i].rc, 0);
        for (uint32_t t = 0; t < r.l.tensor_count; t++)
            assert_memory_equal(racers[i].grad + r.l.tensors[t].offset, r.grad + r.l.tensors[t].offset, r.l.tensors[t].elems * 4);
        free(racers[i].grad);
    }
    /* the fake device: weights and gradients lie where the host cannot touch them */
    rig_open(&fake, odd_cnn, "fake", 1, 12, 5);
    void *w, *grad;
    struct stream *s;
    struct handle h;
    size_t bytes = fake.l.elems * 4;
    float *back = calloc(fake.l.elems, 4);
    assert_ok(device_alloc(fake.d, bytes, &w, &e));
    assert_ok(device_alloc(fake.d, bytes, &grad, &e));
    assert_ok(stream_open(fake.d, &s, &e));
    assert_ok(stream_copy(s, w, SPACE_DEVICE, fake.w, SPACE_HOST, bytes, &h, &e));
    assert_ok(handle_wait(h, 5000, &e));
    assert_ok(engine_set_weights(fake.en, w, &e));
    assert_ok(engine_lane(fake.en, 0, fake.pixels, fake.labels, 12, grad, &m, &e));
    assert_ok(stream_copy(s, back, SPACE_HOST, grad, SPACE_DEVICE, bytes, &h, &e));
    assert_ok(handle_wait(h, 5000, &e));
    for (uint32_t t = 0; t < r.l.tensor_count; t++)
        assert_memory_equal(back + r.l.tensors[t].offset, r.grad + r.l.tensors[t].offset, r.l.tensors[t].elems * 4);
    stream_close(s);
    free(back);
    rig_close(&fake);
    rig_close(&r);
}

static void test_eval_and_infer_agree(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct rig r;
    struct lane_metrics m;
    rig_open(&r, odd_cnn, "cpu", 1, 4, 3);
    for (uint32_t t = 0; t < r.l.tensor_count; t++)   /* running variance must be positive */
        if (strstr(r.l.tensors[t].name, "running_var"))
            for (uint64_t i = 0; i < r.l.tensors[t].elems; i++)
                r.w[r.l.tensors[t].offset + i] = 0.5f + 0.01f * (float)i;
    assert_ok(engine_set_weights(r.en, r.w, &e));
    uint8_t pixels[10 * 2 * 11 * 9], labels[10];
    float floats[10 * 2 * 11 * 9], logits[10 * 5], one[5];
    for (unsigned i = 0; i < sizeof pixels; i++) {
        pixels[i] = (uint8_t)(i * 37);
        floats[i] = (float)pixels[i] / 255;
    }
    for (unsigned i = 0; i < 10; i++)
        labels[i] = (uint8_t)(i % 5);
    assert_ok(engine_eval(r.en, pixels, labels, 10, &m, &e));
    assert_ok(engine_infer(r.en, floats, 10, logits, &e));
    double loss = 0;
    unsigned correct = 0;
    for (unsigned i = 0; i < 10; i++) {
        double sum = 0;
        unsigned best = 0;
        for (unsigned k = 0; k < 5; k++) {
            sum += exp((double)logits[i * 5 + k]);
            best = logits[i * 5 + k] > logits[i * 5 + best] ? k : best;
        }
        loss += log(sum) - (double)logits[i * 5 + labels[i]];
        correct += best == labels[i];
        assert_ok(engine_infer(r.en, floats + i * 198, 1, one, &e));   /* a sample's logits do not depend on its neighbours */
        for (unsigned k = 0; k < 5; k++)
            assert_true(fabsf(one[k] - logits[i * 5 + k]) < 1e-5f);
    }
    assert_int_equal(m.correct, correct);
    assert_true(fabs(m.loss_sum - loss) < 1e-4 * loss);
    rig_close(&r);
}

static void test_memory_plan_never_overlaps(void **state)
{
    (void)state;
    struct test_random r = {test_seed(), 0};
    for (int turn = 0; turn < 200; turn++) {
        struct interval b[60];
        uint32_t n = 1 + test_u32(&r) % 60;
        uint64_t alone = 0, most = 0;
        for (uint32_t i = 0; i < n; i++) {
            uint32_t first = test_u32(&r) % 40;
            b[i] = (struct interval){1 + test_u32(&r) % 5000, first, first + test_u32(&r) % 10, 0};
            alone += (b[i].bytes + 255) / 256 * 256;
        }
        uint64_t total = memory_plan(b, n);
        for (uint32_t at = 0; at < 50; at++) {
            uint64_t alive = 0;
            for (uint32_t i = 0; i < n; i++)
                alive += b[i].first <= at && at <= b[i].last ? b[i].bytes : 0;
            most = alive > most ? alive : most;
        }
        assert_true(total >= most && total <= alone);
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t k = 0; k < i; k++)
                if (b[i].first <= b[k].last && b[k].first <= b[i].last)
                    assert_true(b[i].offset + b[i].bytes <= b[k].offset || b[k].offset + b[k].bytes <= b[i].offset);
    }
}

static void test_optimizers(void **state)
{
    (void)state;
    struct test_random r = {test_seed(), 0};
    enum { N = 259 };
    for (int kind = 0; kind < 4; kind++) {
        struct optim_config c = {.kind = kind == 0 ? OPTIM_ADAMW : OPTIM_SGD, .weight_decay = 0.01f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f,
                                 .momentum = kind == 1 ? 0 : 0.9f, .nesterov = kind == 3, .state_momentum = 0.1f};
        float w[N], m[N] = {0}, v[N] = {0}, sum[N], *slots[2] = {m, v};
        double dw[N], dm[N] = {0}, dv[N] = {0};
        for (int i = 0; i < N; i++)
            dw[i] = (double)(w[i] = test_float(&r));
        for (uint64_t step = 1; step <= 20; step++) {
            float lr = 0.01f / (float)step, clip = step % 2 ? 1 : 0.5f;
            for (int i = 0; i < N; i++) {
                sum[i] = 64 * test_float(&r);
                double g = (double)sum[i] / 64 * (double)clip, a = (double)lr;
                if (kind == 0) {
                    dw[i] *= 1 - a * 0.01;
                    dm[i] = 0.9 * dm[i] + 0.1 * g;
                    dv[i] = 0.999 * dv[i] + 0.001 * g * g;
                    dw[i] -= a / (1 - pow(0.9, (double)step)) * dm[i] / (sqrt(dv[i]) / sqrt(1 - pow(0.999, (double)step)) + 1e-8);
                } else {
                    g += 0.01 * dw[i];
                    dm[i] = (kind == 1 ? 0 : 0.9) * dm[i] + g;
                    dw[i] -= a * (kind == 1 ? g : kind == 3 ? g + 0.9 * dm[i] : dm[i]);
                }
            }
            optim_apply(&c, TENSOR_PARAMETER, w, slots, sum, N, 64, lr, clip, step);
        }
        for (int i = 0; i < N; i++)
            if (fabs((double)w[i] - dw[i]) > 2e-5 * (1 + fabs(dw[i])))
                fail_msg("kind %d: %.9g against %.9g", kind, (double)w[i], dw[i]);
        assert_int_equal(optim_slots(&c), kind == 0 ? 2 : kind == 1 ? 0 : 1);
    }
    struct optim_config c = {.kind = OPTIM_ADAMW, .state_momentum = 0.1f};
    float s = 1, sum = 30;
    optim_apply(&c, TENSOR_STATE, &s, NULL, &sum, 1, 10, 0.1f, 0.5f, 1);   /* neither rate nor clip touches a state */
    assert_true(fabsf(s - 1.2f) < 1e-6f);
    float v[3] = {3, NAN, INFINITY};
    uint32_t bad;
    assert_true(block_square_sum(v, 1, &bad) == 9 && bad == 0);
    block_square_sum(v, 3, &bad);
    assert_int_equal(bad, 2);
}

/* Kept elements get the bits of the ordinary step; masked ones are zero with their moments, whatever they were and whatever comes. */
static void test_masked_step(void **state)
{
    (void)state;
    enum { M = 9001 };
    struct test_random r = {test_seed(), 0};
    for (int kind = 0; kind < 3; kind++) {
        struct optim_config c = {.kind = kind == 0 ? OPTIM_ADAMW : OPTIM_SGD, .weight_decay = 0.01f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f,
                                 .momentum = kind == 2 ? 0.9f : 0};
        static float w[M], m[M], v[M], sum[M], rw[M], rm[M], rv[M];
        static bool masked[M];
        float *slots[] = {m, v}, *reference[] = {rm, rv};
        for (unsigned i = 0; i < M; i++) {
            w[i] = i % 11 == 0 ? 0 : i % 13 == 0 ? -0.0f : test_float(&r);
            m[i] = test_float(&r);
            v[i] = fabsf(test_float(&r));
            masked[i] = w[i] == 0;
        }
        for (uint64_t step = 1; step <= 3; step++) {
            float threshold = step == 2 ? 0.25f : 0;
            for (unsigned i = 0; i < M; i++) {
                sum[i] = test_float(&r);
                masked[i] = masked[i] || fabsf(w[i]) < threshold;
            }
            memcpy(rw, w, sizeof w);
            memcpy(rm, m, sizeof m);
            memcpy(rv, v, sizeof v);
            optim_apply(&c, TENSOR_PARAMETER, rw, reference, sum, M, 64, 0.01f, 0.5f, step);
            optim_apply_masked(&c, w, slots, sum, M, 64, 0.01f, 0.5f, step, threshold);
            for (unsigned i = 0; i < M; i++) {
                if (masked[i]) {
                    assert_true(w[i] == 0 && !signbit(w[i]));
                    assert_true((kind == 1 || m[i] == 0) && (kind != 0 || v[i] == 0));
                } else {
                    assert_true(w[i] == rw[i] && m[i] == rm[i] && v[i] == rv[i]);
                }
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients), cmocka_unit_test(test_instruction_sets_and_fusion_agree),
        cmocka_unit_test(test_same_bits_on_every_slot_thread_and_device), cmocka_unit_test(test_eval_and_infer_agree),
        cmocka_unit_test(test_memory_plan_never_overlaps), cmocka_unit_test(test_optimizers), cmocka_unit_test(test_masked_step),
    };
    return cmocka_run_group_tests_name("engine", tests, NULL, NULL);
}
