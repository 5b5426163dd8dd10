/* The inside of a shard core, shared by shard.c (views, records, copies), shard_names.c (contributions and covers) and shard_send.c. */
#ifndef VIADUCT_PS_SHARD_PRIVATE_H
#define VIADUCT_PS_SHARD_PRIVATE_H

#include "ps/rules.h"
#include "ps/shard.h"

enum {
    RING_RECORDS = 2 * RECORDS_LIMIT,   /* the coordinator never runs further than RECORDS_LIMIT ahead of its synced log */
    BLOCK_WINDOW = 8,                   /* blocks on their way to a copying copy */
    BEHIND_LIMIT = 4,                   /* rounds that outrun a copy before they wait for it */
    NAMES_AT_ONCE = 8,                  /* names sent to one copy by one event; the rest follows its ACK */
};

struct held {                 /* one contribution to round `version` */
    bool used;
    uint32_t missing;         /* blocks that have not come */
    struct name name;
    struct totals totals;
};

struct peer {                 /* another copy of this shard, as the primary sees it in this view */
    uint8_t slot, role;       /* COPY_SYNC or COPY_COPYING */
    uint32_t instance;
    bool heard, complete, loading, due;   /* loading: in sync, but it waits for seeds; due: it does not know our newest version or stable position yet */
    uint64_t version;         /* acknowledged */
    uint64_t has[2], sent[2]; /* by name index, of round `version` while it equals ours */
    uint64_t sent_ms;
    uint32_t block_next, block_flying;
    uint8_t behind;           /* copying: records that were applied while it was more than one version behind */
};

struct report {               /* what the last PREPARED said: another one goes out when this changes */
    bool any;
    uint32_t view;
    uint64_t version;
    uint8_t complete_mask;
    uint16_t cover_count;
    struct name cover[COVER_LIMIT];
    uint16_t name_count;
};

struct shard {
    struct shard_config config;
    enum shard_state state;
    uint32_t view, generation;
    uint64_t base;
    uint8_t base_from, role, copies_active;
    uint8_t primary_slot;
    uint32_t primary_instance;
    struct peer peer[COPIES_LIMIT];
    uint8_t peer_count;
    uint8_t copy_bit[COPIES_LIMIT];     /* peer i is copy copy_bit[i] of the view's shard */

    uint64_t version;                   /* applied records; the records below it are the history */
    uint64_t stable, synced;
    uint64_t published_next;            /* one past the newest version announced by SHARD_PUBLISH; 0: none */
    struct record ring[RING_RECORDS];
    uint64_t ring_first;                /* lowest round in the ring */

    struct held held[NAMES_LIMIT];
    bool wants_cover;                   /* the coordinator asked for this one */
    uint16_t wanted_count;
    struct name wanted[COVER_LIMIT];
    struct report report;
    uint64_t report_ms;
    bool report_now;

    uint32_t words, missing;            /* blocks of the base or copy that have not come */
    uint64_t *valid;                    /* bit per block */
    uint64_t *pieces;                   /* `words` for each name */
};

static inline bool bit_get(const uint64_t *bits, uint32_t i) { return bits[i / 64] >> (i % 64) & 1; }
static inline void bit_set(uint64_t *bits, uint32_t i) { bits[i / 64] |= 1ull << (i % 64); }

struct shard_action *shard_act(struct shard_out *out, enum shard_action_kind kind);
void shard_fail(struct shard_out *out, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool shard_in_sync(const struct shard *s);             /* has a role whose word counts */
bool shard_is_holder(const struct peer *p);            /* counts for what "every copy holds" */

/* shard_names.c */
uint16_t names_find(const struct shard *s, const struct name *name);           /* index or UINT16_MAX */
uint16_t names_take(struct shard *s, const struct name *name, const struct totals *totals);   /* finds or makes; UINT16_MAX: full */
void names_piece(struct shard *s, uint16_t index, uint32_t first, uint32_t count);
bool names_whole(const struct shard *s, uint16_t index);
bool names_have_piece(const struct shard *s, uint16_t index, uint32_t first, uint32_t count);
void names_drop_all(struct shard *s);
bool names_hold_cover(const struct shard *s, const struct name *cover, uint16_t count);   /* whole, all of it */
void names_held_by_all(const struct shard *s, uint64_t out[2]);
/* The coarsest exact cover of all lanes out of the names in `among`; 0 when there is none. */
uint16_t names_cover(const struct shard *s, const uint64_t among[2], struct name out[COVER_LIMIT]);
struct totals names_totals(const struct shard *s, const struct name *cover, uint16_t count);

/* shard_send.c */
void send_ack(struct shard *s, struct shard_out *out);
void send_records_to_primary(struct shard *s, uint64_t from_round, struct shard_out *out);
void send_news(struct shard *s, uint64_t now_ms, struct shard_out *out);       /* whatever peers and the coordinator do not know yet */
void send_blocks(struct shard *s, struct peer *p, struct shard_out *out);
void send_again(struct shard *s, uint64_t now_ms, struct shard_out *out);      /* what was not answered in time */

#endif
