/* Between the registry's files: rows as tables of fields, and the database that holds them. */
#ifndef VIADUCT_EXPORT_REGISTRY_DB_H
#define VIADUCT_EXPORT_REGISTRY_DB_H

#include "export/page.h"
#include "export/registry.h"

/* ---- rows: one table a struct drives the schema, reading, writing and JSON ---- */
enum field_type { FIELD_TEXT, FIELD_INTEGER, FIELD_NUMBER, FIELD_REAL };   /* null are: "", 0 of an INTEGER (never of a NUMBER), NAN */
struct field { const char *name; enum field_type type; size_t at, size; };   /* FIELD_TEXT: char [size] */
#define VERSION_FIELDS 25
#define AUDIT_FIELDS 11
extern const struct field version_fields[VERSION_FIELDS];
extern const struct field audit_fields[AUDIT_FIELDS];    /* all that the chain covers: without `chain` itself */
void row_json(const struct field *fields, unsigned count, const void *row, struct page *p);   /* without braces */

/* ---- a run's model card ---- */
#define CARD_MAX (4u << 20)
/* What the card says of the model that a server should get: everything but run, version, parent, created. ERR_JOB when its gate failed. */
int registry_card_decode(const void *text, size_t size, struct registry_version *out, struct err *err);

/* ---- the database ---- */
struct registry_db;
int registry_db_open(const char *path, bool create, struct registry_db **out, struct err *err);
void registry_db_close(struct registry_db *db);
bool registry_db_read_only(const struct registry_db *db);
/* The lock; waits for its holder at most 30 s. */
int registry_db_begin(struct registry_db *db, struct err *err);
int registry_db_commit(struct registry_db *db, struct err *err);   /* synced; after a failure nothing was done */
void registry_db_abandon(struct registry_db *db);                  /* ends a transaction, if there is one */

/* ERR_NOT_FOUND names what there is. */
int registry_db_version(struct registry_db *db, const char *model, int64_t version, struct registry_version *out, struct err *err);
/* The version that v->model, v->job and v->sha256 name, or the model's first one: found says whether there is one. */
int registry_db_same(struct registry_db *db, const struct registry_version *v, struct registry_version *out, bool *found, struct err *err);
int registry_db_first(struct registry_db *db, const char *model, struct registry_version *out, bool *found, struct err *err);
int registry_db_next(struct registry_db *db, const char *model, int64_t *version, struct err *err);
int registry_db_insert(struct registry_db *db, const struct registry_version *v, struct err *err);
int registry_db_versions(struct registry_db *db, const char *model,
                         int (*visit)(void *arg, const struct registry_version *v, const char *aliases, struct err *err), void *arg, struct err *err);

/* An alias. depth: how many promotes are behind it and not rolled back; moves: how often it ever moved; rendered: the move that the files show. All zero: unknown. */
struct standing { struct registry_alias alias; int64_t depth, moves, rendered; };
int registry_db_standing(struct registry_db *db, const char *model, const char *alias, struct standing *out, struct err *err);
int registry_db_standings(struct registry_db *db, const char *model, int (*visit)(void *arg, const struct standing *s, struct err *err), void *arg, struct err *err);
/* The next one after `at`, by model and name, whose files are behind; into `at`. */
int registry_db_behind(struct registry_db *db, struct standing *at, bool *found, struct err *err);
/* In a transaction: to a version, on top of where it stood; or back. ERR_CONFLICT when it moved since `was` was read. */
int registry_db_move(struct registry_db *db, const struct standing *was, int64_t to, bool back, struct err *err);
int registry_db_rendered(struct registry_db *db, const struct standing *s, struct err *err);

/* In a transaction; position, at and chain are filled in. */
int registry_db_audit_add(struct registry_db *db, struct registry_audit *a, struct err *err);
int registry_db_audit(struct registry_db *db, int (*visit)(void *arg, const struct registry_audit *a, struct err *err), void *arg, char head[SHA256_HEX], struct err *err);

#endif
