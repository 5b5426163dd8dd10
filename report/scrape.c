/* What Prometheus reads: one table says each metric's name, type, labels, help and place in struct scrape; docs/manual/monitoring.md is held against it. */
#include "report/report.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

const char *const scrape_role_name[SCRAPE_ROLES] = {"coordinator", "agent", "worker", "ps", "export", "slurm"};
static const char *const phases[SCRAPE_PHASES] = {"starting", "running", "finishing", "stopping", "done", "failed"};
static const char *const anomalies[ANOMALY_KINDS] = {"loss", "step_seconds"};
static const char *const training[SCRAPE_TRAINING] = {"train", "prune"};
static const char *const version[] = {VIADUCT_VERSION};

/* Which samples a metric has: one, or one for each value of a label. Sites and job are the run's own. */
enum of { OF_RUN, OF_SITE, OF_ROLE, OF_PART, OF_PHASE, OF_TRAINING, OF_ANOMALY, OF_JOB, OF_VERSION };
static const struct { const char *label; const char *const *value; unsigned count; } labels[] = {
    [OF_RUN] = {NULL, NULL, 1}, [OF_SITE] = {"site", NULL, 0}, [OF_ROLE] = {"role", scrape_role_name, SCRAPE_ROLES},
    [OF_PART] = {"part", metric_part_name, METRIC_PARTS}, [OF_PHASE] = {"phase", phases, SCRAPE_PHASES},
    [OF_TRAINING] = {"training_phase", training, SCRAPE_TRAINING}, [OF_ANOMALY] = {"of", anomalies, ANOMALY_KINDS}, [OF_JOB] = {"job_id", NULL, 1},
    [OF_VERSION] = {"version", version, 1},
};

enum type { GAUGE, COUNTER, INFO, HISTOGRAM };
#define AT(field) offsetof(struct scrape, field)
static const struct family { const char *name; enum type type; enum of of; size_t at; const char *help; } families[] = {
    {"viaduct_build_info", INFO, OF_VERSION, AT(one), "Version of the coordinator."},
    {"viaduct_run_info", INFO, OF_JOB, AT(one), "Id of the job, as in its certificates and logs."},
    {"viaduct_start_time_seconds", GAUGE, OF_RUN, AT(start_time), "When this coordinator process started, since 1970. Counters count from there."},
    {"viaduct_run_phase", GAUGE, OF_PHASE, AT(phase), "1 for the phase that the run is in, 0 for the others."},
    {"viaduct_training_phase", GAUGE, OF_TRAINING, AT(training), "1 for the phase of training that the next step is of, 0 for the others."},
    {"viaduct_step", GAUGE, OF_RUN, AT(step), "Newest committed step; a rollback lowers it."},
    {"viaduct_steps_planned", GAUGE, OF_RUN, AT(steps_planned), "Steps of the whole run."},
    {"viaduct_epoch", GAUGE, OF_RUN, AT(epoch), "Pass over the training data that the newest step was of, from 1."},
    {"viaduct_epochs_planned", GAUGE, OF_RUN, AT(epochs_planned), "Passes of the whole run."},
    {"viaduct_loss", GAUGE, OF_RUN, AT(loss), "Mean training loss of the newest step."},
    {"viaduct_accuracy_ratio", GAUGE, OF_RUN, AT(accuracy), "Share of the newest step's samples that were classified right."},
    {"viaduct_learning_rate", GAUGE, OF_RUN, AT(lr), "Learning rate of the newest step."},
    {"viaduct_steps_total", COUNTER, OF_RUN, AT(steps), "Steps committed; each is one round between the sites."},
    {"viaduct_samples_total", COUNTER, OF_RUN, AT(samples), "Samples of committed steps."},
    {"viaduct_step_duration_seconds", HISTOGRAM, OF_RUN, AT(timing[TIMING_STEP]), "Time from one commit to the next."},
    {"viaduct_step_part_seconds_total", COUNTER, OF_PART, AT(part), "Where the steps' time went, mean over ranks."},
    {"viaduct_step_part_slowest_seconds_total", COUNTER, OF_PART, AT(part_max), "Where the steps' time went, at each step's slowest rank."},
    {"viaduct_site_up", GAUGE, OF_SITE, AT(site_up), "1 when an agent on each of the site's nodes is connected; no sample for a site that is not wanted now."},
    {"viaduct_ranks", GAUGE, OF_SITE, AT(ranks), "Ranks that are connected."},
    {"viaduct_ranks_wanted", GAUGE, OF_SITE, AT(ranks_wanted), "Ranks that should be."},
    {"viaduct_shards", GAUGE, OF_SITE, AT(shards), "Parameter-server processes that are connected."},
    {"viaduct_shards_wanted", GAUGE, OF_SITE, AT(shards_wanted), "Parameter-server processes that should be."},
    {"viaduct_lanes", GAUGE, OF_SITE, AT(lanes), "Lanes of the global batch that the site computes."},
    {"viaduct_wan_sent_bytes_total", COUNTER, OF_SITE, AT(wan_sent), "Bytes that the site's processes sent to other sites, TLS and headers included."},
    {"viaduct_restarts_total", COUNTER, OF_ROLE, AT(restarts), "Processes that died and were replaced, over all starts of the run."},
    {"viaduct_rollbacks_total", COUNTER, OF_RUN, AT(rollbacks), "Rollbacks to a checkpoint."},
    {"viaduct_lost_steps_total", COUNTER, OF_RUN, AT(lost_steps), "Steps that rollbacks made void."},
    {"viaduct_anomalies_total", COUNTER, OF_ANOMALY, AT(anomalies), "Values far above what was usual just before."},
    {"viaduct_view", GAUGE, OF_RUN, AT(view), "Number of the membership view."},
    {"viaduct_generation", GAUGE, OF_RUN, AT(generation), "Generation: one more after each rollback."},
    {"viaduct_checkpoint_step", GAUGE, OF_RUN, AT(checkpoint_step), "Step of the newest durable checkpoint; none yet: no sample."},
    {"viaduct_checkpoint_timestamp_seconds", GAUGE, OF_RUN, AT(checkpoint_time), "When it became durable, since 1970."},
    {"viaduct_checkpoint_interval_steps", GAUGE, OF_RUN, AT(checkpoint_every), "Steps from one checkpoint to the next, as the spec says."},
    {"viaduct_checkpoint_durable", GAUGE, OF_SITE, AT(durable), "1 when the site has verified the newest durable checkpoint."},
    {"viaduct_log_sync_seconds", HISTOGRAM, OF_RUN, AT(timing[TIMING_LOG]), "How long the disk took to make decisions durable."},
};

/* le as text, and as the number that it says. */
static const struct { const char *text; double value; } bounds[SCRAPE_TIMINGS][SCRAPE_BUCKETS] = {
#define LE(v) {#v, v}
    [TIMING_STEP] = {LE(0.005), LE(0.01), LE(0.025), LE(0.05), LE(0.1), LE(0.25), LE(0.5), LE(1.0), LE(2.5), LE(5.0), LE(10.0), LE(30.0), LE(60.0), LE(120.0)},
    [TIMING_LOG] = {LE(0.00025), LE(0.0005), LE(0.001), LE(0.0025), LE(0.005), LE(0.01), LE(0.025), LE(0.05), LE(0.1), LE(0.25), LE(0.5), LE(1.0), LE(2.5), LE(5.0)},
#undef LE
};

void scrape_time(struct scrape *s, enum scrape_timing of, double seconds)
{
    unsigned i = 0;
    if (!(seconds >= 0))
        return;
    while (i < SCRAPE_BUCKETS && seconds > bounds[of][i].value)
        i++;
    s->timing[of].count[i]++;
    s->timing[of].sum += seconds;
}

/* ---- text ---- */
static void put_label(FILE *f, const char *name, const char *value)
{
    fprintf(f, "%s=\"", name);
    for (const char *p = value; *p; p++) {
        if (*p == '"' || *p == '\\')
            fputc('\\', f);
        fputs(*p == '\n' ? "\\n" : (char[]){*p, '\0'}, f);
    }
    fputc('"', f);
}

static void put_sample(FILE *f, const struct scrape *s, const char *name, const char *suffix, const char *label, const char *value, double v)
{
    char number[NUMBER_TEXT_BYTES];
    fprintf(f, "%s%s{", name, suffix);
    put_label(f, "run", s->run);
    if (label) {
        fputc(',', f);
        put_label(f, label, value);
    }
    number_text(number, isfinite(v) ? v : 0);
    fprintf(f, "} %s\n", isfinite(v) ? number : v > 0 ? "+Inf" : "-Inf");
}

static void put_histogram(FILE *f, const struct scrape *s, const struct family *m, enum scrape_timing of)
{
    uint64_t below = 0;
    for (unsigned i = 0; i <= SCRAPE_BUCKETS; i++) {
        below += s->timing[of].count[i];
        put_sample(f, s, m->name, "_bucket", "le", i < SCRAPE_BUCKETS ? bounds[of][i].text : "+Inf", (double)below);
    }
    put_sample(f, s, m->name, "_sum", NULL, NULL, s->timing[of].sum);
    put_sample(f, s, m->name, "_count", NULL, NULL, (double)below);
}

static const char *value_of(const struct scrape *s, enum of of, unsigned i)
{
    return of == OF_RUN ? NULL : of == OF_SITE ? s->site[i] : of == OF_JOB ? s->job : labels[of].value[i];
}

static void put_family(FILE *f, const struct scrape *s, const struct family *m, bool openmetrics)
{
    static const struct { const char *text, *openmetrics, *suffix; } types[] = {
        [GAUGE] = {"gauge", "gauge", ""}, [COUNTER] = {"counter", "counter", "_total"}, [INFO] = {"gauge", "info", "_info"}, [HISTOGRAM] = {"histogram", "histogram", ""}};
    int length = (int)(strlen(m->name) - (openmetrics ? strlen(types[m->type].suffix) : 0));   /* OpenMetrics names the family without what its samples end with */
    fprintf(f, "# HELP %.*s %s\n# TYPE %.*s %s\n", length, m->name, m->help, length, m->name, openmetrics ? types[m->type].openmetrics : types[m->type].text);
    if (m->type == HISTOGRAM) {
        put_histogram(f, s, m, m->at == AT(timing[TIMING_STEP]) ? TIMING_STEP : TIMING_LOG);
        return;
    }
    const double *v = (const double *)(const void *)((const char *)s + m->at);
    unsigned count = m->of == OF_SITE ? s->site_count : labels[m->of].count;
    for (unsigned i = 0; i < count; i++)
        if (!isnan(v[i]))
            put_sample(f, s, m->name, "", labels[m->of].label, value_of(s, m->of, i), v[i]);
}

size_t scrape_write(const struct scrape *s, bool openmetrics, char *out, size_t size)
{
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    CHECK(f != NULL);
    for (unsigned i = 0; i < ARRAY_LEN(families); i++)
        put_family(f, s, &families[i], openmetrics);
    if (openmetrics)
        fputs("# EOF\n", f);
    bool good = fclose(f) == 0 && n < size;
    if (good)
        memcpy(out, text, n);
    free(text);
    return good ? n : 0;
}
