/* Where a step's time goes at this rank. The trainer's thread reads the clock a few times a step and keeps the result; the loop's thread tells the coordinator
 * at its next tick, so no step ever waits for it. */
#include <string.h>

#include "client/client.h"

static double seconds_since(uint64_t *since_ns)
{
    uint64_t now = clock_now_ns();
    double seconds = (double)(now - *since_ns) / 1e9;
    *since_ns = now;
    return seconds;
}

void times_start(struct viaduct *v)
{
    memset(v->spent.seconds, 0, sizeof v->spent.seconds);
    v->spent.seconds[TIME_DATA] = v->spent.seconds[TIME_CHECKPOINT] = -1;
    v->spent.since_ns = clock_now_ns();
}

void times_add(struct viaduct *v, enum time_part part)
{
    v->spent.seconds[part] += seconds_since(&v->spent.since_ns);
}

void viaduct_data_wait(struct viaduct *v, double seconds)
{
    v->spent.seconds[TIME_DATA] = MAX(v->spent.seconds[TIME_DATA], 0.0) + MAX(seconds, 0.0);
}

void times_keep(struct viaduct *v, uint64_t round)
{
    struct msg_times *m = &v->times;
    double data = MAX(v->spent.seconds[TIME_DATA], 0.0);
    if (m->count == TIMES_LIMIT)
        memmove(m->step, m->step + 1, --m->count * sizeof m->step[0]);
    struct step_times *t = &m->step[m->count++];
    t->round = round;
    for (unsigned k = 0; k < TIME_PARTS; k++)
        t->seconds[k] = (float)v->spent.seconds[k];
    t->seconds[TIME_COMPUTE] = (float)MAX(v->spent.seconds[TIME_COMPUTE] - data, 0.0);
}

void times_tell(struct viaduct *v)
{
    struct msg_times *m = &v->times, held = {.generation = v->view.view.generation};
    if (v->host && ps_host_held(v->host, &held.step[0])) {
        held.count = 1;
        ps_member_send(v->member, MSG_TIMES, v->view.view.number, &held, NULL, 0);
    }
    if (!m->count)
        return;
    m->generation = v->view.view.generation;
    ps_member_send(v->member, MSG_TIMES, v->view.view.number, m, NULL, 0);
    m->count = 0;
}
