/* What Slurm's commands print, and the book of a run's starts: any bytes. */
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "slurm/slurm.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err err = ERR_INIT;
    struct slurm_job job;
    struct slurm_book book;
    char *text = malloc(size + 1);
    CHECK(text != NULL);
    memcpy(text, data, size);
    text[size] = '\0';
    slurm_job_parse(text, &job);
    CHECK(job.state < SLURM_STATES);
    char address[40];
    slurm_node_address(text, address, sizeof address);
    CHECK(strlen(address) < sizeof address);
    CHECK(slurm_state_of(text) < SLURM_STATES);
    if (slurm_book_parse(text, &book, &err) == 0)
        CHECK(book.last < CAUSES && book.starts <= SLURM_STARTS_MAX + 1);
    else
        CHECK(err.code == ERR_CORRUPT);
    free(text);
    return 0;
}
