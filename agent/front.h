/* This host's front door (net.h): where it stands, and that it stands there again when this agent follows one that died. */
#ifndef VIADUCT_AGENT_FRONT_H
#define VIADUCT_AGENT_FRONT_H

#include "base/log.h"
#include "base/rundir.h"
#include "net/net.h"

struct front;
/* host_port: where it is wanted, NULL or "" for no door (*out is NULL then). shown: HOST:PORT by which others reach that place (through a router that translates
 * addresses), NULL when it is the same. Its address stands in RUN/state/door-SITE before this returns. */
struct front_place { const char *host_port, *shown; };
int front_open(struct loop *l, struct log *log, const struct rundir *run, const char *site, unsigned site_index, struct front_place place, struct front **out,
               struct err *err);
void front_close(struct front *f);       /* before loop_free; NULL is none */

#endif
