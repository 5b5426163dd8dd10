/* Accepts a few at a time, so that others get their turn, and rests while the process is out of descriptors. */
#include "net/acceptor.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define ACCEPTS_PER_TURN 16
#define PAUSE_MS 100             /* when the process is out of descriptors */

struct acceptor {
    struct loop *loop;
    struct address at;
    int fd;
    ino_t inode;                 /* of the local path: it may be another's by the time we close */
    struct watch *watch;
    struct timer *pause;
    void (*fn)(void *arg, int fd);
    void *arg;
};

static void after_pause(void *arg)
{
    struct acceptor *a = arg;
    a->pause = NULL;
    watch_set(a->watch, true, false);
}

static void on_connection(void *arg, bool readable, bool writable)
{
    struct acceptor *a = arg;
    (void)readable;
    (void)writable;
    for (unsigned i = 0; i < ACCEPTS_PER_TURN; i++) {
        int fd, rc = wire_accept(a->fd, a->at.local, &fd);
        if (rc == -EMFILE || rc == -ENFILE || rc == -ENOMEM || rc == -ENOBUFS) {
            watch_set(a->watch, false, false);
            a->pause = timer_start(a->loop, PAUSE_MS, 0, after_pause, a);
            return;
        }
        if (rc < 0)
            return;
        a->fn(a->arg, fd);
    }
}

static ino_t inode_of(const struct address *a)
{
    struct stat st;
    return a->local && stat(a->path, &st) == 0 ? st.st_ino : 0;
}

int acceptor_open(struct loop *l, const struct address *at, int type, void (*fn)(void *arg, int fd), void *arg, char *address, size_t address_size,
                  struct acceptor **out, struct err *err)
{
    struct acceptor *a = calloc(1, sizeof *a);
    if (!a)
        return err_set(err, ERR_NO_MEMORY, "no memory to listen on %s", at->local ? at->path : at->host);
    *a = (struct acceptor){.loop = l, .at = *at, .fn = fn, .arg = arg};
    int rc = wire_listen(at, type, &a->fd, address, address_size, err);
    if (rc == 0 && (rc = watch_start(l, a->fd, on_connection, a, &a->watch, err)) < 0)
        close(a->fd);
    if (rc < 0) {
        free(a);
        return rc;
    }
    a->inode = inode_of(at);
    watch_set(a->watch, true, false);
    *out = a;
    return 0;
}

void acceptor_close(struct acceptor *a)
{
    if (!a)
        return;
    timer_stop(a->pause);
    watch_stop(a->watch);
    close(a->fd);
    if (a->at.local && a->inode == inode_of(&a->at))
        unlink(a->at.path);
    free(a);
}
