/* The head of an HTTP/1 request, as far as a server that only shows pages needs it. Pure: bytes in, a verdict out; strict, because what two readers
 * understand differently is how requests are smuggled. */
#ifndef VIADUCT_NET_HTTP_HEAD_H
#define VIADUCT_NET_HTTP_HEAD_H

#include <stdbool.h>
#include <stddef.h>

#define HTTP_HEAD_MAX 8192           /* bytes, the empty line included */
#define HTTP_FIELDS_MAX 64

struct http_head {
    char method[16], path[128];      /* path: without the query */
    char host[128], accept[1024];    /* "" when not said; cut when longer (accept) */
};
/* 0: not whole yet, and so far it may become one; 200: whole; else the status to refuse it with. A verdict stands whatever follows. */
unsigned http_head_read(const char *bytes, size_t size, struct http_head *out);

/* Host names this machine by a loopback address, or is not said: no page of the web can make a browser say so under its own name. */
bool http_host_is_local(const char *host);

#endif
