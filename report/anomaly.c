/* Anomalies by robust z-score: how many scaled median deviations a value lies above the median of the last steps. Pure.
 *
 * A median deviation alone is not enough: steps that all take 40.0 ms have almost none, so it has a floor; and a step that takes three times as long as usual
 * because a disk was busy is no news, so a value must also be out of proportion. Both limits come from runs on crowded machines (docs/decisions/). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "report/report.h"

#define SEEN_MIN 20                   /* steps before anything is judged */
#define QUIET_STEPS 64                /* after a report: by then the window has got used to what is new */
#define MAD_TO_DEVIATION 1.4826       /* of a normal distribution */
#define ROW_LENGTH 3

/* floor: least deviation, as a part of the median. least: and as such, for values that are nothing beside it. ratio: to the median, at least. excess: above
 * it, at least, unless ROW_LENGTH are high in a row. */
static const struct limits { double z, floor, least, ratio, excess; } limits_of[ANOMALY_KINDS] = {
    [ANOMALY_LOSS] = {.z = 8, .floor = 0.02, .least = 1e-12, .ratio = 1.5, .excess = 0},
    [ANOMALY_STEP_SECONDS] = {.z = 8, .floor = 0.05, .least = 1e-3, .ratio = 5, .excess = 0.1},
};

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median_of(double *v, unsigned n)
{
    qsort(v, n, sizeof *v, ascending);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

static void measure(const struct anomaly_series *s, const struct limits *l, double value, struct anomaly_seen *out)
{
    double v[ANOMALY_WINDOW];
    memcpy(v, s->window, s->count * sizeof v[0]);
    double median = median_of(v, s->count);
    for (unsigned i = 0; i < s->count; i++)
        v[i] = fabs(s->window[i] - median);
    double deviation = fmax(MAD_TO_DEVIATION * median_of(v, s->count), fmax(l->floor * fabs(median), l->least));
    *out = (struct anomaly_seen){.value = value, .median = median, .z = (value - median) / deviation};
}

static bool is_high(const struct limits *l, const struct anomaly_seen *seen)
{
    return seen->z >= l->z && seen->value - seen->median >= (l->ratio - 1) * fabs(seen->median);
}

bool anomaly_see(struct anomaly *a, enum anomaly_kind kind, double value, struct anomaly_seen *out)
{
    struct anomaly_series *s = &a->series[kind];
    const struct limits *l = &limits_of[kind];
    bool alarming = false;
    if (!isfinite(value))
        return false;
    if (s->count >= SEEN_MIN) {
        measure(s, l, value, out);
        s->high_in_a_row = is_high(l, out) ? s->high_in_a_row + 1 : 0;
        alarming = s->high_in_a_row >= ROW_LENGTH || (s->high_in_a_row && out->value - out->median >= l->excess);
    }
    bool told = alarming && s->quiet == 0;
    s->quiet = told ? QUIET_STEPS : s->quiet - (s->quiet > 0);
    s->window[s->next] = value;
    s->next = (s->next + 1) % ANOMALY_WINDOW;
    s->count += s->count < ANOMALY_WINDOW;
    return told;
}

void anomaly_forget(struct anomaly *a) { *a = (struct anomaly){0}; }
