/* Data files as far as validation can see: existence, IDX header, dimensions, every label. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "base/base.h"
#include "jobs/check.h"

#define LABELS_AT 8
#define IDX_BYTES_MAX ((uint64_t)8 << 30)   /* what the reader of the data room takes */

static struct tree *path_node(const struct tree *root, const char *set, const char *which)
{
    return tree_get(tree_get(tree_get(root, "data"), set), which);
}

/* NULL, or what is wrong with the file as such. */
static const char *unreadable(const char *file)
{
    struct stat st;
    if (stat(file, &st) < 0)
        return strerror(errno);
    if (!S_ISREG(st.st_mode))
        return "it is no regular file";   /* a pipe cannot be read by every rank */
    return access(file, R_OK) < 0 ? strerror(errno) : NULL;
}

static bool dimensions(const uint8_t *head, uint32_t count, uint32_t dims[4])
{
    uint64_t size = 1;
    for (uint32_t d = 0; d < count; d++) {
        const uint8_t *p = head + 4 + 4 * d;
        dims[d] = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
        if (dims[d] == 0 || dims[d] > IDX_BYTES_MAX / size)
            return false;
        size *= dims[d];
    }
    return true;
}

static bool header(struct job *job, const struct tree *t, const char *path, const char *file, uint32_t wanted, uint32_t dims[4])
{
    uint8_t head[20] = {0};
    const char *what = wanted == 3 ? "images" : "labels", *why = unreadable(file);
    gzFile f = why ? NULL : gzopen(file, "rbe");
    int got = f ? gzread(f, head, (unsigned)(4 + 4 * wanted)) : 0;
    if (f)
        gzclose(f);
    if (!f)
        problem_at(job, t, path, NULL, "cannot open %s: %s", file, why ? why : "no memory");
    else if (got != (int)(4 + 4 * wanted))
        problem_at(job, t, path, NULL, "%s is no IDX file of %s: it is damaged, or shorter than a header", file, what);
    else if (head[0] || head[1] || head[2] != 8 || head[3] != wanted)
        problem_at(job, t, path, NULL, "%s is no IDX file of %s: its first bytes are %02x%02x%02x%02x, 0000080%u is needed", file, what, head[0], head[1], head[2],
                   head[3], wanted);
    else if (!dimensions(head, wanted, dims))
        problem_at(job, t, path, NULL, "%s holds no %s, or its header says more than %u GiB", file, what, (unsigned)(IDX_BYTES_MAX >> 30));
    else
        return true;
    return false;
}

/* The first label that names no class, or labels that are not there. */
static void check_labels(struct job *job, const struct tree *root, const struct tree *t, const char *path, const char *file, uint32_t count)
{
    uint8_t some[16384];
    uint32_t classes = job->spec.model.classes;
    uint64_t at = 0;
    gzFile f = gzopen(file, "rbe");
    int got = f && gzseek(f, LABELS_AT, SEEK_SET) == LABELS_AT ? 1 : 0;
    while (got > 0 && at < count && (got = gzread(f, some, (unsigned)MIN((uint64_t)sizeof some, count - at))) > 0)
        for (int i = 0; i < got; i++, at++)
            if (classes && some[i] >= classes) {
                problem_at(job, t, path, NULL, "%s: label %u at byte %llu, and model.classes is %u (%s), so that labels are 0 to %u", file, some[i],
                           (unsigned long long)(LABELS_AT + at), classes, line_of(job, tree_get(tree_get(root, "model"), "classes")), classes - 1);
                gzclose(f);
                return;
            }
    if (f)
        gzclose(f);
    if (at < count)
        problem_at(job, t, path, NULL, "%s ends after %llu of the %u labels that its header tells of", file, (unsigned long long)at, count);
}

/* A path that is none, or holds a variable that was not found, is told of already. */
static bool is_path(const struct tree *t)
{
    double v;
    return t && t->kind == TREE_SCALAR && !tree_is_null(t) && *t->text && !scalar_number(t, &v) && !strstr(t->text, "${");
}

static void check_set(struct job *job, const struct tree *root, const char *set, const struct job_dataset *d)
{
    const struct tree *images = path_node(root, set, "images"), *labels = path_node(root, set, "labels");
    const struct job_model *m = &job->spec.model;
    uint32_t dims[4], count[4];
    char path[64], label_path[64];
    snprintf(path, sizeof path, "data.%s.images", set);
    snprintf(label_path, sizeof label_path, "data.%s.labels", set);
    bool have_images = is_path(images) && header(job, images, path, d->images, 3, dims);
    bool have_labels = is_path(labels) && header(job, labels, label_path, d->labels, 1, count);
    if (have_images && m->input_dim_count == 3 && (m->input[0] != 1 || m->input[1] != dims[1] || m->input[2] != dims[2]))
        problem_at(job, images, path, NULL, "%s holds images of 1 x %u x %u, and model.input is [%u, %u, %u]", d->images, dims[1], dims[2], m->input[0],
                   m->input[1], m->input[2]);
    if (have_images && have_labels && dims[0] != count[0])
        problem_at(job, labels, label_path, NULL, "%u labels for %u images", count[0], dims[0]);
    else if (have_labels)
        check_labels(job, root, labels, label_path, d->labels, count[0]);
}

void check_data_files(struct job *job, const struct tree *root)
{
    check_set(job, root, "train", &job->spec.train);
    if (job->spec.has_eval)
        check_set(job, root, "eval", &job->spec.eval);
}
