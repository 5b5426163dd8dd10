/* The inside of the coordinator's core: core.c (events, beginning and end), core_view.c (membership), core_rounds.c (commits),
 * core_ckpt.c (checkpoints). */
#ifndef VIADUCT_COORDINATOR_CORE_PRIVATE_H
#define VIADUCT_COORDINATOR_CORE_PRIVATE_H

#include "base/layout.h"
#include "base/magnitude.h"
#include "coordinator/core.h"
#include "coordinator/rules.h"

enum {
    RING_ROUNDS = 64,
    /* So one report always carries every record that a shorter log may lack, and at least one more: with three copies a new primary that lags
     * learns a record from another copy, but not how far the log is synced. */
    UNSYNCED_LIMIT = RECORDS_LIMIT - 4,
    OPEN_LIMIT = 4,                       /* checkpoints whose parts are coming in */
    DECIDED_LIMIT = 8,                    /* remembered for rollbacks */
    BASES_LIMIT = 32,                     /* remembered rollbacks */
    RELAUNCH_LIMIT = 3,                   /* of a gang, or rollbacks, without a commit between them */
    SLOT_RELAUNCH_LIMIT = 5,
    EXPORT_LIMIT = 3,
    PART_WAIT_MS = 5000,                  /* for another site's parts, once one site has all */
    LEAVE_WAIT_MS = 5000,
    LANES_WAIT_MS = 1000,                 /* for a commit, with which lanes change best */
    COPY_ROUND_MS = 1000,                 /* rounds that a visitor's link makes longer than this leave it without copies */
    ASLEEP_MS = 1000,                     /* between two ticks: this process was stopped or starved */
};

_Static_assert((int)UNSYNCED_LIMIT < (int)RECORDS_LIMIT, "a report would not complete the log");

struct slot_state {
    bool joined, linked, offered;         /* offered: its agent has seen a view that names this instance, so it may run */
    uint64_t heard_ms, deadline_ms;       /* deadline: to join */
    uint32_t relaunches;
};
struct gang_state {
    uint64_t joined, linked;              /* bit per rank */
    uint64_t heard_ms[LANES_MAX];
    uint64_t since_ms;                    /* of this incarnation */
    uint64_t patience_ms;                 /* to join */
    uint32_t relaunches;
    uint64_t finished;                    /* ranks that pulled the last version or left */
    uint64_t ready, ready_ms;             /* ranks whose links to all primaries are open; since when all are */
    bool parked;                          /* its lanes are with the others */
    bool works;                           /* a visiting one: a round was committed with its lanes */
    uint64_t ram_version[LANES_MAX][2];
    uint32_t ram_generation[LANES_MAX][2];
    char last_words[TEXT_LIMIT];
};
struct agent_state { bool joined, sent_away; uint64_t heard_ms; };   /* sent away: until it joins again; heard: also of one that is gone, when it was */

struct shard_report {                     /* the newest PREPARED of this view */
    bool have;
    uint64_t version;
    uint16_t name_count, cover_count;
    struct name name[NAMES_LIMIT], cover[COVER_LIMIT];
    struct totals totals;
    uint64_t nonfinite;
    uint32_t nonfinite_block;
    bool have_bins;                       /* core.bins of this shard: the histogram of this version */
};

struct open_checkpoint {
    bool used;
    uint64_t step, full_since_ms;
    uint32_t generation;
    bool full;
    uint64_t have[SITES_LIMIT];           /* bit per shard */
    bool known[SHARDS_LIMIT];
    struct msg_part part[SHARDS_LIMIT];   /* the first of each shard */
};

struct rollback_base { uint32_t generation; uint64_t base; };

struct core {
    struct core_config config;
    struct msg_plan plan;
    enum core_phase phase;
    bool started, ended, unstarted;       /* ended: LOG_END is the newest entry; unstarted: a plan was logged and no view after it */
    uint64_t now_ms;

    struct view view, next;               /* next becomes view when `dirty` */
    bool dirty;
    struct { uint32_t units[SITES_LIMIT]; struct lane_range lanes[SITES_LIMIT]; } cut;   /* the newest of lanes_over: it is asked after every event */
    struct slot_state slot[SLOTS_LIMIT];
    struct gang_state gang[SITES_LIMIT];
    struct agent_state agent[SITES_LIMIT];
    uint32_t rollbacks;                   /* without a commit between them */
    bool wants_ram_base;                  /* embedded: rolls back once every rank has joined */

    uint64_t position;                    /* of the next log entry */
    uint64_t synced_position;
    uint64_t round;                       /* next to commit */
    uint64_t synced_round;                /* commits below it are durable */
    struct { struct record record; uint64_t position; } ring[RING_ROUNDS];
    uint64_t ring_first;

    struct shard_report report[SHARDS_LIMIT];
    struct msg_sum asked;                 /* the cover asked for in this round */
    uint32_t norm_first[SHARDS_LIMIT], norm_count[SHARDS_LIMIT], norm_used;

    struct open_checkpoint open[OPEN_LIMIT];
    struct checkpoint_entry decided[DECIDED_LIMIT];   /* oldest first */
    uint8_t decided_count;
    uint64_t published_mask, refused_mask, decided_ms;   /* of the newest decided one */
    bool durable;
    struct rollback_base bases[BASES_LIMIT];
    uint8_t base_count;

    bool stopping;
    uint64_t stop_step;                   /* UINT64_MAX: at the next commit */
    uint32_t export_attempt;
    bool export_running, export_done;
    uint64_t end_ms;
    uint64_t ticked_ms;                   /* the last tick */
    bool stood;                           /* and it came late */
    uint64_t committed_ms;                /* the last commit of this process; 0: none */
    uint8_t end_why;
    char end_text[TEXT_LIMIT];
    int failure;                          /* what it gave up with: ERR_JOB, ERR_DIVERGED */
    double norm2[LAYOUT_BLOCKS_MAX];      /* from here on: not cleared at init */
    uint32_t bins[SHARDS_LIMIT][MAGNITUDE_BINS];   /* of each shard's newest report at a ramp round */
};

struct core_action *core_act(struct core_out *out, enum core_action_kind kind);
void core_event(struct core *c, struct core_out *out, const char *kind, struct process_id who, const char *fmt, ...) __attribute__((format(printf, 5, 6)));
void core_give_up(struct core *c, struct core_out *out, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void core_diverge(struct core *c, struct core_out *out, const char *fmt, ...) __attribute__((format(printf, 3, 4)));   /* likewise; to go on would end the same way */
void core_refuse(struct core *c, struct core_out *out, unsigned site, const char *fmt, ...) __attribute__((format(printf, 4, 5)));   /* what a process of that site is or says */
void core_append(struct core *c, struct core_out *out, const struct log_entry *entry, bool sync);
static inline bool visiting(const struct core *c, unsigned site) { return c->config.visiting >> site & 1; }
bool core_over(const struct core *c);

/* core_view.c */
bool view_in_sync(uint8_t role);
struct process_id view_slot_process(const struct core *c, unsigned slot);
void view_first(struct core *c);                          /* fresh start: the whole placement */
void view_again(struct core *c);                          /* coordinator restart: the same, newer number */
void slot_vacate(struct core *c, unsigned slot, uint32_t relaunches);      /* no process has it, and its copies are nobody's */
void slot_died(struct core *c, struct core_out *out, unsigned slot, bool counts, const char *why);
void gang_died(struct core *c, struct core_out *out, unsigned site, bool counts, const char *why);
void slot_joined(struct core *c, struct core_out *out, unsigned slot);
bool gang_whole(const struct core *c, unsigned site);
bool gang_needed(const struct core *c);
void gang_unpark(struct core *c, unsigned site);
void view_slept(struct core *c, uint64_t ms);
void view_leases(struct core *c, struct core_out *out);
void view_promote(struct core *c, unsigned shard, uint8_t complete_mask);
void view_settle(struct core *c, struct core_out *out);   /* rollback, lanes, then logs and sends a changed view */

/* core_visit.c */
void site_brings(struct core *c, struct core_out *out, unsigned site, uint16_t ranks);   /* a visiting one: another number of ranks than it had; 0: as planned */
void site_arrived(struct core *c, struct core_out *out, unsigned site);   /* a visiting one: its gang is launched, lanes come when it is ready */
void visitors_work(struct core *c, struct core_out *out, const struct record *record);   /* a round was committed: first lanes, then copies */
void send_away(struct core *c, struct core_out *out, unsigned site, enum stop_why how, const char *why);
void site_left(struct core *c, struct core_out *out, unsigned site, const char *why);

/* core_rounds.c */
void rounds_fill_plan(struct core *c, const struct msg_join *m, struct core_out *out);
void rounds_replay(struct core *c, const struct record *record, uint64_t position);
void rounds_reset(struct core *c, uint64_t base);         /* a generation begins */
void rounds_report(struct core *c, struct core_out *out, const struct msg_prepared *m, const double *norms2, const uint32_t *bins);
void rounds_commit(struct core *c, struct core_out *out); /* whatever can be committed */
void rounds_synced(struct core *c, uint64_t position);

/* core_ckpt.c */
void ckpt_remember(struct core *c, const struct checkpoint_entry *entry);
void ckpt_forget_above(struct core *c, uint64_t base);    /* rollback */
const struct checkpoint_entry *ckpt_for_rollback(const struct core *c);   /* NULL: the seed */
void ckpt_part(struct core *c, struct core_out *out, const struct msg_part *m);
void ckpt_decide(struct core *c, struct core_out *out);
void ckpt_published(struct core *c, struct core_out *out, const struct msg_published *m);
bool ckpt_durable_at(const struct core *c, uint64_t step);
bool ckpt_phase_saved(const struct core *c);              /* the next round begins no phase, or what the one before ended with is durable */
void ckpt_tick(struct core *c, struct core_out *out);
void ckpt_send(struct core *c, struct core_out *out);     /* the newest decided one once more */

#endif
