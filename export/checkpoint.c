/* Which checkpoints the stage works on: the last step's, and what phase train ended with when pruning followed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "export/stage.h"

#define FOUND_MAX 4096

/* generation 0: any. */
static int open_found(struct stage *s, const struct ckpt_found *f, uint64_t step, uint32_t generation, struct exported_model *out, struct err *err)
{
    struct ckpt_manifest m;
    TRY(ckpt_open(&fs_real, f->dir, &m, err));
    int rc = (m.meta.generation == generation || generation == 0) && m.meta.step == step
                 ? checkpoint_load(f->dir, &m, out, err)
                 : err_set(err, ERR_NOT_FOUND, "%s is of generation %u", f->dir, m.meta.generation);
    s->samples_per_pass = m.meta.samples_per_pass;
    snprintf(s->job_id, sizeof s->job_id, "%s", m.meta.job_id);
    snprintf(s->data_sha256, sizeof s->data_sha256, "%s", m.meta.data_sha256);
    ckpt_manifest_fini(&m);
    return rc;
}

/* Own site first: its copy is near. A damaged copy is passed over and named. */
static int open_any(struct stage *s, const struct ckpt_found *all, uint32_t count, uint64_t step, uint32_t generation, struct exported_model *out,
                    struct err *err)
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
    uint32_t newest = 0;                  /* generation: an older one's copy of that step is void */
    for (uint32_t i = 0; i < count; i++)
        if (all[i].published && all[i].step == step)
            newest = MAX(newest, all[i].generation);
    return job_prune_steps(&s->job.spec, s->samples_per_pass) && step < s->step ? open_any(s, all, count, step, newest, &s->trained, err) : 0;
}

int stage_open_checkpoints(struct stage *s, struct err *err)
{
    char root[PATH_MAX];
    uint32_t count = 0;
    struct ckpt_found *all = calloc(FOUND_MAX, sizeof *all);
    if (!all)
        return err_set(err, ERR_NO_MEMORY, "no memory to list checkpoints");
    snprintf(root, sizeof root, "%s/ckpt", s->run);
    int rc = ckpt_list(root, all, FOUND_MAX, &count, err);
    if (rc == 0 || count > 0)             /* another site's folder may be out of reach */
        rc = open_any(s, all, count, s->step, s->generation, &s->model, err);
    if (rc == 0)
        rc = open_trained(s, all, count, err);
    free(all);
    return rc;
}
