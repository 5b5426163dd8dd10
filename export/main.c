/* `viaduct export`: the stage after the last round. It evaluates the final checkpoint, hashes its weights, writes the model files if the spec asks for
 * them, and publishes RUN/export/result.json last. It may be killed at any moment: another attempt starts over and comes to the same files. */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "export/parts.h"

#define FOUND_MAX 4096

struct stage {
    const char *run, *site;
    uint64_t step;
    uint32_t generation, attempt;
    bool always;                     /* files also when the spec wants none */
    char export_dir[PATH_MAX];
    struct job job;
    struct exported_model model;     /* of the last step: what is exported */
    struct exported_model trained;   /* what phase train ended with, when a phase followed; else `model` is */
    uint64_t samples_per_pass;
    struct log log;
    /* the result */
    bool evaluated, exported;
    const char *refused;             /* why a format is left out, or NULL */
    struct evaluation eval, trained_eval;
    struct latency latency;
    const char *file;                /* "model.onnx" */
    int64_t file_bytes;
};

/* ---- the checkpoints ---- */
/* generation 0: any. */
static int open_found(struct stage *s, const struct ckpt_found *f, uint64_t step, uint32_t generation, struct exported_model *out, struct err *err)
{
    struct ckpt_manifest m;
    TRY(ckpt_open(&fs_real, f->dir, &m, err));
    int rc = (m.meta.generation == generation || generation == 0) && m.meta.step == step
                 ? checkpoint_load(f->dir, &m, out, err)
                 : err_set(err, ERR_NOT_FOUND, "%s is of generation %u", f->dir, m.meta.generation);
    s->samples_per_pass = m.meta.samples_per_pass;
    ckpt_manifest_fini(&m);
    return rc;
}

/* Own site first: its copy is near. A damaged copy is passed over and named. */
static int open_any(struct stage *s, const struct ckpt_found *all, uint32_t count, uint64_t step, uint32_t generation, struct exported_model *out, struct err *err)
{
    err_set(err, ERR_NOT_FOUND, "no site has one");
    for (unsigned turn = 0; turn < 2; turn++)
        for (uint32_t i = 0; i < count; i++) {
            bool own = strcmp(all[i].site, s->site) == 0;
            if (!all[i].published || all[i].step != step || own != (turn == 0))
                continue;
            if (open_found(s, &all[i], step, generation, out, err) == 0)
                return 0;
            log_warn(&s->log, "%s", err->text);
        }
    return err_wrap(err, "no checkpoint of step %llu, generation %u, in %s/ckpt can be read", (unsigned long long)step, generation, s->run);
}

/* The weights that training ended with lie below those that pruning ended with. */
static int open_trained(struct stage *s, const struct ckpt_found *all, uint32_t count, struct err *err)
{
    uint64_t step = job_steps(&s->job.spec, s->samples_per_pass);
    return job_prune_steps(&s->job.spec, s->samples_per_pass) ? open_any(s, all, count, step, 0, &s->trained, err) : 0;
}

static int open_checkpoints(struct stage *s, struct err *err)
{
    char root[PATH_MAX];
    uint32_t count = 0;
    struct ckpt_found *all = calloc(FOUND_MAX, sizeof *all);
    if (!all)
        return err_set(err, ERR_NO_MEMORY, "no memory to list checkpoints");
    snprintf(root, sizeof root, "%s/ckpt", s->run);
    int rc = ckpt_list(root, all, FOUND_MAX, &count, err);
    if (rc == 0)
        rc = open_any(s, all, count, s->step, s->generation, &s->model, err);
    if (rc == 0)
        rc = open_trained(s, all, count, err);
    free(all);
    return rc;
}

/* ---- evaluation and files ---- */
static int evaluate(struct stage *s, struct err *err)
{
    if (!s->job.spec.has_eval || !s->model.graph)
        return 0;
    if (exported_model_evaluate(&s->model, &s->job.spec, 0, &s->eval, err) < 0)
        return err_wrap(err, "evaluating step %llu", (unsigned long long)s->step);
    s->trained_eval = s->eval;
    if (s->trained.weights && exported_model_evaluate(&s->trained, &s->job.spec, 0, &s->trained_eval, err) < 0)
        return err_wrap(err, "evaluating the last step of phase train");
    s->evaluated = true;
    return 0;
}

static int write_files(struct stage *s, struct err *err)
{
    char attempt[PATH_MAX], file[PATH_MAX];
    unsigned to = s->job.spec.has_export ? s->job.spec.export_to : s->always ? EXPORT_ONNX | EXPORT_SAFETENSORS : 0;
    to = exported_model_formats(&s->model, to, &s->refused);
    if (!to)
        return 0;
    if (s->model.graph)
        TRY(measure_latency(&s->model, &s->latency, err));
    if (snprintf(attempt, sizeof attempt, "%s/attempt-%u.tmp", s->export_dir, s->attempt) >= (int)sizeof attempt)
        return err_set(err, ERR_FAILED, "the path %s is too long", s->export_dir);
    TRY(exported_model_write(&s->model, attempt, to, err));
    s->file = to & EXPORT_ONNX ? "model.onnx" : "model.safetensors";
    if (snprintf(file, sizeof file, "%s/%s", attempt, s->file) >= (int)sizeof file)
        return err_set(err, ERR_FAILED, "the path %s is too long", attempt);
    s->file_bytes = fs_real.size(fs_real.state, file);
    if (s->file_bytes < 0)
        return err_errno(err, (int)-s->file_bytes, "cannot read %s", file);
    TRY(attempt_publish(s->export_dir, attempt, err));
    s->exported = true;
    return 0;
}

/* ---- the result ---- */
static void number(char out[40], bool have, double v)
{
    if (have && isfinite(v))
        number_text(out, v);
    else
        snprintf(out, 40, "null");
}

/* Share of the prunable weights that are zero. */
static double sparsity_of(const struct exported_model *m)
{
    uint64_t zero = 0, total = 0;
    for (uint32_t k = 0; k < m->layout.tensor_count; k++) {
        const struct tensor_desc *t = &m->layout.tensors[k];
        for (uint64_t i = 0; tensor_prunable(t) && i < t->elems; i++)
            zero += m->weights[t->offset + i] == 0;
        total += tensor_prunable(t) ? t->elems : 0;
    }
    return total ? (double)zero / (double)total : NAN;
}

static int publish_result(struct stage *s, struct err *err)
{
    const struct exported_model *trained = s->trained.weights ? &s->trained : &s->model;
    char path[PATH_MAX], text[2048], files[512] = "null", latency[160] = "null", loss[40], trained_accuracy[40], accuracy[40], sparsity[40], weights[SHA256_HEX],
        state[SHA256_HEX];
    number(loss, s->evaluated, s->trained_eval.loss);
    number(trained_accuracy, s->evaluated, s->trained_eval.accuracy);
    number(accuracy, s->evaluated, s->eval.accuracy);
    number(sparsity, s->trained.weights != NULL, sparsity_of(&s->model));
    weights_sha256(&trained->layout, trained->weights, TENSOR_PARAMETER, weights);
    weights_sha256(&trained->layout, trained->weights, TENSOR_STATE, state);
    if (s->model.graph)
        snprintf(latency, sizeof latency, "{\"batch\":1,\"p50\":%.6g,\"p99\":%.6g,\"threads\":1}", s->latency.p50, s->latency.p99);
    if (s->exported)
        snprintf(files, sizeof files, "{\"float\":{\"accuracy\":%s,\"bytes\":%lld,\"latency_ms\":%s,\"path\":\"export/float/%s\",\"sparsity\":%s},\"gate\":null,\"quantized\":null}",
                 accuracy, (long long)s->file_bytes, latency, s->file, sparsity);
    int n = snprintf(text, sizeof text, "{\"eval_accuracy\":%s,\"eval_loss\":%s,\"export\":%s,\"state_sha256\":\"%s\",\"weights_sha256\":\"%s\"}\n",
                     trained_accuracy, loss, files, state, weights);
    CHECK(n > 0 && n < (int)sizeof text);
    if (snprintf(path, sizeof path, "%s/result.json", s->export_dir) >= (int)sizeof path)
        return err_set(err, ERR_FAILED, "the path %s is too long", s->export_dir);
    return fs_publish_file(&fs_real, path, text, (size_t)n, err);
}

static int spec_error(const struct stage *s, const char *file, struct err *err)
{
    const struct problem *first = &s->job.problems.item[0];
    return s->job.problems.count ? err_set(err, ERR_USAGE, "%s line %u: %s", file, first->line, first->text) : err->code;
}

static int stage_run(struct stage *s, struct err *err)
{
    char spec[PATH_MAX];
    if (snprintf(s->export_dir, sizeof s->export_dir, "%s/export", s->run) >= (int)sizeof s->export_dir ||
        snprintf(spec, sizeof spec, "%s/spec.yaml", s->run) >= (int)sizeof spec)
        return err_set(err, ERR_FAILED, "the path %s is too long", s->run);
    if (job_load(&s->job, spec, NULL, 0, false, err) < 0)
        return spec_error(s, spec, err);
    TRY(fs_mkdirs(&fs_real, s->export_dir, err));
    TRY(fs_fsync_dir(&fs_real, s->run, err));
    TRY(attempt_sweep(s->export_dir, err));
    TRY(open_checkpoints(s, err));
    TRY(evaluate(s, err));
    TRY(write_files(s, err));
    TRY(publish_result(s, err));
    fprintf(stderr, "step %llu: %s%s%s%s\n", (unsigned long long)s->step, s->evaluated ? "evaluated, " : "", s->exported ? "written to export/float" : "no files",
            s->refused ? "; " : "", s->refused ? s->refused : "");
    log_info(&s->log, "step %llu evaluated and published", (unsigned long long)s->step);
    return attempt_sweep(s->export_dir, err);   /* the files that were replaced */
}

/* ---- the process ---- */
static int parse(struct stage *s, int argc, char **argv, struct err *err)
{
    bool have_step = false;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--run") == 0)
            s->run = argv[i + 1];
        else if (strcmp(argv[i], "--site") == 0)
            s->site = argv[i + 1];
        else if (strcmp(argv[i], "--step") == 0)
            have_step = (s->step = strtoull(argv[i + 1], NULL, 10), true);
        else if (strcmp(argv[i], "--generation") == 0)
            s->generation = (uint32_t)strtoul(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--attempt") == 0)
            s->attempt = (uint32_t)strtoul(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--always") == 0)
            s->always = strcmp(argv[i + 1], "1") == 0;
        else
            return err_set(err, ERR_USAGE, "unknown argument '%s'", argv[i]);
    }
    return s->run && s->site && have_step && argc % 2 == 1
               ? 0
               : err_set(err, ERR_USAGE, "viaduct export --run DIR --site NAME --step N --generation G --attempt A is started by an agent");
}

static int start(struct stage *s, struct err *err)
{
    char path[PATH_MAX], who[64];
    struct rundir run;
    TRY(rundir_look(&run, s->run, err));
    snprintf(who, sizeof who, "export %.40s/%u", s->site, s->attempt);
    snprintf(path, sizeof path, "%s/log/export-%s-%u.jsonl", s->run, s->site, s->attempt);
    log_close(&s->log);
    log_open(&s->log, path, who, run.job);
    snprintf(path, sizeof path, "%s/state", s->run);
    const char *wrong = failpoint_init(path);
    if (wrong)
        return err_set(err, ERR_USAGE, "%s", wrong);
    failpoint(FAIL_EXPORT_START);
    return stage_run(s, err);
}

int export_main(int argc, char **argv)
{
    struct err err = ERR_INIT;
    struct stage *s = calloc(1, sizeof *s);
    CHECK(s != NULL);
    log_open(&s->log, NULL, "export", "");
    int rc = parse(s, argc, argv, &err);
    if (rc == 0)
        rc = start(s, &err);
    if (rc < 0) {
        log_info(&s->log, "ends: %s", err.text);
        fprintf(stderr, "viaduct: export: %s\n", err.text);
    }
    exported_model_close(&s->model);
    exported_model_close(&s->trained);
    job_fini(&s->job);
    log_close(&s->log);
    free(s);
    return err_exit_code(rc);
}
