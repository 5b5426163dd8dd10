#include "base/protobuf.h"

#include <stdlib.h>
#include <string.h>

void pb_free(struct pb *b)
{
    free(b->data);
    *b = (struct pb){0};
}

static void append(struct pb *b, const void *p, size_t n)
{
    if (b->failed)
        return;
    if (n > b->capacity - b->size) {
        size_t want = b->capacity ? b->capacity : 256;
        while (want - b->size < n)
            want *= 2;
        uint8_t *grown = realloc(b->data, want);
        if (!grown) {
            b->failed = true;
            return;
        }
        b->data = grown;
        b->capacity = want;
    }
    if (n)
        memcpy(b->data + b->size, p, n);
    b->size += n;
}

static void varint(struct pb *b, uint64_t v)
{
    uint8_t bytes[10];
    size_t n = 0;
    do {
        bytes[n++] = (uint8_t)((v & 0x7f) | (v > 0x7f ? 0x80 : 0));
        v >>= 7;
    } while (v);
    append(b, bytes, n);
}

static void key(struct pb *b, uint32_t field, enum pb_wire wire) { varint(b, (uint64_t)field << 3 | wire); }

static void fixed(struct pb *b, uint64_t bits, unsigned n)
{
    uint8_t bytes[8];
    for (unsigned i = 0; i < n; i++)
        bytes[i] = (uint8_t)(bits >> (8 * i));
    append(b, bytes, n);
}

void pb_uint(struct pb *b, uint32_t field, uint64_t v)
{
    key(b, field, PB_VARINT);
    varint(b, v);
}

void pb_float(struct pb *b, uint32_t field, float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    key(b, field, PB_FIXED32);
    fixed(b, bits, 4);
}

void pb_double(struct pb *b, uint32_t field, double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    key(b, field, PB_FIXED64);
    fixed(b, bits, 8);
}

void pb_bytes(struct pb *b, uint32_t field, const void *p, size_t n)
{
    key(b, field, PB_BYTES);
    varint(b, n);
    append(b, p, n);
}

void pb_string(struct pb *b, uint32_t field, const char *s) { pb_bytes(b, field, s, strlen(s)); }

void pb_message(struct pb *b, uint32_t field, struct pb *inner)
{
    if (inner->failed)
        b->failed = true;
    pb_bytes(b, field, inner->data, inner->size);
    pb_free(inner);
}

struct pb_reader pb_over(const void *data, size_t size) { return (struct pb_reader){.data = data, .size = size}; }

static uint64_t read_varint(struct pb_reader *r)
{
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (r->pos == r->size)
            break;
        uint8_t byte = r->data[r->pos++];
        if (shift == 63 && byte > 1)
            break;
        v |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80))
            return v;
    }
    r->bad = true;
    return 0;
}

static uint64_t read_fixed(struct pb_reader *r, unsigned n)
{
    uint64_t v = 0;
    if (r->size - r->pos < n) {
        r->bad = true;
        return 0;
    }
    for (unsigned i = 0; i < n; i++)
        v |= (uint64_t)r->data[r->pos++] << (8 * i);
    return v;
}

bool pb_next(struct pb_reader *r, struct pb_field *f)
{
    if (r->bad || r->pos == r->size)
        return false;
    uint64_t k = read_varint(r);
    *f = (struct pb_field){.number = (uint32_t)(k >> 3), .wire = (enum pb_wire)(k & 7)};
    if (k >> 32 || f->number == 0)
        r->bad = true;
    if (r->bad)
        return false;
    switch (f->wire) {
    case PB_VARINT: f->value = read_varint(r); break;
    case PB_FIXED64: f->value = read_fixed(r, 8); break;
    case PB_FIXED32: f->value = read_fixed(r, 4); break;
    case PB_BYTES:
        f->value = read_varint(r);
        if (!r->bad && f->value <= r->size - r->pos) {
            f->bytes = r->data + r->pos;
            f->size = (size_t)f->value;
            r->pos += f->size;
        } else {
            r->bad = true;
        }
        break;
    default: r->bad = true;
    }
    return !r->bad;
}
