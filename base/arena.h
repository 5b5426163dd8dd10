/* Arena: bump memory with a budget. One owner, freed whole. Not for threads to share.
 * Large arenas are mapped once with huge pages advised, and kept: a first touch costs microseconds per page. */
#ifndef VIADUCT_BASE_ARENA_H
#define VIADUCT_BASE_ARENA_H

#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

struct arena {
    uint8_t *memory;
    size_t size_bytes, used_bytes, peak_bytes;
};

int arena_init(struct arena *a, size_t size_bytes, struct err *err);
void arena_fini(struct arena *a);
/* Zeroed memory at `align` (power of two, 64 when 0); NULL when the budget is spent. */
void *arena_alloc(struct arena *a, size_t size_bytes, size_t align);
char *arena_strdup(struct arena *a, const char *s);
static inline size_t arena_mark(const struct arena *a) { return a->used_bytes; }
void arena_reset(struct arena *a, size_t mark);

/* Big long-lived buffers: mmap, MADV_HUGEPAGE from 2 MiB up, zeroed, 4096-aligned. NULL with err set on failure. */
void *pages_alloc(size_t size_bytes, struct err *err);
void pages_free(void *p, size_t size_bytes);
void pages_touch(void *p, size_t size_bytes);   /* makes them present, contents as they are; where the system cannot, they come when they are used */

#endif
