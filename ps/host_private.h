/* The inside of a host: host.c (blocks: what comes, sums, versions), host_disk.c (bases and checkpoint parts), and the state that both share. */
#ifndef VIADUCT_PS_HOST_PRIVATE_H
#define VIADUCT_PS_HOST_PRIVATE_H

#include "base/base.h"
#include "base/magnitude.h"
#include "engine/engine.h"
#include "ps/ps.h"

#define PARTS_KEPT 32

struct pull { struct pull *next; void *peer; struct msg_pull m; bool answered; };   /* the newest of a peer for these blocks */

struct sum {                              /* of one cover, kept for PREPARED's repeats and for APPLY */
    bool have;
    uint64_t version;
    uint16_t count;
    struct name cover[COVER_LIMIT];
    const float *floats;                  /* memory of the sum, or the only contribution */
    bool measured;                        /* norms and the two below are of it */
    uint64_t nonfinite;
    uint32_t nonfinite_block;
};

struct ps_host {
    struct ps_host_config config;
    struct shard *core;
    struct shard_out *out;
    const struct layout *layout;
    struct optim_config optim;
    uint32_t block_first, block_count;    /* in the layout */
    uint64_t *start;                      /* [block_count + 1] first float of a block */
    uint64_t floats;
    unsigned slot_count;
    float *weights, *slots, *sum_memory, *scratch;   /* slots: slot-major */
    float *contribution[NAMES_LIMIT];     /* allocated when first used, kept */
    struct sum sum;
    double *norms;
    uint32_t bins[MAGNITUDE_BINS];
    struct view view;
    bool base_loaded;                     /* by an action that is being executed */
    struct pull *pulls;
    struct snapshot *waiting;             /* oldest first; one more is with the disk when `writing` */
    bool writing;
    struct msg_part part[PARTS_KEPT];
    unsigned part_count;
    uint64_t part_seen;
    struct step_times held;               /* by the newest snapshot */
    bool held_new;
};

static inline uint64_t now(const struct ps_host *h) { return loop_now_ms(h->config.loop); }
static inline size_t bytes_of(uint64_t floats) { return (size_t)floats * sizeof(float); }
static inline const struct block_desc *block_at(const struct ps_host *h, uint32_t i) { return &h->layout->blocks[h->block_first + i]; }

void host_fail(struct ps_host *h, int code, const char *text);
void host_run(struct ps_host *h);                                  /* the core's actions, to the last */

/* host_disk.c */
void host_load_base(struct ps_host *h, uint64_t version);          /* at once, or the core hears of it when the disk's thread has read it */
void host_snapshot(struct ps_host *h);                             /* of the version just made, when its record says so */
void host_drop_snapshots(struct ps_host *h);                       /* those that wait */

#endif
