/* Joining, messages, views; and the public calls that are not a round. */
#include "client/client.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define TICK_MS 50
#define WARM_PART 32                      /* of the weights' bytes: what a rank's links carry both ways before they count */
#define FLUSH_MS 1500                     /* for the last words of a failing rank */

int client_error(struct viaduct_error *out, const struct err *err)
{
    if (out) {
        out->code = err->code;
        snprintf(out->text, sizeof out->text, "%s", err->text);
    }
    return err->code;
}

void client_end(struct viaduct *v, const struct err *why)
{
    if (v->end.code == 0 && !v->stopping)
        v->end = *why;
    if (v->coll)
        coll_abort(v->coll);
    else if (v->segment[0])
        coll_abort_segment(v->segment);   /* the trainer waits in there for the other ranks */
    pthread_cond_broadcast(&v->wake);
}

static void end_with(struct viaduct *v, int code, const char *text)
{
    struct err err = ERR_INIT;
    err_set(&err, code, "%s", text);
    client_end(v, &err);
}

bool client_is_member(const struct viaduct *v)
{
    const struct view_gang *g = &v->view.view.gang[v->hello.who.site];
    return v->have_view && v->have_plan && g->incarnation == v->hello.who.instance;
}

/* ---- sending ---- */
static bool send_to_own_shard(struct viaduct *v, enum msg_type type, const void *m, const struct bytes *payload, unsigned pieces)
{
    size_t size = 0;
    for (unsigned i = 0; i < pieces; i++)
        size += payload[i].size;
    if (size > v->scratch_size) {
        uint8_t *more = realloc(v->scratch, size);
        CHECK(more != NULL);
        v->scratch = more;
        v->scratch_size = size;
    }
    size_t at = 0;
    for (unsigned i = 0; i < pieces; i++) {
        memcpy(v->scratch + at, payload[i].data, payload[i].size);
        at += payload[i].size;
    }
    ps_host_message(v->host, (uint8_t)v->hello.who.index, v->hello.who.instance, v, type, m, v->scratch, size);
    return true;
}

bool client_send(struct viaduct *v, uint8_t slot, enum msg_type type, const void *m, const struct bytes *payload, unsigned pieces)
{
    if (slot == UINT8_MAX)
        return false;
    if (!v->plan.embedded)
        return ps_peers_send(v->peers, slot, type, v->view.view.number, m, payload, pieces);
    return v->host && slot == v->hello.who.index && send_to_own_shard(v, type, m, payload, pieces);
}

/* ---- the embedded shard ---- */
static void host_send(void *arg, uint8_t slot, enum msg_type type, const void *m, const struct bytes *payload, unsigned pieces)
{
    struct viaduct *v = arg;
    if (slot == PS_TO_COORDINATOR)
        ps_member_send(v->member, type, v->view.view.number, m, payload, pieces);
}

/* Posted, because the host is in the middle of its own actions. */
struct answer { struct viaduct *v; struct msg_pullreply m; size_t size; uint8_t payload[]; };

static void deliver(void *arg)
{
    struct answer *a = arg;
    pthread_mutex_lock(&a->v->lock);
    rounds_reply(a->v, &a->m, a->payload, a->size);
    pthread_mutex_unlock(&a->v->lock);
    free(a);
}

static void host_reply(void *arg, void *peer, const struct msg_pullreply *m, const struct bytes *payload, unsigned pieces)
{
    struct viaduct *v = arg;
    size_t size = pieces ? payload[0].size : 0;
    struct answer *a = malloc(sizeof *a + size);
    (void)peer;
    CHECK(a != NULL);
    a->v = v;
    a->m = *m;
    a->size = size;
    if (size)
        memcpy(a->payload, payload[0].data, size);
    if (loop_post(v->loop, deliver, a) < 0)
        free(a);                          /* asked again in a while */
}

static void tell_failure(struct viaduct *v, int code, uint64_t step, const char *text)
{
    struct msg_failed *m = &v->failed;
    *m = (struct msg_failed){.who = v->hello.who, .code = code, .step = step};
    snprintf(m->text, sizeof m->text, "%.*s", (int)sizeof m->text - 1, text);
    log_error(&v->log, "%s", text);
    ps_member_send(v->member, MSG_FAILED, v->view.view.number, m, NULL, 0);
}

static void host_fail(void *arg, int code, uint64_t step, const char *text) { tell_failure(arg, code, step, text); }

static void ram_name(const struct viaduct *v, char out[160])
{
    snprintf(out, 160, "/viaduct-%s-%s-ram-%u", v->run.job, v->site, v->hello.who.index);
}

static int open_embedded(struct viaduct *v, struct err *err)
{
    uint16_t rank = v->hello.who.index;
    char name[160];
    ram_name(v, name);
    if (v->plan.ram_every)
        TRY(ps_ram_open(name, layout_hash(&v->layout), ps_state_floats(&v->plan, &v->layout, rank), &v->ram, err));
    TRY(ps_disk_open(v->loop, &v->disk, err));
    struct ps_host_config c = {.loop = v->loop, .disk = v->disk, .log = &v->log, .plan = &v->plan, .declaration = &v->declaration, .run_dir = v->run.path,
                               .job = v->run.job, .site = v->hello.who.site, .slot = (uint8_t)rank, .shard = (uint8_t)rank, .instance = v->hello.who.instance,
                               .send = host_send, .reply = host_reply, .fail = host_fail, .ram = v->ram, .arg = v};
    return ps_host_open(&c, &v->host, err);
}

/* ---- the coordinator's messages ---- */
static void on_plan(struct viaduct *v, const struct msg_plan *m)
{
    struct err err = ERR_INIT;
    if (v->have_plan)
        return;
    if (m->layout_hash != layout_hash(&v->layout)) {
        end_with(v, ERR_JOB, "the run trains another model than this rank declares");
        return;
    }
    v->plan = *m;
    v->have_plan = true;
    if (m->embedded && open_embedded(v, &err) < 0)
        tell_failure(v, err.code, 0, err.text);
}

/* A rank that has no lanes is given some when it says this. From then on a round waits for its links, so what they have to learn they learn before. */
static void tell_ready(struct viaduct *v)
{
    const struct view_gang *gang = &v->view.view.gang[v->hello.who.site];
    struct msg_ready m = {.who = v->hello.who};
    if (!client_is_member(v) || !v->have_plan || gang->lanes.lo < gang->lanes.hi)
        return;
    size_t share = v->layout.elems * sizeof(float) / WARM_PART / MAX(gang->ranks, 1) / MAX(v->plan.shard_count, 1);
    bool ready = true;
    for (unsigned s = 0; s < v->plan.shard_count; s++)
        ready = ps_peers_warmed(v->peers, rounds_primary(v, s), MIN(share, WARM_BYTES_MAX)) && ready;
    if (ready)
        ps_member_send(v->member, MSG_READY, v->view.view.number, &m, NULL, 0);
}

static void on_view(struct viaduct *v, const struct msg_view *m)
{
    const struct view_gang *g = &m->view.gang[v->hello.who.site];
    bool older = v->have_view && m->view.number < v->view.view.number, same = v->have_view && m->view.number == v->view.view.number;
    if (older)
        return;
    v->view = *m;
    v->have_view = true;
    if (!v->plan.embedded)
        ps_peers_view(v->peers, m);
    if (g->incarnation > v->hello.who.instance) {
        end_with(v, ERR_ABORTED, "another launch of this gang has taken its place");
        return;
    }
    if (v->host && !same)
        ps_host_view(v->host, &v->view.view);
    if (client_is_member(v) && !same)
        rounds_view(v);
    tell_ready(v);
    pthread_cond_broadcast(&v->wake);
}

static void on_gang(struct viaduct *v, const struct msg_gang *m)
{
    if (v->have_gang || m->site != v->hello.who.site || m->incarnation != v->hello.who.instance || v->hello.who.index >= m->rank_count)
        return;
    v->gang = *m;
    v->have_gang = true;
}

static void on_message(void *arg, enum msg_type type, void *m, const uint8_t *payload, size_t size)
{
    struct viaduct *v = arg;
    pthread_mutex_lock(&v->lock);
    if (type == MSG_PLAN) {
        bool had = v->have_plan;
        on_plan(v, m);
        if (v->host && v->have_view && !had)
            ps_host_view(v->host, &v->view.view);
    } else if (type == MSG_VIEW) {
        on_view(v, m);
    } else if (type == MSG_GANG) {
        on_gang(v, m);
    } else if (type == MSG_STOP) {
        v->stopping = true;
        if (!v->coll && v->segment[0])
            coll_abort_segment(v->segment);
    } else if ((type == MSG_COMMIT || type == MSG_SUM) && v->host) {
        ps_host_message(v->host, PS_TO_COORDINATOR, 0, NULL, type, m, payload, size);
    }
    pthread_cond_broadcast(&v->wake);
    pthread_mutex_unlock(&v->lock);
}

static void fill_join(void *arg, struct msg_join *join, struct bytes *payload)
{
    struct viaduct *v = arg;
    char name[160];
    ram_name(v, name);
    join->layout_hash = layout_hash(&v->layout);
    join->samples_per_pass = v->config.samples_per_pass;
    snprintf(join->data_sha256, sizeof join->data_sha256, "%s", v->config.data_sha256 ? v->config.data_sha256 : "");
    join->host = v->host_index;
    if (v->port)
        snprintf(join->address_tls, sizeof join->address_tls, "%s", coll_port_address(v->port));
    ps_ram_peek(name, join->layout_hash, join->ram_version, join->ram_generation);
    *payload = (struct bytes){v->declaration_bytes, v->declaration_size};
}

static void on_linked(void *arg)
{
    struct viaduct *v = arg;
    struct msg_part part[32];
    if (v->failed.code < 0)
        ps_member_send(v->member, MSG_FAILED, v->view.view.number, &v->failed, NULL, 0);
    if (!v->host)
        return;
    unsigned n = ps_host_parts(v->host, part, ARRAY_LEN(part));
    for (unsigned i = 0; i < n; i++)
        ps_member_send(v->member, MSG_PART, v->view.view.number, &part[i], NULL, 0);
    ps_host_linked(v->host, PS_TO_COORDINATOR);
}

static void heartbeat(void *arg, struct msg_heartbeat *m)
{
    struct viaduct *v = arg;
    pthread_mutex_lock(&v->lock);
    m->version = v->step.finished ? v->plan.rounds : v->step.step;
    m->wan_sent_bytes = ps_peers_wan_bytes(v->peers);
    tell_ready(v);
    pthread_mutex_unlock(&v->lock);
}

static void on_over(void *arg, const struct err *why)
{
    struct viaduct *v = arg;
    pthread_mutex_lock(&v->lock);
    client_end(v, why);
    pthread_mutex_unlock(&v->lock);
}

/* ---- shards ---- */
static void peer_opened(void *arg, uint8_t slot)
{
    struct viaduct *v = arg;
    pthread_mutex_lock(&v->lock);
    rounds_linked(v, slot);
    tell_ready(v);
    pthread_mutex_unlock(&v->lock);
}

static void peer_message(void *arg, uint8_t slot, uint32_t instance, enum msg_type type, void *m, const uint8_t *payload, size_t size)
{
    struct viaduct *v = arg;
    (void)slot;
    (void)instance;
    pthread_mutex_lock(&v->lock);
    if (type == MSG_PULLREPLY)
        rounds_reply(v, m, payload, size);
    else if (type == MSG_WARM)
        tell_ready(v);
    pthread_mutex_unlock(&v->lock);
}

static void on_tick(void *arg)
{
    struct viaduct *v = arg;
    pthread_mutex_lock(&v->lock);
    if (v->host)
        ps_host_tick(v->host);
    rounds_tick(v);
    times_tell(v);
    pthread_mutex_unlock(&v->lock);
}

static void *serve(void *arg)
{
    struct viaduct *v = arg;
    loop_run(v->loop);
    return NULL;
}

/* ---- join and leave ---- */
static int number_from(const char *name, int64_t given, uint32_t *out, struct err *err)
{
    const char *text = getenv(name);
    if (given < 0 && (!text || !*text))
        return err_set(err, ERR_USAGE, "%s is not set: a training process is started by the agent of a run", name);
    *out = given >= 0 ? (uint32_t)given : (uint32_t)strtoul(text, NULL, 10);
    return 0;
}

static int make_layout(struct viaduct *v, struct err *err)
{
    const struct viaduct_config *c = &v->config;
    struct tensor_desc *t = calloc(c->tensor_count ? c->tensor_count : 1, sizeof *t);
    CHECK(t != NULL);
    for (uint32_t i = 0; i < c->tensor_count; i++) {
        snprintf(t[i].name, sizeof t[i].name, "%s", c->tensor[i].name);
        t[i].kind = c->tensor[i].state ? TENSOR_STATE : TENSOR_PARAMETER;
        t[i].dim_count = MIN(c->tensor[i].dim_count, TENSOR_DIMS_MAX);
        memcpy(t[i].dims, c->tensor[i].dims, sizeof t[i].dims);
    }
    int rc = layout_init(&v->layout, t, c->tensor_count, err);
    free(t);
    TRY(rc);
    TRY(declaration_encode(&v->layout, c->data_sha256 ? c->data_sha256 : "", c->model_json ? c->model_json : "", &v->declaration_bytes, &v->declaration_size, err));
    v->shard_first = calloc(SHARDS_LIMIT, sizeof *v->shard_first);
    v->held = calloc(v->layout.block_count + 1, sizeof *v->held);
    CHECK(v->shard_first != NULL && v->held != NULL);
    return declaration_decode(&v->declaration, v->declaration_bytes, v->declaration_size, err);
}

static int identify(struct viaduct *v, struct err *err)
{
    const struct viaduct_config *c = &v->config;
    const char *run = c->run_dir ? c->run_dir : getenv("VIADUCT_RUN"), *site = c->site ? c->site : getenv("VIADUCT_SITE");
    uint32_t rank, incarnation;
    char path[700], who[80];
    if (!run || !site)
        return err_set(err, ERR_USAGE, "VIADUCT_RUN and VIADUCT_SITE are not set: a training process is started by the agent of a run");
    TRY(number_from("VIADUCT_RANK", c->rank, &rank, err));
    TRY(number_from("VIADUCT_INCARNATION", c->incarnation, &incarnation, err));
    TRY(rundir_open(&v->run, run, err));
    snprintf(v->site, sizeof v->site, "%s", site);
    int index = rundir_site(&v->run, site);
    if (index < 0)
        return err_set(err, ERR_USAGE, "%s has no site '%s'", v->run.path, site);
    snprintf(path, sizeof path, "%s/log/worker-%s-%u.jsonl", v->run.path, site, rank);
    snprintf(who, sizeof who, "worker %s/%u", site, rank);
    log_open(&v->log, path, who, v->run.job);
    v->hello = (struct msg_hello){.version_min = FRAME_VERSION, .version_max = FRAME_VERSION,
                                  .who = {.role = ROLE_WORKER, .site = (uint8_t)index, .index = (uint16_t)rank, .instance = incarnation}};
    snprintf(v->hello.job, sizeof v->hello.job, "%s", v->run.job);
    snprintf(v->hello.build, sizeof v->hello.build, "%s", VIADUCT_VERSION);
    snprintf(path, sizeof path, "%s/state", v->run.path);
    const char *wrong = failpoint_init(path);
    if (wrong)
        return err_set(err, ERR_USAGE, "%s", wrong);
    snprintf(path, sizeof path, "%s/state/tls", v->run.path);
    return identity_load(path, site, ROLE_WORKER, &v->identity, err);
}

/* A site of several hosts: its agents say which of them this is, and at which address the others reach it. */
static int open_port(struct viaduct *v, struct err *err)
{
    const char *index = getenv("VIADUCT_HOST_INDEX"), *host = getenv("VIADUCT_HOST_ADDRESS");
    char address[ADDRESS_LIMIT], *end;
    if (!index || !*index)
        return 0;
    unsigned long n = strtoul(index, &end, 10);
    if (*end || n >= HOSTS_LIMIT)
        return err_set(err, ERR_USAGE, "VIADUCT_HOST_INDEX is '%s', not the number of a host below %u", index, HOSTS_LIMIT);
    v->host_index = (uint16_t)n;
    host = host && *host ? host : "127.0.0.1";
    snprintf(address, sizeof address, strchr(host, ':') ? "tls:[%s]:0" : "tls:%s:0", host);
    struct coll_port_config c = {.address = address, .identity = v->identity, .job = v->run.job, .site_name = v->site, .site = v->hello.who.site,
                                 .rank = v->hello.who.index, .incarnation = v->hello.who.instance};
    if (coll_port_open(&c, &v->port, err) < 0)
        return err_wrap(err, "where ranks on other hosts shall reach this one");
    return 0;
}

static int start_loop(struct viaduct *v, struct err *err)
{
    TRY(loop_new(&v->loop, err));
    struct ps_peers_config peers = {.loop = v->loop, .run = &v->run, .identity = v->identity, .hello = &v->hello, .log = &v->log, .own_slot = UINT8_MAX, .other_host = v->host_index > 0, .opened = peer_opened,
                                    .message = peer_message, .arg = v};
    TRY(ps_peers_open(&peers, &v->peers, err));
    ps_peers_expect(v->peers, PS_QUEUE_MODELS * v->layout.elems * sizeof(float));
    struct ps_member_config member = {.loop = v->loop, .run = &v->run, .identity = v->identity, .hello = &v->hello, .log = &v->log, .fill_join = fill_join,
                                      .linked = on_linked, .message = on_message, .heartbeat = heartbeat, .over = on_over, .arg = v};
    TRY(ps_member_open(&member, &v->member, err));
    timer_start(v->loop, TICK_MS, TICK_MS, on_tick, v);
    /* Signals are for the trainer's own threads. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&v->thread, NULL, serve, v);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0)
        return err_errno(err, rc, "cannot start a thread");
    v->running = true;
    return 0;
}

static int join(struct viaduct *v, struct err *err)
{
    if (!v->config.init)
        return err_set(err, ERR_USAGE, "viaduct_config.init is not set: it gives every tensor its first value");
    TRY(identify(v, err));
    TRY(make_layout(v, err));
    TRY(open_port(v, err));
    failpoint(FAIL_WORKER_JOIN);
    TRY(start_loop(v, err));
    pthread_mutex_lock(&v->lock);
    while (v->end.code == 0 && !v->stopping && !client_is_member(v))
        pthread_cond_wait(&v->wake, &v->lock);
    int rc = v->end.code;
    if (rc < 0)
        *err = v->end;
    else if (v->stopping && !v->have_plan)
        rc = err_set(err, ERR_ABORTED, "the run ended before this rank could join");
    pthread_mutex_unlock(&v->lock);
    return rc;
}

int viaduct_join(const struct viaduct_config *config, struct viaduct **out, struct viaduct_error *error)
{
    struct err err = ERR_INIT;
    struct viaduct *v = calloc(1, sizeof *v);
    CHECK(v != NULL);
    v->config = *config;
    pthread_mutex_init(&v->lock, NULL);
    pthread_condattr_t monotonic;         /* deadlines, whatever becomes of the host's clock */
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&v->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    int rc = join(v, &err);
    if (rc < 0) {
        viaduct_leave(v);
        return client_error(error, &err);
    }
    log_info(&v->log, "joined as rank %u, incarnation %u, pid %d", v->hello.who.index, v->hello.who.instance, (int)getpid());
    *out = v;
    return 0;
}

/* What was queued goes out before the loop ends. */
static void say_goodbye(void *arg)
{
    struct viaduct *v = arg;
    struct msg_leave m = {.who = v->hello.who};
    struct msg_heartbeat last = {.who = v->hello.who};
    heartbeat(v, &last);
    pthread_mutex_lock(&v->lock);
    times_tell(v);
    pthread_mutex_unlock(&v->lock);
    ps_member_send(v->member, MSG_HEARTBEAT, 0, &last, NULL, 0);
    if (v->end.code == 0 && v->step.finished)
        ps_member_send(v->member, MSG_LEAVE, 0, &m, NULL, 0);
    timer_start(v->loop, 20, 0, (void (*)(void *))loop_stop, v->loop);
}

void viaduct_leave(struct viaduct *v)
{
    if (!v)
        return;
    if (v->running) {
        while (loop_post(v->loop, say_goodbye, v) < 0)
            nanosleep(&(struct timespec){0, 1000000}, NULL);
        pthread_join(v->thread, NULL);
    }
    ps_disk_close(v->disk);
    if (v->loop)
        loop_free(v->loop);
    ps_member_close(v->member);
    ps_peers_close(v->peers);
    rounds_forget(v);
    if (v->coll)
        coll_close(v->coll);
    coll_port_close(v->port);
    ps_host_close(v->host);
    ps_ram_close(v->ram);
    identity_free(v->identity);
    declaration_fini(&v->declaration);
    layout_fini(&v->layout);
    free(v->declaration_bytes);
    free(v->shard_first);
    free(v->held);
    free(v->seed);
    free(v->scratch);
    log_close(&v->log);
    pthread_mutex_destroy(&v->lock);
    pthread_cond_destroy(&v->wake);
    free(v);
}

/* Owned by the post: its caller waits for a while only. */
struct failure { struct viaduct *v; int code; uint64_t step; char text[TEXT_LIMIT]; };

static void send_failure(void *arg)
{
    struct failure *f = arg;
    tell_failure(f->v, f->code, f->step, f->text);
    free(f);
}

void viaduct_fail(struct viaduct *v, int code, const char *text)
{
    struct failure *f = calloc(1, sizeof *f);
    CHECK(f != NULL);
    *f = (struct failure){.v = v, .code = code, .step = v->step.step};
    snprintf(f->text, sizeof f->text, "%.*s", (int)sizeof f->text - 1, text);
    if (loop_post(v->loop, send_failure, f) < 0) {
        free(f);
        return;
    }
    pthread_mutex_lock(&v->lock);
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += FLUSH_MS / 1000;
    until.tv_nsec += FLUSH_MS % 1000 * 1000000l;
    if (until.tv_nsec >= 1000000000l) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000l;
    }
    while (!v->stopping && pthread_cond_timedwait(&v->wake, &v->lock, &until) == 0)   /* the coordinator answers with STOP */
        ;
    pthread_mutex_unlock(&v->lock);
}

uint64_t viaduct_elements(const struct viaduct *v) { return v->layout.elems; }
uint64_t viaduct_offset(const struct viaduct *v, uint32_t tensor) { return v->layout.tensors[tensor].offset; }
uint32_t viaduct_lanes(const struct viaduct *v) { return v->plan.lanes; }
uint32_t viaduct_batch(const struct viaduct *v) { return v->plan.batch; }
uint64_t viaduct_sample(const struct viaduct *v, uint64_t position) { return sample_at(v->plan.seed, v->plan.samples_per_pass, v->step.pass, position); }
