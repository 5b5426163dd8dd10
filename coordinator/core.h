/* The coordinator's core: membership, views, rounds, ledger and checkpoint decisions as a pure function of (state, now, event) -> actions.
 * No socket, file, clock, thread or malloc inside. The shell (coordinator/shell.c), and the simulator, execute the actions in order:
 * an action after CORE_APPEND_SYNC happens only when that entry is durable, so what is logged before visible stands in the list.
 *
 *   RECOVERING --(every expected process reported or was declared dead)--> RUNNING --(last round published)--> FINISHING
 *      RUNNING --(stop asked, next checkpoint durable)--> STOPPING        FINISHING --(checkpoint durable, export done or stop asked)--> DONE
 *      any --(non-finite sum, three relaunches without a commit, a record that differs)--> FAILED */
#ifndef VIADUCT_COORDINATOR_CORE_H
#define VIADUCT_COORDINATOR_CORE_H

#include <stdbool.h>
#include <stdint.h>
#include "net/msg.h"

enum core_phase { CORE_RECOVERING, CORE_RUNNING, CORE_FINISHING, CORE_STOPPING, CORE_DONE, CORE_FAILED };

/* ---- log entries: what survives ---- */
enum log_kind { LOG_JOB = 1, LOG_VIEW, LOG_COMMIT, LOG_CHECKPOINT, LOG_END };
struct checkpoint_entry {             /* decided: every part is known and agreed by all sites that wrote it */
    uint32_t generation;
    uint64_t step;
    uint64_t site_mask;
    uint8_t part_count;
    struct msg_part part[SHARDS_LIMIT];
};
struct log_entry {
    enum log_kind kind;
    uint64_t position;                /* set by the log: 0, 1, 2, ... */
    union {
        struct msg_plan job;          /* at each fresh start, layout_hash 0, and again once a worker declared it: then the shell stores the encoded layout beside it */
        struct view view;             /* a rollback is a view with a newer generation */
        struct record record;
        struct checkpoint_entry checkpoint;
        struct { uint8_t why; char text[TEXT_LIMIT]; } end;   /* enum stop_why */
    } u;
};

/* ---- actions ---- */
enum core_action_kind {
    CORE_APPEND,          /* write `entry` at once, sync soon (within 100 ms or 32 entries), then core_on_synced */
    CORE_APPEND_SYNC,     /* write and sync before any later action */
    CORE_SEND_VIEW,       /* the present view to every joined process (to.role == ROLE_NONE) or to one */
    CORE_SEND_PLAN,       /* likewise */
    CORE_SEND_COMMIT,     /* `commit` to `to` (a ps slot; with embedded shards the rank of that number) */
    CORE_SEND_SUM,
    CORE_SEND_MANIFEST,   /* the decided checkpoint `checkpoint` to every agent */
    CORE_SEND_LAUNCH,     /* `launch` to the agent `to` */
    CORE_SEND_STOP,       /* to everyone, or (to.role != ROLE_NONE) to the processes of to.site: why */
    CORE_EVENT,           /* a line for events.jsonl: kind in text, who, step */
    CORE_COMMITTED,       /* a round was committed: for metrics.jsonl, progress, ledger */
    CORE_DURABLE,         /* checkpoint `checkpoint` is durable at site_mask */
    CORE_DISOWN,          /* close the link of `to`: not a member any more */
    CORE_FAIL,            /* the job failed: text */
    CORE_DONE_RUN,        /* everything is over; exit 0 */
};
struct core_action {
    enum core_action_kind kind;
    struct process_id to;
    union {
        struct log_entry entry; struct msg_commit commit; struct msg_sum sum; struct checkpoint_entry checkpoint;
        struct msg_launch launch; struct msg_stop stop; struct record record;
        struct { char kind[32]; struct process_id who; uint64_t step; char text[TEXT_LIMIT]; } event;
        char text[TEXT_LIMIT];
    } u;
};
#define CORE_ACTIONS_MAX 256
struct core_out { uint16_t count; struct core_action action[CORE_ACTIONS_MAX]; };

/* ---- configuration of this start ---- */
struct core_config {
    struct msg_plan plan;             /* rounds 0 and layout_hash 0 until the first worker declared layout and samples (core_on_join fills them) */
    struct view_gang gang[SITES_LIMIT];   /* lanes and ranks a site; incarnation ignored */
    uint32_t threads[SITES_LIMIT];        /* of each of its ranks: lanes that one computes at the same time; 0 counts as 1 */
    uint8_t visiting;                 /* bit per site: comes and goes (`viaduct join`): no lanes and no copies until its agent is there */
    uint8_t copies;                   /* wanted copies of each shard: min(replica sites, COPIES_LIMIT) */
    uint8_t checkpoint_replicas;      /* sites that must report a checkpoint before it is durable */
    double epochs; uint64_t steps;    /* of phase train, one of them; rounds follow with samples_per_pass */
    double prune_epochs;              /* of phase prune; 0: there is none */
    bool has_export;
    uint64_t lease_ms;                /* 10000: silence that is death */
    uint64_t relaunch_ms;             /* 30000: lanes of a gang that is not back by then move to the others */
    bool fresh;                       /* nothing of an earlier start lives (run, resume): all processes are launched anew */
    /* the newest verified checkpoint at this start, for rollbacks and resume; have = false: none */
    struct { bool have; uint64_t step; uint32_t generation, view; uint32_t pass; uint64_t first; } checkpoint;
    /* lr of a round (0-based): pure */
    float (*lr)(const void *arg, const struct phases *phases, uint64_t round);
    const void *lr_arg;
};

/* Whether a logged generation takes a checkpoint back: it is later, and its base is below. Such a checkpoint may still lie where nobody answered when that was decided; a
 * fresh start that has the log passes it over. */
static inline bool core_annuls(uint32_t later, uint64_t base, uint32_t generation, uint64_t step) { return later > generation && base < step; }

struct core;
size_t core_size(void);
struct core *core_init(void *memory, const struct core_config *config);

/* Replay every entry of the log in order, then core_start once: it makes a new view. */
void core_replay(struct core *c, const struct log_entry *entry);
void core_start(struct core *c, uint64_t now_ms, struct core_out *out);

/* ---- events ---- */
void core_on_join(struct core *c, uint64_t now_ms, const struct msg_join *m, struct core_out *out);
void core_on_gone(struct core *c, uint64_t now_ms, struct process_id who, struct core_out *out);      /* the link closed: the lease decides, unless the agent says dead */
void core_on_exited(struct core *c, uint64_t now_ms, const struct msg_exited *m, struct core_out *out); /* from the agent: dead at once */
void core_on_leave(struct core *c, uint64_t now_ms, const struct msg_leave *m, struct core_out *out);   /* an orderly end: a worker after the last version */
void core_on_heartbeat(struct core *c, uint64_t now_ms, const struct msg_heartbeat *m, struct core_out *out);
void core_on_ready(struct core *c, uint64_t now_ms, const struct msg_ready *m, struct core_out *out);         /* a rank without lanes reaches all primaries */
/* norms2: m->norm_count doubles of the shard's blocks in block-id order; block_first is implied by the shard map. bins: m->bin_count counts. */
void core_on_prepared(struct core *c, uint64_t now_ms, struct process_id from, const struct msg_prepared *m, const double *norms2, const uint32_t *bins,
                      struct core_out *out);
void core_on_part(struct core *c, uint64_t now_ms, const struct msg_part *m, struct core_out *out);
void core_on_published(struct core *c, uint64_t now_ms, const struct msg_published *m, struct core_out *out);
void core_on_synced(struct core *c, uint64_t now_ms, uint64_t position, struct core_out *out);         /* the log is durable below this position */
void core_on_failed(struct core *c, uint64_t now_ms, const struct msg_failed *m, struct core_out *out);
void core_on_stop(struct core *c, uint64_t now_ms, struct core_out *out);                              /* a person asked: checkpoint, then stop */
void core_on_enrolled(struct core *c, uint64_t now_ms, uint8_t site, struct core_out *out);            /* another machine is that site from now on */
void core_on_brings(struct core *c, uint64_t now_ms, uint8_t site, uint16_t ranks, struct core_out *out);   /* before its agent joins; 0: as planned */
void core_on_drain(struct core *c, uint64_t now_ms, uint8_t site, struct core_out *out);               /* a visiting site leaves: lanes and copies first */
void core_on_tick(struct core *c, uint64_t now_ms, struct core_out *out);                              /* every 100 ms or so */

/* ---- reading ---- */
enum core_phase core_phase(const struct core *c);
uint8_t core_export_site(const struct core *c);         /* whose agent runs the export */
int core_failure(const struct core *c);                /* of one that failed: ERR_JOB; ERR_DIVERGED: to go on from its checkpoint would end the same way */
const struct view *core_view(const struct core *c);
const struct msg_plan *core_plan(const struct core *c);
uint64_t core_round(const struct core *c);             /* next round to commit */

#endif
