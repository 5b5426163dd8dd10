/* Listeners: accept, and hand the socket to a link of its own. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "net/link.h"
#include "net/wire.h"

#define ACCEPTS_PER_TURN 16
#define STRANGERS_MAX 256        /* connections that have not said who they are */
#define PAUSE_MS 100             /* when the process is out of descriptors */

struct listener {
    struct owned owned, strangers;
    struct loop *loop;
    int fd;
    struct watch *watch;
    struct timer *pause;
    struct address at;
    ino_t inode;                 /* of the local path: it may be another's by the time we close */
    char address[ADDRESS_LIMIT + 32];
    const struct identity *identity;
    struct msg_hello hello;
    struct link_ops ops;
    void *arg;
};

static void after_pause(void *arg)
{
    struct listener *s = arg;
    s->pause = NULL;
    watch_set(s->watch, true, false);
}

static unsigned strangers(const struct listener *s)
{
    unsigned n = 0;
    for (const struct owned *o = s->strangers.next; o != &s->strangers; o = o->next)
        n++;
    return n;
}

static void on_connection(void *arg, bool readable, bool writable)
{
    struct listener *s = arg;
    struct err err = ERR_INIT;
    (void)readable;
    (void)writable;
    for (unsigned i = 0; i < ACCEPTS_PER_TURN; i++) {
        int fd, rc = wire_accept(s->fd, s->at.local, &fd);
        if (rc == -EMFILE || rc == -ENFILE || rc == -ENOMEM || rc == -ENOBUFS) {
            watch_set(s->watch, false, false);
            s->pause = timer_start(s->loop, PAUSE_MS, 0, after_pause, s);
            return;
        }
        if (rc < 0)
            return;
        if (strangers(s) >= STRANGERS_MAX ||
            link_accepted(s->loop, fd, s->at.local, s->address, s->identity, &s->hello, &s->ops, s->arg, &s->strangers, &err) < 0)
            close(fd);
    }
}

static void listener_drop(struct owned *o)
{
    listener_close((struct listener *)o);
}

static ino_t inode_of(const struct address *a)
{
    struct stat st;
    return a->local && stat(a->path, &st) == 0 ? st.st_ino : 0;
}

int net_listen(struct loop *l, const char *address, const struct identity *identity, const struct msg_hello *hello, const struct link_ops *ops,
               void *arg, struct listener **out, struct err *err)
{
    struct address at;
    TRY(address_parse(address, &at, err));
    if (!at.local && !identity)
        return err_set(err, ERR_USAGE, "%s needs a certificate", address);
    struct listener *s = calloc(1, sizeof *s);
    if (!s)
        return err_set(err, ERR_NO_MEMORY, "no memory to listen on %s", address);
    *s = (struct listener){.loop = l, .at = at, .identity = identity, .hello = *hello, .ops = *ops, .arg = arg};
    int rc = wire_listen(&at, &s->fd, s->address, sizeof s->address, err);
    if (rc == 0 && (rc = watch_start(l, s->fd, on_connection, s, &s->watch, err)) < 0)
        close(s->fd);
    if (rc < 0) {
        free(s);
        return rc;
    }
    s->inode = inode_of(&at);
    owned_init(&s->strangers);
    loop_own(l, &s->owned, listener_drop);
    watch_set(s->watch, true, false);
    *out = s;
    return 0;
}

const char *listener_address(const struct listener *s)
{
    return s->address;
}

void listener_close(struct listener *s)
{
    if (!s)
        return;
    owned_drop_all(&s->strangers);
    timer_stop(s->pause);
    watch_stop(s->watch);
    close(s->fd);
    if (s->at.local && s->inode == inode_of(&s->at))
        unlink(s->at.path);
    owned_remove(&s->owned);
    free(s);
}
