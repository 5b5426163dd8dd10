/* slurm: where processes start. One launcher a site kind behind one table; this version starts processes on the same host ("local")
 * and knows the environment that mpirun gives its ranks. Slurm's own launcher joins the table later. */
#ifndef VIADUCT_SLURM_SLURM_H
#define VIADUCT_SLURM_SLURM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "base/err.h"

struct launch {                       /* one process */
    const char *program;              /* NULL: our own executable, argv[0] is the role; else this one, started with argv as its arguments */
    const char *const *argv;          /* NULL-terminated */
    const char *const *env;           /* NULL-terminated "NAME=value" pairs added to ours; "NAME=" empties */
    const char *output_path;          /* stdout and stderr are appended here; NULL: inherited */
    int keep_fd;                      /* stays open in the child at the same number; -1: none */
    bool own_session;                 /* setsid: out of the terminal's and mpirun's process group */
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

#endif
