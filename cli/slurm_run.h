/* A run inside a Slurm job: what the start before it fell to, what a signal means, and whether the job is started again when this one ends. */
#ifndef VIADUCT_CLI_SLURM_RUN_H
#define VIADUCT_CLI_SLURM_RUN_H

#include "base/rundir.h"
#include "slurm/slurm.h"

struct slurm_run;
/* Whether a run with Slurm sites may start here: inside the batch script of a Slurm job, with commands to start steps. */
int slurm_run_check(const struct job_spec *spec, struct err *err);
/* Opens RUN/state/slurm, settles an end that nobody wrote down, writes this start. site: whose settings count, the first Slurm site or the one that joins.
 * NULL in *out: site < 0. ERR_JOB: a retry budget is used up. */
int slurm_run_open(const struct job_spec *spec, int site, const struct rundir *run, struct slurm_run **out, struct err *err);
void slurm_run_free(struct slurm_run *r);
/* Arguments for the coordinator about the start before this one: "--ended", who, cause, milliseconds ago; NULL-terminated; empty at the first start. */
const char *const *slurm_run_ended(const struct slurm_run *r);
void slurm_run_step(const struct slurm_run *r, unsigned site, unsigned node, struct slurm_step *out);
/* The address that Slurm has for this node, for those on others who dial it; NULL: it does not say, or the run has no other node. */
const char *slurm_run_address(const struct slurm_run *r);
const char *slurm_run_srun(const struct slurm_run *r);
/* A signal came; the text says why. The run is saved and stopped (a site that joined: it leaves) in each case: Slurm itself kills what takes too long. */
const char *slurm_run_signal(struct slurm_run *r, int signo);
/* Milliseconds until the run must be saved by our own clock, in case that no signal comes; 0: now; UINT64_MAX: the end is not known. Asks Slurm each time:
 * a time limit may be moved. */
uint64_t slurm_run_drain_in_ms(struct slurm_run *r);
bool slurm_run_signalled(const struct slurm_run *r);
/* After everything is written and closed: why it ended, and the next start. status: report.json's; code: what this process would end with. Gives the code. */
int slurm_run_end(struct slurm_run *r, const char *status, int code);

#endif
