/* The simulator: real cores of both kinds behind simulated shells, one thread, virtual time, one seed a run. Every choice comes from the
 * seed, so a seed and a commit replay a run bit for bit.
 *
 * Data are hashes. A block's weights are one 64-bit number; a lane's gradient is a hash of (weights of the whole model, round, lane, block,
 * attempt); sums are modular, so any cover gives the same bits; applying mixes sum, learning rate and clip into the weights. For pruning a block is one weight: a
 * magnitude is cut out of the number, and 0 is 0. `struct node` is
 * the truth that every copy is compared with: one node for each record that anybody applied, with the weights that must come of it. */
#ifndef VIADUCT_TESTS_SIM_SIM_H
#define VIADUCT_TESTS_SIM_SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "coordinator/core.h"
#include "net/msg.h"
#include "ps/shard.h"

enum {
    SIM_SITES = 3,
    SIM_BLOCKS = 10,            /* of the whole model */
    SIM_SHARDS = 3,
    SIM_ROUNDS = 16,
    SIM_RANKS = 3,
    SIM_PROCS = 512,
    SIM_GENERATIONS = 64,
    SIM_PULLS = 32,
    SIM_PARTS = 64,
    SIM_TRACE = 60,
};

/* ---- truth ---- */
struct node {
    struct node *parent, *next;         /* next: all nodes of this run */
    struct record record;
    uint64_t version;
    uint64_t w[SIM_BLOCKS];
    bool visible;
};

struct payload { struct node *node; uint32_t count; uint64_t v[SIM_BLOCKS]; uint32_t weight_count; float weight[SIM_BLOCKS]; };   /* weight: what a histogram is made of */

/* ---- processes ---- */
struct pull { bool used; int from_pid; uint16_t rank; struct msg_pull m; };
struct host {                            /* one shard copy in a process */
    struct shard *core;
    uint8_t shard, slot;
    struct node *node;                   /* what w is; NULL: a copy under way */
    uint64_t w[SIM_BLOCKS];
    uint64_t data[NAMES_LIMIT][SIM_BLOCKS];
    struct pull pull[SIM_PULLS];
};

struct disk_part { bool used; struct msg_part part; struct node *node; uint64_t w[SIM_BLOCKS]; };

struct gang {
    uint16_t ranks;
    bool computing, contributed, finished;
    uint64_t target;                     /* version wanted */
    uint64_t round;                      /* version held whole, + 1; 0: none */
    struct node *node;
    uint64_t digest, compute_token;
    struct { bool have; uint64_t version; struct node *node; uint32_t count; uint64_t w[SIM_BLOCKS]; } piece[SIM_SHARDS][SIM_RANKS];
    uint64_t asked_us;
    uint64_t sent_us;
};

struct coordinator {
    struct core *core;
    uint64_t owner;                      /* token of the log's owner when it started */
    bool done;
};

struct proc {
    int pid;
    uint8_t kind;                        /* enum role */
    uint8_t site;
    uint16_t index;
    uint32_t instance;
    bool alive, accepted;                /* accepted: its JOIN arrived over the present link */
    uint64_t paused_until_us;
    int linked_to;                       /* coordinator's pid; 0: none */
    uint64_t dial_at_us, heartbeat_us;
    bool have_plan, have_view;
    struct view view;
    unsigned host_count;
    struct host *host[SIM_SHARDS];
    struct gang gang;
    struct coordinator coordinator;
    uint32_t part_count;
    struct msg_part part[SIM_PARTS];     /* written, told again at every join */
    bool killed_by_agent;
};

struct site {
    bool up, gone_for_good;
    uint64_t back_us;
    uint32_t launched_slot[SLOTS_LIMIT], launched_gang, launched_host1;   /* host1: the newest gang of which the agent of the second host launched its ranks */
    bool starting_slot[SLOTS_LIMIT], starting_gang;
    uint32_t export_attempt, export_code;
    bool export_ended;
    struct disk_part disk[SIM_PARTS];
    unsigned disk_next;
    struct { bool have; uint64_t step; uint32_t generation, view; } manifest;
    struct { bool have; uint64_t version; uint32_t generation; struct node *node; } ram[SIM_RANKS][2];
};

/* ---- network ---- */
struct packet {
    int to, from;
    uint8_t from_slot;
    uint16_t rank;                       /* of the sender or receiver inside a gang */
    uint32_t from_instance;
    struct process_id from_id;
    enum msg_type type;
    struct payload payload;
    uint32_t size;
    uint8_t body[];
};

enum event_kind { EV_PACKET, EV_TICK, EV_SYNC, EV_LOADED, EV_COMPUTED, EV_PART, EV_START, EV_FAULT, EV_PUBLISH, EV_EXPORT, EV_COORDINATOR, EV_RESET, EV_STOP };
struct event {
    uint64_t at_us, order;
    enum event_kind kind;
    int pid;
    uint64_t a, b, c;
    struct packet *packet;
};

/* ---- the log ---- */
struct sim_log { struct log_entry *entry; size_t count, room, durable; uint64_t owner; };

/* ---- faults ---- */
enum fault_kind { FAULT_GANG, FAULT_PS, FAULT_AGENT, FAULT_COORDINATOR, FAULT_HOST, FAULT_SITE, FAULT_BOTH_COPIES, FAULT_PAUSE_PS, FAULT_PAUSE_GANG,
                  FAULT_PAUSE_COORDINATOR, FAULT_PARTITION, FAULT_RESET, FAULT_ALL, FAULT_STOP, FAULT_KINDS, FAULT_DRAIN };   /* DRAIN: in place of another, where a site is visiting */
struct fault { enum fault_kind kind; uint64_t at_us; int32_t message; uint32_t nth; bool done; };   /* message >= 0: at the nth message of that type */

struct knobs {
    unsigned sites, slots, shards, ranks[SIM_SITES], lanes, rounds, blocks, copies;
    unsigned prune_rounds;               /* the last ones of `rounds`; 0: no such phase */
    double sparsity;
    unsigned shard_first[SIM_SHARDS], shard_blocks[SIM_SHARDS];
    bool embedded, deterministic, has_export, fifo, visiting;   /* visiting: the last site comes and goes, and nobody can dial it */
    bool two_hosts;                      /* the first site lies on two, each with an agent; a gang begins when both have launched their ranks */
    uint32_t batch, samples, checkpoint_every;
    uint64_t lease_ms, relaunch_ms, resend_ms, sync_us, delay_us, compute_us;
    unsigned loss, duplicate, late;      /* per 1000 */
    uint64_t faults_end_us, limit_us;
    unsigned fault_count;
    struct fault fault[8];
};

struct world {
    uint64_t seed, rng, now_us, order, events;
    struct knobs k;
    struct event *heap;
    size_t heap_count, heap_room;
    struct proc *proc[SIM_PROCS];
    int proc_count;
    int coordinator_pid;                 /* the newest */
    bool coordinator_fresh;
    struct site site[SIM_SITES];
    struct { bool on; int a, b; uint64_t until_us; } cut;      /* messages from site a to site b vanish */
    struct sim_log log;
    struct node *nodes, *root;
    struct node *visible[SIM_GENERATIONS][SIM_ROUNDS + 1];
    struct record told[SIM_GENERATIONS][SIM_ROUNDS + 1];
    bool was_told[SIM_GENERATIONS][SIM_ROUNDS + 1];
    bool kept[SIM_ROUNDS + 1];           /* some site published the checkpoint of that step */
    struct { uint32_t generation; uint64_t base; struct node *node; } base[SIM_GENERATIONS];
    uint64_t message_count[MSG_TYPES];
    uint64_t last_delivery_us[64][64];   /* by pid modulo: keeps links in order when fifo */
    uint64_t rounds_total;
    uint32_t fuse;                       /* kills a process in the middle of its action list */
    enum fault_kind fuse_kind;
    bool calm, finished, gave_up, failed;
    unsigned faults_done;
    struct shard_out *shard_out;
    struct core_out *core_out;
    void *core_memory[2];
    int core_user[2];
    struct msg_any *any;
    uint8_t scratch[MSG_BODY_MAX];
    char violation[400];
    bool verbose;
    char trace[SIM_TRACE][200];
    unsigned trace_next;
};

/* Room for any message. */
struct msg_any { union { struct msg_join join; struct msg_plan plan; struct msg_view view; struct msg_contribute contribute; struct msg_replicate replicate;
    struct msg_block block; struct msg_ack ack; struct msg_prepared prepared; struct msg_sum sum; struct msg_commit commit; struct msg_pull pull;
    struct msg_pullreply pullreply; struct msg_seed seed; struct msg_part part; struct msg_manifest manifest; struct msg_published published;
    struct msg_exited exited; struct msg_launch launch; struct msg_stop stop; struct msg_heartbeat heartbeat; struct msg_leave leave; struct msg_ready ready; } u; };

/* world.c: time, chance, network, processes */
uint64_t hash2(uint64_t a, uint64_t b);
static inline bool on_two_hosts(const struct world *w, unsigned site) { return site == 0 && w->k.two_hosts; }
uint64_t chance(struct world *w, uint64_t n);                   /* uniform in [0, n) */
bool odds(struct world *w, unsigned per_thousand);
void trace(struct world *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void violate(struct world *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void at(struct world *w, uint64_t after_us, enum event_kind kind, int pid, uint64_t a, uint64_t b, uint64_t c);
bool next_event(struct world *w, struct event *out);
struct proc *proc_new(struct world *w, uint8_t kind, uint8_t site, uint16_t index, uint32_t instance);
void proc_kill(struct world *w, struct proc *p, const char *why);
void procs_free(struct world *w);
struct proc *proc_find(struct world *w, uint8_t kind, uint8_t site, uint16_t index, uint32_t instance);   /* alive */
void send_to(struct world *w, struct proc *from, uint16_t rank, uint8_t from_slot, int to, enum msg_type type, const void *m, const struct payload *payload);
void packet_deliver(struct world *w, struct packet *packet);
void link_reset(struct world *w, struct proc *p);               /* with the coordinator */

/* hosts.c: shard copies in ps processes and in embedded ranks */
void hosts_make(struct world *w, struct proc *p);
void hosts_view(struct world *w, struct proc *p);
void hosts_tick(struct world *w, struct proc *p);
void hosts_link(struct world *w, struct proc *p, uint8_t slot);
void host_packet(struct world *w, struct proc *p, const struct packet *packet, const struct msg_any *m);
void host_loaded(struct world *w, struct proc *p, unsigned host, uint64_t version, uint64_t view);
void host_part(struct world *w, struct proc *p, uint64_t index);
void host_free(struct host *h);

/* gang.c */
void gang_view(struct world *w, struct proc *p);
void gang_tick(struct world *w, struct proc *p);
void gang_ready(struct world *w, struct proc *p);           /* tells the coordinator, when it has no lanes */
void gang_reply(struct world *w, struct proc *p, const struct packet *packet, const struct msg_pullreply *m);
void gang_computed(struct world *w, struct proc *p, uint64_t token);

/* agents.c: agents, dialling, sites */
void agent_view(struct world *w, struct proc *p);
void agent_joined(struct world *w, struct proc *p);
void agent_child_died(struct world *w, const struct proc *child);
void agent_publish(struct world *w, struct proc *p, uint64_t step, uint32_t generation, uint64_t mask);
void agent_export(struct world *w, struct proc *p, uint32_t attempt);
void client_packet(struct world *w, struct proc *p, const struct packet *packet, struct msg_any *m);
void proc_tick(struct world *w, struct proc *p);

/* coordinator.c */
void coordinator_start(struct world *w, bool fresh);
void coordinator_packet(struct world *w, struct proc *p, const struct packet *packet, const struct msg_any *m);
void coordinator_tick(struct world *w, struct proc *p);
void coordinator_synced(struct world *w, struct proc *p, uint64_t position);
void coordinator_stop(struct world *w, struct proc *p);
void coordinator_drain(struct world *w, struct proc *p);    /* the visiting site */
void coordinator_gone(struct world *w, struct proc *p, const struct proc *who);
void log_lose_tail(struct world *w);

/* truth.c */
void truth_init(struct world *w);
uint64_t truth_lane(const struct world *w, uint64_t digest, uint64_t round, unsigned lane, unsigned block, uint32_t attempt);
uint64_t truth_digest(const struct world *w, const uint64_t *weights);
uint64_t truth_seed(const struct world *w, unsigned block);
struct phases truth_phases(const struct world *w);
bool truth_prunable(unsigned block);                            /* the others stand for biases */
float truth_weight(uint64_t weights);                           /* its magnitude */
uint64_t truth_mix(unsigned block, uint64_t weights, uint64_t sum, const struct record *r);
double truth_norm2(uint64_t sum);
double truth_loss(const struct world *w, uint64_t digest, uint64_t round, unsigned lane);
struct totals truth_totals(const struct world *w, uint64_t digest, uint64_t round, struct lane_range lanes);
struct node *truth_child(struct world *w, struct node *parent, const struct record *record);
void truth_published(struct world *w, const struct host *h);
void truth_committed(struct world *w, const struct record *record);
void truth_check_holders(struct world *w, const struct core *core, const struct record *record);
void truth_view(struct world *w, const struct view *view);
void truth_checkpoint(struct world *w, const struct checkpoint_entry *e);
struct node *truth_base(struct world *w, uint32_t generation);
void truth_end(struct world *w);
bool truth_same_record(const struct record *a, const struct record *b);

/* run.c */
struct sim_result { uint64_t events, rounds, faults; bool violated, gave_up; char text[400]; };
void sim_run(uint64_t seed, bool verbose, struct sim_result *result);
void fault_at_message(struct world *w, enum msg_type type);
void fault_strike(struct world *w, unsigned i);
void world_restart(struct world *w);                            /* everything died: resume from the newest published checkpoint */

#endif
