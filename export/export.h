/* export: the post-training stage: evaluate, quantize, gate, write what a server needs, and read back what was written. */
#ifndef VIADUCT_EXPORT_EXPORT_H
#define VIADUCT_EXPORT_EXPORT_H

#include <stdint.h>
#include "base/err.h"
#include "base/layout.h"
#include "jobs/jobs.h"
#include "export/registry.h"
#include "model/model.h"

/* `viaduct export --run DIR --site NAME --step N --generation G --attempt A [--always 1]`: the process that an agent launches after the last round.
 * --always: writes files even if the spec says `export: null`. */
int export_main(int argc, char **argv);
/* The whole stage over the newest checkpoint of a run, by its own spec with these overrides, for a person. Exit code and ERR_JOB as a process of the
 * run: the gate failed. `step` gets the checkpoint's. */
int export_run(const char *run_dir, const char *const *overrides, unsigned override_count, uint64_t *step, struct err *err);

struct evaluation { double loss, accuracy; uint64_t samples; };

/* A trained model in memory: from a checkpoint folder (with manifest.json) or an ONNX file that export wrote. Of a quantized one only `config` and
 * `quantized` are set. graph NULL of another: its trainer was not viaduct's own and described no model; it has tensors, and can be neither evaluated nor
 * written as ONNX. */
struct exported_model {
    struct model_config config;
    struct graph *graph;
    struct layout layout;
    float *weights;
    size_t weights_bytes;
    struct quantized_model *quantized;
};
int exported_model_open(const char *path, struct exported_model *out, struct err *err);
void exported_model_close(struct exported_model *m);
/* Loss and accuracy over the whole of spec->eval, by our own engine; the numbers do not depend on threads. 0: as many threads as
 * this process has processors. */
int exported_model_evaluate(const struct exported_model *m, const struct job_spec *spec, unsigned threads, struct evaluation *out, struct err *err);
/* The part of `to` (enum job_export bits) that can be written of this model. Less than `to`: `why` says what is missing. */
unsigned exported_model_formats(const struct exported_model *m, unsigned to, const char **why);
/* Writes what `to` (enum job_export bits) asks for into dir: model.onnx (for triton too), model.safetensors. */
int exported_model_write(const struct exported_model *m, const char *dir, unsigned to, struct err *err);

#endif
