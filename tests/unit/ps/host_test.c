/* Hosts with real floats, without sockets: a primary and its copy in one loop, whose messages go through a queue; checkpoints and RAM segments. */
#include "tests/unit/unit.h"

#include <fcntl.h>
#include <ftw.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/magnitude.h"
#include "engine/engine.h"
#include "ps/ps.h"

enum { LANES = 4, QUEUE = 256, FLAG = RECORD_CHECKPOINT };
#define PATIENCE_MS 5000

struct rig;
struct end { struct rig *rig; uint8_t slot; struct ps_host *host; };
struct packet { uint8_t from, to; enum msg_type type; void *m; uint8_t *payload; size_t size; };

struct rig {
    struct loop *loop;
    struct ps_disk *disk;
    struct log log;
    struct msg_plan plan;
    struct declaration d;
    char dir[64];
    struct end end[2];
    struct view view;
    struct packet queue[QUEUE];
    unsigned queued;
    /* what came out */
    struct msg_prepared prepared;
    double norms[16];
    uint32_t bins[MAGNITUDE_BINS];
    unsigned prepared_count, part_count, reply_count, fail_count;
    struct msg_part part[64];
    struct msg_pullreply reply;
    float *answer;                        /* payload of the last reply */
    size_t answer_size;
    char fail_text[TEXT_LIMIT];
    bool busy;                            /* what was replied is still on its way */
    uint64_t floats;
    uint32_t blocks;
    unsigned ticks;
};

/* ---- the wires ---- */
static uint8_t *flat(const struct bytes *payload, unsigned pieces, size_t *size)
{
    *size = 0;
    for (unsigned i = 0; i < pieces; i++)
        *size += payload[i].size;
    uint8_t *out = malloc(*size + 1);
    for (unsigned i = 0, at = 0; i < pieces; at += (unsigned)payload[i++].size)
        memcpy(out + at, payload[i].data, payload[i].size);
    return out;
}

static void to_coordinator(struct rig *r, enum msg_type type, const void *m, const uint8_t *payload, size_t size)
{
    if (type == MSG_PREPARED) {
        r->prepared = *(const struct msg_prepared *)m;
        r->prepared_count++;
        size_t norms = r->prepared.norm_count * sizeof r->norms[0];
        assert_true(norms <= sizeof r->norms && size == norms + r->prepared.bin_count * sizeof r->bins[0]);
        memcpy(r->norms, payload, norms);
        memcpy(r->bins, payload + norms, size - norms);
    } else if (type == MSG_PART) {
        r->part[r->part_count++ % 64] = *(const struct msg_part *)m;
    }
}

static void on_send(void *arg, uint8_t slot, enum msg_type type, const void *m, const struct bytes *payload, unsigned pieces)
{
    struct end *end = arg;
    struct rig *r = end->rig;
    size_t size;
    uint8_t *bytes = flat(payload, pieces, &size);
    if (slot == PS_TO_COORDINATOR) {
        to_coordinator(r, type, m, bytes, size);
        free(bytes);
        return;
    }
    assert_true(r->queued < QUEUE);
    void *copy = malloc(msg_struct_size(type));
    memcpy(copy, m, msg_struct_size(type));
    r->queue[r->queued++] = (struct packet){end->slot, slot, type, copy, bytes, size};
}

static void on_reply(void *arg, void *peer, const struct msg_pullreply *m, const struct bytes *payload, unsigned pieces)
{
    struct rig *r = ((struct end *)arg)->rig;
    (void)peer;
    r->reply = *m;
    r->reply_count++;
    free(r->answer);
    r->answer = (float *)(void *)flat(payload, pieces, &r->answer_size);
}

static bool is_busy(void *arg, void *peer)
{
    (void)peer;
    return ((struct end *)arg)->rig->busy;
}

static void on_fail(void *arg, int code, uint64_t step, const char *text)
{
    struct rig *r = ((struct end *)arg)->rig;
    (void)code;
    (void)step;
    r->fail_count++;
    snprintf(r->fail_text, sizeof r->fail_text, "%s", text);
}

/* Delivers until nobody has anything to say. */
static void pump(struct rig *r)
{
    for (unsigned i = 0; i < r->queued; i++) {
        struct packet p = r->queue[i];
        if (r->end[p.to].host)
            ps_host_message(r->end[p.to].host, p.from, 1, NULL, p.type, p.m, p.payload, p.size);
        free(p.m);
        free(p.payload);
    }
    r->queued = 0;
}

/* ---- the rig ---- */
static struct ps_host *open_host(struct rig *r, unsigned slot, struct ps_ram *ram)
{
    struct err e = ERR_INIT;
    struct end *end = &r->end[slot];
    *end = (struct end){.rig = r, .slot = (uint8_t)slot};
    struct ps_host_config c = {.loop = r->loop, .disk = r->disk, .log = &r->log, .plan = &r->plan, .declaration = &r->d, .run_dir = r->dir, .job = "test",
                               .site = (uint8_t)slot, .slot = (uint8_t)slot, .instance = 1, .blocks_at_once = 2, .send = on_send, .reply = on_reply, .busy = is_busy, .fail = on_fail,
                               .ram = ram, .arg = end};
    assert_ok(ps_host_open(&c, &end->host, &e));
    return end->host;
}

static int set_up(void **state)
{
    static const struct tensor_desc tensors[] = {{.name = "a", .kind = TENSOR_PARAMETER, .dim_count = 2, .dims = {70, 1001}},
                                                 {.name = "b", .kind = TENSOR_PARAMETER, .dim_count = 1, .dims = {33}},
                                                 {.name = "mean", .kind = TENSOR_STATE, .dim_count = 1, .dims = {5}}};
    struct err e = ERR_INIT;
    struct rig *r = calloc(1, sizeof *r);
    assert_ok(layout_init(&r->d.layout, tensors, 3, &e));
    assert_ok(loop_new(&r->loop, &e));
    assert_ok(ps_disk_open(r->loop, &r->disk, &e));
    log_open(&r->log, NULL, "test", "");
    r->log.stderr_level = LOG_ERROR;
    snprintf(r->dir, sizeof r->dir, "/tmp/viaduct-host-XXXXXX");
    assert_non_null(mkdtemp(r->dir));
    r->plan = (struct msg_plan){.rounds = 1000, .samples_per_pass = 100, .batch = 16, .lanes = LANES, .shard_count = 1, .slot_count = 2, .site_count = 2, .slot_site = {0, 1},
                                .site_name = {"left", "right"}, .optim_kind = OPTIM_ADAMW, .weight_decay = 0.01f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f,
                                .state_momentum = 0.1f, .ram_every = 1};
    for (uint32_t b = 0; b < r->d.layout.block_count; b++)
        r->floats += r->d.layout.blocks[b].elems;
    r->blocks = r->d.layout.block_count;
    r->view = (struct view){.number = 1, .generation = 1, .base_from = BASE_SEED, .shard_count = 1, .slot_count = 2, .site_count = 2};
    r->view.shard[0].copy_count = 2;
    for (unsigned i = 0; i < 2; i++) {
        r->view.slot[i] = (struct view_slot){.site = (uint8_t)i, .up = true, .instance = 1};
        r->view.shard[0].copy[i].slot = (uint8_t)i;
        r->view.shard[0].copy[i].role = i ? COPY_SYNC : COPY_PRIMARY;
    }
    *state = r;
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *at)
{
    (void)st, (void)flag, (void)at;
    return remove(path);
}

static int tear_down(void **state)
{
    struct rig *r = *state;
    pump(r);
    ps_disk_close(r->disk);
    loop_free(r->loop);
    for (unsigned i = 0; i < 2; i++)
        ps_host_close(r->end[i].host);
    declaration_fini(&r->d);
    nftw(r->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(r->answer);
    free(r);
    return 0;
}

static void show(struct rig *r)
{
    for (unsigned i = 0; i < 2; i++)
        if (r->end[i].host)
            ps_host_view(r->end[i].host, &r->view);
    pump(r);
}

static float weight_of(uint64_t i) { return 0.001f * (float)(i % 977) - 0.4f; }
static float gradient_of(uint64_t i, unsigned lane, uint64_t round) { return (float)((i + 13 * lane + 7 * round) % 101) - 50; }

static float *fill(const struct rig *r, int lane, uint64_t round)
{
    float *out = malloc((r->floats + 1) * sizeof *out);
    for (uint64_t i = 0; i < r->floats; i++)
        out[i] = lane < 0 ? weight_of(i) : gradient_of(i, (unsigned)lane, round);
    return out;
}

static void seed(struct rig *r)
{
    float *w = fill(r, -1, 0);
    struct msg_seed m = {.view = r->view.number, .generation = r->view.generation, .block_count = r->blocks};
    for (unsigned i = 0; i < 2; i++)
        if (r->end[i].host)
            ps_host_message(r->end[i].host, 9, 1, r, MSG_SEED, &m, (const uint8_t *)w, r->floats * sizeof *w);
    free(w);
    pump(r);
}

/* Blocks [first, first + count) of the sum of two lanes, whose payload may be cut or made longer. */
static void give_blocks(struct rig *r, uint64_t round, uint16_t half, uint32_t first, uint32_t count, long extra)
{
    float *g = fill(r, half, round);
    struct msg_contribute m = {.view = r->view.number, .generation = r->view.generation, .round = round, .name = {{(uint16_t)(2 * half), (uint16_t)(2 * half + 2)}, 1},
                               .totals = {.loss_sum = 1, .samples = 8}, .block_first = first, .block_count = count};
    uint64_t at = 0, n = 0;
    for (uint32_t b = 0; b < r->blocks; b++) {
        at += b < first ? r->d.layout.blocks[b].elems : 0;
        n += b >= first && b - first < count ? r->d.layout.blocks[b].elems : 0;
    }
    at = at > r->floats ? 0 : at;
    ps_host_message(r->end[0].host, 9, 1, r, MSG_CONTRIBUTE, &m, (const uint8_t *)(g + at), (size_t)((long)(n * sizeof *g) + extra));
    free(g);
}

static void give(struct rig *r, uint64_t round)
{
    for (uint16_t half = 0; half < 2; half++) {
        give_blocks(r, round, half, 0, 1, 0);
        give_blocks(r, round, half, 1, r->blocks - 1, 0);
    }
    pump(r);
}

static float threshold;                                   /* of the next record */

static void commit(struct rig *r, uint64_t round, uint8_t flags)
{
    struct msg_commit *m = calloc(1, sizeof *m);
    m->view = r->view.number;
    m->generation = r->view.generation;
    m->synced = round;
    m->record_count = 1;
    m->record[0] = (struct record){.round = round, .generation = r->view.generation, .view = r->view.number, .count = 16, .lr = 0.01f, .clip = 1, .flags = flags,
                                   .threshold = threshold, .cover_count = 2, .cover = {{{0, 2}, 1}, {{2, 4}, 1}}};
    ps_host_message(r->end[0].host, PS_TO_COORDINATOR, 0, NULL, MSG_COMMIT, m, NULL, 0);
    free(m);
    pump(r);
}

static void step(struct rig *r, uint64_t round, uint8_t flags)
{
    give(r, round);
    commit(r, round, flags);
}

static unsigned ask(struct rig *r, unsigned slot, uint64_t version, uint32_t first, uint32_t count)
{
    unsigned before = r->reply_count;
    struct msg_pull m = {.view = r->view.number, .generation = r->view.generation, .version = version, .block_first = first, .block_count = count};
    ps_host_message(r->end[slot].host, 9, 1, r, MSG_PULL, &m, NULL, 0);
    return r->reply_count - before;
}

static void pull(struct rig *r, unsigned slot, uint64_t version, float *out)
{
    assert_int_equal(ask(r, slot, version, 0, r->blocks), 1);
    assert_int_equal(r->reply.status, PULL_OK);
    assert_int_equal(r->reply.version, version);
    assert_int_equal(r->answer_size, r->floats * sizeof(float));
    memcpy(out, r->answer, r->answer_size);
}

static void look(void *arg)
{
    struct rig *r = arg;
    r->ticks++;
    pump(r);
    loop_stop(r->loop);
}

/* Turns the loop for what the disk's thread answers. */
static void wait_for(struct rig *r, const unsigned *count, unsigned wanted)
{
    struct timer *t = timer_start(r->loop, 5, 5, look, r);
    for (r->ticks = 0; *count < wanted && r->ticks < PATIENCE_MS / 5;)
        loop_run(r->loop);
    timer_stop(t);
    assert_true(*count >= wanted);
}

static void start_pair(struct rig *r)
{
    open_host(r, 0, NULL);
    open_host(r, 1, NULL);
    show(r);
    seed(r);
}

/* ---- tests ---- */
static void test_a_pair_from_seed_to_published(void **state)
{
    struct rig *r = *state;
    float *first = malloc(r->floats * sizeof *first), *second = malloc(r->floats * sizeof *second), *want = fill(r, -1, 0);
    open_host(r, 0, NULL);
    open_host(r, 1, NULL);
    assert_int_equal(ask(r, 0, 0, 0, r->blocks), 0);     /* no view yet: it waits */
    show(r);
    assert_int_equal(r->reply_count, 1);
    assert_int_equal(r->reply.status, PULL_NEED_SEED);
    assert_int_equal(ask(r, 1, 0, 0, r->blocks), 1);
    assert_int_equal(r->reply.status, PULL_NEED_SEED);
    seed(r);
    pull(r, 0, 0, first);
    pull(r, 1, 0, second);
    assert_memory_equal(first, want, r->floats * sizeof *first);
    assert_memory_equal(second, want, r->floats * sizeof *first);

    give(r, 0);
    assert_int_equal(r->prepared.cover_count, 2);
    assert_int_equal(r->prepared.norm_count, r->blocks);
    assert_int_equal(r->prepared.nonfinite, 0);
    assert_true(r->norms[0] > 0 && r->norms[r->blocks - 1] == 0);   /* states have no norm */
    unsigned before = r->reply_count;
    assert_int_equal(ask(r, 1, 1, 0, r->blocks), 0);
    commit(r, 0, 0);
    assert_int_equal(r->reply_count, before + 1);        /* the waiting pull */

    struct optim_config o = {.kind = OPTIM_ADAMW, .weight_decay = 0.01f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .state_momentum = 0.1f};
    uint64_t params = r->floats - 5;
    float *slot[2] = {calloc(r->floats, sizeof(float)), calloc(r->floats, sizeof(float))}, *sum = malloc(r->floats * sizeof *sum);
    for (uint64_t i = 0; i < r->floats; i++)
        sum[i] = gradient_of(i, 0, 0) + gradient_of(i, 1, 0);
    optim_apply(&o, TENSOR_PARAMETER, want, slot, sum, params, 16, 0.01f, 1, 1);
    float *tail[2] = {slot[0] + params, slot[1] + params};
    optim_apply(&o, TENSOR_STATE, want + params, tail, sum + params, 5, 16, 0.01f, 1, 1);
    pull(r, 0, 1, first);
    pull(r, 1, 1, second);
    assert_memory_equal(first, want, r->floats * sizeof *first);
    assert_memory_equal(second, want, r->floats * sizeof *first);
    for (uint64_t round = 1; round < 40; round++)
        step(r, round, 0);
    pull(r, 0, 40, first);
    pull(r, 1, 40, second);
    assert_memory_equal(first, second, r->floats * sizeof *first);
    assert_int_equal(r->fail_count, 0);
    free(first);
    free(second);
    free(want);
    free(slot[0]);
    free(slot[1]);
    free(sum);
}

/* Tensor a has two dimensions: it alone is counted and pruned. */
static void test_pruning(void **state)
{
    struct rig *r = *state;
    const uint64_t prunable = 70 * 1001;
    const uint32_t *bins[1] = {r->bins};
    float *before = malloc(r->floats * sizeof *before), *first = malloc(r->floats * sizeof *first), *second = malloc(r->floats * sizeof *second);
    bool *gone = calloc(r->floats, sizeof *gone);
    r->plan.phases = (struct phases){2, {{PHASE_TRAIN, 1}, {PHASE_PRUNE, 6}}, 0.5};   /* the ramp: rounds 1 and 2 */
    start_pair(r);
    give(r, 0);
    assert_int_equal(r->prepared.bin_count, 0);
    commit(r, 0, 0);
    for (uint64_t round = 1; round < 6; round++) {
        double share = phases_ramp(&r->plan.phases, round);
        pull(r, 0, round, before);
        give(r, round);
        assert_int_equal(r->prepared.bin_count, share > 0 ? MAGNITUDE_BINS : 0);
        threshold = share > 0 ? magnitude_threshold(bins, 1, share) : 0;
        uint64_t total = 0, zeros = 0;
        for (unsigned b = 0; share > 0 && b < MAGNITUDE_BINS; b++)
            total += r->bins[b];
        assert_true(share == 0 || total == prunable);
        for (uint64_t i = 0; i < prunable; i++) {
            gone[i] = gone[i] || before[i] == 0 || (before[i] < threshold && -before[i] < threshold);
            zeros += gone[i];
        }
        assert_true((double)zeros >= (round < 2 ? share : 0.5) * (double)prunable && (double)zeros < 0.52 * (double)prunable);
        commit(r, round, RECORD_MASKED);
        pull(r, 0, round + 1, first);
        pull(r, 1, round + 1, second);
        assert_memory_equal(first, second, r->floats * sizeof *first);
        for (uint64_t i = 0; i < r->floats; i++)
            assert_true((first[i] == 0) == gone[i]);
    }
    threshold = 0;
    assert_int_equal(r->fail_count, 0);
    free(before);
    free(first);
    free(second);
    free(gone);
}

/* A gang may have version 0 from its own site's copy while the primary still waits for seeds. */
static void test_a_primary_without_seeds_asks_who_contributes(void **state)
{
    struct rig *r = *state;
    open_host(r, 0, NULL);
    open_host(r, 1, NULL);
    show(r);
    give_blocks(r, 0, 0, 0, 1, 0);
    assert_int_equal(r->reply_count, 1);
    assert_int_equal(r->reply.status, PULL_NEED_SEED);
    assert_int_equal(r->reply.block_count, 1);
}

/* A question that crosses its answer, or is asked again while a slow link still moves it. */
static void test_an_answer_under_way_is_not_sent_again(void **state)
{
    struct rig *r = *state;
    start_pair(r);
    r->busy = true;
    assert_int_equal(ask(r, 0, 0, 0, r->blocks), 1);
    assert_int_equal(ask(r, 0, 0, 0, r->blocks), 0);
    assert_int_equal(ask(r, 0, 0, 1, 1), 1);              /* other blocks */
    assert_int_equal(ask(r, 0, 1, 0, r->blocks), 0);      /* of the next version, which is answered when it is there */
    step(r, 0, 0);
    assert_int_equal(r->reply.version, 1);
    assert_int_equal(ask(r, 0, 1, 0, r->blocks), 0);
    r->busy = false;                                      /* it went, and who asks did not take it */
    assert_int_equal(ask(r, 0, 1, 0, r->blocks), 1);
}

static void test_wrong_sizes_change_nothing(void **state)
{
    struct rig *r = *state;
    static const float junk[16] = {1};
    start_pair(r);
    unsigned before = r->prepared_count;
    for (uint16_t half = 0; half < 2; half++) {
        give_blocks(r, 0, half, 0, r->blocks, -4);
        give_blocks(r, 0, half, 0, r->blocks, 4 - (long)(r->floats * sizeof(float)));
        give_blocks(r, 0, half, 0, r->blocks - 1, 4);
        give_blocks(r, 0, half, 1, UINT32_MAX, 0);       /* first + count overflows */
        give_blocks(r, 0, half, UINT32_MAX, 1, 0);
        give_blocks(r, 0, half, r->blocks + 1, 0, 0);
        give_blocks(r, 0, half, 0, 0, 0);                /* no blocks: nothing, but no harm */
        give_blocks(r, 0, half, r->blocks, 0, 0);
    }
    assert_int_equal(ask(r, 0, 0, 1, UINT32_MAX), 0);
    assert_int_equal(ask(r, 0, 0, r->blocks + 1, 0), 0);
    assert_int_equal(ask(r, 0, 0, r->blocks, 0), 1);
    assert_int_equal(r->answer_size, 0);
    struct msg_replicate *rep = calloc(1, sizeof *rep);
    rep->view = rep->generation = 1;
    rep->name_count = 1;
    rep->name[0] = (struct name){{0, LANES}, 1};
    rep->with_data[0] = 1;
    rep->block_count = r->blocks;
    ps_host_message(r->end[1].host, 0, 1, NULL, MSG_REPLICATE, rep, (const uint8_t *)junk, sizeof junk);
    rep->block_first = UINT32_MAX;                       /* first + count overflows */
    ps_host_message(r->end[1].host, 0, 1, NULL, MSG_REPLICATE, rep, (const uint8_t *)junk, sizeof junk);
    rep->block_first = 0;
    rep->with_data[1] = ~0ull;                           /* data for names that it does not have */
    ps_host_message(r->end[1].host, 0, 1, NULL, MSG_REPLICATE, rep, (const uint8_t *)junk, sizeof junk);
    free(rep);
    struct msg_block block = {.view = 1, .generation = 1, .block = 0};
    ps_host_message(r->end[1].host, 0, 1, NULL, MSG_BLOCK, &block, (const uint8_t *)junk, sizeof junk);
    block.block = UINT32_MAX;
    ps_host_message(r->end[1].host, 0, 1, NULL, MSG_BLOCK, &block, (const uint8_t *)junk, sizeof junk);
    struct msg_seed m = {.view = 1, .generation = 1, .block_first = 1, .block_count = UINT32_MAX};
    ps_host_message(r->end[0].host, 9, 1, r, MSG_SEED, &m, (const uint8_t *)junk, sizeof junk);
    pump(r);
    assert_int_equal(r->prepared_count, before);
    step(r, 0, 0);                                       /* and the round goes on as if nothing had been */
    float *w = malloc(r->floats * sizeof *w);
    pull(r, 1, 1, w);
    free(w);
    assert_int_equal(r->fail_count, 0);
}

static void publish(struct rig *r, const char *site, const struct msg_part *p)
{
    struct err e = ERR_INIT;
    char dir[160];
    uint32_t *of = calloc(r->blocks, sizeof *of);
    struct ckpt_manifest m = {.meta = {.job_id = "test", .generation = p->generation, .step = p->step, .phase = "train", .optimizer = "adamw", .slot_count = 2,
                                       .slot_name = {"exp_avg", "exp_avg_sq"}, .model_json = "{}", .spec_yaml = "viaduct: v1\n"},
                              .layout = r->d.layout, .part_count = 1, .part_of_block = of};
    m.part[0].size_bytes = p->size_bytes;
    memcpy(m.part[0].sha256, p->sha256, sizeof p->sha256);
    snprintf(dir, sizeof dir, "%s/ckpt/%s/step-%08llu", r->dir, site, (unsigned long long)p->step);
    assert_ok(ckpt_publish(&fs_real, dir, &m, &e));
    free(of);
}

static void test_a_checkpoint_brings_back_the_same_bits(void **state)
{
    struct rig *r = *state;
    float *saved = malloc(r->floats * sizeof *saved), *later = malloc(r->floats * sizeof *later), *again = malloc(r->floats * sizeof *again);
    start_pair(r);
    step(r, 0, 0);
    step(r, 1, FLAG);
    pull(r, 0, 2, saved);
    step(r, 2, 0);                                       /* the snapshot was taken at its version, whatever came after */
    pull(r, 0, 3, later);
    wait_for(r, &r->part_count, 2);
    assert_int_equal(r->part[0].step, 2);
    assert_memory_equal(r->part[0].sha256, r->part[1].sha256, sizeof r->part[0].sha256);
    struct msg_part told[4];
    assert_int_equal(ps_host_parts(r->end[0].host, told, 4), 1);
    publish(r, "left", &r->part[0]);
    for (unsigned later_step = 100; later_step < 300; later_step++) {   /* checkpoint.keep may be large, and a rollback may pass newer ones over */
        struct err e = ERR_INIT;
        char dir[160];
        snprintf(dir, sizeof dir, "%s/ckpt/right/step-%08u", r->dir, later_step);
        assert_ok(fs_mkdirs(&fs_real, dir, &e));
    }
    for (unsigned i = 0; i < 2; i++) {
        ps_host_close(r->end[i].host);
        open_host(r, i, NULL);
    }
    r->view.number = r->view.generation = 2;
    r->view.base = 2;
    r->view.base_from = BASE_CHECKPOINT;
    r->view.base_generation = 1;
    show(r);
    unsigned before = r->reply_count;
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(ask(r, i, 2, 0, r->blocks), 0);
    wait_for(r, &r->reply_count, before + 2);
    for (unsigned i = 0; i < 2; i++) {
        pull(r, i, 2, again);
        assert_memory_equal(again, saved, r->floats * sizeof *again);
    }
    step(r, 2, 0);                                       /* moments too: the next step has the same bits as before */
    pull(r, 1, 3, again);
    assert_memory_equal(again, later, r->floats * sizeof *again);
    assert_int_equal(r->fail_count, 0);
    r->view.number = r->view.generation = 3;
    r->view.base = 7;
    show(r);
    wait_for(r, &r->fail_count, 1);
    assert_non_null(strstr(r->fail_text, "step 7"));
    free(saved);
    free(later);
    free(again);
}

/* While the loop does not turn, no part is finished: the snapshots that wait stay few, and the newest is among them. */
static void test_a_slow_disk_does_not_fill_the_memory(void **state)
{
    struct rig *r = *state;
    start_pair(r);
    for (uint64_t round = 0; round < 20; round++)
        step(r, round, FLAG);
    wait_for(r, &r->part_count, 10);                     /* of each host: one under way and four that wait */
    assert_int_equal(r->part_count, 10);
    uint64_t newest = 0;
    for (unsigned i = 0; i < r->part_count; i++)
        newest = r->part[i].step > newest ? r->part[i].step : newest;
    assert_int_equal(newest, 20);
}

/* A full disk: a folder that cannot be made. */
static void test_a_part_that_cannot_be_written_is_a_failure(void **state)
{
    struct rig *r = *state;
    char path[128];
    snprintf(path, sizeof path, "%s/ckpt", r->dir);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fclose(f);
    start_pair(r);
    step(r, 0, FLAG);
    wait_for(r, &r->fail_count, 2);
    assert_non_null(strstr(r->fail_text, "step 1"));
    assert_int_equal(r->part_count, 0);
}

/* ---- RAM segments ---- */
static void segment_name(char out[64]) { snprintf(out, 64, "/viaduct-host-test-%d", (int)getpid()); }

static void test_ram_keeps_the_two_newest(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    char name[64];
    float w[6], s[12], back_w[6], back_s[12];
    uint64_t version[2];
    uint32_t generation[2];
    struct ps_ram *ram;
    segment_name(name);
    shm_unlink(name);
    ps_ram_peek(name, 5, version, generation);
    assert_int_equal(version[0] + version[1], 0);
    assert_ok(ps_ram_open(name, 5, 18, &ram, &e));
    for (unsigned i = 0; i < 12; i++) {
        s[i] = -(float)i;
        w[i % 6] = (float)i;
    }
    assert_false(ps_ram_load(ram, 0, 1, back_w, 6, back_s, 12));
    for (uint64_t v = 0; v < 5; v++) {
        w[0] = (float)v;
        ps_ram_save(ram, v, 1, w, 6, s, 12);
    }
    ps_ram_close(ram);                                   /* the process is gone, the segment stays */
    ps_ram_peek(name, 5, version, generation);
    assert_int_equal(version[0] + version[1], 4 + 1 + 3 + 1);
    assert_ok(ps_ram_open(name, 5, 18, &ram, &e));
    assert_true(ps_ram_load(ram, 3, 1, back_w, 6, back_s, 12));
    assert_true(back_w[0] == 3);
    assert_true(ps_ram_load(ram, 4, 1, back_w, 6, back_s, 12));
    assert_true(back_w[0] == 4);
    assert_memory_equal(back_s, s, sizeof s);
    assert_false(ps_ram_load(ram, 2, 1, back_w, 6, back_s, 12));
    assert_false(ps_ram_load(ram, 4, 2, back_w, 6, back_s, 12));
    assert_false(ps_ram_load(ram, 4, 1, back_w, 5, back_s, 12));
    ps_ram_close(ram);
    ps_ram_peek(name, 6, version, generation);           /* another layout */
    assert_int_equal(version[0] + version[1], 0);
    assert_ok(ps_ram_open(name, 6, 20, &ram, &e));
    assert_false(ps_ram_load(ram, 4, 1, back_w, 6, back_s, 12));
    ps_ram_close(ram);
    shm_unlink(name);
}

static void test_after_a_rollback_ram_holds_the_new_generation(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    char name[64];
    float w[2] = {1, 2}, back[2];
    struct ps_ram *ram;
    segment_name(name);
    shm_unlink(name);
    assert_ok(ps_ram_open(name, 5, 2, &ram, &e));
    ps_ram_save(ram, 9, 1, w, 2, NULL, 0);
    ps_ram_save(ram, 10, 1, w, 2, NULL, 0);
    for (uint64_t v = 5; v < 8; v++) {
        ps_ram_save(ram, v, 2, w, 2, NULL, 0);           /* of lower versions than what is void now */
        assert_true(ps_ram_load(ram, v, 2, back, 2, NULL, 0));
        assert_true(v == 5 || ps_ram_load(ram, v - 1, 2, back, 2, NULL, 0));
    }
    ps_ram_close(ram);
    shm_unlink(name);
}

static void test_a_torn_ram_segment_is_not_loaded(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    char name[64];
    float w[2] = {1, 2}, back[2];
    struct ps_ram *ram;
    segment_name(name);
    shm_unlink(name);
    assert_ok(ps_ram_open(name, 5, 2, &ram, &e));
    ps_ram_save(ram, 1, 1, w, 2, NULL, 0);
    ps_ram_save(ram, 2, 1, w, 2, NULL, 0);
    int fd = shm_open(name, O_RDWR, 0600);
    assert_true(fd >= 0);
    off_t end = lseek(fd, 0, SEEK_END);
    uint8_t *all = mmap(NULL, (size_t)end, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    all[end - 1] ^= 1;                                   /* in the second place */
    assert_true(ps_ram_load(ram, 1, 1, back, 2, NULL, 0));
    assert_false(ps_ram_load(ram, 2, 1, back, 2, NULL, 0));
    munmap(all, (size_t)end);
    ps_ram_close(ram);
    shm_unlink(name);
}

static void test_an_embedded_shard_starts_from_ram_at_once(void **state)
{
    struct rig *r = *state;
    struct err e = ERR_INIT;
    char name[64];
    struct ps_ram *ram;
    float *before = malloc(r->floats * sizeof *before), *after = malloc(r->floats * sizeof *after);
    segment_name(name);
    shm_unlink(name);
    r->plan.embedded = true;
    r->view.shard[0].copy_count = 1;
    assert_ok(ps_ram_open(name, 5, 3 * r->floats, &ram, &e));
    open_host(r, 0, ram);
    show(r);
    seed(r);
    step(r, 0, 0);
    step(r, 1, 0);
    pull(r, 0, 2, before);
    ps_host_close(r->end[0].host);
    open_host(r, 0, ram);
    r->view.number = r->view.generation = 2;
    r->view.base = 2;
    r->view.base_from = BASE_RAM;
    r->view.base_generation = 1;
    show(r);
    pull(r, 0, 2, after);
    assert_memory_equal(after, before, r->floats * sizeof *after);
    step(r, 2, 0);
    pull(r, 0, 3, after);
    ps_host_close(r->end[0].host);
    open_host(r, 0, ram);
    r->view.number = r->view.generation = 3;
    r->view.base_generation = 9;                         /* what it does not hold */
    show(r);
    assert_int_equal(r->fail_count, 1);
    assert_int_equal(ask(r, 0, 2, 0, r->blocks), 0);
    ps_host_close(r->end[0].host);
    r->end[0].host = NULL;
    ps_ram_close(ram);
    shm_unlink(name);
    free(before);
    free(after);
}

/* A copy that comes late says that it has nothing, however far the others are: it still becomes complete. */
static void test_a_late_copy_becomes_complete(void **state)
{
    struct rig *r = *state;
    float *first = malloc(r->floats * sizeof *first), *second = malloc(r->floats * sizeof *second);
    r->view.shard[0].copy[1].role = COPY_NONE;
    open_host(r, 0, NULL);
    show(r);
    seed(r);
    for (uint64_t round = 0; round < 50; round++)
        step(r, round, 0);
    r->view.number = 2;
    r->view.shard[0].copy[1].role = COPY_COPYING;
    ps_host_view(r->end[0].host, &r->view);
    pump(r);                                             /* what the primary says first finds nobody */
    open_host(r, 1, NULL);
    ps_host_view(r->end[1].host, &r->view);
    pump(r);
    step(r, 50, 0);
    step(r, 51, 0);
    assert_int_equal(r->prepared.complete_mask, 2);
    r->view.number = 3;
    r->view.shard[0].copy[1].role = COPY_SYNC;
    show(r);
    pull(r, 0, 52, first);
    pull(r, 1, 52, second);
    assert_memory_equal(first, second, r->floats * sizeof *first);
    free(first);
    free(second);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_pair_from_seed_to_published, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_pruning, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_primary_without_seeds_asks_who_contributes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_an_answer_under_way_is_not_sent_again, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_wrong_sizes_change_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_checkpoint_brings_back_the_same_bits, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_slow_disk_does_not_fill_the_memory, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_part_that_cannot_be_written_is_a_failure, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_an_embedded_shard_starts_from_ram_at_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_late_copy_becomes_complete, set_up, tear_down),
        cmocka_unit_test(test_ram_keeps_the_two_newest),
        cmocka_unit_test(test_after_a_rollback_ram_holds_the_new_generation),
        cmocka_unit_test(test_a_torn_ram_segment_is_not_loaded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
