/* Becoming a site of a run that lives elsewhere: `viaduct join`, `viaduct run SPEC --site NAME --coordinator HOST:PORT --token FILE`, and that under mpirun. */
#ifndef VIADUCT_CLI_JOIN_H
#define VIADUCT_CLI_JOIN_H

#include "cli/cli.h"

struct join_request {
    const char *verb;
    const char *address, *site, *token, *dir;   /* dir NULL: runs/join-SITE */
    const struct args *args;          /* without a spec: its overrides say where this machine has the data */
    const struct job *job;            /* the spec that this machine was given: it must be the run's; NULL: the run's is taken as it is */
    unsigned ranks;                   /* > 0: of the MPI world that is this site's gang; 0: the agent launches what the run's spec says */
    int argc;                         /* command line of `run`, kept for the line that comes again */
    char **argv;
};
/* Stays until the site has left. Returns the exit code. */
int join_site(const struct join_request *q);
/* `viaduct run` with --coordinator: whether its options go together; and that verb, for a process that mpirun did not start. */
int join_check_run(const struct args *a, struct err *err);
int join_run(const struct args *a, int argc, char **argv);
/* Whether an agent that ended by itself is started again: not when it ends at once a few times in a row, nor when for ten minutes it has been alone. alone: it found
 * no coordinator. */
struct join_patience { unsigned quick; uint64_t alone_since_ms; };
bool join_again(struct join_patience *p, uint64_t lived_ms, uint64_t now_ms, bool alone);
/* ERR_USAGE: "key.path=value" of a key that is the run's alone. */
int join_check_override(const char *override, struct err *err);
/* ERR_NOT_FOUND, with the nearest name. */
int join_find_site(const struct job_spec *spec, const char *name, unsigned *index, struct err *err);
void join_default_dir(const char *site, const char *dir, char *out, size_t size);

#endif
