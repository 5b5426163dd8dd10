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

/* "!--name": an option between our own processes, which nobody is told of. */
static const char *name_of(const char *option) { return option + (*option == '!'); }

static int option_index(const char *const *options, const char *text, size_t length)
{
    for (int i = 0; options[i]; i++) {
        const char *name = name_of(options[i]);
        if (strcspn(name, "=") == length && strncmp(name, text, length) == 0)
            return i;
    }
    return -1;
}

static int refuse(const char *const *options, const char *text, struct err *err)
{
    char known[400] = "", names[16][32];
    const char *list[16] = {NULL}, *nearest;
    unsigned count = 0;
    size_t n = 0;
    for (int i = 0; options[i] && n < sizeof known - 40 && count < ARRAY_LEN(names); i++) {
        if (options[i][0] == '!')
            continue;
        list[count] = names[count];
        snprintf(names[count++], sizeof names[0], "%.*s", (int)strcspn(options[i], "="), options[i]);
        n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", n ? ", " : "", list[count - 1]);
    }
    nearest = nearest_name(text, list, count);
    return err_set(err, ERR_USAGE, "unknown option '%s'%s%s%s; this verb knows %s", text, nearest ? "; did you mean '" : "", nearest ? nearest : "", nearest ? "'?" : "",
                   n ? known : "none");
}

int args_parse(struct args *a, const char *const *options, int argc, char **argv, struct err *err)
{
    *a = (struct args){0};
    for (int i = 1; i < argc; i++) {
        const char *text = argv[i];
        if (text[0] == '-' && text[1] != '\0') {
            size_t length = strcspn(text, "=");
            int k = option_index(options, text, length);
            if (k < 0)
                return refuse(options, text, err);
            bool wants_value = strchr(options[k], '=') != NULL;
            if (!wants_value && text[length] == '=')
                return err_set(err, ERR_USAGE, "option %s takes no value", options[k]);
            if (wants_value && text[length] != '=' && i + 1 >= argc)
                return err_set(err, ERR_USAGE, "option %s needs a value", text);
            a->value[k] = !wants_value ? "" : text[length] == '=' ? text + length + 1 : argv[++i];
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

int cli_fail(const char *verb, const struct err *err)
{
    struct err shown = *err;
    fprintf(stderr, "viaduct %s: %s\n", verb, text_plain(shown.text));   /* it may quote a file or the command line */
    return err_exit_code(err->code);
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
