/* `viaduct eval` and `viaduct export`: a trained model measured, and written for others. */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/base.h"
#include "ckpt/ckpt.h"
#include "cli/cli.h"
#include "cli/rundirs.h"
#include "export/export.h"
#include "report/report.h"

static bool has(const char *dir, const char *name)
{
    char path[PATH_MAX];
    struct stat st;
    return snprintf(path, sizeof path, "%s/%s", dir, name) < (int)sizeof path && stat(path, &st) == 0;
}

static bool is_run(const char *path) { return !has(path, "manifest.json") && has(path, "ckpt"); }

static void passed_over(void *verb, const char *text) { fprintf(stderr, "viaduct %s: passed over: %s\n", *(const char *const *)verb, text); }

/* MODEL on the command line: a run (its newest checkpoint that verifies), a checkpoint, or an ONNX file. */
static int open_model(const char *verb, const char *path, struct exported_model *out, char from[PATH_MAX], struct err *err)
{
    snprintf(from, PATH_MAX, "%s", path);
    if (is_run(path)) {
        char root[PATH_MAX];
        struct ckpt_found found;
        struct ckpt_manifest m;
        if (snprintf(root, sizeof root, "%s/ckpt", path) >= (int)sizeof root)
            return err_set(err, ERR_USAGE, "the path %s is too long", path);
        TRY(ckpt_newest(&fs_real, root, &found, &m, NULL, passed_over, &verb, err));
        ckpt_manifest_fini(&m);
        snprintf(from, PATH_MAX, "%s", found.dir);
    }
    return exported_model_open(from, out, err);
}

/* ---- eval ---- */
static int eval(const char *path, const struct job_spec *spec, bool json, struct err *err)
{
    struct exported_model m;
    struct evaluation e;
    char from[PATH_MAX], quoted[2 * PATH_MAX], loss[40] = "null", accuracy[NUMBER_TEXT_BYTES];
    TRY(open_model("eval", path, &m, from, err));
    int rc = exported_model_evaluate(&m, spec, 0, &e, err);
    exported_model_close(&m);
    if (rc < 0)
        return rc;
    json_quote(quoted, sizeof quoted, from);
    if (isfinite(e.loss))
        number_text(loss, e.loss);
    number_text(accuracy, e.accuracy);
    if (json)
        printf("{\"accuracy\":%s,\"loss\":%s,\"model\":%s,\"samples\":%llu}\n", accuracy, loss, quoted, (unsigned long long)e.samples);
    else
        printf("%s\n  loss %.6f, accuracy %.4f over %llu samples\n", from, e.loss, e.accuracy, (unsigned long long)e.samples);
    return fflush(stdout) == 0 ? 0 : err_set(err, ERR_IO, "the result could not be written to stdout");
}

/* The spec of the data: given, or the run's own. */
static int spec_of(const struct args *a, char out[PATH_MAX], struct err *err)
{
    const char *model = a->positional[0], *data = args_value(a, "--data");
    if (!data && !(is_run(model) && has(model, "spec.yaml")))
        return err_set(err, ERR_USAGE, "--data SPEC is needed: its data.eval is what %s is measured on", model);
    int n = data ? snprintf(out, PATH_MAX, "%s", data) : snprintf(out, PATH_MAX, "%s/spec.yaml", model);
    return n < PATH_MAX ? 0 : err_set(err, ERR_USAGE, "the path of the spec is too long");
}

int verb_eval(int argc, char **argv)
{
    struct args a;
    struct err err = ERR_INIT;
    char file[PATH_MAX];
    int rc = args_parse(&a, argc, argv, &err);
    if (rc == 0 && a.positional_count != 1)
        rc = err_set(&err, ERR_USAGE, "one model is needed: viaduct eval RUN|CKPT|FILE.onnx --data SPEC [--json] [key.path=value ...]");
    if (rc == 0)
        rc = spec_of(&a, file, &err);
    if (rc < 0)
        return cli_fail("eval", &err);
    struct job *job = calloc(1, sizeof *job);
    CHECK(job != NULL);
    rc = cli_load_spec("eval", job, file, &a, false);
    if (rc == 0 && (rc = eval(a.positional[0], &job->spec, args_value(&a, "--json") != NULL, &err)) < 0)
        cli_fail("eval", &err);
    job_fini(job);
    free(job);
    return err_exit_code(rc);
}

/* ---- export ---- */
#define FILES_MAX 8

static int print_files(const char *model, const char *dir, bool json, struct err *err)
{
    static const char *const name[FILES_MAX] = {"model.onnx", "model.safetensors", "float/model.onnx", "float/model.safetensors", "quantized/model.onnx",
                                                "quantized/model.safetensors", "triton", "card/model-card.html"};
    char quoted[2 * PATH_MAX], path[PATH_MAX];
    json_quote(quoted, sizeof quoted, model);
    if (json)
        printf("{\"files\":[");
    for (unsigned i = 0, n = 0; i < FILES_MAX; i++) {
        char file[2 * PATH_MAX];
        if (!has(dir, name[i]))
            continue;
        if (snprintf(path, sizeof path, "%s/%s", dir, name[i]) >= (int)sizeof path)
            return err_set(err, ERR_USAGE, "the path %s is too long", dir);
        json_quote(file, sizeof file, path);
        if (json)
            printf("%s%s", n++ ? "," : "", file);
        else
            printf("%s\n", path);
    }
    if (json)
        printf("],\"model\":%s}\n", quoted);
    return fflush(stdout) == 0 ? 0 : err_set(err, ERR_IO, "the paths could not be written to stdout");
}

/* A run by its own spec: everything that the run itself would have made, in its place; its report is renewed. */
static int export_whole(const char *run, const struct args *a, struct err *err)
{
    char dir[PATH_MAX];
    uint64_t step = 0;
    int lock;
    if (snprintf(dir, sizeof dir, "%s/export", run) >= (int)sizeof dir)
        return err_set(err, ERR_USAGE, "the path %s is too long", run);
    TRY(rundirs_hold(run, &lock, err));
    int rc = export_run(run, a->override, a->override_count, &step, err);
    struct err why = ERR_INIT;
    int renewed = rc == 0 || rc == ERR_JOB ? report_renew(run, &why) : 0;    /* a gate that failed is in the result, too */
    rundirs_let_go(lock);
    if (rc == 0 && renewed < 0)
        return *err = why, err->code;
    return rc < 0 ? rc : print_files(run, dir, args_value(a, "--json") != NULL, err);
}

static int export_files(const char *path, const char *dir, bool json, struct err *err)
{
    struct exported_model m;
    char from[PATH_MAX];
    const char *why;
    TRY(open_model("export", path, &m, from, err));
    unsigned formats = exported_model_formats(&m, EXPORT_ONNX | EXPORT_SAFETENSORS, &why);
    int rc = exported_model_write(&m, dir, formats, err);
    exported_model_close(&m);
    if (rc == 0 && why)
        fprintf(stderr, "viaduct export: %s\n", why);
    return rc < 0 ? rc : print_files(from, dir, json, err);
}

int verb_export(int argc, char **argv)
{
    struct args a;
    struct err err = ERR_INIT;
    if (argc > 1 && strcmp(argv[1], "--run") == 0)
        return export_main(argc, argv);   /* the process that an agent starts, not a person's verb */
    int rc = args_parse(&a, argc, argv, &err);
    const char *out = args_value(&a, "--out");
    bool whole = rc == 0 && a.positional_count == 1 && !out && is_run(a.positional[0]) && has(a.positional[0], "spec.yaml");
    if (rc == 0 && (a.positional_count != 1 || (a.override_count && !whole)))
        rc = err_set(&err, ERR_USAGE, "one model is needed: viaduct export RUN [key.path=value ...] [--json], or viaduct export RUN|CKPT [--out DIR] [--json]");
    if (rc == 0)
        rc = whole ? export_whole(a.positional[0], &a, &err) : export_files(a.positional[0], out ? out : "exported", args_value(&a, "--json") != NULL, &err);
    return rc < 0 ? cli_fail("export", &err) : 0;
}
