/* What people are told: events, the answer to `status`, report.json. */
#include "coordinator/shell.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>

#define WINDOW_MS 5000
#define TOPOLOGY_MS 10000

void shell_who(const struct shell *s, struct process_id who, char out[120])
{
    static const char *const words[] = {"", "coordinator", "agent", "worker", "ps", "export", "cli", "join"};
    const char *site = who.site < s->job.spec.site_count ? s->job.spec.sites[who.site].name : "?";
    if (who.role == ROLE_NONE || who.role == ROLE_COORDINATOR || who.role >= ARRAY_LEN(words))
        snprintf(out, 120, "coordinator");
    else
        snprintf(out, 120, "%s %.80s/%u", words[who.role], site, who.index);
}

void shell_event(struct shell *s, const char *kind, const char *who, uint64_t step, const char *fmt, ...)
{
    char text[TEXT_LIMIT];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    report_event(s->events, kind, who, step, text);
    bool own = strcmp(who, "coordinator") == 0;   /* whose log it is anyway */
    log_info(&s->log, "%s%s%s (step %llu): %s", kind, own ? "" : ": ", own ? "" : who, (unsigned long long)step, text);
}

/* ---- rates ---- */
static uint64_t wan_bytes(const struct shell *s, bool since_heard)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < s->wan_count; i++)
        sum += s->wan[i].bytes - (since_heard ? s->wan[i].first : 0);
    return sum;
}

static bool trains(struct process_id who) { return who.role == ROLE_WORKER || who.role == ROLE_PS; }

double shell_wan_sent(const struct shell *s, unsigned site)
{
    uint64_t sum = 0;
    bool known = false;
    for (unsigned i = 0; i < s->wan_count; i++)
        if (s->wan[i].who.site == site) {
            sum += s->wan[i].bytes - s->wan[i].first;
            known = known || trains(s->wan[i].who);
        }
    return known ? (double)sum : NAN;
}

/* Whether anyone who trains has said what it sent. */
static bool wan_known(const struct shell *s)
{
    for (unsigned i = 0; i < s->wan_count; i++)
        if (trains(s->wan[i].who))
            return true;
    return false;
}

void shell_sample(struct shell *s)
{
    uint64_t now = loop_now_ms(s->loop);
    while (s->window_count > 1 && (now - s->window[0].ms > WINDOW_MS || s->window_count == ARRAY_LEN(s->window))) {
        memmove(s->window, s->window + 1, sizeof s->window - sizeof s->window[0]);
        s->window_count--;
    }
    s->window[s->window_count].ms = now;
    s->window[s->window_count].samples = s->samples_here;
    s->window[s->window_count++].wan = wan_bytes(s, true);
}

static void rates(const struct shell *s, double *samples, double *wan)
{
    *samples = 0;
    *wan = NAN;
    if (s->window_count < 2)
        return;
    unsigned last = s->window_count - 1;
    double seconds = (double)(s->window[last].ms - s->window[0].ms) / 1e3;
    if (seconds <= 0)
        return;
    *samples = (double)(s->window[last].samples - s->window[0].samples) / seconds;
    if (wan_known(s))
        *wan = (double)(s->window[last].wan - s->window[0].wan) / seconds;
}

/* ---- status ---- */
struct text { char *at; size_t size, n; };

static void add(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void add(struct text *t, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(t->at + t->n, t->size - t->n, fmt, args);
    va_end(args);
    if (n > 0)
        t->n = MIN(t->n + (size_t)n, t->size - 1);
}

static void add_number(struct text *t, const char *key, double v)
{
    if (isfinite(v))
        add(t, "\"%s\":%.9g,", key, v);
    else
        add(t, "\"%s\":null,", key);
}

struct site_up shell_site_up(const struct shell *s, unsigned site)
{
    const struct view *v = core_view(s->core);
    struct site_up is = {0};
    for (unsigned k = 0; k < MEMBERS_MAX; k++) {
        const struct member *m = &s->member[k];
        if (!m->link || !m->joined || m->who.site != site)
            continue;
        is.ranks += m->who.role == ROLE_WORKER && v->gang[site].incarnation == m->who.instance;
        is.shards_up += m->who.role == ROLE_PS && m->who.index < v->slot_count && v->slot[m->who.index].instance == m->who.instance;
    }
    for (unsigned k = 0; k < v->slot_count && !core_plan(s->core)->embedded; k++)
        is.shards += v->slot[k].site == site;
    return is;
}

static void add_site(const struct shell *s, struct text *t, unsigned site)
{
    struct site_up is = shell_site_up(s, site);
    char name[140];
    json_quote(name, sizeof name, s->job.spec.sites[site].name);
    add(t, "%s{\"name\":%s,\"ranks\":%u,\"up\":%u,\"shards\":%u,\"shards_up\":%u}", site ? "," : "", name, core_view(s->core)->gang[site].ranks, is.ranks, is.shards,
        is.shards_up);
}

static void add_checkpoint(const struct shell *s, struct text *t)
{
    const struct report *r = &s->report;
    if (!r->have_checkpoint) {
        add(t, "\"checkpoint\":null,");
        return;
    }
    add(t, "\"checkpoint\":{\"path\":\"%s\",\"step\":%" PRIu64 ",\"verified_sites\":[", r->checkpoint_path, r->checkpoint_step);
    for (unsigned i = 0, n = 0; i < s->job.spec.site_count; i++)
        if (r->checkpoint_sites >> i & 1)
            add(t, "%s\"%s\"", n++ ? "," : "", s->job.spec.sites[i].name);
    add(t, "]},");
}

const char *shell_outcome(const struct shell *s)
{
    if (!s->core || core_phase(s->core) == CORE_FAILED || s->exit_code != 0)
        return "failed";
    if (core_phase(s->core) != CORE_DONE)
        return "running";
    return s->end_why == STOP_FINISHED ? "completed" : "stopped";
}

size_t shell_status(const struct shell *s, char *out, size_t size)
{
    static const char *const words[] = {"starting", "running", "finishing", "stopping", "done", "failed"};
    struct text t = {.at = out, .size = size};
    const struct msg_plan *p = core_plan(s->core);
    const struct view *v = core_view(s->core);
    uint64_t round = core_round(s->core), left = p->rounds > round ? p->rounds - round : 0;
    uint64_t per_pass = p->batch ? (p->samples_per_pass + p->batch - 1) / p->batch : 0;
    const struct past *last = s->history.count ? &s->history.round[s->history.count - 1] : NULL;
    bool known = last && last->samples;
    char lr[NUMBER_TEXT_BYTES];
    double rate, wan;
    rates(s, &rate, &wan);
    uint64_t first;
    const struct phase *training = phases_find(&p->phases, round, &first);
    add(&t, "{\"training_phase\":\"%s\",", training ? phase_name(training->kind) : "");
    add(&t, "\"phase\":\"%s\",\"status\":\"%s\",\"step\":%" PRIu64 ",\"steps\":%" PRIu64 ",\"view\":%u,\"generation\":%u,", words[core_phase(s->core)],
        shell_outcome(s), round, p->rounds,
        v->number, v->generation);
    add_number(&t, "epoch", known ? last->pass + 1 : NAN);
    add_number(&t, "epochs", per_pass ? (double)p->rounds / (double)per_pass : NAN);
    add_number(&t, "loss", known ? last->loss_sum / (double)last->samples : NAN);
    number_text_float(lr, known ? last->lr : 0);
    add(&t, "\"lr\":%s,", known ? lr : "null");
    add_number(&t, "samples_per_second", rate);
    add_number(&t, "eta_seconds", rate > 0 && p->rounds ? (double)left * p->batch / rate : NAN);
    add_number(&t, "wan_bytes_per_second", wan);
    add_checkpoint(s, &t);
    char url[256];
    add(&t, shell_scrape_url(s, url) ? "\"metrics\":\"%s\"," : "\"metrics\":null,", url);
    add(&t, "\"sites\":[");
    for (unsigned i = 0; i < s->job.spec.site_count; i++)
        add_site(s, &t, i);
    add(&t, "]}");
    return t.n;
}

/* ---- the report ---- */
static int into_history(void *arg, const struct log_entry *e, const void *blob, size_t blob_size, struct err *err)
{
    (void)blob;
    (void)blob_size;
    (void)err;
    history_entry(arg, e, 0);
    return 0;
}

/* From the log itself, not from what this process remembers of it. */
static void fill_ledger(struct shell *s)
{
    struct history h = {0};
    struct err err = ERR_INIT;
    if (decision_log_sqlite.replay(s->db, into_history, &h, &err) < 0)
        log_error(&s->log, "no ledger: %s", err.text);
    else
        history_ledger(&h, core_plan(s->core), &s->report);
    history_free(&h);
}

static void fill(struct shell *s, const char *status)
{
    struct report *r = &s->report;
    const struct msg_plan *p = s->core ? core_plan(s->core) : &s->config.plan;
    uint64_t span = s->last_commit_ms - s->first_commit_ms, wan = wan_bytes(s, false), wan_before = 0;
    bool counted_before = restarts_wan_before(s->restarts, &wan_before);
    r->status = status;
    r->error = s->error[0] ? s->error : NULL;
    r->error_code = s->error[0] ? err_code_name(s->error_code) : NULL;
    r->steps = s->history.count;
    r->planned_steps = p->rounds;
    r->samples = history_samples(&s->history, core_plan(s->core));
    r->epochs = p->samples_per_pass ? (double)r->samples / (double)p->samples_per_pass : NAN;
    r->wall_seconds = s->seconds_before + (double)(loop_now_ms(s->loop) - s->started_ms) / 1e3;
    r->samples_per_second = span >= REPORT_RATE_MS ? (double)s->samples_here * 1e3 / (double)span : NAN;
    r->train_loss = history_last_pass_loss(&s->history, p);
    /* Processes that live on count from their own start; those of an earlier start are gone with their numbers. */
    r->have_wan = counted_before || wan_known(s);
    r->wan_bytes_sent = s->fresh ? wan_before + wan : MAX(wan_before, wan);
    r->wan_rounds = s->job.spec.site_count > 1 ? s->history.count : 0;
    snprintf(r->data_sha256, sizeof r->data_sha256, "%s", s->declaration.data_sha256);
}

/* ---- topology ---- */
static void fill_shard(const struct view *v, unsigned k, struct topology *t)
{
    for (unsigned i = 0; i < v->shard[k].copy_count && i < REPORT_COPIES_MAX; i++) {
        unsigned slot = v->shard[k].copy[i].slot, site = slot < v->slot_count ? v->slot[slot].site : 0, at = t->shard[k].copy_count;
        bool holds = v->shard[k].copy[i].role == COPY_PRIMARY || v->shard[k].copy[i].role == COPY_SYNC;
        if (!holds || site >= t->site_count)
            continue;
        t->shard[k].copy[at].site = site;
        t->shard[k].copy[at].slot = slot;
        t->shard[k].copy[at].primary = v->shard[k].copy[i].role == COPY_PRIMARY;
        t->shard[k].copy_count++;
    }
}

static void write_topology(struct shell *s)
{
    const struct view *v = core_view(s->core);
    struct topology t = {.embedded = core_plan(s->core)->embedded, .site_count = s->report.site_count, .shard_count = MIN(v->shard_count, REPORT_SHARDS_MAX)};
    struct err err = ERR_INIT;
    for (unsigned i = 0; i < t.site_count; i++) {
        uint64_t sent = 0;
        for (unsigned k = 0; k < s->wan_count; k++)
            sent += s->wan[k].who.site == i ? s->wan[k].bytes : 0;
        t.site[i].name = s->report.site[i].name;
        t.site[i].ranks = v->gang[i].ranks;
        t.site[i].wan_sent_bytes = s->fresh ? s->topology.sent_before[i] + sent : MAX(s->topology.sent_before[i], sent);
    }
    for (unsigned k = 0; k < t.shard_count; k++)
        fill_shard(v, k, &t);
    if (topology_write(s->run.path, &t, &err) < 0)
        log_warn(&s->log, "%s", err.text);
    s->topology.at_ms = loop_now_ms(s->loop);
    s->topology.view = v->number;
    s->topology.sent_known = wan_known(s);
}

static bool topology_is_due(const struct shell *s, bool running)
{
    const struct view *v = s->core ? core_view(s->core) : NULL;
    bool told = wan_known(s) && !s->topology.sent_known;
    return v && v->number && (!running || told || v->number != s->topology.view || loop_now_ms(s->loop) - s->topology.at_ms >= TOPOLOGY_MS);
}

void shell_report(struct shell *s, const char *status)
{
    struct err err = ERR_INIT;
    bool running = strcmp(status, "running") == 0;
    s->report_due = false;
    if (s->superseded)
        return;
    if (topology_is_due(s, running))
        write_topology(s);
    fill(s, status);
    if (s->core && !running)
        fill_ledger(s);
    if (report_write(s->run.path, &s->report, s->restarts, &err) < 0)
        log_error(&s->log, "%s", err.text);
    else if (!running && page_write(s->run.path, &err) < 0)
        log_error(&s->log, "no run page: %s", err.text);
}
