/* How `viaduct top` looks: a state in, lines out; pure. Widths count characters of one column; text of a run has been made plain before. */
#include "cli/top.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

#define RECENT 64                     /* steps that the split is of */

struct canvas { FILE *out; const struct top_look *look; unsigned lines, column; };

enum style { PLAIN, BOLD, DIM, GOOD, BAD, WARN, PART_0 };   /* PART_0 + k: colour of a part of the step's time */

static void style(struct canvas *c, enum style s)
{
    static const char *const codes[] = {"\033[0m", "\033[1m", "\033[2m", "\033[32m", "\033[31m", "\033[33m", "\033[34m", "\033[36m", "\033[33m",
                                        "\033[35m", "\033[31m"};
    if (c->look->colour)
        fputs(codes[s], c->out);
}

/* A character of UTF-8 is one column here. */
static void put(struct canvas *c, const char *text)
{
    for (const char *p = text; *p; p++) {
        bool follows = ((unsigned char)*p & 0xc0) == 0x80;
        if (!follows && c->column >= c->look->width)
            return;
        if (!c->look->unicode && (unsigned char)*p >= 0x80) {
            if (!follows)
                fputc('?', c->out);
        } else {
            fputc(*p, c->out);
        }
        c->column += !follows;
    }
}

static void print(struct canvas *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void print(struct canvas *c, const char *fmt, ...)
{
    char text[600];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    put(c, text);
}

static void pad_to(struct canvas *c, unsigned column)
{
    while (c->column < column && c->column < c->look->width)
        put(c, " ");
}

static void end_line(struct canvas *c)
{
    style(c, PLAIN);
    fputc('\n', c->out);
    c->lines++;
    c->column = 0;
}

static void heading(struct canvas *c, const char *text)
{
    end_line(c);
    style(c, BOLD);
    put(c, text);
    style(c, PLAIN);
}

static void repeat(struct canvas *c, const char *full, const char *plain, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        put(c, c->look->unicode ? full : plain);
}

/* ---- numbers ---- */
static void span_text(double t, char *out, size_t size)
{
    if (!(t >= 0) || t > 1e8)
        snprintf(out, size, "-");
    else if (t < 9.95e-4)
        snprintf(out, size, "%.0f us", t * 1e6);
    else if (t < 0.9995)
        snprintf(out, size, t < 0.0995 ? "%.1f ms" : "%.0f ms", t * 1e3);
    else if (t < 60)
        snprintf(out, size, "%.1f s", t);
    else if (t < 3600)
        snprintf(out, size, "%d min %02d s", (int)t / 60, (int)t % 60);
    else
        snprintf(out, size, "%d h %02d min", (int)t / 3600, (int)t / 60 % 60);
}

static void bytes_text(double v, char *out, size_t size)
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
    unsigned k = 0;
    for (; v >= 999.5 && k + 1 < ARRAY_LEN(units); k++)
        v /= 1000;
    if (isfinite(v))
        snprintf(out, size, k == 0 || v >= 99.95 ? "%.0f %s" : "%.1f %s", v, units[k]);
    else
        snprintf(out, size, "-");
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of part k over the newest steps; NAN: never measured. */
static double usual(const struct top_state *s, unsigned k)
{
    double v[RECENT];
    unsigned n = 0;
    for (unsigned i = s->tail_count - MIN(s->tail_count, RECENT); i < s->tail_count; i++)
        if (isfinite(s->tail[i].part[k]))
            v[n++] = s->tail[i].part[k];
    if (!n)
        return NAN;
    if (k == METRIC_PARTS - 1) {      /* checkpoints are rare: their median is always 0 */
        double sum = 0;
        for (unsigned i = 0; i < n; i++)
            sum += v[i];
        return sum / n;
    }
    qsort(v, n, sizeof v[0], ascending);
    return v[n / 2];
}

/* ---- parts of the picture ---- */
static enum style tone_of(const char *word)
{
    static const char *const bad[] = {"failed", "dead", "lost", "damaged", "export failed", "interrupted"};
    static const char *const warn[] = {"stopped", "stopping", "anomaly", "restarted", "starting"};
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++)
        if (strcmp(word, bad[i]) == 0)
            return BAD;
    for (unsigned i = 0; i < ARRAY_LEN(warn); i++)
        if (strcmp(word, warn[i]) == 0)
            return WARN;
    return GOOD;
}

static const char *standing(const struct top_state *s)
{
    if (s->phase[0])
        return s->phase;
    return strcmp(s->status, "running") == 0 ? "interrupted" : s->status[0] ? s->status : "no coordinator answers";
}

static void draw_head(struct canvas *c, const struct top_state *s)
{
    const char *word = standing(s);
    style(c, BOLD);
    put(c, s->name[0] ? s->name : "run");
    style(c, tone_of(word));
    print(c, "  %s", word);
    style(c, PLAIN);
    if (s->restarts)
        print(c, "  %u restart%s", s->restarts, s->restarts == 1 ? "" : "s");
    end_line(c);
}

static void draw_progress(struct canvas *c, const struct top_state *s)
{
    char eta[40], wan[40];
    bool known = s->steps > 0 && s->step >= 0;
    double part = known ? fmin(s->step / s->steps, 1) : 0;
    unsigned room = c->look->width > 70 ? 40 : c->look->width / 3, full = (unsigned)(part * room + 0.5);
    span_text(s->eta, eta, sizeof eta);
    bytes_text(s->wan_rate, wan, sizeof wan);
    if (known) {
        print(c, "step %.0f of %.0f  ", s->step, s->steps);
        style(c, PART_0);
        repeat(c, "\u2588", "#", full);
        style(c, DIM);
        repeat(c, "\u2591", ".", room - full);
        style(c, PLAIN);
        print(c, "  %.0f %%", 100 * part);
        if (s->phase[0] && isfinite(s->eta) && s->eta > 0)
            print(c, "  %s left", eta);
    } else {
        put(c, "no step yet");
    }
    end_line(c);
    if (isfinite(s->epoch) && isfinite(s->epochs))
        print(c, "epoch %.0f of %.0f   ", s->epoch, ceil(s->epochs));   /* the last may be a part of one */
    if (isfinite(s->lr))
        print(c, "learning rate %.3g   ", s->lr);
    if (isfinite(s->rate))
        print(c, "%.0f samples/s   ", s->rate);
    if (isfinite(s->wan_rate) && s->site_count > 1)
        print(c, "between sites %s/s", wan);
    end_line(c);
}

static double mean_loss(const struct top_state *s, unsigned from, unsigned to)
{
    double sum = 0;
    unsigned n = 0;
    for (unsigned i = from; i < to; i++)
        if (isfinite(s->tail[i].loss)) {
            sum += s->tail[i].loss;
            n++;
        }
    return n ? sum / n : NAN;
}

static void draw_loss(struct canvas *c, const struct top_state *s)
{
    static const char *const bars[] = {"\u2581", "\u2582", "\u2583", "\u2584", "\u2585", "\u2586", "\u2587", "\u2588"};
    static const char *const plain[] = {"_", ".", "-", "~", "=", "+", "*", "#"};
    double low = INFINITY, high = -INFINITY, v[TOP_TAIL];
    unsigned n = MIN(c->look->width, s->tail_count);
    for (unsigned i = 0; i < n; i++) {
        v[i] = mean_loss(s, (unsigned)((uint64_t)i * s->tail_count / n), (unsigned)((uint64_t)(i + 1) * s->tail_count / n));
        low = fmin(low, v[i]);
        high = fmax(high, v[i]);
    }
    if (!(low <= high))
        return;
    heading(c, "loss");
    print(c, "  %.4g", s->tail[s->tail_count - 1].loss);
    style(c, DIM);
    print(c, "   %.4g to %.4g over the last %u steps", low, high, s->tail_count);
    end_line(c);
    style(c, PART_0);
    for (unsigned i = 0; i < n; i++) {
        unsigned k = isfinite(v[i]) && high > low ? (unsigned)((v[i] - low) / (high - low) * 7.999) : 0;
        put(c, c->look->unicode ? bars[k] : plain[k]);
    }
    end_line(c);
}

static void draw_split(struct canvas *c, const struct top_state *s)
{
    const char *const names[METRIC_PARTS] = {"computing", "sums in a site", s->site_count == 1 ? "commit" : "between sites", "data wait", "checkpoint"};
    double v[METRIC_PARTS], total = 0;
    char text[40];
    for (unsigned k = 0; k < METRIC_PARTS; k++) {
        v[k] = usual(s, k);
        total += isfinite(v[k]) ? v[k] : 0;
    }
    if (!(total > 0))
        return;
    span_text(total, text, sizeof text);
    heading(c, "a step");
    print(c, "  %s", text);
    end_line(c);
    unsigned room = c->look->width > 60 ? MIN(c->look->width - 40, 60u) : 12;
    for (unsigned k = 0; k < METRIC_PARTS; k++) {
        if (!isfinite(v[k]))
            continue;
        unsigned full = (unsigned)(v[k] / total * room + 0.5);
        span_text(v[k], text, sizeof text);
        print(c, "%-15s", names[k]);
        style(c, (enum style)(PART_0 + k));
        repeat(c, "\u2588", "#", full);
        style(c, PLAIN);
        pad_to(c, 15 + room);
        print(c, " %9s %4.0f %%", text, 100 * v[k] / total);
        end_line(c);
    }
}

static void draw_ranks(struct canvas *c, unsigned up, unsigned ranks)
{
    unsigned shown = MIN(ranks, 16u);
    style(c, GOOD);
    repeat(c, "\u25a0", "#", MIN(up, shown));
    style(c, BAD);
    repeat(c, "\u25a1", "-", shown - MIN(up, shown));
    style(c, PLAIN);
    print(c, " %u/%u", up, ranks);
}

static void draw_sites(struct canvas *c, const struct top_state *s)
{
    unsigned name = 8;
    bool answers = s->phase[0];
    char sent[40];
    for (unsigned i = 0; i < s->site_count; i++)
        name = MAX(name, MIN((unsigned)strlen(s->site[i].name), 24u));
    heading(c, "site");
    style(c, DIM);
    pad_to(c, name + 2);
    put(c, answers ? "ranks up" : "ranks");
    pad_to(c, name + 26);
    put(c, answers ? "shards up" : "");
    pad_to(c, name + 38);
    put(c, s->site_count > 1 ? "sent to others" : "");
    end_line(c);
    for (unsigned i = 0; i < s->site_count; i++) {
        print(c, "%.*s", (int)name, s->site[i].name);
        pad_to(c, name + 2);
        if (answers)
            draw_ranks(c, s->site[i].up, s->site[i].ranks);
        else
            print(c, "%u", s->site[i].ranks);
        pad_to(c, name + 26);
        if (answers && s->site[i].shards)
            print(c, "%u/%u", s->site[i].shards_up, s->site[i].shards);
        pad_to(c, name + 38);
        bytes_text(s->site[i].sent, sent, sizeof sent);
        if (s->site_count > 1)
            put(c, sent);
        end_line(c);
    }
}

static void draw_events(struct canvas *c, const struct top_state *s)
{
    unsigned used = c->lines + 3, room = c->look->height > used ? c->look->height - used : 0;   /* a heading with its gap, the foot */
    unsigned n = MIN(s->event_count, c->look->height ? room : 12u);
    if (!n)
        return;
    heading(c, "events");
    end_line(c);
    for (unsigned i = s->event_count - n; i < s->event_count; i++) {
        const struct top_event *e = &s->event[i];
        style(c, DIM);
        print(c, "%s ", e->time);
        style(c, tone_of(e->event) == GOOD ? PLAIN : tone_of(e->event));
        print(c, "%-11s ", e->event);
        style(c, PLAIN);
        print(c, "%-18s %6llu  %s", e->who, e->step, e->text);
        end_line(c);
    }
}

void top_draw(const struct top_state *s, const struct top_look *look, char **text)
{
    size_t size;
    struct canvas c = {.out = open_memstream(text, &size), .look = look};
    CHECK(c.out != NULL);
    draw_head(&c, s);
    draw_progress(&c, s);
    draw_loss(&c, s);
    draw_split(&c, s);
    draw_sites(&c, s);
    draw_events(&c, s);
    CHECK(fclose(c.out) == 0);
}
