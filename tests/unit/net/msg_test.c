/* Messages: what is decoded encodes to the same bytes, every prefix and every broken count is refused, version 3 stays as it was written down. */
#include "tests/unit/unit.h"

#include "net/msg.h"

#define GOLDEN "tests/fixtures/frames/v3.hex"

/* Fills a message with values that a decoder accepts, by decoding random bytes whose counts are made small until one passes. */
static bool random_message(struct test_random *r, enum msg_type type, void *m, uint8_t *bytes, size_t *size)
{
    for (int turn = 0; turn < 200; turn++) {
        size_t n = test_u32(r) % 4000;
        for (size_t i = 0; i < n; i++)
            bytes[i] = (uint8_t)(test_u32(r) % 8 ? test_u32(r) % 3 : test_u32(r));
        struct reader whole = reader_over(bytes, n);
        if (msg_decode(type, &whole, m)) {
            *size = n;
            return true;
        }
        /* It read a valid message and left bytes over: cut there. */
        if (!whole.bad && whole.pos < n) {
            struct reader cut = reader_over(bytes, whole.pos);
            if (msg_decode(type, &cut, m)) {
                *size = cut.size;
                return true;
            }
        }
    }
    return false;
}

static void test_round_trip(void **state)
{
    (void)state;
    struct test_random r = {test_seed(), 0};
    static uint8_t bytes[4096], again[MSG_BODY_MAX], m[1 << 17];
    unsigned made = 0;
    for (int type = 0; type < MSG_TYPES; type++) {
        if (!msg_struct_size((enum msg_type)type))
            continue;
        assert_true(msg_struct_size((enum msg_type)type) <= sizeof m);
        for (int turn = 0; turn < 30; turn++) {
            size_t n;
            if (!random_message(&r, (enum msg_type)type, m, bytes, &n))
                continue;
            made++;
            struct writer w = writer_over(again, sizeof again);
            assert_true(msg_encode((enum msg_type)type, m, &w));
            assert_int_equal(w.pos, n);
            assert_memory_equal(again, bytes, n);
            for (size_t cut = 0; cut < n; cut++) {
                struct reader prefix = reader_over(bytes, cut);
                static uint8_t scrap[1 << 17];
                assert_false(msg_decode((enum msg_type)type, &prefix, scrap));
            }
        }
    }
    assert_true(made > 200);
}

static void test_limits(void **state)
{
    (void)state;
    static struct msg_sum sum = {.cover_count = COVER_LIMIT + 1};
    static uint8_t bytes[MSG_BODY_MAX];
    struct writer w = writer_over(bytes, sizeof bytes);
    assert_false(msg_encode(MSG_SUM, &sum, &w));
    static struct msg_plan plan;
    w = writer_over(bytes, sizeof bytes);
    assert_true(msg_encode(MSG_PLAN, &plan, &w));
    bytes[8 + 1 + 8 + 8 + 4 + 2] = 2;   /* a boolean that is neither */
    struct reader r = reader_over(bytes, w.pos);
    assert_false(msg_decode(MSG_PLAN, &r, &plan));
    static struct msg_insite insite = {.count = INSITE_LIMIT + 1};
    w = writer_over(bytes, sizeof bytes);
    assert_false(msg_encode(MSG_INSITE, &insite, &w));
    static struct msg_gang gang = {.rank_count = LANES_MAX, .host = {HOSTS_LIMIT}};
    w = writer_over(bytes, sizeof bytes);
    assert_false(msg_encode(MSG_GANG, &gang, &w));
    gang.host[0] = HOSTS_LIMIT - 1;
    for (unsigned i = 0; i < LANES_MAX; i++)
        memset(gang.address_tls[i], 'a', ADDRESS_LIMIT - 1);
    w = writer_over(bytes, sizeof bytes);
    assert_true(msg_encode(MSG_GANG, &gang, &w));   /* the largest fits */
    struct reader none = reader_over(bytes, 0);
    assert_false(msg_decode(MSG_TYPES, &none, &plan));
    static struct msg_times times = {.count = TIMES_LIMIT + 1};
    w = writer_over(bytes, sizeof bytes);
    assert_false(msg_encode(MSG_TIMES, &times, &w));
    assert_string_equal(msg_type_name(MSG_COMMIT), "commit");
    assert_string_equal(msg_type_name((enum msg_type)999), "unknown");
}

static void fill(struct record *rec, uint64_t round)
{
    *rec = (struct record){.round = round, .generation = 2, .view = 7, .pass = 1, .first = 512, .count = 256, .lr = 0.01f, .clip = 1, .norm = 2.5,
                           .flags = RECORD_CHECKPOINT | RECORD_MASKED, .threshold = 0.125f, .totals = {100.25, 200, 256, 0}, .cover_count = 2};
    rec->cover[0] = (struct name){{0, 4}, 3};
    rec->cover[1] = (struct name){{4, 8}, 0};
}

/* What version 3 looks like on the wire; changed bytes mean a new version, never a new fixture. */
static void test_golden_version_3(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    static struct msg_commit commit = {.view = 7, .generation = 2, .shard = 1, .synced = 40, .record_count = 1};
    static struct msg_view view = {.view = {.number = 9, .generation = 1, .base = 3, .base_from = BASE_CHECKPOINT, .base_generation = 1, .log_position = 12,
                                            .shard_count = 1, .slot_count = 1, .site_count = 1,
                                            .shard = {{1, {{0, COPY_PRIMARY}}}}, .slot = {{0, true, 2}}, .gang = {{{0, 8}, 2, 5, true}}},
                                   .address_unix = {"unix:/x"}, .address_tls = {"tls:127.0.0.1:1"}};
    static struct msg_plan plan = {.rounds = 30, .phases = {2, {{PHASE_TRAIN, 20}, {PHASE_PRUNE, 30}}, 0.75}, .samples_per_pass = 600, .batch = 60, .lanes = 8,
                                   .deterministic = true, .seed = 1, .checkpoint_every = 10, .ram_every = 1, .shard_count = 1, .slot_count = 1, .site_count = 1,
                                   .site_name = {"one"}, .weight_decay = 0.5f, .beta1 = 0.25f, .clip = 2, .layout_hash = 5};
    static struct msg_prepared prepared = {.view = 7, .generation = 2, .shard = 1, .version = 41, .norm_count = 3, .bin_count = 16384, .complete_mask = 1};
    static struct msg_hello hello = {.version_min = 3, .version_max = 3, .features = 3, .who = {ROLE_WORKER, 1, 2, 3}, .job = "0011aabb", .build = "0.1.0"};
    static struct msg_join join = {.who = {ROLE_WORKER, 1, 2, 3}, .layout_hash = 11, .samples_per_pass = 12, .ram_version = {4, 5}, .ram_generation = {1, 2},
                                   .data_sha256 = "ab", .address_tls = "tls:10.0.0.2:7", .host = 1, .alive_count = 1, .alive = {{ROLE_PS, 1, 0, 9}}};
    static struct msg_gang gang = {.site = 1, .incarnation = 3, .rank_count = 2, .host = {0, 1}, .address_tls = {"tls:10.0.0.1:7", "tls:10.0.0.2:7"}};
    static struct msg_insite insite = {.site = 1, .incarnation = 3, .turn = 2, .round = 40, .kind = INSITE_SUMS, .first = 65536, .count = 64, .value = 5};
    static struct msg_times times = {.generation = 2, .count = 1, .step = {{41, {0.5f, 0.25f, 0.125f, 0, -1}}}};
    static struct msg_ready ready = {.who = {ROLE_WORKER, 1, 2, 3}};
    static struct msg_warm warm = {.back = 65536};
    static struct msg_contribute contribute = {.view = 7, .generation = 2, .round = 41, .shard = 1, .name = {{0, 4}, 3}, .totals = {1.5, 6, 8, 0}, .block_first = 64, .block_count = 2};
    static struct msg_replicate replicate = {.view = 7, .generation = 2, .shard = 1, .version = 42, .stable = 41, .synced = 40, .name_count = 1, .name = {{{0, 4}, 3}},
                                             .totals = {{1.5, 6, 8, 0}}, .with_data = {1}, .block_first = 64, .block_count = 2, .record_count = 1};
    static struct msg_block block = {.view = 7, .generation = 2, .shard = 1, .version = 42, .block = 66};
    static struct msg_ack ack = {.view = 7, .generation = 2, .shard = 1, .version = 42, .records = 42, .complete = true, .name_count = 1, .name = {{{0, 4}, 3}}};
    static struct msg_pull pull = {.view = 7, .generation = 2, .shard = 1, .version = 42, .block_first = 64, .block_count = 2};
    static struct msg_seed seed = {.view = 7, .generation = 2, .shard = 1, .block_first = 64, .block_count = 2};
    static uint8_t bytes[MSG_BODY_MAX];
    char got[8192] = "";
    fill(&commit.record[0], 41);
    fill(&replicate.record[0], 41);
    const struct { enum msg_type type; const void *m; } all[] = {{MSG_HELLO, &hello}, {MSG_VIEW, &view}, {MSG_COMMIT, &commit}, {MSG_PLAN, &plan}, {MSG_PREPARED, &prepared},
                                                                  {MSG_JOIN, &join}, {MSG_GANG, &gang}, {MSG_INSITE, &insite}, {MSG_TIMES, &times}, {MSG_READY, &ready}, {MSG_WARM, &warm},
                                                                  {MSG_CONTRIBUTE, &contribute}, {MSG_REPLICATE, &replicate}, {MSG_BLOCK, &block}, {MSG_ACK, &ack},
                                                                  {MSG_PULL, &pull}, {MSG_SEED, &seed}};
    for (unsigned i = 0; i < ARRAY_LEN(all); i++) {
        struct writer w = writer_over(bytes, sizeof bytes);
        assert_true(msg_encode(all[i].type, all[i].m, &w));
        size_t used = strlen(got);
        used += (size_t)snprintf(got + used, sizeof got - used, "%s ", msg_type_name(all[i].type));
        hex_of(bytes, w.pos, got + used);
        strcat(got, "\n");
    }
    if (getenv("VIADUCT_WRITE_GOLDEN"))
        assert_ok(fs_write_file(&fs_real, GOLDEN, got, strlen(got), &e));
    void *want;
    size_t n;
    assert_ok(fs_read_file(&fs_real, GOLDEN, 1 << 16, &want, &n, &e));
    assert_string_equal(got, want);
    free(want);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_round_trip), cmocka_unit_test(test_limits), cmocka_unit_test(test_golden_version_3)};
    return cmocka_run_group_tests_name("net messages", tests, NULL, NULL);
}
