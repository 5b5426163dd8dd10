/* A process's place behind the front door of its host: it says its name once over a connection that it keeps, and takes descriptors from it. When the
 * door is gone it knocks again and again; what was passed before stays. */
#ifndef VIADUCT_NET_PASSAGE_H
#define VIADUCT_NET_PASSAGE_H

#include "net/loop.h"

struct passage;
/* fn owns the descriptor it is given. */
int passage_open(struct loop *l, const struct door_place *place, void (*fn)(void *arg, int fd), void *arg, struct passage **out, struct err *err);
void passage_close(struct passage *p);               /* NULL is none */

#endif
