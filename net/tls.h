/* TLS 1.3 with mutual certificates over a non-blocking wire. OpenSSL stays behind this header. */
#ifndef VIADUCT_NET_TLS_H
#define VIADUCT_NET_TLS_H

#include <stdbool.h>
#include <stddef.h>

#include "net/net.h"
#include "net/wire.h"

struct ssl_ctx_st;
struct identity { struct ssl_ctx_st *ctx; };         /* immutable once loaded; sessions of both sides come from it */

const char *role_word(unsigned role);                /* as in certificates: "worker" */

struct tls;
/* server_name: what the dialing end asks for, "" for none. */
int tls_new(const struct identity *identity, bool accepted, const char *server_name, struct wire *wire, struct tls **out, struct err *err);
void tls_free(struct tls *t);
/* 1: done; 0: more must come in or go out first. A refused certificate, either way: ERR_DENIED. */
int tls_handshake(struct tls *t, struct err *err);
/* Takes what the wire has ready, one chunk; then tls_read until it returns 0. An end or error of the wire is reported by tls_read, behind the
 * bytes that came before it. */
void tls_fill(struct tls *t);
ssize_t tls_read(struct tls *t, void *p, size_t n, struct err *err);
/* Bytes taken over (encrypted, though perhaps not sent yet); 0: not now. */
ssize_t tls_write(struct tls *t, const void *p, size_t n, struct err *err);
int tls_flush(struct tls *t, struct err *err);       /* 1: all sent; 0: not now */
void tls_goodbye(struct tls *t);                     /* says that no more comes; flush follows */
bool tls_peer_uri(struct tls *t, char *out, size_t size);    /* URI of the peer's certificate; false: none, several or too long */

#endif
