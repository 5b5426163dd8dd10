/* The public calls: find the row, check the arguments, go through the table. */
#include "device/device_ops.h"

#include <stdlib.h>
#include <string.h>

static const struct device_ops *const kinds[] = {&device_cpu, &device_fake};

int device_open(const char *kind, struct device **out, struct err *err)
{
    for (unsigned i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strcmp(kinds[i]->kind, kind) != 0)
            continue;
        struct device *d = calloc(1, sizeof *d);
        if (!d)
            return err_set(err, ERR_NO_MEMORY, "no memory for device %s", kind);
        d->ops = kinds[i];
        int rc = d->ops->open(d, err);
        if (rc < 0) {
            free(d);
            return err_wrap(err, "device %s", kind);
        }
        *out = d;
        return 0;
    }
    return err_set(err, ERR_NOT_FOUND, "there is no device kind '%s' in this build; it knows cpu and fake", kind);
}

void device_close(struct device *d)
{
    if (!d)
        return;
    d->ops->close(d);
    free(d);
}

enum mem_space device_space(const struct device *d) { return d->ops->space; }
const char *device_kind(const struct device *d) { return d->ops->kind; }

int device_alloc(struct device *d, size_t size_bytes, void **out, struct err *err)
{
    return d->ops->alloc(d, size_bytes ? size_bytes : 1, out, err);
}

void device_free(struct device *d, void *p, size_t size_bytes)
{
    if (p)
        d->ops->free(d, p, size_bytes ? size_bytes : 1);
}

int stream_open(struct device *d, struct stream **out, struct err *err)
{
    struct stream *s = calloc(1, sizeof *s);
    if (!s)
        return err_set(err, ERR_NO_MEMORY, "no memory for a stream");
    s->device = d;
    int rc = d->ops->stream_open(d, s, err);
    if (rc < 0) {
        free(s);
        return rc;
    }
    *out = s;
    return 0;
}

void stream_close(struct stream *s)
{
    if (!s)
        return;
    s->device->ops->stream_close(s);
    free(s);
}

int stream_launch(struct stream *s, kernel_fn fn, void *const *pointer, unsigned count, uint32_t host_mask, const void *params,
                  size_t params_bytes, struct handle *out, struct err *err)
{
    CHECK(count <= KERNEL_POINTERS_MAX);
    CHECK(params_bytes <= LAUNCH_PARAMS_MAX);
    struct launch_call call;
    call.fn = fn;
    call.count = count;
    call.host_mask = host_mask;
    if (count)
        memcpy(call.pointer, pointer, count * sizeof *pointer);
    if (params_bytes)
        memcpy(call.params, params, params_bytes);
    return s->device->ops->submit(s, &call, out, err);
}

struct copy_params { size_t size_bytes; };

static void copy_kernel(void *const *pointer, const void *params)
{
    const struct copy_params *p = params;
    memcpy(pointer[0], pointer[1], p->size_bytes);
}

int stream_copy(struct stream *s, void *dst, enum mem_space dst_space, const void *src, enum mem_space src_space, size_t size_bytes,
                struct handle *out, struct err *err)
{
    void *pointer[2] = {dst, (void *)(uintptr_t)src};
    uint32_t host = (uint32_t)(dst_space == SPACE_HOST) | (uint32_t)(src_space == SPACE_HOST) << 1;
    struct copy_params p = {size_bytes};
    return stream_launch(s, copy_kernel, pointer, 2, host, &p, sizeof p, out, err);
}

int memory_copy(struct memory to, struct memory from, size_t size_bytes, struct handle *out, struct err *err)
{
    struct stream *s = to.space == SPACE_DEVICE || !from.stream ? to.stream : from.stream;
    *out = (struct handle){0};
    if (to.pointer == from.pointer && to.space == from.space)
        return 0;
    if (s)
        return stream_copy(s, to.pointer, to.space, from.pointer, from.space, size_bytes, out, err);
    if (to.space != SPACE_HOST || from.space != SPACE_HOST)
        return err_set(err, ERR_USAGE, "device memory is copied in the order of a stream, and none was given");
    memcpy(to.pointer, from.pointer, size_bytes);
    return 0;
}

bool handle_done(struct handle h) { return h.ticket == 0 || h.stream->device->ops->done(h); }

int handle_wait(struct handle h, uint64_t timeout_ms, struct err *err)
{
    return h.ticket == 0 ? 0 : h.stream->device->ops->wait(h, timeout_ms, err);
}

void stream_abort(struct stream *s) { s->device->ops->abort(s); }
