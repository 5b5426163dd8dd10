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
/* RUN/state/door-SITE: "tls:HOST:PORT", where others find the front door of a site's host for as long as the run goes on; when that is another address than
 * where it stands, the latter in a second line. ERR_NOT_FOUND: it has none, or none yet. out >= 160 bytes. */
int rundir_door(const struct rundir *r, const char *site, char *out, struct err *err);
int rundir_door_stands(const struct rundir *r, const char *site, char *out, struct err *err);
int rundir_set_door(const struct rundir *r, const char *site, const char *address, const char *stands, struct err *err);
/* Where that door lets this host's processes register: "unix:/path". out >= 108 bytes. */
void rundir_door_socket(const struct rundir *r, unsigned site_index, char *out);
/* Index of a site by RUN/state/sites (one name a line, in the order of the spec; written with the run directory); -1: none of that name. */
int rundir_site(const struct rundir *r, const char *name);

#endif
