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
#include "agent/publish.h"
#include "base/base.h"
#include "collectives/collectives.h"
#include "jobs/jobs.h"
#include "net/net.h"
#include "slurm/slurm.h"

#define RETRY_MS 200
#define LOST_MS 60000            /* without a coordinator for this long: give up, exit 75 */
#define ORPHAN_MS 10000          /* without `viaduct run` and coordinator */
#define STOP_MS 10000            /* children get this long to end by themselves */

struct agent {
    struct loop *loop;
    struct log log;
    struct rundir run;
    struct job job;
    const char *site;
    uint8_t site_index;
    bool external_gang;          /* mpirun started the ranks */
    struct identity *identity;
    struct msg_hello hello;
    struct link *link;
    bool joined, stopping, orphan;
    uint64_t lost_since_ms, stop_deadline_ms;
    struct children children;
    struct door *door;
    struct publisher *publisher;
    struct view view;
    uint32_t gang_launched;      /* newest incarnation that we launched or adopted */
    uint32_t slot_launched[SLOTS_LIMIT];
    struct msg_exited unreported[CHILDREN_MAX];   /* deaths that no coordinator has heard of yet */
    unsigned unreported_count;
    int exit_code;
};

static void dial(struct agent *a);

static void tell(struct agent *a, enum msg_type type, const void *m)
{
    struct err err = ERR_INIT;
    if (a->link && a->joined && link_send(a->link, type, a->view.number, m, NULL, 0, &err) < 0)
        log_warn(&a->log, "%s", err.text);
}

static void finish(struct agent *a, int code)
{
    a->exit_code = code;
    loop_stop(a->loop);
}

static void segment_of(const struct agent *a, uint32_t incarnation, char out[128])
{
    snprintf(out, 128, "/viaduct-%s-%s-%u", a->run.job, a->site, incarnation);
}

/* ---- children end ---- */
static void end_if_done(struct agent *a)
{
    if (a->stopping && children_count(&a->children) == 0) {
        struct msg_leave m = {.who = a->hello.who};
        tell(a, MSG_LEAVE, &m);
        finish(a, a->exit_code);
    }
}

static void report_end(struct agent *a, const struct msg_exited *m)
{
    if (a->joined)
        tell(a, MSG_EXITED, m);
    else if (a->unreported_count < ARRAY_LEN(a->unreported))
        a->unreported[a->unreported_count++] = *m;
}

static void kill_gang(struct agent *a, uint32_t but_incarnation)
{
    for (unsigned i = 0; i < CHILDREN_MAX; i++) {
        struct child *k = &a->children.child[i];
        if (k->used && k->who.role == ROLE_WORKER && k->who.instance != but_incarnation && !k->killed) {
            char segment[128];
            segment_of(a, k->who.instance, segment);
            coll_abort_segment(segment);
            children_kill(&a->children, k);
        }
    }
}

static void on_child_end(void *arg, const struct msg_exited *m, bool killed)
{
    struct agent *a = arg;
    bool fell = m->signal > 0 || m->code != 0;
    /* A gang dies whole: one fallen rank takes the others with it, at once. */
    if (m->who.role == ROLE_WORKER && fell && !a->stopping)
        kill_gang(a, UINT32_MAX);
    if (!killed)
        report_end(a, m);
    end_if_done(a);
}

static void on_recorded_dead(void *arg, struct process_id who)
{
    struct agent *a = arg;
    struct msg_exited m = {.who = who, .code = -1, .signal = -1};
    snprintf(m.text, sizeof m.text, "ended while no agent watched");
    report_end(a, &m);
}

/* ---- the view decides what runs ---- */
static int launch_gang(struct agent *a, const struct view_gang *gang, struct err *err)
{
    a->gang_launched = gang->incarnation;
    for (unsigned r = 0; r < gang->ranks; r++) {
        struct process_id who = {.role = ROLE_WORKER, .site = a->site_index, .index = (uint16_t)r, .instance = gang->incarnation};
        TRY(children_launch(&a->children, who, NULL, err));
        failpoint(FAIL_AGENT_LAUNCH);
    }
    return 0;
}

/* Ranks that mpirun started wait for this line; WORLD names their MPI job. */
static int invite_gang(struct agent *a, const struct view_gang *gang, struct err *err)
{
    char path[700], line[200];
    const char *world = getenv("VIADUCT_WORLD");
    a->gang_launched = gang->incarnation;
    snprintf(path, sizeof path, "%s/state/gang-%s", a->run.path, a->site);
    snprintf(line, sizeof line, "%u %.150s\n", gang->incarnation, world ? world : "-");
    return fs_publish_file(&fs_real, path, line, strlen(line), err);
}

static void follow_view(struct agent *a)
{
    struct err err = ERR_INIT;
    int rc = 0;
    if (a->stopping)
        return;
    for (unsigned s = 0; s < a->view.slot_count && rc == 0; s++) {
        const struct view_slot *slot = &a->view.slot[s];
        if (slot->site != a->site_index || slot->instance <= a->slot_launched[s])
            continue;
        for (unsigned i = 0; i < CHILDREN_MAX; i++)   /* an excluded instance may still run: it has no role any more */
            if (a->children.child[i].used && a->children.child[i].who.role == ROLE_PS && a->children.child[i].who.index == s)
                children_kill(&a->children, &a->children.child[i]);
        a->slot_launched[s] = slot->instance;
        struct process_id who = {.role = ROLE_PS, .site = a->site_index, .index = (uint16_t)s, .instance = slot->instance};
        rc = children_launch(&a->children, who, NULL, &err);
    }
    const struct view_gang *gang = &a->view.gang[a->site_index];
    if (!a->external_gang)
        kill_gang(a, gang->wanted ? gang->incarnation : UINT32_MAX);
    if (rc == 0 && gang->wanted && gang->incarnation > a->gang_launched)
        rc = a->external_gang ? invite_gang(a, gang, &err) : launch_gang(a, gang, &err);
    if (rc < 0) {
        struct msg_failed m = {.who = a->hello.who, .code = rc};
        snprintf(m.text, sizeof m.text, "%.*s", (int)sizeof m.text - 1, err.text);
        tell(a, MSG_FAILED, &m);
    }
}

/* ---- checkpoints and export ---- */
static void on_published(void *arg, const struct msg_published *m)
{
    struct agent *a = arg;
    if (!m->ok)
        log_error(&a->log, "checkpoint of step %llu: %s", (unsigned long long)m->step, m->text);
    tell(a, MSG_PUBLISHED, m);
}

static void launch_export(struct agent *a, const struct msg_launch *m)
{
    struct err err = ERR_INIT;
    char step[32], generation[16], attempt[16];
    snprintf(step, sizeof step, "%llu", (unsigned long long)m->step);
    snprintf(generation, sizeof generation, "%u", m->generation);
    snprintf(attempt, sizeof attempt, "%u", m->attempt);
    const char *argv[] = {"--step", step, "--generation", generation, "--attempt", attempt, NULL};
    struct process_id who = {.role = ROLE_EXPORT, .site = a->site_index, .instance = m->attempt};
    if (children_find(&a->children, ROLE_EXPORT, 0, m->attempt))
        return;
    failpoint(FAIL_AGENT_EXPORT);
    if (children_launch(&a->children, who, argv, &err) < 0) {
        struct msg_exited gone = {.who = who, .code = 1};
        snprintf(gone.text, sizeof gone.text, "%.*s", (int)sizeof gone.text - 1, err.text);
        report_end(a, &gone);
    }
}

static void stop_now(void *arg)
{
    struct agent *a = arg;
    for (unsigned i = 0; i < CHILDREN_MAX; i++)
        if (a->children.child[i].used)
            children_kill(&a->children, &a->children.child[i]);
}

static void begin_stop(struct agent *a, int code)
{
    if (a->stopping)
        return;
    a->stopping = true;
    a->exit_code = code;
    timer_start(a->loop, STOP_MS, 0, stop_now, a);
    end_if_done(a);
}

/* ---- link to the coordinator ---- */
static void on_opened(void *arg, struct link *link, const struct msg_hello *peer)
{
    struct agent *a = arg;
    (void)peer;
    struct msg_join *m = calloc(1, sizeof *m);
    CHECK(m != NULL);
    m->who = a->hello.who;
    for (unsigned i = 0; i < CHILDREN_MAX; i++)
        if (a->children.child[i].used && !a->children.child[i].killed && m->alive_count < ARRAY_LEN(m->alive))
            m->alive[m->alive_count++] = a->children.child[i].who;
    struct err err = ERR_INIT;
    if (link_send(link, MSG_JOIN, 0, m, NULL, 0, &err) < 0)
        log_warn(&a->log, "%s", err.text);
    free(m);
    a->joined = true;
    a->lost_since_ms = 0;
    for (unsigned i = 0; i < a->unreported_count; i++)
        tell(a, MSG_EXITED, &a->unreported[i]);
    a->unreported_count = 0;
}

static void on_message(void *arg, struct link *link, enum msg_type type, void *msg, const uint8_t *payload, size_t payload_size)
{
    struct agent *a = arg;
    (void)link;
    if (type == MSG_VIEW) {
        const struct msg_view *m = msg;
        if (m->view.number >= a->view.number) {
            a->view = m->view;
            follow_view(a);
        }
    } else if (type == MSG_MANIFEST) {
        failpoint(FAIL_AGENT_MANIFEST);
        publisher_ask(a->publisher, msg, payload, payload_size);
    } else if (type == MSG_LAUNCH) {
        launch_export(a, msg);
    } else if (type == MSG_STOP) {
        begin_stop(a, 0);
    }
}

static void on_closed(void *arg, struct link *link, const struct err *why)
{
    struct agent *a = arg;
    (void)link;
    a->link = NULL;
    a->joined = false;
    if (!a->lost_since_ms) {
        a->lost_since_ms = loop_now_ms(a->loop);
        log_info(&a->log, "coordinator: %s", why->text);
    }
    if (why->code == ERR_DENIED) {
        log_error(&a->log, "%s", why->text);
        finish(a, err_exit_code(ERR_DENIED));
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
    uint64_t now = loop_now_ms(a->loop);
    if (!a->link)
        dial(a);
    if (!a->lost_since_ms)
        return;
    uint64_t lost = now - a->lost_since_ms;
    if (lost > (a->orphan || a->stopping ? ORPHAN_MS : LOST_MS)) {
        log_error(&a->log, "no coordinator for %llu s; this site stops", (unsigned long long)(lost / 1000));
        a->lost_since_ms = now;
        stop_now(a);
        begin_stop(a, err_exit_code(ERR_TEMPORARY));
    }
}

static void on_heartbeat(void *arg)
{
    struct agent *a = arg;
    struct msg_heartbeat m = {.who = a->hello.who};
    tell(a, MSG_HEARTBEAT, &m);
}

static void on_parent_line(void *arg, const char *line)
{
    struct agent *a = arg;
    if (!line)
        a->orphan = true;   /* the coordinator sees it too and stops the run in good order */
}

static void on_term(void *arg, int signo)
{
    (void)signo;
    begin_stop(arg, 128 + signo);
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

static int set_up(struct agent *a, struct err *err)
{
    char path[600];
    snprintf(path, sizeof path, "%s/spec.yaml", a->run.path);
    TRY(job_load(&a->job, path, NULL, 0, false, err));
    unsigned i = 0;
    while (i < a->job.spec.site_count && strcmp(a->job.spec.sites[i].name, a->site) != 0)
        i++;
    if (i == a->job.spec.site_count)
        return err_set(err, ERR_USAGE, "%s has no site named '%s'", path, a->site);
    a->site_index = (uint8_t)i;
    TRY(loop_new(&a->loop, err));
    snprintf(path, sizeof path, "%s/state/tls", a->run.path);
    TRY(identity_load(path, a->site, ROLE_AGENT, &a->identity, err));
    a->hello = (struct msg_hello){.version_min = FRAME_VERSION, .version_max = FRAME_VERSION, .who = {.role = ROLE_AGENT, .site = a->site_index}};
    snprintf(a->hello.job, sizeof a->hello.job, "%s", a->run.job);
    snprintf(a->hello.build, sizeof a->hello.build, "%s", VIADUCT_VERSION);
    struct children *c = &a->children;
    *c = (struct children){.loop = a->loop, .log = &a->log, .run_dir = a->run.path, .site = a->site, .ended = on_child_end, .arg = a};
    snprintf(c->record_path, sizeof c->record_path, "%.400s/state/agent-%s.children", a->run.path, a->site);
    snprintf(c->socket_path, sizeof c->socket_path, "%s/a-%.20s", a->run.sockets, a->site);
    TRY(door_open(c->socket_path, &a->door, err));
    TRY(children_init(c, on_recorded_dead, err));
    for (unsigned k = 0; k < CHILDREN_MAX; k++) {
        const struct child *child = &c->child[k];
        if (child->used && child->who.role == ROLE_WORKER)
            a->gang_launched = MAX(a->gang_launched, child->who.instance);
        if (child->used && child->who.role == ROLE_PS && child->who.index < SLOTS_LIMIT)
            a->slot_launched[child->who.index] = child->who.instance;
    }
    for (unsigned k = 0; k < a->unreported_count; k++) {   /* what died unseen was launched all the same */
        const struct process_id who = a->unreported[k].who;
        if (who.role == ROLE_WORKER)
            a->gang_launched = MAX(a->gang_launched, who.instance);
        if (who.role == ROLE_PS && who.index < SLOTS_LIMIT)
            a->slot_launched[who.index] = MAX(a->slot_launched[who.index], who.instance);
    }
    TRY(publisher_open(a->loop, &a->log, a->run.path, a->site, a->site_index, &a->job.spec, on_published, a, &a->publisher, err));
    TRY(loop_on_signal(a->loop, SIGTERM, on_term, a, err));
    TRY(loop_on_signal(a->loop, SIGINT, on_term, a, err));
    TRY(watch_parent(a, err));
    timer_start(a->loop, 0, RETRY_MS, on_tick, a);
    timer_start(a->loop, 1000, 1000, on_heartbeat, a);
    return 0;
}

static int parse(struct agent *a, int argc, char **argv, struct err *err)
{
    const char *run = NULL;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--run") == 0 && i + 1 < argc)
            run = argv[++i];
        else if (strcmp(argv[i], "--site") == 0 && i + 1 < argc)
            a->site = argv[++i];
        else if (strcmp(argv[i], "--external-gang") == 0)
            a->external_gang = true;
        else
            return err_set(err, ERR_USAGE, "agent: unknown argument '%s'", argv[i]);
    }
    if (!run || !a->site)
        return err_set(err, ERR_USAGE, "agent: --run DIR and --site NAME are needed; `viaduct run` starts agents by itself");
    return rundir_open(&a->run, run, err);
}

int agent_main(int argc, char **argv)
{
    struct err err = ERR_INIT;
    struct agent *a = calloc(1, sizeof *a);
    CHECK(a != NULL);
    int rc = parse(a, argc, argv, &err);
    if (rc == 0) {
        char path[600], state[600], who[80];
        snprintf(path, sizeof path, "%s/log/agent-%s.jsonl", a->run.path, a->site);
        snprintf(state, sizeof state, "%s/state", a->run.path);
        snprintf(who, sizeof who, "agent %s", a->site);
        log_open(&a->log, path, who, a->run.job);
        const char *wrong = failpoint_init(state);
        rc = wrong ? err_set(&err, ERR_USAGE, "%s", wrong) : set_up(a, &err);
        failpoint(FAIL_AGENT_START);
    }
    if (rc == 0) {
        loop_run(a->loop);
    } else {
        fprintf(stderr, "viaduct: agent: %s\n", err.text);
        a->exit_code = err_exit_code(rc);
    }
    publisher_close(a->publisher);
    door_close(a->door);
    if (a->loop)
        loop_free(a->loop);
    identity_free(a->identity);
    job_fini(&a->job);
    log_close(&a->log);
    int code = a->exit_code;
    free(a);
    return code;
}
