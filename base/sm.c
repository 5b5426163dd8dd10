#include "base/sm.h"

#include "base/err.h"

void sm_init(struct sm *m, const struct sm_state *states, unsigned count, unsigned start)
{
    CHECK(count <= 32 && start < count);
    *m = (struct sm){.states = states, .count = count, .now = start};
}

void sm_move(struct sm *m, unsigned to)
{
    CHECK(to < m->count);
    CHECK(m->states[m->now].allowed >> to & 1);
    m->now = to;
}
