/* Between the files of export/. */
#ifndef VIADUCT_EXPORT_PARTS_H
#define VIADUCT_EXPORT_PARTS_H

#include <limits.h>
#include <stdbool.h>

#include "base/log.h"
#include "ckpt/ckpt.h"
#include "data/data.h"
#include "export/export.h"

/* ---- models ---- */
/* From a checkpoint folder whose manifest is open. Without a model text (its trainer was not ours) graph is NULL and config is zero. */
int checkpoint_load(const char *dir, const struct ckpt_manifest *manifest, struct exported_model *out, struct err *err);
/* Over a dataset that is open already; predicted (data->count bytes, NULL: not wanted) gets the class that each sample is taken for. */
int exported_model_predict(const struct exported_model *m, const struct dataset *data, unsigned threads, uint8_t *predicted, struct evaluation *out,
                           struct err *err);
int open_eval_data(const struct job_spec *spec, const struct model_config *c, struct dataset *out, struct err *err);

/* DIR/NAME, or an error that says the path is too long. */
int path_in(const char *dir, const char *name, char out[PATH_MAX], struct err *err);
/* Of a whole file, in hex, and its size. */
int file_sha256(const char *path, char out[SHA256_HEX], int64_t *bytes, struct err *err);

/* Time of one inference of one sample on one thread by our own engine, in milliseconds. */
struct latency { double p50, p99; };
int measure_latency(const struct exported_model *m, struct latency *out, struct err *err);

/* The file's bytes, a pure function of the model; *out: malloc. */
int safetensors_image(const struct exported_model *m, void **out, size_t *size, struct err *err);

/* ---- calibration: what values a model's edges take on some training images ---- */
struct calibration;
/* Position p of them is sample calibration_sample(seed, data->count, p) of the training set. The first `images` are measured, at most all. */
uint64_t calibration_sample(uint64_t seed, uint64_t count, uint64_t p);
int calibration_measure(const struct quantized_model *in_float, const struct dataset *train, uint64_t seed, uint64_t images, struct calibration **out,
                        struct err *err);
void calibration_free(struct calibration *c);
uint64_t calibration_images(const struct calibration *c);
void calibration_ranges(const struct calibration *c, enum job_calibration how, struct value_range range[GRAPH_EDGES_MAX]);

/* ---- the gate: paired bootstrap over the evaluation set ---- */
struct gate { bool passed; double drop, low95, max_drop; };   /* drop: float - quantized; low95: lower 95 % bound of quantized - float; passed: low95 >= -max_drop */
struct gate gate_decide(const uint8_t *labels, const uint8_t *with_float, const uint8_t *with_integers, uint64_t count, uint64_t seed, double max_drop);

/* ---- the ladder: ways to quantize, tried in order until the gate passes ---- */
#define RUNGS_MAX 80
struct rung { char name[256]; struct evaluation eval; struct gate gate; uint64_t layers; };   /* layers: bit set of integer ones */
struct ladder {
    struct exported_model best;      /* of the rung that was chosen: the first that passed, else the one with the highest bound */
    unsigned count, chosen;
    struct rung rung[RUNGS_MAX];
    uint8_t *predicted;              /* by `best`, of the evaluation set */
    uint64_t images;                 /* that its ranges were measured on */
};
struct ladder_input {
    const struct exported_model *model;
    const struct dataset *train, *eval;
    const uint8_t *with_float;       /* what the float model takes the evaluation set for */
    const struct job_spec *spec;
    struct log *log;
};
int ladder_climb(const struct ladder_input *in, struct ladder *out, struct err *err);
void ladder_close(struct ladder *l);

/* ---- the attempt's folder: made whole in RUN/export/attempt-*.tmp, each folder in it takes its place in RUN/export by one rename. An older one is
 * exchanged with it, and swept away afterwards with all that killed attempts left. ---- */
int attempt_sweep(const char *export_dir, struct err *err);
int attempt_publish(const char *export_dir, const char *attempt_dir, const char *name, struct err *err);
/* Takes away what an earlier attempt published under that name and this one does not have. */
int attempt_withdraw(const char *export_dir, const char *name, struct err *err);
/* A folder and all below it, as deep as an attempt makes them; 0 also when there is none. */
int folder_remove(const char *dir, struct err *err);

#endif
