/* RFC 8446, 4.1.2 and 5.1; RFC 6066, 3. Numbers are big-endian. */
#include <string.h>

#include "net/client_hello.h"

#define RECORD_HEAD 5u
#define RECORD_MAX 16384u
#define HANDSHAKE_HEAD 4u
#define CONTENT_HANDSHAKE 22
#define TYPE_CLIENT_HELLO 1
#define EXTENSION_SERVER_NAME 0
#define HOST_NAME 0
#define RANDOM_BYTES 32u

bool server_name_ok(const char *name, size_t size)
{
    bool letter = false;             /* the one before was a letter or digit */
    if (size == 0 || size > SERVER_NAME_MAX)
        return false;
    for (size_t i = 0; i < size; i++) {
        char c = name[i];
        bool is_letter = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
        if (!is_letter && ((c != '-' && c != '.') || (c == '.' && !letter) || i == 0))
            return false;
        letter = is_letter;
    }
    return letter;
}

/* ---- a bounded view: what runs past its end turns it bad, and everything read from then on is empty ---- */
struct view { const uint8_t *at; size_t left; bool bad; };

static struct view take(struct view *v, size_t n)
{
    if (v->bad || n > v->left) {
        *v = (struct view){.bad = true};
        return *v;
    }
    struct view part = {.at = v->at, .left = n};
    v->at += n;
    v->left -= n;
    return part;
}

static size_t number(struct view *v, unsigned bytes)
{
    size_t n = 0;
    struct view part = take(v, bytes);
    for (unsigned i = 0; i < part.left; i++)
        n = n << 8 | part.at[i];
    return n;
}

/* A part that says its own length, in so many bytes. */
static struct view sized(struct view *v, unsigned bytes)
{
    size_t n = number(v, bytes);
    return take(v, n);
}

/* ---- server_name ---- */
static const char *read_server_name(struct view list, char name[SERVER_NAME_MAX + 1])
{
    struct view names = sized(&list, 2);
    size_t type = number(&names, 1);
    struct view host = sized(&names, 2);
    if (list.bad || list.left || names.bad || names.left || type != HOST_NAME)
        return "a malformed server name";
    if (!server_name_ok((const char *)host.at, host.left))
        return "a server name with characters or a length that no name here has";
    memcpy(name, host.at, host.left);
    name[host.left] = '\0';
    return NULL;
}

static const char *read_extensions(struct view all, char name[SERVER_NAME_MAX + 1])
{
    while (all.left > 0) {
        size_t type = number(&all, 2);
        struct view body = sized(&all, 2);
        if (all.bad)
            return "an extension that runs past the end";
        if (type != EXTENSION_SERVER_NAME)
            continue;
        if (name[0])
            return "two server names";
        const char *wrong = read_server_name(body, name);
        if (wrong)
            return wrong;
    }
    return NULL;
}

static const char *read_hello(struct view hello, char name[SERVER_NAME_MAX + 1])
{
    size_t version = number(&hello, 2);
    take(&hello, RANDOM_BYTES);
    struct view session = sized(&hello, 1), ciphers = sized(&hello, 2), compression = sized(&hello, 1);
    if (hello.bad || version >> 8 != 3 || session.left > 32 || ciphers.left < 2 || ciphers.left % 2 || compression.left == 0)
        return "a malformed ClientHello";
    if (hello.left == 0)             /* no extensions at all */
        return NULL;
    struct view extensions = sized(&hello, 2);
    if (hello.bad || hello.left)
        return "extensions of another length than they say";
    return read_extensions(extensions, name);
}

/* ---- records ---- */
struct gathered { uint8_t bytes[CLIENT_HELLO_MAX]; size_t size, wanted; };   /* wanted: of the whole message, 0: not known yet */

/* The message's own head, as soon as it is there: what can never fit is refused at once. */
static const char *read_message_head(struct gathered *g)
{
    if (g->size > 0 && g->bytes[0] != TYPE_CLIENT_HELLO)
        return "another message than a ClientHello";
    if (g->size < HANDSHAKE_HEAD)
        return NULL;
    g->wanted = HANDSHAKE_HEAD + ((size_t)g->bytes[1] << 16 | (size_t)g->bytes[2] << 8 | g->bytes[3]);
    if (g->wanted > CLIENT_HELLO_MAX - RECORD_HEAD)
        return "a ClientHello longer than 16 KiB";
    return NULL;
}

static bool is_whole(const struct gathered *g) { return g->wanted > 0 && g->size >= g->wanted; }

/* One record, as far as it has come. */
static const char *read_record(struct view *v, struct gathered *g)
{
    size_t content = number(v, 1);
    if (v->bad)
        return NULL;
    if (content != CONTENT_HANDSHAKE)
        return "no TLS";
    size_t major = number(v, 1);
    if (!v->bad && major != 3)
        return "no TLS";
    number(v, 1);
    size_t length = number(v, 2);
    if (v->bad)
        return NULL;
    if (length == 0 || length > RECORD_MAX)
        return "a record of no possible length";
    bool cut = length > v->left;
    struct view body = take(v, cut ? v->left : length);
    memcpy(g->bytes + g->size, body.at, body.left);   /* bounded by the input, which is no longer than this */
    g->size += body.left;
    v->bad = cut;
    return read_message_head(g);
}

enum client_hello client_hello_name(const uint8_t *bytes, size_t size, char name[SERVER_NAME_MAX + 1], const char **wrong)
{
    struct gathered g;
    struct view v = {.at = bytes, .left = size < CLIENT_HELLO_MAX ? size : CLIENT_HELLO_MAX};
    g.size = g.wanted = 0;
    name[0] = '\0';
    *wrong = NULL;
    while (v.left > 0 && !v.bad && !is_whole(&g) && !*wrong)
        *wrong = read_record(&v, &g);
    if (!*wrong && is_whole(&g) && g.size > g.wanted)
        *wrong = "more than a ClientHello before the answer";
    if (!*wrong && is_whole(&g))
        *wrong = read_hello((struct view){.at = g.bytes + HANDSHAKE_HEAD, .left = g.wanted - HANDSHAKE_HEAD}, name);
    else if (!*wrong && size < CLIENT_HELLO_MAX)
        return CLIENT_HELLO_MORE;
    else if (!*wrong)
        *wrong = "a ClientHello longer than 16 KiB";
    if (*wrong)
        name[0] = '\0';
    return *wrong ? CLIENT_HELLO_BAD : CLIENT_HELLO_WHOLE;
}
