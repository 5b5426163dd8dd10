/* metrics.jsonl, RUN/tb, anomalies. The times of a round are told after its commit, when its ranks have seen it published: its line waits for them, but not
 * long, and never holds up a commit. */
#include "coordinator/shell.h"

#include <math.h>
#include <time.h>

#define WAIT_MS 300                   /* after the next commit: every rank that gave to it had told the one before */
#define WAIT_MAX_MS 5000

/* Of this view's ranks; those of a gang that is about to be relaunched tell nothing. */
static unsigned ranks_of(const struct view *v)
{
    unsigned ranks = 0;
    for (unsigned i = 0; i < v->site_count; i++)
        ranks += v->gang[i].lanes.hi > v->gang[i].lanes.lo ? v->gang[i].ranks : 0;
    return ranks;
}

static uint64_t committed_ms(const struct shell *s, uint64_t round)
{
    unsigned at = round % ARRAY_LEN(s->metrics.due);
    return s->metrics.due[at].round == round ? s->metrics.due[at].at_ms : 0;
}

static bool whole(const struct shell *s, uint64_t round)
{
    const struct past *p = &s->history.round[round];
    return p->told >= ranks_of(core_view(s->core)) && (!p->checkpoint || p->part[TIME_CHECKPOINT] >= 0);
}

/* A round that takes long is the one whose times matter: as long as the next is not committed, a rank may still be in the middle of it. */
static bool may_come(const struct shell *s, uint64_t round, uint64_t now)
{
    return s->history.count > round + 1 ? now - committed_ms(s, round + 1) < WAIT_MS : now - committed_ms(s, round) < WAIT_MAX_MS;
}

/* NAN: the step before it is not known. */
static double step_seconds(const struct history *h, uint64_t round)
{
    return round > 0 && h->round[round - 1].samples ? h->round[round].seconds - h->round[round - 1].seconds : NAN;
}

static void look_for_anomalies(struct shell *s, uint64_t round, const struct metric *m)
{
    const struct history *h = &s->history;
    struct anomaly_seen seen;
    char text[200];
    /* A step in which the membership changed took its time for a reason that has events of its own. */
    bool same_view = round > 0 && h->round[round].view == h->round[round - 1].view;
    const double value[ANOMALY_KINDS] = {[ANOMALY_LOSS] = m->loss, [ANOMALY_STEP_SECONDS] = same_view ? step_seconds(h, round) : NAN};
    for (unsigned kind = 0; kind < ANOMALY_KINDS; kind++)
        if (anomaly_see(&s->metrics.anomaly, (enum anomaly_kind)kind, value[kind], &seen)) {
            s->scrape.anomalies[kind]++;
            report_anomaly(s->events, m->step, (enum anomaly_kind)kind, &seen, text);
            log_info(&s->log, "anomaly (step %llu): %s", (unsigned long long)m->step, text);
        }
}

static void to_tensorboard(struct shell *s, uint64_t round, const struct metric *m)
{
    double seconds = step_seconds(&s->history, round);
    if (s->metrics.tb)
        tb_step(s->metrics.tb, m, s->metrics.wall_at_zero + m->seconds, seconds > 0 ? (double)m->samples / seconds : NAN);
}

static void flush_tensorboard(struct shell *s)
{
    if (!s->metrics.tb || tb_flush(s->metrics.tb))
        return;
    log_warn(&s->log, "the disk does not take TensorBoard's events: the run goes on without them");
    tb_close(s->metrics.tb);
    s->metrics.tb = NULL;
}

void shell_metrics_write(struct shell *s, bool all)
{
    struct metric m;
    uint64_t now = s->loop ? loop_now_ms(s->loop) : 0, before = s->metrics.written;
    for (uint64_t r = before; r < s->history.count && s->metrics.file && !s->superseded; r++) {
        bool waits = s->history.round[r].samples && !whole(s, r) && may_come(s, r, now);
        if (waits && !all)
            break;
        s->metrics.written = r + 1;
        if (!history_metric(&s->history, r, &m))
            continue;
        report_metric(s->metrics.file, &m);
        for (unsigned k = 0; k < METRIC_PARTS; k++) {
            s->scrape.part[k] += isnan(m.part[k]) ? 0 : m.part[k];
            s->scrape.part_max[k] += isnan(m.part_max[k]) ? 0 : m.part_max[k];
        }
        to_tensorboard(s, r, &m);
        look_for_anomalies(s, r, &m);
    }
    if (s->metrics.written != before)
        flush_tensorboard(s);
}

static void rewrite_tensorboard(struct shell *s)
{
    char dir[700];
    struct err err = ERR_INIT;
    struct metric m;
    struct timespec t;
    uint64_t first = 0;
    clock_gettime(CLOCK_REALTIME, &t);
    s->metrics.wall_at_zero = (double)t.tv_sec + (double)t.tv_nsec / 1e9 - s->seconds_before - (double)(loop_now_ms(s->loop) - s->started_ms) / 1e3;
    tb_close(s->metrics.tb);
    s->metrics.tb = NULL;
    while (first < s->history.count && !s->history.round[first].samples)
        first++;
    snprintf(dir, sizeof dir, "%s/tb", s->run.path);
    if (tb_open(dir, first + 1, &s->metrics.tb, &err) < 0)
        log_warn(&s->log, "no TensorBoard events: %s", err.text);
    for (uint64_t r = first; r < s->history.count; r++)
        if (history_metric(&s->history, r, &m))
            to_tensorboard(s, r, &m);
    flush_tensorboard(s);
}

int shell_metrics_rewrite(struct shell *s, struct err *err)
{
    char path[700];
    snprintf(path, sizeof path, "%s/metrics.jsonl", s->run.path);
    TRY(history_write_metrics(&s->history, path, &s->metrics.file, err));
    s->metrics.written = s->history.count;
    anomaly_forget(&s->metrics.anomaly);
    rewrite_tensorboard(s);
    return 0;
}

void shell_metrics_committed(struct shell *s, uint64_t round)
{
    unsigned at = round % ARRAY_LEN(s->metrics.due);
    s->metrics.due[at].round = round;
    s->metrics.due[at].at_ms = loop_now_ms(s->loop);
}

void shell_metrics_times(struct shell *s, const struct msg_times *m)
{
    if (m->generation != core_view(s->core)->generation)
        return;
    for (unsigned i = 0; i < m->count; i++)
        history_times(&s->history, &m->step[i]);
    shell_metrics_write(s, false);
}

void shell_metrics_close(struct shell *s)
{
    if (s->metrics.file)
        fclose(s->metrics.file);
    tb_close(s->metrics.tb);
}
