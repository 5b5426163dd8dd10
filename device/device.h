/* device: where tensors live and what runs on them, behind one table. Every call that touches tensors takes (pointer,
 * memory space, stream) and gives a handle with deadline and abort. The CPU's stream is immediate. The fake device's pointers lie in an
 * inaccessible range; only its stream thread translates them, so whatever touches device memory from the host faults in CI. */
#ifndef VIADUCT_DEVICE_DEVICE_H
#define VIADUCT_DEVICE_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

enum mem_space { SPACE_HOST = 0, SPACE_DEVICE = 1 };

struct device;                        /* opaque; one per process and physical device */
struct stream;                        /* calls on one stream run in order */

struct handle {                       /* completion of one submitted call; by value, owned by the caller */
    struct stream *stream;
    uint64_t ticket;                  /* 0: already complete */
};

/* Where a tensor lies, and whose order calls on it follow. In host memory stream may be NULL: such calls are complete when they return. */
struct memory { void *pointer; enum mem_space space; struct stream *stream; };

#define KERNEL_POINTERS_MAX 16
/* A kernel gets translated pointers and a copy of its parameters; it runs on the stream, allocates nothing, cannot fail. */
typedef void (*kernel_fn)(void *const *pointer, const void *params);

/* kind: "cpu" or "fake". */
int device_open(const char *kind, struct device **out, struct err *err);
void device_close(struct device *d);
enum mem_space device_space(const struct device *d);
const char *device_kind(const struct device *d);

/* Zeroed, 4096-aligned, kept for ever; device_free only at the end. */
int device_alloc(struct device *d, size_t size_bytes, void **out, struct err *err);
void device_free(struct device *d, void *p, size_t size_bytes);

int stream_open(struct device *d, struct stream **out, struct err *err);
void stream_close(struct stream *s);                       /* waits for what was submitted */
/* Submits fn over the pointers (device pointers, or host pointers marked by bit i of host_mask). params are copied, at most 256 bytes. */
int stream_launch(struct stream *s, kernel_fn fn, void *const *pointer, unsigned count, uint32_t host_mask, const void *params,
                  size_t params_bytes, struct handle *out, struct err *err);
/* Copies between any two spaces. The host buffer must stay until the handle is done. */
int stream_copy(struct stream *s, void *dst, enum mem_space dst_space, const void *src, enum mem_space src_space, size_t size_bytes,
                struct handle *out, struct err *err);
/* The same between two memories, one of which may be of a device: in the order of its stream. */
int memory_copy(struct memory to, struct memory from, size_t size_bytes, struct handle *out, struct err *err);
bool handle_done(struct handle h);
/* ERR_ABORTED when the deadline passes (timeout_ms; UINT64_MAX: none) or the stream was aborted. */
int handle_wait(struct handle h, uint64_t timeout_ms, struct err *err);
/* Everything waiting on the stream returns ERR_ABORTED; queued calls are dropped. The stream is dead afterwards. */
void stream_abort(struct stream *s);

/* What the machine has, by hwloc: for plan, doctor and placement. */
struct machine { char cpu_name[128]; unsigned packages, numa_nodes, cores, threads; uint64_t memory_bytes; };
int machine_probe(struct machine *m, struct err *err);

#endif
