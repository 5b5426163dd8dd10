/* Frame headers both ways. A header is believed only after its own checksum, and nothing is allocated for a length before that. */
#include <string.h>

#include "base/checksum.h"
#include "base/err.h"
#include "net/frame.h"

#define SUMMED_BYTES (FRAME_HEAD_BYTES - 8)

void frame_head_encode(const struct frame_head *h, uint8_t bytes[FRAME_HEAD_BYTES])
{
    struct writer w = writer_over(bytes, FRAME_HEAD_BYTES);
    put_u32(&w, FRAME_MAGIC);
    put_u16(&w, h->version);
    put_u16(&w, h->type);
    put_u64(&w, h->job_hash);
    put_u32(&w, h->view);
    put_u32(&w, 0);
    put_u64(&w, h->sequence);
    put_u32(&w, h->body_size);
    put_u32(&w, h->payload_size);
    put_u64(&w, h->sum);
    put_u64(&w, 0);
    put_u64(&w, xxh64_of(bytes, SUMMED_BYTES, 0));
    CHECK(!w.bad);
}

bool frame_head_decode(const uint8_t *bytes, struct frame_head *out, const char **wrong)
{
    struct reader r = reader_over(bytes, FRAME_HEAD_BYTES);
    struct frame_head h;
    uint32_t magic = get_u32(&r);
    h.version = get_u16(&r);
    h.type = get_u16(&r);
    h.job_hash = get_u64(&r);
    h.view = get_u32(&r);
    uint64_t zero = get_u32(&r);
    h.sequence = get_u64(&r);
    h.body_size = get_u32(&r);
    h.payload_size = get_u32(&r);
    h.sum = get_u64(&r);
    zero |= get_u64(&r);
    uint64_t sum = get_u64(&r);
    *wrong = magic != FRAME_MAGIC ? "it does not speak this protocol (wrong magic number)"
             : sum != xxh64_of(bytes, SUMMED_BYTES, 0) ? "the checksum of a header does not match"
             : zero != 0 ? "reserved bytes of a header are not zero"
             : h.body_size > MSG_BODY_MAX || h.payload_size > FRAME_PAYLOAD_MAX ? "a length in a header is over its limit"
             : !msg_struct_size((enum msg_type)h.type) ? "a message of unknown type" : NULL;
    if (*wrong)
        return false;
    *out = h;
    return true;
}

uint64_t frame_sum(const uint8_t *frame, size_t total)
{
    return xxh64_of(frame + FRAME_HEAD_BYTES, total - FRAME_HEAD_BYTES, 0);
}

void frame_finish(struct frame_head *h, uint8_t *frame)
{
    size_t body_end = FRAME_HEAD_BYTES + h->body_size, payload_at = FRAME_HEAD_BYTES + frame_padded(h->body_size), total = frame_total(h);
    memset(frame + body_end, 0, payload_at - body_end);
    memset(frame + payload_at + h->payload_size, 0, total - payload_at - h->payload_size);
    h->sum = frame_sum(frame, total);
    frame_head_encode(h, frame);
}
