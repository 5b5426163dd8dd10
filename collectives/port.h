/* Links between the ranks of a gang that are on different hosts: one for each pair, dialled by the lower rank, in a thread of their own that reads whatever
 * comes, so that two ranks that send at once never wait for each other. */
#ifndef VIADUCT_COLLECTIVES_PORT_H
#define VIADUCT_COLLECTIVES_PORT_H

#include "collectives/collectives.h"
#include "net/net.h"

#define PORT_QUEUE 16                 /* things to send to one rank at a time */
#define PORT_CHUNK 65536u             /* elements in one message */

struct port_item {                    /* to be sent in chunks: `count` elements from `data` on, which stays until sent() */
    struct msg_insite m;              /* first, count: of the whole; site and incarnation are filled in */
    const void *data;
    uint32_t element_bytes;           /* 0: no payload, one message */
    bool whole;                       /* one message, however long */
    uint16_t tag;                     /* the owner's */
};

struct port_ops {                     /* all in the port's thread */
    const char *(*take)(void *arg, unsigned rank, const struct msg_insite *m, const uint8_t *payload, size_t size);   /* NULL, or what is wrong with it */
    void (*sent)(void *arg, unsigned rank, uint16_t tag);
    void (*gone)(void *arg, unsigned rank, const struct err *why);       /* its link is over: ERR_DENIED and ERR_CORRUPT for good, else it may have finished */
    void (*unreachable)(void *arg, unsigned rank, const struct err *why);   /* tried again soon */
    void (*told)(void *arg, unsigned rank, const char *why);             /* it gave the gang up */
};

/* Starts to dial the ranks r with remote[r]; from now on ops are called, until port_detach returns. where: kept by the caller until then. */
void port_attach(struct coll_port *p, const struct msg_gang *where, const bool *remote, const struct port_ops *ops, void *arg);
/* What is on its way has drain_ms to leave; port items that have not been sent are dropped. */
void port_detach(struct coll_port *p, uint64_t drain_ms);
void port_send(struct coll_port *p, unsigned rank, const struct port_item *item);   /* any thread; at most PORT_QUEUE unsent ones a rank */
void port_tell(struct coll_port *p, const char *why);                    /* any thread: the gang is given up */
void port_traffic(const struct coll_port *p, unsigned rank, struct coll_traffic *out);
bool port_is(const struct coll_port *p, const struct msg_gang *where, unsigned rank);    /* whether it was opened for that place */

#endif
