/* What the tables of verbs and keys look like to a reader: --help, the man pages, docs/manual/spec.md. */
#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "cli/cli.h"

struct exit_code { const char *code, *means; };
static const struct exit_code exit_codes[] = {
    {"0", "ok"}, {"1", "failure"}, {"2", "usage or invalid spec"}, {"3", "the job failed"}, {"4", "not found"}, {"5", "not allowed"}, {"6", "conflict"},
    {"75", "temporary, trying again is sensible"}, {"128+n", "ended by signal n"},
};
struct entry { const char *name, *text; };
static const struct entry environment[] = {
    {"NO_COLOR", "no colours."},
    {"VIADUCT_PLUGINS", "the folder of viaduct-mpi.so, instead of those beside the program."},
    {"VIADUCT_WORKER", "the same as run --worker."},
    {"VIADUCT_FAILPOINT", "name:action[:n] makes a process die, stop or exit at a named place, for tests; doctor --json lists the names."},
}, files[] = {
    {"RUN/spec.yaml", "the spec with every default filled in"},
    {"RUN/report.json, RUN/report.html", "how the run ended, for programs and for people"},
    {"RUN/metrics.jsonl, RUN/tb/", "one line a step; the same for TensorBoard"},
    {"RUN/events.jsonl, RUN/log/", "what happened; what each process said"},
    {"RUN/ckpt/SITE/step-N/", "checkpoints"},
    {"RUN/export/", "what was made of the trained model"},
    {"RUN/state/", "of the processes of the run; leave it alone"},
};

bool words_next(const char **words, char *word, size_t size)
{
    if (!*words || !**words)
        return false;
    size_t n = strcspn(*words, "|");
    snprintf(word, size, "%.*s", (int)n, *words);
    *words += n + ((*words)[n] == '|');
    return true;
}

/* ---- --help ---- */
static bool is_last(const struct verb *v, const struct option *o) { return o == v->options + CLI_OPTIONS_MAX || !o->name; }

void verb_synopsis(const struct verb *v, char *out, size_t size)
{
    size_t n = (size_t)snprintf(out, size, "%s%s%s", v->name, *v->arguments ? " " : "", v->arguments);
    for (const struct option *o = v->options; !is_last(v, o) && n < size; o++)
        if (!o->hidden)
            n += (size_t)snprintf(out + n, size - n, o->required ? " %s%s%s" : " [%s%s%s]", o->name, o->value ? " " : "", o->value ? o->value : "");
    if (v->overrides && n < size)
        snprintf(out + n, size - n, " [key.path=value ...]");
}

/* In lines of at most 110 columns behind `indent` spaces; the first line is begun already. */
static void print_wrapped(FILE *out, unsigned indent, const char *text)
{
    unsigned column = indent;
    while (*text) {
        size_t n = strcspn(text, " ");
        if (column > indent && column + n > 110)
            fprintf(out, "\n%*s", (int)(column = indent), "");
        fprintf(out, "%s%.*s", column > indent ? " " : "", (int)n, text);
        column += (unsigned)n + 1;
        text += n + (text[n] == ' ');
    }
    fprintf(out, "\n");
}

static void option_name(const struct option *o, char *out, size_t size)
{
    char letter[8] = "";
    if (o->letter)
        snprintf(letter, sizeof letter, "-%c, ", o->letter);
    snprintf(out, size, "%s%s%s%s", letter, o->name, o->value ? " " : "", o->value ? o->value : "");
}

static void option_help(const struct option *o, char *out, size_t size)
{
    char choices[120] = "", word[60];
    const char *rest = o->choices;
    size_t n = 0;
    while (words_next(&rest, word, sizeof word) && n < sizeof choices)
        n += (size_t)snprintf(choices + n, sizeof choices - n, "%s%s", n ? ", " : ": ", word);
    snprintf(out, size, "%s%s", o->help, choices);
}

void cli_print_verb(const struct verb *v, FILE *out)
{
    char text[700], name[80];
    verb_synopsis(v, text, sizeof text);
    fprintf(out, "viaduct ");
    print_wrapped(out, 8, text);
    fprintf(out, "  ");
    print_wrapped(out, 2, v->does);
    if (v->more) {
        fprintf(out, "\n  ");
        print_wrapped(out, 2, v->more);
    }
    if (v->options[0].name)
        fprintf(out, "\noptions:\n");
    for (const struct option *o = v->options; !is_last(v, o); o++) {
        if (o->hidden)
            continue;
        option_name(o, name, sizeof name);
        option_help(o, text, sizeof text);
        fprintf(out, "  %-18s ", name);
        print_wrapped(out, 21, text);
    }
    if (v->overrides)
        fprintf(out, "  %-18s any key of the spec, as YAML: train.batch=512, 'sites=[{name: a, via: local, ranks: 2}]', export=null\n", "key.path=value");
    if (v->exits) {
        const char *rest = v->exits;
        fprintf(out, "\nexit codes (viaduct --help has those that all verbs share):\n");
        while (words_next(&rest, text, sizeof text))
            fprintf(out, "  %s\n", text);
    }
    fprintf(out, "\nexamples:\n");
    for (unsigned i = 0; i < ARRAY_LEN(v->examples) && v->examples[i]; i++)
        fprintf(out, "  %s\n", v->examples[i]);
}

void cli_print_help(FILE *out)
{
    fprintf(out, "viaduct " VIADUCT_VERSION ": trains one model across several sites as if they were one machine\n\n"
                 "  viaduct init > job.yaml && viaduct validate job.yaml\n"
                 "  viaduct run job.yaml\n\nverbs:\n");
    for (const struct verb *v = verbs; v->name; v++)
        if (!v->role)
            fprintf(out, "  %-10s %s\n", v->name, v->does);
    fprintf(out, "\nviaduct VERB --help shows its arguments and examples. Exit codes:");
    for (unsigned i = 0; i < ARRAY_LEN(exit_codes); i++)
        fprintf(out, "%s %s %s", i ? "," : "", exit_codes[i].code, exit_codes[i].means);
    fprintf(out, ".\n");
}

/* ---- roff ---- */
/* Text as a man page has it: a dash is a dash, and no word that begins a line is a request. */
static void roff_word(FILE *out, const char *text, size_t n)
{
    if (n && *text == '.')
        fputs("\\&", out);
    for (const char *p = text; p < text + n; p++)
        if (*p == '\\')
            fputs("\\e", out);
        else if (*p == '-')
            fputs("\\-", out);
        else if (*p == '`' || *p == '\'')
            fputs(*p == '`' ? "\\(ga" : "\\(aq", out);
        else if (*p == '^' || *p == '~')
            fputs(*p == '^' ? "\\(ha" : "\\(ti", out);
        else
            fputc(*p, out);
}

static void roff(FILE *out, const char *text)
{
    for (size_t column = 0; *text;) {
        size_t n = strcspn(text, " ");
        roff_word(out, text, n);
        column += n + 1;
        text += n;
        if (*text == ' ')
            fputc(column + strcspn(text + 1, " ") > 60 ? '\n' : ' ', out);
        if (*text == ' ' && column + strcspn(text + 1, " ") > 60)
            column = 0;
        text += *text == ' ';
    }
}

/* A tagged paragraph: name in bold, text below it. */
static void roff_entry(FILE *out, const char *name, const char *text)
{
    fputs(".TP\n\\fB", out);
    roff(out, name);
    fputs("\\fR\n", out);
    roff(out, text);
    fputs("\n", out);
}

static void roff_line(FILE *out, const char *before, const char *text, const char *after)
{
    fputs(before, out);
    roff(out, text);
    fputs(after, out);
}

static void roff_verb(FILE *out, const struct verb *v)
{
    char text[700], name[80];
    fprintf(out, ".SS %s\n", v->name);
    verb_synopsis(v, text, sizeof text);
    roff_line(out, "\\fBviaduct ", text, "\\fR\n.PP\n");
    roff_line(out, "", v->does, ".\n");
    if (v->more)
        roff_line(out, "", v->more, "\n");
    for (const struct option *o = v->options; !is_last(v, o); o++) {
        if (o->hidden)
            continue;
        option_name(o, name, sizeof name);
        option_help(o, text, sizeof text);
        roff_entry(out, name, text);
    }
    const char *rest = v->exits;
    if (rest)
        fputs(".PP\nExit codes:\n", out);
    while (words_next(&rest, text, sizeof text))
        roff_line(out, "", text, *rest ? ";\n" : ".\n");
    fputs(".PP\n.EX\n", out);
    for (unsigned i = 0; i < ARRAY_LEN(v->examples) && v->examples[i]; i++) {
        roff_word(out, v->examples[i], strlen(v->examples[i]));
        fputs("\n", out);
    }
    fputs(".EE\n", out);
}

static void roff_title(FILE *out, const char *name, const char *section)
{
    fprintf(out, ".TH %s %s " VIADUCT_DATE " \"Viaduct " VIADUCT_VERSION "\" \"Viaduct\"\n.nh\n.ad l\n", name, section);   /* names of files and keys stay whole */
}

static void print_man(FILE *out)
{
    roff_title(out, "VIADUCT", "1");
    fputs(".SH NAME\nviaduct \\- trains one model across several sites as if they were one machine\n.SH SYNOPSIS\n\\fBviaduct\\fR \\fIVERB\\fR [\\fINOUN\\fR] "
          "[\\fIoptions\\fR] [\\fIkey.path=value\\fR ...]\n.SH DESCRIPTION\nA coordinator assigns data to workers at several sites, sums meet inside a site,\n"
          "a sharded parameter server joins the sites over TLS.\nWhatever process dies, the run completes with the same weights.\n"
          "Data goes to stdout, everything else to stderr.\nA job is a spec, see\n.BR viaduct\\-spec (5).\n"
          "Any key of it can be set on the command line as \\fIkey.path=value\\fR,\nthe value in YAML; null puts a key back to its default.\n.SH VERBS\n", out);
    for (const struct verb *v = verbs; v->name; v++)
        if (!v->role)
            roff_verb(out, v);
    fputs(".SH EXIT STATUS\n", out);
    for (unsigned i = 0; i < ARRAY_LEN(exit_codes); i++)
        roff_entry(out, exit_codes[i].code, exit_codes[i].means);
    fputs(".SH ENVIRONMENT\n", out);
    for (unsigned i = 0; i < ARRAY_LEN(environment); i++)
        roff_entry(out, environment[i].name, environment[i].text);
    fputs(".SH FILES\n", out);
    for (unsigned i = 0; i < ARRAY_LEN(files); i++)
        roff_entry(out, files[i].name, files[i].text);
    fputs(".SH SEE ALSO\n.BR viaduct\\-spec (5),\n.BR sbatch (1),\n.BR mpirun (1)\n", out);
}

int verb_help(int argc, char **argv)
{
    struct args a;
    struct err err = ERR_INIT;
    if (args_parse(&a, argc, argv, &err) < 0)
        return cli_fail("help", &err);
    if (args_value(&a, "--man")) {
        print_man(stdout);
        return 0;
    }
    const struct verb *v = a.positional_count ? verb_find(a.positional[0]) : NULL;
    if (a.positional_count && (!v || v->role))
        return cli_unknown_verb(a.positional[0]);
    if (v)
        cli_print_verb(v, stdout);
    else
        cli_print_help(stdout);
    return 0;
}

/* ---- keys of the spec ---- */
static void key_text(const struct job_key *k, char *out, size_t size)
{
    size_t n = (size_t)snprintf(out, size, "%s", k->takes);
    if (k->fallback && n < size)
        n += (size_t)snprintf(out + n, size - n, "; default %s", k->fallback);
    if (k->required && n < size)
        n += (size_t)snprintf(out + n, size - n, "; required");
    if (k->later && n < size) {
        char word[60];
        const char *rest = k->later;
        n += (size_t)snprintf(out + n, size - n, "; not in this version:");
        for (unsigned i = 0; words_next(&rest, word, sizeof word) && n < size; i++)
            n += (size_t)snprintf(out + n, size - n, "%s %s", i ? "," : "", word);
    }
}

void cli_print_spec_man(FILE *out)
{
    struct job_key k;
    char text[600];
    roff_title(out, "VIADUCT-SPEC", "5");
    fputs(".SH NAME\nviaduct\\-spec \\- the job spec of viaduct\n.SH DESCRIPTION\nA spec is a YAML file; scalars follow the core schema of YAML 1.2.\n"
          "Everything but \\fBviaduct\\fR, \\fBname\\fR, \\fBmodel\\fR and \\fBdata\\fR\nhas a default.\n"
          "Unknown keys, wrong units, duplicate keys and impossible combinations\nare errors, all told in one pass by\n.BR \"viaduct validate\" .\n\\fB${VAR}\\fR and \\fB${VAR:\\-default}\\fR in values are variables of the environment. A key that ends with [] is an element of a list.\n"
          ".BR \"viaduct init\" \" writes a spec to begin with.\"\n.SH KEYS\n", out);
    for (unsigned i = 0; job_key(i, &k); i++) {
        if (k.refused)
            continue;
        roff_line(out, ".TP\n\\fB", k.path, "\\fR\n");
        key_text(&k, text, sizeof text);
        roff_line(out, "", k.doc, "\n.br\n");
        roff_line(out, "(", text, ")\n");
    }
    fputs(".SH KEYS THAT ARE NOT TAKEN\n", out);
    for (unsigned i = 0; job_key(i, &k); i++)
        if (k.refused)
            roff_entry(out, k.path, k.refused);
    fputs(".SH SEE ALSO\n.BR viaduct (1)\n", out);
}

static void markdown(FILE *out, const char *text)
{
    for (const char *p = text; *p; p++)
        fprintf(out, *p == '|' ? "\\%c" : "%c", *p);
}

void cli_print_spec_markdown(FILE *out)
{
    struct job_key k;
    char text[600];
    fputs("# Keys of the spec\n\n<!-- made by `viaduct schema --markdown`, from jobs/keys.c -->\n\nScalars follow YAML 1.2's core schema; `${VAR}` and `${VAR:-default}` in values are "
          "variables of the environment. A key that ends with `[]` is an element of a list. `null`\nputs a key back to its default. The same: `viaduct schema` for editors, "
          "`viaduct schema --man` for `man`.\n\n| key | is | takes |\n| --- | --- | --- |\n", out);
    for (unsigned i = 0; job_key(i, &k); i++) {
        if (k.refused)
            continue;
        fprintf(out, "| `%s` | ", k.path);
        markdown(out, k.doc);
        fputs(" | ", out);
        key_text(&k, text, sizeof text);
        markdown(out, text);
        fputs(" |\n", out);
    }
    fputs("\n## Keys that are not taken\n\n| key | why |\n| --- | --- |\n", out);
    for (unsigned i = 0; job_key(i, &k); i++)
        if (k.refused) {
            fprintf(out, "| `%s` | ", k.path);
            markdown(out, k.refused);
            fputs(" |\n", out);
        }
}
