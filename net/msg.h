/* Messages of the round protocol as plain structs, their limits, and one codec function for each that both encodes and decodes.
 * Bulk data (blocks) is not in here: it follows the body as the frame's payload, in the order that the body states.
 * The membership version is called view; epoch means a training pass everywhere. Rules: the design's round protocol. */
#ifndef VIADUCT_NET_MSG_H
#define VIADUCT_NET_MSG_H

#include <stdbool.h>
#include <stdint.h>
#include "base/cursor.h"
#include "base/lanes.h"
#include "base/phases.h"

enum {
    SITES_LIMIT = 8,
    SLOTS_LIMIT = 32,          /* processes that may hold shards */
    SHARDS_LIMIT = 32,
    COPIES_LIMIT = 4,          /* of one shard */
    COVER_LIMIT = LANES_MAX,   /* names in one cover */
    NAMES_LIMIT = 2 * LANES_MAX,   /* names held side by side by one shard in one round */
    RECORDS_LIMIT = 16,        /* in one message */
    HOSTS_LIMIT = LANES_MAX,   /* of one site: ranks are not more */
    INSITE_LIMIT = 1 << 24,    /* elements in one message between ranks */
    ADDRESS_LIMIT = 160,
    TEXT_LIMIT = 600,
    TIMES_LIMIT = 64,          /* steps in one message */
};

/* ---- who ---- */
enum role { ROLE_NONE, ROLE_COORDINATOR, ROLE_AGENT, ROLE_WORKER, ROLE_PS, ROLE_EXPORT, ROLE_CLI, ROLE_JOIN,
            ROLE_VIEWER /* only looks: in certificates, never in a message */ };
struct process_id {            /* a process, or one launch of it: a restarted one has another instance and no role */
    uint8_t role;              /* enum role */
    uint8_t site;              /* index in the plan */
    uint16_t index;            /* worker: rank in its gang; ps: slot */
    uint32_t instance;         /* worker: gang incarnation; ps: launch number of the slot; else 0 */
};

/* ---- the view: who holds what; logged and synced before anybody sees it ---- */
enum copy_role { COPY_NONE, COPY_PRIMARY, COPY_SYNC, COPY_COPYING };
enum base_from { BASE_SEED, BASE_CHECKPOINT, BASE_RAM };

struct view_shard { uint8_t copy_count; struct { uint8_t slot, role; } copy[COPIES_LIMIT]; };   /* role: enum copy_role */
struct view_slot { uint8_t site; bool up; uint32_t instance; };        /* up: has joined; agents launch the instance when it is not running */
struct view_gang { struct lane_range lanes; uint16_t ranks; uint32_t incarnation; bool wanted; }; /* one a site; wanted: agents keep it running */

struct view {
    uint32_t number, generation;
    uint64_t base;             /* version at which this generation starts */
    uint8_t base_from;         /* enum base_from */
    uint32_t base_generation;  /* of the checkpoint or RAM segments it starts from */
    uint64_t log_position;     /* of this view's log entry */
    uint8_t shard_count, slot_count, site_count;
    struct view_shard shard[SHARDS_LIMIT];
    struct view_slot slot[SLOTS_LIMIT];
    struct view_gang gang[SITES_LIMIT];
};

/* ---- names, records ---- */
struct name { struct lane_range lanes; uint32_t attempt; };   /* round and generation stand beside it; attempt: gang incarnation, 0 when deterministic */

struct totals { double loss_sum; uint64_t correct, samples, nonfinite; };

enum record_flag {
    RECORD_CHECKPOINT = 1, RECORD_LAST = 2,
    RECORD_MASKED = 4,         /* of phase prune: prunable weights that are exactly zero stay zero, and their moments with them */
};
struct record {                /* commit of one round: immutable, the only truth */
    uint64_t round;            /* applies to version `round`, makes version round + 1 */
    uint32_t generation, view; /* in which it was made */
    uint32_t pass;             /* ledger: samples [first, first + count) of the pass, counted from 0 */
    uint64_t first;
    uint32_t count;
    float lr, clip;            /* clip: factor, 1 when off */
    double norm;               /* of the mean gradient; -1 when not computed */
    uint8_t flags;             /* enum record_flag */
    float threshold;           /* with RECORD_MASKED: prunable weights below it become zero before the step; 0: none */
    struct totals totals;
    uint16_t cover_count;
    struct name cover[COVER_LIMIT];
};

/* ---- the job, known to everyone after joining: logged once ---- */
struct msg_plan {
    uint64_t rounds;           /* steps of the whole run: where the last phase ends */
    struct phases phases;
    uint64_t samples_per_pass;
    uint32_t batch;
    uint16_t lanes;
    bool deterministic;
    uint64_t seed;
    uint32_t checkpoint_every, ram_every;
    uint8_t shard_count, slot_count, site_count;
    bool embedded;             /* ps_shards: 0: slot i is rank i of the only gang */
    uint8_t slot_site[SLOTS_LIMIT];
    char site_name[SITES_LIMIT][64];
    uint8_t optim_kind;        /* enum optim_kind of engine.h */
    float weight_decay, beta1, beta2, eps, momentum, state_momentum;
    bool nesterov;
    double clip;               /* global norm, 0 off: shards report norms always */
    uint64_t layout_hash;      /* the encoded layout follows as payload; 0 and no payload: not known yet */
};

/* ---- messages ---- */
enum msg_type {
    MSG_HELLO = 1,             /* both ways, first on every link */
    MSG_JOIN, MSG_PLAN, MSG_VIEW, MSG_HEARTBEAT, MSG_LEAVE,
    MSG_CONTRIBUTE, MSG_REPLICATE, MSG_BLOCK, MSG_ACK,
    MSG_PREPARED, MSG_SUM, MSG_COMMIT,
    MSG_PULL, MSG_PULLREPLY, MSG_SEED,
    MSG_PART, MSG_MANIFEST, MSG_PUBLISHED,
    MSG_EXITED, MSG_LAUNCH, MSG_STOP, MSG_FAILED,
    MSG_STATUS, MSG_STATUSREPLY,
    MSG_ENROL, MSG_ENROLLED, MSG_DRAIN,
    MSG_GANG, MSG_INSITE,
    MSG_TIMES,
    MSG_BRINGS,
    MSG_READY,
    MSG_WARM,
    MSG_TYPES
};
const char *msg_type_name(enum msg_type type);

struct msg_join {              /* process -> coordinator, after HELLO */
    struct process_id who;
    uint64_t layout_hash;      /* worker: of the layout in the payload (the encoded layout), and */
    uint64_t samples_per_pass;
    uint64_t ram_version[2];   /* embedded worker: versions held whole in its RAM segment, + 1; 0: none */
    uint32_t ram_generation[2];
    char data_sha256[65];
    char address_unix[ADDRESS_LIMIT], address_tls[ADDRESS_LIMIT];   /* ps: where it listens; worker: where ranks on other hosts reach it, or "" */
    uint16_t host;             /* worker: index of its host in its site */
    uint16_t alive_count;      /* agent: what it supervises already (an adopting restart) */
    struct process_id alive[SLOTS_LIMIT + LANES_MAX];
};

struct msg_view {              /* coordinator -> all */
    struct view view;
    char address_unix[SLOTS_LIMIT][ADDRESS_LIMIT], address_tls[SLOTS_LIMIT][ADDRESS_LIMIT];
};

struct msg_contribute {        /* rank -> primary; payload: the blocks' sums, concatenated */
    uint32_t view, generation;
    uint64_t round;
    uint8_t shard;
    struct name name;
    struct totals totals;      /* of the whole name */
    uint32_t block_first, block_count;   /* indices in the shard's own block order */
};

struct msg_replicate {         /* primary -> in-sync and copying copies; payload: for each name with data, these blocks */
    uint32_t view, generation;
    uint8_t shard;
    uint64_t version;          /* the primary's: applied records */
    uint64_t stable;           /* every in-sync copy holds the records below it */
    uint64_t synced;           /* the coordinator's log is synced below it */
    uint16_t name_count;       /* contributions to round `version` */
    struct name name[NAMES_LIMIT];
    struct totals totals[NAMES_LIMIT];
    uint64_t with_data[2];     /* bit i: blocks of name i are in the payload */
    uint32_t block_first, block_count;   /* which; a large shard's come in several messages */
    uint8_t record_count;      /* consecutive */
    struct record record[RECORDS_LIMIT];
};

struct msg_block {             /* primary -> copying; payload: weights, then each optimizer slot, of that block */
    uint32_t view, generation;
    uint8_t shard;
    uint64_t version;
    uint32_t block;            /* index in the shard's own block order */
};

struct msg_ack {               /* copy -> primary */
    uint32_t view, generation;
    uint8_t shard;
    uint64_t version, records; /* records: holds all below */
    bool complete;
    uint16_t name_count;       /* held whole, of round `version` */
    struct name name[NAMES_LIMIT];
};

struct msg_prepared {          /* primary -> coordinator; the report of rule 3; payload: double norms2[norm_count], per block of the shard, then uint32_t bins[bin_count] */
    uint32_t view, generation;
    uint8_t shard;
    uint64_t version;
    uint16_t name_count;       /* held by all in-sync copies */
    struct name name[NAMES_LIMIT];
    uint16_t cover_count;      /* 0: none complete; its sum is what the norms are of */
    struct name cover[COVER_LIMIT];
    struct totals totals;      /* of the cover */
    uint64_t nonfinite;        /* values in the sum */
    uint32_t nonfinite_block;  /* first such block (layout index), when nonfinite > 0 */
    uint32_t norm_count;
    uint32_t bin_count;        /* at a ramp round of phase prune, with a cover: MAGNITUDE_BINS, the histogram of the prunable weights of this version; else 0 */
    uint8_t complete_mask;     /* bit i: copy i of the view's shard is a complete copy */
    uint8_t record_count;      /* not yet known to be synced */
    struct record record[RECORDS_LIMIT];
};

struct msg_sum { uint32_t view, generation; uint8_t shard; uint64_t version; uint16_t cover_count; struct name cover[COVER_LIMIT]; };

struct msg_commit {            /* coordinator -> primary */
    uint32_t view, generation;
    uint8_t shard;
    uint64_t synced;           /* log synced below this round */
    uint8_t record_count;
    struct record record[RECORDS_LIMIT];
};

struct msg_pull {              /* rank -> primary or in-sync copy: answered when the version is published */
    uint32_t view, generation;
    uint8_t shard;
    uint64_t version;
    uint32_t block_first, block_count;
};

enum pull_status { PULL_OK, PULL_NEED_SEED };
struct msg_pullreply {         /* payload: weights of the parameter and state blocks asked for */
    uint32_t view, generation;
    uint8_t shard, status;     /* enum pull_status */
    uint64_t version;
    struct record record;      /* that made the version; round = UINT64_MAX when none (a base) */
    uint32_t block_first, block_count;
};

struct msg_seed {              /* rank -> every in-sync copy: initial weights of version 0; payload as PULLREPLY */
    uint32_t view, generation;
    uint8_t shard;
    uint32_t block_first, block_count;
};

struct msg_part {              /* writer -> coordinator: a checkpoint part lies in its site's folder, synced */
    uint8_t site, shard;
    uint32_t generation;
    uint64_t step, size_bytes;
    uint8_t sha256[32];
    uint64_t record_round;     /* of the record that made the version */
};

struct msg_manifest {          /* coordinator -> agents: decided; payload: the manifest's bytes */
    uint32_t generation;
    uint64_t step;
    uint64_t site_mask;        /* sites that hold all parts */
};
struct msg_published { uint8_t site; uint32_t generation; uint64_t step; bool ok; char text[TEXT_LIMIT]; };

struct msg_exited {            /* agent -> coordinator: a child is gone */
    struct process_id who;
    int32_t code, signal;
    char text[TEXT_LIMIT];     /* last error line the child reported */
};

enum launch_what { LAUNCH_EXPORT };
struct msg_launch { uint8_t what; uint32_t attempt; uint64_t step; uint32_t generation; };

enum stop_why { STOP_FINISHED, STOP_REQUESTED, STOP_FAILED, STOP_DRAINED };   /* drained: this site alone; requested: the run, which may be resumed */
struct msg_stop { uint8_t why; };                 /* coordinator -> all: end; cli, agent -> coordinator: save and stop */
struct msg_failed { struct process_id who; int32_t code; uint64_t step; char text[TEXT_LIMIT]; };   /* anyone -> coordinator: the job cannot go on */
struct msg_heartbeat { struct process_id who; uint64_t version, wan_sent_bytes; };   /* wan: to other sites, since start */
struct msg_leave { struct process_id who; };      /* an orderly end: not a death */
struct msg_status { uint8_t what; };              /* cli -> coordinator: 0 */
struct msg_enrol { char site[64], secret[80]; };  /* role join -> coordinator: a token's secret, good once */
struct msg_enrolled { char name[128]; };          /* the job's name; payload: the files of a run directory for that site, see coordinator/enrol.c */
struct msg_brings { uint16_t ranks; };           /* agent of a visiting site -> coordinator, before JOIN: its gang is an MPI world of this size (FEATURE_BRINGS) */
struct msg_drain { uint8_t site; };               /* agent of a visiting site, or cli -> coordinator: it leaves */
struct msg_statusreply { uint8_t phase; };        /* payload: one JSON object, see report/ */

struct msg_gang {              /* coordinator -> each rank of a gang, once all of the incarnation have joined */
    uint8_t site;
    uint32_t incarnation;
    uint16_t rank_count;
    uint16_t host[LANES_MAX];
    char address_tls[LANES_MAX][ADDRESS_LIMIT];
};

/* Rank -> rank of the same gang on another host: in-site sums. A gang is opened anew when its lanes change (turn, from 1); since
 * then one operation has one round number, from 0. */
enum insite_kind {
    INSITE_OPEN,               /* value: hash of what the gang is; to every rank */
    INSITE_TOTALS,             /* payload: count lane totals of the sender's lanes, first the first lane */
    INSITE_SUMS,               /* payload: for each maximal node of the sender's host, elements [first, first + count) of the receiver's run */
    INSITE_READY,              /* the sender has all its weights */
    INSITE_WEIGHTS,            /* payload: elements [first, first + count) of the sender's run */
    INSITE_VALUE,              /* value: of an exchange */
};
struct msg_insite { uint8_t site; uint32_t incarnation, turn; uint64_t round; uint8_t kind; uint64_t first; uint32_t count; uint64_t value; };

/* Where the time of a step went, as one rank (checkpoint: one copy of a shard) measured it. Told beside the protocol: nothing waits for it, what is lost stays
 * lost. Sent only to a coordinator whose HELLO has FEATURE_TIMES, so that version 1 stays version 1. */
enum time_part { TIME_COMPUTE, TIME_INSIDE, TIME_BETWEEN, TIME_DATA, TIME_CHECKPOINT, TIME_PARTS };
struct step_times { uint64_t round; float seconds[TIME_PARTS]; };      /* -1: not measured here */
struct msg_times { uint32_t generation; uint8_t count; struct step_times step[TIMES_LIMIT]; };

/* A rank without lanes says that its links to all primaries are open, and warm (MSG_WARM). Likewise only to a coordinator that has FEATURE_READY. */
struct msg_ready { struct process_id who; };

/* Rank -> shard at another site, and back: bytes that mean nothing, so that TCP knows what the link takes before a round waits for it. One way after the other: data
 * that comes makes the acknowledgements of data that goes late, which looks like a full link. Only to a shard that has FEATURE_WARM. */
struct msg_warm { uint32_t back; };              /* from a rank: bytes that the shard shall send, WARM_BYTES_MAX at most; from a shard: that still come */
#define WARM_BYTES_MAX (4u << 20)
#define WARM_PIECE_BYTES 65536u

enum feature { FEATURE_TIMES = 1, FEATURE_BRINGS = 2, FEATURE_READY = 4, FEATURE_WARM = 8 };
struct msg_hello {
    uint16_t version_min, version_max;
    uint64_t features;         /* bits of enum feature that this end understands */
    struct process_id who;
    char job[40], build[48];
};

/* ---- codec: the same function reads or writes, so both sides agree by construction ---- */
struct codec { struct reader *r; struct writer *w; };   /* exactly one set */
void code_hello(struct codec *c, struct msg_hello *m);
void code_join(struct codec *c, struct msg_join *m);
void code_plan(struct codec *c, struct msg_plan *m);
void code_view(struct codec *c, struct view *v);               /* also the log entry */
void code_msg_view(struct codec *c, struct msg_view *m);
void code_record(struct codec *c, struct record *rec);         /* also the log entry */
void code_contribute(struct codec *c, struct msg_contribute *m);
void code_replicate(struct codec *c, struct msg_replicate *m);
void code_block(struct codec *c, struct msg_block *m);
void code_ack(struct codec *c, struct msg_ack *m);
void code_prepared(struct codec *c, struct msg_prepared *m);
void code_sum(struct codec *c, struct msg_sum *m);
void code_commit(struct codec *c, struct msg_commit *m);
void code_pull(struct codec *c, struct msg_pull *m);
void code_pullreply(struct codec *c, struct msg_pullreply *m);
void code_seed(struct codec *c, struct msg_seed *m);
void code_part(struct codec *c, struct msg_part *m);
void code_manifest(struct codec *c, struct msg_manifest *m);
void code_published(struct codec *c, struct msg_published *m);
void code_exited(struct codec *c, struct msg_exited *m);
void code_launch(struct codec *c, struct msg_launch *m);
void code_stop(struct codec *c, struct msg_stop *m);
void code_failed(struct codec *c, struct msg_failed *m);
void code_heartbeat(struct codec *c, struct msg_heartbeat *m);
void code_leave(struct codec *c, struct msg_leave *m);
void code_enrol(struct codec *c, struct msg_enrol *m);
void code_enrolled(struct codec *c, struct msg_enrolled *m);
void code_drain(struct codec *c, struct msg_drain *m);
void code_brings(struct codec *c, struct msg_brings *m);
void code_status(struct codec *c, struct msg_status *m);
void code_statusreply(struct codec *c, struct msg_statusreply *m);
void code_gang(struct codec *c, struct msg_gang *m);
void code_insite(struct codec *c, struct msg_insite *m);
void code_times(struct codec *c, struct msg_times *m);
void code_ready(struct codec *c, struct msg_ready *m);
void code_warm(struct codec *c, struct msg_warm *m);

/* The largest encoded body of any message. */
#define MSG_BODY_MAX 65536

/* Any message by type: encodes m (of the type's struct) into w / decodes into m (msg_struct_size bytes). The only dispatch there is. */
bool msg_encode(enum msg_type type, const void *m, struct writer *w);
bool msg_decode(enum msg_type type, struct reader *r, void *m);   /* false: truncated, over a limit, an unknown enum value, or bytes left */
size_t msg_struct_size(enum msg_type type);

#endif
