/* Where a fresh start begins: the newest checkpoint that verifies, under any site's folder, and that the log has not taken back. */
#include "coordinator/shell.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define COPIES_LOOKED_AT 4096

struct generation { uint32_t number; uint64_t base; };
struct finding {
    struct shell *s;                  /* NULL: nobody is told what is passed over */
    unsigned damaged;
    char first[600];
    struct generation *later;         /* every generation of the log: each voids what older ones made above its base */
    size_t count, room;
};

static void on_damaged(void *arg, const char *text)
{
    struct finding *f = arg;
    if (f->damaged++ == 0)
        snprintf(f->first, sizeof f->first, "%s", text);
    if (!f->s)
        return;
    log_warn(&f->s->log, "a damaged checkpoint is passed over: %s", text);
    shell_event(f->s, "damaged", "coordinator", 0, "%s", text);
}

static int note_generation(void *arg, const struct log_entry *e, const void *blob, size_t blob_size, struct err *err)
{
    struct finding *f = arg;
    (void)blob, (void)blob_size, (void)err;
    if (e->kind != LOG_VIEW || (f->count && f->later[f->count - 1].number == e->u.view.generation))
        return 0;
    if (f->count == f->room) {
        f->room = f->room ? 2 * f->room : 16;
        f->later = realloc(f->later, f->room * sizeof *f->later);
        CHECK(f->later != NULL);
    }
    f->later[f->count++] = (struct generation){e->u.view.generation, e->u.view.base};
    return 0;
}

/* Left where nobody answered when the run went back below it. */
static bool is_void(void *arg, const struct ckpt_found *found)
{
    struct finding *f = arg;
    for (size_t i = 0; i < f->count; i++)
        if (core_annuls(f->later[i].number, f->later[i].base, found->generation, found->step)) {
            if (f->s)
                shell_event(f->s, "void", "coordinator", found->step, "the checkpoint at %s is passed over: the run went back to step %llu after it", found->site,
                            (unsigned long long)f->later[i].base);
            return true;
        }
    return false;
}

unsigned shell_site(const struct shell *s, const char *name)
{
    unsigned i = 0;
    while (i < s->job.spec.site_count && strcmp(s->job.spec.sites[i].name, name) != 0)
        i++;
    return i;
}

/* The other copies of the one we start from: those that verify are told in the report, those that do not are named. */
static void verify_copies(struct finding *f, const char *root, const struct ckpt_found *base)
{
    struct err err = ERR_INIT;
    struct ckpt_manifest m;
    uint32_t count = 0;
    struct ckpt_found *all = calloc(COPIES_LOOKED_AT, sizeof *all);
    CHECK(all != NULL);
    if (ckpt_list(root, all, COPIES_LOOKED_AT, &count, &err) < 0)
        log_warn(&f->s->log, "%s", err.text);
    for (uint32_t i = 0; i < count; i++) {
        bool copy = all[i].published && all[i].step == base->step && strcmp(all[i].site, base->site) != 0;
        if (!copy)
            continue;
        int opened = ckpt_open(&fs_real, all[i].dir, &m, &err), rc = opened;
        if (opened == 0) {
            rc = ckpt_verify(&fs_real, all[i].dir, &m, &err);
            ckpt_manifest_fini(&m);
        }
        if (rc == 0 && all[i].generation == base->generation && shell_site(f->s, all[i].site) < REPORT_SITES_MAX)
            f->s->report.checkpoint_sites |= 1ull << shell_site(f->s, all[i].site);
        else if (rc < 0)
            on_damaged(f, err.text);
    }
    free(all);
}

static void start_from(struct shell *s, const struct ckpt_found *found, const struct ckpt_meta *meta)
{
    s->config.checkpoint.have = true;
    s->config.checkpoint.step = meta->step;
    s->config.checkpoint.generation = meta->generation;
    s->config.checkpoint.view = meta->view;
    s->config.checkpoint.pass = meta->pass;
    s->config.checkpoint.first = meta->position;
    s->report.have_checkpoint = true;
    s->report.checkpoint_step = meta->step;
    snprintf(s->report.checkpoint_path, sizeof s->report.checkpoint_path, "ckpt/%s/step-%08llu", found->site, (unsigned long long)found->step);
    if (shell_site(s, found->site) < REPORT_SITES_MAX)
        s->report.checkpoint_sites = 1ull << shell_site(s, found->site);
    shell_event(s, "resumed", "coordinator", meta->step, "from %s", s->report.checkpoint_path);
}

static int only_damaged(const struct finding *f, int code, struct err *err)
{
    return err_set(err, code, "the only copies of this run's checkpoints are damaged; first: %s. Bring back a copy of that folder, or start anew in another --dir", f->first);
}

int coordinator_base(const char *run_dir, struct ckpt_found *out, struct err *err)
{
    char path[700];
    struct decision_log *db;
    struct ckpt_manifest m;
    struct finding f = {0};
    snprintf(path, sizeof path, "%s/log/decisions.db", run_dir);
    if (access(path, F_OK) == 0 && decision_log_sqlite.open(path, &db, err) == 0) {
        if (decision_log_sqlite.replay(db, note_generation, &f, err) < 0)
            f.count = 0;                  /* a resume puts a damaged log aside */
        decision_log_sqlite.close(db);
    }
    snprintf(path, sizeof path, "%s/ckpt", run_dir);
    int rc = ckpt_newest_present(&fs_real, path, out, &m, is_void, on_damaged, &f, err);
    if (rc == 0)
        ckpt_manifest_fini(&m);
    else if (rc == ERR_NOT_FOUND && f.damaged)
        rc = only_damaged(&f, ERR_CORRUPT, err);
    free(f.later);
    return rc;
}

static int find(struct finding *f, struct err *err)
{
    struct shell *s = f->s;
    char root[700];
    struct ckpt_found found;
    struct ckpt_manifest m;
    snprintf(root, sizeof root, "%s/ckpt", s->run.path);
    int rc = ckpt_newest(&fs_real, root, &found, &m, is_void, on_damaged, f, err);
    if (rc == ERR_NOT_FOUND && f->damaged)
        return only_damaged(f, ERR_NOT_FOUND, err);
    if (rc == ERR_NOT_FOUND)
        return 0;
    TRY(rc);
    rc = job_resume_trained(&s->job.spec, m.meta.step, strcmp(m.meta.phase, phase_name(PHASE_PRUNE)) == 0, m.meta.samples_per_pass, err);
    if (rc == 0)
        start_from(s, &found, &m.meta);
    ckpt_manifest_fini(&m);
    TRY(rc);
    verify_copies(f, root, &found);
    return 0;
}

int shell_find_base(struct shell *s, struct err *err)
{
    struct finding f = {.s = s};
    int rc = decision_log_sqlite.replay(s->db, note_generation, &f, err);
    if (rc == 0)
        rc = find(&f, err);
    free(f.later);
    return rc;
}
