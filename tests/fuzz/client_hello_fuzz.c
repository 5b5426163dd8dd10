/* The first bytes of a caller at the front door. A name that is found is a good one; what is settled does not change when more bytes come. */
#include <string.h>

#include "base/err.h"
#include "net/client_hello.c"    /* the one file under test */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char name[SERVER_NAME_MAX + 1], part_name[SERVER_NAME_MAX + 1];
    const char *wrong, *part_wrong;
    enum client_hello verdict = client_hello_name(data, size, name, &wrong), part = client_hello_name(data, size / 2, part_name, &part_wrong);
    CHECK((verdict == CLIENT_HELLO_BAD) == (wrong != NULL));
    CHECK(verdict == CLIENT_HELLO_WHOLE || !name[0]);
    CHECK(!name[0] || server_name_ok(name, strlen(name)));
    CHECK(verdict != CLIENT_HELLO_MORE || size < CLIENT_HELLO_MAX);
    CHECK(part != CLIENT_HELLO_BAD || verdict == CLIENT_HELLO_BAD);
    CHECK(part != CLIENT_HELLO_WHOLE || verdict == CLIENT_HELLO_BAD || (verdict == part && strcmp(name, part_name) == 0));
    return 0;
}
