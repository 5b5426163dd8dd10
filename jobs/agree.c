/* Two specs of one job, compared key by key as their resolved texts have them. */
#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "jobs/tree.h"

#define PATH_BYTES 200

struct comparison { const char *own[6]; struct err *err; };

static bool may_differ(const struct comparison *c, const char *path)
{
    for (unsigned i = 0; i < ARRAY_LEN(c->own); i++)
        if (strcmp(path, c->own[i]) == 0)
            return true;
    return false;
}

static const char *said(const struct tree *t, const char *where)
{
    return !t ? "not said" : t->kind != TREE_SCALAR ? where : t->text;
}

static int differ(const struct comparison *c, const char *path, const struct tree *run, const struct tree *here)
{
    return err_set(c->err, ERR_USAGE, "%s is %.200s in the run and %.200s here; give this site the run's spec", path, said(run, "something else"),
                   said(here, "something else"));
}

static int compare(const struct comparison *c, const char *path, const struct tree *run, const struct tree *here)
{
    char below[PATH_BYTES];
    if (may_differ(c, path))
        return 0;
    if (!run || !here || run->kind != here->kind || (run->kind == TREE_SCALAR && strcmp(run->text, here->text) != 0))
        return differ(c, path, run, here);
    for (uint32_t i = 0; run->kind == TREE_LIST && i < MAX(run->count, here->count); i++) {
        snprintf(below, sizeof below, "%.150s[%u]", path, i);
        TRY(compare(c, below, i < run->count ? run->item[i] : NULL, i < here->count ? here->item[i] : NULL));
    }
    for (unsigned side = 0; run->kind == TREE_MAP && side < 2; side++) {
        const struct tree *keys = side ? here : run;
        for (uint32_t i = 0; i < keys->count; i++) {
            snprintf(below, sizeof below, "%.100s%s%.80s", path, *path ? "." : "", keys->key[i]->text);
            TRY(compare(c, below, tree_get(run, keys->key[i]->text), tree_get(here, keys->key[i]->text)));
        }
    }
    return 0;
}

int job_agree(const struct job *run, const struct job *here, const char *site, struct err *err)
{
    char ranks[40];
    unsigned s = 0;
    while (s < run->spec.site_count && strcmp(run->spec.sites[s].name, site) != 0)
        s++;
    snprintf(ranks, sizeof ranks, "sites[%u].ranks", s);
    struct comparison c = {.own = {"data.train.images", "data.train.labels", "data.eval.images", "data.eval.labels", "coordinator", ranks}, .err = err};
    struct job a, b;
    memset(&a, 0, sizeof a);
    memset(&b, 0, sizeof b);
    TRY(arena_init(&a.arena, SPEC_ARENA_BYTES, err));
    TRY(arena_init(&b.arena, SPEC_ARENA_BYTES, err));
    const struct tree *first = tree_parse(&a, "the run's spec", run->resolved_yaml, strlen(run->resolved_yaml), true);
    const struct tree *second = tree_parse(&b, "this spec", here->resolved_yaml, strlen(here->resolved_yaml), true);
    int rc = first && second ? compare(&c, "", first, second) : err_set(err, ERR_CORRUPT, "a resolved spec does not read again");
    job_fini(&a);
    job_fini(&b);
    return rc;
}
