/* Parts and publication: a part is written whole and synced before anyone is told; a manifest is linked into place once all parts verify. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ckpt/h5.h"

#define PART_BYTES_MAX ((size_t)64 << 30)
#define MANIFEST_FILE_MAX ((size_t)16 << 20)

static int path_in(const char *dir, const char *name, char out[PATH_MAX], struct err *err)
{
    return snprintf(out, PATH_MAX, "%s/%s", dir, name) < PATH_MAX ? 0 : err_set(err, ERR_FAILED, "the path %s is too long", dir);
}

int ckpt_part_write(const struct fs *fs, const char *dir, uint32_t generation, uint64_t step, uint32_t index, const struct ckpt_part_data *data,
                    const struct ckpt_meta *meta, struct ckpt_part *out, struct err *err)
{
    char name[64], path[PATH_MAX];
    void *image;
    size_t size;
    part_name(generation, step, index, name);
    TRY(path_in(dir, name, path, err));
    TRY(fs_mkdirs(fs, dir, err));
    TRY(h5_part_image(data, meta, index, &image, &size, err));
    int rc = fs_publish_file(fs, path, image, size, err);
    if (rc == 0) {
        *out = (struct ckpt_part){.index = index, .size_bytes = size};
        sha256_of(image, size, out->sha256);
    }
    free(image);
    return rc;
}

/* The part's bytes, if they are what the manifest says; *bytes: malloc. */
static int read_part(const struct fs *fs, const char *dir, const struct ckpt_manifest *m, const struct ckpt_part *part, void **bytes, struct err *err)
{
    char name[64], path[PATH_MAX];
    uint8_t digest[SHA256_BYTES];
    size_t size;
    part_name(m->meta.generation, m->meta.step, part->index, name);
    TRY(path_in(dir, name, path, err));
    int rc = fs_read_file(fs, path, PART_BYTES_MAX, bytes, &size, err);
    if (rc == ERR_NOT_FOUND)
        return err_set(err, ERR_CORRUPT, "part %s of the checkpoint is missing", path);
    if (rc < 0)
        return rc;
    sha256_of(*bytes, size, digest);
    if (size != part->size_bytes || memcmp(digest, part->sha256, sizeof digest) != 0) {
        free(*bytes);
        return err_set(err, ERR_CORRUPT, "part %s of the checkpoint is damaged: its %s not what the manifest says", path,
                       size != part->size_bytes ? "size is" : "SHA-256 is");
    }
    return 0;
}

int ckpt_verify(const struct fs *fs, const char *dir, const struct ckpt_manifest *m, struct err *err)
{
    for (uint32_t p = 0; p < m->part_count; p++) {
        void *bytes;
        TRY(read_part(fs, dir, m, &m->part[p], &bytes, err));
        free(bytes);
    }
    return 0;
}

int ckpt_present(const struct fs *fs, const char *dir, const struct ckpt_manifest *m, struct err *err)
{
    char name[64], path[PATH_MAX];
    for (uint32_t p = 0; p < m->part_count; p++) {
        part_name(m->meta.generation, m->meta.step, m->part[p].index, name);
        TRY(path_in(dir, name, path, err));
        int64_t size = fs->size(fs->state, path);
        if (size < 0)
            return err_set(err, ERR_CORRUPT, "part %s of the checkpoint is missing", path);
        if ((uint64_t)size != m->part[p].size_bytes)
            return err_set(err, ERR_CORRUPT, "part %s of the checkpoint is damaged: its size is not what the manifest says", path);
    }
    return 0;
}

int ckpt_verify_model(const struct fs *fs, const char *dir, const struct ckpt_manifest *m, struct err *err)
{
    char path[PATH_MAX];
    void *image = NULL, *there;
    size_t size, there_size;
    TRY(path_in(dir, "model.h5", path, err));
    int rc = fs_read_file(fs, path, PART_BYTES_MAX, &there, &there_size, err);
    if (rc < 0)
        return rc == ERR_NOT_FOUND ? err_set(err, ERR_CORRUPT, "%s is missing", path) : rc;
    rc = h5_model_image(m, &image, &size, err);
    if (rc == 0 && (size != there_size || memcmp(image, there, size) != 0))
        rc = err_set(err, ERR_CORRUPT, "%s is damaged: it does not show the parts, which are whole, as the manifest says", path);
    free(image);
    free(there);
    return rc;
}

int ckpt_open(const struct fs *fs, const char *dir, struct ckpt_manifest *out, struct err *err)
{
    char path[PATH_MAX];
    void *text;
    size_t size;
    TRY(path_in(dir, "manifest.json", path, err));
    int rc = fs_read_file(fs, path, MANIFEST_FILE_MAX, &text, &size, err);
    if (rc == ERR_NOT_FOUND)
        return err_set(err, ERR_NOT_FOUND, "%s holds no checkpoint: it has no manifest.json", dir);
    if (rc < 0)
        return rc;
    rc = ckpt_manifest_decode(text, size, out, err);
    free(text);
    return rc < 0 ? err_wrap(err, "%s", path) : 0;
}

/* The folder's own name is durable, too, and before the manifest makes a checkpoint of it. */
static int sync_folder(const struct fs *fs, const char *dir, struct err *err)
{
    TRY(fs_fsync_dir(fs, dir, err));
    return fs_fsync_parent(fs, dir, err);
}

static int link_manifest(const struct fs *fs, const char *dir, const char *text, size_t size, struct err *err)
{
    char path[PATH_MAX], temporary[PATH_MAX];
    uint32_t id;
    random_bytes(&id, sizeof id);
    char name[48];
    snprintf(name, sizeof name, "manifest.json.tmp-%08x", id);
    TRY(path_in(dir, "manifest.json", path, err));
    TRY(path_in(dir, name, temporary, err));
    TRY(fs_write_file(fs, temporary, text, size, err));
    int rc = sync_folder(fs, dir, err);    /* the parts' names are durable before the manifest names them */
    int linked = rc == 0 ? fs->link(fs->state, temporary, path) : 0;
    fs->unlink(fs->state, temporary);
    if (rc < 0)
        return rc;
    if (linked == -EEXIST) {
        void *there;
        size_t there_size;
        TRY(fs_read_file(fs, path, MANIFEST_FILE_MAX, &there, &there_size, err));
        bool same = there_size == size && memcmp(there, text, size) == 0;
        free(there);
        return same ? fs_fsync_dir(fs, dir, err) : err_set(err, ERR_CONFLICT, "%s holds another checkpoint of this step; it stays", dir);
    }
    if (linked < 0)
        return err_errno(err, -linked, "cannot publish %s", path);
    return fs_fsync_dir(fs, dir, err);
}

int ckpt_publish(const struct fs *fs, const char *dir, const struct ckpt_manifest *m, struct err *err)
{
    char path[PATH_MAX], *text;
    void *image;
    size_t size, image_size;
    TRY(ckpt_verify(fs, dir, m, err));
    TRY(h5_model_image(m, &image, &image_size, err));
    int rc = path_in(dir, "model.h5", path, err);
    if (rc == 0)
        rc = fs_publish_file(fs, path, image, image_size, err);
    free(image);
    if (rc < 0)
        return rc;
    TRY(ckpt_manifest_encode(m, &text, &size, err));
    rc = link_manifest(fs, dir, text, size, err);
    free(text);
    return rc;
}

int ckpt_read_blocks(const struct fs *fs, const char *dir, const struct ckpt_manifest *m, uint32_t block_count, const uint32_t *block, float *const *weights,
                     float *const *slots, struct err *err)
{
    uint32_t *wanted = calloc(block_count ? block_count : 1, sizeof *wanted);
    float **w = calloc(block_count ? block_count : 1, sizeof *w), **s = calloc((size_t)(block_count + 1) * CKPT_SLOTS_MAX, sizeof *s);
    int rc = wanted && w && s ? 0 : err_set(err, ERR_NO_MEMORY, "no memory to read %u blocks", block_count);
    for (uint32_t p = 0; p < m->part_count && rc == 0; p++) {
        uint32_t n = 0;
        for (uint32_t i = 0; i < block_count; i++)
            n += m->part_of_block[block[i]] == p;
        if (n == 0)
            continue;
        uint32_t k = 0;
        for (uint32_t i = 0; i < block_count; i++) {
            if (m->part_of_block[block[i]] != p)
                continue;
            wanted[k] = block[i];
            w[k] = weights ? weights[i] : NULL;
            for (uint32_t c = 0; slots && c < m->meta.slot_count; c++)
                s[(size_t)c * n + k] = slots[(size_t)c * block_count + i];
            k++;
        }
        void *bytes;
        rc = read_part(fs, dir, m, &m->part[p], &bytes, err);
        if (rc == 0) {
            rc = h5_part_read(bytes, m->part[p].size_bytes, &m->layout, &m->meta, n, wanted, w, slots ? s : NULL, err);
            free(bytes);
        }
    }
    free(wanted);
    free(w);
    free(s);
    return rc;
}

void weights_sha256(const struct layout *l, const float *arena, enum tensor_kind kind, char out[SHA256_HEX])
{
    uint8_t digest[SHA256_BYTES];
    struct sha256 *h = sha256_new();
    const char *last = NULL;
    for (;;) {   /* tensors in bytewise order of their names */
        const struct tensor_desc *next = NULL;
        for (uint32_t t = 0; t < l->tensor_count; t++) {
            const struct tensor_desc *d = &l->tensors[t];
            if (d->kind == kind && (!last || strcmp(d->name, last) > 0) && (!next || strcmp(d->name, next->name) < 0))
                next = d;
        }
        if (!next)
            break;
        sha256_add(h, arena + next->offset, next->elems * sizeof(float));
        last = next->name;
    }
    sha256_end(h, digest);
    hex_of(digest, sizeof digest, out);
}
