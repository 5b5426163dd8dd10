/* A small HTTP server for pages that show something: GET only, one request a connection, all of it within 5 s. Plain on loopback addresses and nowhere
 * else; over TLS the caller's certificate must be a viewer's of this run.
 *
 *   accepted --TLS--> SHAKING --> READING --head whole or refused--> WRITING --all sent--> LINGERING --the caller closes--> gone
 *            --plain-----------------^            any --5 s over, broken, crowded out--> gone
 */
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "net/acceptor.h"
#include "net/http_head.h"
#include "net/tls.h"

#define CALLERS_MAX 32           /* when one more comes, the one that has waited longest for nothing goes */
#define CALL_MS 5000
#define LOOK_MS 250
#define REPLY_HEAD_MAX 512

enum state { SHAKING, READING, WRITING, LINGERING };
struct caller {
    struct http_server *server;
    struct wire wire;            /* fd -1: a free place */
    struct watch *watch;
    struct tls *tls;             /* NULL: plain */
    enum state state;
    bool stranger;               /* its certificate is no viewer's */
    uint64_t since_ms;
    size_t have, size, sent;     /* of the head; of the reply */
    char head[HTTP_HEAD_MAX];
    char *reply;
};

struct http_server {
    struct owned owned;
    struct loop *loop;
    struct log *log;
    struct acceptor *acceptor;
    const struct identity *identity;
    char address[ADDRESS_LIMIT + 32], viewer[96];   /* viewer: how a viewer's URI begins */
    const struct http_page *pages;
    void *arg;
    struct caller caller[CALLERS_MAX];
    unsigned callers;
    struct timer *tick;
    struct log_few refused;
};

static void hang_up(struct caller *c)
{
    struct http_server *s = c->server;
    watch_stop(c->watch);
    tls_free(c->tls);
    close(c->wire.fd);
    free(c->reply);
    c->watch = NULL;
    c->tls = NULL;
    c->reply = NULL;
    c->wire.fd = -1;
    s->callers--;
}

static void tell(struct http_server *s, const char *why) { log_warn_few(s->log, &s->refused, "metrics: a caller at %s: %s", s->address, why); }

/* ---- replies ---- */
static const char *phrase(unsigned status)
{
    switch (status) {
    case 200: return "OK";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 414: return "URI Too Long";
    case 431: return "Request Header Fields Too Large";
    case 501: return "Not Implemented";
    case 503: return "Service Unavailable";
    case 505: return "HTTP Version Not Supported";
    default: return "Bad Request";
    }
}

static void reply(struct caller *c, unsigned status, const char *type, const char *body, size_t size)
{
    c->reply = malloc(REPLY_HEAD_MAX + size);
    CHECK(c->reply != NULL);
    int n = snprintf(c->reply, REPLY_HEAD_MAX,
                     "HTTP/1.1 %u %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n%sCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
                     "Connection: close\r\n\r\n", status, phrase(status), type, size, status == 405 ? "Allow: GET\r\n" : "");
    memcpy(c->reply + n, body, size);
    c->size = (size_t)n + size;
    c->state = WRITING;
}

static void refuse(struct caller *c, unsigned status)
{
    char text[64];
    int n = snprintf(text, sizeof text, "%u %s\n", status, phrase(status));
    reply(c, status, "text/plain; charset=utf-8", text, (size_t)n);
}

static void show(struct caller *c, const struct http_page *page, const struct http_head *head)
{
    char *body = malloc(HTTP_BODY_MAX);
    const char *type = "text/plain; charset=utf-8";
    CHECK(body != NULL);
    size_t size = page->render(c->server->arg, head->accept, body, HTTP_BODY_MAX, &type);
    if (size > 0 && size < HTTP_BODY_MAX)
        reply(c, 200, type, body, size);
    else
        refuse(c, 503);
    free(body);
}

static void answer(struct caller *c, unsigned status, const struct http_head *head)
{
    const struct http_page *page = c->server->pages;
    while (page->path && strcmp(page->path, head->path) != 0)
        page++;
    if (status == 200 && (c->stranger || (!c->tls && !http_host_is_local(head->host))))
        status = 403;
    else if (status == 200 && !page->path)
        status = 404;
    else if (status == 200 && strcmp(head->method, "GET") != 0)
        status = 405;
    if (status == 200)
        show(c, page, head);
    else
        refuse(c, status);
}

/* ---- a call ---- */
/* 1: on with it, 0: not now, or an error. */
static int shake(struct caller *c, struct err *err)
{
    char uri[320];
    const char *begins = c->server->viewer, *role;
    int rc = tls_handshake(c->tls, err);
    if (rc != 1)
        return rc;
    bool named = tls_peer_uri(c->tls, uri, sizeof uri);
    role = named ? strstr(uri, "/role/") : NULL;
    c->stranger = !role || strncmp(uri, begins, strlen(begins)) != 0 || strcmp(role, "/role/viewer") != 0;
    if (c->stranger)
        tell(c->server, named ? uri : "its certificate names no process of a run");
    c->state = READING;
    return 1;
}

static ssize_t take(struct caller *c, char *p, size_t n, struct err *err)
{
    if (!c->tls)
        return wire_recv(&c->wire, p, n, err);
    tls_fill(c->tls);
    return tls_read(c->tls, p, n, err);
}

static int read_head(struct caller *c, struct err *err)
{
    struct http_head head;
    ssize_t n = take(c, c->head + c->have, sizeof c->head - c->have, err);
    if (n <= 0)
        return (int)n;
    c->have += (size_t)n;
    unsigned status = http_head_read(c->head, c->have, &head);
    if (status)
        answer(c, status, &head);
    return 1;
}

static int write_reply(struct caller *c, struct err *err)
{
    struct iovec rest = {c->reply + c->sent, c->size - c->sent};
    ssize_t n = 0;
    if (rest.iov_len)
        n = c->tls ? tls_write(c->tls, rest.iov_base, rest.iov_len, err) : wire_send(&c->wire, &rest, 1, err);
    if (n < 0)
        return (int)n;
    c->sent += (size_t)n;
    int flushed = c->tls ? tls_flush(c->tls, err) : 1;
    if (flushed < 0 || c->sent < c->size || flushed == 0)
        return MIN(flushed, 0);
    if (c->tls) {
        tls_goodbye(c->tls);
        (void)tls_flush(c->tls, err);    /* a few bytes; who has gone misses nothing */
    }
    shutdown(c->wire.fd, SHUT_WR);
    c->state = LINGERING;            /* closed at once, bytes that it still sends would cut off the answer */
    return 1;
}

static int linger(struct caller *c, struct err *err)
{
    return (int)wire_recv(&c->wire, c->head, sizeof c->head, err);
}

static void on_ready(void *arg, bool readable, bool writable)
{
    static int (*const deeds[])(struct caller *, struct err *) = {[SHAKING] = shake, [READING] = read_head, [WRITING] = write_reply, [LINGERING] = linger};
    struct caller *c = arg;
    struct err err = ERR_INIT;
    int rc = 1;
    (void)readable;
    (void)writable;
    for (enum state was = SHAKING; rc > 0 && (c->state != LINGERING || was != LINGERING);) {
        was = c->state;
        rc = deeds[was](c, &err);
    }
    if (rc < 0) {
        if (rc == ERR_DENIED)
            tell(c->server, err.text);
        hang_up(c);
        return;
    }
    watch_set(c->watch, c->state != WRITING, c->state == WRITING);
}

static void on_tick(void *arg)
{
    struct http_server *s = arg;
    uint64_t now = loop_now_ms(s->loop);
    for (unsigned i = 0; i < CALLERS_MAX; i++)
        if (s->caller[i].wire.fd >= 0 && now - s->caller[i].since_ms >= CALL_MS)
            hang_up(&s->caller[i]);
    if (s->callers > 0)
        return;
    timer_stop(s->tick);
    s->tick = NULL;
}

/* Who is being answered keeps its place before those who have not asked. */
static struct caller *make_place(struct http_server *s)
{
    struct caller *worst = &s->caller[0];
    for (unsigned i = 0; i < CALLERS_MAX; i++) {
        struct caller *c = &s->caller[i];
        if (c->wire.fd < 0)
            return c;
        bool answered = c->state == WRITING, worst_answered = worst->state == WRITING;
        if (answered == worst_answered ? c->since_ms < worst->since_ms : worst_answered)
            worst = c;
    }
    tell(s, "too many at once");
    hang_up(worst);
    return worst;
}

static void on_caller(void *arg, int fd)
{
    struct http_server *s = arg;
    struct err err = ERR_INIT;
    struct caller *c = make_place(s);
    *c = (struct caller){.server = s, .wire.fd = fd, .state = s->identity ? SHAKING : READING, .since_ms = loop_now_ms(s->loop)};
    s->callers++;
    if ((s->identity && tls_new(s->identity, true, "", &c->wire, &c->tls, &err) < 0) || watch_start(s->loop, fd, on_ready, c, &c->watch, &err) < 0) {
        tell(s, err.text);
        hang_up(c);
        return;
    }
    watch_set(c->watch, true, false);
    if (!s->tick)
        s->tick = timer_start(s->loop, LOOK_MS, LOOK_MS, on_tick, s);
}

/* ---- life ---- */
static void drop(struct owned *o) { http_close((struct http_server *)o); }

/* Names but localhost are not asked for: they may lead anywhere. */
static bool is_loopback(const struct address *at)
{
    struct sockaddr_storage a;
    socklen_t size;
    if (!address_numeric(at, &a, &size))
        return strcmp(at->host, "localhost") == 0;
    if (a.ss_family == AF_INET)
        return ntohl(((struct sockaddr_in *)&a)->sin_addr.s_addr) >> 24 == 127;
    return a.ss_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&((struct sockaddr_in6 *)&a)->sin6_addr);
}

int http_listen(struct loop *l, struct log *log, const char *host_port, const struct identity *identity, const char *job, const struct http_page *pages, void *arg,
                struct http_server **out, struct err *err)
{
    char text[ADDRESS_LIMIT], bound[ADDRESS_LIMIT + 32];
    struct address at;
    snprintf(text, sizeof text, "tls:%.140s", host_port);
    TRY(address_parse(text, &at, err));
    if (at.name[0] || (!identity && !is_loopback(&at)))
        return err_set(err, ERR_DENIED, "%s is not a loopback address: pages are shown there over TLS only", host_port);
    if (!identity && strcmp(at.host, "localhost") == 0)
        snprintf(at.host, sizeof at.host, "127.0.0.1");
    struct http_server *s = calloc(1, sizeof *s);
    if (!s)
        return err_set(err, ERR_NO_MEMORY, "no memory to listen");
    *s = (struct http_server){.loop = l, .log = log, .identity = identity, .pages = pages, .arg = arg};
    for (unsigned i = 0; i < CALLERS_MAX; i++)
        s->caller[i].wire.fd = -1;
    snprintf(s->viewer, sizeof s->viewer, "viaduct://%s/site/", job);
    loop_own(l, &s->owned, drop);
    int rc = acceptor_open(l, &at, SOCK_STREAM, on_caller, s, bound, sizeof bound, &s->acceptor, err);
    if (rc < 0) {
        http_close(s);
        return rc;
    }
    snprintf(s->address, sizeof s->address, "%s", bound + strlen("tls:"));
    *out = s;
    return 0;
}

bool http_is_loopback(const char *host_port)
{
    char text[ADDRESS_LIMIT];
    struct address at;
    struct err ignored = ERR_INIT;
    snprintf(text, sizeof text, "tls:%.140s", host_port);
    return address_parse(text, &at, &ignored) == 0 && !at.name[0] && is_loopback(&at);
}

const char *http_address(const struct http_server *s) { return s->address; }

void http_close(struct http_server *s)
{
    if (!s)
        return;
    for (unsigned i = 0; i < CALLERS_MAX; i++)
        if (s->caller[i].wire.fd >= 0)
            hang_up(&s->caller[i]);
    timer_stop(s->tick);
    acceptor_close(s->acceptor);
    owned_remove(&s->owned);
    free(s);
}
