/* Sockets, without knowing what travels on them. */
#include <errno.h>
#include <linux/sockios.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "net/wire.h"

#define LOCAL_BUFFER (1 << 20)

static int parse_local(const char *path, struct address *out, struct err *err)
{
    if (path[0] != '/' || strlen(path) >= sizeof out->path)
        return err_set(err, ERR_USAGE, "unix:%s: the path of a socket starts with / and is shorter than %zu bytes", path, sizeof out->path);
    *out = (struct address){.local = true};
    memcpy(out->path, path, strlen(path) + 1);
    return 0;
}

static int parse_name(const char *text, const char *slash, struct address *out, struct err *err)
{
    size_t size = strlen(slash + 1);
    if (!server_name_ok(slash + 1, size))
        return err_set(err, ERR_USAGE, "tls:%s: what follows the slash is no server name; it has at most %d small letters, digits, dashes and dots", text,
                       SERVER_NAME_MAX);
    memcpy(out->name, slash + 1, size + 1);
    return 0;
}

/* HOST:PORT, [HOST]:PORT; behind it /NAME */
static int parse_host(const char *text, struct address *out, struct err *err)
{
    const char *slash = strchr(text, '/'), *behind = slash ? slash : text + strlen(text), *colon = memrchr(text, ':', (size_t)(behind - text)), *from = text;
    size_t host = colon ? (size_t)(colon - text) : 0;
    struct address a = {.local = false};
    char *end = NULL;
    unsigned long port = colon ? strtoul(colon + 1, &end, 10) : 0;
    bool bad = !colon || end == colon + 1 || end != behind || port > 65535;
    if (!bad && host >= 2 && text[0] == '[' && text[host - 1] == ']') {
        from++;
        host -= 2;
    }
    if (bad || host == 0 || host >= sizeof a.host)
        return err_set(err, ERR_USAGE, "tls:%s: not an address; write tls:HOST:PORT or tls:HOST:PORT/NAME", text);
    if (slash)
        TRY(parse_name(text, slash, &a, err));
    memcpy(a.host, from, host);
    snprintf(a.port, sizeof a.port, "%lu", port);
    *out = a;
    return 0;
}

int address_parse(const char *text, struct address *out, struct err *err)
{
    if (strncmp(text, "unix:", 5) == 0)
        return parse_local(text + 5, out, err);
    if (strncmp(text, "tls:", 4) == 0)
        return parse_host(text + 4, out, err);
    return err_set(err, ERR_USAGE, "'%s' is not an address; write tls:HOST:PORT or unix:/path", text);
}

static struct sockaddr_storage local_name(const char *path, socklen_t *size)
{
    struct sockaddr_storage s = {0};
    struct sockaddr_un *u = (struct sockaddr_un *)&s;
    u->sun_family = AF_UNIX;
    memcpy(u->sun_path, path, strlen(path) + 1);
    *size = sizeof *u;
    return s;
}

static int lookup(const struct address *a, int flags, struct sockaddr_storage *out, socklen_t *size)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = flags}, *list = NULL;
    int rc = getaddrinfo(a->host, a->port, &hints, &list);
    if (rc == 0) {
        memset(out, 0, sizeof *out);
        memcpy(out, list->ai_addr, list->ai_addrlen);
        *size = list->ai_addrlen;
        freeaddrinfo(list);
    }
    return rc;
}

bool address_numeric(const struct address *a, struct sockaddr_storage *out, socklen_t *size)
{
    if (a->local) {
        *out = local_name(a->path, size);
        return true;
    }
    return lookup(a, AI_NUMERICHOST | AI_NUMERICSERV, out, size) == 0;
}

static void set(int fd, int level, int option, int value)
{
    setsockopt(fd, level, option, &value, sizeof value);
}

static void tune(int fd, bool local)
{
    if (local) {
        set(fd, SOL_SOCKET, SO_SNDBUF, LOCAL_BUFFER);
        set(fd, SOL_SOCKET, SO_RCVBUF, LOCAL_BUFFER);
        return;
    }
    set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    /* bbr, where it is the default, paces the loopback to a crawl; where cubic is missing the default stays. */
    setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "cubic", 5);
}

/* ---- listen ---- */
static int make_local_room(const char *path, int type, struct err *err)
{
    struct stat st;
    socklen_t size;
    if (lstat(path, &st) != 0)
        return 0;
    if (!S_ISSOCK(st.st_mode))
        return err_set(err, ERR_CONFLICT, "%s exists and is no socket; move it away", path);
    struct sockaddr_storage to = local_name(path, &size);
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_errno(err, errno, "cannot make a socket");
    bool dead = connect(fd, (struct sockaddr *)&to, size) != 0 && errno == ECONNREFUSED;
    close(fd);
    if (!dead)
        return err_set(err, ERR_CONFLICT, "another process listens on %s; stop it first", path);
    return unlink(path) == 0 || errno == ENOENT ? 0 : err_errno(err, errno, "cannot remove the stale socket %s", path);
}

static int bind_and_listen(int fd, const struct address *a, const struct sockaddr_storage *at, socklen_t size, struct err *err)
{
    const char *where = a->local ? a->path : a->host;
    if (!a->local)
        set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    int why = bind(fd, (const struct sockaddr *)at, size) == 0 ? 0 : errno;
    if (why == EADDRINUSE)
        return err_set(err, ERR_CONFLICT, "another process listens on %s%s%s; choose another port", where, a->local ? "" : ":", a->port);
    if (why != 0)
        return err_errno(err, why, "cannot listen on %s%s%s", where, a->local ? "" : ":", a->port);
    if (a->local && chmod(a->path, 0600) != 0)
        return err_errno(err, errno, "cannot protect %s", a->path);
    return listen(fd, 128) == 0 ? 0 : err_errno(err, errno, "cannot listen on %s", where);
}

static int real_address(int fd, const struct address *a, char *out, size_t out_size, struct err *err)
{
    struct sockaddr_storage at;
    socklen_t size = sizeof at;
    char port[8];
    if (a->local) {
        snprintf(out, out_size, "unix:%s", a->path);
        return 0;
    }
    if (getsockname(fd, (struct sockaddr *)&at, &size) != 0)
        return err_errno(err, errno, "cannot tell the port of %s", a->host);
    getnameinfo((struct sockaddr *)&at, size, NULL, 0, port, sizeof port, NI_NUMERICSERV);
    snprintf(out, out_size, strchr(a->host, ':') ? "tls:[%s]:%s" : "tls:%s:%s", a->host, port);
    return 0;
}

int wire_listen(const struct address *a, int type, int *fd, char *out, size_t out_size, struct err *err)
{
    struct sockaddr_storage at;
    socklen_t size;
    if (a->local)
        TRY(make_local_room(a->path, type, err));
    int rc = address_numeric(a, &at, &size) ? 0 : lookup(a, AI_PASSIVE, &at, &size);
    if (rc != 0)
        return err_set(err, ERR_USAGE, "cannot resolve %s: %s", a->host, gai_strerror(rc));
    int s = socket(at.ss_family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s < 0)
        return err_errno(err, errno, "cannot make a socket");
    rc = bind_and_listen(s, a, &at, size, err);
    if (rc == 0)
        rc = real_address(s, a, out, out_size, err);
    if (rc < 0)
        close(s);
    else
        *fd = s;
    return rc;
}

/* ---- connect, accept ---- */
void wire_own_host(const struct wire *w, char *out, size_t size)
{
    struct sockaddr_storage at;
    socklen_t length = sizeof at;
    bool known = getsockname(w->fd, (struct sockaddr *)&at, &length) == 0 && at.ss_family != AF_UNIX;
    if (!known || getnameinfo((struct sockaddr *)&at, length, out, (socklen_t)size, NULL, 0, NI_NUMERICHOST) != 0)
        out[0] = '\0';
}

int wire_connect(const struct sockaddr_storage *to, socklen_t size, int type, int *fd)
{
    int s = socket(to->ss_family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s < 0)
        return -errno;
    tune(s, to->ss_family == AF_UNIX);
    if (connect(s, (const struct sockaddr *)to, size) != 0 && errno != EINPROGRESS) {
        int why = errno;
        close(s);
        return -why;
    }
    *fd = s;
    return 0;
}

int wire_accept(int listening, bool local, int *fd)
{
    int s = accept4(listening, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (s < 0)
        return -errno;
    tune(s, local);
    *fd = s;
    return 0;
}

int wire_check_user(int fd, struct err *err)
{
    struct ucred peer = {0};
    socklen_t size = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0)
        return err_errno(err, errno, "cannot tell who is at the other end");
    if (peer.uid == geteuid() || peer.uid == 0)
        return 0;
    return err_set(err, ERR_DENIED, "the process at the other end belongs to user %u, this one to %u", (unsigned)peer.uid, (unsigned)geteuid());
}

/* ---- descriptors ---- */
union one_descriptor { struct cmsghdr head; char bytes[CMSG_SPACE(sizeof(int))]; };

static struct msghdr packet(struct iovec *byte, union one_descriptor *control)
{
    memset(control, 0, sizeof *control);
    return (struct msghdr){.msg_iov = byte, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_LEN(sizeof(int))};   /* room for one only */
}

int wire_pass(int over, int fd)
{
    char mark = 'c';
    union one_descriptor control;
    struct iovec byte = {&mark, 1};
    struct msghdr m = packet(&byte, &control);
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    return sendmsg(over, &m, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -errno : 0;
}

int wire_take(int over, int *fd)
{
    char mark;
    union one_descriptor control;
    struct iovec byte = {&mark, 1};
    struct msghdr m = packet(&byte, &control);
    ssize_t n = recvmsg(over, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    const struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&m) : NULL;
    *fd = -1;
    if (n <= 0)
        return n < 0 ? -errno : -EPIPE;
    if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof *fd))
        memcpy(fd, CMSG_DATA(c), sizeof *fd);
    return 0;
}

/* ---- bytes ---- */
ssize_t wire_recv(struct wire *w, void *p, size_t n, struct err *err)
{
    ssize_t got = recv(w->fd, p, n, 0);
    if (got > 0) {
        w->received += (uint64_t)got;
        return got;
    }
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (got == 0)
        return err_set(err, ERR_TEMPORARY, "the other end closed the connection");
    return err_set(err, ERR_TEMPORARY, "the connection broke: %s", strerror(errno));
}

ssize_t wire_send(struct wire *w, const struct iovec *v, unsigned count, struct err *err)
{
    struct msghdr m = {.msg_iov = (struct iovec *)(uintptr_t)v, .msg_iovlen = count};   /* the kernel only reads it */
    ssize_t put = sendmsg(w->fd, &m, MSG_NOSIGNAL);
    if (put >= 0) {
        w->sent += (uint64_t)put;
        return put;
    }
    if (errno == EAGAIN || errno == EINTR || errno == ENOBUFS)
        return 0;
    return err_set(err, ERR_TEMPORARY, "the connection broke: %s", strerror(errno));
}

size_t wire_unconfirmed(const struct wire *w)
{
    int bytes = 0;
    return w->fd >= 0 && ioctl(w->fd, SIOCOUTQ, &bytes) == 0 && bytes > 0 ? (size_t)bytes : 0;
}
