/* A process that mpirun started, once its gang may begin: it launches the rank's worker and stays beside it until the run has ended. A worker that is
 * killed is an exit code of this process then, so that mpirun's is one that means something. */
#ifndef VIADUCT_CLI_MPI_RANK_H
#define VIADUCT_CLI_MPI_RANK_H

#include <stdbool.h>
#include <sys/types.h>

struct mpi_rank {
    const char *dir, *site;
    const char *world;                /* name of this MPI job */
    unsigned rank, incarnation;
    pid_t supervisor;                 /* child of rank 0; others: 0 */
    bool visiting;                    /* the run lives elsewhere: this world leaves it in good order when mpirun is told to end */
};

/* From here on this process takes signals when it likes, and is told to end when mpirun is gone, however that went. */
void mpi_rank_prepare(void);
/* The signal that came within `ms`, or -1. */
int mpi_rank_wait(long ms);
/* A new world: nothing that an earlier one left counts. */
void mpi_rank_clear(const struct mpi_rank *r);
/* Whether rank 0 of this world has said that the run is over here, and with which code. */
bool mpi_rank_is_over(const struct mpi_rank *r, int *code);
void mpi_rank_say_over(const struct mpi_rank *r, int code);
/* Returns the exit code of this process. */
int mpi_rank_run(const struct mpi_rank *r);

#endif
