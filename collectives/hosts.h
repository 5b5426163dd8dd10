/* Ranks on hosts: who sums and sends what, as a pure function of the gang's shape. */
#ifndef VIADUCT_COLLECTIVES_HOSTS_H
#define VIADUCT_COLLECTIVES_HOSTS_H

#include "collectives/transport.h"
#include "net/msg.h"

struct hosts {
    unsigned ranks, count;            /* count: of hosts, numbered densely in the order of their first ranks */
    uint16_t of[LANES_MAX], place[LANES_MAX];   /* by rank: its host, and which of that host's ranks it is */
    uint16_t size[LANES_MAX], rank[LANES_MAX][LANES_MAX];   /* by host: its ranks, ascending */
    uint16_t node_count[LANES_MAX];   /* by host: the maximal tree nodes inside its ranks' lanes, ascending */
    struct lane_range node[LANES_MAX][LANES_MAX];
};
void hosts_plan(const struct coll_config *c, const uint16_t *host_of_rank, struct hosts *out);

/* Part i of n of a run: whole cache lines, nearly equal. */
struct part { uint64_t first, count; };
struct part hosts_part(uint64_t elems, unsigned i, unsigned n);
/* Of the run of `to`, the elements that `from`, on another host, sums over its host's lanes and sends to `to`. */
struct part hosts_sums(const struct hosts *h, const struct coll_run *run, unsigned from, unsigned to);
/* Of the run of `from`, the weights that it sends to `to`, which writes them where its whole host reads them. */
struct part hosts_weights(const struct hosts *h, const struct coll_run *run, unsigned from, unsigned to);
/* Whether `to` is the one rank on its host that hears of `from` at the start of each round. */
bool hosts_hears(const struct hosts *h, unsigned from, unsigned to);

#endif
