/* Links as the listener sees them. */
#ifndef VIADUCT_NET_LINK_H
#define VIADUCT_NET_LINK_H

#include "net/loop.h"

/* Takes over an accepted socket. waiting: list that holds the link until it opens; to drop it from there ends it without a call. */
int link_accepted(struct loop *l, int fd, bool local, const char *address, const struct identity *identity, const struct msg_hello *hello,
                  const struct link_ops *ops, void *arg, struct owned *waiting, struct err *err);

#endif
