#include "export/registry_files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "export/parts.h"
#include "export/serving.h"

#define MODEL_MAX ((size_t)8 << 30)
#define TEXT_MAX (1u << 20)

static int path_of(char out[PATH_MAX], struct err *err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static int path_of(char out[PATH_MAX], struct err *err, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(out, PATH_MAX, fmt, ap);
    va_end(ap);
    return n < PATH_MAX ? 0 : err_set(err, ERR_FAILED, "the path %.200s... is too long", out);
}

/* Whose own name is on the disk, too. */
static int make_durable(const char *dir, struct err *err)
{
    TRY(fs_mkdirs(&fs_real, dir, err));
    return fs_fsync_parent(&fs_real, dir, err);
}

int registry_stage(const char *root, struct err *err)
{
    char staging[PATH_MAX];
    TRY(path_of(staging, err, "%s/staging", root));
    TRY(folder_remove(staging, err));
    return fs_mkdirs(&fs_real, staging, err);
}

/* ---- the store ---- */
static int verify_file(const char *path, const struct registry_version *v, struct err *err)
{
    char sha256[SHA256_HEX];
    int64_t bytes;
    TRY(file_sha256(path, sha256, &bytes, err));
    return strcmp(sha256, v->sha256) == 0 ? 0 : err_set(err, ERR_CORRUPT, "%s is damaged: sha256 %.12s..., registered was %.12s...", path, sha256, v->sha256);
}

static int copy_file(const char *from, const char *to, struct err *err)
{
    void *bytes;
    size_t size;
    TRY(fs_read_file(&fs_real, from, MODEL_MAX, &bytes, &size, err));
    int rc = fs_write_file(&fs_real, to, bytes, size, err);
    free(bytes);
    return rc;
}

/* Also after a failure: on a full disk it would be in the way. */
static int clear_stage(const char *root, int rc, struct err *err)
{
    char staging[PATH_MAX];
    struct err why = ERR_INIT;
    int cleared = path_of(staging, &why, "%s/staging", root);
    if (cleared == 0)
        cleared = folder_remove(staging, &why);
    if (rc == 0 && cleared < 0)
        *err = why;
    return rc < 0 ? rc : cleared;
}

int registry_store_check(const char *root, const struct registry_version *v, struct err *err)
{
    char of_model[PATH_MAX];
    int rc = 0;
    TRY(path_of(of_model, err, "%s/store/%s", root, v->model));
    DIR *d = opendir(of_model);
    if (!d)
        return errno == ENOENT ? 0 : err_errno(err, errno, "cannot open %s", of_model);
    for (struct dirent *e; rc == 0 && (e = readdir(d));)
        if (strtoll(e->d_name, NULL, 10) > v->version)
            rc = err_set(err, ERR_CONFLICT, "%s/%.20s is of a version that registry.db does not know: a newer one was lost; put that back, or move the folder away", of_model,
                         e->d_name);
    closedir(d);
    return rc;
}

static int store(const char *root, const struct registry_version *v, const char *file, struct err *err)
{
    char staging[PATH_MAX], folder[PATH_MAX], copy[PATH_MAX], stores[PATH_MAX], of_model[PATH_MAX], number[24];
    snprintf(number, sizeof number, "%lld", (long long)v->version);
    TRY(registry_stage(root, err));
    TRY(path_of(staging, err, "%s/staging", root));
    TRY(path_of(folder, err, "%s/%s", staging, number));
    TRY(path_of(copy, err, "%s/model.onnx", folder));
    TRY(path_of(stores, err, "%s/store", root));
    TRY(path_of(of_model, err, "%s/%s", stores, v->model));
    TRY(make_durable(stores, err));
    TRY(make_durable(of_model, err));
    TRY(fs_mkdirs(&fs_real, folder, err));
    TRY(copy_file(file, copy, err));
    TRY(verify_file(copy, v, err));
    return attempt_publish(of_model, staging, number, err);
}

int registry_store(const char *root, const struct registry_version *v, const char *file, struct err *err)
{
    return clear_stage(root, store(root, v, file, err), err);
}

int registry_store_verify(const char *root, const struct registry_version *v, struct err *err)
{
    char path[PATH_MAX];
    TRY(path_of(path, err, "%s/store/%s/%lld/model.onnx", root, v->model, (long long)v->version));
    int rc = verify_file(path, v, err);
    if (rc == ERR_NOT_FOUND)
        err->code = rc = ERR_CORRUPT;
    return rc;
}

/* ---- what a server reads ---- */
static bool is_champion(const struct registry_alias *a) { return strcmp(a->name, REGISTRY_CHAMPION) == 0; }

static void folder_of(const struct registry_alias *a, char out[2 * REGISTRY_NAME_MAX + 1])
{
    bool champion = is_champion(a);
    snprintf(out, 2 * REGISTRY_NAME_MAX + 1, "%s%s%s", a->model, champion ? "" : ".", champion ? "" : a->name);   /* no name holds a dot */
}

static struct served served_of(const struct registry_version *v, const char *folder, const char *dockerfile)
{
    return (struct served){.folder = folder, .model = v->model, .version = v->version, .channels = v->channels, .height = v->height, .width = v->width,
                           .classes = v->classes, .sha256 = v->sha256, .dockerfile = dockerfile};
}

/* The same bytes under another name, or a copy where there are no hard links. */
static int share_file(const char *from, const char *to, struct err *err)
{
    return link(from, to) == 0 ? 0 : copy_file(from, to, err);
}

struct place { char staging[PATH_MAX], made[PATH_MAX], triton[PATH_MAX], final[PATH_MAX], folder[2 * REGISTRY_NAME_MAX + 1], number[24]; struct served served; };

static int place_of(const char *root, const struct registry_alias *a, const struct registry_version *v, struct place *p, struct err *err)
{
    folder_of(a, p->folder);
    snprintf(p->number, sizeof p->number, "%lld", (long long)v->version);
    p->served = served_of(v, p->folder, "serving/Dockerfile");
    TRY(path_of(p->staging, err, "%s/staging", root));
    TRY(path_of(p->made, err, "%s/staging/%s", root, p->folder));
    TRY(path_of(p->triton, err, "%s/triton", root));
    return path_of(p->final, err, "%s/triton/%s", root, p->folder);
}

/* staging/FOLDER: labels.txt, config.pbtxt, VERSION/model.onnx. */
static int make_folder(const char *root, const struct registry_version *v, const struct place *p, struct err *err)
{
    char dir[PATH_MAX], from[PATH_MAX], to[PATH_MAX];
    struct page config = {0}, labels = {0};
    TRY(path_of(dir, err, "%s/%s", p->made, p->number));
    TRY(path_of(to, err, "%s/model.onnx", dir));
    TRY(path_of(from, err, "%s/store/%s/%s/model.onnx", root, v->model, p->number));
    TRY(fs_mkdirs(&fs_real, dir, err));
    TRY(share_file(from, to, err));
    TRY(fs_fsync_dir(&fs_real, dir, err));
    serving_labels(&p->served, &labels);
    TRY(page_publish(&labels, p->made, "labels.txt", err));
    serving_config(&p->served, &config);
    return page_publish(&config, p->made, "config.pbtxt", err);
}

static bool is_folder(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* Into a folder that servers read already. */
static int take_turn(const struct registry_version *v, const struct place *p, struct err *err)
{
    static const char *const text[] = {"labels.txt", "config.pbtxt"};   /* which names the version: last */
    char file[PATH_MAX], made[PATH_MAX], final[PATH_MAX];
    struct err damaged = ERR_INIT;   /* then it is replaced */
    TRY(path_of(file, err, "%s/%s/model.onnx", p->final, p->number));
    if (verify_file(file, v, &damaged) < 0)
        TRY(attempt_publish(p->final, p->made, p->number, err));
    failpoint(FAIL_REGISTRY_RENDER);
    for (unsigned i = 0; i < ARRAY_LEN(text); i++) {
        TRY(path_of(made, err, "%s/%s", p->made, text[i]));
        TRY(path_of(final, err, "%s/%s", p->final, text[i]));
        if (rename(made, final) < 0)
            return err_errno(err, errno, "cannot rename %s to %s", made, final);
    }
    return fs_fsync_dir(&fs_real, p->final, err);
}

struct manifests { char dockerfile[REGISTRY_NAME_MAX + 40]; struct served served; };

static const struct served *manifests_of(const struct registry_version *v, struct manifests *m)
{
    snprintf(m->dockerfile, sizeof m->dockerfile, "serving/%s/Dockerfile", v->model);
    m->served = served_of(v, v->model, m->dockerfile);
    return &m->served;
}

static int render_manifests(const char *root, const struct place *p, const struct registry_version *v, struct err *err)
{
    char serving[PATH_MAX], staged[PATH_MAX], dir[PATH_MAX];
    struct manifests m;
    TRY(path_of(serving, err, "%s/serving", root));
    TRY(path_of(staged, err, "%s/manifests", p->staging));
    TRY(path_of(dir, err, "%s/%s", staged, v->model));
    TRY(make_durable(serving, err));
    TRY(serving_write(manifests_of(v, &m), dir, err));
    return attempt_publish(serving, staged, v->model, err);
}

int registry_render(const char *root, const struct registry_alias *a, const struct registry_version *v, struct err *err)
{
    struct place *p = malloc(sizeof *p);
    CHECK(p != NULL);
    int rc = place_of(root, a, v, p, err);
    if (rc == 0)
        rc = registry_stage(root, err);
    if (rc == 0)
        rc = make_durable(p->triton, err);
    if (rc == 0)
        rc = make_folder(root, v, p, err);
    if (rc == 0)
        rc = is_folder(p->final) ? take_turn(v, p, err) : attempt_publish(p->triton, p->staging, p->folder, err);
    if (rc == 0 && is_champion(a))
        rc = render_manifests(root, p, v, err);
    rc = clear_stage(root, rc, err);
    free(p);
    return rc < 0 ? err_wrap(err, "rendering version %lld of '%s' for servers", (long long)v->version, v->model) : 0;
}

/* A page against DIR/NAME; frees it. */
static int verify_text(const char *dir, const char *name, struct page *want, struct err *err)
{
    char path[PATH_MAX];
    void *have = NULL;
    size_t size = 0;
    int rc = path_of(path, err, "%s/%s", dir, name);
    if (rc == 0)
        rc = fs_read_file(&fs_real, path, TEXT_MAX, &have, &size, err);
    if (rc == 0 && (want->failed || want->used != size || memcmp(want->at, have, size) != 0))
        rc = err_set(err, ERR_CORRUPT, "%s is not what was rendered", path);
    page_free(want);
    free(have);
    return rc;
}

static int verify_manifests(const char *root, const struct registry_version *v, struct err *err)
{
    char dir[PATH_MAX];
    const char *name;
    struct page want = {0};
    struct manifests m;
    TRY(path_of(dir, err, "%s/serving/%s", root, v->model));
    for (unsigned i = 0; (name = serving_manifest(manifests_of(v, &m), i, &want)); i++)
        TRY(verify_text(dir, name, &want, err));
    return 0;
}

static int verify_rendered(const char *root, const struct registry_alias *a, const struct registry_version *v, struct err *err)
{
    char folder[2 * REGISTRY_NAME_MAX + 1], dir[PATH_MAX], path[PATH_MAX];
    struct page config = {0}, labels = {0};
    folder_of(a, folder);
    struct served served = served_of(v, folder, "");
    TRY(path_of(dir, err, "%s/triton/%s", root, folder));
    TRY(path_of(path, err, "%s/%lld/model.onnx", dir, (long long)v->version));
    TRY(verify_file(path, v, err));
    serving_labels(&served, &labels);
    TRY(verify_text(dir, "labels.txt", &labels, err));
    serving_config(&served, &config);
    TRY(verify_text(dir, "config.pbtxt", &config, err));
    return is_champion(a) ? verify_manifests(root, v, err) : 0;
}

int registry_render_verify(const char *root, const struct registry_alias *a, const struct registry_version *v, struct err *err)
{
    int rc = verify_rendered(root, a, v, err);
    return rc < 0 ? err_wrap(err, "`viaduct models promote %s %lld --alias %s` renders it again", v->model, (long long)v->version, a->name) : 0;
}
