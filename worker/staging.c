/* Weights in, gradients out, where the device's memory is not the host's. */
#include <stdlib.h>

#include "base/base.h"
#include "worker/worker.h"

#define COPY_TIMEOUT_MS 60000

struct slot_buffers { struct stream *stream; void *gradient; };

struct staging {
    struct device *device;
    size_t bytes;
    unsigned slots;
    void *weights;
    struct slot_buffers *slot;            /* NULL: the device computes in host memory */
};

int staging_open(struct device *d, uint64_t elems, unsigned slots, struct staging **out, struct err *err)
{
    struct staging *s = calloc(1, sizeof *s);
    CHECK(s != NULL);
    *s = (struct staging){.device = d, .bytes = elems * sizeof(float), .slots = slots};
    *out = s;
    if (device_space(d) == SPACE_HOST)
        return 0;
    s->slot = calloc(slots, sizeof *s->slot);
    CHECK(s->slot != NULL);
    TRY(device_alloc(d, s->bytes, &s->weights, err));
    for (unsigned i = 0; i < slots; i++) {
        TRY(stream_open(d, &s->slot[i].stream, err));
        TRY(device_alloc(d, s->bytes, &s->slot[i].gradient, err));
    }
    return 0;
}

void staging_close(struct staging *s)
{
    if (!s)
        return;
    for (unsigned i = 0; s->slot && i < s->slots; i++) {
        if (s->slot[i].stream)
            stream_close(s->slot[i].stream);
        device_free(s->device, s->slot[i].gradient, s->bytes);
    }
    device_free(s->device, s->weights, s->slot ? s->bytes : 0);
    free(s->slot);
    free(s);
}

int staging_weights(struct staging *s, const float *host, const float **out, struct err *err)
{
    struct handle h;
    *out = host;
    if (!s->slot)
        return 0;
    TRY(stream_copy(s->slot[0].stream, s->weights, SPACE_DEVICE, host, SPACE_HOST, s->bytes, &h, err));
    *out = s->weights;
    return handle_wait(h, COPY_TIMEOUT_MS, err);
}

float *staging_gradient(struct staging *s, unsigned slot, float *host) { return s->slot ? s->slot[slot].gradient : host; }

int staging_fetch(struct staging *s, unsigned slot, float *host, struct err *err)
{
    struct handle h;
    if (!s->slot)
        return 0;
    TRY(stream_copy(s->slot[slot].stream, host, SPACE_HOST, s->slot[slot].gradient, SPACE_DEVICE, s->bytes, &h, err));
    return handle_wait(h, COPY_TIMEOUT_MS, err);
}
