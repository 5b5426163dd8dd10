/* cli: the program. One table of verbs; each verb is a function that returns an exit code. Data goes to stdout, everything else to stderr. */
#ifndef VIADUCT_CLI_CLI_H
#define VIADUCT_CLI_CLI_H

#include <stdbool.h>
#include "base/err.h"
#include "jobs/jobs.h"

struct verb {
    const char *name, *arguments, *does;
    const char *examples;             /* two real ones, one a line */
    const char *details;              /* its arguments, one a line; NULL: the line of arguments says it all */
    int (*main)(int argc, char **argv);   /* argv[0] is the verb */
    bool role;                        /* a process of a run: not listed in --help */
};
extern const struct verb verbs[];     /* ends with name NULL */

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

/* ---- shared by the verbs ---- */
/* Command line of a verb: options it knows (NULL-terminated names; "--dir=" takes a value, "!--name" is not told to people), positionals, key.path=value overrides. */
#define CLI_POSITIONALS_MAX 8
#define CLI_OVERRIDES_MAX 64
struct args {
    const char *positional[CLI_POSITIONALS_MAX];
    unsigned positional_count;
    const char *override[CLI_OVERRIDES_MAX];
    unsigned override_count;
    const char *value[16];            /* by index of the option; "" for a flag that was given; NULL: not given */
};
/* 0, or ERR_USAGE with nearest option named. */
int args_parse(struct args *a, const char *const *options, int argc, char **argv, struct err *err);
/* Prints "viaduct VERB: text" to stderr, gives the exit code. */
int cli_fail(const char *verb, const struct err *err);
/* A plan for people, and as JSON; worker: the trainer of one's own that runs instead of the spec's model, or NULL. */
struct run_plan;
void cli_print_plan(const struct run_plan *p, const char *worker, FILE *out);
int cli_print_plan_json(const struct run_plan *p, const char *worker, FILE *out);
/* job_load with problems printed to stderr; the caller calls job_fini always. Returns 0 or the code. */
int cli_load_spec(const char *verb, struct job *job, const char *file, const struct args *a, bool check_files);

#endif
