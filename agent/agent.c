/* The agent's shell: view in, processes out. Everything runs in one loop thread, except publishing (publish.c). */
#include "agent/agent_private.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOST_MS 60000            /* without a coordinator for this long: give up, exit 75 */
#define ORPHAN_MS 10000          /* without `viaduct run` and coordinator */
#define STOP_MS 6000             /* children get this long to end by themselves */

static void follow_view(struct agent *a);

bool agent_is_visiting(void)
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

bool agent_gang_lives(void *arg, uint32_t incarnation)
{
    const struct agent *a = arg;
    for (unsigned i = 0; i < CHILDREN_MAX; i++) {
        const struct child *k = &a->children.child[i];
        if (k->used && k->who.role == ROLE_WORKER && k->who.instance == incarnation)
            return true;
    }
    return false;
}

int agent_own_host(const struct agent *a) { return a->nodes > 1 ? a->node : -1; }

static void kill_gang(struct agent *a, uint32_t incarnation)
{
    segments_end_gang(a->run.job, a->site, agent_own_host(a), incarnation);
    for (unsigned i = 0; i < CHILDREN_MAX; i++) {
        struct child *k = &a->children.child[i];
        if (k->used && k->who.role == ROLE_WORKER && k->who.instance == incarnation && !k->killed)
            children_kill(k);
    }
}

void agent_child_ended(void *arg, const struct msg_exited *m, bool killed)
{
    struct agent *a = arg;
    bool rank = m->who.role == ROLE_WORKER, fell = m->signal != 0 || m->code != 0;
    /* A gang dies whole: one fallen rank takes the others with it, at once; those on other hosts when the coordinator names another launch. */
    if (rank && ((fell && !killed && !a->stopping) || !agent_gang_lives(a, m->who.instance)))
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
    char words[60];
    mpirun_words(ranks, words, sizeof words);
    if (!agent_is_visiting())
        return err_set(err, ERR_TEMPORARY, "the MPI world of site '%s' is gone; go on with: %s viaduct run %s/spec.yaml --resume --dir %s --site %s",
                       a->site, words, a->run.path, a->run.path, a->site);
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

void agent_world_gone(void *arg)
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
    if (agent_is_visiting()) {
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
void agent_published(void *arg, const struct msg_published *m)
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
        struct msg_exited gone = {.who = who, .code = -1};     /* it said nothing: the next may be launched */
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
    a->joined = a->accepted = true;
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
    bool waits = agent_is_visiting() && why == STOP_REQUESTED && slurm_environment_read().inside;
    a->sent_away = agent_is_visiting() && why == STOP_FAILED;
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

/* A stranger, who has no certificate of the run, may stand at the coordinator's address for a while: a portal on the way, or somebody who was given its port. What
 * that refuses says nothing about our place in the run, once we have had one. */
static bool is_put_out(const struct agent *a, const struct link *link, const struct err *why)
{
    bool stranger = link_peer(link)->who.role == ROLE_NONE;
    return why->code == ERR_DENIED && !a->stopping && !(stranger && (a->accepted || agent_is_visiting()));
}

static void on_closed(void *arg, struct link *link, const struct err *why)
{
    struct agent *a = arg;
    a->link = NULL;
    a->joined = false;
    if (a->leaving)
        loop_stop(a->loop);
    if (!a->lost_since_ms) {
        a->lost_since_ms = loop_now_ms(a->loop);
        log_info(&a->log, "coordinator: %s", why->text[0] ? why->text : "the connection is closed");
    }
    snprintf(a->lost_why, sizeof a->lost_why, "%.*s", (int)sizeof a->lost_why - 1, why->text);
    if (a->goes_without_world)
        begin_stop(a, err_exit_code(ERR_TEMPORARY));
    if (is_put_out(a, link, why)) {
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

void agent_tick(void *arg)
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
    log_error(&a->log, "no coordinator for %llu s; this site stops%s%s", (unsigned long long)(lost / 1000), a->lost_why[0] ? "; last: " : "", a->lost_why);
    kill_children(a);
    begin_stop(a, err_exit_code(ERR_TEMPORARY));
}

void agent_beat(void *arg)
{
    struct agent *a = arg;
    struct msg_heartbeat m = {.who = a->hello.who};
    tell(a, MSG_HEARTBEAT, &m);
}

/* ---- words from outside: `viaduct run`, signals ---- */
void agent_parent_line(void *arg, const char *line)
{
    struct agent *a = arg;
    if (!line)
        a->orphan = true;   /* the coordinator sees it too and stops the run in good order */
}

/* A visiting site leaves in good order: the coordinator answers with STOP once lanes and copies are elsewhere. */
void agent_drain(void *arg, int signo)
{
    struct agent *a = arg;
    struct msg_drain m = {.site = a->site_index};
    (void)signo;
    if (a->joined)
        tell(a, MSG_DRAIN, &m);
    else
        begin_stop(a, 0);
}

void agent_term(void *arg, int signo)
{
    struct agent *a = arg;
    if (a->children.ignore_term && signo == SIGTERM && agent_is_visiting()) {
        agent_drain(a, signo);
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
