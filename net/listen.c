/* Listeners: take connections, from a socket of one's own or from the front door of this host, and hand each to a link of its own. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "net/acceptor.h"
#include "net/link.h"
#include "net/passage.h"

#define STRANGERS_MAX 256        /* connections that have not said who they are */

struct listener {
    struct owned owned, strangers;
    struct loop *loop;
    struct acceptor *acceptor;   /* one of the two */
    struct passage *passage;
    bool local;
    char address[ADDRESS_LIMIT + 32];
    const struct identity *identity;
    struct msg_hello hello;
    struct link_ops ops;
    void *arg;
};

static unsigned strangers(const struct listener *s)
{
    unsigned n = 0;
    for (const struct owned *o = s->strangers.next; o != &s->strangers; o = o->next)
        n++;
    return n;
}

/* An honest caller needs a few round trips, so when one more comes, who has waited longest goes. */
static void on_connection(void *arg, int fd)
{
    struct listener *s = arg;
    struct err err = ERR_INIT;
    if (strangers(s) >= STRANGERS_MAX)
        s->strangers.next->drop(s->strangers.next);
    if (link_accepted(s->loop, fd, s->local, s->address, s->identity, &s->hello, &s->ops, s->arg, &s->strangers, &err) < 0)
        close(fd);
}

static void listener_drop(struct owned *o)
{
    listener_close((struct listener *)o);
}

static int listener_new(struct loop *l, bool local, const struct identity *identity, const struct msg_hello *hello, const struct link_ops *ops, void *arg,
                        struct listener **out, struct err *err)
{
    if (!local && !identity)
        return err_set(err, ERR_USAGE, "to listen with TLS needs a certificate");
    struct listener *s = calloc(1, sizeof *s);
    if (!s)
        return err_set(err, ERR_NO_MEMORY, "no memory to listen");
    *s = (struct listener){.loop = l, .local = local, .identity = identity, .hello = *hello, .ops = *ops, .arg = arg};
    owned_init(&s->strangers);
    loop_own(l, &s->owned, listener_drop);
    *out = s;
    return 0;
}

static int opened(struct listener *s, int rc, struct listener **out)
{
    if (rc < 0)
        listener_close(s);
    else
        *out = s;
    return rc;
}

int net_listen(struct loop *l, const char *address, const struct identity *identity, const struct msg_hello *hello, const struct link_ops *ops,
               void *arg, struct listener **out, struct err *err)
{
    struct address at;
    struct listener *s;
    TRY(address_parse(address, &at, err));
    if (at.name[0])
        return err_set(err, ERR_USAGE, "%s is behind a front door: it can be dialled, not listened at", address);
    TRY(listener_new(l, at.local, identity, hello, ops, arg, &s, err));
    return opened(s, acceptor_open(l, &at, SOCK_STREAM, on_connection, s, s->address, sizeof s->address, &s->acceptor, err), out);
}

int net_listen_at_door(struct loop *l, const struct door_place *place, const struct identity *identity, const struct msg_hello *hello,
                       const struct link_ops *ops, void *arg, struct listener **out, struct err *err)
{
    struct address at;
    struct listener *s;
    char address[ADDRESS_LIMIT];
    int n = snprintf(address, sizeof address, "%s/%s", place->address, place->name);
    if (n >= (int)sizeof address)
        return err_set(err, ERR_USAGE, "%s/%s is longer than an address may be (%d bytes); give the front door's host a shorter name", place->address,
                       place->name, ADDRESS_LIMIT - 1);
    TRY(address_parse(address, &at, err));
    TRY(listener_new(l, at.local, identity, hello, ops, arg, &s, err));
    memcpy(s->address, address, (size_t)n + 1);
    return opened(s, passage_open(l, place, on_connection, s, &s->passage, err), out);
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
    acceptor_close(s->acceptor);
    passage_close(s->passage);
    owned_remove(&s->owned);
    free(s);
}
