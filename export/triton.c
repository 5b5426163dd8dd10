/* A model repository for Triton Inference Server: triton/NAME/config.pbtxt, labels.txt and 1/model.onnx, the best model that was published. */
#include <stdio.h>
#include <stdlib.h>

#include "base/base.h"
#include "export/stage.h"

#define MAX_BATCH 64

static void add_config(const struct stage *s, struct page *p)
{
    const struct model_config *c = &s->model.config;
    page_add(p, "name: \"%s\"\nbackend: \"onnxruntime\"\nmax_batch_size: %d\n", s->job.spec.name, MAX_BATCH);
    page_add(p, "input [ { name: \"input\" data_type: TYPE_FP32 dims: [ %u, %u, %u ] } ]\n", c->channels, c->height, c->width);
    page_add(p, "output [ { name: \"logits\" data_type: TYPE_FP32 dims: [ %u ] label_filename: \"labels.txt\" } ]\n", c->classes);
    page_add(p, "version_policy { specific { versions: [ 1 ] } }\n");
    page_add(p, "dynamic_batching { preferred_batch_size: [ 8, %d ] max_queue_delay_microseconds: 500 }\n", MAX_BATCH);
    page_add(p, "instance_group [ { kind: KIND_CPU count: 1 } ]\n");
    /* Level 1 is ONNX Runtime's basic and extended optimizations: without them nothing is fused to integer operations. */
    page_add(p, "optimization { graph { level: 1 } }\n");
    page_add(p, "parameters { key: \"intra_op_thread_count\" value: { string_value: \"1\" } }\n");
    page_add(p, "model_warmup [ { name: \"random\" batch_size: 1 inputs { key: \"input\" "
                "value: { data_type: TYPE_FP32 dims: [ %u, %u, %u ] random_data: true } } } ]\n",
             c->channels, c->height, c->width);
}

static void add_labels(const struct stage *s, struct page *p)
{
    for (uint32_t i = 0; i < s->model.config.classes; i++)
        page_add(p, "%u\n", i);
}

static int put(const char *dir, const char *name, const struct stage *s, void (*fill)(const struct stage *s, struct page *p), struct err *err)
{
    char path[PATH_MAX];
    struct page p = {0};
    TRY(stage_path(dir, name, path, err));
    fill(s, &p);
    int rc = p.failed ? err_set(err, ERR_NO_MEMORY, "no memory for %s", path) : fs_publish_file(&fs_real, path, p.at, p.used, err);
    page_free(&p);
    return rc;
}

int triton_write(const struct stage *s, struct err *err)
{
    char dir[PATH_MAX], name[100], version[PATH_MAX];
    snprintf(name, sizeof name, "triton/%s", s->job.spec.name);
    TRY(stage_path(s->attempt_dir, name, dir, err));
    TRY(stage_path(dir, "1", version, err));
    TRY(exported_model_write(stage_passed(s) ? &s->ladder.best : &s->model, version, EXPORT_ONNX, err));
    TRY(put(dir, "labels.txt", s, add_labels, err));
    return put(dir, "config.pbtxt", s, add_config, err);
}
