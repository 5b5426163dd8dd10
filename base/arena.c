#include "base/arena.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE_FROM_BYTES ((size_t)2 << 20)

void *pages_alloc(size_t size_bytes, struct err *err)
{
    size_t n = size_bytes ? size_bytes : 1;
    void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        err_set(err, ERR_NO_MEMORY, "cannot map %zu bytes: %s", n, strerror(errno));
        return NULL;
    }
    if (n >= HUGE_FROM_BYTES)
        madvise(p, n, MADV_HUGEPAGE);   /* advice only: small pages work too */
    return p;
}

void pages_free(void *p, size_t size_bytes)
{
    if (p)
        munmap(p, size_bytes ? size_bytes : 1);
}

void pages_touch(void *p, size_t size_bytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = (uintptr_t)p & ~(page - 1);
    if (size_bytes > 0)
        madvise((void *)from, (uintptr_t)p + size_bytes - from, MADV_POPULATE_WRITE);
}

int arena_init(struct arena *a, size_t size_bytes, struct err *err)
{
    uint8_t *memory = pages_alloc(size_bytes, err);
    if (!memory)
        return ERR_NO_MEMORY;
    *a = (struct arena){.memory = memory, .size_bytes = size_bytes};
    return 0;
}

void arena_fini(struct arena *a)
{
    pages_free(a->memory, a->size_bytes);
    *a = (struct arena){0};
}

void *arena_alloc(struct arena *a, size_t size_bytes, size_t align)
{
    size_t to = align ? align : 64;
    CHECK((to & (to - 1)) == 0);
    size_t at = (a->used_bytes + to - 1) & ~(to - 1);
    if (at > a->size_bytes || size_bytes > a->size_bytes - at)
        return NULL;
    a->used_bytes = at + size_bytes;
    if (a->used_bytes > a->peak_bytes)
        a->peak_bytes = a->used_bytes;
    return a->memory + at;
}

char *arena_strdup(struct arena *a, const char *s)
{
    size_t n = strlen(s) + 1;
    char *copy = arena_alloc(a, n, 1);
    if (copy)
        memcpy(copy, s, n);
    return copy;
}

void arena_reset(struct arena *a, size_t mark)
{
    CHECK(mark <= a->used_bytes);
    memset(a->memory + mark, 0, a->used_bytes - mark);   /* arena_alloc promises zeroed memory */
    a->used_bytes = mark;
}
