/* Data files as far as validation can see: existence, IDX header, dimensions. */
#include <string.h>
#include <zlib.h>

#include "jobs/check.h"

static struct tree *path_node(const struct tree *root, const char *set, const char *which)
{
    return tree_get(tree_get(tree_get(root, "data"), set), which);
}

static bool header(struct job *job, const struct tree *t, const char *path, const char *file, uint32_t wanted, uint32_t dims[4])
{
    uint8_t head[20] = {0};
    gzFile f = gzopen(file, "rbe");
    if (!f) {
        problem_at(job, t, path, NULL, "cannot open %s", file);
        return false;
    }
    int got = gzread(f, head, (unsigned)(4 + 4 * wanted));
    gzclose(f);
    if (got != (int)(4 + 4 * wanted) || head[0] || head[1] || head[2] != 8 || head[3] != wanted) {
        problem_at(job, t, path, NULL, "%s is no IDX file of %s (its first bytes are %02x%02x%02x%02x)", file, wanted == 3 ? "images" : "labels", head[0], head[1],
                   head[2], head[3]);
        return false;
    }
    for (uint32_t d = 0; d < wanted; d++)
        dims[d] = (uint32_t)head[4 + 4 * d] << 24 | (uint32_t)head[5 + 4 * d] << 16 | (uint32_t)head[6 + 4 * d] << 8 | head[7 + 4 * d];
    return true;
}

static void check_set(struct job *job, const struct tree *root, const char *set, const struct job_dataset *d)
{
    const struct tree *images = path_node(root, set, "images"), *labels = path_node(root, set, "labels");
    const struct job_model *m = &job->spec.model;
    uint32_t dims[4], count[4];
    char path[64], label_path[64];
    snprintf(path, sizeof path, "data.%s.images", set);
    snprintf(label_path, sizeof label_path, "data.%s.labels", set);
    bool ok = header(job, images, path, d->images, 3, dims);
    ok = header(job, labels, label_path, d->labels, 1, count) && ok;
    if (ok && (m->input[0] != 1 || m->input[1] != dims[1] || m->input[2] != dims[2]))
        problem_at(job, images, path, NULL, "%s holds images of 1 x %u x %u, and model.input is [%u, %u, %u]", d->images, dims[1], dims[2], m->input[0],
                   m->input[1], m->input[2]);
    if (ok && dims[0] != count[0])
        problem_at(job, labels, label_path, NULL, "%u labels for %u images", count[0], dims[0]);
}

void check_data_files(struct job *job, const struct tree *root)
{
    check_set(job, root, "train", &job->spec.train);
    if (job->spec.has_eval)
        check_set(job, root, "eval", &job->spec.eval);
}
