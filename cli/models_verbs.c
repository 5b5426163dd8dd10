/* `viaduct models`: the registry for a person. */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "cli/cli.h"
#include "export/export.h"

struct look { bool json; unsigned count; int64_t version; const char *comma; };

static int positive(const char *what, const char *text, int64_t least, int64_t *out, struct err *err)
{
    char *end;
    bool digits = *text >= '0' && *text <= '9' && strlen(text) <= 10;
    *out = digits ? strtoll(text, &end, 10) : -1;
    return digits && !*end && *out >= least && *out <= INT32_MAX ? 0 : err_set(err, ERR_USAGE, "%s '%.40s' is no whole number from %lld", what, text, (long long)least);
}

/* ---- ls, show ---- */
static void number(double v, char out[32]) { snprintf(out, 32, isnan(v) ? "-" : "%.4f", v); }

static void print_aliases_json(const char *aliases)
{
    printf(",\"aliases\":[");
    for (const char *comma = ""; *aliases; comma = ",") {
        int n = (int)strcspn(aliases, ",");
        printf("%s\"%.*s\"", comma, n, aliases);
        aliases += n + (aliases[n] == ',');
    }
    printf("]");
}

static int list_one(void *arg, const struct registry_version *v, const char *aliases, struct err *err)
{
    struct look *to = arg;
    char accuracy[32];
    (void)err;
    if (to->version && v->version != to->version)
        return 0;
    if (to->json) {
        printf("%s{", to->count ? "," : "");
        registry_version_json(v, stdout);
        print_aliases_json(aliases);
        printf("}");
    } else {
        if (!to->count)
            printf("%-24s %7s  %-18s %-9s %8s %10s  %-20s %s\n", "MODEL", "VERSION", "ALIASES", "KIND", "ACCURACY", "BYTES", "CREATED", "RUN");
        number(v->accuracy, accuracy);
        printf("%-24s %7lld  %-18s %-9s %8s %10lld  %.19sZ %s\n", v->model, (long long)v->version, *aliases ? aliases : "-", v->kind, accuracy, (long long)v->bytes,
               v->created, v->run);
    }
    to->count++;
    return 0;
}

static int count_one(void *arg, const struct registry_version *v, const char *aliases, struct err *err)
{
    struct look *to = arg;
    (void)aliases, (void)err;
    to->count += !to->version || v->version == to->version;
    return 0;
}

/* Before anything is printed. */
static int check_there(struct registry *r, const char *model, int64_t version, struct err *err)
{
    struct look all = {0}, one = {.version = version};
    TRY(registry_versions(r, model, count_one, &all, err));
    TRY(registry_versions(r, model, count_one, &one, err));
    if (!all.count)
        return err_set(err, ERR_NOT_FOUND, "there is no model '%.70s'; `viaduct models ls` lists them", model);
    return one.count ? 0 : err_set(err, ERR_NOT_FOUND, "model '%.70s' has no version %lld; its versions are 1 to %u", model, (long long)version, all.count);
}

static int ls(struct registry *r, const char *model, bool json, struct err *err)
{
    struct look to = {.json = json};
    char head[SHA256_HEX];
    TRY(registry_audit(r, NULL, NULL, NULL, head, err));
    if (model)
        TRY(check_there(r, model, 0, err));
    if (json)
        printf("[");
    TRY(registry_versions(r, model, list_one, &to, err));
    if (json)
        printf("]\n");
    return 0;
}

static int show_alias(void *arg, const struct registry_alias *a, struct err *err)
{
    struct look *to = arg;
    char previous[24] = "null";
    (void)err;
    if (a->previous)
        snprintf(previous, sizeof previous, "%lld", (long long)a->previous);
    if (to->json)
        printf("%s\"%s\":{\"version\":%lld,\"previous\":%s}", to->comma, a->name, (long long)a->version, previous);
    else
        printf("alias %-20s version %lld%s%s\n", a->name, (long long)a->version, a->previous ? ", before that " : "", a->previous ? previous : "");
    to->comma = ",";
    return 0;
}

static int show_line(void *arg, const struct registry_audit *a, struct err *err)
{
    struct look *to = arg;
    char from[24] = "-";
    (void)err;
    if (to->json) {
        printf("%s{", to->comma);
        registry_audit_json(a, stdout);
        printf("}");
        to->comma = ",";
        return 0;
    }
    if (a->from)
        snprintf(from, sizeof from, "%lld", (long long)a->from);
    printf("%5lld  %.19sZ  %-8s  %-12s %4s -> %-4lld  %s(%lld)@%s  %s\n", (long long)a->position, a->at, a->action, *a->alias ? a->alias : "-", from, (long long)a->to, a->user,
           (long long)a->uid, a->host, a->reason);
    return 0;
}

/* A version of one model, as `key value` lines. */
static int show_version(void *arg, const struct registry_version *v, const char *aliases, struct err *err)
{
    struct look *to = arg;
    char accuracy[32], floats[32], gate[100] = "none", parent[32];
    (void)err;
    if (v->version != to->version)
        return 0;
    to->count++;
    number(v->accuracy, accuracy), number(v->accuracy_float, floats);
    if (!isnan(v->drop))
        snprintf(gate, sizeof gate, "passed: accuracy %+.4f, lower 95 %% bound %+.4f, allowed %+.4f", 0 - v->drop, v->low95, 0 - v->max_drop);
    printf("%s version %lld\n  aliases     %s\n  kind        %s, %lld bytes\n  accuracy    %s, in float %s\n  gate        %s\n", v->model,
           (long long)v->version, *aliases ? aliases : "-", v->kind, (long long)v->bytes, accuracy, floats, gate);
    printf("  input       %lld x %lld x %lld, %lld classes\n  sha256      %s\n  run         %s\n  job         %s, step %lld, generation %lld\n  commit      %s\n", (long long)v->channels,
           (long long)v->height, (long long)v->width, (long long)v->classes, v->sha256, v->run, v->job, (long long)v->step, (long long)v->generation, *v->commit ? v->commit : "-");
    snprintf(parent, sizeof parent, "%lld", (long long)v->parent);
    printf("  spec        %s\n  data        %s\n  weights     %s trained, %s exported\n  parent      %s\n  created     %s\n", v->spec_sha256, v->data_sha256, v->weights_sha256,
           v->exported_sha256, v->parent ? parent : "-", v->created);
    return 0;
}

static int show(struct registry *r, const struct args *a, struct err *err)
{
    const char *model = a->positional[1];
    bool json = args_value(a, "--json") != NULL;
    char head[SHA256_HEX];
    struct look to = {.json = json, .comma = ""};
    if (a->positional_count == 3)
        TRY(positive("version", a->positional[2], 1, &to.version, err));
    TRY(check_there(r, model, to.version, err));
    if (json)                        /* half of it would be none */
        TRY(registry_audit(r, NULL, NULL, NULL, head, err));
    if (json)
        printf("{\"aliases\":{");
    TRY(registry_aliases(r, model, show_alias, &to, err));
    if (json)
        printf("},\"versions\":[");
    TRY(registry_versions(r, model, to.version && !json ? show_version : list_one, &to, err));
    to.comma = "";
    if (json)
        printf("],\"audit\":[");
    TRY(registry_audit(r, model, args_value(a, "--audit") || json ? show_line : NULL, &to, head, err));
    if (json)
        printf("],\"audit_head\":\"%s\"}\n", head);
    else if (args_value(a, "--audit"))
        printf("audit log verified, its head is %s\n", head);
    return 0;
}

/* ---- register, promote, rollback, verify ---- */
static int enter(struct registry *r, const struct args *a, const char *model, struct err *err)
{
    struct registry_version *v = calloc(1, sizeof *v);
    CHECK(v != NULL);
    int rc = registry_register(r, a->positional[1], model, v, err);
    if (rc == 0 && args_value(a, "--json")) {
        printf("{");
        registry_version_json(v, stdout);
        printf("}\n");
    } else if (rc == 0) {
        printf("%s version %lld\n", v->model, (long long)v->version);
    }
    free(v);
    return rc;
}

static int move(struct registry *r, const struct args *a, bool back, struct err *err)
{
    struct registry_move m = {.model = a->positional[1], .alias = args_value(a, "--alias") ? args_value(a, "--alias") : REGISTRY_CHAMPION, .expect = -1, .reason = args_value(a, "--reason")};
    int64_t from, to;
    if (!back)
        TRY(positive("version", a->positional[2], 1, &m.version, err));
    if (args_value(a, "--expect"))
        TRY(positive("--expect", args_value(a, "--expect"), 0, &m.expect, err));
    TRY(registry_move(r, &m, &from, &to, err));
    char was[24] = "null";
    if (from)
        snprintf(was, sizeof was, "%lld", (long long)from);
    if (args_value(a, "--json"))
        printf("{\"alias\":\"%s\",\"from\":%s,\"model\":\"%s\",\"to\":%lld}\n", m.alias, was, m.model, (long long)to);
    else
        printf("%s: %s %s version %lld%s%s\n", m.model, m.alias, from == to ? "stands already at" : "now stands at", (long long)to, from && from != to ? ", before " : "",
               from && from != to ? was : "");
    return 0;
}

static void wrong(void *arg, const char *text)
{
    char quoted[2000];
    struct look *to = arg;
    json_quote(quoted, sizeof quoted, text);
    if (to->json)
        printf("%s%s", to->comma, quoted);
    else
        printf("%s\n", text);
    to->comma = ",";
}

static int verify(struct registry *r, const struct args *a, struct err *err)
{
    unsigned files = 0;
    struct look to = {.json = args_value(a, "--json") != NULL, .comma = ""};
    if (to.json)
        printf("{\"wrong\":[");
    int rc = registry_verify(r, wrong, &to, &files, err);
    if (to.json)
        printf("],\"checked\":%u}\n", files);
    else if (rc == 0)
        printf("%u files and the audit log verify\n", files);
    return rc;
}

/* Registry and name that the run itself would have taken, where the command line says nothing. */
static const struct job_spec *spec_of(const char *run, struct job *job)
{
    char file[PATH_MAX];
    struct err ignored = ERR_INIT;   /* an export of a run whose spec is gone has a name, too: in its card */
    bool loaded = snprintf(file, sizeof file, "%s/spec.yaml", run) < (int)sizeof file && job_load(job, file, NULL, 0, false, &ignored) == 0;
    return loaded && job->spec.registry ? &job->spec : NULL;
}

static int act(const struct args *a, struct job *job, struct err *err)
{
    enum { LS, SHOW, REGISTER, PROMOTE, ROLLBACK, VERIFY };
    static const struct { const char *name, *use; unsigned least, most; } nouns[] = {
        [LS] = {"ls", "ls [MODEL]", 1, 2}, [SHOW] = {"show", "show MODEL [VERSION] [--audit]", 2, 3}, [REGISTER] = {"register", "register RUN [--model NAME]", 2, 2},
        [PROMOTE] = {"promote", "promote MODEL VERSION [--alias NAME] [--expect N] [--reason TEXT]", 3, 3},
        [ROLLBACK] = {"rollback", "rollback MODEL [--alias NAME] [--expect N] [--reason TEXT]", 2, 2}, [VERIFY] = {"verify", "verify", 1, 1}};
    const char *root = args_value(a, "--registry"), *noun = a->positional_count ? a->positional[0] : "";
    unsigned n = 0;
    struct registry *r;
    while (n < ARRAY_LEN(nouns) && strcmp(nouns[n].name, noun) != 0)
        n++;
    if (n == ARRAY_LEN(nouns))
        return err_set(err, ERR_USAGE, "use: viaduct models ls|show|register|promote|rollback|verify; viaduct models --help says more");
    if (a->override_count || a->positional_count < nouns[n].least || a->positional_count > nouns[n].most)
        return err_set(err, ERR_USAGE, "use: viaduct models %s [--registry DIR] [--json]", nouns[n].use);
    const struct job_spec *spec = n == REGISTER ? spec_of(a->positional[1], job) : NULL;
    const char *model = args_value(a, "--model") ? args_value(a, "--model") : spec ? spec->registry_model : NULL;
    if (!root)
        root = spec ? spec->registry : "models";
    const char *bad = failpoint_init(root);
    if (bad)
        return err_set(err, ERR_USAGE, "%s", bad);
    if (n == REGISTER)
        TRY(registry_check_run(a->positional[1], model, err));
    TRY(registry_open(root, n == REGISTER, &r, err));
    struct err behind = ERR_INIT;    /* told, and what was asked for is done all the same */
    bool looks = n == LS || n == SHOW || n == VERIFY;
    if (looks)
        registry_complete(r, &behind);
    int rc = n == LS         ? ls(r, a->positional_count > 1 ? a->positional[1] : NULL, args_value(a, "--json") != NULL, err)
             : n == SHOW     ? show(r, a, err)
             : n == REGISTER ? enter(r, a, model, err)
             : n == VERIFY   ? verify(r, a, err)
                             : move(r, a, n == ROLLBACK, err);
    if (rc == 0 && !looks && registry_complete(r, &behind) < 0)
        fprintf(stderr, "viaduct models: something else is behind: %s\n", behind.text);
    registry_close(r);
    if (rc == 0 && looks && behind.code)
        return *err = behind, behind.code;
    return rc < 0 || fflush(stdout) == 0 ? rc : err_set(err, ERR_IO, "the result could not be written to stdout");
}

int verb_models(int argc, char **argv)
{
    struct args a;
    struct err err = ERR_INIT;
    int rc = args_parse(&a, argc, argv, &err);
    struct job *job = calloc(1, sizeof *job);
    CHECK(job != NULL);
    if (rc == 0)
        rc = act(&a, job, &err);
    job_fini(job);
    free(job);
    return rc < 0 ? cli_fail("models", &err) : 0;
}
