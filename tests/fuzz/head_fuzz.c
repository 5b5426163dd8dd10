/* A frame's header. Where its own checksum is all that is wrong, the checksum is set right, so that limits are met too. What decodes must encode again. */
#include <string.h>

#include "base/checksum.h"
#include "net/frame.c"           /* the one file under test */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t head[FRAME_HEAD_BYTES], again[FRAME_HEAD_BYTES];
    struct frame_head h;
    const char *wrong;
    if (size < FRAME_HEAD_BYTES)
        return 0;
    memcpy(head, data, sizeof head);
    if (!frame_head_decode(head, &h, &wrong)) {
        struct writer magic = writer_over(head, 4), sum = writer_over(head + SUMMED_BYTES, 8);
        CHECK(wrong);
        put_u32(&magic, FRAME_MAGIC);
        put_u64(&sum, xxh64_of(head, SUMMED_BYTES, 0));
        if (!frame_head_decode(head, &h, &wrong))
            return 0;
    }
    CHECK(h.body_size <= MSG_BODY_MAX && h.payload_size <= FRAME_PAYLOAD_MAX && frame_total(&h) <= FRAME_HEAD_BYTES + MSG_BODY_MAX + FRAME_PAYLOAD_MAX);
    frame_head_encode(&h, again);
    CHECK(memcmp(head, again, sizeof head) == 0);
    return 0;
}
