/* Checkpoint folders: ROOT/<site>/step-NNNNNNNN/. */
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ckpt/h5.h"

#define FOUND_MAX 4096

static bool step_of(const char *name, uint64_t *step)
{
    char *end;
    if (strncmp(name, "step-", 5) != 0 || strlen(name) < 6)
        return false;
    *step = strtoull(name + 5, &end, 10);
    return *end == '\0';
}

static int newest_first(const void *a, const void *b)
{
    const struct ckpt_found *x = a, *y = b;
    if (x->step != y->step)
        return x->step > y->step ? -1 : 1;
    if (x->generation != y->generation)
        return x->generation > y->generation ? -1 : 1;
    return strcmp(x->site, y->site);
}

struct list {
    struct ckpt_found *out;
    uint32_t max, *count;
    const uint64_t *only;             /* of one step; NULL: all */
    struct err unreadable;            /* the first folder that cannot be looked into; code 0: none */
};

/* When there is no more room, the oldest makes some. NULL: this one is older. */
static struct ckpt_found *room_for(struct list *l, uint64_t step)
{
    struct ckpt_found *oldest = l->out;
    if (*l->count < l->max)
        return &l->out[(*l->count)++];
    for (uint32_t i = 1; i < l->max; i++)
        if (l->out[i].step < oldest->step)
            oldest = &l->out[i];
    return oldest->step < step ? oldest : NULL;
}

static void list_site(const char *dir, const char *site, struct list *l)
{
    DIR *d = opendir(dir);
    if (!d && errno != ENOTDIR && l->unreadable.code == 0)
        err_errno(&l->unreadable, errno, "cannot look for checkpoints in %s", dir);
    if (!d)
        return;
    for (struct dirent *e; (e = readdir(d));) {
        struct ckpt_found f = {0}, *at;
        struct err none = ERR_INIT;
        if (!step_of(e->d_name, &f.step) || (l->only && f.step != *l->only) || snprintf(f.dir, sizeof f.dir, "%s/%s", dir, e->d_name) >= (int)sizeof f.dir)
            continue;
        at = room_for(l, f.step);
        if (!at)
            continue;
        snprintf(f.site, sizeof f.site, "%.63s", site);
        struct ckpt_manifest m;
        char path[1100];
        snprintf(path, sizeof path, "%s/manifest.json", f.dir);
        int64_t size = fs_real.size(fs_real.state, path);
        f.published = size != -ENOENT && size != -ENOTDIR;   /* a damaged manifest is still there: opening it names the damage */
        if (f.published && ckpt_open(&fs_real, f.dir, &m, &none) == 0) {
            f.generation = m.meta.generation;
            ckpt_manifest_fini(&m);
        }
        *at = f;
    }
    closedir(d);
}

static int list_all(const char *root, struct list *l, struct err *err)
{
    DIR *d = opendir(root);
    if (!d)
        return err_errno(err, errno, "cannot list checkpoints in %s", root);
    *l->count = 0;
    for (struct dirent *e; (e = readdir(d));) {
        char dir[1024];
        if (e->d_name[0] != '.' && snprintf(dir, sizeof dir, "%s/%s", root, e->d_name) < (int)sizeof dir)
            list_site(dir, e->d_name, l);
    }
    closedir(d);
    qsort(l->out, *l->count, sizeof *l->out, newest_first);
    return 0;
}

int ckpt_list(const char *root, struct ckpt_found *out, uint32_t max, uint32_t *count, struct err *err)
{
    struct list l = {.out = out, .max = max, .count = count};
    TRY(list_all(root, &l, err));
    return l.unreadable.code ? *err = l.unreadable, err->code : 0;
}

int ckpt_list_step(const char *root, uint64_t step, struct ckpt_found *out, uint32_t max, uint32_t *count, struct err *err)
{
    struct list l = {.out = out, .max = max, .count = count, .only = &step};
    TRY(list_all(root, &l, err));
    return l.unreadable.code ? *err = l.unreadable, err->code : 0;
}

/* A rollback that went below it took it back: there are ones of a newer generation, all of them below. */
static bool superseded(const struct ckpt_found *f, const struct ckpt_found *all, uint32_t count)
{
    const struct ckpt_found *newest = f;
    for (uint32_t i = 0; i < count; i++)
        if (all[i].published && (all[i].generation > newest->generation || (all[i].generation == newest->generation && all[i].step > newest->step)))
            newest = &all[i];
    return newest->generation > f->generation && newest->step < f->step;
}

struct wanted {                       /* which checkpoint is looked for, and who is told what is passed over */
    int (*check)(const struct fs *fs, const char *dir, const struct ckpt_manifest *m, struct err *err);
    bool (*is_void)(void *arg, const struct ckpt_found *found);
    void (*damaged)(void *arg, const char *text);
    void *arg;
};

static int newest(const struct fs *fs, const char *root, const struct wanted *w, struct ckpt_found *out, struct ckpt_manifest *manifest, struct err *err)
{
    uint32_t count;
    struct ckpt_found *all = calloc(FOUND_MAX, sizeof *all);
    if (!all)
        return err_set(err, ERR_NO_MEMORY, "no memory to list checkpoints");
    struct list l = {.out = all, .max = FOUND_MAX, .count = &count};
    int rc = list_all(root, &l, err);
    bool found = false;
    if (rc == 0 && l.unreadable.code && w->damaged)
        w->damaged(w->arg, l.unreadable.text);
    for (uint32_t i = 0; rc == 0 && i < count && !found; i++) {
        struct err why = ERR_INIT;
        struct ckpt_manifest m;
        if (!all[i].published || (w->is_void ? w->is_void(w->arg, &all[i]) : superseded(&all[i], all, count)))
            continue;
        int opened = ckpt_open(fs, all[i].dir, &m, &why);
        if (opened == 0 && w->check(fs, all[i].dir, &m, &why) == 0) {
            *out = all[i];
            *manifest = m;
            found = true;
        } else {
            if (opened == 0)
                ckpt_manifest_fini(&m);
            if (w->damaged)
                w->damaged(w->arg, why.text);
        }
    }
    free(all);
    if (rc < 0)
        return rc;
    return found ? 0 : err_set(err, ERR_NOT_FOUND, "no checkpoint under %s verifies", root);
}

int ckpt_newest(const struct fs *fs, const char *root, struct ckpt_found *out, struct ckpt_manifest *manifest,
                bool (*is_void)(void *arg, const struct ckpt_found *found), void (*damaged)(void *arg, const char *text), void *arg, struct err *err)
{
    return newest(fs, root, &(struct wanted){ckpt_verify, is_void, damaged, arg}, out, manifest, err);
}

int ckpt_newest_present(const struct fs *fs, const char *root, struct ckpt_found *out, struct ckpt_manifest *manifest,
                        bool (*is_void)(void *arg, const struct ckpt_found *found), void (*damaged)(void *arg, const char *text), void *arg, struct err *err)
{
    return newest(fs, root, &(struct wanted){ckpt_present, is_void, damaged, arg}, out, manifest, err);
}

static int remove_folder(const struct fs *fs, const char *dir, struct err *err)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/manifest.json", dir);
    fs->unlink(fs->state, path);   /* first: without it the folder is no checkpoint any more */
    DIR *d = opendir(dir);
    if (!d)
        return err_errno(err, errno, "cannot open %s", dir);
    for (struct dirent *e; (e = readdir(d));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 && snprintf(path, sizeof path, "%s/%s", dir, e->d_name) < (int)sizeof path)
            fs->unlink(fs->state, path);
    closedir(d);
    int rc = fs->rmdir(fs->state, dir);
    return rc < 0 && rc != -ENOENT ? err_errno(err, -rc, "cannot remove %s", dir) : 0;
}

int ckpt_prune(const struct fs *fs, const char *site_dir, uint32_t keep, uint64_t always, struct err *err)
{
    uint32_t count = 0, kept = 0;
    uint64_t oldest_kept = UINT64_MAX;
    struct ckpt_found *all = calloc(FOUND_MAX, sizeof *all);
    if (!all)
        return err_set(err, ERR_NO_MEMORY, "no memory to list checkpoints");
    struct list l = {.out = all, .max = FOUND_MAX, .count = &count};
    list_site(site_dir, "", &l);
    qsort(all, count, sizeof *all, newest_first);
    for (uint32_t i = 0; i < count && kept < (keep ? keep : 1); i++)
        if (all[i].published && !superseded(&all[i], all, count)) {
            struct err none = ERR_INIT;
            struct ckpt_manifest m;
            if (ckpt_open(fs, all[i].dir, &m, &none) < 0)
                continue;   /* a damaged one is no reason to lose a good one */
            ckpt_manifest_fini(&m);
            kept++;
            oldest_kept = all[i].step;
        }
    int rc = 0;
    for (uint32_t i = 0; i < count && rc == 0 && kept; i++)
        if (all[i].step < oldest_kept && all[i].step != always)
            rc = remove_folder(fs, all[i].dir, err);
    free(all);
    return rc;
}

static int copy_part(const struct fs *fs, const char *from_dir, const char *to_dir, const struct ckpt_manifest *m, uint32_t p, struct err *err)
{
    char name[64], from[PATH_MAX], to[PATH_MAX];
    void *bytes;
    size_t size;
    uint8_t digest[SHA256_BYTES];
    struct err none = ERR_INIT;
    part_name(m->meta.generation, m->meta.step, m->part[p].index, name);
    snprintf(from, sizeof from, "%s/%s", from_dir, name);
    snprintf(to, sizeof to, "%s/%s", to_dir, name);
    for (int turn = 0; turn < 2; turn++) {   /* what is there already and verifies is not fetched again */
        if (fs_read_file(fs, turn ? from : to, (size_t)64 << 30, &bytes, &size, turn ? err : &none) < 0) {
            if (turn)
                return err->code;
            continue;
        }
        sha256_of(bytes, size, digest);
        bool good = size == m->part[p].size_bytes && memcmp(digest, m->part[p].sha256, sizeof digest) == 0;
        int rc = !good ? 1 : turn ? fs_publish_file(fs, to, bytes, size, err) : 0;
        free(bytes);
        if (rc <= 0)
            return rc;
    }
    return err_set(err, ERR_CORRUPT, "part %s of the checkpoint is damaged", from);
}

int ckpt_copy(const struct fs *fs, const char *from_dir, const char *to_dir, struct err *err)
{
    struct ckpt_manifest m;
    TRY(ckpt_open(fs, from_dir, &m, err));
    int rc = fs_mkdirs(fs, to_dir, err);
    for (uint32_t p = 0; p < m.part_count && rc == 0; p++)
        rc = copy_part(fs, from_dir, to_dir, &m, p, err);
    if (rc == 0)
        rc = ckpt_publish(fs, to_dir, &m, err);
    ckpt_manifest_fini(&m);
    return rc;
}
