/* The head of a request at the metrics listener. A verdict stands when more bytes come, and what is whole is in its limits. */
#include "base/err.h"
#include "net/http_head.c"       /* the one file under test */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct http_head head, part;
    unsigned whole = http_head_read((const char *)data, size, &head), half = http_head_read((const char *)data, size / 2, &part);
    CHECK(whole == 0 || whole == 200 || (whole >= 400 && whole <= 505));
    CHECK(whole != 0 || size < HTTP_HEAD_MAX);
    CHECK(half == 0 || half == whole);
    CHECK(half != 200 || memcmp(&head, &part, sizeof head) == 0);
    if (whole != 200)
        return 0;
    CHECK(head.path[0] == '/' && head.method[0] && !strpbrk(head.path, "? \r\n"));
    CHECK(memchr(head.host, '\0', sizeof head.host) && memchr(head.accept, '\0', sizeof head.accept));
    http_host_is_local(head.host);
    return 0;
}
