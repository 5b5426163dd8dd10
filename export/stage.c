/* The stage as a table of steps. Whatever moment it is killed at, another attempt starts over and comes to the same files: everything is made in the
 * attempt's folder, takes its place by renames, and result.json comes last. */
#include "export/stage.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

/* ---- set-up ---- */
static int spec_error(const struct stage *s, const char *file, struct err *err)
{
    const struct problem *first = &s->job.problems.item[0];
    return s->job.problems.count ? err_set(err, ERR_USAGE, "%s line %u: %s", file, first->line, first->text) : err->code;
}

static int load_spec(struct stage *s, struct err *err)
{
    char spec[PATH_MAX], attempt[40];
    uint8_t sha256[SHA256_BYTES];
    uint32_t own;                    /* a resume counts attempts from 1 again, and one of before may still be there */
    TRY(path_in(s->run, "spec.yaml", spec, err));
    if (job_load(&s->job, spec, s->overrides, s->override_count, false, err) < 0)
        return spec_error(s, spec, err);
    if (s->always && !s->job.spec.has_export) {
        s->job.spec.has_export = true;
        s->job.spec.export_to = EXPORT_ONNX | EXPORT_SAFETENSORS;
    }
    sha256_of(s->job.resolved_yaml, strlen(s->job.resolved_yaml), sha256);
    hex_of(sha256, sizeof sha256, s->spec_sha256);
    random_bytes(&own, sizeof own);
    snprintf(attempt, sizeof attempt, "attempt-%u-%08x.tmp", s->attempt, own);
    TRY(path_in(s->run, "export", s->export_dir, err));
    TRY(path_in(s->export_dir, attempt, s->attempt_dir, err));
    TRY(fs_mkdirs(&fs_real, s->export_dir, err));
    TRY(fs_fsync_dir(&fs_real, s->run, err));
    return attempt_sweep(s->export_dir, err);
}

static int open_model(struct stage *s, struct err *err)
{
    TRY(stage_open_checkpoints(s, err));
    const struct exported_model *trained = stage_trained(s);
    weights_sha256(&trained->layout, trained->weights, TENSOR_PARAMETER, s->weights_sha256);
    weights_sha256(&trained->layout, trained->weights, TENSOR_STATE, s->state_sha256);
    weights_sha256(&s->model.layout, s->model.weights, TENSOR_PARAMETER, s->exported_sha256);
    const char *why;
    s->job.spec.export_to = exported_model_formats(&s->model, s->job.spec.export_to, &why);
    if (s->job.spec.has_export && why)
        log_warn(&s->log, "%s", why);
    return 0;
}

/* ---- models ---- */
static int evaluate(struct stage *s, struct err *err)
{
    int rc = open_eval_data(&s->job.spec, &s->model.config, &s->eval_data, err);
    if (rc == 0 && !(s->with_float = malloc(s->eval_data.count)))
        rc = err_set(err, ERR_NO_MEMORY, "no memory for %llu answers", (unsigned long long)s->eval_data.count);
    if (rc == 0)
        rc = exported_model_predict(&s->model, &s->eval_data, 0, s->with_float, &s->eval, err);
    if (rc < 0)
        return err_wrap(err, "evaluating step %llu", (unsigned long long)s->step);
    if (!isfinite(s->eval.loss))
        return err_set(err, ERR_JOB, "the model of step %llu answers data.eval with what is no finite number: its last steps diverged, nothing is published; train with a smaller "
                       "optimizer.lr", (unsigned long long)s->step);
    s->trained_eval = s->eval;
    if (s->trained.weights && exported_model_predict(&s->trained, &s->eval_data, 0, NULL, &s->trained_eval, err) < 0)
        return err_wrap(err, "evaluating the last step of phase train");
    s->evaluated = true;
    return 0;
}

static int quantize(struct stage *s, struct err *err)
{
    const struct model_config *c = &s->model.config;
    const struct job_dataset *files = &s->job.spec.train;
    struct dataset train;
    if (result_is_of_failed_gate(s))
        return err_set(err, ERR_JOB, "the gate failed before on this checkpoint, spec and data.eval, see %s/result.json; the float model is in %s/float; allow a larger "
                       "drop, train longer, or leave out export.quantize", s->export_dir, s->export_dir);
    if (dataset_open_idx(&train, files->images, files->labels, c->channels, c->height, c->width, c->classes, err) < 0)
        return err_wrap(err, "calibrating");
    struct ladder_input in = {&s->model, &train, &s->eval_data, s->with_float, &s->job.spec, &s->log};
    int rc = train.count ? ladder_climb(&in, &s->ladder, err) : err_set(err, ERR_USAGE, "%s holds no sample", files->images);
    memcpy(s->train_sha256, train.sha256, sizeof s->train_sha256);
    dataset_close(&train);
    if (rc < 0)
        return err_wrap(err, "quantizing");
    s->quantized = true;
    return 0;
}

/* ---- files ---- */
static bool has_files(const struct stage *s) { return s->job.spec.has_export && s->job.spec.export_to; }
static bool has_export(const struct stage *s) { return has_files(s) && s->model.graph; }
static bool has_triton(const struct stage *s) { return has_export(s) && s->job.spec.export_to & EXPORT_TRITON; }

static int write_model(struct stage *s, const struct exported_model *m, const char *name, struct published *out, struct err *err)
{
    char dir[PATH_MAX], file[PATH_MAX];
    unsigned to = s->job.spec.export_to;
    if (m->graph || m->quantized)
        TRY(measure_latency(m, &out->latency, err));
    TRY(path_in(s->attempt_dir, name, dir, err));
    TRY(exported_model_write(m, dir, to, err));
    out->file = to & (EXPORT_ONNX | EXPORT_TRITON) ? "model.onnx" : "model.safetensors";
    TRY(path_in(dir, out->file, file, err));
    TRY(file_sha256(file, out->sha256, &out->bytes, err));
    out->done = true;
    return 0;
}

static int write_float(struct stage *s, struct err *err) { return write_model(s, &s->model, "float", &s->floats, err); }
static int write_quantized(struct stage *s, struct err *err) { return write_model(s, &s->ladder.best, "quantized", &s->integers, err); }
static int write_triton(struct stage *s, struct err *err) { return triton_write(s, err); }
static int write_card(struct stage *s, struct err *err) { return card_write(s, err); }

static int publish(struct stage *s, struct err *err)
{
    const struct { const char *name; bool made; } folder[] = {
        {"float", s->floats.done}, {"quantized", s->integers.done}, {"triton", has_triton(s) && s->floats.done},
        {"serving", has_triton(s) && s->floats.done}, {"card", s->floats.done && s->model.graph}};
    for (unsigned i = 0; i < ARRAY_LEN(folder); i++)
        TRY(folder[i].made ? attempt_publish(s->export_dir, s->attempt_dir, folder[i].name, err) : attempt_withdraw(s->export_dir, folder[i].name, err));
    return 0;
}

/* After the result, which stands also when the registry cannot be reached; then the result again, with the version. */
static int enter(struct stage *s, struct err *err)
{
    struct registry *r;
    struct registry_version *v = calloc(1, sizeof *v);
    CHECK(v != NULL);
    int rc = registry_open(s->job.spec.registry, true, &r, err);
    if (rc == 0) {
        rc = registry_register(r, s->run, s->job.spec.registry_model, v, err);
        registry_close(r);
    }
    s->registered = v->version;
    free(v);
    return rc < 0 ? err_wrap(err, "the model is in %s but could not be registered; `viaduct models register %s` does it later", s->export_dir, s->run)
                  : result_publish(s, err);
}

static int publish_result(struct stage *s, struct err *err) { return result_publish(s, err); }

static int finish(struct stage *s, struct err *err)
{
    TRY(attempt_sweep(s->export_dir, err));   /* the files that were replaced */
    if (!s->quantized || stage_passed(s)) {
        log_info(&s->log, "step %llu evaluated and published", (unsigned long long)s->step);
        return 0;
    }
    const struct rung *r = stage_rung(s);
    return err_set(err, ERR_JOB, "the gate failed: of %u ways to quantize the best (%s) has accuracy %.4f, a drop of %.4f from the float model with a lower "
                   "95 %% bound of %+.4f, and export.gate.max_drop is %g; the float model is in %s/float; allow a larger drop, train longer, or leave out "
                   "export.quantize",
                   s->ladder.count, r->name, r->eval.accuracy, r->gate.drop, r->gate.low95, r->gate.max_drop, s->export_dir);
}

/* ---- the table ---- */
static bool always(const struct stage *s) { return s != NULL; }
static bool has_eval(const struct stage *s) { return s->job.spec.has_eval && s->model.graph; }
static bool has_registry(const struct stage *s) { return has_export(s) && s->job.spec.registry && (!s->job.spec.quantize.on || stage_passed(s)); }
static bool has_quantize(const struct stage *s) { return has_export(s) && s->job.spec.quantize.on; }

static const struct step { const char *name; bool (*wanted)(const struct stage *s); int (*run)(struct stage *s, struct err *err); } steps[] = {
    {"spec", always, load_spec},
    {"checkpoint", always, open_model},
    {"evaluate", has_eval, evaluate},
    {"quantize", has_quantize, quantize},
    {"float files", has_files, write_float},
    {"quantized files", stage_passed, write_quantized},
    {"triton", has_triton, write_triton},
    {"card", has_export, write_card},
    {"publish", always, publish},
    {"result", always, publish_result},
    {"registry", has_registry, enter},
    {"finish", always, finish},
};

/* What was made until then: on a full disk it would be in the way. */
static void clear_attempt(struct stage *s)
{
    struct err why = ERR_INIT;
    if (*s->attempt_dir && folder_remove(s->attempt_dir, &why) < 0)
        log_warn(&s->log, "%s", why.text);
}

int stage_run(struct stage *s, struct err *err)
{
    int rc = 0;
    for (unsigned i = 0; i < ARRAY_LEN(steps) && rc == 0; i++)
        if (steps[i].wanted(s)) {
            log_debug(&s->log, "step: %s", steps[i].name);
            rc = steps[i].run(s, err);
        }
    if (rc < 0)
        clear_attempt(s);
    return rc;
}

void stage_close(struct stage *s)
{
    ladder_close(&s->ladder);
    exported_model_close(&s->model);
    exported_model_close(&s->trained);
    dataset_close(&s->eval_data);
    free(s->with_float);
    job_fini(&s->job);
}
