/* Two specs of one job, compared key by key as their resolved texts have them: what a resume must keep, what it changes, what a site that joins was given. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "jobs/tree.h"

#define PATH_BYTES 200

/* Told of each key that differs, in the order of the specs, with its values as a spec would have them. */
struct comparison { void (*differs)(void *arg, const char *path, const char *first, const char *second); void *arg; };

static void print_value(const struct tree *t, FILE *out)
{
    if (t->kind == TREE_SCALAR) {
        fputs(t->text, out);
        return;
    }
    fputc(t->kind == TREE_MAP ? '{' : '[', out);
    for (uint32_t i = 0; i < t->count; i++) {
        fprintf(out, "%s%s%s", i ? ", " : "", t->kind == TREE_MAP ? t->key[i]->text : "", t->kind == TREE_MAP ? ": " : "");
        print_value(t->item[i], out);
    }
    fputc(t->kind == TREE_MAP ? '}' : ']', out);
}

static char *value_of(const struct tree *t)
{
    char *text;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    CHECK(f != NULL);
    if (t)
        print_value(t, f);
    else
        fputs("not said", f);
    CHECK(fclose(f) == 0);
    return text_plain(text);
}

static void compare(const struct comparison *c, const char *path, const struct tree *a, const struct tree *b)
{
    char below[PATH_BYTES];
    if (!a || !b || a->kind != b->kind || (a->kind == TREE_SCALAR && strcmp(a->text, b->text) != 0)) {
        char *first = value_of(a), *second = value_of(b);
        c->differs(c->arg, path, first, second);
        free(first);
        free(second);
        return;
    }
    for (uint32_t i = 0; a->kind == TREE_LIST && i < MAX(a->count, b->count); i++) {
        snprintf(below, sizeof below, "%.150s[%u]", path, i);
        compare(c, below, i < a->count ? a->item[i] : NULL, i < b->count ? b->item[i] : NULL);
    }
    for (unsigned side = 0; a->kind == TREE_MAP && side < 2; side++) {
        const struct tree *keys = side ? b : a;
        for (uint32_t i = 0; i < keys->count; i++) {
            const char *key = keys->key[i]->text;
            snprintf(below, sizeof below, "%.100s%s%.80s", path, *path ? "." : "", key);
            if (!side || !tree_get(a, key))
                compare(c, below, tree_get(a, key), tree_get(b, key));
        }
    }
}

static int compare_jobs(const struct comparison *c, const struct job *a, const struct job *b, struct err *err)
{
    struct job *trees = calloc(1, sizeof *trees);
    CHECK(trees != NULL);
    int rc = arena_init(&trees->arena, 2 * SPEC_ARENA_BYTES, err);
    const struct tree *first = rc == 0 ? tree_parse(trees, "the one spec", a->resolved_yaml, strlen(a->resolved_yaml), true) : NULL;
    const struct tree *second = first ? tree_parse(trees, "the other", b->resolved_yaml, strlen(b->resolved_yaml), true) : NULL;
    if (second)
        compare(c, "", first, second);
    else if (rc == 0)
        rc = err_set(err, ERR_CORRUPT, "a resolved spec does not read again");
    job_fini(trees);
    free(trees);
    return rc;
}

/* A key, or one below it. */
static bool is_of(const char *path, const char *key)
{
    size_t n = strlen(key);
    return strncmp(path, key, n) == 0 && (!path[n] || path[n] == '.' || path[n] == '[');
}

static bool is_of_one(const char *path, const char *const *keys)
{
    while (*keys && !is_of(path, *keys))
        keys++;
    return *keys != NULL;
}

/* ---- a resume ---- */
static bool must_stay(const char *path)
{
    static const char *const kept[] = {"model", "data.train", "train", NULL}, *const free_to_change[] = {"train.epochs", "train.steps", NULL};
    return is_of_one(path, kept) && !is_of_one(path, free_to_change);
}

struct resume { FILE *kept, *changed; unsigned kept_count, changed_count; };

static void on_resume(void *arg, const char *path, const char *was, const char *is)
{
    struct resume *r = arg;
    if (must_stay(path))
        fprintf(r->kept, "%s%s was %.100s and is %.100s now", r->kept_count++ ? ", " : "", path, was, is);
    else
        fprintf(r->changed, "%s  %s was %.300s and is %.300s now", r->changed_count++ ? "\n" : "", path, was, is);
}

int job_resume_check(const struct job *was, const struct job *now, char **changes, struct err *err)
{
    char *kept;
    size_t size, changed_size;
    struct resume r = {.kept = open_memstream(&kept, &size), .changed = open_memstream(changes, &changed_size)};
    CHECK(r.kept && r.changed);
    int rc = compare_jobs(&(struct comparison){on_resume, &r}, was, now, err);
    CHECK(fclose(r.kept) == 0 && fclose(r.changed) == 0);
    if (rc == 0 && r.kept_count)
        rc = err_set(err, ERR_USAGE, "%.600s; a resume must keep %s; start the changed run in another --dir", kept, r.kept_count == 1 ? "it" : "them");
    free(kept);
    if (rc < 0 || !r.changed_count) {
        free(*changes);
        *changes = NULL;
    }
    return rc;
}

/* ---- a site that joins ---- */
struct joining { const char *own[7]; struct err *err; };

static void on_joining(void *arg, const char *path, const char *run, const char *here)
{
    struct joining *j = arg;
    if (!is_of_one(path, j->own) && !j->err->code)
        err_set(j->err, ERR_USAGE, "%s is %.200s in the run and %.200s here; give this site the run's spec", path, run, here);
}

int job_agree(const struct job *run, const struct job *here, const char *site, struct err *err)
{
    char ranks[40];
    unsigned s = 0;
    while (s < run->spec.site_count && strcmp(run->spec.sites[s].name, site) != 0)
        s++;
    snprintf(ranks, sizeof ranks, "sites[%u].ranks", s);
    struct err found = ERR_INIT;
    struct joining j = {.own = {"data.train.images", "data.train.labels", "data.eval.images", "data.eval.labels", "coordinator", ranks}, .err = &found};
    TRY(compare_jobs(&(struct comparison){on_joining, &j}, run, here, err));
    if (found.code)
        *err = found;
    return found.code;
}
