/* data: samples from files into memory, and which sample comes when. Bytes stay uint8 until the graph normalizes them. */
#ifndef VIADUCT_DATA_DATA_H
#define VIADUCT_DATA_DATA_H

#include <stdint.h>
#include "base/err.h"
#include "base/checksum.h"
#include "base/lanes.h"
#include "base/philox.h"

struct dataset {                      /* owned by the opener */
    uint64_t count;
    uint32_t channels, height, width, sample_bytes;
    uint32_t classes;                 /* largest label + 1 */
    uint8_t *pixels, *labels;         /* count * sample_bytes, count */
    uint8_t sha256[SHA256_BYTES];     /* of header fields, pixels and labels as decoded */
};

/* IDX (magic 0x00000803 images, 0x00000801 labels, big-endian), plain or gzip. Limits before allocation; a truncated or overlong file, a
 * label/image count mismatch and trailing bytes are errors that name the file and the byte. expect_*: 0 for any. */
int dataset_open_idx(struct dataset *d, const char *images, const char *labels, uint32_t expect_channels, uint32_t expect_height,
                     uint32_t expect_width, uint32_t classes, struct err *err);
void dataset_close(struct dataset *d);
/* Header only (existence, magic, dims): for validate. dims[0] is the count. */
int idx_probe(const char *path, uint32_t *dim_count, uint32_t dims[4], struct err *err);

/* Per-channel mean and standard deviation of pixels in [0, 1], from exact integer sums. */
void dataset_normalization(const struct dataset *d, float mean[4], float deviation[4]);

/* Gather ahead: a thread copies the samples of coming lanes while the present one computes. One reader, one owner. */
struct feeder;
struct lane_request { uint32_t pass; uint64_t first; uint32_t count; };          /* positions [first, first+count) of the pass */
int feeder_open(const struct dataset *d, uint64_t seed, uint32_t lane_batch_max, unsigned depth, struct feeder **out, struct err *err);
void feeder_close(struct feeder *f);
void feeder_ask(struct feeder *f, const struct lane_request *requests, unsigned count);  /* replaces what was asked and not yet taken */
/* Pixels and labels of exactly this request (made now when it was not asked for); valid until the next take of the same slot. */
void feeder_take(struct feeder *f, struct lane_request request, unsigned slot, const uint8_t **pixels, const uint8_t **labels);

#endif
