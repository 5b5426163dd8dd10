/* What `viaduct top` knows: the coordinator's answer, and the ends of the run's files. */
#include "cli/top.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "cli/live.h"

#define ANSWER_MS 1000
#define TAIL_BYTES (384 << 10)        /* of metrics.jsonl: more than TOP_TAIL lines */
#define EVENT_BYTES (96 << 10)

static double number(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

static unsigned count_of(const json_t *o, const char *key)
{
    double v = number(o, key);
    return v >= 0 && v < 1e6 ? (unsigned)v : 0;
}

static void copy_text(const json_t *o, const char *key, char *out, size_t size)
{
    const char *s = json_string_value(json_object_get(o, key));
    snprintf(out, size, "%s", s ? s : "");
    text_plain(out);
    for (char *p = out; *p; p++)
        if (*p == '\n' || *p == '\t')
            *p = ' ';
}

static json_t *load(const struct rundir *run, const char *name)
{
    char path[700];
    snprintf(path, sizeof path, "%s/%s", run->path, name);
    return json_load_file(path, 0, NULL);
}

void top_take_status(const char *json, struct top_state *out)
{
    json_t *s = json_loads(json, 0, NULL), *site;
    size_t i;
    copy_text(s, "phase", out->phase, sizeof out->phase);
    out->step = number(s, "step");
    out->steps = number(s, "steps");
    out->epoch = number(s, "epoch");
    out->epochs = number(s, "epochs");
    out->loss = number(s, "loss");
    out->lr = number(s, "lr");
    out->rate = number(s, "samples_per_second");
    out->eta = number(s, "eta_seconds");
    out->wan_rate = number(s, "wan_bytes_per_second");
    json_array_foreach(json_object_get(s, "sites"), i, site) {
        if (i >= REPORT_SITES_MAX)
            break;
        out->site_count = (unsigned)i + 1;
        copy_text(site, "name", out->site[i].name, sizeof out->site[i].name);
        out->site[i].ranks = count_of(site, "ranks");
        out->site[i].up = count_of(site, "up");
        out->site[i].shards = count_of(site, "shards");
        out->site[i].shards_up = count_of(site, "shards_up");
    }
    json_decref(s);
}

/* Of a run that has ended, and what only files know. */
static void take_report(const struct rundir *run, struct top_state *out)
{
    json_t *r = load(run, "report.json"), *t = load(run, "topology.json"), *site;
    size_t i;
    copy_text(r, "name", out->name, sizeof out->name);
    copy_text(r, "status", out->status, sizeof out->status);
    out->restarts = (unsigned)json_array_size(json_object_get(r, "restarts"));
    if (!out->phase[0]) {
        out->step = out->steps = number(r, "steps");
        out->rate = number(r, "samples_per_second");
        out->loss = number(json_object_get(r, "final"), "train_loss");
        json_array_foreach(json_object_get(json_object_get(r, "world"), "sites"), i, site) {
            if (i >= REPORT_SITES_MAX)
                break;
            out->site_count = (unsigned)i + 1;
            copy_text(site, "name", out->site[i].name, sizeof out->site[i].name);
            out->site[i].ranks = count_of(site, "ranks");
        }
    }
    for (unsigned k = 0; k < out->site_count; k++) {
        out->site[k].sent = NAN;
        json_array_foreach(json_object_get(t, "sites"), i, site) {
            const char *name = json_string_value(json_object_get(site, "name"));
            if (name && strcmp(name, out->site[k].name) == 0)
                out->site[k].sent = number(site, "wan_sent_bytes");
        }
    }
    json_decref(r);
    json_decref(t);
}

/* The last `bytes` of a file, from the start of a line on. */
static FILE *open_end(const struct rundir *run, const char *name, long bytes)
{
    char path[700], line[4000];
    snprintf(path, sizeof path, "%s/%s", run->path, name);
    FILE *f = fopen(path, "re");
    if (f && fseek(f, -bytes, SEEK_END) == 0 && !fgets(line, sizeof line, f))
        rewind(f);
    return f;
}

static void take_metrics(const struct rundir *run, struct top_state *out)
{
    char line[2000];
    struct metric m;
    FILE *f = open_end(run, "metrics.jsonl", TAIL_BYTES);
    while (f && fgets(line, sizeof line, f)) {
        if (!metric_read(line, &m))
            continue;
        if (out->tail_count == TOP_TAIL)
            memmove(out->tail, out->tail + 1, --out->tail_count * sizeof m);
        out->tail[out->tail_count++] = m;
    }
    if (f)
        fclose(f);
}

static void take_events(const struct rundir *run, struct top_state *out)
{
    char line[4000], time[40];
    FILE *f = open_end(run, "events.jsonl", EVENT_BYTES);
    while (f && fgets(line, sizeof line, f)) {
        json_t *e = json_loads(line, 0, NULL);
        if (json_is_object(e)) {
            if (out->event_count == TOP_EVENTS)
                memmove(out->event, out->event + 1, --out->event_count * sizeof out->event[0]);
            struct top_event *to = &out->event[out->event_count++];
            copy_text(e, "time", time, sizeof time);
            snprintf(to->time, sizeof to->time, "%.8s", strlen(time) > 11 ? time + 11 : "");
            copy_text(e, "event", to->event, sizeof to->event);
            copy_text(e, "who", to->who, sizeof to->who);
            copy_text(e, "text", to->text, sizeof to->text);
            to->step = (unsigned long long)json_integer_value(json_object_get(e, "step"));
        }
        json_decref(e);
    }
    if (f)
        fclose(f);
}

void top_read(const struct rundir *run, struct top_state *out)
{
    struct err err = ERR_INIT;
    char *json = NULL;
    *out = (struct top_state){.step = NAN, .steps = NAN, .epoch = NAN, .epochs = NAN, .loss = NAN, .lr = NAN, .rate = NAN, .eta = NAN, .wan_rate = NAN};
    if (live_ask(run, ANSWER_MS, &json, &err) == 0)
        top_take_status(json, out);
    free(json);
    take_report(run, out);
    take_metrics(run, out);
    take_events(run, out);
}
