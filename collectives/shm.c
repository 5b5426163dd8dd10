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

#include "base/fs.h"
#include "collectives/transport.h"

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

struct segment {                      /* struct coll's state */
    uint8_t *memory;
    size_t size_bytes;
    struct head *head;
};

static size_t pages(size_t n) { return (n + PAGE - 1) / PAGE * PAGE; }
static struct head *head_of(const struct coll *c) { return ((struct segment *)c->state)->head; }

/* ---- waiting ---- */
static int aborted(const struct coll *c, struct err *err)
{
    err_set(err, ERR_ABORTED, "the gang of segment %s was given up: a rank died, or was slower than its deadline", c->segment);
    return err_scope(err, SCOPE_SITE);
}

static void shm_abort(struct coll *c)
{
    atomic_store(&head_of(c)->aborted, 1);
    syscall(SYS_futex, &head_of(c)->phase, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

static int barrier(struct coll *c, uint64_t timeout_ms, struct err *err)
{
    struct head *h = head_of(c);
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
            shm_abort(c);
    }
    return atomic_load(&h->aborted) ? aborted(c, err) : 0;
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
static int map_segment(struct coll *c, struct segment *g, struct err *err)
{
    g->size_bytes = pages(sizeof(struct head)) + coll_flat_bytes(&c->cfg) * (1 + coll_gang_lanes(&c->cfg));
    int fd = shm_open(c->segment, O_RDWR | O_CREAT, 0600);
    if (fd < 0)
        return err_errno(err, errno, "cannot open shared memory %s", c->segment);
    /* Everybody asks for the same size; posix_fallocate finds out now whether the memory is there, not at the first touch. */
    int rc = ftruncate(fd, (off_t)g->size_bytes) < 0 ? errno : posix_fallocate(fd, 0, (off_t)g->size_bytes);
    if (rc == 0) {
        g->memory = mmap(NULL, g->size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        rc = g->memory == MAP_FAILED ? errno : 0;
    }
    close(fd);
    if (rc != 0) {
        g->memory = NULL;
        shm_unlink(c->segment);
        return err_set(err, ERR_NO_MEMORY, "shared memory for the gang (%zu bytes in /dev/shm): %s", g->size_bytes, strerror(rc));
    }
    madvise(g->memory, g->size_bytes, MADV_HUGEPAGE);
    g->head = (struct head *)(void *)g->memory;
    c->weights = (float *)(void *)(g->memory + pages(sizeof(struct head)));
    c->stride = coll_flat_bytes(&c->cfg) / sizeof(float);
    c->lane = c->weights + c->stride;
    c->lane_first = c->cfg.gang.lo;
    return 0;
}

/* Whoever comes first writes the shape; the others must find theirs. */
static int agree(struct coll *c, struct err *err)
{
    struct head *h = head_of(c);
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

static int shm_open_gang(struct coll *c, struct err *err)
{
    c->state = calloc(1, sizeof(struct segment));
    if (!c->state)
        return err_set(err, ERR_NO_MEMORY, "no memory for a communicator");
    TRY(map_segment(c, c->state, err));
    return agree(c, err);
}

static void shm_close(struct coll *c)
{
    struct segment *g = c->state;
    if (g && g->memory) {
        if (atomic_fetch_sub(&g->head->users, 1) == 1)
            shm_unlink(c->segment);
        munmap(g->memory, g->size_bytes);
    }
    free(g);
}

/* ---- rounds ---- */
static int shm_reduce(struct coll *c, const struct lane_totals *totals, struct err *err)
{
    struct head *h = head_of(c);
    for (unsigned l = c->mine.lo; l < c->mine.hi; l++)
        h->totals[l] = totals[l - c->mine.lo];
    TRY(barrier(c, c->cfg.timeout_ms, err));
    memcpy(c->totals, h->totals, sizeof c->totals);
    for (unsigned n = 0; n < c->node_count && c->owned_elems; n++) {
        struct lane_range leaf[LANES_MAX];
        const float *part[LANES_MAX];
        unsigned count = 0;
        for (unsigned l = c->node[n].lo; l < c->node[n].hi; l++, count++) {
            leaf[count] = (struct lane_range){(uint16_t)l, (uint16_t)(l + 1)};
            part[count] = c->lane + (l - c->lane_first) * c->stride + c->first_offset;
        }
        coll_sum(c->cfg.lanes, c->node[n], leaf, part, count, c->sum[n], c->owned_elems);
    }
    return 0;
}

static int shm_gather(struct coll *c, struct err *err) { return barrier(c, c->cfg.timeout_ms, err); }

static int shm_exchange(struct coll *c, uint64_t mine, uint64_t *all, struct err *err)
{
    struct head *h = head_of(c);
    h->exchange[c->cfg.rank] = mine;
    TRY(barrier(c, c->cfg.timeout_ms, err));
    memcpy(all, h->exchange, c->cfg.ranks * sizeof *all);
    return barrier(c, c->cfg.timeout_ms, err);   /* nobody writes the next one before everybody has read this one */
}

const struct coll_ops coll_shm = {"shm", shm_open_gang, shm_close, shm_abort, shm_reduce, shm_gather, shm_exchange};
