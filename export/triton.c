/* What a server of the best published model needs: a model repository for Triton Inference Server (triton/NAME/config.pbtxt, labels.txt, 1/model.onnx),
 * and serving/ with manifests and a Dockerfile. */
#include <stdio.h>

#include "base/base.h"
#include "export/serving.h"
#include "export/stage.h"

static struct served served_by(const struct stage *s)
{
    const struct model_config *c = &s->model.config;
    const char *name = s->job.spec.name;
    return (struct served){.folder = name, .model = name, .version = 1, .channels = c->channels, .height = c->height, .width = c->width, .classes = c->classes,
                           .sha256 = stage_passed(s) ? s->integers.sha256 : s->floats.sha256, .dockerfile = "serving/Dockerfile"};
}

int triton_write(const struct stage *s, struct err *err)
{
    char dir[PATH_MAX], name[100], version[PATH_MAX], serving[PATH_MAX];
    struct served served = served_by(s);
    struct page config = {0}, labels = {0};
    snprintf(name, sizeof name, "triton/%s", s->job.spec.name);
    TRY(path_in(s->attempt_dir, name, dir, err));
    TRY(path_in(dir, "1", version, err));
    TRY(path_in(s->attempt_dir, "serving", serving, err));
    TRY(exported_model_write(stage_passed(s) ? &s->ladder.best : &s->model, version, EXPORT_ONNX, err));
    serving_labels(&served, &labels);
    TRY(page_publish(&labels, dir, "labels.txt", err));
    serving_config(&served, &config);
    TRY(page_publish(&config, dir, "config.pbtxt", err));
    return serving_write(&served, serving, err);
}
