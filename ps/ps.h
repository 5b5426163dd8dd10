/* ps: the sharded parameter server. Public face: the process, and the host of one shard copy, which embedded ranks use too. */
#ifndef VIADUCT_PS_PS_H
#define VIADUCT_PS_PS_H

#include <stdbool.h>
#include "base/declaration.h"
#include "base/log.h"
#include "base/rundir.h"
#include "ckpt/ckpt.h"
#include "net/net.h"
#include "ps/shard.h"

#define PS_BLOCKS_AT_ONCE 64    /* of a message that carries many: 16 MiB */
#define PS_QUEUE_MODELS 16      /* so many times the model may wait for one process: NAMES_AT_ONCE, and as much of a view that is over */

/* `viaduct ps --run DIR --site NAME --slot S --instance I` */
int ps_main(int argc, char **argv);

/* ---- disk: one thread a process that reads and writes checkpoint parts (HDF5 is not for two threads) ---- */
struct ps_disk;
int ps_disk_open(struct loop *loop, struct ps_disk **out, struct err *err);
void ps_disk_close(struct ps_disk *d);               /* finishes what was asked */
/* work(arg) in the disk's thread, then done(arg) in the loop's; in order. */
void ps_disk_ask(struct ps_disk *d, void (*work)(void *arg), void (*done)(void *arg), void *arg);

/* ---- host: one copy of one shard with its data: executes what the shard core decides. All calls in the loop's thread. ---- */
struct ps_host_config {
    struct loop *loop;
    struct ps_disk *disk;
    struct log *log;
    const struct msg_plan *plan;
    const struct declaration *declaration;
    const char *run_dir, *job;
    uint8_t site, slot, shard;
    uint32_t instance, blocks_at_once;                   /* of a message to a copy; 0: PS_BLOCKS_AT_ONCE */
    /* Sends to the process that holds `slot` (PS_TO_COORDINATOR: to the coordinator); what cannot be sent now is dropped, the core sends it again. */
    void (*send)(void *arg, uint8_t slot, enum msg_type type, const void *m, const struct bytes *payload, unsigned pieces);
    /* Answers a pull or a contribution; peer is what came with it. */
    void (*reply)(void *arg, void *peer, const struct msg_pullreply *m, const struct bytes *payload, unsigned pieces);
    bool (*busy)(void *arg, void *peer);                 /* replies to it are still on their way out; NULL: never */
    void (*fail)(void *arg, int code, uint64_t step, const char *text);   /* the job cannot go on */
    /* embedded ranks: a private segment that keeps the two newest versions; NULL: none */
    struct ps_ram *ram;
    void *arg;
};
#define PS_TO_COORDINATOR 255

struct ps_host;
int ps_host_open(const struct ps_host_config *config, struct ps_host **out, struct err *err);
void ps_host_close(struct ps_host *h);
void ps_host_view(struct ps_host *h, const struct view *view);
/* Any message of the protocol for this shard. from_slot, from_instance: of the sending ps; peer: whom reply answers. */
void ps_host_message(struct ps_host *h, uint8_t from_slot, uint32_t from_instance, void *peer, enum msg_type type, const void *m, const uint8_t *payload,
                     size_t payload_size);
void ps_host_linked(struct ps_host *h, uint8_t slot);    /* a link to that slot, or to the coordinator, opened anew */
void ps_host_forget(struct ps_host *h, void *peer);      /* its waiting pulls go */
void ps_host_busy(struct ps_host *h, uint8_t slot);      /* the link to that slot has not taken all yet */
void ps_host_tick(struct ps_host *h);
uint64_t ps_host_version(const struct ps_host *h);
/* For how long the newest snapshot held this loop up, told once: false when there is none since the last call. */
bool ps_host_held(struct ps_host *h, struct step_times *out);
/* Parts that this copy wrote, for each new link to the coordinator. */
unsigned ps_host_parts(const struct ps_host *h, struct msg_part *out, unsigned max);

/* Floats of a shard's state: weights and every optimizer slot. */
uint64_t ps_state_floats(const struct msg_plan *plan, const struct layout *l, uint32_t shard);
/* The blocks of a shard, ascending layout indices: a contiguous run. */
void ps_shard_blocks(const struct layout *l, uint32_t shards, uint32_t shard, uint32_t *first, uint32_t *count);

/* ---- member: a process's standing with the coordinator and its agent ---- */
struct ps_member;
struct ps_member_config {
    struct loop *loop;
    const struct rundir *run;
    const struct identity *identity;
    const struct msg_hello *hello;
    struct log *log;
    void (*fill_join)(void *arg, struct msg_join *join, struct bytes *payload);   /* at each new link; who is filled in already */
    void (*linked)(void *arg);                           /* JOIN was sent over a new link */
    void (*message)(void *arg, enum msg_type type, void *m, const uint8_t *payload, size_t payload_size);
    void (*heartbeat)(void *arg, struct msg_heartbeat *m);
    /* This process has no place any more: the coordinator refused it or is gone for a minute, or the agent is gone for 10 s. Once. */
    void (*over)(void *arg, const struct err *why);
    void *arg;
};
/* Dials the coordinator named in the run directory again and again, joins, sends a heartbeat each second; holds on to the agent's door
 * (environment VIADUCT_AGENT_SOCKET, when set). */
int ps_member_open(const struct ps_member_config *config, struct ps_member **out, struct err *err);
void ps_member_close(struct ps_member *m);               /* after loop_free, which closes its link and timers */
/* Dropped while there is no link: the protocol sends everything again. */
void ps_member_send(struct ps_member *m, enum msg_type type, uint32_t view, const void *msg, const struct bytes *payload, unsigned pieces);

/* ---- peers: links to the processes that hold slots, as the view names them ---- */
struct ps_peers;
struct ps_peers_config {
    struct loop *loop;
    const struct rundir *run;                            /* knows the sites' names */
    const struct identity *identity;
    const struct msg_hello *hello;
    struct log *log;
    uint8_t own_slot;                                    /* never dialled; 255: none */
    bool other_host;                                     /* of our site: its shards are on its first, and their sockets too */
    void (*opened)(void *arg, uint8_t slot);
    void (*message)(void *arg, uint8_t slot, uint32_t instance, enum msg_type type, void *m, const uint8_t *payload, size_t payload_size);
    void *arg;
};
int ps_peers_open(const struct ps_peers_config *config, struct ps_peers **out, struct err *err);
void ps_peers_close(struct ps_peers *p);                 /* after loop_free */
/* As many bytes may have to wait for one slot: what is sent at once, and sent again from its beginning when its end was refused, must fit. */
void ps_peers_expect(struct ps_peers *p, uint64_t bytes);
void ps_peers_view(struct ps_peers *p, const struct msg_view *view);
bool ps_peers_send(struct ps_peers *p, uint8_t slot, enum msg_type type, uint32_t view, const void *msg, const struct bytes *payload, unsigned pieces);
/* A process that nobody can dial (its site is visiting) has dialled us: what goes to it goes over that link, too. For the link's `closed`: the other one. */
void ps_peers_adopt(struct ps_peers *p, uint8_t slot, uint32_t instance, struct link *link);
void ps_peers_closed(struct ps_peers *p, const struct link *link);
bool ps_peers_linked(const struct ps_peers *p, uint8_t slot);
uint64_t ps_peers_received(const struct ps_peers *p, uint8_t slot);   /* bytes, over the present link */
size_t ps_peers_queued(const struct ps_peers *p, uint8_t slot);   /* bytes on their way to it */
/* Have `bytes` come over the present link to a slot at another site, and as many gone (MSG_WARM)? The first call for a link begins that; message() tells of each piece
 * that comes. True where there is nothing to learn: inside a site, and with a process that does not know this. */
bool ps_peers_warmed(struct ps_peers *p, uint8_t slot, size_t bytes);
int ps_warm(struct link *link, size_t bytes, struct err *err);   /* what a shard sends when it is asked for them */
uint64_t ps_peers_wan_bytes(const struct ps_peers *p);   /* sent to other sites since the start */

/* ---- RAM segment: the two newest versions of an embedded shard in shared memory, so that a relaunched gang starts there ---- */
struct ps_ram;
/* Makes or keeps the POSIX segment `name` for `floats` floats a version. One that belongs to another layout or size is made anew. */
int ps_ram_open(const char *name, uint64_t layout_hash, uint64_t floats, struct ps_ram **out, struct err *err);
void ps_ram_close(struct ps_ram *r);                     /* the segment stays: its site's agent removes it */
/* What a segment holds whole, as JOIN tells it: version + 1, 0 for none. Zeros when there is no such segment or it is of another layout. */
void ps_ram_peek(const char *name, uint64_t layout_hash, uint64_t version[2], uint32_t generation[2]);
void ps_ram_save(struct ps_ram *r, uint64_t version, uint32_t generation, const float *weights, uint64_t weight_count, const float *slots, uint64_t slot_count);
/* false: not there whole. */
bool ps_ram_load(const struct ps_ram *r, uint64_t version, uint32_t generation, float *weights, uint64_t weight_count, float *slots, uint64_t slot_count);

#endif
