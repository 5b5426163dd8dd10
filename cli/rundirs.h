/* Making and reopening run directories: the files that every process of a run finds there. */
#ifndef VIADUCT_CLI_RUNDIRS_H
#define VIADUCT_CLI_RUNDIRS_H

#include "base/rundir.h"
#include "cli/cli.h"

struct opened_run {
    struct rundir run;
    bool resumed;
    int lock_fd;                      /* inherited by every process of the run: free only when all are gone */
};
/* Locks DIR and fills it for `job`. New: DIR must be empty or missing (ERR_CONFLICT). resume: keeps the job id, refuses changes that would make
 * another run of it (job_resume_check), waits for processes of an earlier start or ends them. */
int rundirs_open(struct opened_run *o, const char *dir, const struct job *job, bool resume, struct err *err);
/* report.json's status ("completed", ...), or "" when there is none; and a copy of its text (malloc) when asked for. */
void rundirs_status(const char *dir, char *status, size_t size);
/* Certificates for coordinator and the processes of every site. */
int rundirs_identities(const struct rundir *run, const struct job_spec *spec, struct err *err);

#endif
