/* Model files into a folder: each by a temporary name, synced, renamed. */
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/base.h"
#include "export/parts.h"

static int image_of(const struct exported_model *m, enum job_export what, void **out, size_t *size, struct err *err)
{
    if (what == EXPORT_SAFETENSORS)
        return safetensors_image(m, out, size, err);
    return m->quantized ? onnx_write_quantized(m->quantized, out, size, err) : onnx_write(m->graph, &m->layout, m->weights, out, size, err);
}

unsigned exported_model_formats(const struct exported_model *m, unsigned to, const char **why)
{
    *why = NULL;
    if (m->graph || m->quantized || !(to & (EXPORT_ONNX | EXPORT_TRITON)))
        return to;
    *why = "no ONNX file: the checkpoint holds no description of its model (its trainer was not viaduct's own), only tensors";
    return to & ~(unsigned)(EXPORT_ONNX | EXPORT_TRITON);
}

int exported_model_write(const struct exported_model *m, const char *dir, unsigned to, struct err *err)
{
    static const struct { enum job_export what; const char *name; } format[] = {{EXPORT_ONNX, "model.onnx"}, {EXPORT_SAFETENSORS, "model.safetensors"}};
    if (to & ~(unsigned)(EXPORT_ONNX | EXPORT_SAFETENSORS | EXPORT_TRITON) || to == 0)
        return err_set(err, ERR_USAGE, "this version exports onnx, safetensors and triton; name one of them in export.to");
    const char *why;
    if (exported_model_formats(m, to, &why) != to)
        return err_set(err, ERR_USAGE, "%s", why);
    if (to & EXPORT_TRITON)
        to |= EXPORT_ONNX;
    TRY(fs_mkdirs(&fs_real, dir, err));
    for (unsigned i = 0; i < ARRAY_LEN(format); i++) {
        char path[PATH_MAX];
        void *image;
        size_t size;
        if (!(to & format[i].what))
            continue;
        TRY(path_in(dir, format[i].name, path, err));
        TRY(image_of(m, format[i].what, &image, &size, err));
        int rc = fs_publish_file(&fs_real, path, image, size, err);
        free(image);
        if (rc < 0)
            return rc;
        failpoint(FAIL_EXPORT_WRITE);
    }
    return 0;
}

#define CHUNK (1u << 20)

int file_sha256(const char *path, char out[SHA256_HEX], int64_t *bytes, struct err *err)
{
    uint8_t sha256[SHA256_BYTES], *chunk = malloc(CHUNK);
    CHECK(chunk != NULL);
    int fd = fs_real.open(fs_real.state, path, O_RDONLY, 0);
    if (fd < 0) {
        free(chunk);
        return err_errno(err, -fd, "cannot open %s", path);
    }
    struct sha256 *sum = sha256_new();
    int64_t done = 0;
    ssize_t k;
    while ((k = fs_real.pread(fs_real.state, fd, chunk, CHUNK, done)) > 0) {
        sha256_add(sum, chunk, (size_t)k);
        done += k;
    }
    fs_real.close(fs_real.state, fd);
    sha256_end(sum, sha256);
    free(chunk);
    if (k < 0)
        return err_errno(err, (int)-k, "cannot read %s", path);
    hex_of(sha256, sizeof sha256, out);
    *bytes = done;
    return 0;
}
