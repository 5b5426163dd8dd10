/* What the rest of net asks of the loop beyond net.h: readiness of a socket, names into addresses, and an orderly end. */
#ifndef VIADUCT_NET_LOOP_H
#define VIADUCT_NET_LOOP_H

#include <sys/socket.h>

#include "net/net.h"

/* Calls fn while the descriptor is ready for what was asked. An error or hangup counts as ready for both: the next call on the descriptor tells. */
struct watch;
typedef void (*watch_fn)(void *arg, bool readable, bool writable);
int watch_start(struct loop *l, int fd, watch_fn fn, void *arg, struct watch **out, struct err *err);   /* asks for nothing yet */
void watch_set(struct watch *w, bool read, bool write);
void watch_stop(struct watch *w);                    /* before the descriptor is closed; NULL is none */

/* Lists of things that end with their owner: drop is called once for each, and must leave the list. */
struct owned { struct owned *prev, *next; void (*drop)(struct owned *o); };
void owned_init(struct owned *list);
void owned_add(struct owned *list, struct owned *o, void (*drop)(struct owned *o));
void owned_remove(struct owned *o);                  /* harmless when it is in no list */
void owned_drop_all(struct owned *list);
void loop_own(struct loop *l, struct owned *o, void (*drop)(struct owned *o));   /* until loop_free */

#define RESOLVED_MAX 4
struct resolved {
    unsigned count;
    const char *why;             /* when count is 0 */
    struct sockaddr_storage list[RESOLVED_MAX];
    socklen_t size[RESOLVED_MAX];
};
struct resolving;
struct resolving *loop_resolve(struct loop *l, const char *host, const char *port, void (*fn)(void *arg, const struct resolved *r), void *arg,
                               struct err *err);     /* NULL: err */
void resolving_drop(struct resolving *r);            /* fn is not called any more */

#endif
