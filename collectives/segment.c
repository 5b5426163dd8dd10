#include "collectives/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/fs.h"

#define MAGIC 0x6c6c6f6361697600ull
#define SPINS 200                     /* about the time a wake takes; more would fight for the cores when ranks outnumber them */
#define PAGE 4096u

static size_t pages(size_t n) { return (n + PAGE - 1) / PAGE * PAGE; }

/* ---- the end ---- */
static void give_up(struct segment_head *h)
{
    atomic_store(&h->aborted, 1);
    syscall(SYS_futex, &h->phase, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

void segment_abort(struct segment *s, const char *why)
{
    unsigned untold = 0;
    if (why && atomic_compare_exchange_strong(&s->head->told, &untold, 1)) {
        snprintf(s->head->why, sizeof s->head->why, "%s", why);
        atomic_store(&s->head->told, 2);
    }
    give_up(s->head);
}

bool segment_aborted(const struct segment *s) { return atomic_load(&s->head->aborted); }

int segment_given_up(const struct segment *s, struct err *err)
{
    if (atomic_load(&s->head->told) == 2)
        err_set(err, ERR_ABORTED, "%s", s->head->why);
    else
        err_set(err, ERR_ABORTED, "the gang of segment %s was given up: a rank died, or was slower than its deadline", s->name);
    return err_scope(err, SCOPE_SITE);
}

void coll_abort_segment(const char *segment)
{
    int fd = shm_open(segment, O_RDWR, 0600);
    if (fd < 0)
        return;
    struct stat st;
    struct segment_head *h = fstat(fd, &st) == 0 && (size_t)st.st_size >= sizeof *h ? mmap(NULL, sizeof *h, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
    close(fd);
    if (h != MAP_FAILED) {
        give_up(h);
        munmap(h, sizeof *h);
    }
    shm_unlink(segment);
}

/* ---- waiting ---- */
static void give_up_waiting(struct segment *s, unsigned phase, uint64_t timeout_ms)
{
    struct segment_head *h = s->head;
    char who[256], why[SEGMENT_WHY_BYTES];
    unsigned r = 0, came = (unsigned)__builtin_popcountll(atomic_load(&h->here));
    while (r < LANES_MAX && (!(atomic_load(&h->here) >> r & 1) || atomic_load(&h->at[r]) == phase + 1))
        r++;
    if (r < LANES_MAX && s->name_rank)
        s->name_rank(s->arg, r, who);
    else
        snprintf(who, sizeof who, "rank %u", r);
    if (r < LANES_MAX)
        snprintf(why, sizeof why, "%.200s: slower than the deadline of %llu ms", who, (unsigned long long)timeout_ms);
    else
        snprintf(why, sizeof why, "only %u of %u ranks of this host came within %llu ms", came, h->members, (unsigned long long)timeout_ms);
    segment_abort(s, why);
}

int segment_barrier(struct segment *s, uint64_t timeout_ms, struct err *err)
{
    struct segment_head *h = s->head;
    unsigned phase = atomic_load(&h->phase);
    atomic_store(&h->at[s->rank], phase + 1);
    if (atomic_fetch_add(&h->arrived, 1) + 1 == h->members) {
        atomic_store(&h->arrived, 0);
        atomic_fetch_add(&h->phase, 1);
        syscall(SYS_futex, &h->phase, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
        return segment_aborted(s) ? segment_given_up(s, err) : 0;
    }
    for (int i = 0; i < SPINS && atomic_load(&h->phase) == phase; i++)
        __builtin_ia32_pause();
    uint64_t until = clock_now_ms() + timeout_ms;
    while (atomic_load(&h->phase) == phase && !segment_aborted(s)) {
        struct timespec look = {0, SEGMENT_LOOK_MS * 1000000};
        syscall(SYS_futex, &h->phase, FUTEX_WAIT, phase, &look, NULL, 0);
        if (clock_now_ms() > until && atomic_load(&h->phase) == phase)
            give_up_waiting(s, phase, timeout_ms);
    }
    return segment_aborted(s) ? segment_given_up(s, err) : 0;
}

/* ---- opening ---- */
static int map(struct segment *s, const struct segment_shape *shape, struct err *err)
{
    size_t arena = pages(shape->elems * sizeof(float));
    s->size_bytes = pages(sizeof(struct segment_head)) + arena * (1 + shape->arenas);
    int fd = shm_open(s->name, O_RDWR | O_CREAT, 0600);
    if (fd < 0)
        return err_errno(err, errno, "cannot open shared memory %s", s->name);
    /* Everybody asks for the same size; fs_reserve finds out now whether the memory is there, not at the first touch. */
    int rc = ftruncate(fd, (off_t)s->size_bytes) < 0 ? errno : fs_reserve(fd, s->size_bytes);
    if (rc == 0) {
        s->memory = mmap(NULL, s->size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        rc = s->memory == MAP_FAILED ? errno : 0;
    }
    close(fd);
    if (rc != 0) {
        s->memory = NULL;
        shm_unlink(s->name);
        return err_set(err, ERR_NO_MEMORY, "shared memory for the gang (%zu bytes in /dev/shm): %s", s->size_bytes, strerror(rc));
    }
    madvise(s->memory, s->size_bytes, MADV_HUGEPAGE);
    s->head = (struct segment_head *)(void *)s->memory;
    s->weights = (float *)(void *)(s->memory + pages(sizeof(struct segment_head)));
    s->stride = arena / sizeof(float);
    s->lane = s->weights + s->stride;
    return 0;
}

/* Whoever comes first writes the shape; the others must find theirs. */
static int agree(struct segment *s, const struct segment_shape *shape, uint64_t timeout_ms, struct err *err)
{
    struct segment_head *h = s->head;
    uint64_t none = 0;
    atomic_fetch_add(&h->users, 1);
    atomic_fetch_or(&h->here, 1ull << shape->rank);
    if (__atomic_compare_exchange_n(&h->magic, &none, MAGIC ^ 1, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
        h->elems = shape->elems;
        h->members = shape->members;
        h->lanes = shape->lanes;
        __atomic_store_n(&h->magic, MAGIC, __ATOMIC_RELEASE);
    }
    for (uint64_t until = clock_now_ms() + timeout_ms; __atomic_load_n(&h->magic, __ATOMIC_ACQUIRE) != MAGIC;) {
        if (clock_now_ms() > until)
            return err_set(err, ERR_ABORTED, "the rank that made shared memory %s did not finish", s->name);
        sched_yield();
    }
    if (h->elems != shape->elems || h->members != shape->members || h->lanes != shape->lanes)
        return err_set(err, ERR_CONFLICT, "shared memory %s is of a gang with %u ranks, %u lanes and %llu elements, this rank has %u, %u and %llu", s->name,
                       h->members, h->lanes, (unsigned long long)h->elems, shape->members, shape->lanes, (unsigned long long)shape->elems);
    return segment_barrier(s, timeout_ms, err);
}

int segment_open(struct segment *s, const char *name, const struct segment_shape *shape, uint64_t timeout_ms, struct err *err)
{
    *s = (struct segment){.members = shape->members, .rank = shape->rank, .name_rank = s->name_rank, .arg = s->arg};
    snprintf(s->name, sizeof s->name, "%s", name);
    TRY(map(s, shape, err));
    return agree(s, shape, timeout_ms, err);
}

void segment_close(struct segment *s)
{
    if (!s->memory)
        return;
    if (atomic_fetch_sub(&s->head->users, 1) == 1)
        shm_unlink(s->name);
    munmap(s->memory, s->size_bytes);
    s->memory = NULL;
}
