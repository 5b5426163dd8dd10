/* A process with a valid certificate of a run that misbehaves: says HELLO as a worker of SITE, or as the role that the deed needs, then does what its
 * certificate gives it no right to.
 *   impostor RUN SITE ADDRESS join-as-ps|stop|view|commit|other-site|slot-elsewhere|slot-before|ack-elsewhere|death-elsewhere|ask-status|warm-without-end
 * Prints what ended the link. Exit: 0 when the other end refused or closed, 1 when it was let in. */
#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "base/rundir.h"
#include "net/net.h"

#define PATIENCE_MS 4000

struct impostor {
    struct loop *loop;
    struct link *link;
    const char *deed;
    struct msg_hello hello;
    bool closed;
};

static struct {
    struct msg_join join; struct msg_view view; struct msg_commit commit; struct msg_stop stop; struct msg_ack ack; struct msg_exited exited; struct msg_status status; struct msg_warm warm;
} nothing;                            /* too large for a stack */

static enum role role_for(const char *deed)
{
    if (strcmp(deed, "ask-status") == 0)
        return ROLE_JOIN;
    return strcmp(deed, "death-elsewhere") == 0 ? ROLE_AGENT : strstr(deed, "-elsewhere") || strstr(deed, "slot-") ? ROLE_PS : ROLE_WORKER;
}

/* "other-site" has lied in its HELLO already. */
static void misbehave(struct impostor *me, struct err *err)
{
    if (strcmp(me->deed, "stop") == 0) {
        link_send(me->link, MSG_STOP, 0, &nothing.stop, NULL, 0, err);
    } else if (strcmp(me->deed, "view") == 0) {
        nothing.view.view.number = 1000000;
        link_send(me->link, MSG_VIEW, 0, &nothing.view, NULL, 0, err);
    } else if (strcmp(me->deed, "commit") == 0) {
        link_send(me->link, MSG_COMMIT, 0, &nothing.commit, NULL, 0, err);
    } else if (strcmp(me->deed, "join-as-ps") == 0) {
        nothing.join.who = me->hello.who;
        nothing.join.who.role = ROLE_PS;
        link_send(me->link, MSG_JOIN, 0, &nothing.join, NULL, 0, err);
    } else if (strncmp(me->deed, "slot-", 5) == 0) {
        nothing.join.who = me->hello.who;
        link_send(me->link, MSG_JOIN, 0, &nothing.join, NULL, 0, err);
    } else if (strcmp(me->deed, "ask-status") == 0) {
        link_send(me->link, MSG_STATUS, 0, &nothing.status, NULL, 0, err);
    } else if (strcmp(me->deed, "ack-elsewhere") == 0) {
        link_send(me->link, MSG_ACK, 0, &nothing.ack, NULL, 0, err);
    } else if (strcmp(me->deed, "warm-without-end") == 0) {
        nothing.warm.back = WARM_BYTES_MAX + 1;
        link_send(me->link, MSG_WARM, 0, &nothing.warm, NULL, 0, err);
    } else if (strcmp(me->deed, "death-elsewhere") == 0) {
        nothing.join.who = me->hello.who;
        nothing.exited = (struct msg_exited){.who = {.role = ROLE_WORKER, .site = (uint8_t)(me->hello.who.site + 1), .instance = 1}, .signal = 9};
        link_send(me->link, MSG_JOIN, 0, &nothing.join, NULL, 0, err);
        link_send(me->link, MSG_EXITED, 0, &nothing.exited, NULL, 0, err);
    }
}

static void on_opened(void *arg, struct link *link, const struct msg_hello *peer)
{
    struct impostor *me = arg;
    struct err err = ERR_INIT;
    (void)peer;
    me->link = link;
    misbehave(me, &err);
    if (err.code)
        printf("%s\n", err.text);
}

static void on_message(void *arg, struct link *link, enum msg_type type, void *msg, const uint8_t *payload, size_t size)
{
    (void)arg, (void)link, (void)type, (void)msg, (void)payload, (void)size;
}

static void on_closed(void *arg, struct link *link, const struct err *why)
{
    struct impostor *me = arg;
    (void)link;
    me->closed = true;
    printf("%s\n", why->text);
    loop_stop(me->loop);
}

static int knock(struct impostor *me, const char *run, const char *site, const char *address, struct err *err)
{
    static const struct link_ops ops = {on_opened, on_message, on_closed};
    struct rundir dir;
    struct identity *identity;
    char tls[600];
    TRY(rundir_open(&dir, run, err));
    snprintf(tls, sizeof tls, "%s/state/tls", dir.path);
    enum role role = role_for(me->deed);
    TRY(identity_load(tls, site, role, &identity, err));
    int index = rundir_site(&dir, site) + (strcmp(me->deed, "other-site") == 0);
    me->hello = (struct msg_hello){.version_min = FRAME_VERSION, .version_max = FRAME_VERSION,
                                   .who = {.role = (uint8_t)role, .site = (uint8_t)index, .index = 7, .instance = 99}};
    if (role != ROLE_WORKER)          /* a slot of the next site, or (slot-before) of this one, at its first launch */
        me->hello.who = (struct process_id){(uint8_t)role, (uint8_t)index, role == ROLE_PS && strcmp(me->deed, "slot-before") != 0, role == ROLE_PS};
    snprintf(me->hello.job, sizeof me->hello.job, "%s", dir.job);
    snprintf(me->hello.build, sizeof me->hello.build, "impostor");
    int rc = loop_new(&me->loop, err);
    if (rc == 0)
        rc = net_dial(me->loop, address, identity, &me->hello, &ops, me, &me->link, err);
    if (rc == 0) {
        timer_start(me->loop, PATIENCE_MS, 0, (void (*)(void *))loop_stop, me->loop);
        loop_run(me->loop);
    }
    if (me->loop)
        loop_free(me->loop);
    identity_free(identity);
    return rc;
}

int main(int argc, char **argv)
{
    struct err err = ERR_INIT;
    struct impostor me = {.deed = argc == 5 ? argv[4] : ""};
    if (argc != 5 || knock(&me, argv[1], argv[2], argv[3], &err) < 0) {
        fprintf(stderr, "impostor: %s\n", argc == 5 ? err.text : "RUN SITE ADDRESS DEED");
        return 2;
    }
    return me.closed ? 0 : 1;
}
