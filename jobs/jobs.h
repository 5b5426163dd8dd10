/* jobs: the YAML job spec. One table of keys (path, type, unit, limits, default, text) drives loader, overrides, JSON Schema,
 * `init` and the documentation; struct job_spec is what is left when every check has passed. */
#ifndef VIADUCT_JOBS_JOBS_H
#define VIADUCT_JOBS_JOBS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include "base/arena.h"
#include "base/err.h"

#define SITES_MAX 8
#define MODEL_INPUT_DIMS_MAX 4
#define MODEL_CHANNELS_MAX 8
#define RANKS_MAX 64                 /* per site, this version; nodes are not more */

enum job_family { FAMILY_MLP, FAMILY_CNN };
enum job_optimizer { OPTIMIZER_SGD, OPTIMIZER_ADAMW };
enum job_schedule { SCHEDULE_CONSTANT, SCHEDULE_LINEAR, SCHEDULE_COSINE, SCHEDULE_STEP };
enum job_loss { LOSS_CROSS_ENTROPY, LOSS_MSE, LOSS_BCE };
enum job_via { VIA_LOCAL, VIA_MPIRUN, VIA_SLURM, VIA_JOIN };
const char *job_via_word(enum job_via via);
enum job_inside { INSIDE_ALLREDUCE, INSIDE_PS };
enum job_calibration { CALIBRATION_MSE, CALIBRATION_PERCENTILE, CALIBRATION_ENTROPY, CALIBRATION_MINMAX };
enum job_export { EXPORT_ONNX = 1, EXPORT_SAFETENSORS = 2, EXPORT_TRITON = 4 };   /* bit set */

struct job_dataset { const char *images, *labels; };                 /* format idx */

struct job_model {
    enum job_family family;
    uint32_t classes;
    uint32_t input_dim_count, input[MODEL_INPUT_DIMS_MAX];           /* [channels, height, width] for cnn */
    uint32_t channel_count, channels[MODEL_CHANNELS_MAX];            /* cnn: default [24, 48] */
    uint32_t hidden_count, hidden[MODEL_CHANNELS_MAX];               /* cnn: default [128]; mlp: default [128] */
    bool batch_norm;                                                 /* norm: batch (cnn default) | none */
};

struct job_optim {
    enum job_optimizer name;
    double lr, weight_decay, beta1, beta2, eps, momentum;            /* momentum: sgd */
    bool nesterov;
    enum job_schedule schedule;
    double final;                    /* lr at the last step as a fraction of lr */
    double step_factor;              /* schedule step: multiply by this */
    uint64_t step_every;             /* ... each so many steps */
    uint64_t warmup;                 /* steps: lr * (step + 1) / warmup */
    double clip;                     /* global norm; 0: off */
};

/* Why a Slurm job ended before its run was complete; each has a retry budget of its own. */
enum job_retry { RETRY_TIME_LIMIT, RETRY_PREEMPTION, RETRY_NODE_FAILURE, RETRY_JOB_FAILURE, RETRIES };
#define SLURM_OPTIONS_MAX 40
struct job_slurm {                   /* of a site that is `via: slurm`; of one that is `via: join`, for a job of another cluster that joins */
    bool given;                      /* any of it stands in the spec */
    uint32_t time_s;                 /* 0: the partition's own limit */
    const char *partition, *account; /* NULL: Slurm's default */
    uint32_t drain_s;                /* so long before the time limit the run is saved */
    uint32_t retries[RETRIES];
    uint32_t option_count;           /* further options of sbatch; value NULL: a flag */
    struct { const char *name, *value; } option[SLURM_OPTIONS_MAX];
};

struct job_site {
    const char *name;
    enum job_via via;
    uint32_t ranks, threads, ps_shards, nodes;   /* ranks: of all nodes; threads: of a rank */
    const char *door, *door_address; /* HOST:PORT of its front door, and as others see it; or NULL */
    bool reads_data;                 /* named by data.residency */
    struct job_slurm slurm;
};

struct job_quantize {
    bool on;
    enum job_calibration calibration;
    uint32_t images;                 /* of data.train */
    double max_drop;                 /* export.gate */
};

struct job_spec {
    const char *name;
    struct job_model model;
    struct job_dataset train, eval;
    bool has_eval;
    double epochs;                   /* passes; 0 when steps was given */
    uint64_t steps;                  /* 0 when epochs was given */
    uint32_t batch, lanes;
    struct job_optim optimizer;
    enum job_loss loss;
    uint64_t seed;
    bool deterministic;
    const char *listen;              /* coordinator.listen, HOST:PORT */
    const char *address;             /* coordinator.address or NULL */
    const char *coordinator_door;    /* site whose front door the coordinator stands behind, or NULL: it listens itself */
    const char *metrics;             /* coordinator.metrics, HOST:PORT, or NULL: not shown */
    uint32_t site_count;
    struct job_site sites[SITES_MAX];
    enum job_inside inside;
    uint64_t checkpoint_every;       /* steps; 0: only at the last step */
    uint32_t checkpoint_keep, checkpoint_replicas, ram_every;
    struct { double sparsity, epochs; } prune;   /* export.prune; sparsity 0: none */
    bool has_export;
    unsigned export_to;              /* enum job_export bits */
    struct job_quantize quantize;
    const char *registry;            /* folder, or NULL: what is exported is not registered */
    const char *registry_model;      /* its name there */
};

enum problem_level { PROBLEM_ERROR, PROBLEM_WARNING };
struct problem {                     /* one finding; positions count from 1; 0: no position (an override or the environment) */
    enum problem_level level;
    const char *file;                /* file name, or "command line" */
    uint32_t line, column, length;   /* length: characters to underline */
    const char *path;                /* "train.optimizer.lr" */
    const char *text;                /* what is wrong and what is allowed; names both ends of a conflict */
    const char *hint;                /* "did you mean 'optimizer'?" or NULL */
    const char *source_line;         /* the offending line, or what is shown of a long one; NULL */
    uint32_t caret, shown;           /* where in it the problem begins, from 1, and how much of it is there */
};
#define PROBLEMS_MAX 100
struct problems {
    uint32_t count, errors;           /* errors: also those beyond PROBLEMS_MAX */
    uint32_t own;                     /* the first so many are of values by themselves: nothing speaks of those values again */
    struct problem item[PROBLEMS_MAX];
};

/* Where strings and problems live; freed by job_fini. */
struct job { struct arena arena; struct job_spec spec; struct problems problems; char *resolved_yaml; };

/* Loads a spec file and overrides ("key.path=value"; YAML values). Returns 0 with job->spec complete when there is no error-level
 * problem, ERR_USAGE with job->problems filled otherwise (all problems of one pass, sorted by position), another code when the file
 * cannot be read. The caller calls job_fini in every case. job->resolved_yaml: the spec with defaults and variables filled in, which
 * loads again to the same spec. check_files: also look at the data files (existence, IDX header, dimensions against model.input). */
int job_load(struct job *job, const char *file, const char *const *overrides, unsigned override_count, bool check_files,
             struct err *err);
/* The same from memory; `file` names it in problems. */
int job_load_text(struct job *job, const char *file, const char *text, size_t size, const char *const *overrides,
                  unsigned override_count, bool check_files, struct err *err);
void job_fini(struct job *job);

const char *job_calibration_name(enum job_calibration c);   /* "mse" */

/* Nearest of `count` names by edit distance (at most 2, or a third of the length; 1 for fewer than 4 letters); NULL when none is near. */
const char *nearest_name(const char *text, const char *const *names, unsigned count);

/* Problems for a person (file:line:column, the line, a caret, the hint) or as a JSON array. */
void problems_print(const struct problems *p, FILE *out);
void problems_print_json(const struct problems *p, FILE *out);

/* The table of keys, for whoever shows it: reference, completion. False: past the last one. */
struct job_key {
    const char *path, *doc;           /* "train.optimizer.lr"; an element of a list: "sites[].name" */
    char takes[160];                  /* "a whole number from 1 to 64" */
    const char *fallback, *choices, *later, *refused;   /* default as it would be written; "a|b"; choices to come; why the key is not taken; or NULL */
    bool required, map, file, yes_no;
};
bool job_key(unsigned index, struct job_key *out);
/* JSON Schema (draft-07) of the spec, from the same table. */
void job_schema_print(FILE *out);
/* A short spec, commented, for `viaduct init`. */
struct job_init {
    const char *name, *family;
    const char *train[2], *eval[2];   /* images, labels; eval[0] NULL: no held-out set */
    unsigned classes, height, width, sites, ranks;   /* ranks: of each site */
    enum job_via via;                 /* VIA_JOIN: the first site is local, the others join */
    const char *host;                 /* of this machine, as those that join reach it */
};
void job_init_print(FILE *out, const struct job_init *what);

/* What may not change on resume: model, training data, and how it is trained but for the number of steps; ERR_USAGE naming each such key with old and new value.
 * *changes: a line for each other key that differs, or NULL; malloc. */
int job_resume_check(const struct job *was, const struct job *now, char **changes, struct err *err);
/* Whether the spec's steps hold a checkpoint of that step, of phase prune or of phase train; ERR_USAGE with both numbers. */
int job_resume_trained(const struct job_spec *spec, uint64_t step, bool pruned, uint64_t samples, struct err *err);

/* Whether a spec given at a site that joins says what the run's says: ERR_USAGE naming the key with both values. Where the data lies, how the coordinator is
 * reached and how many ranks that site has may differ. */
int job_agree(const struct job *run, const struct job *here, const char *site, struct err *err);

/* Steps of phase train and of phase prune (0: none), and learning rates of a step of each (0-based in its phase; schedule and warm-up as in the contract), for
 * a training set of `samples`. Pure. */
uint64_t job_steps(const struct job_spec *spec, uint64_t samples);
uint64_t job_prune_steps(const struct job_spec *spec, uint64_t samples);
double job_lr(const struct job_optim *o, uint64_t step, uint64_t total_steps);
/* Cosine from a tenth of optimizer.lr to `final` of it, whatever schedule phase train had. */
double job_prune_lr(const struct job_optim *o, uint64_t step, uint64_t total_steps);

#endif
