/* An MPI world that a person started, as the gang of this site (--external-gang): invited once by a file, watched through the process of its rank 0, which
 * mpirun ends when any rank dies. It cannot be launched again: after its end the site goes, or the run. */
#ifndef VIADUCT_AGENT_WORLD_H
#define VIADUCT_AGENT_WORLD_H

#include "net/net.h"

struct world;
/* Which world, VIADUCT_WORLD and VIADUCT_WORLD_PROCESS ("PID START-TICKS") say. `gone` is called once, from the loop. */
int world_open(struct loop *l, const char *run_dir, const char *site, void (*gone)(void *arg), void *arg, struct world **out, struct err *err);
void world_close(struct world *w);      /* before loop_free; NULL is none */
/* The incarnation that this world was invited as, also by an agent before this one; 0: none yet. */
uint32_t world_invited(const struct world *w);
bool world_is_gone(const struct world *w);
int world_invite(struct world *w, uint32_t incarnation, struct err *err);
/* Its end as its ranks told it: index, code, signal and text of *m. */
void world_last_words(const struct world *w, struct msg_exited *m);

#endif
