/* cli: the program. One table of verbs; each verb is a function that returns an exit code. Data goes to stdout, everything else to stderr. */
#ifndef VIADUCT_CLI_CLI_H
#define VIADUCT_CLI_CLI_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include "base/err.h"
#include "jobs/jobs.h"

/* What a word of the command line names: completion knows what there is. */
enum takes { TAKES_NOTHING, TAKES_TEXT, TAKES_NUMBER, TAKES_FILE, TAKES_DIR, TAKES_SPEC, TAKES_RUN, TAKES_CKPT, TAKES_MODEL, TAKES_SITE, TAKES_VERB };

struct option {
    const char *name, *value, *help;  /* "--dir", "RUN", what it does; value NULL: a flag */
    enum takes takes;
    const char *choices;              /* "mlp|cnn" */
    char letter;                      /* 'f': -f is the same */
    bool required, hidden;            /* hidden: between our own processes, nobody is told of it */
};
#define CLI_OPTIONS_MAX 10
struct verb {
    const char *name, *arguments, *does;   /* arguments: what is no option, as the synopsis has it */
    const char *more;                 /* what there is to say besides, or NULL */
    const char *nouns;                /* "ls|show|verify": what the first word may be, or NULL */
    enum takes takes;                 /* the words after it */
    bool overrides;                   /* takes key.path=value */
    struct option options[CLI_OPTIONS_MAX];   /* ends with name NULL */
    const char *exits;                /* "3 damaged|4 no such checkpoint": exit codes that mean something particular here */
    const char *examples[4];          /* at least two real ones */
    int (*main)(int argc, char **argv);   /* argv[0] is the verb */
    bool role;                        /* a process of a run, or what a shell asks: no person types it */
};
extern const struct verb verbs[];     /* ends with name NULL */
const struct verb *verb_find(const char *name);   /* or NULL */

int verb_validate(int argc, char **argv);
int verb_init(int argc, char **argv);
int verb_schema(int argc, char **argv);
int verb_version(int argc, char **argv);
int verb_doctor(int argc, char **argv);
int verb_ckpt(int argc, char **argv);
int verb_bench(int argc, char **argv);
int verb_plan(int argc, char **argv);
int verb_run(int argc, char **argv);
int verb_submit(int argc, char **argv);
int verb_slurm(int argc, char **argv);
int verb_status(int argc, char **argv);
int verb_stop(int argc, char **argv);
int verb_join(int argc, char **argv);
int verb_token(int argc, char **argv);
int verb_drain(int argc, char **argv);
int verb_top(int argc, char **argv);
int verb_logs(int argc, char **argv);
int verb_report(int argc, char **argv);
int verb_eval(int argc, char **argv);
int verb_export(int argc, char **argv);
int verb_models(int argc, char **argv);
int verb_completion(int argc, char **argv);
int verb_complete(int argc, char **argv);
int verb_help(int argc, char **argv);

/* ---- shared by the verbs ---- */
/* Command line of a verb as its row of the table has it: options, positionals, key.path=value overrides. */
#define CLI_POSITIONALS_MAX 8
#define CLI_OVERRIDES_MAX 64
struct args {
    const struct verb *verb;
    const char *positional[CLI_POSITIONALS_MAX];
    unsigned positional_count;
    const char *override[CLI_OVERRIDES_MAX];
    unsigned override_count;
    const char *value[CLI_OPTIONS_MAX];
};
/* argv[0] is the verb. 0, or ERR_USAGE with the nearest option named. */
int args_parse(struct args *a, int argc, char **argv, struct err *err);
/* Of an option that the verb has: its value, "" for a flag that was given; NULL: not given. */
const char *args_value(const struct args *a, const char *option);
const char *args_choices(const struct args *a, const char *option);   /* "cnn|mlp" */
/* ERR_USAGE: how the verb is used. */
int args_usage(const struct args *a, struct err *err);
/* ERR_USAGE unless there is exactly one positional, the spec; says which word is one too many. */
int args_one_spec(const struct args *a, const char *usage, struct err *err);
/* A whole number from 1 to max; *out stays when the option was not given. */
int args_number(const struct args *a, const char *option, uint64_t max, uint64_t *out, struct err *err);
/* "run SPEC [--dir RUN] ... [key.path=value ...]". */
void verb_synopsis(const struct verb *v, char *out, size_t size);
void cli_print_help(FILE *out);
void cli_print_verb(const struct verb *v, FILE *out);
/* Takes the next word off "a|b|c"; false: none is left. */
bool words_next(const char **words, char *word, size_t size);
/* The keys of the spec, as a man page and as docs/manual/spec.md. */
void cli_print_spec_man(FILE *out);
void cli_print_spec_markdown(FILE *out);
/* Says which verb was meant; 2. */
int cli_unknown_verb(const char *name);
/* Prints "viaduct VERB: text" to stderr, gives the exit code. */
int cli_fail(const char *verb, const struct err *err);
/* A plan for people, and as JSON; worker: the trainer of one's own that runs instead of the spec's model, or NULL. */
struct run_plan;
void cli_print_plan(const struct run_plan *p, const char *worker, FILE *out);
int cli_print_plan_json(const struct run_plan *p, const char *worker, FILE *out);
/* job_load with problems printed to stderr; the caller calls job_fini always. Returns 0 or the code. */
int cli_load_spec(const char *verb, struct job *job, const char *file, const struct args *a, bool check_files);

/* What `viaduct status` says of a run that no coordinator answers for, on stdout. */
int cli_status_of_ended(const char *dir, bool json, struct err *err);

#endif
