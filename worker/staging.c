/* Where a rank computes: in the gang's memory itself when the device is the host, else in device memory of its own. */
#include <stdlib.h>

#include "base/base.h"
#include "worker/worker.h"

struct staging {
    struct device *device;
    size_t bytes;
    unsigned slots;
    void *weights;
    struct memory *slot;                   /* a gradient each; NULL: the device computes in host memory */
};

int staging_open(struct device *d, const struct engine *e, uint64_t elems, unsigned slots, struct staging **out, struct err *err)
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
        s->slot[i] = (struct memory){.space = SPACE_DEVICE, .stream = engine_stream(e, i)};   /* a gradient leaves before the slot's next lane writes there */
        TRY(device_alloc(d, s->bytes, &s->slot[i].pointer, err));
    }
    return 0;
}

void staging_close(struct staging *s)
{
    if (!s)
        return;
    for (unsigned i = 0; s->slot && i < s->slots; i++)
        device_free(s->device, s->slot[i].pointer, s->bytes);
    device_free(s->device, s->weights, s->slot ? s->bytes : 0);
    free(s->slot);
    free(s);
}

struct memory staging_weights(const struct staging *s, const float *host)
{
    return s->slot ? (struct memory){s->weights, SPACE_DEVICE, s->slot[0].stream} : (struct memory){.pointer = (void *)(uintptr_t)host};
}

struct memory staging_gradient(const struct staging *s, unsigned slot, float *host)
{
    return s->slot ? s->slot[slot] : (struct memory){.pointer = host};
}
