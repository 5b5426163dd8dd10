/* Wires: addresses as text, non-blocking sockets that listen or connect, and plain reads and writes that count bytes. */
#ifndef VIADUCT_NET_WIRE_H
#define VIADUCT_NET_WIRE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/err.h"
#include "net/client_hello.h"

/* local: unix:/path; else tls:HOST:PORT, with /NAME behind it when the process is reached through a front door. */
struct address { bool local; char path[108]; char host[128], port[8], name[SERVER_NAME_MAX + 1]; };
int address_parse(const char *text, struct address *out, struct err *err);
/* Without asking a name server; false: the host is a name. */
bool address_numeric(const struct address *a, struct sockaddr_storage *out, socklen_t *size);

/* Binds and listens; out: the address with the real port. A local path is replaced when nobody listens on it: ERR_CONFLICT otherwise.
 * type: SOCK_STREAM, or SOCK_SEQPACKET for a local path. */
int wire_listen(const struct address *a, int type, int *fd, char *out, size_t out_size, struct err *err);
/* Starts to connect. 0, or -errno. */
int wire_connect(const struct sockaddr_storage *to, socklen_t size, int type, int *fd);
int wire_accept(int listening, bool local, int *fd);         /* 0, or -errno */
/* Only our own user (or root) may be at the other end of a local socket. */
int wire_check_user(int fd, struct err *err);

/* One byte and a descriptor over a local socket; the sender keeps its own. 0, or -errno; *fd -1: a packet without one; -EPIPE: no more comes. */
int wire_pass(int over, int fd);
int wire_take(int over, int *fd);

struct wire { int fd; uint64_t sent, received; };
/* Our end's address as a number, without the port; empty: not an internet connection. */
void wire_own_host(const struct wire *w, char *out, size_t size);
/* Bytes moved; 0: not now; ERR_TEMPORARY: the connection is over. */
ssize_t wire_recv(struct wire *w, void *p, size_t n, struct err *err);
ssize_t wire_send(struct wire *w, const struct iovec *v, unsigned count, struct err *err);
size_t wire_unconfirmed(const struct wire *w);   /* bytes in the kernel's hands */

#endif
