/* Command lines: options, positionals, overrides. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "cli/cli.h"

static bool is_override(const char *text)
{
    const char *eq = strchr(text, '=');
    if (!eq || eq == text || !isalpha((unsigned char)text[0]))
        return false;
    for (const char *p = text; p < eq; p++)
        if (!isalnum((unsigned char)*p) && !strchr("._-", *p))
            return false;
    return true;
}

static int option_index(const struct verb *v, const char *text, size_t length)
{
    for (int i = 0; i < CLI_OPTIONS_MAX && v->options[i].name; i++) {
        const struct option *o = &v->options[i];
        if ((strlen(o->name) == length && strncmp(o->name, text, length) == 0) || (length == 2 && o->letter && text[0] == '-' && text[1] == o->letter))
            return i;
    }
    return -1;
}

static int refuse(const struct verb *v, const char *text, struct err *err)
{
    char known[400] = "";
    const char *names[CLI_OPTIONS_MAX] = {NULL}, *nearest;
    unsigned count = 0;
    size_t n = 0;
    for (const struct option *o = v->options; o < v->options + CLI_OPTIONS_MAX && o->name; o++) {
        if (o->hidden)
            continue;
        names[count++] = o->name;
        n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", n ? ", " : "", o->name);
    }
    nearest = nearest_name(text, names, count);
    return err_set(err, ERR_USAGE, "unknown option '%s'%s%s%s; this verb knows %s", text, nearest ? "; did you mean '" : "", nearest ? nearest : "", nearest ? "'?" : "",
                   n ? known : "none");
}

static int option(struct args *a, int argc, char **argv, int *i, struct err *err)
{
    const char *text = argv[*i];
    size_t length = strcspn(text, "=");
    int k = option_index(a->verb, text, length);
    if (k < 0)
        return refuse(a->verb, text, err);
    const struct option *o = &a->verb->options[k];
    if (!o->value && text[length] == '=')
        return err_set(err, ERR_USAGE, "option %s takes no value", o->name);
    if (o->value && text[length] != '=' && *i + 1 >= argc)
        return err_set(err, ERR_USAGE, "option %s needs a value", text);
    a->value[k] = !o->value ? "" : text[length] == '=' ? text + length + 1 : argv[++*i];
    return 0;
}

int args_parse(struct args *a, int argc, char **argv, struct err *err)
{
    *a = (struct args){.verb = verb_find(argv[0])};
    CHECK(a->verb != NULL);
    for (int i = 1; i < argc; i++) {
        const char *text = argv[i];
        if (text[0] == '-' && text[1] != '\0') {
            TRY(option(a, argc, argv, &i, err));
        } else if (is_override(text)) {
            if (a->override_count == CLI_OVERRIDES_MAX)
                return err_set(err, ERR_USAGE, "more than %d overrides", CLI_OVERRIDES_MAX);
            a->override[a->override_count++] = text;
        } else {
            if (a->positional_count == CLI_POSITIONALS_MAX)
                return err_set(err, ERR_USAGE, "too many arguments: '%s'", text);
            a->positional[a->positional_count++] = text;
        }
    }
    return 0;
}

const char *args_value(const struct args *a, const char *name)
{
    int k = option_index(a->verb, name, strlen(name));
    CHECK(k >= 0);
    return a->value[k];
}

const char *args_choices(const struct args *a, const char *name)
{
    int k = option_index(a->verb, name, strlen(name));
    CHECK(k >= 0 && a->verb->options[k].choices != NULL);
    return a->verb->options[k].choices;
}

int args_usage(const struct args *a, struct err *err)
{
    char synopsis[600];
    verb_synopsis(a->verb, synopsis, sizeof synopsis);
    return err_set(err, ERR_USAGE, "use: viaduct %s", synopsis);
}

int args_one_spec(const struct args *a, const char *usage, struct err *err)
{
    if (a->positional_count == 0)
        return err_set(err, ERR_USAGE, "one spec is needed: viaduct %s", usage);
    if (a->positional_count > 1)
        return err_set(err, ERR_USAGE, "'%s' is no override, which is key.path=value, and %s is the spec: viaduct %s", a->positional[1], a->positional[0], usage);
    return 0;
}

int args_number(const struct args *a, const char *name, uint64_t max, uint64_t *out, struct err *err)
{
    const char *text = args_value(a, name);
    char *end;
    if (!text)
        return 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (!isdigit((unsigned char)*text) || *end || v < 1 || v > max)
        return err_set(err, ERR_USAGE, "%s takes a whole number from 1 to %llu, not '%s'", name, (unsigned long long)max, text);
    *out = v;
    return 0;
}

int cli_fail(const char *verb, const struct err *err)
{
    struct err shown = *err;
    fprintf(stderr, "viaduct %s: %s\n", verb, text_plain(shown.text));   /* it may quote a file or the command line */
    return err_exit_code(err->code);
}

int cli_unknown_verb(const char *name)
{
    const char *names[64];
    unsigned count = 0;
    for (const struct verb *v = verbs; v->name && count < ARRAY_LEN(names); v++)
        if (!v->role)
            names[count++] = v->name;
    const char *nearest = nearest_name(name, names, count);
    fprintf(stderr, "viaduct: unknown verb '%s'", name);
    if (nearest)
        fprintf(stderr, "; did you mean '%s'?", nearest);
    fprintf(stderr, "\nviaduct --help lists the verbs\n");
    return 2;
}

int cli_load_spec(const char *verb, struct job *job, const char *file, const struct args *a, bool check_files)
{
    struct err err = ERR_INIT;
    int rc = job_load(job, file, a->override, a->override_count, check_files, &err);
    if (job->problems.count)
        problems_print(&job->problems, stderr);
    else if (rc < 0)
        cli_fail(verb, &err);
    return rc;
}
