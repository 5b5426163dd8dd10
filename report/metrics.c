/* One line of metrics.jsonl, both ways; the event of an anomaly. What was not measured is null in the file and NAN in the struct. */
#include "report/report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

const char *const metric_part_name[METRIC_PARTS] = {"compute", "inside", "between", "data", "checkpoint"};

static void add_number(FILE *f, const char *key, const char *suffix, const char *format, double v)
{
    fprintf(f, ",\"%s%s\":", key, suffix);
    if (isfinite(v))
        fprintf(f, format, v);
    else
        fputs("null", f);
}

void report_metric(FILE *f, const struct metric *m)
{
    char rate[NUMBER_TEXT_BYTES];         /* a float's digits: 0.01 */
    if (!f)
        return;
    fprintf(f, "{\"step\":%llu,\"epoch\":%llu", (unsigned long long)m->step, (unsigned long long)m->epoch);
    add_number(f, "loss", "", "%.9g", m->loss);
    number_text_float(rate, (float)m->lr);
    fprintf(f, ",\"lr\":%s", isfinite(m->lr) ? rate : "null");
    fprintf(f, ",\"samples\":%llu", (unsigned long long)m->samples);
    add_number(f, "seconds", "", "%.3f", m->seconds);
    add_number(f, "accuracy", "", "%.6g", m->accuracy);
    for (unsigned k = 0; k < METRIC_PARTS; k++)
        add_number(f, metric_part_name[k], "_seconds", "%.5g", m->part[k]);
    for (unsigned k = 0; k < METRIC_PARTS; k++)
        add_number(f, metric_part_name[k], "_max_seconds", "%.5g", m->part_max[k]);
    fputs("}\n", f);
    fflush(f);
}

void report_anomaly(FILE *f, uint64_t step, enum anomaly_kind kind, const struct anomaly_seen *seen, char text[200])
{
    static const struct { const char *key, *what, *unit; } of[ANOMALY_KINDS] = {{"loss", "the loss is", ""}, {"step_seconds", "this step took", " s"}};
    char stamp[32], quoted[420];
    snprintf(text, 200, "%s %.4g%s, usual is %.4g%s (median of the last %d steps; robust z-score %.1f)", of[kind].what, seen->value, of[kind].unit, seen->median,
             of[kind].unit, ANOMALY_WINDOW, seen->z);
    if (!f)
        return;
    time_text(stamp);
    json_quote(quoted, sizeof quoted, text);
    fprintf(f, "{\"time\":\"%s\",\"event\":\"anomaly\",\"who\":\"coordinator\",\"step\":%llu,\"text\":%s,\"of\":\"%s\",\"value\":%.9g,\"median\":%.9g,"
               "\"z\":%.4g}\n", stamp, (unsigned long long)step, quoted, of[kind].key, seen->value, seen->median, seen->z);
    fflush(f);
}

static double number_at(const char *line, const char *key, const char *suffix)
{
    char wanted[64];
    snprintf(wanted, sizeof wanted, "\"%s%s\":", key, suffix);
    const char *at = strstr(line, wanted);
    char *end;
    if (!at)
        return NAN;
    at += strlen(wanted);
    double v = strtod(at, &end);
    return end == at || !isfinite(v) ? NAN : v;
}

bool metric_read(const char *line, struct metric *m)
{
    double step = number_at(line, "step", ""), epoch = number_at(line, "epoch", ""), samples = number_at(line, "samples", "");
    if (!strchr(line, '}') || !(step >= 1 && step < 9e15) || !(epoch >= 0 && epoch < 9e15) || !(samples >= 0 && samples < 9e15))
        return false;                     /* the last line of a process that was killed may be cut */
    *m = (struct metric){.step = (uint64_t)step, .epoch = (uint64_t)epoch, .samples = (uint64_t)samples, .loss = number_at(line, "loss", ""),
                         .lr = number_at(line, "lr", ""), .seconds = number_at(line, "seconds", ""), .accuracy = number_at(line, "accuracy", "")};
    for (unsigned k = 0; k < METRIC_PARTS; k++) {
        m->part[k] = number_at(line, metric_part_name[k], "_seconds");
        m->part_max[k] = number_at(line, metric_part_name[k], "_max_seconds");
    }
    return true;
}
