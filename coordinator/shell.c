/* The core's actions, done in their order: what is logged before it is shown stands in the list. */
#include "coordinator/shell.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define SYNC_ENTRIES 32
#define FLUSH_MS 300                      /* what was queued for the links goes out */

bool shell_same(struct process_id a, struct process_id b)
{
    return a.role == b.role && a.site == b.site && a.index == b.index && a.instance == b.instance;
}

struct member *shell_member(struct shell *s, struct process_id who)
{
    for (unsigned i = 0; i < MEMBERS_MAX; i++)
        if (s->member[i].link && s->member[i].joined && shell_same(s->member[i].who, who))
            return &s->member[i];
    return NULL;
}

/* ---- the end ---- */
static void on_end_timer(void *arg) { loop_stop(((struct shell *)arg)->loop); }

void shell_end(struct shell *s, int code, uint64_t after_ms)
{
    if (s->ending)
        return;
    s->ending = true;
    s->exit_code = code;
    timer_start(s->loop, after_ms, 0, on_end_timer, s);
}

void shell_error(struct shell *s, int code, const char *text)
{
    s->error_code = code;
    snprintf(s->error, sizeof s->error, "%.*s", (int)sizeof s->error - 1, text);
}

static void fatal(struct shell *s, const struct err *err)
{
    log_error(&s->log, "%s", err->text);
    shell_error(s, err->code, err->text);
    s->superseded = err->code == ERR_CONFLICT;
    shell_end(s, err_exit_code(err->code), 0);
}

/* ---- messages out ---- */
static void send_to(struct shell *s, struct member *m, enum msg_type type, const void *msg, const struct bytes *payload)
{
    struct err err = ERR_INIT;
    if (m && link_send(m->link, type, core_view(s->core)->number, msg, payload, payload && payload->size > 0, &err) < 0)
        log_warn(&s->log, "%s", err.text);
}

/* to.role NONE: every joined process. */
static void send_joined(struct shell *s, struct process_id to, enum msg_type type, const void *msg, const struct bytes *payload)
{
    for (unsigned i = 0; i < MEMBERS_MAX; i++) {
        struct member *m = &s->member[i];
        if (m->link && m->joined && (to.role == ROLE_NONE || shell_same(m->who, to)))
            send_to(s, m, type, msg, payload);
    }
}

static void send_view(struct shell *s, struct process_id to)
{
    struct msg_view *v = calloc(1, sizeof *v);
    CHECK(v != NULL);
    v->view = *core_view(s->core);
    for (unsigned i = 0; i < v->view.slot_count && !core_plan(s->core)->embedded; i++) {
        if (s->address[i].instance != v->view.slot[i].instance)
            continue;
        memcpy(v->address_unix[i], s->address[i].address_unix, ADDRESS_LIMIT);
        memcpy(v->address_tls[i], s->address[i].address_tls, ADDRESS_LIMIT);
    }
    send_joined(s, to, MSG_VIEW, v, NULL);
    free(v);
}

static void send_manifest(struct shell *s, const struct checkpoint_entry *e)
{
    struct err err = ERR_INIT;
    char *text;
    size_t size;
    uint8_t digest[SHA256_BYTES];
    struct manifest_source from = {&s->history, core_plan(s->core), &s->declaration, s->job.resolved_yaml, s->run.job};
    if (!s->declaration_bytes)
        return;
    if (history_manifest(&from, e, &text, &size, &err) < 0) {
        fatal(s, &err);
        return;
    }
    sha256_of(text, size, digest);
    hex_of(digest, sizeof digest, s->manifest.sha256);
    s->manifest.step = e->step;
    s->manifest.generation = e->generation;
    struct msg_manifest m = {.generation = e->generation, .step = e->step, .site_mask = e->site_mask};
    struct bytes payload = {text, size};
    for (unsigned i = 0; i < MEMBERS_MAX; i++)
        if (s->member[i].link && s->member[i].joined && s->member[i].who.role == ROLE_AGENT && s->member[i].who.index == 0)
            send_to(s, &s->member[i], MSG_MANIFEST, &m, &payload);
    free(text);
}

/* ---- the log ---- */
static void tell_view(struct shell *s, const struct view *v)
{
    char text[TEXT_LIMIT];
    size_t n = (size_t)snprintf(text, sizeof text, "view %u, generation %u, base %" PRIu64 ", in-sync copies:", v->number, v->generation, v->base);
    for (unsigned k = 0; k < v->shard_count && n < sizeof text - 60; k++) {
        n += (size_t)snprintf(text + n, sizeof text - n, " shard %u:", k);
        for (unsigned i = 0; i < v->shard[k].copy_count && n < sizeof text - 40; i++)
            if (v->shard[k].copy[i].role == COPY_PRIMARY || v->shard[k].copy[i].role == COPY_SYNC)
                n += (size_t)snprintf(text + n, sizeof text - n, " %s%u", v->shard[k].copy[i].role == COPY_PRIMARY ? "*" : "",
                                      v->shard[k].copy[i].slot);
    }
    shell_event(s, "view", "coordinator", core_round(s->core), "%s", text);
}

/* A newer generation: what was committed above its base is void. */
static void rolled_back(struct shell *s, uint64_t lost)
{
    struct err err = ERR_INIT;
    s->scrape.rollbacks++;
    s->scrape.lost_steps += (double)lost;
    if (lost)
        restarts_lost(s->restarts, lost);
    if (shell_metrics_rewrite(s, &err) < 0)
        log_warn(&s->log, "%s", err.text);
}

static void keep(struct shell *s, const struct log_entry *e)
{
    uint64_t before = s->history.count;
    uint32_t generation = s->history.generation;
    history_entry(&s->history, e, s->seconds_before + (double)(loop_now_ms(s->loop) - s->started_ms) / 1e3);
    if (e->kind != LOG_VIEW)
        return;
    if (generation && s->history.generation != generation)
        rolled_back(s, before > s->history.count ? before - s->history.count : 0);
    tell_view(s, &e->u.view);
}

static bool append(struct shell *s, const struct log_entry *e, bool sync)
{
    struct err err = ERR_INIT;
    uint64_t position = 0;
    bool with_blob = e->kind == LOG_JOB && e->u.job.layout_hash != 0;
    failpoint(FAIL_COORDINATOR_APPEND);
    uint64_t before_ns = clock_now_ns();
    int rc = decision_log_sqlite.append(s->db, e, with_blob ? s->declaration_bytes : NULL, with_blob ? s->declaration_size : 0, sync, &position, &err);
    if (rc == 0 && position != e->position)
        rc = err_set(&err, ERR_CONFLICT, "the decision log is at %" PRIu64 " where %" PRIu64 " was due: another coordinator wrote to it", position, e->position);
    if (rc < 0) {
        fatal(s, &err);
        return false;
    }
    if (sync)
        scrape_time(&s->scrape, TIMING_LOG, (double)(clock_now_ns() - before_ns) / 1e9);
    s->unsynced = sync ? 0 : s->unsynced + 1;
    keep(s, e);
    if (e->kind == LOG_COMMIT)
        failpoint(FAIL_COORDINATOR_COMMIT);
    else if (e->kind == LOG_VIEW)
        failpoint(FAIL_COORDINATOR_VIEW);
    else if (e->kind == LOG_CHECKPOINT)
        failpoint(FAIL_COORDINATOR_CHECKPOINT);
    return true;
}

void shell_sync(void *arg)
{
    struct shell *s = arg;
    struct err err = ERR_INIT;
    uint64_t below;
    if (!s->unsynced || s->ending)
        return;
    uint64_t before_ns = clock_now_ns();
    if (decision_log_sqlite.sync(s->db, &below, &err) < 0) {
        fatal(s, &err);
        return;
    }
    scrape_time(&s->scrape, TIMING_LOG, (double)(clock_now_ns() - before_ns) / 1e9);
    s->unsynced = 0;
    core_on_synced(s->core, loop_now_ms(s->loop), below, s->out);
    shell_run(s);
}

/* ---- actions ---- */
static void on_committed(struct shell *s, const struct record *r)
{
    uint64_t now = loop_now_ms(s->loop);
    shell_metrics_committed(s, r->round);
    shell_scrape_committed(s, r);
    if (!s->first_commit_ms)
        s->first_commit_ms = now;
    else
        s->samples_here += r->totals.samples;
    s->last_commit_ms = now;
}

static void on_durable(struct shell *s, const struct checkpoint_entry *e)
{
    unsigned site = 0;
    while (site + 1 < s->job.spec.site_count && !(e->site_mask >> site & 1))
        site++;
    s->report.have_checkpoint = s->report_due = true;   /* told soon: the next moment may be our last */
    s->report.checkpoint_step = e->step;
    s->report.checkpoint_sites = e->site_mask;
    snprintf(s->report.checkpoint_path, sizeof s->report.checkpoint_path, "ckpt/%s/step-%08llu", s->job.spec.sites[site].name, (unsigned long long)e->step);
    shell_event(s, "checkpoint", "coordinator", e->step, "durable at %d of %u sites", __builtin_popcountll(e->site_mask), s->job.spec.site_count);
}

static void on_core_event(struct shell *s, const struct core_action *a)
{
    char who[120];
    struct process_id id = a->u.event.who;
    if (id.role == ROLE_WORKER && s->exited.role == ROLE_WORKER && id.site == s->exited.site && id.instance == s->exited.instance)
        id.index = s->exited.index;       /* the core counts by gang; this rank is the one that ended */
    shell_who(s, id, who);
    shell_event(s, a->u.event.kind, who, a->u.event.step, "%s", a->u.event.text);
    if (strcmp(a->u.event.kind, "dead") == 0 || strcmp(a->u.event.kind, "export failed") == 0) {
        restarts_died(s->restarts, who, a->u.event.step, a->u.event.text, loop_now_ms(s->loop));
        s->report_due = true;
    }
}

static void on_fail(struct shell *s, const char *text)
{
    shell_error(s, core_failure(s->core) ? core_failure(s->core) : ERR_JOB, text);   /* a failure that was logged by an earlier coordinator has the text alone */
    shell_end(s, s->failed_code ? s->failed_code : err_exit_code(ERR_JOB), FLUSH_MS);
}

static void send_stop(struct shell *s, const struct core_action *a)
{
    for (unsigned i = 0; i < MEMBERS_MAX; i++) {
        struct member *m = &s->member[i];
        if (m->link && m->joined && (a->to.role == ROLE_NONE || m->who.site == a->to.site))
            send_to(s, m, MSG_STOP, &a->u.stop, NULL);
    }
}

static bool act(struct shell *s, const struct core_action *a)
{
    struct bytes declaration = {s->declaration_bytes, s->declaration_size};
    struct member *m;
    switch (a->kind) {
    case CORE_APPEND:
    case CORE_APPEND_SYNC:
        return append(s, &a->u.entry, a->kind == CORE_APPEND_SYNC);
    case CORE_SEND_VIEW: send_view(s, a->to); break;
    case CORE_SEND_PLAN: send_joined(s, a->to, MSG_PLAN, core_plan(s->core), &declaration); break;
    case CORE_SEND_COMMIT: send_to(s, shell_member(s, a->to), MSG_COMMIT, &a->u.commit, NULL); break;
    case CORE_SEND_SUM: send_to(s, shell_member(s, a->to), MSG_SUM, &a->u.sum, NULL); break;
    case CORE_SEND_MANIFEST: send_manifest(s, &a->u.checkpoint); break;
    case CORE_SEND_LAUNCH: send_to(s, shell_member(s, a->to), MSG_LAUNCH, &a->u.launch, NULL); break;
    case CORE_SEND_STOP:
        if (a->to.role == ROLE_NONE)
            s->end_why = a->u.stop.why;
        send_stop(s, a);
        break;
    case CORE_EVENT: on_core_event(s, a); break;
    case CORE_COMMITTED: on_committed(s, &a->u.record); break;
    case CORE_DURABLE: on_durable(s, &a->u.checkpoint); break;
    case CORE_DISOWN:
        m = shell_member(s, a->to);
        if (m)
            link_close(m->link);
        break;
    case CORE_FAIL: on_fail(s, a->u.text); break;
    case CORE_DONE_RUN: shell_end(s, 0, FLUSH_MS / 3); break;
    }
    return true;
}

void shell_run(struct shell *s)
{
    for (unsigned i = 0; i < s->out->count; i++)
        if (!act(s, &s->out->action[i]))
            return;
    if (s->unsynced >= SYNC_ENTRIES)
        shell_sync(s);
}

void shell_stop_path(const struct shell *s, char out[700]) { snprintf(out, 700, "%s/state/stop", s->run.path); }

void shell_stop_asked(struct shell *s)
{
    char path[700];
    struct err err = ERR_INIT;
    if (s->ending)
        return;
    shell_stop_path(s, path);
    if (fs_publish_file(&fs_real, path, "", 0, &err) < 0)
        log_warn(&s->log, "should this coordinator die, the next one would not stop the run: %s", err.text);
    s->report_due = true;
    shell_event(s, "stop asked", "coordinator", core_round(s->core), "a checkpoint, then the end");
    core_on_stop(s->core, loop_now_ms(s->loop), s->out);
    shell_run(s);
}

void shell_tick(void *arg)
{
    struct shell *s = arg;
    if (s->ending)
        return;
    core_on_tick(s->core, loop_now_ms(s->loop), s->out);
    shell_run(s);
    shell_metrics_write(s, false);
    shell_sample(s);
    if (core_phase(s->core) != CORE_RECOVERING)
        restarts_back(s->restarts, "coordinator", loop_now_ms(s->loop));
    if (core_phase(s->core) != CORE_RECOVERING && s->ended.who)
        restarts_back(s->restarts, s->ended.who, loop_now_ms(s->loop));
    if (s->report_due && !s->ending)
        shell_report(s, "running");
}
