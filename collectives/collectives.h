/* collectives: the ranks of one gang combine their lanes. Transports: "shm", own shared memory on one host; "tcp", shared memory on each host and TLS links
 * between hosts; and "mpi", a plugin.
 * No library adds floats: every rank sums its own blocks over all lanes, in tree order (base/lanes.h).
 *
 * A gang owns a contiguous lane range; rank r of R owns part r of it (coll_rank_lanes). Of the flat arena, rank r owns the blocks with
 * layout_shards(layout, R) == r, a contiguous run. A round is:
 *   fill coll_lane_buffer(lane) of the own lanes, or coll_put_lane from where they were computed -> coll_reduce: the sums over the gang's maximal tree nodes, of the own blocks
 *   -> (the client contributes them, pulls the new version of its own blocks into coll_weights) -> coll_gather: weights whole everywhere.
 * The bits of a node's sum depend on lanes and values only, never on ranks. A gang dies whole: after ERR_ABORTED only coll_close is left. */
#ifndef VIADUCT_COLLECTIVES_COLLECTIVES_H
#define VIADUCT_COLLECTIVES_COLLECTIVES_H

#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
#include "base/lanes.h"
#include "base/layout.h"
#include "device/device.h"

struct coll;
struct identity;
struct msg_gang;

/* ---- a port: where ranks on other hosts reach this one. Opened before it joins, because its address goes with the join; it accepts from then on. ---- */
struct coll_port;
struct coll_port_config {
    const char *address;              /* "tls:HOST:PORT", port 0: chosen; others must be able to reach it */
    const struct identity *identity;  /* a worker's; kept by the caller */
    const char *job, *site_name;
    uint8_t site;
    uint16_t rank;
    uint32_t incarnation;
};
int coll_port_open(const struct coll_port_config *config, struct coll_port **out, struct err *err);
const char *coll_port_address(const struct coll_port *p);        /* with the real port */
void coll_port_close(struct coll_port *p);                       /* after coll_close of what used it; NULL is none */

struct lane_totals {                  /* rides with a contribution: sums over samples */
    double loss_sum;
    uint64_t correct, samples;
    uint64_t nonfinite;
};

struct coll_config {
    const char *transport;            /* "shm": one host; "tcp": one host or many; "mpi": the ranks of MPI_COMM_WORLD, by the plugin */
    const char *segment;              /* shm, tcp: name of this host's POSIX segment, by coll_segment_name; made by whoever comes first */
    struct coll_port *port;           /* tcp: this rank's; one gang after another may use it. Kept by the caller, as is: */
    const struct msg_gang *where;     /* tcp: host and address of every rank */
    unsigned rank, ranks, lanes;
    struct lane_range gang;           /* may be empty: then rounds carry no lanes, weights still move */
    const struct layout *layout;      /* kept by the caller */
    bool sums_in_weights;             /* the first node's sum is made in the own blocks of coll_weights, for a caller that needs what stands there no more:
                                         a plain all-reduce is then coll_reduce, coll_gather. That sum lasts until those weights are written */
    uint64_t open_timeout_ms;         /* all ranks must have come by then */
    uint64_t timeout_ms;              /* of one wait inside a round: a slower peer aborts the gang */
};

int coll_open(const struct coll_config *config, struct coll **out, struct err *err);
void coll_close(struct coll *c);      /* the last one out removes the segment */
/* Any thread, any time, also from outside by coll_abort_segment: every wait of every rank returns ERR_ABORTED soon. */
void coll_abort(struct coll *c);
void coll_abort_segment(const char *segment);     /* aborts and unlinks: for the agent, after a member died */
#define COLL_SEGMENT_BYTES 160
void coll_segment_name(char out[COLL_SEGMENT_BYTES], const char *job, const char *site, uint32_t incarnation, unsigned turn, unsigned host);

/* Makes the memory of the own lanes and sums present, which the first round would wait for otherwise. For a thread that waits anyway. */
void coll_touch(struct coll *c);
struct lane_range coll_rank_lanes(const struct coll *c);
/* layout->elems floats; valid until the round's coll_reduce. Threads may fill different lanes at the same time. */
float *coll_lane_buffer(struct coll *c, unsigned lane);
/* The shared weights: layout->elems floats, 4096-aligned. Written (own blocks only) between coll_reduce and coll_gather. */
float *coll_weights(struct coll *c);
/* The same two for a trainer whose memory is a device's (or elsewhere on the host): layout->elems floats, copied in the order of the place's stream. What is
 * put may be overwritten by later calls of that stream; coll_reduce comes when *out is done. Nothing is copied onto itself. */
int coll_put_lane(struct coll *c, unsigned lane, struct memory from, struct handle *out, struct err *err);
int coll_get_weights(struct coll *c, struct memory to, struct handle *out, struct err *err);
void coll_owned_blocks(const struct coll *c, uint32_t *first, uint32_t *count);

struct coll_sums {                    /* of the own blocks, valid until the next coll_reduce */
    unsigned count;                   /* the gang's maximal nodes, in lane order */
    struct lane_range node[LANE_NODES_MAX];
    const float *sum[LANE_NODES_MAX];     /* [i] + (offset - first_offset): element `offset` of the arena */
    uint64_t first_offset, elems;         /* arena run that covers the own blocks */
    struct lane_totals totals[LANE_NODES_MAX];   /* of the node over the whole gang, the same on every rank */
};
/* totals: one for each own lane, in lane order. A barrier of the gang. */
int coll_reduce(struct coll *c, const struct lane_totals *totals, struct coll_sums *out, struct err *err);
/* After the own blocks of coll_weights were written: a barrier, then all of it may be read by everyone until the next coll_reduce. */
int coll_gather(struct coll *c, struct err *err);
/* Every rank gives 8 bytes and gets everyone's, by rank: agreement on versions. A barrier. */
int coll_exchange(struct coll *c, uint64_t mine, uint64_t *all, struct err *err);

/* tcp: bytes sent to another rank since the gang was opened: what had to cross (payload), and with TLS and headers (wire; what is queued counts later). */
struct coll_traffic { uint64_t payload, wire; };
void coll_traffic(const struct coll *c, unsigned to_rank, struct coll_traffic *out);
/* tcp: the payload that one round (reduce and gather) sends from one host to another: the least that gives these bits. */
uint64_t coll_round_bytes(const struct coll_config *c, unsigned from_host, unsigned to_host);

/* Plugins must match exactly: ABI size, version and build id of the program. */
struct coll_plugin_abi { uint32_t size, version; char build_id[48]; };

/* Whether the plugin of a transport is there and of this build: 0, ERR_NOT_FOUND, or ERR_CONFLICT naming both builds. */
int coll_plugin_check(const char *transport, struct err *err);

#endif
