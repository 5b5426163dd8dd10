/* An explicit-state model of the round protocol: every order of messages, faults and decisions within a bound, explored breadth first.
 *
 *   gang:  pull every shard's version r  ->  CONTRIBUTE round r  ->  pull version r + 1 ...
 *   shard: NONE --view--> LOADING --seeds--> SERVING      NONE --view--> COPYING --blocks, complete, view--> SERVING
 *          contributed --REPLICATE/ACK: every in-sync copy holds the names--> prepared --PREPARED--> coordinator
 *          COMMIT --> applied by the primary --REPLICATE--> applied by its copies --ACK--> stable = published, may be pulled
 *   coordinator: log = views (synced at once), commits (synced in groups), one checkpoint. RECOVERING: a new view after every start;
 *          the log is completed from reports; a view after every death, join, completed copy; a rollback when a shard has no in-sync copy
 *
 * A message is a snapshot of its sender. It arrives at once, never, or is put aside (bound: `late`) and arrives any time later, any
 * number of times, also at a restarted receiver: weaker than a TCP link, so what holds here holds there. A killed process is at once
 * replaced by a blank one with a new instance, which has no role until a view names it. Data are not modelled: a record names the
 * cover it sums, and the state keeps which attempts were really summed. */
#ifndef VIADUCT_TESTS_SIM_MODEL_H
#define VIADUCT_TESTS_SIM_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { SHARDS_MAX = 2, COPIES_MAX = 3, GANGS_MAX = 2, ROUNDS_MAX = 3, SLOTS_MAX = SHARDS_MAX * COPIES_MAX, VIEWS_MAX = 15, NAMES_MAX = 6 };
enum { ZOMBIE = SLOTS_MAX, COORDINATOR, GANG0 };        /* who sends and receives, after the slots shard * COPIES_MAX + copy */

/* ---- rules: each may be taken out; NAME, what it says ---- */
#define MODEL_RULES(X) \
    X(STAB, "a version is published only when every in-sync copy holds its record") \
    X(TELL, "gangs learn of commits from published versions only, not from the coordinator") \
    X(CHAIN, "a record reaches the copies only through their primary") \
    X(EPMSG, "shards drop messages of another view or generation") \
    X(EPPULL, "gangs drop answers of another view") \
    X(GENPULL, "gangs drop answers of another generation") \
    X(KEEP, "open contributions survive a view change") \
    X(NEST, "nested names are held side by side") \
    X(ATT, "the attempt is part of a name") \
    X(GENHELD, "a rollback voids contributions and records of older generations") \
    X(INST, "a restarted process has no role until a view names its instance") \
    X(WIPE, "a copy that left the in-sync set is copied afresh") \
    X(ENV, "only the envelope is fenced: a record keeps the view in which it was made") \
    X(PROMOTE, "only an in-sync copy becomes primary") \
    X(COPYVER, "a copy is complete only with every block at the primary's version") \
    X(COPYSYNC, "a complete copy counts as a holder before a view promotes it") \
    X(COMPLETE, "a copying copy joins the in-sync set only when its primary calls it complete") \
    X(LAG, "a copy that knows more records than a new primary tells it") \
    X(HELD, "a name is reported only when every in-sync copy holds it") \
    X(INFER2, "a copy infers by itself that all hold a record only when there are two copies") \
    X(INFERV, "and only up to the version that its present primary stated") \
    X(LASTREC, "a copy that skips ahead takes the last record too") \
    X(WINDOW, "a copy far behind is sent the newest records, with which it can skip ahead") \
    X(AHEAD, "commits run ahead of the synced log by no more than one report can carry") \
    X(SLACK, "one report can carry a record more than that: a new primary that lags learns a record, but not how far the log is synced") \
    X(RECOV, "the log is completed from what the shards report") \
    X(REPORT, "a round is committed on reports of this view only") \
    X(SUM, "all shards sum one cover that each of them holds") \
    X(GENREC, "a record of an older generation completes no log") \
    X(NEWVIEW, "every start of a coordinator makes a new view") \
    X(VIEWSYNC, "a view is synced before anyone sees it") \
    X(CKGEN, "checkpoint parts are of one generation; a rollback drops open ones") \
    X(CKLOG, "a checkpoint is decided only when the log holds every commit below it; both are synced together") \
    X(SEEDCOPY, "an in-sync copy that missed its seeds gets blocks from its primary") \
    X(NEEDSEED, "a primary that waits for seeds answers contributions with NEED_SEED")
#define MODEL_ENUM(name, text) name,
enum rule { MODEL_RULES(MODEL_ENUM) RULE_COUNT };

struct bound {
    const char *name;
    uint8_t shards, copies, gangs, rounds;
    uint8_t faults;               /* how many, of these kinds: */
    const char *kinds;            /* G gang, P shard process, Q live process wrongly excluded, Z the same, and it lives on under its old view,
                                     C coordinator, H its host with the log's unsynced end, S a site (site 0 is that host), s site 0,
                                     B every copy of shard A */
    uint8_t late;                 /* messages put aside at once: 0 or 1 */
    bool attempts;                /* a relaunched gang computes other bits */
    bool lanes;                   /* lanes of a dead gang may move to the other one */
    uint8_t checkpoint;           /* version whose checkpoint is cut; 0: none */
    bool seeds;                   /* version 0 is seeded by gangs, not known to everyone */
    uint8_t window, ahead;        /* RECORDS_LIMIT and UNSYNCED_LIMIT */
};

/* ---- state: compared and hashed byte by byte, so without padding ---- */
#pragma pack(push, 1)
enum role { NONE, PRIMARY, SYNC, COPYING };
enum proc_state { BLANK, LOADING, COPIES, SERVES };
/* A record by content: bit 15 | attempts really summed << 9 | cover << 6 | generation << 4 | view; covers are numbered in step.c. */
typedef uint16_t record;
#define RECORD_SUMMED(r) ((r) >> 9 & 7)
#define RECORD_SAYS(r) ((record)((r) & 0x81ff))         /* without what was summed: what messages carry */

struct view {
    uint8_t number, generation, base, plan;              /* plan 0: both gangs; 1, 2: gang plan - 1 alone */
    uint8_t role[SHARDS_MAX][COPIES_MAX], instance[SHARDS_MAX][COPIES_MAX], incarnation[GANGS_MAX];
};

struct proc {                                            /* one copy of one shard: RAM only */
    uint8_t instance, view, generation, base, role, state;
    uint8_t peer_role[COPIES_MAX], peer_instance[COPIES_MAX];   /* of its view */
    uint8_t version, first, stable, synced;              /* records [first, version) can be sent on */
    uint8_t held, annulled;                              /* names of round `version`; those of them computed on weights that a rollback annulled */
    uint8_t block[2];                                    /* 1 + version of each block; 0: has not come */
    uint8_t heard[COPIES_MAX], has[COPIES_MAX];          /* primary: 1 + version acknowledged, and names of that round */
    uint8_t complete;                                    /* primary: copies it calls complete */
    uint8_t part_generation;
    record history[ROUNDS_MAX];
    record part;                                         /* last record in the checkpoint part it wrote; 0: none */
};

struct gang {
    uint8_t incarnation, view, generation, plan;
    uint8_t role[SHARDS_MAX][COPIES_MAX];
    uint8_t computed;                                    /* 1 + version that it computed on */
    uint8_t piece[SHARDS_MAX];                           /* 1 + version pulled */
    record last[SHARDS_MAX];                             /* last record of that version */
};

enum message_type { NOTHING, VIEW, CONTRIBUTE, SEED, REPLICATE, RECORDS, ACK, BLOCK, PREPARED, COMMIT, PULLREPLY, PART };
struct message {
    uint8_t type, from, to, shard, view, generation, block, names, round;
    struct proc sender;
    struct view plan;
    record log[ROUNDS_MAX];
    uint8_t log_count, log_synced;
};

struct report { uint8_t version, names, complete; };     /* version: 1 + it; 0: none */

struct state {
    uint8_t coordinator_up, log_count, log_synced, faults, zombie_slot;   /* zombie_slot: 1 + slot; 0: none */
    uint8_t decided, part_have[COPIES_MAX], part_generation;             /* part_have: shards by site */
    record log[ROUNDS_MAX], part_last[SHARDS_MAX];
    struct view view, durable_view;                      /* durable_view differs only without VIEWSYNC */
    struct report report[SHARDS_MAX];
    struct proc proc[SLOTS_MAX + 1];
    struct gang gang[GANGS_MAX];
    record seen[ROUNDS_MAX];                             /* ghost: what was published in this generation */
    struct message late;                                 /* last: without a bound for late messages it is neither kept nor compared */
};

#pragma pack(pop)

/* ---- what the files share ---- */
struct model {
    struct bound bound;
    uint64_t rules;
    const char *broken;                                  /* the invariant that the last step broke; NULL: none */
    uint64_t cut;                                        /* steps left out at a limit of the representation: must stay 0 */
    size_t bytes;                                        /* of a state, as far as this bound uses it */
    bool tell;                                           /* a trace is being printed: fill `label` */
    char label[256];
    void (*emit)(struct model *m, const struct state *next, bool fault);
    void *search;
};

static inline bool on(const struct model *m, enum rule r) { return m->rules >> r & 1; }
static inline uint8_t records_limit(const struct model *m) { return on(m, SLACK) ? m->bound.window : m->bound.ahead; }   /* of one message */
static inline unsigned slot_of(unsigned shard, unsigned copy) { return shard * COPIES_MAX + copy; }
static inline unsigned slot_at(const struct state *s, unsigned who) { return who == ZOMBIE ? s->zombie_slot - 1u : who; }
static inline bool in_sync(uint8_t role) { return role == PRIMARY || role == SYNC; }
void broken(struct model *m, const char *invariant);
void label(struct model *m, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
const char *who_name(unsigned who);
extern const char *const type_names[];

/* step.c: what a message does to its receiver */
extern const uint8_t cover_names[8];                     /* of cover 1..6 */
uint8_t cover_of(uint8_t names);                         /* the number of exactly these; 0: no exact cover */
bool same_record(record a, record b);                     /* as far as both are known */
bool holds(const struct model *m, const struct proc *p, uint8_t names);
void proc_blank(struct proc *p, uint8_t instance);
void deliver(struct model *m, struct state *s, const struct message *msg);

/* coordinate.c: what the coordinator does by itself */
void coordinator_lost(struct state *s, bool host);
void coordinator_on_prepared(struct model *m, struct state *s, const struct message *msg);
void coordinator_on_part(struct model *m, struct state *s, const struct message *msg);
void exclude(struct model *m, struct state *s, unsigned shard, unsigned copy, bool fault);   /* emits every choice of a new primary */
void coordinator_moves(struct model *m, const struct state *s);

/* moves.c: every step that is possible; check.c: what must hold */
void moves(struct model *m, const struct state *s);
void check_state(struct model *m, const struct state *s);
bool reached_goal(const struct model *m, const struct state *s);
void first_state(const struct model *m, struct state *s);

/* search.c */
struct outcome { const char *violation; uint64_t states, transitions, depth, cut; double seconds; bool full; };
struct outcome explore(const struct bound *bound, uint64_t rules, uint64_t states_max, FILE *trace);

#endif
