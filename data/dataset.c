/* A dataset in memory: images and labels checked against each other, its content hash, its normalization. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/cursor.h"
#include "data/data.h"
#include "data/idx.h"

static int check(const struct dataset *d, const char *images, const char *labels, uint32_t label_count, uint32_t classes, struct err *err)
{
    if (label_count != d->count)
        return err_set(err, ERR_CORRUPT, "%s holds %u labels, %s holds %llu images; they must be equal", labels, label_count, images,
                       (unsigned long long)d->count);
    for (uint64_t i = 0; classes && i < d->count; i++)
        if (d->labels[i] >= classes)
            return err_set(err, ERR_CORRUPT, "%s: label %u at byte %llu, but the model has %u classes; raise model.classes or correct the file", labels,
                           d->labels[i], (unsigned long long)(8 + i), classes);
    return 0;
}

int dataset_open_idx(struct dataset *d, const char *images, const char *labels, uint32_t expect_channels, uint32_t expect_height,
                     uint32_t expect_width, uint32_t classes, struct err *err)
{
    uint32_t dims[4], label_dims[4];
    struct dataset made = {.channels = 1};
    TRY(idx_read(images, 3, dims, &made.pixels, err));
    made.count = dims[0];
    made.height = dims[1];
    made.width = dims[2];
    made.sample_bytes = dims[1] * dims[2];
    int rc = 0;
    if ((expect_channels && expect_channels != 1) || (expect_height && expect_height != made.height) || (expect_width && expect_width != made.width))
        rc = err_set(err, ERR_USAGE, "%s holds images of 1 x %u x %u, model.input asks for %u x %u x %u", images, made.height, made.width,
                     expect_channels, expect_height, expect_width);
    if (rc == 0)
        rc = idx_read(labels, 1, label_dims, &made.labels, err);
    if (rc == 0)
        rc = check(&made, images, labels, label_dims[0], classes, err);
    if (rc < 0) {
        dataset_close(&made);
        return rc;
    }
    for (uint64_t i = 0; i < made.count; i++)
        if (made.labels[i] >= made.classes)
            made.classes = made.labels[i] + 1u;
    uint8_t head[20];
    struct writer w = writer_over(head, sizeof head);
    put_u64(&w, made.count);
    put_u32(&w, made.channels);
    put_u32(&w, made.height);
    put_u32(&w, made.width);
    struct sha256 *s = sha256_new();
    sha256_add(s, head, w.pos);
    sha256_add(s, made.pixels, made.count * made.sample_bytes);
    sha256_add(s, made.labels, made.count);
    sha256_end(s, made.sha256);
    *d = made;
    return 0;
}

void dataset_close(struct dataset *d)
{
    free(d->pixels);
    free(d->labels);
    *d = (struct dataset){0};
}

void dataset_normalization(const struct dataset *d, float mean[4], float deviation[4])
{
    uint64_t plane = (uint64_t)d->height * d->width;
    for (uint32_t c = 0; c < 4; c++) {
        mean[c] = 0;
        deviation[c] = 1;
        if (c >= d->channels)
            continue;
        uint64_t sum = 0, squares = 0;   /* exact: 8 GiB of bytes squared fits 64 bits */
        for (uint64_t i = 0; i < d->count; i++) {
            const uint8_t *p = d->pixels + i * d->sample_bytes + c * plane;
            for (uint64_t k = 0; k < plane; k++) {
                sum += p[k];
                squares += (uint32_t)p[k] * p[k];
            }
        }
        double n = (double)(d->count * plane), m = (double)sum / n, variance = (double)squares / n - m * m;
        mean[c] = (float)(m / 255);
        deviation[c] = variance > 0 ? (float)(sqrt(variance) / 255) : 1;
    }
}
