/* The inside of the transport "tcp", in two threads: tcp.c, the trainer's, makes rounds; tcp_in.c, the port's, takes what arrives. */
#ifndef VIADUCT_COLLECTIVES_TCP_H
#define VIADUCT_COLLECTIVES_TCP_H

#include <pthread.h>

#include "collectives/hosts.h"
#include "collectives/port.h"
#include "collectives/segment.h"

#define NO_SLOT UINT16_MAX
#define NO_BODY UINT8_MAX

enum operation { OP_OPEN, OP_REDUCE, OP_GATHER, OP_EXCHANGE, OPERATIONS };
struct operation_text { const char *name; uint8_t head, body; };   /* enum insite_kind of its first message, and of its data */
extern const struct operation_text tcp_operations[OPERATIONS];

struct incoming { bool any, head; enum operation op; uint64_t elems; };   /* of one round from one rank */

struct tcp {                          /* struct coll's state */
    struct coll *c;
    struct segment segment;
    struct hosts hosts;
    struct coll_run run[LANES_MAX];
    unsigned host;                    /* own */
    uint64_t shape;
    bool attached, told;
    float *received;                  /* other hosts' sums over the own blocks: [host's nodes][own elements] */
    unsigned received_at[LANES_MAX];  /* by host: its first node there */
    float *slot;
    size_t received_bytes, slot_bytes, slot_floats;
    unsigned terms;                   /* of the own sums, in lane order: lanes of this host and nodes of the others */
    struct lane_range term[LANES_MAX];
    const float *term_at[LANES_MAX];
    enum operation before;            /* the last one finished */
    uint64_t until_ms;                /* for what other hosts send in this round */
    pthread_mutex_t lock;             /* of all that follows */
    pthread_cond_t wake;
    uint64_t begun;                   /* rounds that this rank has entered */
    bool busy;                        /* in the last of them */
    enum operation op;
    struct incoming in[2][LANES_MAX]; /* by round modulo 2, by rank */
    unsigned unsent, unsent_to[LANES_MAX], free_slots;    /* free_slots: bits */
    bool gone[LANES_MAX];
    char first_gone[SEGMENT_WHY_BYTES];       /* why the first link broke */
    char unreachable[SEGMENT_WHY_BYTES];
};

static inline bool tcp_is_remote(const struct tcp *t, unsigned rank) { return t->hosts.of[rank] != t->host; }
void tcp_rank_text(const void *tcp, unsigned rank, char out[256]);
/* Everybody on this host wakes, and the other hosts are told once; the trainer's thread meets it in its present wait, or in the next. Any thread. */
int tcp_give_up(struct tcp *t, const char *why, struct err *err);
bool tcp_all_of(const struct tcp *t, unsigned from);     /* locked: nothing of the present round is missing from it */
extern const struct port_ops tcp_port_ops;

#endif
