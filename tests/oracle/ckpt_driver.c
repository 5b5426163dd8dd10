/* Writes the sample checkpoint of the unit tests into a folder, for h5py to read. */
#include "tests/unit/ckpt/sample.h"

int main(int argc, char **argv)
{
    struct err err = ERR_INIT;
    struct sample s;
    int rc = argc == 2 ? sample_open(&s, 200, &err) : -1;
    if (rc == 0)
        rc = sample_write(&s, &fs_real, argv[1], &err);
    if (rc < 0)
        fprintf(stderr, "ckpt_driver: %s\n", err.text);
    return rc < 0;
}
