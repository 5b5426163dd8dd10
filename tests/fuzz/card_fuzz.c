/* A model card, as the registry reads it: what is taken has a name, hashes and dimensions. */
#include <string.h>

#include "base/base.h"
#include "export/registry_db.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct registry_version v;
    struct err e = ERR_INIT;
    int rc = registry_card_decode(data, size, &v, &e);
    CHECK(rc == 0 || *e.text);
    if (rc == 0)
        CHECK(*v.model && strlen(v.sha256) == SHA256_HEX - 1 && strlen(v.spec_sha256) == SHA256_HEX - 1 && v.classes > 0 && v.bytes >= 0);
    return 0;
}
