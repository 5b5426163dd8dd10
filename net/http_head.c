#include "net/http_head.h"

#include <arpa/inet.h>
#include <string.h>
#include <strings.h>

#include "base/base.h"

#define TOKEN "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

struct line { const char *at; size_t size; };

/* The next line, up to CR LF; every head that gets here ends with two of them. */
static struct line next_line(const char **at, const char *end)
{
    const char *begin = *at, *cr = memmem(begin, (size_t)(end - begin), "\r\n", 2);
    *at = cr + 2;
    return (struct line){begin, (size_t)(cr - begin)};
}

static size_t token_of(const char *p, size_t size)
{
    size_t n = 0;
    while (n < size && p[n] && strchr(TOKEN, p[n]))
        n++;
    return n;
}

static void take(char *out, size_t room, const char *p, size_t size)
{
    size_t n = MIN(size, room - 1);
    memcpy(out, p, n);
    out[n] = '\0';
}

static unsigned version_of(const char *p, size_t size)
{
    if (size != 8 || memcmp(p, "HTTP/", 5) != 0 || p[5] < '0' || p[5] > '9' || p[6] != '.' || p[7] < '0' || p[7] > '9')
        return 400;
    return p[5] == '1' ? 200 : 505;
}

/* METHOD SP /path?query SP HTTP/1.x */
static unsigned request_line(struct line l, struct http_head *out, bool *named)
{
    size_t method = token_of(l.at, l.size);
    if (method == 0 || method == l.size || l.at[method] != ' ')
        return 400;
    if (method >= sizeof out->method)
        return 501;
    const char *target = l.at + method + 1, *space = memchr(target, ' ', l.size - method - 1);
    if (!space || *target != '/')
        return 400;
    size_t path = 0, size = (size_t)(space - target);
    for (size_t i = 0; i < size; i++)
        if ((unsigned char)target[i] <= ' ' || (unsigned char)target[i] > '~')
            return 400;
    while (path < size && target[path] != '?')
        path++;
    unsigned version = version_of(space + 1, l.size - (size_t)(space + 1 - l.at));
    if (version != 200)
        return version;
    if (path >= sizeof out->path)
        return 414;
    take(out->method, sizeof out->method, l.at, method);
    take(out->path, sizeof out->path, target, path);
    *named = space[8] == '0';        /* HTTP/1.0 need not say a host */
    return 200;
}

static bool is(struct line name, const char *word) { return name.size == strlen(word) && strncasecmp(name.at, word, name.size) == 0; }

static unsigned field(struct line l, struct http_head *out, bool *named)
{
    struct line name = {l.at, token_of(l.at, l.size)};
    if (name.size == 0 || name.size == l.size || l.at[name.size] != ':')
        return 400;                  /* a folded line begins with a blank: refused here too */
    struct line value = {l.at + name.size + 1, l.size - name.size - 1};
    for (; value.size && strchr(" \t", *value.at); value.size--)
        value.at++;
    while (value.size && strchr(" \t", value.at[value.size - 1]))
        value.size--;
    if (is(name, "transfer-encoding") || (is(name, "content-length") && (value.size != 1 || *value.at != '0')))
        return 400;                  /* nothing here takes a body */
    if (is(name, "host")) {
        if (out->host[0] || value.size == 0 || value.size >= sizeof out->host)
            return 400;
        take(out->host, sizeof out->host, value.at, value.size);
        *named = true;
    }
    if (is(name, "accept")) {
        size_t n = strlen(out->accept);
        if (n + 1 < sizeof out->accept && n)
            out->accept[n++] = ',';
        take(out->accept + n, sizeof out->accept - n, value.at, value.size);
    }
    return 200;
}

/* Once one of them has come, no head can follow. */
static bool has_control(const char *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (((unsigned char)bytes[i] < ' ' && !strchr("\r\n\t", bytes[i])) || bytes[i] == 0 || bytes[i] == 0x7f)
            return true;
        else if ((bytes[i] == '\n' && (i == 0 || bytes[i - 1] != '\r')) || (bytes[i] == '\r' && i + 1 < size && bytes[i + 1] != '\n'))
            return true;
    return false;
}

unsigned http_head_read(const char *bytes, size_t size, struct http_head *out)
{
    const char *end = size ? memmem(bytes, MIN(size, (size_t)HTTP_HEAD_MAX), "\r\n\r\n", 4) : NULL, *at = bytes;
    bool named = false;
    *out = (struct http_head){0};
    if (has_control(bytes, end ? (size_t)(end + 4 - bytes) : MIN(size, (size_t)HTTP_HEAD_MAX)))
        return 400;
    if (!end)
        return size >= HTTP_HEAD_MAX ? 431 : 0;
    end += 4;
    unsigned status = request_line(next_line(&at, end), out, &named);
    for (unsigned fields = 0; status == 200; fields++) {
        struct line l = next_line(&at, end);
        if (l.size == 0)
            break;
        status = fields == HTTP_FIELDS_MAX ? 431 : field(l, out, &named);
    }
    return status == 200 && !named ? 400 : status;
}

bool http_host_is_local(const char *host)
{
    char name[sizeof((struct http_head *)0)->host], *p = name;
    struct in_addr v4;
    struct in6_addr v6;
    take(name, sizeof name, host, strlen(host));
    char *colon = strrchr(name, ':'), *bracket = strchr(name, ']');
    if (*name == '[') {
        p = name + 1;
        if (bracket)
            *bracket = '\0';
        return bracket && inet_pton(AF_INET6, p, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
    }
    if (colon)
        *colon = '\0';
    return *p == '\0' || strcasecmp(p, "localhost") == 0 || (inet_pton(AF_INET, p, &v4) == 1 && ntohl(v4.s_addr) >> 24 == 127);
}
