/* metrics.jsonl. The times of a round are told after its commit, when its ranks have seen it published: its line waits for them, but not long. */
#include "coordinator/shell.h"

#include <string.h>

#define WAIT_MS 300

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

void shell_metrics_write(struct shell *s, bool all)
{
    struct metric m;
    uint64_t now = s->loop ? loop_now_ms(s->loop) : 0;
    for (uint64_t r = s->metrics.written; r < s->history.count && s->metrics.file && !s->superseded; r++) {
        bool waits = s->history.round[r].samples && !whole(s, r) && now - committed_ms(s, r) < WAIT_MS;
        if (waits && !all)
            return;
        if (history_metric(&s->history, r, &m))
            report_metric(s->metrics.file, &m);
        s->metrics.written = r + 1;
    }
}

int shell_metrics_rewrite(struct shell *s, struct err *err)
{
    char path[700];
    snprintf(path, sizeof path, "%s/metrics.jsonl", s->run.path);
    TRY(history_write_metrics(&s->history, path, &s->metrics.file, err));
    s->metrics.written = s->history.count;
    return 0;
}

void shell_metrics_committed(struct shell *s, uint64_t round)
{
    unsigned at = round % ARRAY_LEN(s->metrics.due);
    s->metrics.due[at].round = round;
    s->metrics.due[at].at_ms = loop_now_ms(s->loop);
    shell_metrics_write(s, false);
}

void shell_metrics_times(struct shell *s, const struct msg_times *m)
{
    if (m->generation != core_view(s->core)->generation)
        return;
    for (unsigned i = 0; i < m->count; i++)
        history_times(&s->history, &m->step[i]);
    shell_metrics_write(s, false);
}
