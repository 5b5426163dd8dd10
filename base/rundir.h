/* The run directory, seen by every process of a run: who the job is, where its sockets lie, where the coordinator listens. */
#ifndef VIADUCT_BASE_RUNDIR_H
#define VIADUCT_BASE_RUNDIR_H

#include "base/err.h"

struct rundir {
    char path[512];
    char job[40];            /* random id, RUN/state/job */
    char sockets[80];        /* short folder of the user's, 0700: two runs on one machine do not meet */
};

/* The folder for sockets is made when it is missing. */
int rundir_open(struct rundir *r, const char *path, struct err *err);
/* The same for who only looks: nothing is made. A socket folder that is not the user's own is refused all the same. */
int rundir_look(struct rundir *r, const char *path, struct err *err);
/* RUN/state/coordinator.addr: one address a line, "tls:HOST:PORT" and "unix:/path"; changes when the coordinator restarts.
 * ERR_TEMPORARY while there is none yet. out >= 160 bytes. */
int rundir_coordinator(const struct rundir *r, const char *scheme, char *out, struct err *err);
/* RUN/state/start: names this start of the run (each resume is another); out >= 40 bytes. -1: not written yet, or unreadable. */
int rundir_start_token(const struct rundir *r, char *out);
/* Index of a site by RUN/state/sites (one name a line, in the order of the spec; written with the run directory); -1: none of that name. */
int rundir_site(const struct rundir *r, const char *name);

#endif
