/* IDX files, plain or gzip: a big-endian header (magic 0x0000TTNN: type, dimensions; then sizes), then bytes. */
#ifndef VIADUCT_DATA_IDX_H
#define VIADUCT_DATA_IDX_H

#include "data/data.h"

#define IDX_BYTES_MAX ((uint64_t)8 << 30)   /* decoded; larger sets come in shards, in a later format */

/* Reads a whole file of exactly `dim_count` dimensions; *bytes: malloc, product of dims bytes. */
int idx_read(const char *path, uint32_t dim_count, uint32_t dims[4], uint8_t **bytes, struct err *err);

#endif
