/* A spec's text; what loads must load again from its resolved text, to the same text. */
#include <string.h>

#include "jobs/jobs.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct job a, b;
    struct err e = ERR_INIT;
    if (job_load_text(&a, "fuzz", (const char *)data, size, NULL, 0, false, &e) == 0) {
        CHECK(job_load_text(&b, "resolved", a.resolved_yaml, strlen(a.resolved_yaml), NULL, 0, false, &e) == 0);
        CHECK(strcmp(a.resolved_yaml, b.resolved_yaml) == 0);
        job_fini(&b);
    }
    job_fini(&a);
    return 0;
}
