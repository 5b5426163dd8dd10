/* A YAML document as a tree of nodes that know where they stand. Scalars stay text: the table of keys gives them types. */
#ifndef VIADUCT_JOBS_TREE_H
#define VIADUCT_JOBS_TREE_H

#include "jobs/jobs.h"

#define TREE_BYTES_MAX (1u << 20)
#define SPEC_ARENA_BYTES ((size_t)24 << 20)
#define TREE_NODES_MAX 10000
#define TREE_DEPTH_MAX 32
#define TREE_ITEMS_MAX 512

enum tree_kind { TREE_SCALAR, TREE_MAP, TREE_LIST };
struct tree {
    enum tree_kind kind;
    bool plain;                       /* scalar without quotes: may be null, a number, a boolean */
    const char *text;                 /* scalar */
    const char *file;
    uint32_t line, column, length;    /* from 1 */
    uint32_t count;
    struct tree **key;                /* map: scalars; NULL in lists */
    struct tree **item;
};

/* The document's root, or NULL with problems added. `file` names it ("command line" for overrides, which have no position). */
struct tree *tree_parse(struct job *job, const char *file, const char *text, size_t size, bool positions);
/* The resolved document again, in block style, nested flow lists; readable and loadable. */
bool tree_is_null(const struct tree *t);
struct tree *tree_get(const struct tree *map, const char *key);

/* Adds one problem; where: node (may be NULL), path. Text and hint are formatted into the job's arena. */
void problem_at(struct job *job, const struct tree *where, const char *path, const char *hint, const char *fmt, ...) __attribute__((format(printf, 5, 6)));
char *job_text(struct job *job, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
