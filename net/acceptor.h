/* A listening socket in the loop: every accepted connection is handed over as a descriptor. */
#ifndef VIADUCT_NET_ACCEPTOR_H
#define VIADUCT_NET_ACCEPTOR_H

#include "net/loop.h"
#include "net/wire.h"

struct acceptor;
/* Listens at `at`; address: with the real port. type: SOCK_STREAM, or SOCK_SEQPACKET for a local path. fn owns the descriptor it is given. */
int acceptor_open(struct loop *l, const struct address *at, int type, void (*fn)(void *arg, int fd), void *arg, char *address, size_t address_size,
                  struct acceptor **out, struct err *err);
void acceptor_close(struct acceptor *a);             /* NULL is none; a local path goes, unless it is another's by now */

#endif
