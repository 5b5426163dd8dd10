/* First byte: message type; the rest: its body. What decodes must encode again, to the same length. */
#include <stdlib.h>

#include "base/err.h"
#include "net/msg.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t m[1 << 17], out[MSG_BODY_MAX];
    if (size < 1 || !msg_struct_size((enum msg_type)data[0]))
        return 0;
    struct reader r = reader_over(data + 1, size - 1);
    if (msg_decode((enum msg_type)data[0], &r, m)) {
        struct writer w = writer_over(out, sizeof out);
        CHECK(msg_encode((enum msg_type)data[0], m, &w));
        CHECK(w.pos == size - 1);
    }
    return 0;
}
