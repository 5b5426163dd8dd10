/* The table behind device.h: one row per kind of device. */
#ifndef VIADUCT_DEVICE_OPS_H
#define VIADUCT_DEVICE_OPS_H

#include "device/device.h"

#define LAUNCH_PARAMS_MAX 256

struct launch_call {                  /* one submitted call, by value */
    kernel_fn fn;
    unsigned count;
    uint32_t host_mask;               /* bit i: pointer i is a host pointer */
    void *pointer[KERNEL_POINTERS_MAX];
    unsigned char params[LAUNCH_PARAMS_MAX] __attribute__((aligned(16)));
};

struct device_ops {
    const char *kind;
    enum mem_space space;
    int (*open)(struct device *d, struct err *err);
    void (*close)(struct device *d);
    int (*alloc)(struct device *d, size_t size_bytes, void **out, struct err *err);
    void (*free)(struct device *d, void *p, size_t size_bytes);
    int (*stream_open)(struct device *d, struct stream *s, struct err *err);
    void (*stream_close)(struct stream *s);
    int (*submit)(struct stream *s, const struct launch_call *call, struct handle *out, struct err *err);
    bool (*done)(struct handle h);
    int (*wait)(struct handle h, uint64_t timeout_ms, struct err *err);
    void (*abort)(struct stream *s);
};

struct device { const struct device_ops *ops; void *state; };
struct stream { struct device *device; void *state; };

extern const struct device_ops device_cpu, device_fake;

#endif
