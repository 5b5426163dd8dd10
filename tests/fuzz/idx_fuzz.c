/* An IDX file, plain or gzip, used as images and as labels. */
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "data/data.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    int fd = memfd_create("idx", 0);
    struct err e = ERR_INIT;
    struct dataset d;
    if (fd < 0 || size > 4096)
        return close(fd), 0;
    (void)!write(fd, data, size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    uint32_t dims[4], count;
    idx_probe(path, &count, dims, &e);
    if (dataset_open_idx(&d, path, path, 0, 0, 0, 10, &e) == 0)
        dataset_close(&d);
    close(fd);
    return 0;
}
