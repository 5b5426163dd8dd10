/* Making and reopening run directories: the files that every process of a run finds there. */
#ifndef VIADUCT_CLI_RUNDIRS_H
#define VIADUCT_CLI_RUNDIRS_H

#include <stdio.h>
#include "base/rundir.h"
#include "cli/cli.h"
#include "cli/lease.h"

struct opened_run {
    struct rundir run;
    bool resumed;
    int supervisor_fd;                /* locked by the one `viaduct run`; no child inherits it */
    struct holder me;
    int lock_fd;                      /* locked and inherited by every process of the run: free only when all are gone */
};
/* Locks DIR and fills it for `job`. New: DIR must be empty or missing (ERR_CONFLICT). resume: keeps the job id, refuses changes that would make
 * another run of it (job_resume_check), waits for processes of an earlier start or ends them; a `viaduct run` that lives is ERR_CONFLICT. */
int rundirs_open(struct opened_run *o, const char *dir, const struct job *job, bool resume, struct err *err);
/* Ends every other process of the run, removes its sockets and shared memory, gives the locks back. */
void rundirs_close(struct opened_run *o);
void rundirs_end_all(const struct opened_run *o);
/* report.json's status ("completed", ...), or "" when there is none. */
void rundirs_status(const char *dir, char *status, size_t size);
/* Whether a resume of DIR with `job` has nothing left to do; refuses what rundirs_open refuses. */
int rundirs_completed(const char *dir, const struct job *job, bool *completed, struct err *err);
/* Whether a process of the run in DIR lives. */
bool rundirs_lives(const char *dir);
/* Keeps a run that is over from being resumed meanwhile; ERR_CONFLICT while a process of it lives. */
int rundirs_hold(const char *dir, int *lock, struct err *err);
void rundirs_let_go(int lock);
/* What `run` leaves for the line that resumes it: words before and after `viaduct run ...`, "" for none. */
int rundirs_keep_words(const struct rundir *run, const char *before, const char *after, struct err *err);
/* The same for a site of a run that lives elsewhere: its line is the one that it was started with. */
int rundirs_keep_command(const char *dir, const char *before, int argc, char **argv, struct err *err);
/* Locks the folder of such a site for one process at a time (ERR_CONFLICT), once the processes of an earlier one are gone; nothing in it changes. */
int rundirs_lock_visit(struct opened_run *o, const char *dir, struct err *err);
/* Whether the run ended because its numbers were not finite: a resume keeps what made them so. */
bool rundirs_diverged(const char *dir);
/* The command that goes on with DIR, and below it where that begins: one line each. How to start anew when it diverged. */
void rundirs_print_resume(const char *dir, FILE *out);
/* The command alone. It names this program as a shell finds it, and the run's own spec.yaml: overrides of the first start are in it. */
#define RESUME_COMMAND_BYTES 8192
void rundirs_resume_command(const char *dir, char *out, size_t size);
/* Certificates for coordinator and the processes of every site. */
int rundirs_identities(const struct rundir *run, const struct job_spec *spec, struct err *err);

#endif
