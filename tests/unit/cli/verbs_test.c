/* The table of verbs: every row is whole, and every example is a command line that its verb takes, with a spec that loads. */
#include "tests/unit/unit.h"

#include <wordexp.h>

#include "base/base.h"
#include "cli/cli.h"

static void rows_are_whole(void **state)
{
    (void)state;
    unsigned verbs_seen = 0;
    for (const struct verb *v = verbs; v->name; v++) {
        assert_non_null(v->main);
        if (v->role)
            continue;
        verbs_seen++;
        assert_non_null(v->arguments);
        assert_true(strlen(v->does) > 8);
        assert_non_null(v->examples[0]);
        assert_non_null(v->examples[1]);
        for (const struct option *o = v->options; o < v->options + CLI_OPTIONS_MAX && o->name; o++) {
            assert_true(strncmp(o->name, "--", 2) == 0);
            assert_true(strlen(o->help) > 3);
            assert_true(o->value != NULL || (o->takes == TAKES_NOTHING && !o->choices));   /* a flag takes nothing */
            assert_true(o->value == NULL || o->choices != NULL || o->takes != TAKES_NOTHING || o->hidden);
        }
    }
    assert_true(verbs_seen > 20);
}

static bool is_noun(const struct verb *v, const char *word)
{
    char noun[40];
    for (const char *rest = v->nouns; words_next(&rest, noun, sizeof noun);)
        if (strcmp(noun, word) == 0)
            return true;
    return false;
}

static char *first_spec(void)
{
    static const char *const files[] = {"/data/images.gz", "/data/labels.gz"};
    struct job_init what = {.name = "small", .family = "cnn", .train = {files[0], files[1]}, .eval = {files[0], files[1]}, .classes = 10, .height = 28, .width = 28, .sites = 1,
                            .ranks = 1};
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    job_init_print(out, &what);
    fclose(out);
    return text;
}

static void check_overrides(const char *spec, const struct args *a)
{
    struct job *job = calloc(1, sizeof *job);
    struct err err = ERR_INIT;
    int rc = job_load_text(job, "example", spec, strlen(spec), a->override, a->override_count, false, &err);
    problems_print(&job->problems, stderr);
    assert_int_equal(rc, 0);
    job_fini(job);
    free(job);
}

/* "viaduct VERB ..." alone, as a shell would split it. */
static void check_command(const char *command, const char *spec)
{
    wordexp_t words;
    struct args a;
    struct err err = ERR_INIT;
    print_message("# %s\n", command);
    assert_int_equal(wordexp(command, &words, WRDE_NOCMD | WRDE_UNDEF), 0);
    assert_true(words.we_wordc > 1);
    const struct verb *v = verb_find(words.we_wordv[1]);
    assert_non_null(v);
    int rc = args_parse(&a, (int)words.we_wordc - 1, words.we_wordv + 1, &err);
    if (rc < 0)
        fail_msg("%s", err.text);
    if (v->nouns)
        assert_true(is_noun(v, a.positional[0]));
    assert_true(a.override_count == 0 || v->overrides);
    for (const struct option *o = v->options; o < v->options + CLI_OPTIONS_MAX && o->name; o++) {
        const char *value = args_value(&a, o->name), *rest = o->choices;
        char word[40];
        bool known = !value || !rest;
        while (!known && words_next(&rest, word, sizeof word))
            known = strcmp(word, value) == 0;
        assert_true(known);
        assert_true(value || !o->required);
    }
    if (a.override_count)
        check_overrides(spec, &a);
    wordfree(&words);
}

/* Commands end at ` | `, ` > ` and ` && `, which no example has inside quotes; those of other programs are theirs. */
static void examples_parse(void **state)
{
    (void)state;
    char *spec = first_spec();
    for (const struct verb *v = verbs; v->name; v++)
        for (unsigned i = 0; !v->role && i < ARRAY_LEN(v->examples) && v->examples[i]; i++) {
            char line[400];
            bool own = false;
            snprintf(line, sizeof line, "%s", v->examples[i]);
            for (char *at = line, *end; at; at = end) {
                char *stops[] = {strstr(at, " | "), strstr(at, " > "), strstr(at, " && ")};
                end = NULL;
                for (unsigned s = 0; s < ARRAY_LEN(stops); s++)
                    end = stops[s] && (!end || stops[s] < end) ? stops[s] : end;
                if (end) {
                    *end++ = '\0';
                    end += strspn(end, "&|> ");
                }
                if (strncmp(at, "viaduct ", 8) == 0) {
                    check_command(at, spec);
                    own = own || strncmp(at + 8, v->name, strlen(v->name)) == 0;
                }
            }
            assert_true(own);
        }
    free(spec);
}

static int refused(const char *line, char *text, size_t size)
{
    wordexp_t words;
    struct args a;
    struct err err = ERR_INIT;
    assert_int_equal(wordexp(line, &words, WRDE_NOCMD), 0);
    int rc = args_parse(&a, (int)words.we_wordc, words.we_wordv, &err);
    snprintf(text, size, "%s", err.text);
    wordfree(&words);
    return rc;
}

static void wrong_options_are_refused(void **state)
{
    (void)state;
    char text[600];
    assert_int_equal(refused("run job.yaml --resum", text, sizeof text), ERR_USAGE);
    assert_non_null(strstr(text, "did you mean '--resume'?"));
    assert_null(strstr(text, "external"));
    assert_int_equal(refused("run job.yaml --resume=yes", text, sizeof text), ERR_USAGE);
    assert_int_equal(refused("run job.yaml --dir", text, sizeof text), ERR_USAGE);
    assert_int_equal(refused("version --dir x", text, sizeof text), ERR_USAGE);
    assert_non_null(strstr(text, "knows --json"));
    assert_int_equal(refused("logs runs/a -f", text, sizeof text), 0);
    assert_int_equal(refused("run job.yaml --dir=a train.steps=3", text, sizeof text), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(rows_are_whole), cmocka_unit_test(examples_parse), cmocka_unit_test(wrong_options_are_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
