/* slurm: where processes start: by fork on this host (local.c), by srun on the nodes of a Slurm job (steps in render.c), under mpirun (its environment);
 * and what a run must know of the Slurm job that it lives in: script, commands, why it ended, how often it may start again. */
#ifndef VIADUCT_SLURM_SLURM_H
#define VIADUCT_SLURM_SLURM_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>
#include "base/err.h"
#include "jobs/jobs.h"

struct launch {                       /* one process */
    const char *program;              /* NULL: our own executable, argv[0] is the role; else this one, started with argv as its arguments */
    const char *const *argv;          /* NULL-terminated */
    const char *const *env;           /* NULL-terminated "NAME=value" pairs added to ours; "NAME=" empties */
    const char *output_path;          /* stdout and stderr are appended here; NULL: inherited */
    int keep_fd;                      /* stays open in the child at the same number; -1: none */
    bool ignore_term;                 /* SIGTERM is ignored from the start: whoever launched it decides when it ends */
    bool own_session;                 /* setsid: out of the terminal's and mpirun's process group */
    bool dies_with_us;                /* SIGKILL when the thread that launched it ends, however it ends */
};
/* fork and exec; exec failures come back as an error here, not as a dead child. */
int launch_local(const struct launch *what, pid_t *pid, struct err *err);

/* Start time of a process in clock ticks since boot (field 22 of /proc/PID/stat): with the pid it names one process for ever. 0: gone. */
uint64_t process_start_ticks(pid_t pid);

/* The last non-empty line of a text file (for an exit's cause); empty when there is none. */
void last_line_of(const char *path, char *out, size_t size);

/* The world that mpirun put this process into; ranks = 0 when there is none. */
struct mpi_environment { unsigned rank, ranks, local_rank; };
struct mpi_environment mpi_environment_read(void);
/* "mpirun -n RANKS", with what Open MPI demands of the present user. */
void mpirun_words(unsigned ranks, char *out, size_t size);
/* What mpirun told this process is not for those that it starts outside of that world; what a person set (OMPI_MCA_btl_..., ...) is. */
void mpi_environment_forget(void);

/* ---- Slurm: script and steps (render.c) ---- */
struct slurm_script {
    const char *program, *spec, *run_dir;          /* absolute paths; any bytes but line ends */
    const char *const *overrides;                  /* "key.path=value" for the command line of the run */
    unsigned override_count;
    const char *token;                             /* of a site that joins */
};
/* The batch script of all Slurm sites of a spec: one job, a heterogeneous one when there are several. ERR_USAGE: a path that no script can hold. */
int slurm_render(const struct job_spec *spec, const struct slurm_script *what, FILE *out, struct err *err);
/* The batch script by which a job of another cluster becomes the site `site`, which is `via: join`. what->run_dir: that site's own folder. */
int slurm_render_join(const struct job_spec *spec, unsigned site, const struct slurm_script *what, FILE *out, struct err *err);
/* "--output=RUN/slurm/%j.out" for sbatch, to which a percent sign in the path itself is a pattern. */
int slurm_output_option(const char *run_dir, char *out, size_t size, struct err *err);
unsigned slurm_site_count(const struct job_spec *spec);
unsigned slurm_node_count(const struct job_spec *spec);   /* of all Slurm sites */
/* Index of the first Slurm site, whose node runs the batch script; -1: none. */
int slurm_first_site(const struct job_spec *spec);

/* The step that starts the agent of one of a site's nodes: srun's arguments. argv points into the step and to the caller's texts. A step for each: what ends on
 * one node is started again there, and the other agents do not notice. */
struct slurm_step { const char *argv[32]; char text[10][96]; };
void slurm_step_of(const struct job_spec *spec, unsigned site, unsigned node, bool heterogeneous, const char *program, const char *run_dir, struct slurm_step *out);

/* ---- Slurm: commands (command.c) ---- */
/* Full path of a command in PATH. */
int slurm_find(const char *name, char *out, size_t size, struct err *err);
/* Runs a command to its end, its output (stdout, then stderr's last line in an error) in `out`; killed after timeout_ms. ERR_FAILED with its last words
 * when it ends with another code than 0, ERR_NOT_FOUND when there is no such command. */
int slurm_command(const char *const *argv, uint64_t timeout_ms, char *out, size_t size, struct err *err);

/* ---- Slurm: the job that this process lives in (allocation.c, pure but for getenv) ---- */
struct slurm_environment { uint64_t job; uint32_t restart; bool inside, heterogeneous; char node[64]; };   /* inside: of a batch job */
struct slurm_environment slurm_environment_read(void);

enum slurm_state {                    /* every state that Slurm knows, as it spells them */
    SLURM_UNKNOWN, SLURM_PENDING, SLURM_RUNNING, SLURM_SUSPENDED, SLURM_COMPLETED, SLURM_CANCELLED, SLURM_FAILED, SLURM_TIMEOUT, SLURM_NODE_FAIL,
    SLURM_PREEMPTED, SLURM_BOOT_FAIL, SLURM_DEADLINE, SLURM_OUT_OF_MEMORY, SLURM_COMPLETING, SLURM_CONFIGURING, SLURM_RESIZING, SLURM_REQUEUED,
    SLURM_REQUEUE_HOLD, SLURM_SPECIAL_EXIT, SLURM_STAGE_OUT, SLURM_STOPPED, SLURM_REVOKED, SLURM_SIGNALING, SLURM_STATES
};
enum slurm_state slurm_state_of(const char *text);   /* also "CANCELLED by 0", "CANCELLED+" */
const char *slurm_state_name(enum slurm_state state);

struct slurm_job {                    /* one line of `scontrol -o show job`; times in seconds since 1970 as Slurm's clock shows them, 0: unknown */
    enum slurm_state state;
    uint32_t restarts;
    int64_t end_s, preempt_s;
    bool time_limit_reason, known;
};
void slurm_job_parse(const char *text, struct slurm_job *out);
/* NodeAddr in a line of `scontrol -o show node`; empty: there is none. */
void slurm_node_address(const char *text, char *out, size_t size);

/* ---- Slurm: why it ended, and whether it starts again ---- */
/* The first RETRIES are those of enum job_retry. */
enum slurm_cause { CAUSE_TIME_LIMIT, CAUSE_PREEMPTION, CAUSE_NODE_FAILURE, CAUSE_JOB_FAILURE, CAUSE_CANCELLED, CAUSE_NONE, CAUSES };
const char *slurm_cause_text(enum slurm_cause cause);   /* "time limit", ... */
const char *slurm_cause_word(enum slurm_cause cause);   /* "time_limit", ...: in the spec and in the book */
/* What a SIGTERM means. warned: the signal before the time limit came first. planned_end_s: as it was known when the job started; 0: not. */
enum slurm_cause slurm_why_term(const struct slurm_job *job, bool warned, int64_t planned_end_s, int64_t now_s);
/* What ended a start that left no word: the state that sacct tells of it, if there is one. */
enum slurm_cause slurm_why_silent(enum slurm_state accounted);

/* The starts and ends of a run under Slurm, one line each in RUN/state/slurm: "start JOB RESTART NODE TIME" and "end CAUSE TIME", the
 * latter followed by "resubmitted" when the job could not be requeued and another one was submitted. A last line without its end is none. */
#define SLURM_STARTS_MAX 4096
struct slurm_book {
    uint32_t starts, used[RETRIES];   /* used: starts again in this series, by cause; a start by hand begins a new series */
    uint64_t job;                     /* of the last start */
    uint32_t restart;
    bool open, resubmitted;           /* the last start has no end; ... or ended by submitting the next job */
    enum slurm_cause last;            /* the last end */
    int64_t last_s;                   /* time of the last line */
};
int slurm_book_parse(const char *text, struct slurm_book *out, struct err *err);
/* Whether an end by this cause may be followed by another start. */
bool slurm_may_retry(const struct slurm_book *book, enum slurm_cause cause, const uint32_t retries[RETRIES]);

#endif
