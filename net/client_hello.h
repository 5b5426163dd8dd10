/* The server name in the first bytes of a TLS connection. Pure: bytes in, a verdict out; nothing is kept, nothing is decrypted. */
#ifndef VIADUCT_NET_CLIENT_HELLO_H
#define VIADUCT_NET_CLIENT_HELLO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CLIENT_HELLO_MAX 16384       /* bytes looked at, record headers included */
#define SERVER_NAME_MAX 95

enum client_hello {
    CLIENT_HELLO_MORE,               /* so far it may become one */
    CLIENT_HELLO_WHOLE,              /* name is set; "" when it names no server */
    CLIENT_HELLO_BAD,                /* whatever follows: wrong says why */
};
/* Of what was sent first over a connection. Several records may share one ClientHello. size <= CLIENT_HELLO_MAX; at that size there is no MORE. */
enum client_hello client_hello_name(const uint8_t *bytes, size_t size, char name[SERVER_NAME_MAX + 1], const char **wrong);

/* Small letters, digits, dashes and single dots, begins and ends with a letter or digit: no path, no surprise in a log. */
bool server_name_ok(const char *name, size_t size);

#endif
