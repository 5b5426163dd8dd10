/* The agent's shell: view in, processes out. Everything runs in one loop thread, except publishing (publish.c). */
#include "agent/agent.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/children.h"
#include "agent/door.h"
#include "agent/front.h"
#include "agent/publish.h"
#include "agent/segments.h"
#include "agent/world.h"
#include "base/base.h"
#include "coordinator/coordinator.h"
#include "jobs/jobs.h"
#include "net/net.h"
#include "slurm/slurm.h"

#define RETRY_MS 200
#define HEARTBEAT_MS 1000
#define LOST_MS 60000            /* without a coordinator for this long: give up, exit 75 */
#define ORPHAN_MS 10000          /* without `viaduct run` and coordinator */
#define STOP_MS 6000             /* children get this long to end by themselves */

struct agent {
    struct loop *loop;
    struct log log;
    struct rundir run;
    struct job job;
    const char *site;
    char name[80];               /* in file names: the site's, ".NODE" behind it when this is not its first host */
    uint8_t site_index;
    uint16_t node, nodes, first_rank, end_rank;   /* this host of the site, and the ranks that lie on it; host 0 has shards, checkpoints and export as well */
    bool external_gang;          /* mpirun started the ranks */
    struct world *world;         /* ... this one; else NULL */
    char mpirun[512];            /* which launches this site's gang */
    bool embedded;               /* shards live in the ranks: slots are no processes */
    struct identity *identity;
    struct msg_hello hello;
    struct link *link;
    bool joined, stopping, leaving, orphan, drain, sent_away, goes_without_world;   /* drain: the coordinator is asked to save and stop */
    char start_token[40];        /* of the start of the run that we belong to */
    uint64_t lost_since_ms;
    struct children children;
    struct door *door;
    const char *door_wanted;     /* HOST:PORT of the front door, over what the spec says; NULL: as the spec says */
    struct front *front;
    struct publisher *publisher;
    bool have_view;
    struct view view;
    uint32_t export_attempt;     /* newest that was asked for */
    int exit_code;
};

static void follow_view(struct agent *a);

static bool is_visiting(void)
{
    const char *visiting = getenv("VIADUCT_VISITING");
    return visiting && *visiting;
}

static void tell(struct agent *a, enum msg_type type, const void *m)
{
    struct err err = ERR_INIT;
    if (a->link && a->joined && link_send(a->link, type, a->view.number, m, NULL, 0, &err) < 0)
        log_warn(&a->log, "%s", err.text);
}

/* ---- the end ---- */
/* Orderly: the farewell and what was told before leave the queue, then the link's end ends the loop. */
static void end_if_done(struct agent *a)
{
    if (!a->stopping || a->leaving || children_count(&a->children) > 0 || (a->publisher && publisher_waiting(a->publisher) > 0))
        return;
    a->leaving = true;
    segments_end_run(a->run.job, a->site, a->first_rank, a->end_rank);
    struct msg_leave m = {.who = a->hello.who};
    tell(a, MSG_LEAVE, &m);
    if (a->link)
        link_close(a->link);
    else
        loop_stop(a->loop);
}

static void kill_children(void *arg)
{
    struct agent *a = arg;
    for (unsigned i = 0; i < CHILDREN_MAX; i++)
        if (a->children.child[i].used)
            children_kill(&a->children.child[i]);
}

/* Nobody waits for an export of a run that was told to stop: another attempt comes to the same files. */
static void kill_export(struct agent *a)
{
    for (unsigned i = 0; i < CHILDREN_MAX; i++)
        if (a->children.child[i].used && a->children.child[i].who.role == ROLE_EXPORT)
            children_kill(&a->children.child[i]);
}

static void begin_stop(struct agent *a, int code)
{
    if (a->stopping)
        return;
    a->stopping = true;
    a->exit_code = code;
    timer_start(a->loop, STOP_MS, 0, kill_children, a);
    end_if_done(a);
}

/* ---- deaths ---- */
static bool is_over(void *arg, const struct process_id *who)
{
    const struct agent *a = arg;
    if (who->role == ROLE_EXPORT)
        return who->instance < a->export_attempt;
    if (!a->have_view)
        return false;
    if (who->role == ROLE_WORKER)
        return a->view.gang[a->site_index].incarnation > who->instance;
    return who->index >= a->view.slot_count || a->view.slot[who->index].instance > who->instance;
}

/* A death may have been told to a coordinator that died, or over a link that broke: it is told until a view names a newer instance. */
static void tell_deaths(struct agent *a)
{
    children_forget(&a->children, is_over, a);
    for (unsigned i = 0; i < a->children.death_count; i++)
        tell(a, MSG_EXITED, &a->children.death[i]);
}

static bool gang_lives(void *arg, uint32_t incarnation)
{
    const struct agent *a = arg;
    for (unsigned i = 0; i < CHILDREN_MAX; i++) {
        const struct child *k = &a->children.child[i];
        if (k->used && k->who.role == ROLE_WORKER && k->who.instance == incarnation)
            return true;
    }
    return false;
}

static int own_host(const struct agent *a) { return a->nodes > 1 ? a->node : -1; }

static void kill_gang(struct agent *a, uint32_t incarnation)
{
    segments_end_gang(a->run.job, a->site, own_host(a), incarnation);
    for (unsigned i = 0; i < CHILDREN_MAX; i++) {
        struct child *k = &a->children.child[i];
        if (k->used && k->who.role == ROLE_WORKER && k->who.instance == incarnation && !k->killed)
            children_kill(k);
    }
}

static void on_child_end(void *arg, const struct msg_exited *m, bool killed)
{
    struct agent *a = arg;
    bool rank = m->who.role == ROLE_WORKER, fell = m->signal != 0 || m->code != 0;
    /* A gang dies whole: one fallen rank takes the others with it, at once; those on other hosts when the coordinator names another launch. */
    if (rank && ((fell && !killed && !a->stopping) || !gang_lives(a, m->who.instance)))
        kill_gang(a, m->who.instance);
    if (!killed)
        tell(a, MSG_EXITED, m);
    follow_view(a);   /* a newer instance may have waited for this end */
    end_if_done(a);
}

/* ---- the view decides what runs ---- */
static bool may_launch(const struct agent *a, enum role role, uint16_t index, uint32_t instance)
{
    for (unsigned i = 0; i < CHILDREN_MAX; i++) {
        const struct child *k = &a->children.child[i];
        if (k->used && k->who.role == role && (role == ROLE_WORKER || k->who.index == index) && k->who.instance != instance)
            return false;   /* it was killed, and must be gone before another opens its files and memory */
    }
    return true;
}

static int launch_gang(struct agent *a, const struct view_gang *gang, struct err *err)
{
    TRY(children_mark(&a->children, ROLE_WORKER, 0, gang->incarnation, err));
    if (a->children.mpirun)
        return children_launch_world(&a->children, (struct process_id){.role = ROLE_WORKER, .site = a->site_index, .instance = gang->incarnation}, gang->ranks, err);
    for (unsigned r = a->first_rank; r < a->end_rank; r++) {
        struct process_id who = {.role = ROLE_WORKER, .site = a->site_index, .index = (uint16_t)r, .instance = gang->incarnation};
        TRY(children_launch(&a->children, who, NULL, err));
        failpoint(FAIL_AGENT_LAUNCH);
    }
    return 0;
}

/* Launched once, not alive, and nobody saw it end: the agent before this one was dead, or died while launching. */
static void note_unseen_death(struct agent *a, enum role role, unsigned index, uint32_t instance)
{
    struct msg_exited m = {.who = {.role = role, .site = a->site_index, .index = (uint16_t)index, .instance = instance}, .code = -1, .signal = -1};
    snprintf(m.text, sizeof m.text, "ended while no agent watched");
    children_remember_death(&a->children, &m);
    tell(a, MSG_EXITED, &m);
}

static void check_gang(struct agent *a, const struct view_gang *gang)
{
    unsigned end = a->children.mpirun ? a->first_rank + 1u : a->end_rank, missing = end;
    for (unsigned r = a->first_rank; r < end; r++) {
        struct process_id who = {.role = ROLE_WORKER, .index = (uint16_t)r, .instance = gang->incarnation};
        if (children_death(&a->children, who))
            return;
        if (!children_find(&a->children, ROLE_WORKER, who.index, who.instance))
            missing = MIN(missing, r);
    }
    if (missing == end)
        return;
    note_unseen_death(a, ROLE_WORKER, missing, gang->incarnation);
    kill_gang(a, gang->incarnation);
}

/* Nobody can launch an MPI world again: a visiting site goes without it, a run at home ends. */
static int end_without_world(struct agent *a, unsigned ranks, struct err *err)
{
    struct msg_drain m = {.site = a->site_index};
    if (!is_visiting())
        return err_set(err, ERR_TEMPORARY, "the MPI world of site '%s' is gone; go on with: mpirun -n %u viaduct run %s/spec.yaml --resume --dir %s --site %s",
                       a->site, ranks, a->run.path, a->run.path, a->site);
    log_error(&a->log, "the MPI world of this site is gone: it leaves the run");
    a->goes_without_world = true;
    if (a->joined)
        tell(a, MSG_DRAIN, &m);           /* answered by STOP */
    else
        begin_stop(a, err_exit_code(ERR_TEMPORARY));
    return 0;
}

static int follow_world(struct agent *a, const struct view_gang *gang, struct err *err)
{
    uint32_t invited = world_invited(a->world);
    struct process_id earlier = {.role = ROLE_WORKER, .instance = gang->incarnation};
    if (!gang->wanted || gang->incarnation <= invited || a->goes_without_world)
        return 0;
    if (invited || world_is_gone(a->world))
        return end_without_world(a, gang->ranks, err);
    if (gang->incarnation <= a->children.gang_launched) {   /* an earlier world, which nobody saw end */
        if (!children_death(&a->children, earlier))
            note_unseen_death(a, ROLE_WORKER, 0, gang->incarnation);
        return 0;
    }
    TRY(children_mark(&a->children, ROLE_WORKER, 0, gang->incarnation, err));
    return world_invite(a->world, gang->incarnation, err);
}

static void on_world_gone(void *arg)
{
    struct agent *a = arg;
    struct msg_exited m = {.who = {.role = ROLE_WORKER, .site = a->site_index, .instance = world_invited(a->world)}};
    if (a->stopping)
        return;
    world_last_words(a->world, &m);
    log_warn(&a->log, "the MPI world of this site ended: rank %u, code %d, signal %d", m.who.index, m.code, m.signal);
    if (m.who.instance) {
        children_remember_death(&a->children, &m);
        tell(a, MSG_EXITED, &m);
    }
    if (is_visiting()) {
        struct err none = ERR_INIT;
        end_without_world(a, 0, &none);
    }
    follow_view(a);
}

static int follow_gang(struct agent *a, const struct view_gang *gang, struct err *err)
{
    if (a->world)
        return follow_world(a, gang, err);
    for (unsigned i = 0; i < CHILDREN_MAX; i++) {
        const struct child *k = &a->children.child[i];
        if (k->used && k->who.role == ROLE_WORKER && !k->killed && (!gang->wanted || k->who.instance < gang->incarnation))
            kill_gang(a, k->who.instance);
    }
    if (!gang->wanted || gang->incarnation < a->children.gang_launched)
        return 0;
    if (gang->incarnation > a->children.gang_launched)
        return may_launch(a, ROLE_WORKER, 0, gang->incarnation) ? launch_gang(a, gang, err) : 0;
    check_gang(a, gang);
    return 0;
}

static int follow_slot(struct agent *a, unsigned s, const struct view_slot *slot, struct err *err)
{
    uint32_t launched = a->children.slot_launched[s];
    struct process_id who = {.role = ROLE_PS, .site = a->site_index, .index = (uint16_t)s, .instance = slot->instance};
    for (unsigned i = 0; i < CHILDREN_MAX; i++) {   /* an excluded instance may still run: it has no role any more */
        struct child *k = &a->children.child[i];
        if (k->used && k->who.role == ROLE_PS && k->who.index == s && k->who.instance < slot->instance && !k->killed)
            children_kill(k);
    }
    if (slot->instance > launched && may_launch(a, ROLE_PS, who.index, who.instance)) {
        TRY(children_mark(&a->children, ROLE_PS, who.index, who.instance, err));
        return children_launch(&a->children, who, NULL, err);
    }
    if (slot->instance == launched && !children_find(&a->children, ROLE_PS, who.index, who.instance) && !children_death(&a->children, who))
        note_unseen_death(a, ROLE_PS, s, slot->instance);
    return 0;
}

static void follow_view(struct agent *a)
{
    struct err err = ERR_INIT;
    int rc = 0;
    if (a->stopping || !a->have_view)
        return;
    for (unsigned s = 0; s < a->view.slot_count && rc == 0 && !a->embedded && a->node == 0; s++)
        if (a->view.slot[s].site == a->site_index)
            rc = follow_slot(a, s, &a->view.slot[s], &err);
    if (rc == 0)
        rc = follow_gang(a, &a->view.gang[a->site_index], &err);
    if (rc == 0)
        return;
    struct msg_failed m = {.who = a->hello.who, .code = rc};
    snprintf(m.text, sizeof m.text, "%.*s", (int)sizeof m.text - 1, err.text);
    log_error(&a->log, "%s", err.text);
    tell(a, MSG_FAILED, &m);
}

/* ---- checkpoints and export ---- */
static void on_published(void *arg, const struct msg_published *m)
{
    struct agent *a = arg;
    if (!m->ok)
        log_error(&a->log, "checkpoint of step %llu: %s", (unsigned long long)m->step, m->text);
    tell(a, MSG_PUBLISHED, m);
    end_if_done(a);
}

/* An attempt runs once: a coordinator that restarted and asks for it again is told how it ended. */
static void launch_export(struct agent *a, const struct msg_launch *m)
{
    struct err err = ERR_INIT;
    char step[32], generation[16], attempt[16];
    struct process_id who = {.role = ROLE_EXPORT, .site = a->site_index, .instance = m->attempt};
    a->export_attempt = MAX(a->export_attempt, m->attempt);
    if (a->stopping || children_find(&a->children, ROLE_EXPORT, 0, m->attempt))
        return;
    const struct msg_exited *before = children_death(&a->children, who);
    if (before) {
        tell(a, MSG_EXITED, before);
        return;
    }
    snprintf(step, sizeof step, "%llu", (unsigned long long)m->step);
    snprintf(generation, sizeof generation, "%u", m->generation);
    snprintf(attempt, sizeof attempt, "%u", m->attempt);
    const char *argv[] = {"--step", step, "--generation", generation, "--attempt", attempt, NULL};
    failpoint(FAIL_AGENT_EXPORT);
    if (children_launch(&a->children, who, argv, &err) < 0) {
        struct msg_exited gone = {.who = who, .code = 1};
        snprintf(gone.text, sizeof gone.text, "%.*s", (int)sizeof gone.text - 1, err.text);
        children_remember_death(&a->children, &gone);
        tell(a, MSG_EXITED, &gone);
    }
}

/* ---- link to the coordinator ---- */
static void ask_to_drain(struct agent *a)
{
    struct msg_stop m = {.why = STOP_REQUESTED};
    tell(a, MSG_STOP, &m);
}

/* Slurm may start a job again whose node it cannot reach, while we still run there: then the run has begun another start, and we are no part of it. */
static bool superseded(struct agent *a)
{
    char token[sizeof a->start_token];
    if (!a->start_token[0] || rundir_start_token(&a->run, token) < 0 || strcmp(token, a->start_token) == 0)
        return false;
    log_error(&a->log, "the run was started again elsewhere: this site's processes end");
    a->children.record_path[0] = '\0';
    kill_children(a);
    begin_stop(a, err_exit_code(ERR_CONFLICT));
    return true;
}

/* A visiting MPI world has its own size. A coordinator of an older build takes the spec's, and MPI refuses another. */
static int say_ranks(struct agent *a, struct link *link, const struct msg_hello *peer, struct err *err)
{
    const char *ranks = getenv("VIADUCT_WORLD_RANKS");
    struct msg_brings m = {.ranks = ranks ? (uint16_t)strtoul(ranks, NULL, 10) : 0};
    return a->world && m.ranks && peer->features & FEATURE_BRINGS ? link_send(link, MSG_BRINGS, 0, &m, NULL, 0, err) : 0;
}

static void on_opened(void *arg, struct link *link, const struct msg_hello *peer)
{
    struct agent *a = arg;
    if (peer->who.role != ROLE_COORDINATOR) {
        log_warn(&a->log, "another process answers where the coordinator should: link closed");
        link_close(link);
        return;
    }
    struct msg_join *m = calloc(1, sizeof *m);
    CHECK(m != NULL);
    m->who = a->hello.who;
    for (unsigned i = 0; i < CHILDREN_MAX; i++) {
        const struct child *k = &a->children.child[i];
        if (k->used && !k->killed && k->who.role != ROLE_EXPORT && m->alive_count < ARRAY_LEN(m->alive))
            m->alive[m->alive_count++] = k->who;
    }
    struct err err = ERR_INIT;
    if (say_ranks(a, link, peer, &err) < 0 || link_send(link, MSG_JOIN, 0, m, NULL, 0, &err) < 0)
        log_warn(&a->log, "%s", err.text);
    free(m);
    a->joined = true;
    a->lost_since_ms = 0;
    const char *told = getenv("VIADUCT_HOST_ADDRESS");
    if (!told || !*told)
        link_own_host(link, a->children.host_address, sizeof a->children.host_address);
    tell_deaths(a);
    if (a->drain)
        ask_to_drain(a);
}

static void on_view(struct agent *a, const struct msg_view *m)
{
    if (a->have_view && m->view.number < a->view.number)
        return;
    a->have_view = true;
    a->view = m->view;
    tell_deaths(a);
    follow_view(a);
}

/* How the run ended, the coordinator's own exit says; but a visitor is its own. One that is a Slurm job waits for the next start of a run that was stopped: that is
 * the usual course of a run under Slurm. */
static void stop_asked(struct agent *a, enum stop_why why)
{
    bool waits = is_visiting() && why == STOP_REQUESTED && slurm_environment_read().inside;
    a->sent_away = is_visiting() && why == STOP_FAILED;
    waits = waits || a->goes_without_world;
    begin_stop(a, a->sent_away ? err_exit_code(ERR_JOB) : waits ? err_exit_code(ERR_TEMPORARY) : 0);
}

static void on_message(void *arg, struct link *link, enum msg_type type, void *msg, const uint8_t *payload, size_t payload_size)
{
    struct agent *a = arg;
    (void)link;
    if (type == MSG_VIEW) {
        on_view(a, msg);
    } else if (type == MSG_PLAN) {
        a->embedded = ((const struct msg_plan *)msg)->embedded;
    } else if (type == MSG_MANIFEST) {
        failpoint(FAIL_AGENT_MANIFEST);
        if (a->publisher)
            publisher_ask(a->publisher, msg, payload, payload_size);
    } else if (type == MSG_LAUNCH) {
        launch_export(a, msg);
    } else if (type == MSG_STOP) {
        kill_export(a);
        stop_asked(a, ((const struct msg_stop *)msg)->why);
    }
}

static void on_closed(void *arg, struct link *link, const struct err *why)
{
    struct agent *a = arg;
    (void)link;
    a->link = NULL;
    a->joined = false;
    if (a->leaving)
        loop_stop(a->loop);
    if (!a->lost_since_ms) {
        a->lost_since_ms = loop_now_ms(a->loop);
        log_info(&a->log, "coordinator: %s", why->text);
    }
    if (a->goes_without_world)
        begin_stop(a, err_exit_code(ERR_TEMPORARY));
    if (why->code == ERR_DENIED && !a->stopping) {
        log_error(&a->log, "%s", why->text);
        kill_children(a);
        begin_stop(a, err_exit_code(ERR_DENIED));
    }
}

static const struct link_ops ops = {on_opened, on_message, on_closed};

static void dial(struct agent *a)
{
    char address[ADDRESS_LIMIT];
    struct err err = ERR_INIT;
    if (rundir_coordinator(&a->run, "tls", address, &err) == 0 &&
        net_dial(a->loop, address, a->identity, &a->hello, &ops, a, &a->link, &err) == 0)
        return;
    a->link = NULL;
    if (!a->lost_since_ms)
        a->lost_since_ms = loop_now_ms(a->loop);
}

static void on_tick(void *arg)
{
    struct agent *a = arg;
    if (a->stopping)
        return;
    if (!a->link && superseded(a))
        return;
    if (!a->link)
        dial(a);
    uint64_t lost = a->lost_since_ms ? loop_now_ms(a->loop) - a->lost_since_ms : 0;
    if (lost <= (a->orphan ? ORPHAN_MS : LOST_MS))
        return;
    log_error(&a->log, "no coordinator for %llu s; this site stops", (unsigned long long)(lost / 1000));
    kill_children(a);
    begin_stop(a, err_exit_code(ERR_TEMPORARY));
}

static void on_heartbeat(void *arg)
{
    struct agent *a = arg;
    struct msg_heartbeat m = {.who = a->hello.who};
    tell(a, MSG_HEARTBEAT, &m);
}

/* ---- set-up ---- */
static void on_parent_line(void *arg, const char *line)
{
    struct agent *a = arg;
    if (!line)
        a->orphan = true;   /* the coordinator sees it too and stops the run in good order */
}

/* A visiting site leaves in good order: the coordinator answers with STOP once lanes and copies are elsewhere. */
static void on_drain(void *arg, int signo)
{
    struct agent *a = arg;
    struct msg_drain m = {.site = a->site_index};
    (void)signo;
    if (a->joined)
        tell(a, MSG_DRAIN, &m);
    else
        begin_stop(a, 0);
}

static void on_term(void *arg, int signo)
{
    struct agent *a = arg;
    if (a->children.ignore_term && signo == SIGTERM && is_visiting()) {
        on_drain(a, signo);
        return;
    }
    if (a->children.ignore_term && signo == SIGTERM) {   /* Slurm takes the nodes back, and gives some seconds: all get this signal, the coordinator decides */
        a->drain = true;
        ask_to_drain(a);
        return;
    }
    kill_children(a);
    begin_stop(a, 128 + signo);
}

static int watch_parent(struct agent *a, struct err *err)
{
    const char *text = getenv("VIADUCT_PARENT_FD");
    if (!text || !*text)
        return 0;
    int fd = (int)strtol(text, NULL, 10);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    return loop_read_lines(a->loop, fd, on_parent_line, a, err);
}

static int find_node(struct agent *a, const struct core_config *placed, struct err *err)
{
    uint16_t first[HOSTS_LIMIT + 1];
    a->nodes = (uint16_t)a->job.spec.sites[a->site_index].nodes;
    if (a->node >= a->nodes)
        return err_set(err, ERR_USAGE, "--node %u: site '%s' has nodes 0 to %u", a->node, a->site, a->nodes - 1u);
    placement_nodes(placed->plan.lanes, &placed->gang[a->site_index], a->nodes, first);
    a->first_rank = first[a->node];
    a->end_rank = first[a->node + 1];
    return 0;
}

static int read_spec(struct agent *a, struct err *err)
{
    char path[600];
    struct core_config *placed = calloc(1, sizeof *placed);
    CHECK(placed != NULL);
    snprintf(path, sizeof path, "%s/spec.yaml", a->run.path);
    int rc = job_load(&a->job, path, NULL, 0, false, err);
    unsigned i = 0;
    while (rc == 0 && i < a->job.spec.site_count && strcmp(a->job.spec.sites[i].name, a->site) != 0)
        i++;
    if (rc == 0 && i == a->job.spec.site_count)
        rc = err_set(err, ERR_USAGE, "%s has no site named '%s'", path, a->site);
    if (rc == 0) {
        a->site_index = (uint8_t)i;
        placement_of(&a->job.spec, placed);   /* the plan's message comes after the first launch */
        a->embedded = placed->plan.embedded;
        rc = find_node(a, placed, err);
    }
    free(placed);
    return rc;
}

/* A site that is `via: join` may be the job of another cluster. */
static bool in_slurm_job(const struct agent *a)
{
    return a->job.spec.sites[a->site_index].via == VIA_SLURM || (is_visiting() && slurm_environment_read().inside);
}

static int take_over(struct agent *a, struct err *err)
{
    struct children *c = &a->children;
    const char *own = getenv("VIADUCT_WORKER");
    *c = (struct children){.loop = a->loop, .log = &a->log, .run_dir = a->run.path, .site = a->site, .worker_program = own && *own ? own : NULL,
                           .ignore_term = in_slurm_job(a), .host = a->node, .hosts = a->nodes, .ended = on_child_end, .arg = a};
    if (a->job.spec.sites[a->site_index].via == VIA_MPIRUN && !a->external_gang) {
        TRY(slurm_find("mpirun", a->mpirun, sizeof a->mpirun, err));
        c->mpirun = a->mpirun;
    }
    snprintf(c->record_path, sizeof c->record_path, "%s/state/agent-%s.children", a->run.path, a->name);
    snprintf(c->socket_path, sizeof c->socket_path, a->node ? "%s/a-%u.%u" : "%s/a-%u", a->run.sockets, a->site_index, a->node);
    TRY(door_open(c->socket_path, &a->door, err));
    const struct job_site *site = &a->job.spec.sites[a->site_index];
    const char *wanted = a->node || is_visiting() ? NULL : a->door_wanted ? a->door_wanted : site->door;   /* nobody dials a visiting site */
    TRY(front_open(a->loop, &a->log, &a->run, a->site, a->site_index, (struct front_place){wanted, site->door_address}, &a->front, err));   /* before anybody who may stand behind it is launched */
    TRY(children_init(c, err));
    if (a->external_gang)
        TRY(world_open(a->loop, a->run.path, a->site, on_world_gone, a, &a->world, err));
    segments_sweep(a->run.job, a->site, own_host(a), gang_lives, a);
    return 0;
}

static int set_up(struct agent *a, struct err *err)
{
    char path[600];
    if (rundir_start_token(&a->run, a->start_token) < 0)
        a->start_token[0] = '\0';   /* a visiting site has a folder of its own, and its token is its fence */
    TRY(read_spec(a, err));
    TRY(loop_new(&a->loop, err));
    snprintf(path, sizeof path, "%s/state/tls", a->run.path);
    TRY(identity_load(path, a->site, ROLE_AGENT, &a->identity, err));
    a->hello = (struct msg_hello){.version_min = FRAME_VERSION, .version_max = FRAME_VERSION, .who = {.role = ROLE_AGENT, .site = a->site_index, .index = a->node}};
    snprintf(a->hello.job, sizeof a->hello.job, "%s", a->run.job);
    snprintf(a->hello.build, sizeof a->hello.build, "%s", VIADUCT_VERSION);
    if (a->node == 0)
        TRY(publisher_open(a->loop, &a->log, a->run.path, a->site, a->site_index, &a->job.spec, on_published, a, &a->publisher, err));
    TRY(take_over(a, err));
    TRY(loop_on_signal(a->loop, SIGTERM, on_term, a, err));
    TRY(loop_on_signal(a->loop, SIGINT, on_term, a, err));
    TRY(loop_on_signal(a->loop, SIGUSR1, on_drain, a, err));
    TRY(watch_parent(a, err));
    timer_start(a->loop, 0, RETRY_MS, on_tick, a);
    timer_start(a->loop, HEARTBEAT_MS, HEARTBEAT_MS, on_heartbeat, a);
    return 0;
}

static int read_node(struct agent *a, const char *text, struct err *err)
{
    char *end;
    unsigned long n = strtoul(text, &end, 10);
    if (!*text || *end || n >= HOSTS_LIMIT)
        return err_set(err, ERR_USAGE, "--node is '%s', not the number of a host of the site, from 0", text);
    a->node = (uint16_t)n;
    return 0;
}

static int parse(struct agent *a, int argc, char **argv, struct err *err)
{
    const char *run = NULL;
    a->door_wanted = getenv("VIADUCT_DOOR");
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--run") == 0 && i + 1 < argc)
            run = argv[++i];
        else if (strcmp(argv[i], "--site") == 0 && i + 1 < argc)
            a->site = argv[++i];
        else if (strcmp(argv[i], "--door") == 0 && i + 1 < argc)
            a->door_wanted = argv[++i];
        else if (strcmp(argv[i], "--node") == 0 && i + 1 < argc)
            TRY(read_node(a, argv[++i], err));
        else if (strcmp(argv[i], "--external-gang") == 0)
            a->external_gang = true;
        else
            return err_set(err, ERR_USAGE, "unknown argument '%s'", argv[i]);
    }
    if (!run || !a->site)
        return err_set(err, ERR_USAGE, "--run DIR and --site NAME are needed; `viaduct run` starts agents by itself");
    snprintf(a->name, sizeof a->name, a->node ? "%.64s.%u" : "%.64s", a->site, a->node);
    return rundir_open(&a->run, run, err);
}

static int start(struct agent *a, struct err *err)
{
    char path[640], who[80];
    snprintf(path, sizeof path, "%s/log/agent-%s.jsonl", a->run.path, a->name);
    snprintf(who, sizeof who, a->node ? "agent %.64s/%u" : "agent %.64s", a->site, a->node);
    log_open(&a->log, path, who, a->run.job);
    snprintf(path, sizeof path, "%s/state", a->run.path);
    const char *wrong = failpoint_init(path);
    if (wrong)
        return err_set(err, ERR_USAGE, "%s", wrong);
    failpoint(FAIL_AGENT_START);
    return set_up(a, err);
}

int agent_main(int argc, char **argv)
{
    struct err err = ERR_INIT;
    struct agent *a = calloc(1, sizeof *a);
    CHECK(a != NULL);
    int rc = parse(a, argc, argv, &err);
    if (rc == 0)
        rc = start(a, &err);
    if (rc == 0) {
        loop_run(a->loop);
        if (a->sent_away)
            fprintf(stderr, "viaduct: agent: the run has failed, or goes on without this site because its processes failed\n");
    } else {
        fprintf(stderr, "viaduct: agent: %s\n", err.text);
        a->exit_code = err_exit_code(rc);
    }
    publisher_close(a->publisher);
    door_close(a->door);
    front_close(a->front);
    world_close(a->world);
    if (a->loop)
        loop_free(a->loop);
    identity_free(a->identity);
    job_fini(&a->job);
    log_close(&a->log);
    int code = a->exit_code;
    free(a);
    return code;
}
