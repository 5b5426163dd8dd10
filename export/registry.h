/* The registry: a folder with every version of every model, which of them an alias stands at, who moved it, and what a server reads.
 *
 *   registry.db                       SQLite, the truth; a change is synced before its files are rendered
 *   store/MODEL/VERSION/model.onnx    every version, never changed
 *   triton/MODEL/                     a model repository: the version that alias `champion` stands at; other aliases: triton/MODEL.ALIAS/
 *   serving/MODEL/                    manifests and Dockerfile of the champion
 *
 * SQLite's write lock is the registry's one lock: it dies with its process, whatever that leaves is swept or completed by the next one. */
#ifndef VIADUCT_EXPORT_REGISTRY_H
#define VIADUCT_EXPORT_REGISTRY_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/checksum.h"
#include "base/err.h"

#define REGISTRY_NAME_MAX 64
#define REGISTRY_REASON_MAX 400
#define REGISTRY_CHAMPION "champion"

struct registry_version {
    char model[REGISTRY_NAME_MAX];
    int64_t version;                 /* from 1, never given twice */
    char kind[16];                   /* "quantized" or "float" */
    char sha256[SHA256_HEX];         /* of model.onnx */
    int64_t bytes;
    double accuracy, accuracy_float, drop, low95, max_drop;   /* NAN: not measured; the last three: the gate */
    int64_t channels, height, width, classes;                 /* the same for every version of a model, so that a client meets no other when an alias moves */
    char run[PATH_MAX], job[40], commit[SHA256_HEX];
    int64_t step, generation;
    char spec_sha256[SHA256_HEX], data_sha256[SHA256_HEX], weights_sha256[SHA256_HEX], exported_sha256[SHA256_HEX];
    int64_t parent;                  /* where `champion` stood when it was registered; 0: nowhere */
    char created[32];
};

struct registry_audit {              /* a line of the log: what was done, by whom; chained by hashes */
    int64_t position;                /* from 1 */
    char at[32], action[16];         /* register, promote, rollback */
    char model[REGISTRY_NAME_MAX], alias[REGISTRY_NAME_MAX];
    int64_t from, to;                /* versions; 0: none */
    int64_t uid;
    char user[64], host[256], reason[REGISTRY_REASON_MAX];
    char chain[SHA256_HEX];          /* SHA-256 of the line before's and this line */
};

struct registry_alias { char model[REGISTRY_NAME_MAX], name[REGISTRY_NAME_MAX]; int64_t version, previous; };   /* previous: where a rollback goes; 0: nowhere */

struct registry;
/* ERR_NOT_FOUND when there is none and `create` is not set. */
int registry_open(const char *root, bool create, struct registry **out, struct err *err);
void registry_close(struct registry *r);
/* Renders what is behind: the files of a change whose process died before it made them. */
int registry_complete(struct registry *r, struct err *err);

/* Small letters, digits and dashes, at most 63. */
bool registry_name_ok(const char *name);

/* The model that RUN/export holds; model NULL: named as its job. The same file of the same run is one version, however often it is registered; a copy of it
 * that was damaged in the store is replaced. ERR_JOB when the gate failed, ERR_CONFLICT when input or classes are not those of the model's versions. */
int registry_check_run(const char *run, const char *model, struct err *err);   /* what can be told before there is a registry: one is not made for nothing */
int registry_register(struct registry *r, const char *run, const char *model, struct registry_version *out, struct err *err);

/* Moves an alias to a version, or, version 0, back to where it stood before; renders what servers read. expect: the version that it must stand at, 0 nowhere,
 * -1 wherever it stands now; ERR_CONFLICT, and nothing changed, when another came between. ERR_CORRUPT when the file does not verify. To where it stands
 * already: only renders again. When it moved and could not be rendered the error says so: registry_complete is due. */
struct registry_move { const char *model, *alias; int64_t version, expect; const char *reason; };
int registry_move(struct registry *r, const struct registry_move *m, int64_t *from, int64_t *to, struct err *err);

/* By model and version, of one model or, NULL, all. `aliases`: which stand at it, as "canary,champion". A visitor's error ends the walk. */
int registry_versions(struct registry *r, const char *model, int (*visit)(void *arg, const struct registry_version *v, const char *aliases, struct err *err),
                      void *arg, struct err *err);
int registry_aliases(struct registry *r, const char *model, int (*visit)(void *arg, const struct registry_alias *a, struct err *err), void *arg, struct err *err);
/* Walks the whole log and verifies it; visits the lines of one model or, NULL, all. head: the last line's chain. ERR_CORRUPT when the chain breaks or an alias stands
 * where no line put it. visit NULL: only verifies. */
int registry_audit(struct registry *r, const char *model, int (*visit)(void *arg, const struct registry_audit *a, struct err *err), void *arg,
                   char head[SHA256_HEX], struct err *err);
/* Every file against the database, and the log: tells what is wrong; `files` counts what was read. ERR_CORRUPT when anything was. */
int registry_verify(struct registry *r, void (*wrong)(void *arg, const char *text), void *arg, unsigned *files, struct err *err);

/* As JSON, without the braces: "model":"small","version":1,… */
void registry_version_json(const struct registry_version *v, FILE *out);
void registry_audit_json(const struct registry_audit *a, FILE *out);

#endif
