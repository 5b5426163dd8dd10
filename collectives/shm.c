/* One segment per gang: lanes and weights lie in it, so a gradient is written where its readers find it and a weight where everybody reads it. A rank
 * sums the blocks it owns; barriers are counters that a futex wakes. A wait looks at the abort flag and its deadline at least every 100 ms, so a dead
 * peer never hangs the others. */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/fs.h"
#include "collectives/collectives.h"

#define MAGIC 0x6c6c6f6361697600ull
#define SPINS 200                     /* about the time a wake takes; more would fight for the cores when ranks outnumber them */
#define LOOK_MS 100
#define PAGE 4096u

struct head {
    uint64_t magic, elems;
    uint32_t ranks, lanes;
    atomic_uint aborted, arrived, phase, users;
    uint64_t exchange[LANES_MAX];
    struct lane_totals totals[LANES_MAX];
};

struct coll {
    struct coll_config cfg;
    char segment[256];
    uint8_t *memory;
    size_t size_bytes;
    struct head *head;
    float *weights, *lane;            /* lane: the gang's lanes, one flat arena each */
    struct lane_range mine;
    uint32_t first_block, block_count;
    uint64_t first_offset, owned_elems;
    unsigned node_count;
    struct lane_range node[LANE_NODES_MAX];
    float *sum, *scratch;             /* node_count and LANE_DEPTH_MAX runs of the owned elements */
};

static size_t pages(size_t n) { return (n + PAGE - 1) / PAGE * PAGE; }
static size_t flat_bytes(const struct coll_config *c) { return pages(c->layout->elems * sizeof(float)); }
static unsigned gang_lanes(const struct coll_config *c) { return c->gang.hi - c->gang.lo; }

/* ---- waiting ---- */
static int aborted(const struct coll *c, struct err *err)
{
    err_set(err, ERR_ABORTED, "the gang of segment %s was given up: a rank died, or was slower than its deadline", c->segment);
    return err_scope(err, SCOPE_SITE);
}

static int barrier(struct coll *c, uint64_t timeout_ms, struct err *err)
{
    struct head *h = c->head;
    unsigned phase = atomic_load(&h->phase);
    if (atomic_fetch_add(&h->arrived, 1) + 1 == h->ranks) {
        atomic_store(&h->arrived, 0);
        atomic_fetch_add(&h->phase, 1);
        syscall(SYS_futex, &h->phase, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
        return atomic_load(&h->aborted) ? aborted(c, err) : 0;
    }
    for (int i = 0; i < SPINS && atomic_load(&h->phase) == phase; i++)
        __builtin_ia32_pause();
    uint64_t until = clock_now_ms() + timeout_ms;
    while (atomic_load(&h->phase) == phase && !atomic_load(&h->aborted)) {
        struct timespec look = {0, LOOK_MS * 1000000};
        syscall(SYS_futex, &h->phase, FUTEX_WAIT, phase, &look, NULL, 0);
        if (clock_now_ms() > until)
            coll_abort(c);
    }
    return atomic_load(&h->aborted) ? aborted(c, err) : 0;
}

void coll_abort(struct coll *c)
{
    atomic_store(&c->head->aborted, 1);
    syscall(SYS_futex, &c->head->phase, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

void coll_abort_segment(const char *segment)
{
    int fd = shm_open(segment, O_RDWR, 0600);
    if (fd < 0)
        return;
    struct stat st;
    struct head *h = fstat(fd, &st) == 0 && (size_t)st.st_size >= sizeof *h ? mmap(NULL, sizeof *h, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
    close(fd);
    if (h != MAP_FAILED) {
        atomic_store(&h->aborted, 1);
        syscall(SYS_futex, &h->phase, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
        munmap(h, sizeof *h);
    }
    shm_unlink(segment);
}

/* ---- opening ---- */
static int map_segment(struct coll *c, struct err *err)
{
    c->size_bytes = pages(sizeof(struct head)) + flat_bytes(&c->cfg) * (1 + gang_lanes(&c->cfg));
    int fd = shm_open(c->segment, O_RDWR | O_CREAT, 0600);
    if (fd < 0)
        return err_errno(err, errno, "cannot open shared memory %s", c->segment);
    /* Everybody asks for the same size; posix_fallocate finds out now whether the memory is there, not at the first touch. */
    int rc = ftruncate(fd, (off_t)c->size_bytes) < 0 ? errno : posix_fallocate(fd, 0, (off_t)c->size_bytes);
    if (rc == 0) {
        c->memory = mmap(NULL, c->size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        rc = c->memory == MAP_FAILED ? errno : 0;
    }
    close(fd);
    if (rc != 0) {
        c->memory = NULL;
        shm_unlink(c->segment);
        return err_set(err, ERR_NO_MEMORY, "shared memory for the gang (%zu bytes in /dev/shm): %s", c->size_bytes, strerror(rc));
    }
    madvise(c->memory, c->size_bytes, MADV_HUGEPAGE);
    c->head = (struct head *)(void *)c->memory;
    c->weights = (float *)(void *)(c->memory + pages(sizeof(struct head)));
    c->lane = c->weights + flat_bytes(&c->cfg) / sizeof(float);
    return 0;
}

/* Whoever comes first writes the shape; the others must find theirs. */
static int agree(struct coll *c, struct err *err)
{
    struct head *h = c->head;
    uint64_t none = 0;
    atomic_fetch_add(&h->users, 1);
    if (__atomic_compare_exchange_n(&h->magic, &none, MAGIC ^ 1, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
        h->elems = c->cfg.layout->elems;
        h->ranks = c->cfg.ranks;
        h->lanes = c->cfg.lanes;
        __atomic_store_n(&h->magic, MAGIC, __ATOMIC_RELEASE);
    }
    for (uint64_t until = clock_now_ms() + c->cfg.open_timeout_ms; __atomic_load_n(&h->magic, __ATOMIC_ACQUIRE) != MAGIC;) {
        if (clock_now_ms() > until)
            return err_set(err, ERR_ABORTED, "the rank that made shared memory %s did not finish", c->segment);
        sched_yield();
    }
    if (h->elems != c->cfg.layout->elems || h->ranks != c->cfg.ranks || h->lanes != c->cfg.lanes)
        return err_set(err, ERR_CONFLICT, "shared memory %s is of a gang with %u ranks, %u lanes and %llu elements, this rank has %u, %u and %llu", c->segment,
                       h->ranks, h->lanes, (unsigned long long)h->elems, c->cfg.ranks, c->cfg.lanes, (unsigned long long)c->cfg.layout->elems);
    return barrier(c, c->cfg.open_timeout_ms, err);
}

static int own_blocks(struct coll *c, struct err *err)
{
    const struct layout *l = c->cfg.layout;
    uint32_t *owner = calloc(l->block_count, sizeof *owner);
    if (!owner)
        return err_set(err, ERR_NO_MEMORY, "no memory for the block table");
    layout_shards(l, c->cfg.ranks, owner);
    while (c->first_block < l->block_count && owner[c->first_block] < c->cfg.rank)
        c->first_block++;
    while (c->first_block + c->block_count < l->block_count && owner[c->first_block + c->block_count] == c->cfg.rank)
        c->block_count++;
    free(owner);
    if (c->block_count) {
        const struct block_desc *first = &l->blocks[c->first_block], *last = &l->blocks[c->first_block + c->block_count - 1];
        c->first_offset = first->offset;
        c->owned_elems = last->offset + last->elems - first->offset;
    }
    c->node_count = lane_nodes(c->cfg.lanes, c->cfg.gang, c->node);
    c->sum = pages_alloc(c->owned_elems * c->node_count * sizeof(float), err);
    c->scratch = pages_alloc(c->owned_elems * LANE_DEPTH_MAX * sizeof(float), err);
    return c->sum && c->scratch ? 0 : ERR_NO_MEMORY;
}

int coll_open(const struct coll_config *config, struct coll **out, struct err *err)
{
    if (strcmp(config->transport, "shm") != 0)
        return err_set(err, ERR_USAGE, "there is no transport '%s' inside a site in this version; it has shm", config->transport);
    CHECK(config->rank < config->ranks && config->ranks <= LANES_MAX && config->lanes <= LANES_MAX && config->gang.hi <= config->lanes);
    struct coll *c = calloc(1, sizeof *c);
    if (!c)
        return err_set(err, ERR_NO_MEMORY, "no memory for a communicator");
    c->cfg = *config;
    snprintf(c->segment, sizeof c->segment, "%s", config->segment);
    struct lane_range part = lanes_of_part(gang_lanes(config), config->rank, config->ranks);
    c->mine = (struct lane_range){(uint16_t)(config->gang.lo + part.lo), (uint16_t)(config->gang.lo + part.hi)};
    int rc = map_segment(c, err);
    if (rc == 0)
        rc = own_blocks(c, err);
    if (rc == 0)
        rc = agree(c, err);
    if (rc < 0) {
        coll_close(c);
        return rc;
    }
    *out = c;
    return 0;
}

void coll_close(struct coll *c)
{
    if (!c)
        return;
    pages_free(c->sum, c->owned_elems * c->node_count * sizeof(float));
    pages_free(c->scratch, c->owned_elems * LANE_DEPTH_MAX * sizeof(float));
    if (c->memory) {
        if (atomic_fetch_sub(&c->head->users, 1) == 1)
            shm_unlink(c->segment);
        munmap(c->memory, c->size_bytes);
    }
    free(c);
}

/* ---- rounds ---- */
struct lane_range coll_rank_lanes(const struct coll *c) { return c->mine; }
float *coll_weights(struct coll *c) { return c->weights; }

float *coll_lane_buffer(struct coll *c, unsigned lane)
{
    CHECK(lane >= c->mine.lo && lane < c->mine.hi);
    return c->lane + (size_t)(lane - c->cfg.gang.lo) * (flat_bytes(&c->cfg) / sizeof(float));
}

void coll_owned_blocks(const struct coll *c, uint32_t *first, uint32_t *count)
{
    *first = c->first_block;
    *count = c->block_count;
}

static struct lane_totals node_totals(const struct coll *c, struct lane_range node)
{
    struct lane_totals t = {0};
    struct lane_range leaf[LANES_MAX];
    double loss[LANES_MAX];
    unsigned n = 0;
    for (unsigned l = node.lo; l < node.hi; l++, n++) {
        const struct lane_totals *of = &c->head->totals[l];
        leaf[n] = (struct lane_range){(uint16_t)l, (uint16_t)(l + 1)};
        loss[n] = of->loss_sum;
        t.correct += of->correct;
        t.samples += of->samples;
        t.nonfinite += of->nonfinite;
    }
    t.loss_sum = lane_sum_f64(c->cfg.lanes, node, leaf, loss, n);
    return t;
}

int coll_reduce(struct coll *c, const struct lane_totals *totals, struct coll_sums *out, struct err *err)
{
    for (unsigned l = c->mine.lo; l < c->mine.hi; l++)
        c->head->totals[l] = totals[l - c->mine.lo];
    TRY(barrier(c, c->cfg.timeout_ms, err));
    struct coll_sums sums = {.count = c->node_count, .first_offset = c->first_offset, .elems = c->owned_elems};
    size_t flat = flat_bytes(&c->cfg) / sizeof(float);
    for (unsigned n = 0; n < c->node_count; n++) {
        struct lane_range leaf[LANES_MAX];
        const float *part[LANES_MAX];
        unsigned count = 0;
        for (unsigned l = c->node[n].lo; l < c->node[n].hi; l++, count++) {
            leaf[count] = (struct lane_range){(uint16_t)l, (uint16_t)(l + 1)};
            part[count] = c->lane + (l - c->cfg.gang.lo) * flat + c->first_offset;
        }
        float *sum = c->sum + (size_t)n * c->owned_elems;
        if (c->owned_elems)
            lane_sum_f32(c->cfg.lanes, c->node[n], leaf, part, count, sum, c->owned_elems, c->scratch);
        sums.node[n] = c->node[n];
        sums.sum[n] = sum;
        sums.totals[n] = node_totals(c, c->node[n]);
    }
    *out = sums;
    return 0;
}

int coll_gather(struct coll *c, struct err *err) { return barrier(c, c->cfg.timeout_ms, err); }

int coll_exchange(struct coll *c, uint64_t mine, uint64_t *all, struct err *err)
{
    c->head->exchange[c->cfg.rank] = mine;
    TRY(barrier(c, c->cfg.timeout_ms, err));
    memcpy(all, c->head->exchange, c->cfg.ranks * sizeof *all);
    return barrier(c, c->cfg.timeout_ms, err);   /* nobody writes the next one before everybody has read this one */
}
