/* The inside of client/: client.c (joining, messages, views), rounds.c (pull, gather, contribute), and the state they share.
 *
 * Two threads: the trainer's, which calls viaduct.h and waits on `wake`; and the loop's, which owns every link. `lock` guards everything below it.
 * Weights of the own blocks are written by the loop's thread into the gang's shared memory while the trainer waits (phase WAITING), never else. */
#ifndef VIADUCT_CLIENT_CLIENT_H
#define VIADUCT_CLIENT_CLIENT_H

#include <pthread.h>
#include "base/base.h"
#include "base/rule.h"
#include "client/viaduct.h"
#include "collectives/collectives.h"
#include "net/net.h"
#include "ps/ps.h"

/* Rules of the round protocol that a rank enforces; see base/rule.h. */
#define RULE_EPPULL    RULE(EPPULL)    /* answers of another view are dropped */
#define RULE_GENPULL   RULE(GENPULL)   /* answers of another generation are dropped */

/* AGREEING: this rank's pieces are level and stay as they are, while other ranks may still need its seeds and contributions. */
enum client_phase { CLIENT_JOINING, CLIENT_WAITING, CLIENT_AGREEING, CLIENT_COMPUTING };

struct piece {                            /* what this rank owns of one shard */
    bool speaks;
    uint32_t first, count;                /* in the shard's own block order */
    uint64_t elems, offset;               /* floats without padding; first block's offset in the flat arena */
    bool have;                            /* all of it, at `version` */
    uint64_t version;
    uint32_t next, flying;                /* asked for in chunks: the next block, and what is not answered */
    bool flowing;                         /* the version wanted is there: chunks come */
    bool answered;                        /* some of it came since it was last asked for */
    uint64_t asked_ms, seeded_ms, sent_ms, patience_ms;   /* patience: until what was contributed is sent again */
    uint64_t received;                    /* over its source's link at the last tick */
};

struct viaduct {
    struct viaduct_config config;
    struct rundir run;
    char site[64];
    struct log log;
    struct identity *identity;
    struct msg_hello hello;
    struct layout layout;
    void *declaration_bytes;
    size_t declaration_size;
    struct loop *loop;
    pthread_t thread;
    bool running;

    pthread_mutex_t lock;                 /* not recursive: an embedded shard's answers are posted */
    pthread_cond_t wake;
    struct ps_member *member;
    struct ps_peers *peers;
    bool have_plan, have_view, have_gang, stopping;
    struct msg_plan plan;
    struct declaration declaration;
    struct msg_view view;
    struct msg_gang gang;                 /* where the ranks of this launch are: does not change once it is known */
    struct coll_port *port;               /* for ranks on other hosts; NULL: this site has one host */
    uint16_t host_index;                  /* of this site's hosts */
    struct err end;                       /* code < 0: this rank is over */
    struct msg_failed failed;             /* code < 0: told again over each new link to the coordinator */

    enum client_phase phase;
    struct coll *coll;
    bool touched;                         /* its memory */
    char segment[COLL_SEGMENT_BYTES];     /* of coll; set while it is being opened too */
    struct lane_range gang_lanes, lanes;  /* of the gang as opened (none at first); of this rank */
    unsigned gang_turn;                   /* counts openings: all ranks of a gang open together */
    struct handle put[LANES_MAX];         /* by lane: gradients on their way out of a device; each written by the thread that put it */
    uint32_t *shard_first;                /* first layout block of each shard */
    struct piece piece[SHARDS_LIMIT];
    uint64_t *held;                       /* by block of the layout: the version that came, plus one */
    uint64_t target;                      /* version wanted */
    bool contributed;                     /* `sums` belong to round target - 1 and stay until target is here */
    struct coll_sums sums;
    struct viaduct_step step;
    bool works;                           /* contributed before */
    struct { uint64_t since_ns; double seconds[TIME_PARTS]; } spent;   /* of the step under way; the trainer's own */
    struct msg_times times;               /* of finished steps, not yet told; when full the oldest give way */
    float *seed;                          /* the flat arena at version 0, made when first asked for */
    bool seed_wanted;                     /* of the trainer, while it waits: the loop's thread would be silent for as long as that takes */

    struct ps_disk *disk;                 /* embedded shards only */
    struct ps_host *host;
    struct ps_ram *ram;
    uint8_t *scratch;
    size_t scratch_size;
};

/* client.c */
void client_end(struct viaduct *v, const struct err *why);                 /* locked; the first reason stays */
bool client_send(struct viaduct *v, uint8_t slot, enum msg_type type, const void *m, const struct bytes *payload, unsigned pieces);
bool client_is_member(const struct viaduct *v);
int client_error(struct viaduct_error *out, const struct err *err);

void rounds_forget(struct viaduct *v);                                     /* the trainer's thread: what was put and not contributed is over with */
/* times.c: where the step's time goes. The first two in the trainer's thread; the others locked. */
void times_start(struct viaduct *v);                                       /* a step begins now */
void times_add(struct viaduct *v, enum time_part part);                    /* the time since the last of these calls was spent so */
void times_keep(struct viaduct *v, uint64_t round);                        /* that round is whole */
void times_tell(struct viaduct *v);                                        /* the loop's thread */

/* rounds.c; all locked, in the loop's thread */
void rounds_set_pieces(struct viaduct *v);
uint8_t rounds_primary(const struct viaduct *v, unsigned shard);           /* its slot; 255: none */
void rounds_view(struct viaduct *v);
void rounds_linked(struct viaduct *v, uint8_t slot);
void rounds_tick(struct viaduct *v);
void rounds_reply(struct viaduct *v, const struct msg_pullreply *m, const uint8_t *payload, size_t payload_size);

#endif
