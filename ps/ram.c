/* Two places in a shared-memory segment: while one is written the other stays whole, so a process may die at any moment. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ps/ps.h"

#define RAM_MAGIC 0x4d415244564d4152ull
#define RAM_DATA_AT 4096

struct ram_head {
    uint64_t magic, layout_hash, floats;
    struct { uint64_t version, sum; uint32_t generation, whole; } place[2];   /* version + 1; sum: xxh3 of the floats */
};

struct ps_ram { struct ram_head *head; size_t bytes; uint64_t floats; };

static size_t bytes_of(uint64_t floats) { return RAM_DATA_AT + 2 * floats * sizeof(float); }

static float *data_of(const struct ps_ram *r, unsigned place)
{
    return (float *)((uint8_t *)r->head + RAM_DATA_AT) + place * r->floats;
}

static void *map(const char *name, int flags, size_t bytes, int *why)
{
    int fd = shm_open(name, flags, 0600);
    struct stat st;
    void *p = MAP_FAILED;
    if (fd >= 0 && fstat(fd, &st) == 0) {
        bool fits = (size_t)st.st_size == bytes || (bytes == 0 && st.st_size > RAM_DATA_AT);
        if (!fits && bytes > 0)
            fits = ftruncate(fd, 0) == 0 && fs_reserve(fd, bytes) == 0;
        if (fits)
            p = mmap(NULL, bytes ? bytes : RAM_DATA_AT, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    }
    *why = errno ? errno : ENOSPC;
    if (fd >= 0)
        close(fd);
    return p;
}

int ps_ram_open(const char *name, uint64_t layout_hash, uint64_t floats, struct ps_ram **out, struct err *err)
{
    int why;
    struct ps_ram *r = calloc(1, sizeof *r);
    if (!r)
        return err_set(err, ERR_NO_MEMORY, "no memory for a RAM segment");
    errno = 0;
    void *p = map(name, O_RDWR | O_CREAT, bytes_of(floats), &why);
    if (p == MAP_FAILED) {
        free(r);
        return err_errno(err, why, "cannot make the shared-memory segment %s of %zu bytes (make /dev/shm larger)", name, bytes_of(floats));
    }
    *r = (struct ps_ram){.head = p, .bytes = bytes_of(floats), .floats = floats};
    if (r->head->magic != RAM_MAGIC || r->head->layout_hash != layout_hash || r->head->floats != floats)
        *r->head = (struct ram_head){.magic = RAM_MAGIC, .layout_hash = layout_hash, .floats = floats};
    *out = r;
    return 0;
}

void ps_ram_close(struct ps_ram *r)
{
    if (!r)
        return;
    munmap(r->head, r->bytes);
    free(r);
}

void ps_ram_peek(const char *name, uint64_t layout_hash, uint64_t version[2], uint32_t generation[2])
{
    int why;
    version[0] = version[1] = 0;
    generation[0] = generation[1] = 0;
    struct ram_head *h = map(name, O_RDWR, 0, &why);
    if (h == MAP_FAILED)
        return;
    for (unsigned i = 0; i < 2 && h->magic == RAM_MAGIC && h->layout_hash == layout_hash; i++)
        if (h->place[i].whole) {
            version[i] = h->place[i].version;
            generation[i] = h->place[i].generation;
        }
    munmap(h, RAM_DATA_AT);
}

static uint64_t sum_of(const struct ps_ram *r, unsigned place, uint64_t version)
{
    return xxh64_of(data_of(r, place), r->floats * sizeof(float), version);
}

/* By generation first: after a rollback what is of higher versions is void, and must not outlive the new generation's. */
static unsigned older_place(const struct ram_head *h)
{
    if (!h->place[0].whole || !h->place[1].whole)
        return h->place[0].whole;
    if (h->place[0].generation != h->place[1].generation)
        return h->place[1].generation < h->place[0].generation;
    return h->place[1].version < h->place[0].version;
}

void ps_ram_save(struct ps_ram *r, uint64_t version, uint32_t generation, const float *weights, uint64_t weight_count, const float *slots, uint64_t slot_count)
{
    struct ram_head *h = r->head;
    unsigned i = older_place(h);
    if (weight_count + slot_count != r->floats)
        return;
    __atomic_store_n(&h->place[i].whole, 0, __ATOMIC_SEQ_CST);
    memcpy(data_of(r, i), weights, weight_count * sizeof(float));
    if (slot_count)
        memcpy(data_of(r, i) + weight_count, slots, slot_count * sizeof(float));
    h->place[i].version = version + 1;
    h->place[i].generation = generation;
    h->place[i].sum = sum_of(r, i, version);
    __atomic_store_n(&h->place[i].whole, 1, __ATOMIC_SEQ_CST);
}

bool ps_ram_load(const struct ps_ram *r, uint64_t version, uint32_t generation, float *weights, uint64_t weight_count, float *slots, uint64_t slot_count)
{
    const struct ram_head *h = r->head;
    for (unsigned i = 0; i < 2; i++) {
        bool fits = h->place[i].whole && h->place[i].version == version + 1 && h->place[i].generation == generation && weight_count + slot_count == r->floats;
        if (!fits || h->place[i].sum != sum_of(r, i, version))
            continue;
        memcpy(weights, data_of(r, i), weight_count * sizeof(float));
        if (slot_count)
            memcpy(slots, data_of(r, i) + weight_count, slot_count * sizeof(float));
        return true;
    }
    return false;
}
