#include "collectives/hosts.h"

#include <string.h>

#define LINE_FLOATS 16u

/* Lanes that follow each other make larger nodes, also when several ranks hold them. */
static void find_nodes(const struct coll_config *c, struct hosts *h, unsigned host)
{
    struct lane_range found[LANE_NODES_MAX], run = {0, 0};
    unsigned n = 0;
    for (unsigned i = 0; i <= h->size[host]; i++) {
        struct lane_range lanes = i < h->size[host] ? coll_lanes_of(c, h->rank[host][i]) : (struct lane_range){0, 0};
        if (i < h->size[host] && lanes.lo == lanes.hi)
            continue;
        if (i < h->size[host] && run.hi == lanes.lo && run.lo < run.hi) {
            run.hi = lanes.hi;
            continue;
        }
        unsigned count = lane_nodes(c->lanes, run, found);
        memcpy(h->node[host] + n, found, count * sizeof *found);
        n += count;
        run = lanes;
    }
    h->node_count[host] = (uint16_t)n;
}

void hosts_plan(const struct coll_config *c, const uint16_t *host_of_rank, struct hosts *out)
{
    uint16_t name[LANES_MAX];
    *out = (struct hosts){.ranks = c->ranks};
    for (unsigned r = 0; r < c->ranks; r++) {
        unsigned host = 0;
        while (host < out->count && name[host] != host_of_rank[r])
            host++;
        if (host == out->count)
            name[out->count++] = host_of_rank[r];
        out->of[r] = (uint16_t)host;
        out->place[r] = out->size[host];
        out->rank[host][out->size[host]++] = (uint16_t)r;
    }
    for (unsigned host = 0; host < out->count; host++)
        find_nodes(c, out, host);
}

struct part hosts_part(uint64_t elems, unsigned i, unsigned n)
{
    uint64_t first = i == 0 ? 0 : elems * i / n / LINE_FLOATS * LINE_FLOATS, end = i + 1 == n ? elems : elems * (i + 1) / n / LINE_FLOATS * LINE_FLOATS;
    return (struct part){first, end - first};
}

struct part hosts_sums(const struct hosts *h, const struct coll_run *run, unsigned from, unsigned to)
{
    unsigned host = h->of[from];
    return hosts_part(h->node_count[host] ? run[to].elems : 0, h->place[from], h->size[host]);
}

struct part hosts_weights(const struct hosts *h, const struct coll_run *run, unsigned from, unsigned to)
{
    return hosts_part(run[from].elems, h->place[to], h->size[h->of[to]]);
}

bool hosts_hears(const struct hosts *h, unsigned from, unsigned to)
{
    return h->of[from] != h->of[to] && h->place[to] == h->place[from] % h->size[h->of[to]];
}

uint64_t coll_round_bytes(const struct coll_config *c, unsigned from_host, unsigned to_host)
{
    struct coll_run run[LANES_MAX];
    struct err ignored = ERR_INIT;
    struct hosts h;
    uint64_t floats = 0, lanes = 0, nodes = 0;
    if (coll_runs(c, run, &ignored) < 0)
        return 0;
    hosts_plan(c, c->where->host, &h);
    for (unsigned r = 0; r < c->ranks; r++)
        if (c->where->host[r] == from_host)
            nodes = h.node_count[h.of[r]];
    for (unsigned r = 0; r < c->ranks; r++) {
        struct lane_range own = coll_lanes_of(c, r);
        if (c->where->host[r] == from_host) {
            floats += run[r].elems;
            lanes += own.hi - own.lo;
        } else if (c->where->host[r] == to_host) {
            floats += nodes * run[r].elems;
        }
    }
    return floats * sizeof(float) + lanes * sizeof(struct lane_totals);
}
