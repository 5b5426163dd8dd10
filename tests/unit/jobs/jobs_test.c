/* Job specs: broken ones against golden diagnostics (tests/fixtures/specs), good ones, overrides, resolved text, rates and steps, resume. */
#include "tests/unit/unit.h"

#include <dirent.h>
#include <math.h>

#include "jobs/jobs.h"

#define SPECS "tests/fixtures/specs"

static char *diagnose(const char *file)
{
    struct err e = ERR_INIT;
    void *text;
    size_t size, n = 0;
    char path[300], *out = NULL, override[200];
    const char *overrides[1] = {override};
    unsigned count = 0;
    static struct job job;
    snprintf(path, sizeof path, SPECS "/%s", file);
    assert_ok(fs_read_file(&fs_real, path, 1 << 20, &text, &size, &e));
    if (sscanf(text, "# override: %199[^\n]", override) == 1)
        count = 1;
    bool check_files = strncmp(text, "# with files", 12) == 0;
    int rc = job_load_text(&job, file, text, size, overrides, count, check_files, &e);
    if (rc != ERR_USAGE)
        fail_msg("%s was accepted (%d)", file, rc);
    FILE *f = open_memstream(&out, &n);
    problems_print(&job.problems, f);
    fclose(f);
    job_fini(&job);
    free(text);
    return out;
}

static void test_golden_diagnostics(void **state)
{
    (void)state;
    struct dirent **list;
    int n = scandir(SPECS, &list, NULL, alphasort), seen = 0;
    assert_true(n > 0);
    for (int i = 0; i < n; i++) {
        char *dot = strstr(list[i]->d_name, ".yaml"), path[400];
        if (dot) {
            struct err e = ERR_INIT;
            char *got = diagnose(list[i]->d_name);
            void *want = NULL;
            size_t size;
            snprintf(path, sizeof path, SPECS "/%.*s.expected", (int)(dot - list[i]->d_name), list[i]->d_name);
            if (getenv("VIADUCT_WRITE_GOLDEN"))
                assert_ok(fs_write_file(&fs_real, path, got, strlen(got), &e));
            assert_ok(fs_read_file(&fs_real, path, 1 << 20, &want, &size, &e));
            if (strcmp(got, want) != 0)
                fail_msg("%s says\n%s\ninstead of\n%s", list[i]->d_name, got, (char *)want);
            free(want);
            free(got);
            seen++;
        }
        free(list[i]);
    }
    free(list);
    assert_true(seen >= 40);
}

static const char good[] = "viaduct: v1\nname: job\nmodel: {family: cnn, classes: 10, input: [1, 28, 28]}\n"
                           "data:\n  train: {images: a, labels: \"b$$c\"}\ntrain: {epochs: 2, batch: 64, lanes: 4, optimizer: {lr: 1e-2}}\n";

static void load(struct job *job, const char *text, const char *o1, const char *o2)
{
    struct err e = ERR_INIT;
    const char *overrides[2] = {o1, o2};
    if (job_load_text(job, "spec.yaml", text, strlen(text), overrides, (o1 != NULL) + (o2 != NULL), false, &e) < 0) {
        problems_print(&job->problems, stderr);
        fail_msg("%s", e.text);
    }
}

static void test_defaults(void **state)
{
    (void)state;
    static struct job j;
    load(&j, good, NULL, NULL);
    assert_int_equal(j.spec.site_count, 1);
    assert_int_equal(j.spec.sites[0].ps_shards, 0);
    assert_int_equal(j.spec.model.channel_count, 2);
    assert_int_equal(j.spec.model.channels[1], 48);
    assert_int_equal(j.spec.model.hidden[0], 128);
    assert_true(j.spec.model.batch_norm && j.spec.deterministic && j.spec.has_export);
    assert_string_equal(j.spec.train.labels, "b$c");
    assert_true(j.spec.optimizer.lr == 0.01);
    assert_int_equal(j.spec.export_to, EXPORT_ONNX | EXPORT_SAFETENSORS);
    assert_true(!j.spec.quantize.on && j.spec.quantize.max_drop == 0.005);
    job_fini(&j);
}

static void test_export(void **state)
{
    (void)state;
    static struct job j, again;
    struct err e = ERR_INIT;
    load(&j, good, "export={quantize: {}, to: [triton, onnx]}", "data.eval={images: a, labels: b}");
    assert_true(j.spec.quantize.on && j.spec.quantize.calibration == CALIBRATION_MSE && j.spec.quantize.images == 1024);
    assert_int_equal(j.spec.export_to, EXPORT_ONNX | EXPORT_TRITON);
    job_fini(&j);
    const char *overrides[] = {"export={quantize: {calibration: entropy, images: 77}, gate: {max_drop: -0.25}, to: [triton]}",
                               "data.eval={images: a, labels: b}"};
    assert_ok(job_load_text(&j, "t", good, strlen(good), overrides, 2, false, &e));
    assert_ok(job_load_text(&again, "t", j.resolved_yaml, strlen(j.resolved_yaml), NULL, 0, false, &e));
    assert_string_equal(again.resolved_yaml, j.resolved_yaml);
    assert_true(again.spec.quantize.on && again.spec.quantize.calibration == CALIBRATION_ENTROPY && again.spec.quantize.images == 77 &&
                again.spec.quantize.max_drop == -0.25 && again.spec.export_to == EXPORT_TRITON);
    job_fini(&again);
    job_fini(&j);
    assert_int_equal(job_load_text(&j, "t", good, strlen(good), overrides, 1, false, &e), ERR_USAGE);   /* the gate has nothing to be decided on */
    assert_int_equal(j.problems.count, 1);
    assert_string_equal(j.problems.item[0].path, "export.quantize");
    assert_non_null(strstr(j.problems.item[0].text, "needs data.eval"));
    job_fini(&j);
}

static void test_overrides(void **state)
{
    (void)state;
    static struct job j;
    load(&j, good, "sites=[{name: a, via: local, ranks: 2}, {name: b, ranks: 1, threads: 2}]", "sites.1.ranks=2");
    assert_int_equal(j.spec.site_count, 2);
    assert_int_equal(j.spec.sites[1].ranks, 2);
    assert_int_equal(j.spec.sites[1].threads, 2);
    assert_int_equal(j.spec.sites[0].ps_shards, 1);
    job_fini(&j);
    load(&j, good, "train.steps=60", "export=null");
    assert_int_equal(j.spec.steps, 60);
    assert_true(j.spec.epochs == 0 && !j.spec.has_export);
    job_fini(&j);
    load(&j, good, "export.prune={sparsity: 0.75}", NULL);
    assert_true(j.spec.prune.sparsity == 0.75 && j.spec.prune.epochs == 1);
    job_fini(&j);
    load(&j, good, "export.prune={}", "export.prune.epochs=0.5");
    assert_true(j.spec.prune.sparsity == 0.8 && j.spec.prune.epochs == 0.5);
    job_fini(&j);
    load(&j, good, "export.prune.epochs=2", "export.prune=null");
    assert_true(j.spec.prune.sparsity == 0);
    job_fini(&j);
    load(&j, good, "export.prune={}", "export=null");
    assert_true(j.spec.prune.sparsity == 0 && !j.spec.has_export);
    job_fini(&j);
    load(&j, good, "train.batch=null", "train.optimizer.name=sgd");
    assert_int_equal(j.spec.batch, 256);
    assert_int_equal(j.spec.optimizer.name, OPTIMIZER_SGD);
    job_fini(&j);
}

static void test_resolved_text_loads_to_the_same(void **state)
{
    (void)state;
    static struct job a, b;
    load(&a, good, "sites=[{name: a, ranks: 2, door: '[::1]:7443'}, {name: b}]", "train.optimizer={name: sgd, lr: 0.1, momentum: 0.9, nesterov: true, clip: 1.5}");
    load(&b, a.resolved_yaml, NULL, NULL);
    assert_string_equal(a.resolved_yaml, b.resolved_yaml);
    assert_non_null(strstr(a.resolved_yaml, "lr: 0.1, weight_decay: 0, momentum: 0.9,"));   /* as people write it */
    assert_non_null(strstr(a.resolved_yaml, "gate: {max_drop: 0.005}"));
    struct err e = ERR_INIT;
    char *changes;
    assert_ok(job_resume_check(&a, &b, &changes, &e));
    assert_null(changes);
    assert_int_equal(b.spec.sites[0].ranks, 2);
    assert_true(b.spec.optimizer.nesterov && b.spec.optimizer.clip == 1.5);
    assert_string_equal(b.spec.sites[0].door, "[::1]:7443");
    assert_true(!b.spec.sites[1].door && !b.spec.coordinator_door);
    job_fini(&a);
    job_fini(&b);
    load(&a, good, "sites=[{name: a, door: 'host.example:0'}, {name: b, door: null}]", "coordinator={door: a, metrics: '[::1]:0'}");
    load(&b, a.resolved_yaml, NULL, NULL);
    assert_string_equal(a.resolved_yaml, b.resolved_yaml);
    assert_string_equal(b.spec.coordinator_door, "a");
    assert_string_equal(b.spec.metrics, "[::1]:0");
    assert_string_equal(b.spec.sites[0].door, "host.example:0");
    assert_null(b.spec.sites[1].door);
    job_fini(&a);
    job_fini(&b);
    load(&a, good, "export.prune={sparsity: 0.3, epochs: 2.5}", NULL);
    load(&b, a.resolved_yaml, NULL, NULL);
    assert_string_equal(a.resolved_yaml, b.resolved_yaml);
    assert_true(b.spec.prune.sparsity == 0.3 && b.spec.prune.epochs == 2.5);
    job_fini(&a);
    job_fini(&b);
    load(&a, good, "export.registry=/srv/$$models", "export.model=\"1e5\"");
    load(&b, a.resolved_yaml, NULL, NULL);
    assert_string_equal(a.resolved_yaml, b.resolved_yaml);
    assert_string_equal(b.spec.registry, "/srv/$models");
    assert_string_equal(b.spec.registry_model, "1e5");
    job_fini(&a);
    job_fini(&b);
    load(&a, good, "coordinator={listen: 'a\"b\\c:80'}", "data.train.images=\"two\\nlines\\x1b\"");
    load(&b, a.resolved_yaml, NULL, NULL);
    assert_string_equal(a.resolved_yaml, b.resolved_yaml);
    assert_string_equal(b.spec.listen, "a\"b\\c:80");
    assert_string_equal(b.spec.train.images, "two\nlines\x1b");
    job_fini(&a);
    job_fini(&b);
    load(&a, good, "export.registry=models", NULL);
    assert_string_equal(a.spec.registry_model, a.spec.name);
    job_fini(&a);
    load(&a, good, "name=\"2024\"", "sites=[{name: \"1e5\"}, {name: \"true\"}, {name: plain}]");
    load(&b, a.resolved_yaml, NULL, NULL);
    assert_string_equal(b.spec.name, "2024");
    assert_string_equal(b.spec.sites[0].name, "1e5");
    assert_string_equal(b.spec.sites[1].name, "true");
    job_fini(&a);
    job_fini(&b);
    load(&a, good, NULL, NULL);
    assert_non_null(strstr(a.resolved_yaml, "lr: 0.01, weight_decay: 0, beta1: 0.9, beta2: 0.999, eps: 1.0e-08,"));   /* a number for YAML 1.1 too */
    job_fini(&a);
}

static void test_slurm_sites(void **state)
{
    (void)state;
    static struct job a, b;
    load(&a, good, "sites=[{name: a, via: slurm, ranks: 2, time: 1-02:00:00, partition: gpu, slurm: {mem: 100, exclusive: true, contiguous: false, gres: gpu:2, "
                   "nice: 3, retries: {job_failure: 2}}}, {name: b, via: slurm, account: x.y, time: 3m}]", NULL);
    const struct job_slurm *s = &a.spec.sites[0].slurm;
    assert_int_equal(a.spec.sites[0].via, VIA_SLURM);
    assert_int_equal(s->time_s, 26 * 3600);
    assert_int_equal(s->drain_s, 120);
    assert_int_equal(a.spec.sites[1].slurm.drain_s, 90);
    assert_int_equal(s->option_count, 4);
    assert_string_equal(s->option[0].name, "mem");
    assert_string_equal(s->option[0].value, "100");
    assert_null(s->option[1].value);
    assert_int_equal(s->retries[RETRY_JOB_FAILURE], 2);
    assert_int_equal(s->retries[RETRY_NODE_FAILURE], 10);
    load(&b, a.resolved_yaml, NULL, NULL);
    assert_string_equal(a.resolved_yaml, b.resolved_yaml);
    job_fini(&a);
    job_fini(&b);
}

static void test_nodes(void **state)
{
    (void)state;
    static struct job a, b;
    load(&a, good, "sites=[{name: a, via: slurm, ranks: 3, nodes: 2}, {name: b, via: local}]", NULL);
    assert_int_equal(a.spec.sites[0].nodes, 2);
    assert_int_equal(a.spec.sites[1].nodes, 1);
    assert_string_equal(a.spec.listen, "0.0.0.0:0");       /* other hosts dial it */
    load(&b, a.resolved_yaml, NULL, NULL);
    assert_string_equal(a.resolved_yaml, b.resolved_yaml);
    assert_int_equal(b.spec.sites[0].nodes, 2);
    job_fini(&b);
    job_fini(&a);
    load(&a, good, "sites=[{name: a, via: local, ranks: 1}, {name: b, via: join, time: 3h, partition: p, slurm: {drain: 5m, retries: {preemption: 7}, mem: 1G}}]",
         "coordinator={listen: 0.0.0.0:7300, address: host:7300}");
    load(&b, a.resolved_yaml, NULL, NULL);                 /* a site that joins out of a job of another cluster */
    assert_string_equal(a.resolved_yaml, b.resolved_yaml);
    assert_int_equal(b.spec.sites[1].slurm.drain_s, 300);
    assert_int_equal(b.spec.sites[1].slurm.retries[RETRY_PREEMPTION], 7);
    job_fini(&b);
    job_fini(&a);
    load(&a, good, "sites=[{name: a, via: slurm, nodes: 1}]", NULL);
    assert_string_equal(a.spec.listen, "127.0.0.1:0");
    job_fini(&a);
}

static void test_resume_keeps_what_it_must(void **state)
{
    (void)state;
    static const char *const changes[][2] = {{"train.batch=32", "train.batch was 64 and is 32"}, {"train.seed=9", "train.seed"}, {"train.lanes=8", "train.lanes"},
                                             {"model.hidden=[64]", "model.hidden"}, {"train.optimizer.lr=0.5", "train.optimizer.lr"}, {"data.train.images=x", "data.train.images was a and is x"},
                                             {"train.optimizer.factor=0.5", "train.optimizer.factor was 0.1 and is 0.5"}, {"train.optimizer.every=9", "train.optimizer.every"},
                                             {"train.optimizer.lr=0.0100000001", "was 0.01 and is 0.0100000001"}, {"model.family=mlp", "model.family was cnn and is mlp"},
                                             {"train.optimizer.schedule=cosine", "schedule was constant and is cosine now"}, {"train.optimizer.name=sgd", "name was adamw and is sgd"},
                                             {"train={batch: 32, lanes: 4, seed: 9, epochs: 2}", "train.batch was 64 and is 32 now, train"}};
    char *changed;
    static struct job a, b;
    struct err e = ERR_INIT;
    load(&a, good, NULL, NULL);
    for (unsigned i = 0; i < ARRAY_LEN(changes); i++) {
        load(&b, good, changes[i][0], NULL);
        assert_int_equal(job_resume_check(&a, &b, &changed, &e), ERR_USAGE);
        assert_null(changed);
        if (!strstr(e.text, changes[i][1]))
            fail_msg("%s", e.text);
        job_fini(&b);
    }
    load(&b, good, "sites=[{name: x, ranks: 3}]", "train.epochs=5");
    assert_ok(job_resume_check(&a, &b, &changed, &e));
    assert_non_null(strstr(changed, "train.epochs was 2 and is 5 now"));
    assert_non_null(strstr(changed, "sites[0].ranks was 1 and is 3 now"));
    assert_null(strstr(changed, "batch"));
    free(changed);
    job_fini(&b);
    job_fini(&a);
}

/* What a site that joins was given, against the run's spec. */
static void test_a_joining_site_agrees_but_for_its_own(void **state)
{
    (void)state;
    static struct job run, here;
    static const struct { const char *change, *said; } cases[] = {
        {"data.train.images=/elsewhere/images", NULL}, {"train.seed=9", "train.seed is "}, {"train.optimizer.lr=0.5", "train.optimizer.lr is "},
        {"export=null", "export is "}, {"sites=[{name: a, via: local, ranks: 2, ps_shards: 1}, {name: b, via: local, ranks: 1, ps_shards: 1}]", "sites[0].ranks is 1 in the run and 2 here"},
        {"sites=[{name: a, via: local, ranks: 1, ps_shards: 1}, {name: b, via: local, ranks: 3, ps_shards: 1}]", NULL},
        {"sites=[{name: a, via: local, ranks: 1}]", "sites[0].ps_shards is 1 in the run and 0 here"}};
    static const char *const sites = "sites=[{name: a, via: local, ranks: 1, ps_shards: 1}, {name: b, via: local, ranks: 1, ps_shards: 1}]";
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        const char *changed[] = {sites, cases[i].change};
        struct err e = ERR_INIT;
        assert_ok(job_load_text(&run, "run", good, sizeof good - 1, &sites, 1, false, &e));
        assert_ok(job_load_text(&here, "here", good, sizeof good - 1, changed, 2, false, &e));
        int rc = job_agree(&run, &here, "b", &e);
        assert_int_equal(rc, cases[i].said ? ERR_USAGE : 0);
        if (cases[i].said && !strstr(e.text, cases[i].said))
            fail_msg("%s: %s", cases[i].change, e.text);
        job_fini(&run);
        job_fini(&here);
    }
}

static void test_rates_and_steps(void **state)
{
    (void)state;
    struct job_optim o = {.lr = 1, .schedule = SCHEDULE_COSINE, .final = 0.01, .warmup = 10};
    assert_true(fabs(job_lr(&o, 0, 1000) - 0.1) < 1e-12);
    assert_true(fabs(job_lr(&o, 999, 1000) - 0.01) < 1e-12);
    assert_true(job_lr(&o, 500, 1001) - 0.505 < 1e-9);
    o.schedule = SCHEDULE_LINEAR;
    assert_true(fabs(job_lr(&o, 500, 1001) - 0.505) < 1e-12);
    o.schedule = SCHEDULE_STEP;
    o.step_every = 100;
    o.step_factor = 0.5;
    assert_true(job_lr(&o, 250, 1000) == 0.25);
    struct job_spec s = {.epochs = 5, .batch = 256};
    assert_int_equal(job_steps(&s, 60000), 5 * 235);
    s.epochs = 0.5;
    assert_int_equal(job_steps(&s, 60000), 118);
    s.steps = 7;
    assert_int_equal(job_steps(&s, 60000), 7);
    assert_int_equal(job_prune_steps(&s, 60000), 0);
    s.prune.sparsity = 0.8;
    s.prune.epochs = 1.5;
    assert_int_equal(job_prune_steps(&s, 60000), 235 + 118);
    o = (struct job_optim){.lr = 1, .schedule = SCHEDULE_STEP, .step_every = 1, .step_factor = 0.1, .final = 0.01, .warmup = 100};
    assert_true(fabs(job_prune_lr(&o, 0, 101) - 0.1) < 1e-12 && fabs(job_prune_lr(&o, 50, 101) - 0.055) < 1e-12 && fabs(job_prune_lr(&o, 100, 101) - 0.01) < 1e-12);
    assert_true(fabs(job_prune_lr(&o, 0, 1) - 0.1) < 1e-12);
    o.final = 1;                                          /* never above where it begins */
    assert_true(fabs(job_prune_lr(&o, 100, 101) - 0.1) < 1e-12);
}

/* Any bytes: an answer, never a crash; limits hold. */
static void test_noise(void **state)
{
    (void)state;
    struct test_random r = {test_seed(), 0};
    static struct job j;
    char text[sizeof good + 64];
    for (int turn = 0; turn < 300; turn++) {
        struct err e = ERR_INIT;
        memcpy(text, good, sizeof good);
        for (unsigned k = test_u32(&r) % 6; k > 0; k--)
            text[test_u32(&r) % (sizeof good - 1)] = (char)test_u32(&r);
        int rc = job_load_text(&j, "noise", text, sizeof good - 1, NULL, 0, false, &e);
        assert_true(rc == 0 || (rc == ERR_USAGE && j.problems.errors > 0));
        job_fini(&j);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_diagnostics), cmocka_unit_test(test_defaults), cmocka_unit_test(test_export), cmocka_unit_test(test_overrides),
        cmocka_unit_test(test_resolved_text_loads_to_the_same), cmocka_unit_test(test_slurm_sites), cmocka_unit_test(test_nodes), cmocka_unit_test(test_resume_keeps_what_it_must), cmocka_unit_test(test_rates_and_steps),
        cmocka_unit_test(test_a_joining_site_agrees_but_for_its_own),
        cmocka_unit_test(test_noise),
    };
    return cmocka_run_group_tests_name("jobs", tests, NULL, NULL);
}
