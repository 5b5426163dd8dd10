/* Standing with the coordinator and the agent. The coordinator may die and come back at another address; the agent may die and come back at the
 * same one. What neither comes back to ends. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/base.h"
#include "ps/ps.h"

#define RETRY_MS 100
#define HEARTBEAT_MS 1000
#define COORDINATOR_LOST_MS 60000
#define AGENT_LOST_MS 10000

struct ps_member {
    struct ps_member_config config;
    struct link *link;
    bool joined, ended;
    uint64_t features;                    /* of the coordinator that is linked */
    uint64_t link_lost_ms, agent_lost_ms;
    char lost_why[400];                   /* the last attempt's */
    const char *agent_socket;
    bool agent_there;
};

static void end(struct ps_member *m, const struct err *why)
{
    if (m->ended)
        return;
    m->ended = true;
    m->config.over(m->config.arg, why);
}

/* ---- the coordinator ---- */
static void on_opened(void *arg, struct link *link, const struct msg_hello *peer)
{
    struct ps_member *m = arg;
    struct err err = ERR_INIT;
    if (peer->who.role != ROLE_COORDINATOR) {
        log_warn(m->config.log, "another process answers where the coordinator should: link closed");
        link_close(link);
        return;
    }
    struct msg_join *join = calloc(1, sizeof *join);
    struct bytes payload = {0};
    CHECK(join != NULL);
    join->who = m->config.hello->who;
    m->config.fill_join(m->config.arg, join, &payload);
    int rc = link_send(link, MSG_JOIN, 0, join, &payload, payload.size > 0, &err);
    free(join);
    if (rc < 0) {
        log_warn(m->config.log, "coordinator: %s", err.text);
        link_close(link);
        return;
    }
    m->joined = true;
    m->features = peer->features;
    m->link_lost_ms = 0;
    m->config.linked(m->config.arg);
}

static void on_message(void *arg, struct link *link, enum msg_type type, void *msg, const uint8_t *payload, size_t payload_size)
{
    struct ps_member *m = arg;
    (void)link;
    if (!m->ended)
        m->config.message(m->config.arg, type, msg, payload, payload_size);
}

static void on_closed(void *arg, struct link *link, const struct err *why)
{
    struct ps_member *m = arg;
    (void)link;
    if (m->joined)
        log_info(m->config.log, "link to the coordinator closed: %s", why->text);
    m->link = NULL;
    m->joined = false;
    if (!m->link_lost_ms)
        m->link_lost_ms = loop_now_ms(m->config.loop);
    snprintf(m->lost_why, sizeof m->lost_why, "%.*s", (int)sizeof m->lost_why - 1, why->text);
    if (why->code == ERR_DENIED)
        end(m, why);
}

static const struct link_ops member_ops = {on_opened, on_message, on_closed};

static void dial(struct ps_member *m)
{
    char address[ADDRESS_LIMIT];
    struct err err = ERR_INIT;
    if (rundir_coordinator(m->config.run, "tls", address, &err) < 0 ||
        net_dial(m->config.loop, address, m->config.identity, m->config.hello, &member_ops, m, &m->link, &err) < 0) {
        m->link = NULL;
        snprintf(m->lost_why, sizeof m->lost_why, "%.*s", (int)sizeof m->lost_why - 1, err.text);
    }
}

/* ---- the agent ---- */
static void on_door(void *arg, const char *line)
{
    struct ps_member *m = arg;
    if (line)
        return;
    m->agent_there = false;
    m->agent_lost_ms = loop_now_ms(m->config.loop);
}

static void knock(struct ps_member *m)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    struct err err = ERR_INIT;
    snprintf(a.sun_path, sizeof a.sun_path, "%s", m->agent_socket);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    if (connect(fd, (struct sockaddr *)&a, sizeof a) < 0) {
        close(fd);
        return;
    }
    m->agent_there = loop_read_lines(m->config.loop, fd, on_door, m, &err) == 0;
}

static void on_retry(void *arg)
{
    struct ps_member *m = arg;
    uint64_t now = loop_now_ms(m->config.loop);
    struct err err = ERR_INIT;
    if (m->ended)
        return;
    if (!m->link)
        dial(m);
    if (m->link_lost_ms && now - m->link_lost_ms > COORDINATOR_LOST_MS) {
        err_set(&err, ERR_TEMPORARY, "no coordinator answered for %d s (%s); resume the run when it is back", COORDINATOR_LOST_MS / 1000, m->lost_why);
        end(m, &err);
        return;
    }
    if (m->agent_socket && !m->agent_there)
        knock(m);
    if (m->agent_socket && !m->agent_there && now - m->agent_lost_ms > AGENT_LOST_MS) {
        err_set(&err, ERR_TEMPORARY, "this site's agent is gone for %d s", AGENT_LOST_MS / 1000);
        end(m, &err);
    }
}

static void on_beat(void *arg)
{
    struct ps_member *m = arg;
    struct msg_heartbeat beat = {.who = m->config.hello->who};
    m->config.heartbeat(m->config.arg, &beat);
    ps_member_send(m, MSG_HEARTBEAT, 0, &beat, NULL, 0);
}

int ps_member_open(const struct ps_member_config *config, struct ps_member **out, struct err *err)
{
    struct ps_member *m = calloc(1, sizeof *m);
    if (!m)
        return err_set(err, ERR_NO_MEMORY, "no memory for the link to the coordinator");
    m->config = *config;
    const char *door = getenv("VIADUCT_AGENT_SOCKET");
    m->agent_socket = door && *door ? door : NULL;
    m->link_lost_ms = m->agent_lost_ms = loop_now_ms(config->loop);
    timer_start(config->loop, 0, RETRY_MS, on_retry, m);
    timer_start(config->loop, HEARTBEAT_MS, HEARTBEAT_MS, on_beat, m);
    *out = m;
    return 0;
}

void ps_member_close(struct ps_member *m) { free(m); }

void ps_member_send(struct ps_member *m, enum msg_type type, uint32_t view, const void *msg, const struct bytes *payload, unsigned pieces)
{
    struct err err = ERR_INIT;
    if ((type == MSG_TIMES && !(m->features & FEATURE_TIMES)) || (type == MSG_READY && !(m->features & FEATURE_READY)))
        return;
    if (m->joined && link_send(m->link, type, view, msg, payload, pieces, &err) < 0)
        log_warn(m->config.log, "coordinator: %s", err.text);
}
