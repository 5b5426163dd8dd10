/* A trained model into memory. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/base.h"
#include "export/parts.h"

static int copy_layout(const struct layout *from, struct layout *to, struct err *err) { return layout_init(to, from->tensors, from->tensor_count, err); }

static int read_weights(const char *dir, const struct ckpt_manifest *m, float *weights, struct err *err)
{
    uint32_t n = m->layout.block_count;
    uint32_t *block = calloc(n ? n : 1, sizeof *block);
    float **w = calloc(n ? n : 1, sizeof *w);
    int rc = block && w ? 0 : err_set(err, ERR_NO_MEMORY, "no memory to read %u blocks", n);
    for (uint32_t b = 0; b < n && rc == 0; b++) {
        block[b] = b;
        w[b] = weights + m->layout.blocks[b].offset;
    }
    if (rc == 0)
        rc = ckpt_read_blocks(&fs_real, dir, m, n, block, w, NULL, err);
    free(block);
    free(w);
    return rc;
}

static int build_graph(const char *text, struct exported_model *m, struct err *err)
{
    struct layout expected;
    TRY(model_config_parse(text, &m->config, err));
    TRY(graph_build(&m->config, &m->graph, err));
    TRY(graph_layout(m->graph, &expected, err));
    bool same = layout_hash(&expected) == layout_hash(&m->layout);
    layout_fini(&expected);
    return same ? 0 : err_set(err, ERR_CORRUPT, "the tensors are not those of the model in the manifest");
}

static int load(const char *dir, const struct ckpt_manifest *manifest, struct exported_model *m, struct err *err)
{
    TRY(copy_layout(&manifest->layout, &m->layout, err));
    m->weights_bytes = m->layout.elems * sizeof(float);
    m->weights = pages_alloc(m->weights_bytes, err);
    if (!m->weights)
        return ERR_NO_MEMORY;
    if (manifest->meta.model_json && manifest->meta.model_json[0])
        TRY(build_graph(manifest->meta.model_json, m, err));
    return read_weights(dir, manifest, m->weights, err);
}

int checkpoint_load(const char *dir, const struct ckpt_manifest *manifest, struct exported_model *out, struct err *err)
{
    struct exported_model m = {0};
    if (load(dir, manifest, &m, err) < 0) {
        exported_model_close(&m);
        return err_wrap(err, "%s", dir);
    }
    *out = m;
    return 0;
}

static int open_checkpoint(const char *dir, struct exported_model *out, struct err *err)
{
    struct ckpt_manifest manifest;
    TRY(ckpt_open(&fs_real, dir, &manifest, err));
    int rc = checkpoint_load(dir, &manifest, out, err);
    ckpt_manifest_fini(&manifest);
    return rc;
}

static int open_onnx(const char *path, struct exported_model *out, struct err *err)
{
    struct exported_model m = {0};
    void *bytes;
    size_t size;
    TRY(fs_read_file(&fs_real, path, ONNX_BYTES_MAX, &bytes, &size, err));
    bool quantized = onnx_is_quantized(bytes, size);
    int rc = quantized ? onnx_read_quantized(bytes, size, &m.quantized, err) : onnx_read(bytes, size, &m.graph, &m.layout, &m.weights, err);
    free(bytes);
    if (rc < 0)
        return err_wrap(err, "%s", path);
    m.config = quantized ? m.quantized->graph->config : m.graph->config;
    m.weights_bytes = m.layout.elems * sizeof(float);
    *out = m;
    return 0;
}

int exported_model_open(const char *path, struct exported_model *out, struct err *err)
{
    struct stat st;
    bool folder = stat(path, &st) == 0 && S_ISDIR(st.st_mode);
    return folder ? open_checkpoint(path, out, err) : open_onnx(path, out, err);
}

void exported_model_close(struct exported_model *m)
{
    graph_free(m->graph);
    layout_fini(&m->layout);
    pages_free(m->weights, m->weights_bytes);
    quantized_model_free(m->quantized);
    *m = (struct exported_model){0};
}
