/* The CPU: host memory, and a stream that runs each call before submit returns. */
#include "base/arena.h"
#include "device/device_ops.h"

static int cpu_open(struct device *d, struct err *err)
{
    (void)d;
    (void)err;
    return 0;
}

static void cpu_close(struct device *d) { (void)d; }

static int cpu_alloc(struct device *d, size_t size_bytes, void **out, struct err *err)
{
    (void)d;
    void *p = pages_alloc(size_bytes, err);
    if (!p)
        return ERR_NO_MEMORY;
    *out = p;
    return 0;
}

static void cpu_free(struct device *d, void *p, size_t size_bytes)
{
    (void)d;
    pages_free(p, size_bytes);
}

static int cpu_stream_open(struct device *d, struct stream *s, struct err *err)
{
    (void)d;
    (void)s;
    (void)err;
    return 0;
}

static void cpu_stream_close(struct stream *s) { (void)s; }

static int cpu_submit(struct stream *s, const struct launch_call *call, struct handle *out, struct err *err)
{
    if (s->state)
        return err_set(err, ERR_ABORTED, "the stream was aborted");
    call->fn(call->pointer, call->params);
    *out = (struct handle){.stream = s, .ticket = 0};
    return 0;
}

static bool cpu_done(struct handle h)
{
    (void)h;
    return true;
}

static int cpu_wait(struct handle h, uint64_t timeout_ms, struct err *err)
{
    (void)h;
    (void)timeout_ms;
    (void)err;
    return 0;
}

static void cpu_abort(struct stream *s) { s->state = s; }   /* any value but NULL: dead */

const struct device_ops device_cpu = {
    "cpu", SPACE_HOST, cpu_open, cpu_close, cpu_alloc, cpu_free, cpu_stream_open, cpu_stream_close, cpu_submit, cpu_done, cpu_wait, cpu_abort,
};
