/* The stage as a whole: what its steps make and hand to each other. */
#ifndef VIADUCT_EXPORT_STAGE_H
#define VIADUCT_EXPORT_STAGE_H

#include <limits.h>

#include "export/page.h"
#include "export/parts.h"

struct published { bool done; const char *file; int64_t bytes; char sha256[SHA256_HEX]; struct latency latency; };   /* file: "model.onnx" */

struct stage {
    const char *run, *site;
    uint64_t step;
    uint32_t generation, attempt;
    bool always;                     /* files also when the spec wants none */
    const char *const *overrides;    /* of a person */
    unsigned override_count;
    struct log log;

    char export_dir[PATH_MAX], attempt_dir[PATH_MAX];
    char spec_sha256[SHA256_HEX];
    char weights_sha256[SHA256_HEX], state_sha256[SHA256_HEX];   /* of what training ended with */
    char exported_sha256[SHA256_HEX];                            /* parameters of `model` */
    char job_id[40], data_sha256[SHA256_HEX];                    /* as the checkpoint has them; "" in one of another trainer */
    struct job job;
    struct exported_model model;     /* of the last step, in float: what is exported */
    struct exported_model trained;   /* what phase train ended with, when a phase followed; else `model` is */
    uint64_t samples_per_pass;
    struct dataset eval_data;
    bool evaluated;
    struct evaluation eval, trained_eval;
    uint8_t *with_float;             /* what the float model takes eval_data for */
    bool quantized;                  /* ladder is filled; published when its gate passed */
    struct ladder ladder;
    uint8_t train_sha256[SHA256_BYTES];
    struct published floats, integers;
    int64_t registered;              /* the version that it became; 0: none */
};

static inline const struct exported_model *stage_trained(const struct stage *s) { return s->trained.weights ? &s->trained : &s->model; }

/* Runs the steps; ERR_JOB when all was published but the gate failed. */
int stage_run(struct stage *s, struct err *err);
void stage_close(struct stage *s);

int stage_open_checkpoints(struct stage *s, struct err *err);
static inline const struct rung *stage_rung(const struct stage *s) { return &s->ladder.rung[s->ladder.chosen]; }
static inline bool stage_passed(const struct stage *s) { return s->quantized && stage_rung(s)->gate.passed; }

/* RUN/export/result.json: the report's `export`, and what else the report wants to know. */
int result_publish(const struct stage *s, struct err *err);
/* A failed gate fails again: whether result.json says that of this very stage. */
bool result_is_of_failed_gate(const struct stage *s);
void result_export(const struct stage *s, struct page *p);
/* Share of the prunable weights that are zero. */
double result_sparsity(const struct stage *s);

/* Folders in the attempt's: triton/NAME with the best model and serving/, card with model-card.{json,md,html}. */
int triton_write(const struct stage *s, struct err *err);
int card_write(const struct stage *s, struct err *err);

/* What the card's three forms share. */
struct confusion { uint32_t classes; uint64_t *count; };      /* [label][prediction] */
void card_json(const struct stage *s, struct page *p);
void card_markdown(const struct stage *s, struct page *p);
void card_html(const struct stage *s, const struct confusion *floats, const struct confusion *integers, struct page *p);

#endif
