/* Between the files of export/. */
#ifndef VIADUCT_EXPORT_PARTS_H
#define VIADUCT_EXPORT_PARTS_H

#include <stdbool.h>

#include "ckpt/ckpt.h"
#include "export/export.h"

/* From a checkpoint folder whose manifest is open. Without a model text (its trainer was not ours) graph is NULL and config is zero. */
int checkpoint_load(const char *dir, const struct ckpt_manifest *manifest, struct exported_model *out, struct err *err);

/* Time of one float inference of one sample on one thread, in milliseconds. */
struct latency { double p50, p99; };
int measure_latency(const struct exported_model *m, struct latency *out, struct err *err);

/* The file's bytes, a pure function of the model; *out: malloc. */
int safetensors_image(const struct exported_model *m, void **out, size_t *size, struct err *err);

/* The attempt's folder: made whole in RUN/export/attempt-A.tmp, it becomes RUN/export/float by one rename. An older one is exchanged with it, and swept
 * away afterwards with all that killed attempts left. */
int attempt_sweep(const char *export_dir, struct err *err);
int attempt_publish(const char *export_dir, const char *attempt_dir, struct err *err);

#endif
