/* One piece of shared memory for the ranks of a gang that are on one host: weights and lanes lie in it, so a gradient is written where its readers find it
 * and a weight where everybody reads it. Barriers are counters that a futex wakes. */
#ifndef VIADUCT_COLLECTIVES_SEGMENT_H
#define VIADUCT_COLLECTIVES_SEGMENT_H

#include <stdatomic.h>

#include "collectives/collectives.h"

#define SEGMENT_LOOK_MS 100           /* a wait looks at the abort flag and its deadline at least so often: a dead peer never hangs the others */
#define SEGMENT_WHY_BYTES 400

struct segment_head {
    uint64_t magic, elems;
    uint32_t members, lanes;
    atomic_uint aborted, arrived, phase, users, told;   /* told: 1 while `why` is being written, 2 once it can be read */
    char why[SEGMENT_WHY_BYTES];
    atomic_ullong here;                       /* bit per rank of this host that has come */
    atomic_uint at[LANES_MAX];                /* by rank: phases it has entered, so that a deadline names who has not */
    /* By round number, modulo 2: ranks on other hosts may be one round ahead of this host. */
    uint64_t exchange[2][LANES_MAX];          /* by rank */
    struct lane_totals totals[2][LANES_MAX];  /* by lane */
};

struct segment {
    char name[256];
    uint8_t *memory;                  /* NULL: not open */
    size_t size_bytes, stride;        /* stride: floats from one arena to the next */
    unsigned members, rank;
    void (*name_rank)(const void *arg, unsigned rank, char out[256]);   /* for people; NULL: by its number */
    const void *arg;
    struct segment_head *head;
    float *weights, *lane;            /* lane: `arenas` arenas */
};
struct segment_shape { unsigned members, lanes, arenas, rank; uint64_t elems; };   /* members: ranks on this host; lanes: of the job; rank: own */

/* Maps the segment, which whoever comes first makes, and waits for all members. segment_close follows in any case. */
int segment_open(struct segment *s, const char *name, const struct segment_shape *shape, uint64_t timeout_ms, struct err *err);
void segment_close(struct segment *s);            /* the last one out removes it */
int segment_barrier(struct segment *s, uint64_t timeout_ms, struct err *err);
/* Any thread. why: the first reason stays, and every member tells it; NULL: none is known. */
void segment_abort(struct segment *s, const char *why);
bool segment_aborted(const struct segment *s);
int segment_given_up(const struct segment *s, struct err *err);   /* ERR_ABORTED and why */

#endif
