#include "net/passage.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "net/wire.h"

#define KNOCK_MS 200
#define TAKEN_PER_TURN 16

struct passage {
    struct loop *loop;
    struct sockaddr_storage door;
    socklen_t door_size;
    char name[SERVER_NAME_MAX + 1];
    int fd;                      /* -1: the door is gone, or has not let us in */
    struct watch *watch;
    struct timer *knock;
    void (*fn)(void *arg, int fd);
    void *arg;
};

static void leave(struct passage *p)
{
    watch_stop(p->watch);
    p->watch = NULL;
    if (p->fd >= 0)
        close(p->fd);
    p->fd = -1;
}

static void on_packet(void *arg, bool readable, bool writable)
{
    struct passage *p = arg;
    (void)readable;
    (void)writable;
    for (unsigned i = 0; i < TAKEN_PER_TURN; i++) {
        int fd, rc = wire_take(p->fd, &fd);
        if (rc == -EAGAIN || rc == -EINTR)
            return;
        if (rc < 0) {
            leave(p);
            return;
        }
        if (fd >= 0)             /* without one: we were out of descriptors, and the caller comes again */
            p->fn(p->arg, fd);
    }
}

/* Whoever answers must be of our own user: it decides whose connections we take. */
static bool enter(struct passage *p)
{
    struct err ignored = ERR_INIT;
    size_t size = strlen(p->name);
    if (wire_check_user(p->fd, &ignored) < 0 || send(p->fd, p->name, size, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)size ||
        watch_start(p->loop, p->fd, on_packet, p, &p->watch, &ignored) < 0)
        return false;
    watch_set(p->watch, true, false);
    return true;
}

static void knock(void *arg)
{
    struct passage *p = arg;
    if (p->fd >= 0)
        return;
    if (wire_connect(&p->door, p->door_size, SOCK_SEQPACKET, &p->fd) < 0)
        p->fd = -1;
    else if (!enter(p))
        leave(p);
}

int passage_open(struct loop *l, const struct door_place *place, void (*fn)(void *arg, int fd), void *arg, struct passage **out, struct err *err)
{
    struct address at;
    TRY(address_parse(place->passing, &at, err));
    if (!at.local || !server_name_ok(place->name, strlen(place->name)))
        return err_set(err, ERR_USAGE, "no process can be '%s' behind the front door at %s", place->name, place->passing);
    struct passage *p = calloc(1, sizeof *p);
    if (!p)
        return err_set(err, ERR_NO_MEMORY, "no memory for a place behind the front door");
    *p = (struct passage){.loop = l, .fd = -1, .fn = fn, .arg = arg};
    address_numeric(&at, &p->door, &p->door_size);
    snprintf(p->name, sizeof p->name, "%s", place->name);
    knock(p);
    p->knock = timer_start(l, KNOCK_MS, KNOCK_MS, knock, p);
    *out = p;
    return 0;
}

void passage_close(struct passage *p)
{
    if (!p)
        return;
    timer_stop(p->knock);
    leave(p);
    free(p);
}
