/* Frames as bytes. Header of 64 bytes, little-endian: magic u32, version u16, type u16, job hash u64, view u32, zero u32, sequence u64,
 * body length u32, payload length u32, xxh3-64 of what follows the header u64, zero u64, xxh3-64 of the 56 bytes before u64.
 * Body and payload are each padded with zeros to a multiple of 16, so that a payload can be read where it was received. */
#ifndef VIADUCT_NET_FRAME_H
#define VIADUCT_NET_FRAME_H

#include "net/net.h"

#define FRAME_ALIGN 16u

struct frame_head {
    uint16_t version, type;
    uint64_t job_hash;
    uint32_t view;
    uint64_t sequence;
    uint32_t body_size, payload_size;
    uint64_t sum;
};

static inline size_t frame_padded(size_t n) { return (n + FRAME_ALIGN - 1) & ~(size_t)(FRAME_ALIGN - 1); }
static inline size_t frame_total(const struct frame_head *h) { return FRAME_HEAD_BYTES + frame_padded(h->body_size) + frame_padded(h->payload_size); }

/* bytes: FRAME_HEAD_BYTES at least. Lengths are within limits and the header's checksum holds, else false and what is wrong. */
bool frame_head_decode(const uint8_t *bytes, struct frame_head *out, const char **wrong);
void frame_head_encode(const struct frame_head *h, uint8_t bytes[FRAME_HEAD_BYTES]);
/* Of the bytes that follow the header; frame: the whole frame. */
uint64_t frame_sum(const uint8_t *frame, size_t total);
/* frame: frame_total(h) bytes, of which body and payload are in place: zeroes the padding, sums, writes the header. */
void frame_finish(struct frame_head *h, uint8_t *frame);

#endif
