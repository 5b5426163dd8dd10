/* What Prometheus reads. A page is made when it is asked for: counters are kept where things happen, everything else is looked up. Where the pages are
 * stands in RUN/state/metrics.json, which Prometheus' file_sd takes as it is. */
#include "coordinator/shell.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

_Static_assert((int)SCRAPE_PHASES == (int)CORE_FAILED + 1 && (int)SCRAPE_TRAINING == (int)PHASE_KINDS, "a phase would have no sample");
_Static_assert((int)REPORT_SITES_MAX >= (int)SITES_LIMIT && (int)METRIC_PARTS == (int)TIME_PARTS, "a site or a part would have no sample");

#define PLACE_FORMAT "[{\"targets\":[\"%s\"],\"labels\":{\"__scheme__\":\"%s\"}}]\n"

static double wall_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* ---- values ---- */
void shell_scrape_committed(struct shell *s, const struct record *r)
{
    const struct history *h = &s->history;
    s->scrape.steps++;
    s->scrape.samples += (double)r->totals.samples;
    if (r->round > 0 && r->round < h->count && h->round[r->round - 1].samples)
        scrape_time(&s->scrape, TIMING_STEP, h->round[r->round].seconds - h->round[r->round - 1].seconds);
}

/* Of the manifest at the first site that has it here; a checkpoint that lies elsewhere has none. */
static double durable_since(const struct shell *s)
{
    char path[800];
    struct stat st;
    for (unsigned i = 0; i < s->job.spec.site_count; i++) {
        snprintf(path, sizeof path, "%s/ckpt/%s/step-%08llu/manifest.json", s->run.path, s->job.spec.sites[i].name, (unsigned long long)s->report.checkpoint_step);
        if (s->report.checkpoint_sites >> i & 1 && stat(path, &st) == 0)
            return (double)st.st_mtim.tv_sec + (double)st.st_mtim.tv_nsec / 1e9;
    }
    return NAN;
}

static void fill_checkpoint(struct shell *s, struct scrape *out)
{
    bool have = s->report.have_checkpoint, began = s->config.checkpoint.have;
    out->checkpoint_every = (double)s->job.spec.checkpoint_every;
    out->checkpoint_step = have ? (double)s->report.checkpoint_step : began ? (double)s->config.checkpoint.step : NAN;
    out->checkpoint_time = have ? durable_since(s) : NAN;
    for (unsigned i = 0; i < out->site_count; i++)
        out->durable[i] = have ? (double)(s->report.checkpoint_sites >> i & 1) : NAN;
}

/* One on each of the site's nodes. */
static bool agents_there(struct shell *s, unsigned site)
{
    for (uint16_t node = 0; node < s->job.spec.sites[site].nodes; node++)
        if (!shell_member(s, (struct process_id){.role = ROLE_AGENT, .site = (uint8_t)site, .index = node}))
            return false;
    return true;
}

static void fill_sites(struct shell *s, struct scrape *out)
{
    const struct view *v = core_view(s->core);
    for (unsigned i = 0; i < out->site_count; i++) {
        struct site_up is = shell_site_up(s, i);
        bool wanted = v->gang[i].wanted;
        out->site[i] = s->job.spec.sites[i].name;
        out->ranks[i] = is.ranks;
        out->ranks_wanted[i] = wanted ? v->gang[i].ranks : 0;
        out->shards[i] = is.shards_up;
        out->shards_wanted[i] = is.shards;
        out->lanes[i] = v->gang[i].lanes.hi - v->gang[i].lanes.lo;
        out->site_up[i] = wanted ? agents_there(s, i) : NAN;
        out->wan_sent[i] = shell_wan_sent(s, i);
    }
}

/* 0.003, not 0.00300000003. */
static double shorter(float v)
{
    char text[NUMBER_TEXT_BYTES];
    number_text_float(text, v);
    return strtod(text, NULL);
}

static void fill_progress(struct shell *s, struct scrape *out)
{
    const struct msg_plan *p = core_plan(s->core);
    struct metric m = {.loss = NAN, .lr = NAN, .accuracy = NAN};
    uint64_t first, pass = p->batch ? (p->samples_per_pass + p->batch - 1) / p->batch : 0;
    const struct phase *training = phases_find(&p->phases, core_round(s->core), &first);
    bool known = s->history.count && history_metric(&s->history, s->history.count - 1, &m);
    out->step = (double)s->history.count;
    out->steps_planned = p->rounds ? (double)p->rounds : NAN;
    out->epoch = known ? (double)m.epoch : NAN;
    out->epochs_planned = pass ? (double)p->rounds / (double)pass : NAN;
    out->loss = m.loss;
    out->lr = known ? shorter((float)m.lr) : NAN;
    out->accuracy = m.accuracy;
    for (unsigned i = 0; i < SCRAPE_PHASES; i++)
        out->phase[i] = i == (unsigned)core_phase(s->core);
    for (unsigned i = 0; i < SCRAPE_TRAINING; i++)
        out->training[i] = training ? i == training->kind : NAN;
}

static const struct scrape *fill(struct shell *s)
{
    struct scrape *out = &s->scrape;
    out->run = s->job.spec.name;
    out->job = s->run.job;
    out->site_count = s->job.spec.site_count;
    out->one = 1;
    out->view = core_view(s->core)->number;
    out->generation = core_view(s->core)->generation;
    for (unsigned i = 0; i < SCRAPE_ROLES; i++)
        out->restarts[i] = restarts_count(s->restarts, scrape_role_name[i]);
    fill_progress(s, out);
    fill_sites(s, out);
    fill_checkpoint(s, out);
    return out;
}

/* ---- pages ---- */
static size_t metrics(void *arg, const char *accept, char *out, size_t size, const char **type)
{
    bool openmetrics = strstr(accept, "application/openmetrics-text") != NULL;
    *type = openmetrics ? "application/openmetrics-text; version=1.0.0; charset=utf-8" : "text/plain; version=0.0.4; charset=utf-8";
    return scrape_write(fill(arg), openmetrics, out, size);
}

static size_t healthz(void *arg, const char *accept, char *out, size_t size, const char **type)
{
    (void)accept, (void)type;
    return (size_t)snprintf(out, size, "%s\n", shell_outcome(arg));
}

static const struct http_page pages[] = {{"/metrics", metrics}, {"/healthz", healthz}, {NULL, NULL}};

/* ---- where they are ---- */
static void place_path(const struct shell *s, char out[700]) { snprintf(out, 700, "%s/state/metrics.json", s->run.path); }

/* The port that the coordinator before us had, so that who scrapes it need not look again; 0: none. */
static unsigned port_before(const struct shell *s)
{
    char path[700], *text = NULL;
    size_t size;
    struct err ignored = ERR_INIT;
    place_path(s, path);
    if (fs_read_file(&fs_real, path, 1024, (void **)&text, &size, &ignored) < 0)
        return 0;
    char *end = strstr(text, "\"]");
    if (end)
        *end = '\0';
    const char *colon = end ? strrchr(text, ':') : NULL;
    unsigned long port = colon ? strtoul(colon + 1, NULL, 10) : 0;
    free(text);
    return port < 65536 ? (unsigned)port : 0;
}

static int tell_place(struct shell *s, struct err *err)
{
    static const char *const everywhere[] = {"0.0.0.0:", "[::]:"};
    char path[700], text[512], host[128], target[200];
    const char *at = http_address(s->pages);
    snprintf(target, sizeof target, "%s", at);
    for (unsigned i = 0; i < ARRAY_LEN(everywhere); i++)
        if (strncmp(at, everywhere[i], strlen(everywhere[i])) == 0 && gethostname(host, sizeof host - 1) == 0)
            snprintf(target, sizeof target, "%s:%s", host, strrchr(at, ':') + 1);
    place_path(s, path);
    int n = snprintf(text, sizeof text, PLACE_FORMAT, target, s->web ? "https" : "http");
    return fs_publish_file(&fs_real, path, text, (size_t)n, err);
}

const char *shell_scrape_url(const struct shell *s, char out[256])
{
    if (!s->pages)
        return NULL;
    snprintf(out, 256, "%s://%s/metrics", s->web ? "https" : "http", http_address(s->pages));
    return out;
}

static int listen_at(struct shell *s, unsigned port, struct err *err)
{
    const char *wanted = s->job.spec.metrics;
    char at[ADDRESS_LIMIT];
    snprintf(at, sizeof at, "%.*s:%u", (int)(strrchr(wanted, ':') - wanted), wanted, port);
    return http_listen(s->loop, &s->log, at, s->web, s->run.job, pages, s, &s->pages, err);
}

static int open_pages(struct shell *s, struct err *err)
{
    const char *wanted = s->job.spec.metrics;
    unsigned port = (unsigned)strtoul(strrchr(wanted, ':') + 1, NULL, 10);
    char tls[700], url[256];
    snprintf(tls, sizeof tls, "%s/state/tls", s->run.path);
    if (!http_is_loopback(wanted))
        TRY(identity_load_web(tls, &s->web, err));
    int rc = listen_at(s, port ? port : port_before(s), err);
    if (rc < 0) {                         /* another run has it: ours is shown at another port, and says so */
        struct err why = *err;
        *err = (struct err)ERR_INIT;
        TRY(listen_at(s, 0, err));
        if (port)
            shell_event(s, "metrics", "coordinator", s->history.count, "%s; they are at %s", why.text, shell_scrape_url(s, url));
    }
    return tell_place(s, err);
}

void shell_scrape_open(struct shell *s)
{
    struct err err = ERR_INIT;
    char url[256];
    s->scrape.start_time = wall_seconds();
    if (!s->job.spec.metrics)
        return;
    if (open_pages(s, &err) < 0)
        shell_event(s, "metrics", "coordinator", s->history.count, "not shown: %s", err.text);
    else
        log_info(&s->log, "metrics at %s", shell_scrape_url(s, url));
}

/* The last values stay in RUN/metrics.prom, for a textfile collector or a push gateway. Of a run that ended as it should nothing is scraped any more; one that
 * failed keeps its place, so that Prometheus finds nobody there and its alert speaks. */
void shell_scrape_end(struct shell *s, const char *status)
{
    char path[700], *text = malloc(HTTP_BODY_MAX);
    struct err err = ERR_INIT;
    bool failed = strcmp(status, "failed") == 0;
    CHECK(text != NULL);
    if (s->pages && s->core && !s->superseded) {
        fill(s);
        for (unsigned i = 0; i < SCRAPE_PHASES; i++)
            s->scrape.phase[i] = i == (failed ? CORE_FAILED : CORE_DONE);
        size_t n = scrape_write(&s->scrape, false, text, HTTP_BODY_MAX);
        snprintf(path, sizeof path, "%s/metrics.prom", s->run.path);
        if (fs_publish_file(&fs_real, path, text, n, &err) < 0)
            log_warn(&s->log, "%s", err.text);
        place_path(s, path);
        if (!failed && unlink(path) < 0)
            log_warn(&s->log, "cannot remove %s", path);
    }
    free(text);
}
