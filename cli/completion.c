/* `viaduct completion SHELL` prints a few lines that make a shell ask `viaduct complete WORD...`; what there is to say is known here, in one place for all
 * shells. The answer: one candidate a line, with a tab and what it is. One that ends with = . / goes on, the others are whole words. */
#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "cli/cli.h"

/* The word that is being typed: `before` stands in front of each candidate (of --dir=ru it is --dir=), `typed` is what candidates begin with. */
struct typing { const char *before, *typed; };

static bool begins(const char *text, const char *with) { return strncmp(text, with, strlen(with)) == 0; }

static void offer(const struct typing *t, const char *candidate, const char *end, const char *what)
{
    if (begins(candidate, t->typed))
        printf("%s%s%s\t%s\n", t->before, candidate, end, what ? what : "");
}

static void offer_words(const struct typing *t, const char *words)
{
    char word[80];
    while (words_next(&words, word, sizeof word))
        offer(t, word, "", NULL);
}

/* ---- files ---- */
static bool ends(const char *name, const char *const *endings)
{
    size_t n = strlen(name);
    for (; *endings; endings++)
        if (n > strlen(*endings) && strcmp(name + n - strlen(*endings), *endings) == 0)
            return true;
    return false;
}

static bool is_wanted(enum takes takes, const char *name)
{
    static const char *const specs[] = {".yaml", ".yml", ".json", NULL}, *const models[] = {".onnx", NULL};
    switch (takes) {
    case TAKES_SPEC: return ends(name, specs);
    case TAKES_MODEL: return ends(name, models);
    default: return takes == TAKES_FILE;
    }
}

static bool holds(const char *dir, const char *file)
{
    char path[2 * PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", dir, file);
    return access(path, F_OK) == 0;
}

static void offer_entry(const struct typing *t, enum takes takes, const char *shown, const char *name, const char *path)
{
    char candidate[PATH_MAX];
    struct stat st;
    if (stat(path, &st) < 0 || (size_t)snprintf(candidate, sizeof candidate, "%s%s", shown, name) >= sizeof candidate)
        return;
    if (!S_ISDIR(st.st_mode)) {
        if (is_wanted(takes, name))
            offer(t, candidate, "", NULL);
        return;
    }
    bool run = holds(path, "spec.yaml") && holds(path, "state"), checkpoint = holds(path, "manifest.json");
    if (run && (takes == TAKES_RUN || takes == TAKES_CKPT || takes == TAKES_MODEL))
        offer(t, candidate, "", "a run");
    else if (checkpoint && (takes == TAKES_CKPT || takes == TAKES_MODEL))
        offer(t, candidate, "", "a checkpoint");
    if (!(run && takes == TAKES_RUN))
        offer(t, candidate, "/", NULL);
}

/* Entries of the folder that the word names so far; shown is that part of the word. Names that a shell or a terminal would trip over are left out. */
static void offer_folder(const struct typing *t, enum takes takes, const char *shown)
{
    char dir[PATH_MAX], path[PATH_MAX + 300];
    const char *home = getenv("HOME");
    snprintf(dir, sizeof dir, "%s%s", begins(shown, "~/") && home ? home : *shown ? "" : ".", begins(shown, "~/") && home ? shown + 1 : shown);
    const char *last = t->typed + MIN(strlen(shown), strlen(t->typed));
    DIR *d = opendir(dir);
    for (const struct dirent *e; d && (e = readdir(d));) {
        if ((e->d_name[0] == '.' && *last != '.') || strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 || strcspn(e->d_name, "\t\n\r\033") != strlen(e->d_name))
            continue;
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        offer_entry(t, takes, shown, e->d_name, path);
    }
    if (d)
        closedir(d);
}

static void offer_files(const struct typing *t, enum takes takes)
{
    char shown[PATH_MAX];
    const char *slash = strrchr(t->typed, '/');
    if ((size_t)snprintf(shown, sizeof shown, "%.*s", slash ? (int)(slash + 1 - t->typed) : 0, t->typed) >= sizeof shown)
        return;
    offer_folder(t, takes, shown);
    if (!*shown && (takes == TAKES_RUN || takes == TAKES_CKPT) && begins("runs/", t->typed))   /* where runs go by default */
        offer_folder(t, takes, "runs/");
}

/* ---- names ---- */
/* Of the run, or in the spec, that the words before name. */
static void offer_sites(const struct typing *t, const char *const *words, unsigned count)
{
    for (unsigned i = 1; i < count; i++) {
        char path[PATH_MAX];
        struct err err = ERR_INIT;
        struct job *job = calloc(1, sizeof *job);
        CHECK(job != NULL);
        snprintf(path, sizeof path, holds(words[i], "spec.yaml") ? "%s/spec.yaml" : "%s", words[i]);
        if (strchr(path, '.') && job_load(job, path, NULL, 0, false, &err) == 0)
            for (unsigned s = 0; s < job->spec.site_count; s++)
                offer(t, job->spec.sites[s].name, "", NULL);
        job_fini(job);
        free(job);
    }
}

static void offer_verbs(const struct typing *t)
{
    for (const struct verb *v = verbs; v->name; v++)
        if (!v->role)
            offer(t, v->name, "", v->does);
}

static void offer_options(const struct typing *t, const struct verb *v, const char *const *words, unsigned count)
{
    for (const struct option *o = v->options; o < v->options + CLI_OPTIONS_MAX && o->name; o++) {
        bool given = o->hidden;
        for (unsigned i = 1; i < count; i++)
            given = given || strcmp(words[i], o->name) == 0;
        if (!given)
            offer(t, o->name, "", o->help);
    }
    offer(t, "--help", "", "arguments, exit codes, examples");
}

/* Keys, a part of their path at a time: train.op -> train.optimizer. -> train.optimizer.lr= */
static void offer_keys(const struct typing *t)
{
    struct job_key k;
    for (unsigned i = 0; job_key(i, &k); i++) {
        const char *rest = k.path + MIN(strlen(t->typed), strlen(k.path));
        if (k.refused || strstr(k.path, "[]") || !begins(k.path, t->typed) || strchr(rest, '.'))
            continue;
        if (!k.map)
            offer(t, k.path, "=", k.doc);
        else if (strlen(k.path) > strlen(t->typed))
            offer(t, k.path, ".", k.doc);
    }
}

static void offer_values(const char *word)
{
    char before[200];
    const char *equals = strchr(word, '=');
    struct job_key k;
    snprintf(before, sizeof before, "%.*s", (int)(equals + 1 - word), word);
    struct typing t = {before, equals + 1};
    for (unsigned i = 0; job_key(i, &k); i++) {
        if (strlen(k.path) != (size_t)(equals - word) || !begins(word, k.path))
            continue;
        if (k.file)
            offer_files(&t, TAKES_FILE);
        else if (k.choices || k.yes_no)
            offer_words(&t, k.choices ? k.choices : "true|false");
        else if (k.fallback && !strchr(k.fallback, ' '))
            offer(&t, k.fallback, "", "default");
    }
}

static void offer_taken(const struct typing *t, enum takes takes, const char *const *words, unsigned count)
{
    switch (takes) {
    case TAKES_NOTHING: case TAKES_TEXT: case TAKES_NUMBER: break;
    case TAKES_SITE: offer_sites(t, words, count); break;
    case TAKES_VERB: offer_verbs(t); break;
    case TAKES_FILE: case TAKES_DIR: case TAKES_SPEC: case TAKES_RUN: case TAKES_CKPT: case TAKES_MODEL: offer_files(t, takes); break;
    }
}

/* ---- which of these ---- */
static const struct option *option_named(const struct verb *v, const char *word, size_t length)
{
    for (const struct option *o = v->options; o < v->options + CLI_OPTIONS_MAX && o->name; o++)
        if (!o->hidden && o->value && strlen(o->name) == length && strncmp(o->name, word, length) == 0)
            return o;
    return NULL;
}

static void offer_option_value(const struct typing *t, const struct option *o, const char *const *words, unsigned count)
{
    if (o->choices)
        offer_words(t, o->choices);
    else
        offer_taken(t, o->takes, words, count);
}

/* words: those before the last, beginning with the verb. */
static void complete(const struct verb *v, const char *const *words, unsigned count, const char *word)
{
    struct typing t = {"", word};
    const char *equals = strchr(word, '=');
    const struct option *before = option_named(v, words[count - 1], strlen(words[count - 1])), *same = equals ? option_named(v, word, (size_t)(equals - word)) : NULL;
    unsigned positionals = 0;
    for (unsigned i = 1; i < count; i++)
        positionals += words[i][0] != '-' && !strchr(words[i], '=') && !option_named(v, words[i - 1], strlen(words[i - 1]));
    if (before) {
        offer_option_value(&t, before, words, count);
    } else if (same) {
        char name[80];
        snprintf(name, sizeof name, "%.*s", (int)(equals + 1 - word), word);
        offer_option_value(&(struct typing){name, equals + 1}, same, words, count);
    } else if (word[0] == '-') {
        offer_options(&t, v, words, count);
    } else if (equals && v->overrides) {
        offer_values(word);
    } else if (v->nouns && positionals == 0) {
        offer_words(&t, v->nouns);
    } else {
        if (positionals == (v->nouns != NULL))
            offer_taken(&t, v->takes, words, count);
        else if (v->overrides)
            offer_keys(&t);
    }
}

/* The last argument is the word that is being typed. Says nothing rather than something wrong. */
int verb_complete(int argc, char **argv)
{
    if (argc == 2)
        offer_verbs(&(struct typing){"", argv[1]});
    const struct verb *v = argc > 2 ? verb_find(argv[1]) : NULL;
    if (v && !v->role)
        complete(v, (const char *const *)argv + 1, (unsigned)argc - 2, argv[argc - 1]);
    return 0;
}

/* ---- the shells' side ---- */
static const char bash_script[] =
    "# viaduct completion bash\n"
    "_viaduct() {\n"
    "    local line=${COMP_LINE:0:COMP_POINT} word cut candidate\n"
    "    local -a words\n"
    "    read -ra words <<<\"$line\"\n"
    "    [[ $line == *[[:space:]] ]] && words+=(\"\")\n"
    "    word=${words[-1]} cut=\n"
    "    # bash ends a word at = and :, which are part of options and overrides here\n"
    "    [[ $COMP_WORDBREAKS == *=* ]] && cut=${word%\"${word##*[=:]}\"}\n"
    "    COMPREPLY=()\n"
    "    while IFS=$'\\t' read -r candidate _; do\n"
    "        candidate=${candidate#\"$cut\"}\n"
    "        [[ $candidate == *[[:space:]]* ]] && printf -v candidate %q \"$candidate\"\n"
    "        COMPREPLY+=(\"$candidate\")\n"
    "        [[ $candidate == *[=./] ]] && compopt -o nospace\n"
    "    done < <(\"${words[0]}\" complete \"${words[@]:1}\" 2>/dev/null)\n"
    "}\n"
    "complete -F _viaduct viaduct\n";

static const char zsh_script[] =
    "#compdef viaduct\n"
    "_viaduct() {\n"
    "    local line candidate\n"
    "    local -a whole open whole_text open_text\n"
    "    for line in \"${(@f)$(\"${words[1]}\" complete \"${(@Q)words[2,CURRENT]}\" 2>/dev/null)}\"; do\n"
    "        candidate=${line%%$'\\t'*}\n"
    "        [[ -z $candidate ]] && continue\n"
    "        if [[ $candidate == *[=./] ]]; then\n"
    "            open+=(\"$candidate\") open_text+=(\"${line/$'\\t'/  }\")\n"
    "        else\n"
    "            whole+=(\"$candidate\") whole_text+=(\"${line/$'\\t'/  }\")\n"
    "        fi\n"
    "    done\n"
    "    compadd -l -d whole_text -- \"${whole[@]}\"\n"
    "    compadd -l -S '' -d open_text -- \"${open[@]}\"\n"
    "}\n"
    "if [[ $funcstack[1] == _viaduct ]]; then _viaduct; elif (( $+functions[compdef] )); then compdef _viaduct viaduct; fi\n";

static const char fish_script[] =
    "# viaduct completion fish\n"
    "function __viaduct_complete\n"
    "    set -l words (commandline -opc)\n"
    "    set -l word (commandline -ct)\n"
    "    $words[1] complete $words[2..-1] \"$word\" 2>/dev/null\n"
    "end\n"
    "complete -c viaduct -f -a '(__viaduct_complete)'\n";

int verb_completion(int argc, char **argv)
{
    static const struct { const char *shell, *script; } shells[] = {{"bash", bash_script}, {"zsh", zsh_script}, {"fish", fish_script}};
    struct args a;
    struct err err = ERR_INIT;
    int rc = args_parse(&a, argc, argv, &err);
    if (rc == 0 && a.positional_count != 1)
        rc = args_usage(&a, &err);
    for (unsigned i = 0; rc == 0 && i < ARRAY_LEN(shells); i++)
        if (strcmp(shells[i].shell, a.positional[0]) == 0) {
            fputs(shells[i].script, stdout);
            return 0;
        }
    if (rc == 0)
        err_set(&err, ERR_USAGE, "there is completion for bash, zsh and fish, not for '%s'", a.positional[0]);
    return cli_fail("completion", &err);
}
