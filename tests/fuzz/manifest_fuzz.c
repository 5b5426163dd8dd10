/* A manifest's text; what decodes must encode and decode again to the same bytes. */
#include <stdlib.h>
#include <string.h>

#include "ckpt/ckpt.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err e = ERR_INIT;
    struct ckpt_manifest a, b;
    char *one, *two;
    size_t n, m;
    if (ckpt_manifest_decode((const char *)data, size, &a, &e) < 0)
        return 0;
    CHECK(ckpt_manifest_encode(&a, &one, &n, &e) == 0);
    CHECK(ckpt_manifest_decode(one, n, &b, &e) == 0);
    CHECK(ckpt_manifest_encode(&b, &two, &m, &e) == 0);
    CHECK(n == m && memcmp(one, two, n) == 0);
    free(one);
    free(two);
    ckpt_manifest_fini(&a);
    ckpt_manifest_fini(&b);
    return 0;
}
