/* Links and messages in, the core's actions out, in their order. */
#include "coordinator/shell.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define SYNC_ENTRIES 32
#define FLUSH_MS 300                      /* what was queued for the links goes out */
#define WINDOW_MS 5000

static void who_text(const struct shell *s, struct process_id who, char out[120])
{
    static const char *const words[] = {"", "coordinator", "agent", "worker", "ps", "export", "cli"};
    const char *site = who.site < s->job.spec.site_count ? s->job.spec.sites[who.site].name : "?";
    if (who.role == ROLE_NONE || who.role >= ARRAY_LEN(words))
        snprintf(out, 120, "coordinator");
    else
        snprintf(out, 120, "%s %s/%u", words[who.role], site, who.index);
}

static bool same_process(struct process_id a, struct process_id b)
{
    return a.role == b.role && a.site == b.site && a.index == b.index && a.instance == b.instance;
}

static uint64_t now_of(struct shell *s) { return loop_now_ms(s->loop); }

void shell_event(struct shell *s, const char *kind, const char *who, uint64_t step, const char *fmt, ...)
{
    char text[TEXT_LIMIT];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    report_event(s->events, kind, who, step, text);
    log_info(&s->log, "%s: %s (step %llu): %s", kind, who, (unsigned long long)step, text);
}

static void on_end_timer(void *arg) { loop_stop(((struct shell *)arg)->loop); }

void shell_end(struct shell *s, int code, uint64_t after_ms)
{
    if (s->ending)
        return;
    s->ending = true;
    s->exit_code = code;
    timer_start(s->loop, after_ms, 0, on_end_timer, s);
}

static void fatal(struct shell *s, const struct err *err)
{
    fprintf(stderr, "viaduct: coordinator: %s\n", err->text);
    log_error(&s->log, "%s", err->text);
    shell_end(s, err_exit_code(err->code), 0);
}

/* ---- members ---- */
static struct member *member_of(struct shell *s, const struct link *link)
{
    for (unsigned i = 0; i < MEMBERS_MAX; i++)
        if (s->member[i].link == link)
            return &s->member[i];
    return NULL;
}

static struct member *joined(struct shell *s, struct process_id who)
{
    for (unsigned i = 0; i < MEMBERS_MAX; i++)
        if (s->member[i].link && s->member[i].joined && same_process(s->member[i].who, who))
            return &s->member[i];
    return NULL;
}

static void send_to(struct shell *s, struct member *m, enum msg_type type, const void *msg, const struct bytes *payload)
{
    struct err err = ERR_INIT;
    if (m && link_send(m->link, type, core_view(s->core)->number, msg, payload, payload && payload->size > 0, &err) < 0)
        log_warn(&s->log, "%s", err.text);
}

/* to.role NONE: every joined process; role AGENT without more: every agent. */
static void send_joined(struct shell *s, struct process_id to, bool agents_only, enum msg_type type, const void *msg, const struct bytes *payload)
{
    for (unsigned i = 0; i < MEMBERS_MAX; i++) {
        struct member *m = &s->member[i];
        if (m->link && m->joined && (to.role == ROLE_NONE || same_process(m->who, to)) && (!agents_only || m->who.role == ROLE_AGENT))
            send_to(s, m, type, msg, payload);
    }
}

static void send_view(struct shell *s, struct process_id to)
{
    struct msg_view *v = calloc(1, sizeof *v);
    CHECK(v != NULL);
    v->view = *core_view(s->core);
    for (unsigned i = 0; i < MEMBERS_MAX; i++) {
        const struct member *m = &s->member[i];
        bool holds = m->link && m->joined && m->who.role == ROLE_PS && m->who.index < v->view.slot_count && v->view.slot[m->who.index].instance == m->who.instance;
        if (!holds)
            continue;
        memcpy(v->address_unix[m->who.index], m->address_unix, sizeof m->address_unix);
        memcpy(v->address_tls[m->who.index], m->address_tls, sizeof m->address_tls);
    }
    send_joined(s, to, false, MSG_VIEW, v, NULL);
    free(v);
}

/* ---- the log ---- */
static void on_view_logged(struct shell *s, const struct view *v)
{
    char path[700];
    struct err err = ERR_INIT;
    if (v->generation != s->generation && s->generation != 0) {
        if (s->history.count > v->base)
            restarts_lost(s->restarts, s->history.count - v->base);
        history_cut(&s->history, v->base);
        snprintf(path, sizeof path, "%s/metrics.jsonl", s->run.path);
        if (history_write_metrics(&s->history, path, &s->metrics, &err) < 0)
            log_warn(&s->log, "%s", err.text);
    }
    s->generation = v->generation;
    char text[TEXT_LIMIT];
    size_t n = (size_t)snprintf(text, sizeof text, "view %u, generation %u, base %" PRIu64 ", in-sync copies:", v->number, v->generation, v->base);
    for (unsigned k = 0; k < v->shard_count && n < sizeof text - 60; k++) {
        n += (size_t)snprintf(text + n, sizeof text - n, " shard %u:", k);
        for (unsigned i = 0; i < v->shard[k].copy_count && n < sizeof text - 40; i++)
            if (v->shard[k].copy[i].role == COPY_PRIMARY || v->shard[k].copy[i].role == COPY_SYNC)
                n += (size_t)snprintf(text + n, sizeof text - n, " %s%u", v->shard[k].copy[i].role == COPY_PRIMARY ? "*" : "", v->shard[k].copy[i].slot);
    }
    shell_event(s, "view", "coordinator", core_round(s->core), "%s", text);
}

static bool append(struct shell *s, const struct log_entry *e, bool sync)
{
    struct err err = ERR_INIT;
    uint64_t position = 0;
    bool with_blob = e->kind == LOG_JOB && e->u.job.layout_hash != 0;
    failpoint(FAIL_COORDINATOR_APPEND);
    int rc = decision_log_sqlite.append(s->db, e, with_blob ? s->declaration_bytes : NULL, with_blob ? s->declaration_size : 0, sync, &position, &err);
    if (rc == 0 && position != e->position)
        rc = err_set(&err, ERR_CONFLICT, "the decision log is at %" PRIu64 " where %" PRIu64 " was due: another coordinator wrote to it", position, e->position);
    if (rc < 0) {
        fatal(s, &err);
        return false;
    }
    s->unsynced = sync ? 0 : s->unsynced + 1;
    if (e->kind == LOG_COMMIT) {
        history_commit(&s->history, &e->u.record, (double)(now_of(s) - s->started_ms) / 1e3);
        failpoint(FAIL_COORDINATOR_COMMIT);
    } else if (e->kind == LOG_VIEW) {
        on_view_logged(s, &e->u.view);
        failpoint(FAIL_COORDINATOR_VIEW);
    } else if (e->kind == LOG_CHECKPOINT) {
        history_checkpoint(&s->history, e->u.checkpoint.step, e->position);
        failpoint(FAIL_COORDINATOR_CHECKPOINT);
    }
    return true;
}

void shell_sync(void *arg)
{
    struct shell *s = arg;
    struct err err = ERR_INIT;
    uint64_t below;
    if (!s->unsynced || s->ending)
        return;
    if (decision_log_sqlite.sync(s->db, &below, &err) < 0) {
        fatal(s, &err);
        return;
    }
    s->unsynced = 0;
    core_on_synced(s->core, now_of(s), below, s->out);
    shell_run(s, now_of(s));
}

/* ---- actions ---- */
static void send_manifest(struct shell *s, const struct checkpoint_entry *e)
{
    struct err err = ERR_INIT;
    char *text;
    size_t size;
    struct manifest_source from = {&s->history, core_plan(s->core), &s->declaration, &s->job, s->run.job};
    if (!s->declaration_bytes)
        return;
    if (history_manifest(&from, e, &text, &size, &err) < 0) {
        fatal(s, &err);
        return;
    }
    uint8_t digest[SHA256_BYTES];
    char hex[SHA256_HEX];
    sha256_of(text, size, digest);
    hex_of(digest, sizeof digest, hex);
    snprintf(s->last_published, sizeof s->last_published, "%s", hex);
    struct msg_manifest m = {.generation = e->generation, .step = e->step, .site_mask = e->site_mask};
    struct bytes payload = {text, size};
    send_joined(s, (struct process_id){0}, true, MSG_MANIFEST, &m, &payload);
    free(text);
}

static void on_committed(struct shell *s, const struct record *r)
{
    uint64_t now = now_of(s);
    report_metric(s->metrics, r->round + 1, r->pass + 1, r->totals.loss_sum / (double)(r->totals.samples ? r->totals.samples : 1), r->lr, r->totals.samples,
                  (double)(now - s->started_ms) / 1e3);
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
    s->report.have_checkpoint = true;
    s->report.checkpoint_step = e->step;
    s->report.checkpoint_sites = e->site_mask;
    snprintf(s->report.checkpoint_path, sizeof s->report.checkpoint_path, "ckpt/%s/step-%08llu", s->job.spec.sites[site].name, (unsigned long long)e->step);
    shell_event(s, "checkpoint", "coordinator", e->step, "durable at %d sites", __builtin_popcountll(e->site_mask));
}

static void on_core_event(struct shell *s, const struct core_action *a)
{
    char who[120];
    who_text(s, a->u.event.who, who);
    shell_event(s, a->u.event.kind, who, a->u.event.step, "%s", a->u.event.text);
    if (strcmp(a->u.event.kind, "dead") == 0 || strcmp(a->u.event.kind, "export failed") == 0)
        restarts_died(s->restarts, who, a->u.event.step, a->u.event.text, now_of(s));
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
    case CORE_SEND_PLAN: send_joined(s, a->to, false, MSG_PLAN, core_plan(s->core), &declaration); break;
    case CORE_SEND_COMMIT: send_to(s, joined(s, a->to), MSG_COMMIT, &a->u.commit, NULL); break;
    case CORE_SEND_SUM: send_to(s, joined(s, a->to), MSG_SUM, &a->u.sum, NULL); break;
    case CORE_SEND_MANIFEST: send_manifest(s, &a->u.checkpoint); break;
    case CORE_SEND_LAUNCH: send_to(s, joined(s, a->to), MSG_LAUNCH, &a->u.launch, NULL); break;
    case CORE_SEND_STOP:
        for (unsigned i = 0; i < MEMBERS_MAX; i++)
            if (s->member[i].link && s->member[i].joined)
                send_to(s, &s->member[i], MSG_STOP, &a->u.stop, NULL);
        break;
    case CORE_EVENT: on_core_event(s, a); break;
    case CORE_COMMITTED: on_committed(s, &a->u.record); break;
    case CORE_DURABLE: on_durable(s, &a->u.checkpoint); break;
    case CORE_DISOWN:
        m = joined(s, a->to);
        if (m)
            link_close(m->link);
        break;
    case CORE_FAIL:
        snprintf(s->error, sizeof s->error, "%s", a->u.text);
        shell_event(s, "failed", "coordinator", core_round(s->core), "%s", a->u.text);
        fprintf(stderr, "viaduct: coordinator: %s\n", a->u.text);
        shell_end(s, s->failed_code ? s->failed_code : 3, FLUSH_MS);
        break;
    case CORE_DONE_RUN:
        shell_end(s, 0, FLUSH_MS / 3);
        break;
    }
    return true;
}

void shell_run(struct shell *s, uint64_t now_ms)
{
    (void)now_ms;
    for (unsigned i = 0; i < s->out->count; i++)
        if (!act(s, &s->out->action[i]))
            return;
    if (s->unsynced >= SYNC_ENTRIES)
        shell_sync(s);
}

void shell_stop_asked(struct shell *s)
{
    shell_event(s, "stop asked", "coordinator", core_round(s->core), "a checkpoint, then the end");
    core_on_stop(s->core, now_of(s), s->out);
    shell_run(s, now_of(s));
}

void shell_tick(void *arg)
{
    struct shell *s = arg;
    if (s->ending)
        return;
    core_on_tick(s->core, now_of(s), s->out);
    shell_run(s, now_of(s));
}

/* ---- status ---- */
static uint64_t wan_bytes(const struct shell *s)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < s->wan_count; i++)
        sum += s->wan[i].bytes;
    return sum;
}

static void rates(struct shell *s, double *samples, double *wan)
{
    uint64_t now = now_of(s), total = s->samples_here, bytes = wan_bytes(s);
    while (s->window_count > 1 && now - s->window[0].ms > WINDOW_MS) {
        memmove(s->window, s->window + 1, sizeof s->window - sizeof s->window[0]);
        s->window_count--;
    }
    bool due = s->window_count == 0 || now - s->window[s->window_count - 1].ms >= 100;
    if (due && s->window_count < ARRAY_LEN(s->window)) {
        s->window[s->window_count].ms = now;
        s->window[s->window_count].samples = total;
        s->window[s->window_count++].wan = bytes;
    }
    double seconds = (double)(now - s->window[0].ms) / 1e3;
    *samples = seconds > 0.05 ? (double)(total - s->window[0].samples) / seconds : 0;
    *wan = seconds > 0.05 ? (double)(bytes - s->window[0].wan) / seconds : 0;
}

static const char *phase_word(const struct shell *s)
{
    static const char *const words[] = {"starting", "running", "finishing", "stopping", "done", "failed"};
    return core_phase(s->core) == CORE_RECOVERING && core_round(s->core) > 0 ? "recovering" : words[core_phase(s->core)];
}

static size_t status_text(struct shell *s, char *out, size_t size)
{
    const struct msg_plan *p = core_plan(s->core);
    const struct view *v = core_view(s->core);
    uint64_t round = core_round(s->core), last = s->history.count;
    double rate, wan, eta = -1;
    rates(s, &rate, &wan);
    if (rate > 0 && p->rounds >= round)
        eta = (double)(p->rounds - round) * p->batch / rate;
    size_t n = (size_t)snprintf(out, size, "{\"phase\":\"%s\",\"step\":%" PRIu64 ",\"steps\":%" PRIu64 ",\"samples_per_second\":%.1f,\"wan_bytes_per_second\":%.0f,"
                                "\"view\":%u,\"generation\":%u", phase_word(s), round, p->rounds, rate, wan, v->number, v->generation);
    if (last > 0 && s->history.round[last - 1].samples)
        n += (size_t)snprintf(out + n, size - n, ",\"loss\":%.6f,\"lr\":%.6g,\"epoch\":%u", s->history.round[last - 1].loss_sum / (double)s->history.round[last - 1].samples,
                              s->history.round[last - 1].lr, s->history.round[last - 1].pass + 1);
    if (eta >= 0)
        n += (size_t)snprintf(out + n, size - n, ",\"eta_seconds\":%.1f", eta);
    n += (size_t)snprintf(out + n, size - n, ",\"sites\":[");
    for (unsigned i = 0; i < s->job.spec.site_count; i++) {
        unsigned up = 0, shards = 0, shards_up = 0;
        for (unsigned k = 0; k < MEMBERS_MAX; k++) {
            const struct member *m = &s->member[k];
            up += m->link && m->joined && m->who.role == ROLE_WORKER && m->who.site == i && v->gang[i].incarnation == m->who.instance;
            shards_up += m->link && m->joined && m->who.role == ROLE_PS && m->who.site == i;
        }
        for (unsigned k = 0; k < v->slot_count && !p->embedded; k++)
            shards += v->slot[k].site == i;
        n += (size_t)snprintf(out + n, size - n, "%s{\"name\":\"%s\",\"ranks\":%u,\"up\":%u,\"shards\":%u,\"shards_up\":%u}", i ? "," : "", s->job.spec.sites[i].name,
                              v->gang[i].ranks, up, shards, shards_up);
    }
    return n + (size_t)snprintf(out + n, size - n, "]}");
}

/* ---- messages ---- */
static void keep_wan(struct shell *s, struct process_id who, uint64_t bytes)
{
    for (unsigned i = 0; i < s->wan_count; i++)
        if (same_process(s->wan[i].who, who)) {
            s->wan[i].bytes = MAX(s->wan[i].bytes, bytes);
            return;
        }
    if (s->wan_count == s->wan_room) {
        s->wan_room = s->wan_room ? s->wan_room * 2 : 64;
        s->wan = realloc(s->wan, s->wan_room * sizeof *s->wan);
        CHECK(s->wan != NULL);
    }
    s->wan[s->wan_count++] = (struct wan){who, bytes};
}

static int take_declaration(struct shell *s, const struct msg_join *m, const uint8_t *payload, size_t size, struct err *err)
{
    struct declaration d;
    TRY(declaration_decode(&d, payload, size, err));
    if (layout_hash(&d.layout) != m->layout_hash || (s->declaration_bytes && strcmp(d.data_sha256, s->declaration.data_sha256) != 0)) {
        char who[120];
        who_text(s, m->who, who);
        bool data = layout_hash(&d.layout) == m->layout_hash;
        declaration_fini(&d);
        return err_set(err, ERR_JOB, data ? "%s reads other training data than the run began with: every site needs the same files" :
                       "%s declares a model that does not fit its hash", who);
    }
    if (s->declaration_bytes) {
        declaration_fini(&d);
        return 0;
    }
    s->declaration_bytes = malloc(size);
    CHECK(s->declaration_bytes != NULL);
    memcpy(s->declaration_bytes, payload, size);
    s->declaration_size = size;
    s->declaration = d;
    return 0;
}

static void fail_job(struct shell *s, const struct process_id who, const struct err *err)
{
    struct msg_failed m = {.who = who, .code = err->code};
    snprintf(m.text, sizeof m.text, "%.*s", (int)sizeof m.text - 1, err->text);
    s->failed_code = err_exit_code(err->code);
    core_on_failed(s->core, now_of(s), &m, s->out);
}

static bool on_join(struct shell *s, struct member *me, const struct msg_join *m, const uint8_t *payload, size_t size)
{
    struct err err = ERR_INIT;
    char who[120];
    if (!same_process(m->who, link_peer(me->link)->who) || m->who.site >= s->job.spec.site_count) {
        log_warn(&s->log, "a process joins as another than it said hello: link closed");
        link_close(me->link);
        return false;
    }
    if (m->who.role == ROLE_WORKER && take_declaration(s, m, payload, size, &err) < 0) {
        fail_job(s, m->who, &err);
        return true;
    }
    struct member *old = joined(s, m->who);
    if (old && old != me) {               /* a broken link that nobody has noticed yet */
        struct link *stale = old->link;
        *old = (struct member){0};
        link_close(stale);
    }
    me->who = m->who;
    me->joined = true;
    memcpy(me->address_unix, m->address_unix, sizeof me->address_unix);
    memcpy(me->address_tls, m->address_tls, sizeof me->address_tls);
    who_text(s, m->who, who);
    restarts_back(s->restarts, who, now_of(s));
    core_on_join(s->core, now_of(s), m, s->out);
    return true;
}

static void on_exited(struct shell *s, struct msg_exited *m)
{
    char text[TEXT_LIMIT];
    snprintf(text, sizeof text, "%.*s", (int)sizeof text - 1, m->text);
    if (m->signal > 0)
        snprintf(m->text, sizeof m->text, "killed by signal %d", m->signal);
    else if (!text[0])
        snprintf(m->text, sizeof m->text, m->code >= 0 ? "ended with code %d" : "ended while no agent watched", m->code);
    core_on_exited(s->core, now_of(s), m, s->out);
}

static void on_published(struct shell *s, const struct msg_published *m)
{
    const char *site = m->site < s->job.spec.site_count ? s->job.spec.sites[m->site].name : "?";
    if (m->ok)
        shell_event(s, "published", site, m->step, "%s wrote its copy, manifest sha256 %s", site, s->last_published);
    core_on_published(s->core, now_of(s), m, s->out);
}

static void answer_status(struct shell *s, struct link *link)
{
    char text[8192];
    struct err err = ERR_INIT;
    struct msg_statusreply reply = {.phase = (uint8_t)core_phase(s->core)};
    struct bytes payload = {text, status_text(s, text, sizeof text)};
    if (link_send(link, MSG_STATUSREPLY, 0, &reply, &payload, 1, &err) < 0)
        log_warn(&s->log, "%s", err.text);
}

/* From a process that has joined; false: nothing for the core. */
static bool from_member(struct shell *s, struct member *me, enum msg_type type, void *m, const uint8_t *payload, size_t size)
{
    uint64_t now = now_of(s);
    switch (type) {
    case MSG_HEARTBEAT: core_on_heartbeat(s->core, now, m, s->out); return true;
    case MSG_LEAVE: core_on_leave(s->core, now, m, s->out); return true;
    case MSG_PREPARED:
        if (size != ((struct msg_prepared *)m)->norm_count * sizeof(double))
            return false;
        core_on_prepared(s->core, now, me->who, m, (const double *)(const void *)payload, s->out);
        return true;
    case MSG_PART: core_on_part(s->core, now, m, s->out); return true;
    case MSG_FAILED:
        s->failed_code = err_exit_code(((struct msg_failed *)m)->code);
        core_on_failed(s->core, now, m, s->out);
        return true;
    case MSG_EXITED:
        if (me->who.role != ROLE_AGENT)
            return false;
        on_exited(s, m);
        return true;
    case MSG_PUBLISHED:
        if (me->who.role != ROLE_AGENT)
            return false;
        on_published(s, m);
        return true;
    default: return false;
    }
}

static void on_opened(void *arg, struct link *link, const struct msg_hello *peer)
{
    struct shell *s = arg;
    for (unsigned i = 0; i < MEMBERS_MAX; i++)
        if (!s->member[i].link) {
            s->member[i] = (struct member){.link = link, .who = peer->who};
            return;
        }
    log_warn(&s->log, "more than %d links: one is refused", MEMBERS_MAX);
    link_close(link);
}

static void on_message(void *arg, struct link *link, enum msg_type type, void *m, const uint8_t *payload, size_t size)
{
    struct shell *s = arg;
    struct member *me = member_of(s, link);
    bool acts = false;
    if (me && me->joined && type == MSG_HEARTBEAT)
        keep_wan(s, me->who, ((struct msg_heartbeat *)m)->wan_sent_bytes);
    if (!me || (s->ending && type != MSG_STATUS))
        return;
    s->out->count = 0;
    if (type == MSG_STATUS) {
        answer_status(s, link);
    } else if (type == MSG_JOIN) {
        acts = on_join(s, me, m, payload, size);
    } else if (type == MSG_STOP && link_peer(link)->who.role == ROLE_CLI) {
        shell_stop_asked(s);
    } else if (me->joined) {
        acts = from_member(s, me, type, m, payload, size);
    } else {
        log_warn(&s->log, "a %s message from a process that has not joined: link closed", msg_type_name(type));
        link_close(link);
    }
    if (acts)
        shell_run(s, now_of(s));
}

static void on_closed(void *arg, struct link *link, const struct err *why)
{
    struct shell *s = arg;
    struct member *me = member_of(s, link);
    if (why->code == ERR_CORRUPT || why->code == ERR_DENIED)
        log_warn(&s->log, "%s", why->text);
    if (!me)
        return;
    struct member was = *me;
    *me = (struct member){0};
    if (!was.joined || s->ending)
        return;
    core_on_gone(s->core, now_of(s), was.who, s->out);
    shell_run(s, now_of(s));
}

const struct link_ops shell_link_ops = {on_opened, on_message, on_closed};

/* ---- the report ---- */
void shell_report(struct shell *s, const char *status)
{
    struct report *r = &s->report;
    struct err err = ERR_INIT;
    const struct msg_plan *p = core_plan(s->core);
    r->status = status;
    r->error = s->error[0] ? s->error : NULL;
    r->steps = s->history.count;
    r->samples = 0;
    for (uint64_t i = 0; i < s->history.count; i++)
        r->samples += s->history.round[i].count;
    r->epochs = p->samples_per_pass ? (double)r->samples / (double)p->samples_per_pass : NAN;
    r->wall_seconds = restarts_wall_before(s->restarts) + (double)(now_of(s) - s->started_ms) / 1e3;
    uint64_t span = s->last_commit_ms - s->first_commit_ms;
    r->samples_per_second = span ? (double)s->samples_here * 1e3 / (double)span : NAN;
    r->train_loss = history_last_pass_loss(&s->history);
    r->wan_bytes_sent = wan_bytes(s);
    r->wan_rounds = s->job.spec.site_count > 1 ? s->history.count : 0;
    snprintf(r->data_sha256, sizeof r->data_sha256, "%s", s->declaration.data_sha256);
    if (strcmp(status, "running") != 0)
        history_ledger(&s->history, p, r);
    if (report_write(s->run.path, r, s->restarts, &err) < 0)
        log_error(&s->log, "%s", err.text);
}
