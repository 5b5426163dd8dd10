/* Who holds a run directory that several hosts see. Locks of the file system decide where it has them for all hosts; where it has not, a holder that beats
 * is seen to live. A Slurm job that was started again supersedes its own earlier start, which may still run on a node that Slurm has lost. */
#ifndef VIADUCT_CLI_LEASE_H
#define VIADUCT_CLI_LEASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

struct holder {                       /* one `viaduct run` */
    char host[64];
    long pid;
    uint64_t job;                     /* of Slurm; 0: none */
    uint32_t restart;
    uint64_t beat;                    /* counts up while it lives */
};
struct holder holder_self(void);
/* RUN/state/owner. Not synced: it only has to be seen. */
int lease_beat(const char *run_dir, struct holder *me, struct err *err);
void lease_give_back(const char *run_dir);
bool lease_owner(const char *run_dir, struct holder *out);
/* "Slurm job 12 (start 0) on node a1, process 4711". */
void holder_text(const struct holder *h, char *out, size_t size);

/* RUN/state/claim: a later start of the same Slurm job asks the earlier one to end. */
int lease_claim(const char *run_dir, const struct holder *me, struct err *err);
bool lease_is_claimed(const char *run_dir, const struct holder *me);
bool holder_supersedes(const struct holder *later, const struct holder *earlier);
/* The same start of the same Slurm job, or a later one, holds it: waiting would not help. */
bool holder_outranks(const struct holder *owner, const struct holder *me);

/* The lock was free; whether its owner of another host lives all the same: it is watched for up to watch_ms. */
bool lease_owner_lives(const char *run_dir, const struct holder *me, uint64_t watch_ms);

#endif
