/* `viaduct ckpt ls|show|verify`. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/base.h"
#include "ckpt/ckpt.h"
#include "cli/cli.h"

#define LIST_MAX 4096

static bool is_file(const char *dir, const char *name)
{
    char path[PATH_MAX];
    struct stat st;
    return snprintf(path, sizeof path, "%s/%s", dir, name) < (int)sizeof path && stat(path, &st) == 0;
}

static int list_of(const char *run, struct ckpt_found **out, uint32_t *count, struct err *err)
{
    char root[PATH_MAX];
    snprintf(root, sizeof root, "%s%s", run, is_file(run, "ckpt") ? "/ckpt" : "");
    *out = calloc(LIST_MAX, sizeof **out);
    if (!*out)
        return err_set(err, ERR_NO_MEMORY, "no memory for the list");
    int rc = ckpt_list(root, *out, LIST_MAX, count, err);
    if (rc < 0)
        free(*out);
    return rc;
}

static int ls(const char *run, bool json, struct err *err)
{
    struct ckpt_found *found;
    uint32_t count;
    TRY(list_of(run, &found, &count, err));
    if (json)
        printf("[");
    else if (count)
        printf("%-16s %10s %10s  %-10s %s\n", "SITE", "STEP", "GENERATION", "STATE", "PATH");
    for (uint32_t i = 0; i < count; i++) {
        const struct ckpt_found *f = &found[i];
        char quoted[2200];
        json_quote(quoted, sizeof quoted, f->dir);
        if (json)
            printf("%s{\"site\":\"%s\",\"step\":%llu,\"generation\":%u,\"published\":%s,\"path\":%s}", i ? "," : "", f->site, (unsigned long long)f->step,
                   f->generation, f->published ? "true" : "false", quoted);
        else
            printf("%-16s %10llu %10u  %-10s %s\n", f->site, (unsigned long long)f->step, f->generation, f->published ? "published" : "unfinished", f->dir);
    }
    if (json)
        printf("]\n");
    free(found);
    return 0;
}

static void show_text(const char *dir, const struct ckpt_manifest *m)
{
    const struct layout *l = &m->layout;
    printf("%s\n  step %llu, generation %u, pass %u, next sample %llu of %llu, phase %s\n  optimizer %s", dir, (unsigned long long)m->meta.step,
           m->meta.generation, m->meta.pass + 1, (unsigned long long)m->meta.position, (unsigned long long)m->meta.samples_per_pass, m->meta.phase,
           m->meta.optimizer);
    for (uint32_t s = 0; s < m->meta.slot_count; s++)
        printf("%s%s", s ? ", " : " with ", m->meta.slot_name[s]);
    printf("\n  %u tensors in %u blocks, %u parts\n", l->tensor_count, l->block_count, m->part_count);
    for (uint32_t t = 0; t < l->tensor_count; t++) {
        const struct tensor_desc *d = &l->tensors[t];
        printf("  %-9s %-32s [", d->kind == TENSOR_PARAMETER ? "parameter" : "state", d->name);
        for (uint32_t k = 0; k < d->dim_count; k++)
            printf("%s%llu", k ? ", " : "", (unsigned long long)d->dims[k]);
        printf("]\n");
    }
    for (uint32_t p = 0; p < m->part_count; p++) {
        char hex[SHA256_HEX];
        hex_of(m->part[p].sha256, SHA256_BYTES, hex);
        printf("  part %02u  %10llu bytes  sha256 %s\n", m->part[p].index, (unsigned long long)m->part[p].size_bytes, hex);
    }
}

static int show(const char *dir, bool json, struct err *err)
{
    struct ckpt_manifest m;
    if (!is_file(dir, "manifest.json") && is_file(dir, "ckpt"))
        return err_set(err, ERR_NOT_FOUND, "%s is a run, not a checkpoint; `viaduct ckpt ls %s` lists those that it has", dir, dir);
    TRY(ckpt_open(&fs_real, dir, &m, err));
    int rc = 0;
    if (json) {
        char *text;
        size_t size;
        rc = ckpt_manifest_encode(&m, &text, &size, err);
        if (rc == 0) {
            fwrite(text, 1, size, stdout);
            free(text);
        }
    } else {
        show_text(dir, &m);
    }
    ckpt_manifest_fini(&m);
    return rc;
}

/* With --json: one object a line, also for a damaged one. */
static int verify_one(const char *dir, bool json, struct err *err)
{
    struct ckpt_manifest m;
    char path[2100], error[2000];
    uint64_t step = 0;
    int rc = ckpt_open(&fs_real, dir, &m, err);
    if (rc == 0) {
        step = m.meta.step;
        rc = ckpt_verify(&fs_real, dir, &m, err);
        if (rc == 0)
            rc = ckpt_verify_model(&fs_real, dir, &m, err);
        if (rc == 0 && !json)
            printf("%s: step %llu, %u parts and model.h5, every byte verifies\n", dir, (unsigned long long)step, m.part_count);
        ckpt_manifest_fini(&m);
    }
    if (!json)
        return rc;
    json_quote(path, sizeof path, dir);
    json_quote(error, sizeof error, rc < 0 ? err->text : "");
    printf("{\"dir\":%s,\"step\":%llu,\"verified\":%s,\"error\":%s}\n", path, (unsigned long long)step, rc < 0 ? "false" : "true", rc < 0 ? error : "null");
    return rc;
}

static int verify(const char *path, bool json, struct err *err)
{
    if (is_file(path, "manifest.json") || !is_file(path, "ckpt"))
        return verify_one(path, json, err);
    struct ckpt_found *found;
    uint32_t count, whole = 0;
    TRY(list_of(path, &found, &count, err));
    int worst = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct err why = ERR_INIT;
        if (!found[i].published)
            continue;
        whole++;
        if (verify_one(found[i].dir, json, &why) < 0) {
            fprintf(stderr, "viaduct ckpt verify: %s\n", why.text);
            worst = (*err = why, why.code);
        }
    }
    free(found);
    if (!whole)
        return err_set(err, ERR_NOT_FOUND, "%s holds no published checkpoint", path);
    return worst ? err_set(err, worst, "%s has damaged checkpoints, named above; the others are whole", path) : 0;
}

/* A damaged checkpoint, and what helps. */
static void advise(struct err *err)
{
    struct err why = *err;
    if (why.code == ERR_CORRUPT)
        err_set(err, why.code, "%s; use another site's copy or an earlier step (viaduct ckpt ls RUN), as a resume does by itself", why.text);
}

int verb_ckpt(int argc, char **argv)
{
    struct args a;
    struct err err = ERR_INIT;
    int rc = args_parse(&a, argc, argv, &err);
    const char *noun = a.positional_count ? a.positional[0] : "";
    bool json = args_value(&a, "--json") != NULL;
    if (rc == 0 && a.positional_count != 2)
        rc = args_usage(&a, &err);
    else if (rc == 0 && strcmp(noun, "ls") == 0)
        rc = ls(a.positional[1], json, &err);
    else if (rc == 0 && strcmp(noun, "show") == 0)
        rc = show(a.positional[1], json, &err);
    else if (rc == 0 && strcmp(noun, "verify") == 0)
        rc = verify(a.positional[1], json, &err);
    else if (rc == 0)
        rc = err_set(&err, ERR_USAGE, "ckpt knows ls, show and verify; '%s' is not in this version", noun);
    advise(&err);
    return rc < 0 ? cli_fail("ckpt", &err) : 0;
}
