/* In-site sums by real processes: the same bits for any number of ranks, dead and slow peers, mismatched gangs. */
#include "tests/unit/unit.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "collectives/collectives.h"

static struct layout layout;
static char segment[64];
static unsigned turn;
static bool in_weights, on_device;

static int set_up(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    static const struct tensor_desc t[] = {{.name = "a", .kind = TENSOR_PARAMETER, .dim_count = 2, .dims = {300, 500}},
                                           {.name = "b", .kind = TENSOR_PARAMETER, .dim_count = 1, .dims = {33}},
                                           {.name = "c", .kind = TENSOR_STATE, .dim_count = 1, .dims = {70001}}};
    return layout_init(&layout, t, 3, &e);
}

static struct coll_config config(unsigned rank, unsigned ranks, unsigned lanes, struct lane_range gang)
{
    snprintf(segment, sizeof segment, "/viaduct-test-%d-%u", (int)getpid(), turn);
    return (struct coll_config){.transport = "shm", .segment = segment, .rank = rank, .ranks = ranks, .lanes = lanes, .gang = gang, .layout = &layout, .sums_in_weights = in_weights,
                                .open_timeout_ms = 5000, .timeout_ms = 2000};
}

static float value(unsigned lane, uint64_t i, unsigned round) { return philox_unit(philox4x32(lane * 1000 + round, (uint32_t)i, 0, 0, 0).v[0]) - 0.5f; }

/* A rank whose memory the host cannot touch. */
struct far { struct device *d; struct memory gradient, weights; float *host; };

static void far_open(struct far *f)
{
    struct err e = ERR_INIT;
    size_t bytes = layout.elems * sizeof(float);
    *f = (struct far){.gradient.space = SPACE_DEVICE, .weights.space = SPACE_DEVICE, .host = calloc(1, bytes)};
    assert_ok(device_open("fake", &f->d, &e));
    assert_ok(stream_open(f->d, &f->gradient.stream, &e));
    assert_ok(device_alloc(f->d, bytes, &f->gradient.pointer, &e));
    assert_ok(device_alloc(f->d, bytes, &f->weights.pointer, &e));
    f->weights.stream = f->gradient.stream;
}

/* What the trainer computed in device memory goes to its lane; all lanes use the same device memory, one after the other. */
static void far_put(struct far *f, struct coll *k, unsigned lane, unsigned round)
{
    struct err e = ERR_INIT;
    struct handle h;
    for (uint64_t i = 0; i < layout.elems; i += 17)
        f->host[i] = value(lane, i, round);
    assert_ok(memory_copy(f->gradient, (struct memory){.pointer = f->host}, layout.elems * sizeof(float), &h, &e));
    assert_ok(coll_put_lane(k, lane, f->gradient, &h, &e));
    assert_ok(handle_wait(h, 5000, &e));
}

/* The weights that the device got are the gang's. */
static void far_check(struct far *f, struct coll *k)
{
    struct err e = ERR_INIT;
    struct handle h;
    assert_ok(coll_get_weights(k, f->weights, &h, &e));
    assert_ok(memory_copy((struct memory){.pointer = f->host}, f->weights, layout.elems * sizeof(float), &h, &e));
    assert_ok(handle_wait(h, 5000, &e));
    assert_memory_equal(f->host, coll_weights(k), layout.elems * sizeof(float));
    stream_close(f->gradient.stream);
    device_free(f->d, f->gradient.pointer, layout.elems * sizeof(float));
    device_free(f->d, f->weights.pointer, layout.elems * sizeof(float));
    device_close(f->d);
    free(f->host);
}

/* One rank's life: rounds of fill, reduce, weights = sum of all nodes, gather. Returns the hash of the weights after the last round. */
static uint64_t live(struct coll_config c, unsigned rounds, unsigned die_at, double *loss)
{
    struct err e = ERR_INIT;
    struct coll *k;
    if (coll_open(&c, &k, &e) < 0)
        return 1;
    struct lane_range mine = coll_rank_lanes(k);
    struct far far = {0};
    if (on_device)
        far_open(&far);
    for (unsigned round = 0; round < rounds; round++) {
        struct lane_totals totals[LANES_MAX];
        struct coll_sums sums;
        for (unsigned l = mine.lo; l < mine.hi; l++) {
            float *g = coll_lane_buffer(k, l);
            for (uint64_t i = 0; i < layout.elems && !on_device; i += 17)
                g[i] = value(l, i, round);
            if (on_device)
                far_put(&far, k, l, round);
            totals[l - mine.lo] = (struct lane_totals){0.1 * l, l, 1, 0};
        }
        if (round == die_at)
            kill(getpid(), SIGKILL);
        if (coll_reduce(k, totals, &sums, &e) < 0)
            return (uint64_t)-e.code;
        float *w = coll_weights(k);
        for (uint64_t i = 0; i < sums.elems; i++) {
            float total = 0;
            for (unsigned n = 0; n < sums.count; n++)
                total += sums.sum[n][i];
            w[sums.first_offset + i] = total;
        }
        *loss = 0;
        for (unsigned n = 0; n < sums.count; n++)
            *loss += sums.totals[n].loss_sum + (double)sums.totals[n].correct;
        if (coll_gather(k, &e) < 0)
            return (uint64_t)-e.code;
    }
    if (on_device)
        far_check(&far, k);
    uint64_t hash = 0, all[LANES_MAX];
    for (uint32_t b = 0; b < layout.block_count; b++)
        hash = xxh64_of(coll_weights(k) + layout.blocks[b].offset, layout.blocks[b].elems * 4, hash);
    if (coll_exchange(k, hash, all, &e) < 0)
        return 2;
    for (unsigned r = 0; r < c.ranks; r++)
        if (all[r] != hash)
            return 3;
    coll_close(k);
    return hash;
}

struct result { uint64_t hash; double loss; };

static void gang(unsigned ranks, unsigned lanes, struct lane_range range, unsigned rounds, int victim, struct result *out)
{
    struct result *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pid[LANES_MAX];
    turn++;
    struct coll_config c = config(0, ranks, lanes, range);
    for (unsigned r = 0; r < ranks; r++) {
        pid[r] = fork();
        if (pid[r] == 0) {
            c.rank = r;
            shared[r].hash = live(c, rounds, (int)r == victim ? 1 : UINT32_MAX, &shared[r].loss);
            _exit(0);
        }
    }
    for (unsigned r = 0; r < ranks; r++) {
        int status;
        waitpid(pid[r], &status, 0);
        if ((int)r == victim) {
            assert_true(WIFSIGNALED(status));
            coll_abort_segment(segment);   /* as the agent does */
        } else {
            assert_true(WIFEXITED(status));
        }
    }
    memcpy(out, shared, ranks * sizeof *out);
    munmap(shared, 4096);
    char path[100];
    snprintf(path, sizeof path, "/dev/shm%s", segment);
    assert_int_not_equal(access(path, F_OK), 0);   /* the last one out removed it */
}

static void test_same_bits_for_any_number_of_ranks(void **state)
{
    (void)state;
    static const struct { unsigned lanes; struct lane_range gang; } cases[] = {{8, {0, 8}}, {8, {3, 8}}, {5, {0, 5}}, {1, {0, 1}}, {8, {4, 4}}};
    for (unsigned k = 0; k < ARRAY_LEN(cases); k++) {
        struct result one[LANES_MAX], more[LANES_MAX];
        gang(1, cases[k].lanes, cases[k].gang, 3, -1, one);
        assert_true(one[0].hash > 100);
        for (unsigned ranks = 2; ranks <= 4; ranks++) {
            gang(ranks, cases[k].lanes, cases[k].gang, 3, -1, more);
            for (unsigned r = 0; r < ranks; r++) {
                assert_true(more[r].hash == one[0].hash);
                assert_true(more[r].loss == one[0].loss);
            }
        }
    }
}

static void test_sums_in_weights(void **state)
{
    (void)state;
    struct result apart[LANES_MAX], in[LANES_MAX];
    static const struct lane_range ranges[] = {{0, 7}, {1, 6}, {3, 3}};
    for (unsigned k = 0; k < ARRAY_LEN(ranges); k++) {
        gang(1, 7, ranges[k], 3, -1, apart);
        in_weights = true;
        gang(3, 7, ranges[k], 3, -1, in);
        in_weights = false;
        assert_true(apart[0].hash > 9 && in[2].hash == apart[0].hash);
    }
}

static void test_device_memory(void **state)
{
    (void)state;
    struct result near[LANES_MAX], far[LANES_MAX];
    gang(1, 8, (struct lane_range){0, 8}, 3, -1, near);
    on_device = true;
    gang(2, 8, (struct lane_range){0, 8}, 3, -1, far);
    on_device = false;
    assert_true(near[0].hash > 9 && far[0].hash == near[0].hash && far[1].hash == near[0].hash);
}

static void test_dead_peer_ends_the_gang(void **state)
{
    (void)state;
    struct result r[LANES_MAX];
    uint64_t begin = clock_now_ms();
    for (int victim = 0; victim < 3; victim++) {
        turn++;
        /* the victim is waited for in order, so the abort comes when its turn is there: let the others meet their own deadline too */
        gang(3, 6, (struct lane_range){0, 6}, 3, victim, r);
        for (int k = 0; k < 3; k++)
            assert_true(k == victim || r[k].hash == (uint64_t)-ERR_ABORTED);
    }
    assert_true(clock_now_ms() - begin < 20000);
}

static void test_mismatch_and_late_rank(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct coll *k;
    turn++;
    struct coll_config c = config(0, 2, 4, (struct lane_range){0, 4});
    c.open_timeout_ms = 300;
    assert_int_equal(coll_open(&c, &k, &e), ERR_ABORTED);   /* the other rank never comes */
    coll_abort_segment(segment);
    turn++;
    c = config(0, 1, 4, (struct lane_range){0, 4});
    assert_ok(coll_open(&c, &k, &e));
    struct coll *other;
    struct coll_config wrong = config(0, 1, 4, (struct lane_range){0, 4});
    wrong.lanes = 5;
    assert_int_equal(coll_open(&wrong, &other, &e), ERR_CONFLICT);
    assert_non_null(strstr(e.text, "lanes"));
    coll_close(k);
    wrong.transport = "carrier-pigeon";
    assert_int_equal(coll_open(&wrong, &other, &e), ERR_USAGE);
    setenv("VIADUCT_PLUGINS", "/nowhere", 1);
    wrong.transport = "mpi";
    assert_int_equal(coll_open(&wrong, &other, &e), ERR_NOT_FOUND);
    assert_non_null(strstr(e.text, "/nowhere/viaduct-mpi.so"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_same_bits_for_any_number_of_ranks), cmocka_unit_test(test_sums_in_weights), cmocka_unit_test(test_device_memory),
                                       cmocka_unit_test(test_dead_peer_ends_the_gang),
                                       cmocka_unit_test(test_mismatch_and_late_rank)};
    return cmocka_run_group_tests_name("collectives", tests, set_up, NULL);
}
