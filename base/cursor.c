#include "base/cursor.h"

#include <string.h>

struct reader reader_over(const void *data, size_t size)
{
    return (struct reader){.data = data, .size = size};
}

struct writer writer_over(void *data, size_t size)
{
    return (struct writer){.data = data, .size = size};
}

const uint8_t *get_bytes(struct reader *r, size_t n)
{
    if (r->bad || n > r->size - r->pos) {
        r->bad = true;
        return NULL;
    }
    const uint8_t *p = r->data + r->pos;
    r->pos += n;
    return p;
}

static uint64_t get_uint(struct reader *r, unsigned bytes)
{
    const uint8_t *p = get_bytes(r, bytes);
    uint64_t v = 0;
    for (unsigned i = 0; p && i < bytes; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

uint8_t get_u8(struct reader *r) { return (uint8_t)get_uint(r, 1); }
uint16_t get_u16(struct reader *r) { return (uint16_t)get_uint(r, 2); }
uint32_t get_u32(struct reader *r) { return (uint32_t)get_uint(r, 4); }
uint64_t get_u64(struct reader *r) { return get_uint(r, 8); }

float get_f32(struct reader *r)
{
    uint32_t bits = get_u32(r);
    float v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

double get_f64(struct reader *r)
{
    uint64_t bits = get_u64(r);
    double v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

void get_str(struct reader *r, char *out, size_t out_size)
{
    out[0] = '\0';
    uint16_t n = get_u16(r);
    if (r->bad || n >= out_size) {
        r->bad = true;
        return;
    }
    const uint8_t *p = get_bytes(r, n);
    if (!p || memchr(p, 0, n)) {
        r->bad = true;
        return;
    }
    memcpy(out, p, n);
    out[n] = '\0';
}

uint32_t get_count(struct reader *r, uint32_t limit)
{
    uint32_t n = get_u32(r);
    if (n > limit)
        r->bad = true;
    return r->bad ? 0 : n;
}

void put_bytes(struct writer *w, const void *p, size_t n)
{
    if (w->bad || n > w->size - w->pos) {
        w->bad = true;
        return;
    }
    if (n)
        memcpy(w->data + w->pos, p, n);
    w->pos += n;
}

static void put_uint(struct writer *w, uint64_t v, unsigned bytes)
{
    uint8_t b[8];
    for (unsigned i = 0; i < bytes; i++)
        b[i] = (uint8_t)(v >> (8 * i));
    put_bytes(w, b, bytes);
}

void put_u8(struct writer *w, uint8_t v) { put_uint(w, v, 1); }
void put_u16(struct writer *w, uint16_t v) { put_uint(w, v, 2); }
void put_u32(struct writer *w, uint32_t v) { put_uint(w, v, 4); }
void put_u64(struct writer *w, uint64_t v) { put_uint(w, v, 8); }

void put_f32(struct writer *w, float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    put_u32(w, bits);
}

void put_f64(struct writer *w, double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    put_u64(w, bits);
}

void put_str(struct writer *w, const char *s)
{
    size_t n = strlen(s);
    if (n > UINT16_MAX) {
        w->bad = true;
        return;
    }
    put_u16(w, (uint16_t)n);
    put_bytes(w, s, n);
}
