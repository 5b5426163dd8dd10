/* State machines as data: per state a name and the set of states it may move to. A forbidden move is our mistake (CHECK). */
#ifndef VIADUCT_BASE_SM_H
#define VIADUCT_BASE_SM_H

#include <stdint.h>

struct sm_state { const char *name; uint32_t allowed; };   /* allowed: bit per successor */
struct sm { const struct sm_state *states; unsigned count; unsigned now; };

void sm_init(struct sm *m, const struct sm_state *states, unsigned count, unsigned start);
void sm_move(struct sm *m, unsigned to);
static inline const char *sm_name(const struct sm *m) { return m->states[m->now].name; }

#endif
