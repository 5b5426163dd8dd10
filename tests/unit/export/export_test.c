/* After training: what is written reads back to the same model, is evaluated alike, and a killed export starts over to the same result. */
#include "tests/unit/unit.h"

#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ckpt/ckpt.h"
#include "data/data.h"
#include "engine/engine.h"
#include "export/parts.h"

#define SAMPLES 613                  /* no multiple of a piece */

static const struct model_config tiny = {.family = MODEL_MLP, .classes = 2, .channels = 1, .height = 1, .width = 2, .mean = {0.5f},
                                         .deviation = {0.25f, 1, 1, 1}};
static const struct model_config cnn = {.family = MODEL_CNN, .classes = 5, .channels = 1, .height = 9, .width = 7, .conv_count = 2, .conv = {3, 8},
                                        .hidden_count = 1, .hidden = {6}, .batch_norm = true, .mean = {0.4f}, .deviation = {0.3f, 1, 1, 1}};

static void make(struct exported_model *m, const struct model_config *c, uint64_t seed)
{
    struct err e = ERR_INIT;
    struct test_random random = {seed, 0};
    *m = (struct exported_model){.config = *c};
    assert_ok(graph_build(c, &m->graph, &e));
    assert_ok(graph_layout(m->graph, &m->layout, &e));
    m->weights_bytes = m->layout.elems * sizeof(float);
    m->weights = pages_alloc(m->weights_bytes, &e);
    graph_init_weights(m->graph, &m->layout, seed, m->weights);
    for (uint32_t t = 0; t < m->layout.tensor_count; t++)   /* states and norms of a trained model, not 0 and 1; the gaps of the arena stay 0 */
        for (uint64_t i = 0; i < m->layout.tensors[t].elems; i++)
            m->weights[m->layout.tensors[t].offset + i] += 0.2f + 0.1f * test_float(&random);
}

static void write_at(const char *dir, const char *name, const void *p, size_t n)
{
    struct err e = ERR_INIT;
    char path[600];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_ok(fs_write_file(&fs_real, path, p, n, &e));
}

static void put32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (24 - 8 * i));
}

static void write_images(const char *dir, uint32_t samples, uint32_t height, uint32_t width)
{
    size_t pixels = (size_t)samples * height * width;
    uint8_t *images = malloc(16 + pixels), *labels = malloc(8 + samples);
    struct test_random random = {99, 0};
    put32(images, 0x803);
    put32(images + 4, samples);
    put32(images + 8, height);
    put32(images + 12, width);
    put32(labels, 0x801);
    put32(labels + 4, samples);
    for (size_t i = 16; i < 16 + pixels; i++)
        images[i] = (uint8_t)test_u32(&random);
    for (size_t i = 8; i < 8 + samples; i++)
        labels[i] = (uint8_t)(test_u32(&random) % 5);
    write_at(dir, "images", images, 16 + pixels);
    write_at(dir, "labels", labels, 8 + samples);
    free(images);
    free(labels);
}

static void write_spec(const char *run, const char *more)
{
    char text[2000];
    int n = snprintf(text, sizeof text,
                     "viaduct: v1\nname: t\nmodel: {family: cnn, classes: 5, input: [1, 9, 7], channels: [3, 8], hidden: [6]}\ndata:\n"
                     "  train: {images: %s/images, labels: %s/labels}\n%s\ntrain: {steps: 3}\n",
                     run, run, more);
    write_at(run, "spec.yaml", text, (size_t)n);
}

static void with_eval(const char *run, const char *more)
{
    char text[1500];
    snprintf(text, sizeof text, "  eval: {images: %s/images, labels: %s/labels}\n%s", run, run, more);
    write_spec(run, text);
}

static void write_checkpoint(const char *run, const char *site, const struct exported_model *m, const char *model_json, uint64_t step)
{
    struct err e = ERR_INIT;
    char dir[600];
    uint32_t block[64], n = m->layout.block_count, part_of_block[64] = {0};
    const float *w[64];
    struct ckpt_manifest manifest = {.layout = m->layout, .part_count = 1, .part_of_block = part_of_block,
                                     .meta = {.job_id = "00112233aabbccdd", .generation = 2, .step = step, .samples_per_pass = SAMPLES, .phase = "train",
                                              .optimizer = "adamw", .model_json = model_json, .spec_yaml = "viaduct: v1\n"}};
    snprintf(dir, sizeof dir, "%s/ckpt/%s/step-%08llu", run, site, (unsigned long long)step);
    for (uint32_t b = 0; b < n; b++) {
        block[b] = b;
        w[b] = m->weights + m->layout.blocks[b].offset;
    }
    struct ckpt_part_data data = {&m->layout, n, block, w, 0, NULL};
    assert_ok(ckpt_part_write(&fs_real, dir, 2, step, 0, &data, &manifest.meta, &manifest.part[0], &e));
    assert_ok(ckpt_publish(&fs_real, dir, &manifest, &e));
}

struct place { char run[64]; struct exported_model m; char json[1024]; };

static void place_open(struct place *p, const char *more)
{
    struct err e = ERR_INIT;
    char dir[100];
    snprintf(p->run, sizeof p->run, "/tmp/export-test-XXXXXX");
    assert_non_null(mkdtemp(p->run));
    snprintf(dir, sizeof dir, "%s/state", p->run);
    assert_ok(fs_mkdirs(&fs_real, dir, &e));
    write_at(dir, "job", "00112233aabbccdd\n", 17);
    snprintf(dir, sizeof dir, "%s/log", p->run);
    assert_ok(fs_mkdirs(&fs_real, dir, &e));
    write_images(p->run, SAMPLES, 9, 7);
    with_eval(p->run, more);
    make(&p->m, &cnn, 5);
    model_config_print(&cnn, p->json, sizeof p->json);
    write_checkpoint(p->run, "cloud", &p->m, p->json, 3);
    write_checkpoint(p->run, "onprem", &p->m, p->json, 3);
}

static void place_close(struct place *p)
{
    exported_model_close(&p->m);
    char *argv[] = {"rm", "-rf", p->run, NULL};
    pid_t pid = fork();
    if (pid == 0)
        execvp("rm", argv), _exit(1);
    waitpid(pid, NULL, 0);
}

/* The process of one attempt. cap: largest file it may write, 0: any. */
static pid_t attempt_start(const struct place *p, const char *number, const char *step, const char *failpoints, rlim_t cap)
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        char *argv[] = {"export", "--run", (char *)(uintptr_t)p->run, "--site", "onprem", "--step", (char *)(uintptr_t)step, "--generation", "2", "--attempt",
                        (char *)(uintptr_t)number, NULL};
        char path[100];
        snprintf(path, sizeof path, "%s/out", p->run);
        if (failpoints)
            setenv("VIADUCT_FAILPOINT", failpoints, 1);
        int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);
        dup2(fd, 2);
        signal(SIGXFSZ, SIG_IGN);
        if (cap)
            setrlimit(RLIMIT_FSIZE, &(struct rlimit){cap, cap});
        _exit(export_main(11, argv));
    }
    return pid;
}

static int ended(pid_t pid)
{
    int status = 0;
    waitpid(pid, &status, WUNTRACED);
    return status;
}

/* To its end; its wait status. */
static int attempt(const struct place *p, const char *number, const char *step, const char *failpoints, rlim_t cap)
{
    return ended(attempt_start(p, number, step, failpoints, cap));
}

/* Whether an attempt's folder is left, or what one replaced. */
static bool is_swept(const struct place *p)
{
    char path[100];
    bool swept = true;
    snprintf(path, sizeof path, "%s/export", p->run);
    DIR *d = opendir(path);
    for (struct dirent *f; d && (f = readdir(d));)
        swept = swept && !strstr(f->d_name, "attempt-") && !strchr(f->d_name, '~');
    if (d)
        closedir(d);
    return swept;
}

static char *text_of(const struct place *p, const char *name)
{
    struct err e = ERR_INIT;
    char path[200];
    void *text;
    size_t n;
    snprintf(path, sizeof path, "%s/%s", p->run, name);
    return fs_read_file(&fs_real, path, 1 << 20, &text, &n, &e) < 0 ? NULL : text;
}

static bool exists(const struct place *p, const char *name)
{
    char path[200];
    snprintf(path, sizeof path, "%s/%s", p->run, name);
    return access(path, F_OK) == 0;
}

static void logits_of(const struct exported_model *m, float *out, uint32_t count)
{
    struct err e = ERR_INIT;
    struct device *d;
    struct engine *engine;
    struct test_random random = {3, 0};
    float *pixels = malloc(sizeof *pixels * count * 63);
    for (uint32_t i = 0; i < count * 63; i++)
        pixels[i] = philox_unit(test_u32(&random));
    assert_ok(device_open("cpu", &d, &e));
    assert_ok(engine_open(m->graph, &m->layout, d, 1, count, &engine, &e));
    assert_ok(engine_set_weights(engine, m->weights, &e));
    assert_ok(engine_infer(engine, pixels, count, out, &e));
    engine_close(engine);
    device_close(d);
    free(pixels);
}

static void test_files_hold_the_same_model(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct place p;
    struct exported_model from_file, from_checkpoint;
    char path[200];
    float want[8 * 5], got[8 * 5];
    place_open(&p, "");
    assert_ok(exported_model_write(&p.m, p.run, EXPORT_ONNX | EXPORT_SAFETENSORS, &e));
    assert_int_equal(exported_model_write(&p.m, p.run, 0, &e), ERR_USAGE);
    snprintf(path, sizeof path, "%s/model.onnx", p.run);
    assert_ok(exported_model_open(path, &from_file, &e));
    snprintf(path, sizeof path, "%s/ckpt/cloud/step-00000003", p.run);
    assert_ok(exported_model_open(path, &from_checkpoint, &e));
    assert_memory_equal(from_file.weights, p.m.weights, p.m.weights_bytes);
    assert_memory_equal(from_checkpoint.weights, p.m.weights, p.m.weights_bytes);
    logits_of(&p.m, want, 8);
    logits_of(&from_file, got, 8);
    assert_memory_equal(want, got, sizeof want);
    logits_of(&from_checkpoint, got, 8);
    assert_memory_equal(want, got, sizeof want);
    exported_model_close(&from_file);
    exported_model_close(&from_checkpoint);
    snprintf(path, sizeof path, "%s/nothing", p.run);
    assert_int_equal(exported_model_open(path, &from_file, &e), ERR_NOT_FOUND);
    assert_int_equal(exported_model_open(p.run, &from_file, &e), ERR_NOT_FOUND);
    place_close(&p);
}

static void test_safetensors_bytes(void **state)
{
    (void)state;
    static const char header[] =
        "{\"__metadata__\":{\"format\":\"viaduct\",\"viaduct.labels\":\"[\\\"0\\\",\\\"1\\\"]\",\"viaduct.model\":\"{\\\"batch_norm\\\":false,\\\"classes\\\":2,"
        "\\\"conv\\\":[],\\\"deviation\\\":[0.25,1,1,1],\\\"family\\\":\\\"mlp\\\",\\\"hidden\\\":[],\\\"input\\\":[1,1,2],\\\"loss\\\":\\\"cross_entropy\\\","
        "\\\"mean\\\":[0.5,0,0,0]}\"},\"fc1.bias\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
        "\"fc1.weight\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[8,24]}}";
    struct err e = ERR_INIT;
    struct exported_model m;
    void *image;
    size_t size;
    make(&m, &tiny, 1);
    for (int i = 0; i < 4; i++)
        m.weights[i] = (float)(i + 1);
    m.weights[64] = -1;
    m.weights[65] = 0.5f;
    assert_ok(safetensors_image(&m, &image, &size, &e));
    uint64_t length;
    memcpy(&length, image, 8);
    assert_int_equal(length % 8, 0);
    assert_int_equal(length, (sizeof header - 1 + 7) / 8 * 8);
    assert_int_equal(size, 8 + length + 24);
    assert_memory_equal((char *)image + 8, header, sizeof header - 1);
    for (uint64_t i = sizeof header - 1; i < length; i++)
        assert_int_equal(((char *)image)[8 + i], ' ');
    static const float data[6] = {-1, 0.5f, 1, 2, 3, 4};
    assert_memory_equal((char *)image + 8 + length, data, sizeof data);
    free(image);
    exported_model_close(&m);
}

static void test_evaluation(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct place p;
    static struct job job;
    struct dataset data;
    struct device *d;
    struct engine *engine;
    struct lane_metrics want;
    struct evaluation one, other;
    char path[200], labels[200];
    place_open(&p, "");
    snprintf(path, sizeof path, "%s/spec.yaml", p.run);
    assert_ok(job_load(&job, path, NULL, 0, false, &e));
    snprintf(path, sizeof path, "%s/images", p.run);
    snprintf(labels, sizeof labels, "%s/labels", p.run);
    assert_ok(dataset_open_idx(&data, path, labels, 1, 9, 7, 5, &e));
    assert_ok(device_open("cpu", &d, &e));
    assert_ok(engine_open(p.m.graph, &p.m.layout, d, 1, 64, &engine, &e));
    assert_ok(engine_set_weights(engine, p.m.weights, &e));
    assert_ok(engine_eval(engine, data.pixels, data.labels, data.count, &want, &e));
    assert_ok(exported_model_evaluate(&p.m, &job.spec, 1, &one, &e));
    assert_int_equal(one.samples, SAMPLES);
    assert_true(fabs(one.loss - want.loss_sum / SAMPLES) < 1e-6 * one.loss);
    assert_true(one.accuracy == (double)want.correct / SAMPLES);
    for (unsigned threads = 0; threads < 6; threads++) {
        assert_ok(exported_model_evaluate(&p.m, &job.spec, threads, &other, &e));
        assert_true(other.loss == one.loss && other.accuracy == one.accuracy && other.samples == one.samples);
    }
    engine_close(engine);
    device_close(d);
    dataset_close(&data);
    job_fini(&job);
    place_close(&p);
}

/* The result without the measured time. */
static void check_result(const struct place *p, bool exported)
{
    char weights[SHA256_HEX], states[SHA256_HEX], want[400];
    char *text = text_of(p, "export/result.json");
    assert_non_null(text);
    weights_sha256(&p->m.layout, p->m.weights, TENSOR_PARAMETER, weights);
    weights_sha256(&p->m.layout, p->m.weights, TENSOR_STATE, states);
    snprintf(want, sizeof want, "\"state_sha256\":\"%s\",\"weights_sha256\":\"%s\"}\n", states, weights);
    assert_non_null(strstr(text, want));
    assert_non_null(strstr(text, "{\"eval_accuracy\":0."));
    assert_non_null(strstr(text, "\"eval_loss\":"));
    if (exported) {
        struct stat st;
        char path[200];
        snprintf(path, sizeof path, "%s/export/float/model.onnx", p->run);
        assert_int_equal(stat(path, &st), 0);
        snprintf(want, sizeof want, "\"bytes\":%lld,\"latency_ms\":{\"batch\":1,\"p50\":", (long long)st.st_size);
        assert_non_null(strstr(text, want));
        assert_non_null(strstr(text, "\"path\":\"export/float/model.onnx\",\"sha256\":\""));
        assert_non_null(strstr(text, "\",\"sparsity\":null},\"gate\":null,\"quantized\":null}"));
        assert_true(exists(p, "export/float/model.safetensors"));
    } else {
        assert_non_null(strstr(text, "\"export\":null"));
        assert_false(exists(p, "export/float"));
    }
    free(text);
}

static void test_killed_anywhere_and_started_again(void **state)
{
    (void)state;
    static const char *const at[] = {"export-start:kill", "export-write:kill", "export-write:kill:2", "export-rename:kill", "export-write:exit"};
    for (unsigned i = 0; i < ARRAY_LEN(at); i++) {
        struct place p;
        place_open(&p, "");
        int status = attempt(&p, "1", "3", at[i], 0);
        assert_true(WIFSIGNALED(status) || (WIFEXITED(status) && WEXITSTATUS(status) == 1));
        assert_false(exists(&p, "export/result.json"));
        assert_false(exists(&p, "export/float"));
        assert_int_equal(attempt(&p, "2", "3", at[i], 0), 0);   /* a failpoint fires once in a run */
        check_result(&p, true);
        assert_true(is_swept(&p));
        /* and when the files are there already: another killed attempt leaves them whole, one more replaces them */
        attempt(&p, "3", "3", i == 2 ? "export-rename:kill" : "export-write:kill:2", 0);
        check_result(&p, true);
        assert_int_equal(attempt(&p, "4", "3", NULL, 0), 0);
        check_result(&p, true);
        assert_true(is_swept(&p));
        place_close(&p);
    }
}

/* A resume counts attempts from 1 again. One of the start before that was stopped and goes on does not meet the new one's files. */
static void test_late_process_of_the_same_number(void **state)
{
    (void)state;
    struct place p;
    place_open(&p, "");
    pid_t late = attempt_start(&p, "1", "3", "export-write:stop", 0);
    assert_true(WIFSTOPPED(ended(late)));
    pid_t next = attempt_start(&p, "1", "3", "export-rename:stop", 0);
    assert_true(WIFSTOPPED(ended(next)));
    kill(late, SIGCONT);
    assert_int_equal(WEXITSTATUS(ended(late)), 4);
    assert_false(exists(&p, "export/float"));
    kill(next, SIGCONT);
    assert_int_equal(ended(next), 0);
    check_result(&p, true);
    assert_true(is_swept(&p));
    place_close(&p);
}

static void test_later_step_replaces(void **state)
{
    (void)state;
    struct place p;
    place_open(&p, "export: {to: [onnx, safetensors]}");
    assert_int_equal(attempt(&p, "1", "3", NULL, 0), 0);
    check_result(&p, true);
    exported_model_close(&p.m);
    make(&p.m, &cnn, 6);
    write_checkpoint(p.run, "cloud", &p.m, p.json, 8);   /* own site has no copy of this one */
    assert_int_equal(attempt(&p, "2", "8", NULL, 0), 0);
    check_result(&p, true);
    struct err e = ERR_INIT;
    struct exported_model m;
    char path[200];
    snprintf(path, sizeof path, "%s/export/float/model.onnx", p.run);
    assert_ok(exported_model_open(path, &m, &e));
    assert_memory_equal(m.weights, p.m.weights, p.m.weights_bytes);
    exported_model_close(&m);
    place_close(&p);
}

static void refuses_what_needs_a_graph(const char *run)
{
    char path[200];
    const char *why;
    struct exported_model m;
    struct evaluation ev;
    struct err e = ERR_INIT;
    struct job_spec spec = {.has_eval = true, .eval = {"a", "b"}};
    snprintf(path, sizeof path, "%s/ckpt/onprem/step-00000004", run);
    assert_ok(exported_model_open(path, &m, &e));
    assert_int_equal(exported_model_formats(&m, EXPORT_ONNX | EXPORT_SAFETENSORS, &why), EXPORT_SAFETENSORS);
    assert_non_null(strstr(why, "no description of its model"));
    assert_int_equal(exported_model_write(&m, "/nowhere", EXPORT_ONNX, &e), ERR_USAGE);
    assert_non_null(strstr(e.text, "no description of its model"));
    assert_int_equal(exported_model_evaluate(&m, &spec, 1, &ev, &e), ERR_USAGE);
    exported_model_close(&m);
}

static void test_without_export_or_eval_or_model(void **state)
{
    (void)state;
    struct place p;
    place_open(&p, "export: null");
    assert_int_equal(attempt(&p, "1", "3", NULL, 0), 0);
    check_result(&p, false);
    write_checkpoint(p.run, "onprem", &p.m, "", 4);
    with_eval(p.run, "");
    assert_int_equal(attempt(&p, "2", "4", NULL, 0), 0);
    char *text = text_of(&p, "export/result.json");
    assert_non_null(strstr(text, "{\"eval_accuracy\":null,\"eval_loss\":null,\"export\":{\"float\":{\"accuracy\":null,\"bytes\":"));
    assert_non_null(strstr(text, "\"latency_ms\":null,\"path\":\"export/float/model.safetensors\""));   /* its tensors; nobody knows its graph */
    free(text);
    assert_true(exists(&p, "export/float/model.safetensors"));
    assert_false(exists(&p, "export/float/model.onnx"));
    refuses_what_needs_a_graph(p.run);
    write_spec(p.run, "");
    assert_int_equal(attempt(&p, "3", "3", NULL, 0), 0);
    text = text_of(&p, "export/result.json");
    assert_non_null(strstr(text, "{\"eval_accuracy\":null,\"eval_loss\":null,\"export\":{\"float\":{\"accuracy\":null,\"bytes\":"));
    free(text);
    place_close(&p);
}

static void damage(const struct place *p, const char *site)
{
    char path[200];
    snprintf(path, sizeof path, "%s/ckpt/%s/step-00000003/part-0002-00000003-00.h5", p->run, site);
    FILE *f = fopen(path, "r+");
    assert_non_null(f);
    fseek(f, 2000, SEEK_SET);
    fputc(0x55, f);
    fclose(f);
}

static void test_damage_and_loss(void **state)
{
    (void)state;
    struct place p;
    place_open(&p, "");
    damage(&p, "onprem");
    assert_int_equal(attempt(&p, "1", "3", NULL, 0), 0);   /* the other site's copy */
    check_result(&p, true);
    damage(&p, "cloud");
    assert_int_equal(WEXITSTATUS(attempt(&p, "2", "3", NULL, 0)), 3);
    char *out = text_of(&p, "out");
    assert_non_null(strstr(out, "viaduct: export: no checkpoint of step 3, generation 2"));
    assert_non_null(strstr(out, "part-0002-00000003-00.h5"));
    free(out);
    assert_int_equal(WEXITSTATUS(attempt(&p, "3", "5", NULL, 0)), 4);
    place_close(&p);
}

/* What lies behind a link in RUN/export is not ours: the link goes, or is replaced. */
static void test_links_are_not_followed(void **state)
{
    (void)state;
    static const char *const link_name[] = {"export/triton", "export/float", "export/old~trash", "export/attempt-7.tmp"};
    struct place p;
    char path[200];
    place_open(&p, "");
    assert_int_equal(attempt(&p, "1", "3", NULL, 0), 0);
    snprintf(path, sizeof path, "%s/elsewhere", p.run);
    assert_int_equal(mkdir(path, 0755), 0);
    write_at(path, "kept", "x", 1);
    snprintf(path, sizeof path, "%s/export/float", p.run);
    char *argv[] = {"rm", "-rf", path, NULL};
    pid_t pid = fork();
    if (pid == 0)
        execvp("rm", argv), _exit(1);
    waitpid(pid, NULL, 0);
    for (unsigned i = 0; i < ARRAY_LEN(link_name); i++) {
        snprintf(path, sizeof path, "%s/%s", p.run, link_name[i]);
        assert_int_equal(symlink("../elsewhere", path), 0);
    }
    assert_int_equal(attempt(&p, "2", "3", NULL, 0), 0);
    check_result(&p, true);
    assert_true(exists(&p, "elsewhere/kept"));
    assert_false(exists(&p, "elsewhere/model.onnx"));
    for (unsigned i = 0; i < ARRAY_LEN(link_name); i++)
        assert_true(i == 1 || !exists(&p, link_name[i]));
    place_close(&p);
}

static void test_full_disk(void **state)
{
    (void)state;
    struct place p;
    place_open(&p, "");
    assert_int_equal(WEXITSTATUS(attempt(&p, "1", "3", NULL, 1500)), 3);
    char *out = text_of(&p, "out");
    assert_non_null(strstr(out, ".tmp/float/model.onnx"));
    free(out);
    assert_false(exists(&p, "export/result.json"));
    assert_true(is_swept(&p));   /* its room is free again */
    assert_int_equal(attempt(&p, "2", "3", NULL, 0), 0);
    check_result(&p, true);
    place_close(&p);
}

/* ---- quantization ---- */
#define QUANTIZE "export: {quantize: {images: 64}, gate: {max_drop: %s}, to: [onnx, safetensors, triton]}"

static const char *const whole[] = {"export/float/model.onnx", "export/float/model.safetensors", "export/quantized/model.onnx",
                                    "export/quantized/model.safetensors", "export/triton/t/config.pbtxt", "export/triton/t/labels.txt",
                                    "export/triton/t/1/model.onnx", "export/card/model-card.json", "export/card/model-card.md", "export/card/model-card.html"};

static void quantize_place(struct place *p, const char *max_drop)
{
    char more[200];
    snprintf(more, sizeof more, QUANTIZE, max_drop);
    place_open(p, more);
}

static bool same_file(const struct place *p, const char *a, const char *b)
{
    struct err e = ERR_INIT;
    char path[2][200];
    void *text[2];
    size_t n[2];
    snprintf(path[0], sizeof path[0], "%s/%s", p->run, a);
    snprintf(path[1], sizeof path[1], "%s/%s", p->run, b);
    for (int i = 0; i < 2; i++)
        assert_ok(fs_read_file(&fs_real, path[i], 1 << 24, &text[i], &n[i], &e));
    bool same = n[0] == n[1] && memcmp(text[0], text[1], n[0]) == 0;
    free(text[0]);
    free(text[1]);
    return same;
}

static void test_quantized_is_published(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct place p;
    static struct job job;
    struct exported_model m;
    struct evaluation one, other;
    char path[200], want[100];
    quantize_place(&p, "0.2");
    assert_int_equal(attempt(&p, "1", "3", NULL, 0), 0);
    for (unsigned i = 0; i < ARRAY_LEN(whole); i++)
        assert_true(exists(&p, whole[i]));
    assert_true(same_file(&p, "export/triton/t/1/model.onnx", "export/quantized/model.onnx"));
    snprintf(path, sizeof path, "%s/spec.yaml", p.run);
    assert_ok(job_load(&job, path, NULL, 0, false, &e));
    snprintf(path, sizeof path, "%s/export/quantized/model.onnx", p.run);
    assert_ok(exported_model_open(path, &m, &e));
    assert_true(m.quantized && !m.graph);
    assert_ok(exported_model_evaluate(&m, &job.spec, 1, &one, &e));
    for (unsigned threads = 2; threads < 5; threads++) {
        assert_ok(exported_model_evaluate(&m, &job.spec, threads, &other, &e));
        assert_true(other.loss == one.loss && other.accuracy == one.accuracy && other.samples == SAMPLES);
    }
    char *text = text_of(&p, "export/result.json");
    snprintf(want, sizeof want, "\"quantized\":{\"accuracy\":%.17g,\"bytes\":", one.accuracy);
    assert_non_null(strstr(text, want));
    assert_non_null(strstr(text, "\"passed\":true"));
    assert_non_null(strstr(text, "\",\"rung\":\"mse ranges of 64 images\"}}"));
    free(text);
    exported_model_close(&m);
    job_fini(&job);
    place_close(&p);
}

/* The same bytes from another attempt; and what an earlier one published goes when the spec no longer asks for it. */
static void test_quantized_again_and_not_any_more(void **state)
{
    (void)state;
    struct place p;
    char a[200], b[200];
    quantize_place(&p, "0.2");
    assert_int_equal(attempt(&p, "1", "3", NULL, 0), 0);
    for (unsigned i = 0; i < 7; i++) {   /* but the card, which holds measured times */
        snprintf(a, sizeof a, "%s/%s", p.run, whole[i]);
        snprintf(b, sizeof b, "%s/before-%u", p.run, i);
        assert_int_equal(link(a, b), 0);
    }
    assert_int_equal(attempt(&p, "2", "3", NULL, 0), 0);
    for (unsigned i = 0; i < 7; i++) {
        snprintf(b, sizeof b, "before-%u", i);
        assert_true(same_file(&p, whole[i], b));
    }
    with_eval(p.run, "");
    assert_int_equal(attempt(&p, "3", "3", NULL, 0), 0);
    check_result(&p, true);
    assert_false(exists(&p, "export/quantized"));
    assert_false(exists(&p, "export/triton"));
    assert_true(is_swept(&p));
    place_close(&p);
}

static void test_quantized_killed_anywhere(void **state)
{
    (void)state;
    static const char *const at[] = {"export-write:kill:3", "export-write:kill:5", "export-rename:kill", "export-rename:kill:2", "export-rename:kill:3",
                                     "export-rename:kill:4"};
    for (unsigned i = 0; i < ARRAY_LEN(at); i++) {
        struct place p;
        quantize_place(&p, "0.2");
        assert_true(WIFSIGNALED(attempt(&p, "1", "3", at[i], 0)));
        assert_false(exists(&p, "export/result.json"));
        assert_int_equal(attempt(&p, "2", "3", at[i], 0), 0);
        for (unsigned k = 0; k < ARRAY_LEN(whole); k++)
            assert_true(exists(&p, whole[k]));
        assert_true(is_swept(&p));
        /* while all is there: whatever moment the next one dies at, every folder is whole */
        assert_true(WIFSIGNALED(attempt(&p, "3", "3", i % 2 ? "export-rename:kill:2" : "export-write:kill:5", 0)) || i == 1 || i == 3);
        for (unsigned k = 0; k < ARRAY_LEN(whole); k++)
            assert_true(exists(&p, whole[k]));
        place_close(&p);
    }
}

static void test_failed_gate(void **state)
{
    (void)state;
    struct place p;
    quantize_place(&p, "0.2");
    assert_int_equal(attempt(&p, "1", "3", NULL, 0), 0);
    char more[200];
    snprintf(more, sizeof more, QUANTIZE, "-1");   /* every sample won: out of reach */
    with_eval(p.run, more);
    for (unsigned again = 2; again < 4; again++) {
        assert_int_equal(WEXITSTATUS(attempt(&p, again == 2 ? "2" : "3", "3", NULL, 0)), 3);
        char *out = text_of(&p, "out"), *text = text_of(&p, "export/result.json");
        assert_non_null(strstr(out, "viaduct: export: the gate failed"));
        assert_non_null(strstr(out, "export/float"));
        assert_true(exists(&p, "export/float/model.onnx"));
        assert_false(exists(&p, "export/quantized"));   /* not even the earlier one: it is not of this stage */
        assert_true(same_file(&p, "export/triton/t/1/model.onnx", "export/float/model.onnx"));
        assert_non_null(strstr(text, "\"passed\":false"));
        assert_non_null(strstr(text, "\"quantized\":null}"));
        assert_non_null(strstr(text, "percentile ranges of 64 images\""));       /* each rung is named */
        assert_non_null(strstr(text, "mse ranges of 64 images\""));
        assert_non_null(strstr(text, "ranges of 256 images\""));
        assert_non_null(strstr(text, ", in float: "));
        assert_true((again == 2) == !strstr(out, "the gate failed before"));
        free(out);
        free(text);
    }
    snprintf(more, sizeof more, "%s/labels", p.run);   /* corrected where they lie: decided anew */
    int fd = open(more, O_WRONLY);
    assert_int_equal(pwrite(fd, (uint8_t[]){4}, 1, 8 + SAMPLES / 2), 1);
    assert_int_equal(pwrite(fd, (uint8_t[]){3}, 1, 8 + SAMPLES / 2 + 1), 1);
    close(fd);
    assert_int_equal(WEXITSTATUS(attempt(&p, "5", "3", NULL, 0)), 3);
    char *anew = text_of(&p, "out");
    assert_non_null(strstr(anew, "the gate failed: of "));
    free(anew);
    with_eval(p.run, "export: {quantize: {images: 64}, gate: {max_drop: 0.2}}");   /* another spec: decided anew */
    assert_int_equal(attempt(&p, "4", "3", NULL, 0), 0);
    assert_true(exists(&p, "export/quantized/model.onnx"));
    place_close(&p);
}

/* 613 samples cannot tell a drop of 0.4 %. */
static void test_few_samples(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        struct place p;
        quantize_place(&p, i ? "0.004" : "0.005");
        attempt(&p, "1", "3", NULL, 0);
        char *text = text_of(&p, "log/export-onprem-1.jsonl");
        assert_non_null(text);
        assert_int_equal(strstr(text, "can go unseen") != NULL, i);
        free(text);
        place_close(&p);
    }
}

/* Quantization may well hold the accuracy of a model that answers with NaN: it is refused before. */
static void test_diverged(void **state)
{
    (void)state;
    struct place p;
    quantize_place(&p, "0.2");
    for (uint32_t t = 0; t < p.m.layout.tensor_count; t++)
        p.m.weights[p.m.layout.tensors[t].offset] = NAN;
    write_checkpoint(p.run, "onprem", &p.m, p.json, 4);
    assert_int_equal(WEXITSTATUS(attempt(&p, "1", "4", NULL, 0)), 3);
    char *out = text_of(&p, "out");
    assert_non_null(strstr(out, "diverged"));
    free(out);
    assert_false(exists(&p, "export/float"));
    assert_false(exists(&p, "export/result.json"));
    place_close(&p);
}

/* A layer that sums too much stays in float at every rung; one of the others stays integer, to the last rung. */
static void test_ladder_of_a_deep_layer(void **state)
{
    (void)state;
    static const struct model_config deep = {.family = MODEL_MLP, .classes = 5, .channels = 1, .height = 182, .width = 182, .hidden_count = 2, .hidden = {4, 4},
                                             .mean = {0.5f}, .deviation = {0.25f, 1, 1, 1}};
    static struct job_spec spec = {.quantize = {.images = 16, .max_drop = -1}};
    static uint8_t with_float[32];
    static struct ladder l;
    struct err e = ERR_INIT;
    struct place p;
    struct exported_model m;
    struct dataset data;
    struct log log;
    char images[200], labels[200];
    place_open(&p, "");
    write_images(p.run, 32, 182, 182);
    snprintf(images, sizeof images, "%s/images", p.run);
    snprintf(labels, sizeof labels, "%s/labels", p.run);
    assert_ok(dataset_open_idx(&data, images, labels, 1, 182, 182, 5, &e));
    make(&m, &deep, 5);
    log_open(&log, "/dev/null", "test", "");
    struct ladder_input in = {&m, &data, &data, with_float, &spec, &log};
    assert_ok(ladder_climb(&in, &l, &e));
    assert_int_equal(l.count, 6);                          /* four ways, more images, one of two layers back to float */
    for (unsigned i = 0; i < l.count; i++)
        assert_true(!(l.rung[i].layers & 1) && l.rung[i].layers && !l.rung[i].gate.passed);
    ladder_close(&l);
    log_close(&log);
    exported_model_close(&m);
    dataset_close(&data);
    place_close(&p);
}

static void test_gate(void **state)
{
    (void)state;
    enum { N = 10000 };
    static uint8_t labels[N], floats[N], integers[N];
    memset(labels, 1, N);
    memset(floats, 1, N);
    memset(integers, 1, N);
    struct gate g = gate_decide(labels, floats, integers, N, 1, 0);
    assert_true(g.passed && g.drop == 0 && g.low95 == 0);
    memset(integers, 2, 40);
    memset(floats + 40, 2, 20);
    g = gate_decide(labels, floats, integers, N, 1, 0.005);
    /* won 20, lost 40 of 10,000: the bound is near the normal one, -0.002 - 1.645 * sqrt(60) / 10000 */
    assert_true(fabs(g.drop - 0.002) < 1e-12);
    assert_true(fabs(g.low95 - (-0.002 - 1.645 * sqrt(60) / N)) < 1.5e-4);
    assert_true(g.passed && !gate_decide(labels, floats, integers, N, 1, 0.003).passed);
    struct gate same = gate_decide(labels, floats, integers, N, 1, 0.005), other = gate_decide(labels, floats, integers, N, 2, 0.005);
    assert_true(same.low95 == g.low95 && fabs(other.low95 - g.low95) < 1e-4);
    memset(floats, 1, N);
    memset(integers, 2, N);
    g = gate_decide(labels, floats, integers, N, 1, 0.5);
    assert_true(!g.passed && g.drop == 1 && g.low95 == -1);
}

/* Ranges: what the methods cut of one long tail, and that order and batches do not matter. */
static void test_calibration(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct place p;
    struct dataset data;
    struct quantized_model *m;
    struct calibration *few, *all;
    static struct value_range range[4][GRAPH_EDGES_MAX];
    char images[200], labels[200];
    place_open(&p, "");
    snprintf(images, sizeof images, "%s/images", p.run);
    snprintf(labels, sizeof labels, "%s/labels", p.run);
    assert_ok(dataset_open_idx(&data, images, labels, 1, 9, 7, 5, &e));
    assert_ok(quantized_model_fold(p.m.graph, &p.m.layout, p.m.weights, &m, &e));
    assert_ok(calibration_measure(m, &data, 7, 100, &few, &e));
    assert_ok(calibration_measure(m, &data, 7, 1000000, &all, &e));
    assert_int_equal(calibration_images(few), 100);
    assert_int_equal(calibration_images(all), SAMPLES);
    bool seen[SAMPLES] = {false};
    for (unsigned i = 0; i < SAMPLES; i++) {
        uint64_t at = calibration_sample(7, SAMPLES, i);
        assert_true(at < SAMPLES && !seen[at]);
        seen[at] = true;
    }
    for (int how = CALIBRATION_MSE; how <= CALIBRATION_MINMAX; how++)
        calibration_ranges(all, (enum job_calibration)how, range[how]);
    unsigned looked = 0;
    for (uint32_t n = 0; n < m->graph->node_count; n++) {
        uint16_t edge = m->graph->node[n].out[0];
        struct value_range whole_range = range[CALIBRATION_MINMAX][edge];
        if (m->graph->node[n].op == OP_NORMALIZE)
            assert_true(fabsf(whole_range.lo + 0.4f / 0.3f) < 1e-6f && fabsf(whole_range.hi - 2) < 1e-6f);
        if (m->graph->node[n].op != OP_RELU)
            continue;
        looked++;
        assert_true(whole_range.lo == 0 && whole_range.hi > 0);
        for (int how = CALIBRATION_MSE; how < CALIBRATION_MINMAX; how++) {
            assert_true(range[how][edge].lo == 0 && range[how][edge].hi <= whole_range.hi);
            assert_true(range[how][edge].hi > 0.2f * whole_range.hi);
        }
    }
    assert_int_equal(looked, 3);
    calibration_free(few);
    calibration_free(all);
    quantized_model_free(m);
    dataset_close(&data);
    place_close(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_files_hold_the_same_model), cmocka_unit_test(test_safetensors_bytes), cmocka_unit_test(test_evaluation),
        cmocka_unit_test(test_killed_anywhere_and_started_again), cmocka_unit_test(test_late_process_of_the_same_number), cmocka_unit_test(test_later_step_replaces),
        cmocka_unit_test(test_without_export_or_eval_or_model), cmocka_unit_test(test_damage_and_loss), cmocka_unit_test(test_full_disk), cmocka_unit_test(test_links_are_not_followed),
        cmocka_unit_test(test_quantized_is_published), cmocka_unit_test(test_quantized_again_and_not_any_more),
        cmocka_unit_test(test_quantized_killed_anywhere), cmocka_unit_test(test_failed_gate), cmocka_unit_test(test_ladder_of_a_deep_layer), cmocka_unit_test(test_diverged), cmocka_unit_test(test_few_samples), cmocka_unit_test(test_gate), cmocka_unit_test(test_calibration),
    };
    return cmocka_run_group_tests_name("export", tests, NULL, NULL);
}
