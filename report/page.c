/* report.html: the facts of a run as one JSON text inside a page that draws itself. Text of the run goes into the page in two ways only: as JSON in which
 * nothing can end the script element, and as the escaped title; page.js puts text into text nodes. So no name and no cause of death can become markup. */
#include "report/report.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

#define POINTS 800                    /* of a curve: more steps share one */
#define EVENTS_SHOWN 300
#define RESTARTS_SHOWN 100
#define TEXT_SHOWN 300
#define LIST_BYTES 90000              /* of either list as it stands in the page */
#define EPOCHS_SHOWN 40

static const char template_text[] =
#include "report/page.html.inc"
;
static const char style_text[] =
#include "report/page.css.inc"
;
static const char script_text[] =
#include "report/page_charts.js.inc"
#include "report/page.js.inc"
;

/* ---- curves: each point stands for an equal number of lines, with the range of what it hides ---- */
struct curve_mean { double sum; uint64_t count; };
struct point {
    uint64_t step, epoch, samples;
    double seconds_from, seconds;     /* of the line before the first, of the last */
    struct curve_mean loss, lr, accuracy, part[METRIC_PARTS], part_max[METRIC_PARTS];
    double loss_min, loss_max, accuracy_min, accuracy_max;
};

static void mean_add(struct curve_mean *m, double v)
{
    if (isfinite(v)) {
        m->sum += v;
        m->count++;
    }
}

static double mean_of(const struct curve_mean *m) { return m->count ? m->sum / (double)m->count : NAN; }

static void point_add(struct point *p, const struct metric *m, double seconds_before)
{
    if (!p->step) {
        p->seconds_from = seconds_before;
        p->loss_min = p->loss_max = p->accuracy_min = p->accuracy_max = NAN;
    }
    p->step = m->step;
    p->epoch = m->epoch;
    p->samples += m->samples;
    p->seconds = m->seconds;
    mean_add(&p->loss, m->loss);
    mean_add(&p->lr, m->lr);
    mean_add(&p->accuracy, m->accuracy);
    p->loss_min = fmin(p->loss_min, m->loss);
    p->loss_max = fmax(p->loss_max, m->loss);
    p->accuracy_min = fmin(p->accuracy_min, m->accuracy);
    p->accuracy_max = fmax(p->accuracy_max, m->accuracy);
    for (unsigned k = 0; k < METRIC_PARTS; k++) {
        mean_add(&p->part[k], m->part[k]);
        mean_add(&p->part_max[k], m->part_max[k]);
    }
}

static FILE *open_metrics(const char *run_dir)
{
    char path[700];
    snprintf(path, sizeof path, "%s/metrics.jsonl", run_dir);
    return fopen(path, "re");
}

static uint64_t count_lines(const char *run_dir)
{
    char line[2000];
    struct metric m;
    uint64_t lines = 0;
    FILE *f = open_metrics(run_dir);
    while (f && fgets(line, sizeof line, f))
        lines += metric_read(line, &m);
    if (f)
        fclose(f);
    return lines;
}

struct curves { uint64_t lines, epoch_step[EPOCHS_SHOWN], epochs; unsigned count; struct point point[POINTS]; };

static void read_curves(const char *run_dir, struct curves *c)
{
    char line[2000];
    struct metric m;
    uint64_t i = 0, epoch = 0;
    double before = NAN;              /* the first step has the start of the processes in it */
    c->lines = count_lines(run_dir);
    c->count = (unsigned)MIN(c->lines, (uint64_t)POINTS);
    FILE *f = c->lines ? open_metrics(run_dir) : NULL;
    while (f && i < c->lines && fgets(line, sizeof line, f)) {
        if (!metric_read(line, &m))
            continue;
        if (m.epoch != epoch && c->epochs++ < EPOCHS_SHOWN)
            c->epoch_step[c->epochs - 1] = m.step;
        epoch = m.epoch;
        point_add(&c->point[i++ * c->count / c->lines], &m, before);
        before = m.seconds;
    }
    if (f)
        fclose(f);
}

static double point_rate(const struct point *p)
{
    double seconds = p->seconds - p->seconds_from;
    return seconds > 0 ? (double)p->samples / seconds : NAN;
}

static double point_value(const struct point *p, unsigned series)
{
    enum { PLAIN = 11 };
    const double plain[PLAIN] = {(double)p->step, (double)p->epoch, p->seconds, point_rate(p), mean_of(&p->loss), p->loss_min, p->loss_max, mean_of(&p->lr),
                                 mean_of(&p->accuracy), p->accuracy_min, p->accuracy_max};
    if (series < PLAIN)
        return plain[series];
    series -= PLAIN;
    return mean_of(series < METRIC_PARTS ? &p->part[series] : &p->part_max[series - METRIC_PARTS]);
}

/* Columns; one without any value is null. */
static void put_series(FILE *out, const struct curves *c)
{
    static const char *const names[] = {"step", "epoch", "seconds", "rate", "loss", "loss_min", "loss_max", "lr", "accuracy", "accuracy_min", "accuracy_max",
                                        "compute", "inside", "between", "data", "checkpoint",
                                        "compute_max", "inside_max", "between_max", "data_max", "checkpoint_max"};
    fprintf(out, "{\"lines\":%llu,\"epoch_step\":[", (unsigned long long)c->lines);
    for (uint64_t i = 0; i < c->epochs && c->epochs <= EPOCHS_SHOWN; i++)
        fprintf(out, "%s%llu", i ? "," : "", (unsigned long long)c->epoch_step[i]);
    fputc(']', out);
    for (unsigned k = 0; k < ARRAY_LEN(names); k++) {
        bool any = false;
        for (unsigned i = 0; i < c->count && !any; i++)
            any = isfinite(point_value(&c->point[i], k));
        fprintf(out, ",\"%s\":%s", names[k], any ? "[" : "null");
        for (unsigned i = 0; i < c->count && any; i++) {
            double v = point_value(&c->point[i], k);
            fputs(i ? "," : "", out);
            if (isfinite(v))
                fprintf(out, "%.*g", k == 0 ? 15 : 5, v);
            else
                fputs("null", out);
        }
        fputs(any ? "]" : "", out);
    }
    fputc('}', out);
}

/* ---- events: when there are too many, first the routine ones go, then the oldest ---- */
static bool is_routine(const json_t *e)
{
    static const char *const kinds[] = {"view", "published", "checkpoint"};
    const char *kind = json_string_value(json_object_get(e, "event"));
    for (unsigned i = 0; kind && i < ARRAY_LEN(kinds); i++)
        if (strcmp(kind, kinds[i]) == 0)
            return true;
    return false;
}

static void shorten(json_t *e, const char *key)
{
    const char *text = json_string_value(json_object_get(e, key));
    char cut[TEXT_SHOWN + 8];
    if (!text || strlen(text) <= TEXT_SHOWN)
        return;
    size_t n = TEXT_SHOWN;
    while (n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80)   /* not inside a character */
        n--;
    snprintf(cut, sizeof cut, "%.*s...", (int)n, text);
    json_object_set_new(e, key, json_string(cut));
}

static void make_room(json_t *kept)
{
    size_t i = 0;
    while (i + 1 < json_array_size(kept) && !is_routine(json_array_get(kept, i)))
        i++;
    json_array_remove(kept, is_routine(json_array_get(kept, i)) ? i : 0);
}

/* As put_script_safe writes it. */
static size_t bytes_in_page(const json_t *value)
{
    char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    size_t n = 0;
    for (const char *p = text; p && *p; p++)
        n += *p == '<' || *p == '>' || *p == '&' ? 6 : 1;
    free(text);
    return n;
}

static json_t *read_events(const char *run_dir, uint64_t *all)
{
    char path[700], line[8000];
    json_t *kept = json_array();
    snprintf(path, sizeof path, "%s/events.jsonl", run_dir);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f)) {
        json_t *e = json_loads(line, 0, NULL);
        if (!json_is_object(e)) {         /* the cut last line of a process that was killed */
            json_decref(e);
            continue;
        }
        shorten(e, "text");
        (*all)++;
        json_array_append_new(kept, e);
        if (json_array_size(kept) > EVENTS_SHOWN)
            make_room(kept);
    }
    if (f)
        fclose(f);
    while (bytes_in_page(kept) > LIST_BYTES)
        make_room(kept);
    return kept;
}

/* ---- the page ---- */
static json_t *load(const char *run_dir, const char *name)
{
    char path[700];
    snprintf(path, sizeof path, "%s/%s", run_dir, name);
    json_t *j = json_load_file(path, 0, NULL);
    return j ? j : json_null();
}

static void put_json(FILE *out, const char *key, json_t *value)
{
    char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(10));
    fprintf(out, "\"%s\":%s,", key, text ? text : "null");
    free(text);
    json_decref(value);
}

static void cut_restarts(json_t *report)
{
    json_t *list = json_object_get(report, "restarts"), *e;
    size_t all = json_array_size(list), i;
    json_object_set_new(report, "restart_count", json_integer((json_int_t)all));
    while (json_array_size(list) > RESTARTS_SHOWN)
        json_array_remove(list, 0);
    json_array_foreach(list, i, e)
        shorten(e, "cause");
    while (bytes_in_page(list) > LIST_BYTES)
        json_array_remove(list, 0);
}

static void put_data(FILE *out, const char *run_dir, json_t *report)
{
    char stamp[32];
    uint64_t events = 0;
    struct curves *c = calloc(1, sizeof *c);
    CHECK(c != NULL);
    json_t *plan = load(run_dir, "plan.json"), *kept = read_events(run_dir, &events);
    time_text(stamp);
    fprintf(out, "{\"made\":\"%s\",\"event_count\":%llu,", stamp, (unsigned long long)events);
    cut_restarts(report);
    put_json(out, "report", json_incref(report));
    put_json(out, "events", kept);
    put_json(out, "topology", load(run_dir, "topology.json"));
    put_json(out, "plan_shards", json_incref(json_object_get(plan, "shards")));
    put_json(out, "phases", json_incref(json_object_get(plan, "phases")));
    put_json(out, "plan_step_seconds", json_incref(json_object_get(plan, "step_seconds_predicted")));
    json_decref(plan);
    read_curves(run_dir, c);
    fputs("\"series\":", out);
    put_series(out, c);
    fputc('}', out);
    free(c);
}

/* Inside a script element nothing may look like a tag or a comment; these stand in strings only. */
static void put_script_safe(FILE *out, const char *json)
{
    for (const char *p = json; *p; p++) {
        if (*p == '<' || *p == '>' || *p == '&')
            fprintf(out, "\\u%04x", *p);
        else
            fputc(*p, out);
    }
}

static void put_escaped(FILE *out, const char *text)
{
    for (const char *p = text; *p; p++)
        switch (*p) {
        case '<': fputs("&lt;", out); break;
        case '>': fputs("&gt;", out); break;
        case '&': fputs("&amp;", out); break;
        case '"': fputs("&quot;", out); break;
        default: fputc(*p, out);
        }
}

static void put_part(FILE *out, const char *name, size_t length, const char *title, const char *data)
{
    if (strncmp(name, "title", length) == 0)
        put_escaped(out, title);
    else if (strncmp(name, "style", length) == 0)
        fputs(style_text, out);
    else if (strncmp(name, "script", length) == 0)
        fputs(script_text, out);
    else
        put_script_safe(out, data);
}

static void put_page(FILE *out, const char *title, const char *data)
{
    const char *p = template_text;
    for (const char *open; (open = strstr(p, "{{")); p = strstr(open, "}}") + 2) {
        fwrite(p, 1, (size_t)(open - p), out);
        put_part(out, open + 2, strcspn(open + 2, "}"), title, data);
    }
    fputs(p, out);
}

int page_write(const char *run_dir, struct err *err)
{
    char path[700], title[300], *data = NULL, *page = NULL;
    size_t data_size, page_size;
    snprintf(path, sizeof path, "%s/report.json", run_dir);
    json_t *report = json_load_file(path, 0, NULL);
    if (!json_is_object(report)) {
        json_decref(report);
        return err_set(err, ERR_NOT_FOUND, "%s is not there or is damaged: a run writes it when it starts", path);
    }
    const char *name = json_string_value(json_object_get(report, "name")), *status = json_string_value(json_object_get(report, "status"));
    snprintf(title, sizeof title, "%s: %s", name ? name : "run", status ? status : "unknown");
    FILE *out = open_memstream(&data, &data_size);
    CHECK(out != NULL);
    put_data(out, run_dir, report);
    CHECK(fclose(out) == 0);
    json_decref(report);
    out = open_memstream(&page, &page_size);
    CHECK(out != NULL);
    put_page(out, title, data);
    CHECK(fclose(out) == 0);
    free(data);
    snprintf(path, sizeof path, "%s/report.html", run_dir);
    int rc = fs_publish_file(&fs_real, path, page, page_size, err);
    free(page);
    return rc;
}
