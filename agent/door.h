/* The door: a Unix socket whose connections tell this site's processes that their agent lives. Nothing is said over it. */
#ifndef VIADUCT_AGENT_DOOR_H
#define VIADUCT_AGENT_DOOR_H

#include "base/err.h"

struct door;
int door_open(const char *path, struct door **out, struct err *err);
void door_close(struct door *d);

#endif
