/* `viaduct export`: the process that runs the stage after the last round, and the same stage for a person. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "export/stage.h"

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
    snprintf(who, sizeof who, "export %.40s/0", s->site);   /* as its agent has it; the attempts have a log each */
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
    stage_close(s);
    log_close(&s->log);
    free(s);
    return err_exit_code(rc);
}

/* ---- for a person ---- */
static void passed_over(void *log, const char *text) { log_warn((struct log *)log, "passed over: %s", text); }

static int newest(struct stage *s, struct ckpt_found *found, struct err *err)
{
    char root[PATH_MAX];
    struct ckpt_manifest m;
    TRY(path_in(s->run, "ckpt", root, err));
    TRY(ckpt_newest(&fs_real, root, found, &m, NULL, passed_over, &s->log, err));
    s->step = m.meta.step;
    s->generation = m.meta.generation;
    s->site = found->site;
    ckpt_manifest_fini(&m);
    return stage_run(s, err);
}

static bool names(const char *override, const char *key)
{
    size_t n = strlen(key);
    return strncmp(override, key, n) == 0 && (override[n] == '.' || override[n] == '=');
}

/* What was trained, and how, is over: card and report would say what never was. Where the data lies may change. */
static int check_overrides(const struct stage *s, struct err *err)
{
    char spec[PATH_MAX];
    struct err ignored = ERR_INIT;    /* the stage says what is wrong with its spec */
    for (unsigned i = 0; i < s->override_count; i++)
        if (!names(s->overrides[i], "export") && !names(s->overrides[i], "data"))
            return err_set(err, ERR_USAGE, "%.100s: the run is trained; here only export.* and data.* may be said anew", s->overrides[i]);
    TRY(path_in(s->run, "spec.yaml", spec, err));
    struct job *job = calloc(2, sizeof *job);
    CHECK(job != NULL);
    bool loaded = job_load(&job[0], spec, NULL, 0, false, &ignored) == 0 && job_load(&job[1], spec, s->overrides, s->override_count, false, &ignored) == 0;
    bool same = job[0].spec.prune.sparsity == job[1].spec.prune.sparsity && job[0].spec.prune.epochs == job[1].spec.prune.epochs;
    job_fini(&job[0]);
    job_fini(&job[1]);
    free(job);
    return same || !loaded ? 0 : err_set(err, ERR_USAGE, "export.prune is part of training and stays as it was here; `viaduct run --resume` adds it to a run that is over");
}

int export_run(const char *run_dir, const char *const *overrides, unsigned override_count, uint64_t *step, struct err *err)
{
    struct stage *s = calloc(1, sizeof *s);
    struct ckpt_found *found = calloc(1, sizeof *found);
    CHECK(s != NULL && found != NULL);
    s->run = run_dir;
    s->always = true;
    s->overrides = overrides;
    s->override_count = override_count;
    log_open(&s->log, NULL, "export", "");
    int rc = check_overrides(s, err);
    if (rc == 0)
        rc = newest(s, found, err);
    *step = s->step;
    stage_close(s);
    log_close(&s->log);
    free(found);
    free(s);
    return rc;
}
