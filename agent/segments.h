/* Shared memory of this site's gangs: what a dead gang leaves, and what goes with the run. host: this one's number, so that hosts which one machine plays leave
 * each other's alone; -1: the site is this machine. */
#ifndef VIADUCT_AGENT_SEGMENTS_H
#define VIADUCT_AGENT_SEGMENTS_H

#include <stdbool.h>
#include <stdint.h>

/* Every wait inside that gang returns; its segment goes. */
void segments_end_gang(const char *job, const char *site, int host, uint32_t incarnation);
/* Removes the gang segments of an earlier start that `lives` does not claim: a power cut leaves them. */
void segments_sweep(const char *job, const char *site, int host, bool (*lives)(void *arg, uint32_t incarnation), void *arg);
/* The end of the run: versions of ranks `first` to `end` - 1 that were kept for a relaunched gang. */
void segments_end_run(const char *job, const char *site, unsigned first, unsigned end);

#endif
