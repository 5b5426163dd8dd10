/* `mpirun -n N viaduct run SPEC`: each rank becomes a worker of one site's gang; rank 0 first starts a supervisor outside the MPI job: of the whole run, or,
 * with --coordinator, of this site of a run that lives elsewhere. */
#ifndef VIADUCT_CLI_MPI_WORLD_H
#define VIADUCT_CLI_MPI_WORLD_H

#include "cli/cli.h"
#include "slurm/slurm.h"

struct mpi_run {                      /* what the command line said */
    const char *spec, *dir, *site;    /* dir, site: NULL when not given */
    bool visiting;                    /* --coordinator: the run lives elsewhere, and this world joins it */
    bool resume, own_worker;
    const struct args *args;
    int argc;
    char **argv;                      /* of verb_run */
};
/* Returns the exit code of this rank. */
int mpi_world_run(struct mpi_environment world, const struct mpi_run *run);

/* For the supervisor that rank 0 starts: keeps the terminal that it was given to itself; and writes there once mpirun, which its standard error goes
 * through, is gone. */
void mpi_world_keep_terminal(void);
void mpi_world_take_terminal(void);

#endif
