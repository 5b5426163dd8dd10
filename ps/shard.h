/* The shard core: one copy of one shard, as a pure function of (state, now, event) -> actions. No socket, file, clock, thread or malloc
 * inside: memory comes from the caller at init. The shell (ps/host.c), and the simulator, feed events and execute actions in order.
 * It decides with metadata alone; the blocks' data lie with the shell, which stores contribution i under the index the core gave.
 *
 * Implements the round protocol's rules 1-8 and 12 (see docs/architecture.md); each rule's name stands where it is enforced, and each has a
 * test that fails when it is taken out (base/rule.h).
 *
 *            view: PRIMARY/SYNC            view: COPYING
 *   NONE ------------------> LOADING  NONE -----------> COPYING --(complete, view: SYNC)--> SERVING
 *                               |  base in memory
 *                               v
 *                            SERVING      any --(view: no role, other instance, newer generation)--> NONE or LOADING */
#ifndef VIADUCT_PS_SHARD_H
#define VIADUCT_PS_SHARD_H

#include <stdbool.h>
#include <stdint.h>
#include "net/msg.h"

enum shard_state { SHARD_NONE, SHARD_LOADING, SHARD_COPYING, SHARD_SERVING };

enum shard_action_kind {
    SHARD_LOAD_BASE,        /* load blocks of version `version` as the view says (checkpoint, RAM); then call shard_loaded. BASE_SEED: wait for shard_on_seed */
    SHARD_APPLY,            /* apply `record`: sum its cover over the stored names in tree order, run the optimizer on every block; name_index[i]: where
                               contribution record.cover[i] is stored. A copying copy may hold blocks without value yet: what becomes of them does not matter */
    SHARD_DROP,             /* forget the stored contribution `index`; SHARD_ALL: every one */
    SHARD_PUBLISH,          /* version is visible now: answer waiting pulls; snapshot when record.flags says checkpoint */
    SHARD_SEND_REPLICATE,   /* to slot: `replicate`, with the data of the names in replicate.with_data (one at most), stored at name_index[i], cut into
                               several messages where its blocks are many. A copy that knows more records than a new primary sends it one too, without names */
    SHARD_SEND_ACK,         /* to slot: `ack` */
    SHARD_SEND_BLOCK,       /* to slot: block `block` at `version` */
    SHARD_SEND_PREPARED,    /* to the coordinator: `prepared`; the shell sums prepared.cover (stored at name_index[i]), adds norms, non-finite counts;
                               sent again when unanswered, so the shell keeps the norms of the last cover. State blocks have norm 0 */
    SHARD_FAIL,             /* the job cannot go on: text */
};

struct shard_action {
    enum shard_action_kind kind;
    uint8_t slot;
    uint16_t index;
    uint32_t block;
    uint64_t version;
    uint16_t name_index[NAMES_LIMIT];   /* of record.cover, replicate.name or prepared.cover */
    union { struct record record; struct msg_replicate replicate; struct msg_ack ack; struct msg_prepared prepared; char text[TEXT_LIMIT]; } u;
};
#define SHARD_ACTIONS_MAX 64
#define SHARD_ALL UINT16_MAX
struct shard_out { uint16_t count; struct shard_action action[SHARD_ACTIONS_MAX]; };   /* large: keep one, reuse it */

struct shard_config {
    uint8_t slot;           /* where this copy lives */
    uint32_t instance;
    uint8_t shard;
    uint16_t lanes;
    bool deterministic;     /* names without attempt */
    uint32_t block_count;   /* of this shard; 0 is allowed */
    uint64_t resend_ms;     /* unanswered REPLICATE, ACK, PREPARED are sent again after this */
};

struct shard;               /* open to tests in shard.c's private part: use the accessors */
size_t shard_size(const struct shard_config *config);              /* bytes that shard_init needs, 16-aligned */
struct shard *shard_init(void *memory, const struct shard_config *config);

/* Events. `out` is reset, filled and must be executed before the next event. */
void shard_on_view(struct shard *s, uint64_t now_ms, const struct view *view, struct shard_out *out);
void shard_loaded(struct shard *s, uint64_t now_ms, uint64_t version, struct shard_out *out);
/* Seed and contribution pieces come before their data is stored: the verdict says whether the shell shall store the payload. */
/* A shard that still needs a seed refuses contributions (SHARD_STALE): then the shell answers the rank with PULLREPLY{NEED_SEED} for the same
 * blocks, for nobody may be pulling from this copy. */
enum shard_verdict { SHARD_STORE, SHARD_DUPLICATE, SHARD_STALE, SHARD_REFUSE };
/* *index: where the shell stores this name's blocks. On SHARD_STORE the shell copies the payload, then calls shard_stored. */
enum shard_verdict shard_on_contribute(struct shard *s, const struct msg_contribute *m, uint16_t *index);
void shard_stored(struct shard *s, uint64_t now_ms, uint16_t index, uint32_t block_first, uint32_t block_count, struct shard_out *out);
enum shard_verdict shard_on_seed(struct shard *s, const struct msg_seed *m);       /* SHARD_STORE: copy into the blocks, then */
void shard_seeded(struct shard *s, uint64_t now_ms, uint32_t block_first, uint32_t block_count, struct shard_out *out);
/* For each name with data, index[i] is where to store it, or UINT16_MAX to skip; the shell copies, then calls shard_replicated. */
enum shard_verdict shard_on_replicate(struct shard *s, uint8_t from_slot, uint32_t from_instance, const struct msg_replicate *m,
                                      uint16_t index[NAMES_LIMIT]);
void shard_replicated(struct shard *s, uint64_t now_ms, uint8_t from_slot, const struct msg_replicate *m,
                      const uint16_t index[NAMES_LIMIT], struct shard_out *out);
enum shard_verdict shard_on_block(struct shard *s, uint8_t from_slot, uint32_t from_instance, const struct msg_block *m);
void shard_block_stored(struct shard *s, uint64_t now_ms, uint32_t block, struct shard_out *out);   /* on SHARD_DUPLICATE too: it acknowledges */
void shard_on_ack(struct shard *s, uint64_t now_ms, uint8_t from_slot, uint32_t from_instance, const struct msg_ack *m, struct shard_out *out);
void shard_on_sum(struct shard *s, uint64_t now_ms, const struct msg_sum *m, struct shard_out *out);
void shard_on_commit(struct shard *s, uint64_t now_ms, const struct msg_commit *m, struct shard_out *out);
void shard_on_tick(struct shard *s, uint64_t now_ms, struct shard_out *out);       /* resends; call every 100 ms or so */
/* A link to that slot, or to the coordinator (slot 255), was opened anew: whatever was unanswered is sent again. */
/* What was sent to that slot is still on its way out of this process: nothing of it is lost, so nothing is sent again yet. */
void shard_on_busy(struct shard *s, uint64_t now_ms, uint8_t slot);
void shard_on_link(struct shard *s, uint64_t now_ms, uint8_t slot, struct shard_out *out);

/* Reading. */
enum shard_state shard_state(const struct shard *s);
uint64_t shard_version(const struct shard *s);          /* applied records */
uint64_t shard_published(const struct shard *s, bool *any);   /* newest version that may be pulled; any=false: none now */
const struct record *shard_record(const struct shard *s, uint64_t round);   /* of the last RECORDS_LIMIT, else NULL */
bool shard_needs_seed(const struct shard *s);
uint32_t shard_view(const struct shard *s);
uint32_t shard_generation(const struct shard *s);

#endif
