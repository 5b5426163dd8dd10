/* The shard core's main transitions, one copy at a time; what many copies do together is the simulator's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "ps/shard.h"

enum { LANES = 4, BLOCKS = 3 };

static struct shard_out *out;
static int setup(void **state) { (void)state; out = malloc(sizeof *out); return out ? 0 : -1; }
static int teardown(void **state) { (void)state; free(out); return 0; }

static struct shard *make(uint8_t slot, uint32_t instance, uint32_t blocks)
{
    struct shard_config c = {.slot = slot, .instance = instance, .shard = 0, .lanes = LANES, .deterministic = false, .block_count = blocks, .resend_ms = 100};
    void *memory = malloc(shard_size(&c));
    assert_non_null(memory);
    return shard_init(memory, &c);
}

/* One shard; roles[i] is that of slot i. */
static struct view view_of(uint32_t number, uint32_t generation, unsigned copies, const uint8_t *roles)
{
    struct view v = {.number = number, .generation = generation, .base = 0, .base_from = BASE_SEED, .shard_count = 1, .slot_count = (uint8_t)copies, .site_count = (uint8_t)copies};
    v.shard[0].copy_count = (uint8_t)copies;
    for (unsigned i = 0; i < copies; i++) {
        v.shard[0].copy[i].slot = (uint8_t)i;
        v.shard[0].copy[i].role = roles[i];
        v.slot[i] = (struct view_slot){.site = (uint8_t)i, .up = true, .instance = 1};
    }
    return v;
}

static const struct shard_action *find(enum shard_action_kind kind)
{
    for (unsigned i = 0; i < out->count; i++)
        if (out->action[i].kind == kind)
            return &out->action[i];
    return NULL;
}

static void seed(struct shard *s, uint32_t view, uint32_t blocks)
{
    struct msg_seed m = {.view = view, .generation = 1, .block_first = 0, .block_count = blocks};
    assert_int_equal(shard_on_seed(s, &m), SHARD_STORE);
    shard_seeded(s, 0, 0, blocks, out);
    assert_int_equal(shard_state(s), SHARD_SERVING);
}

static enum shard_verdict give(struct shard *s, uint32_t view, uint64_t round, uint16_t lo, uint16_t hi, uint32_t attempt, uint32_t first, uint32_t count)
{
    struct msg_contribute m = {.view = view, .generation = 1, .round = round, .name = {{lo, hi}, attempt}, .totals = {.loss_sum = hi - lo, .samples = (uint64_t)(hi - lo)},
                               .block_first = first, .block_count = count};
    uint16_t index = 0;
    enum shard_verdict v = shard_on_contribute(s, &m, &index);
    out->count = 0;
    if (v == SHARD_STORE)
        shard_stored(s, 0, index, first, count, out);
    return v;
}

static struct record record_of(uint64_t round, uint32_t view)
{
    struct record r = {.round = round, .generation = 1, .view = view, .count = LANES, .lr = 0.5f, .clip = 1, .cover_count = 1};
    r.cover[0] = (struct name){{0, LANES}, 1};
    return r;
}

static void commit(struct shard *s, uint32_t view, uint64_t round, uint32_t made_in)
{
    struct msg_commit *m = calloc(1, sizeof *m);
    m->view = view;
    m->generation = 1;
    m->record_count = 1;
    m->record[0] = record_of(round, made_in);
    shard_on_commit(s, 0, m, out);
    free(m);
}

static void ack(struct shard *s, uint32_t view, uint8_t slot, uint64_t version, bool complete, bool holds)
{
    struct msg_ack *m = calloc(1, sizeof *m);
    m->view = view;
    m->generation = 1;
    m->version = m->records = version;
    m->complete = complete;
    if (holds) {
        m->name_count = 1;
        m->name[0] = (struct name){{0, LANES}, 1};
    }
    shard_on_ack(s, 0, slot, 1, m, out);
    free(m);
}

static void test_one_copy_from_seed_to_published(void **state)
{
    (void)state;
    struct shard *s = make(0, 1, BLOCKS);
    struct view v = view_of(1, 1, 1, (uint8_t[]){COPY_PRIMARY});
    shard_on_view(s, 0, &v, out);
    assert_non_null(find(SHARD_LOAD_BASE));
    assert_true(shard_needs_seed(s));
    assert_int_equal(give(s, 1, 0, 0, LANES, 1, 0, BLOCKS), SHARD_STALE);
    seed(s, 1, BLOCKS);
    assert_int_equal(find(SHARD_PUBLISH)->version, 0);
    assert_int_equal(give(s, 1, 0, 0, LANES, 1, 0, 2), SHARD_STORE);
    assert_null(find(SHARD_SEND_PREPARED));              /* a name is whole only with every block */
    assert_int_equal(give(s, 1, 0, 0, LANES, 1, 0, 2), SHARD_DUPLICATE);
    assert_int_equal(give(s, 1, 0, 0, LANES, 1, 2, 1), SHARD_STORE);
    const struct msg_prepared *p = &find(SHARD_SEND_PREPARED)->u.prepared;
    assert_int_equal(p->cover_count, 1);
    assert_int_equal(p->totals.samples, LANES);
    commit(s, 1, 0, 1);
    assert_non_null(find(SHARD_APPLY));
    assert_int_equal(find(SHARD_DROP)->index, SHARD_ALL);
    assert_int_equal(find(SHARD_PUBLISH)->version, 1);
    assert_int_equal(shard_version(s), 1);
    assert_int_equal(shard_record(s, 0)->view, 1);
    assert_int_equal(give(s, 1, 0, 0, LANES, 1, 0, BLOCKS), SHARD_STALE);   /* its round is over */
    free(s);
}

static bool reported(void)
{
    const struct shard_action *a = find(SHARD_SEND_PREPARED);
    return a && a->u.prepared.cover_count > 0;
}

/* OUTRUN */
static void test_rounds_that_outrun_a_copy_wait_for_it(void **state)
{
    (void)state;
    struct shard *s = make(0, 1, BLOCKS);
    struct view v = view_of(1, 1, 2, (uint8_t[]){COPY_PRIMARY, COPY_COPYING});
    shard_on_view(s, 0, &v, out);
    seed(s, 1, BLOCKS);
    ack(s, 1, 1, 0, false, false);
    uint64_t round = 0;
    for (; round < 20; round++) {
        give(s, 1, round, 0, LANES, 1, 0, BLOCKS);
        if (!reported())
            break;
        commit(s, 1, round, 1);
    }
    assert_in_range(round, 2, 10);                       /* some rounds pass, then they wait */
    ack(s, 1, 1, round, false, false);
    assert_false(reported());
    ack(s, 1, 1, round, true, true);                     /* whole, and it holds what was given */
    assert_true(reported());
    free(s);
}

/* Records are immutable, with what they prune. */
static void test_a_record_with_another_threshold_is_another_record(void **state)
{
    (void)state;
    struct shard *s = make(0, 1, BLOCKS);
    struct view v = view_of(1, 1, 1, (uint8_t[]){COPY_PRIMARY});
    struct msg_commit *m = calloc(1, sizeof *m);
    shard_on_view(s, 0, &v, out);
    seed(s, 1, BLOCKS);
    give(s, 1, 0, 0, LANES, 1, 0, BLOCKS);
    *m = (struct msg_commit){.view = 1, .generation = 1, .record_count = 1};
    m->record[0] = record_of(0, 1);
    m->record[0].flags = RECORD_MASKED;
    m->record[0].threshold = 0.5f;
    shard_on_commit(s, 0, m, out);
    assert_true(find(SHARD_APPLY)->u.record.threshold == 0.5f);
    shard_on_commit(s, 0, m, out);
    assert_null(find(SHARD_FAIL));                       /* the same one again */
    m->record[0].threshold = 0.25f;
    shard_on_commit(s, 0, m, out);
    assert_non_null(find(SHARD_FAIL));
    free(m);
    free(s);
}

static void test_refuses_what_is_out_of_range(void **state)
{
    (void)state;
    struct shard *s = make(0, 1, BLOCKS);
    struct view v = view_of(1, 1, 1, (uint8_t[]){COPY_PRIMARY});
    shard_on_view(s, 0, &v, out);
    struct msg_seed m = {.view = 1, .generation = 1, .block_first = 1, .block_count = UINT32_MAX};
    assert_int_equal(shard_on_seed(s, &m), SHARD_REFUSE);
    seed(s, 1, BLOCKS);
    assert_int_equal(give(s, 1, 0, 0, LANES, 1, 2, 2), SHARD_REFUSE);
    assert_int_equal(give(s, 1, 0, 1, 3, 1, 0, BLOCKS), SHARD_REFUSE);      /* no node of the tree */
    assert_int_equal(give(s, 1, 0, 0, 64, 1, 0, BLOCKS), SHARD_REFUSE);
    assert_int_equal(give(s, 2, 0, 0, LANES, 1, 0, BLOCKS), SHARD_STALE);   /* another view */
    assert_int_equal(give(s, 1, 1, 0, LANES, 1, 0, BLOCKS), SHARD_STALE);   /* another round */
    free(s);
}

static void test_prepared_and_published_wait_for_the_copy(void **state)
{
    (void)state;
    struct shard *s = make(0, 1, BLOCKS);
    struct view v = view_of(1, 1, 2, (uint8_t[]){COPY_PRIMARY, COPY_SYNC});
    shard_on_view(s, 0, &v, out);
    seed(s, 1, BLOCKS);
    ack(s, 1, 1, 0, true, false);
    give(s, 1, 0, 0, LANES, 1, 0, BLOCKS);
    const struct shard_action *a = find(SHARD_SEND_REPLICATE);
    assert_non_null(a);
    assert_int_equal(a->u.replicate.with_data[0], 1);
    assert_null(find(SHARD_SEND_PREPARED));
    ack(s, 1, 1, 0, true, true);
    assert_int_equal(find(SHARD_SEND_PREPARED)->u.prepared.cover_count, 1);
    commit(s, 1, 0, 1);
    assert_non_null(find(SHARD_APPLY));
    assert_null(find(SHARD_PUBLISH));
    bool any;
    shard_published(s, &any);
    assert_false(any);
    assert_int_equal(find(SHARD_SEND_REPLICATE)->u.replicate.record_count, 1);
    ack(s, 1, 1, 1, true, false);
    assert_int_equal(find(SHARD_PUBLISH)->version, 1);
    free(s);
}

static void test_unanswered_is_sent_again(void **state)
{
    (void)state;
    struct shard *s = make(0, 1, BLOCKS);
    struct view v = view_of(1, 1, 2, (uint8_t[]){COPY_PRIMARY, COPY_SYNC});
    shard_on_view(s, 0, &v, out);
    seed(s, 1, BLOCKS);
    ack(s, 1, 1, 0, true, false);
    give(s, 1, 0, 0, LANES, 1, 0, BLOCKS);
    shard_on_tick(s, 50, out);
    assert_null(find(SHARD_SEND_REPLICATE));
    shard_on_tick(s, 150, out);
    assert_int_equal(find(SHARD_SEND_REPLICATE)->u.replicate.name_count, 1);
    assert_non_null(find(SHARD_SEND_PREPARED));
    free(s);
}

/* While its link has not taken what was sent before, more of it would only make the link slower (decision 0007, 6). */
static void test_nothing_is_sent_again_over_a_busy_link(void **state)
{
    (void)state;
    struct shard *s = make(0, 1, BLOCKS);
    struct view v = view_of(1, 1, 2, (uint8_t[]){COPY_PRIMARY, COPY_SYNC});
    shard_on_view(s, 0, &v, out);
    seed(s, 1, BLOCKS);
    ack(s, 1, 1, 0, true, false);
    give(s, 1, 0, 0, LANES, 1, 0, BLOCKS);
    for (uint64_t now = 50; now <= 1000; now += 50) {
        shard_on_busy(s, now, 1);
        shard_on_tick(s, now, out);
        assert_null(find(SHARD_SEND_REPLICATE));
    }
    shard_on_tick(s, 1150, out);
    assert_non_null(find(SHARD_SEND_REPLICATE));
    free(s);
}

static void test_another_instance_has_no_role(void **state)
{
    (void)state;
    struct shard *s = make(0, 2, BLOCKS);                /* restarted: the view still speaks of instance 1 */
    struct view v = view_of(1, 1, 1, (uint8_t[]){COPY_PRIMARY});
    shard_on_view(s, 0, &v, out);
    assert_int_equal(shard_state(s), SHARD_NONE);
    assert_null(find(SHARD_LOAD_BASE));
    free(s);
}

static void test_a_copy_that_left_starts_blank(void **state)
{
    (void)state;
    struct shard *s = make(1, 1, BLOCKS);
    struct view v = view_of(1, 1, 2, (uint8_t[]){COPY_PRIMARY, COPY_SYNC});
    shard_on_view(s, 0, &v, out);
    seed(s, 1, BLOCKS);
    v = view_of(2, 1, 2, (uint8_t[]){COPY_PRIMARY, COPY_COPYING});
    shard_on_view(s, 0, &v, out);
    assert_int_equal(shard_state(s), SHARD_COPYING);
    assert_false(find(SHARD_SEND_ACK)->u.ack.complete);  /* its own state is never trusted */
    for (uint32_t b = 0; b < BLOCKS; b++) {
        struct msg_block m = {.view = 2, .generation = 1, .version = 0, .block = b};
        assert_int_equal(shard_on_block(s, 0, 1, &m), SHARD_STORE);
        shard_block_stored(s, 0, b, out);
    }
    assert_true(find(SHARD_SEND_ACK)->u.ack.complete);
    free(s);
}

/* Slot 1 as an in-sync copy of `copies`, and what its primary sends it: one name, with all its blocks. */
static struct shard *copy_in_sync(unsigned copies, struct msg_replicate **name)
{
    struct shard *s = make(1, 1, BLOCKS);
    struct view v = view_of(1, 1, copies, (uint8_t[]){COPY_PRIMARY, COPY_SYNC, COPY_SYNC});
    struct msg_replicate *m = calloc(1, sizeof *m);
    shard_on_view(s, 0, &v, out);
    seed(s, 1, BLOCKS);
    m->view = m->generation = 1;
    m->name_count = 1;
    m->name[0] = (struct name){{0, LANES}, 1};
    m->with_data[0] = 1;
    m->block_count = BLOCKS;
    *name = m;
    return s;
}

/* Three copies; the primary passed a record to slot 1 only, and died. Slot 2 becomes primary and must learn the record from slot 1. */
static void test_a_new_primary_that_lags_learns_the_record(void **state)
{
    (void)state;
    struct msg_replicate *m;
    struct shard *ahead = copy_in_sync(3, &m);
    uint16_t index[NAMES_LIMIT];
    assert_int_equal(shard_on_replicate(ahead, 0, 1, m, index), SHARD_STORE);
    shard_replicated(ahead, 0, 0, m, index, out);
    m->name_count = 0;
    m->version = 1;
    m->record_count = 1;
    m->record[0] = record_of(0, 1);
    assert_int_equal(shard_on_replicate(ahead, 0, 1, m, index), SHARD_STORE);
    shard_replicated(ahead, 0, 0, m, index, out);
    assert_int_equal(shard_version(ahead), 1);
    assert_null(find(SHARD_PUBLISH));                    /* slot 2 may not hold it */

    struct view v = view_of(2, 1, 3, (uint8_t[]){COPY_NONE, COPY_SYNC, COPY_PRIMARY});
    shard_on_view(ahead, 0, &v, out);
    memset(m, 0, sizeof *m);
    m->view = 2;
    m->generation = 1;
    assert_int_equal(shard_on_replicate(ahead, 2, 1, m, index), SHARD_STORE);
    shard_replicated(ahead, 0, 2, m, index, out);
    const struct shard_action *a = find(SHARD_SEND_REPLICATE);
    assert_non_null(a);
    assert_int_equal(a->slot, 2);
    assert_int_equal(a->u.replicate.record[0].round, 0);
    bool any;
    shard_published(ahead, &any);
    assert_false(any);
    free(m);
    free(ahead);
}

/* The primary passes records on, so that no copy is ahead of it. */
static void test_a_copy_takes_records_from_its_primary_only(void **state)
{
    (void)state;
    struct msg_replicate *m;
    struct shard *s = copy_in_sync(2, &m);
    uint16_t index[NAMES_LIMIT];
    assert_int_equal(shard_on_replicate(s, 0, 1, m, index), SHARD_STORE);
    shard_replicated(s, 0, 0, m, index, out);
    commit(s, 1, 0, 1);
    assert_null(find(SHARD_APPLY));
    assert_int_equal(shard_version(s), 0);
    free(m);
    free(s);
}

/* Half of a name is no name, and asks for nothing; the other half may come first, and either twice. */
static void test_a_large_name_reaches_a_copy_in_pieces(void **state)
{
    (void)state;
    struct msg_replicate *m;
    struct shard *s = copy_in_sync(2, &m);
    uint16_t index[NAMES_LIMIT];
    static const struct { uint32_t first, count; bool whole; } piece[] = {{1, BLOCKS - 1, false}, {1, BLOCKS - 1, false}, {0, 1, true}};
    for (size_t i = 0; i < sizeof piece / sizeof piece[0]; i++) {
        m->block_first = piece[i].first;
        m->block_count = piece[i].count;
        assert_int_equal(shard_on_replicate(s, 0, 1, m, index), SHARD_STORE);
        assert_int_not_equal(index[0], UINT16_MAX);
        shard_replicated(s, 0, 0, m, index, out);
        const struct shard_action *ack = find(SHARD_SEND_ACK);
        assert_true(piece[i].whole ? ack && ack->u.ack.name_count == 1 : !ack);
    }
    assert_int_equal(shard_on_replicate(s, 0, 1, m, index), SHARD_STORE);
    assert_int_equal(index[0], UINT16_MAX);              /* it has all of it */
    m->block_count = BLOCKS + 1;
    assert_int_equal(shard_on_replicate(s, 0, 1, m, index), SHARD_REFUSE);
    m->block_first = m->block_count = UINT32_MAX;
    assert_int_equal(shard_on_replicate(s, 0, 1, m, index), SHARD_REFUSE);
    free(m);
    free(s);
}

static void test_missed_seeds_come_from_the_primary(void **state)
{
    (void)state;
    struct shard *s = make(1, 1, BLOCKS);
    struct view v = view_of(1, 1, 2, (uint8_t[]){COPY_PRIMARY, COPY_SYNC});
    shard_on_view(s, 0, &v, out);
    for (uint32_t b = 0; b < BLOCKS; b++) {
        struct msg_block m = {.view = 1, .generation = 1, .version = 0, .block = b};
        assert_int_equal(shard_on_block(s, 0, 1, &m), SHARD_STORE);
        shard_block_stored(s, 0, b, out);
    }
    assert_int_equal(shard_state(s), SHARD_SERVING);
    free(s);
}

/* A primary alone commits `rounds`, of which `synced` are durable; then slot 1 copies it, and may say that it has nothing: what is it sent? */
static struct msg_replicate *sent_to_a_new_copy(struct shard *s, uint64_t rounds, uint64_t synced, bool heard)
{
    struct view v = view_of(1, 1, 2, (uint8_t[]){COPY_PRIMARY, COPY_NONE});
    struct msg_commit *c = calloc(1, sizeof *c);
    shard_on_view(s, 0, &v, out);
    seed(s, 1, BLOCKS);
    *c = (struct msg_commit){.view = 1, .generation = 1, .synced = synced, .record_count = 1};
    for (uint64_t r = 0; r < rounds; r++) {
        give(s, 1, r, 0, LANES, 1, 0, BLOCKS);
        c->record[0] = record_of(r, 1);
        shard_on_commit(s, 0, c, out);
    }
    free(c);
    assert_int_equal(shard_version(s), rounds);
    v = view_of(2, 1, 2, (uint8_t[]){COPY_PRIMARY, COPY_COPYING});
    shard_on_view(s, 0, &v, out);
    if (heard)
        ack(s, 2, 1, 0, false, false);
    assert_non_null(find(SHARD_SEND_REPLICATE));
    struct msg_replicate *m = malloc(sizeof *m);
    assert_non_null(m);
    *m = find(SHARD_SEND_REPLICATE)->u.replicate;
    return m;
}

/* Returns the version that a new copy has after it was sent `m`. */
static uint64_t version_after(const struct msg_replicate *m)
{
    struct shard *s = make(1, 1, BLOCKS);
    struct view v = view_of(2, 1, 2, (uint8_t[]){COPY_PRIMARY, COPY_COPYING});
    uint16_t index[NAMES_LIMIT];
    shard_on_view(s, 0, &v, out);
    assert_int_equal(shard_on_replicate(s, 0, 1, m, index), SHARD_STORE);
    shard_replicated(s, 0, 0, m, index, out);
    uint64_t version = shard_version(s);
    free(s);
    return version;
}

static void test_a_copy_that_skips_ahead_takes_the_last_record(void **state)
{
    (void)state;
    struct shard *s = make(0, 1, BLOCKS);
    struct msg_replicate *m = sent_to_a_new_copy(s, 2, 2, false);   /* the log needs none of them any more */
    assert_int_equal(m->record_count, 1);
    assert_int_equal(m->record[0].round, 1);
    assert_int_equal(version_after(m), 2);
    free(m);
    free(s);
}

static void test_a_copy_far_behind_is_sent_the_newest_records(void **state)
{
    (void)state;
    struct shard *s = make(0, 1, BLOCKS);
    struct msg_replicate *m = sent_to_a_new_copy(s, RECORDS_LIMIT + 4, RECORDS_LIMIT, true);
    assert_int_equal(m->record[m->record_count - 1].round, RECORDS_LIMIT + 3);
    assert_int_equal(version_after(m), RECORDS_LIMIT + 4);
    free(m);
    free(s);
}

static void test_nested_names_and_sum(void **state)
{
    (void)state;
    struct shard *s = make(0, 1, BLOCKS);
    struct view v = view_of(1, 1, 1, (uint8_t[]){COPY_PRIMARY});
    shard_on_view(s, 0, &v, out);
    seed(s, 1, BLOCKS);
    give(s, 1, 0, 0, 2, 1, 0, BLOCKS);
    assert_null(find(SHARD_SEND_PREPARED));
    give(s, 1, 0, 2, 4, 1, 0, BLOCKS);
    assert_int_equal(find(SHARD_SEND_PREPARED)->u.prepared.cover_count, 2);
    give(s, 1, 0, 0, 4, 1, 0, BLOCKS);
    assert_int_equal(find(SHARD_SEND_PREPARED)->u.prepared.cover_count, 1);
    struct msg_sum m = {.view = 1, .generation = 1, .version = 0, .cover_count = 2};
    m.cover[0] = (struct name){{0, 2}, 1};
    m.cover[1] = (struct name){{2, 4}, 1};
    shard_on_sum(s, 0, &m, out);
    const struct msg_prepared *p = &find(SHARD_SEND_PREPARED)->u.prepared;
    assert_int_equal(p->cover_count, 2);
    assert_int_equal(p->totals.samples, LANES);
    free(s);
}

static void test_a_different_record_stops_the_job(void **state)
{
    (void)state;
    struct shard *s = make(0, 1, BLOCKS);
    struct view v = view_of(1, 1, 1, (uint8_t[]){COPY_PRIMARY});
    shard_on_view(s, 0, &v, out);
    seed(s, 1, BLOCKS);
    give(s, 1, 0, 0, LANES, 1, 0, BLOCKS);
    commit(s, 1, 0, 1);
    commit(s, 1, 0, 1);
    assert_null(find(SHARD_FAIL));                       /* the same one again is nothing */
    commit(s, 1, 0, 7);
    assert_non_null(strstr(find(SHARD_FAIL)->u.text, "round 0"));
    free(s);
}

static void test_contributions_outlive_a_view_but_not_a_generation(void **state)
{
    (void)state;
    struct shard *s = make(0, 1, BLOCKS);
    struct view v = view_of(1, 1, 1, (uint8_t[]){COPY_PRIMARY});
    shard_on_view(s, 0, &v, out);
    seed(s, 1, BLOCKS);
    give(s, 1, 0, 0, LANES, 1, 0, BLOCKS);
    v = view_of(2, 1, 1, (uint8_t[]){COPY_PRIMARY});
    shard_on_view(s, 0, &v, out);
    assert_int_equal(find(SHARD_SEND_PREPARED)->u.prepared.cover_count, 1);
    commit(s, 2, 0, 1);                                  /* made in view 1, sent in view 2 */
    assert_int_equal(shard_version(s), 1);
    v = view_of(3, 2, 1, (uint8_t[]){COPY_PRIMARY});
    shard_on_view(s, 0, &v, out);
    assert_int_equal(shard_state(s), SHARD_LOADING);
    assert_int_equal(shard_version(s), 0);
    assert_int_equal(find(SHARD_DROP)->index, SHARD_ALL);
    free(s);
}

static void test_an_empty_shard_takes_part(void **state)
{
    (void)state;
    struct shard *s = make(0, 1, 0);
    struct view v = view_of(1, 1, 1, (uint8_t[]){COPY_PRIMARY});
    shard_on_view(s, 0, &v, out);
    assert_int_equal(shard_state(s), SHARD_SERVING);
    assert_int_equal(give(s, 1, 0, 0, LANES, 1, 0, 0), SHARD_STORE);
    assert_int_equal(find(SHARD_SEND_PREPARED)->u.prepared.cover_count, 1);
    commit(s, 1, 0, 1);
    assert_int_equal(find(SHARD_PUBLISH)->version, 1);
    free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_copy_from_seed_to_published), cmocka_unit_test(test_rounds_that_outrun_a_copy_wait_for_it),
        cmocka_unit_test(test_a_record_with_another_threshold_is_another_record),
        cmocka_unit_test(test_refuses_what_is_out_of_range),
        cmocka_unit_test(test_prepared_and_published_wait_for_the_copy),
        cmocka_unit_test(test_unanswered_is_sent_again),
        cmocka_unit_test(test_nothing_is_sent_again_over_a_busy_link),
        cmocka_unit_test(test_another_instance_has_no_role),
        cmocka_unit_test(test_a_copy_that_left_starts_blank),
        cmocka_unit_test(test_a_new_primary_that_lags_learns_the_record),
        cmocka_unit_test(test_a_copy_takes_records_from_its_primary_only),
        cmocka_unit_test(test_a_large_name_reaches_a_copy_in_pieces),
        cmocka_unit_test(test_missed_seeds_come_from_the_primary),
        cmocka_unit_test(test_a_copy_that_skips_ahead_takes_the_last_record),
        cmocka_unit_test(test_a_copy_far_behind_is_sent_the_newest_records),
        cmocka_unit_test(test_nested_names_and_sum),
        cmocka_unit_test(test_a_different_record_stops_the_job),
        cmocka_unit_test(test_contributions_outlive_a_view_but_not_a_generation),
        cmocka_unit_test(test_an_empty_shard_takes_part),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
