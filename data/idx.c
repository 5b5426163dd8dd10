#include "data/idx.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/fs.h"

#define TYPE_U8 0x08
#define DEFLATE_RATIO_MAX 1032u        /* no deflate stream expands further */

static int open_file(const char *path, gzFile *out, struct err *err)
{
    errno = 0;
    *out = gzopen(path, "rbe");   /* reads plain files as they are */
    if (!*out)
        return err_errno(err, errno ? errno : ENOMEM, "cannot open data file %s", path);
    return 0;
}

static int read_exactly(gzFile f, const char *path, void *out, uint64_t n, uint64_t at, struct err *err)
{
    uint64_t done = 0;
    while (done < n) {
        unsigned piece = n - done > (1u << 30) ? 1u << 30 : (unsigned)(n - done);
        int got = gzread(f, (uint8_t *)out + done, piece);
        if (got <= 0) {
            int code;
            const char *why = gzerror(f, &code);
            return err_set(err, ERR_CORRUPT, "%s is cut off or damaged at byte %llu of its decoded content, %llu are needed%s%s; fetch the file again",
                           path, (unsigned long long)(at + done), (unsigned long long)(at + n), code < 0 ? ": " : "", code < 0 ? why : "");
        }
        done += (uint64_t)got;
    }
    return 0;
}

static uint32_t big_endian(const uint8_t *p) { return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3]; }

static int read_header(gzFile f, const char *path, uint32_t *dim_count, uint32_t dims[4], uint64_t *size, struct err *err)
{
    uint8_t head[20];
    TRY(read_exactly(f, path, head, 4, 0, err));
    if (head[0] != 0 || head[1] != 0 || head[2] != TYPE_U8)
        return err_set(err, ERR_CORRUPT, "%s is no IDX file of bytes: it starts with %02x%02x%02x%02x, 000008NN is needed", path, head[0], head[1], head[2],
                       head[3]);
    if (head[3] < 1 || head[3] > 4)
        return err_set(err, ERR_CORRUPT, "%s has %u dimensions (byte 3); 1 to 4 are allowed", path, head[3]);
    *dim_count = head[3];
    TRY(read_exactly(f, path, head + 4, 4 * (uint64_t)*dim_count, 4, err));
    *size = 1;
    for (uint32_t d = 0; d < *dim_count; d++) {
        dims[d] = big_endian(head + 4 + 4 * d);
        if (dims[d] == 0 || dims[d] > IDX_BYTES_MAX / *size)
            return err_set(err, ERR_CORRUPT, "%s: dimension %u (byte %u) is %u, zero or too large", path, d, 4 + 4 * d, dims[d]);
        *size *= dims[d];
    }
    return 0;
}

int idx_probe(const char *path, uint32_t *dim_count, uint32_t dims[4], struct err *err)
{
    gzFile f;
    uint64_t size;
    uint32_t count, found[4] = {0};
    TRY(open_file(path, &f, err));
    int rc = read_header(f, path, &count, found, &size, err);
    gzclose(f);
    if (rc == 0) {
        *dim_count = count;
        memcpy(dims, found, sizeof found);
    }
    return rc;
}

static int read_body(gzFile f, const char *path, uint32_t wanted, uint32_t dims[4], uint8_t **bytes, struct err *err)
{
    uint32_t count;
    uint64_t size;
    TRY(read_header(f, path, &count, dims, &size, err));
    if (count != wanted)
        return err_set(err, ERR_CORRUPT, "%s has %u dimensions, %u are needed here; are images and labels swapped?", path, count, wanted);
    int64_t on_disk = fs_real.size(fs_real.state, path);
    if (on_disk >= 0 && size > (uint64_t)on_disk * DEFLATE_RATIO_MAX)
        return err_set(err, ERR_CORRUPT, "%s is cut off: its header promises %llu bytes, more than its %lld can hold; fetch the file again", path,
                       (unsigned long long)size, (long long)on_disk);
    uint8_t *p = malloc(size);
    if (!p)
        return err_set(err, ERR_NO_MEMORY, "no memory for the %llu bytes of %s", (unsigned long long)size, path);
    uint64_t head = 4 + 4 * (uint64_t)count;
    int rc = read_exactly(f, path, p, size, head, err);
    uint8_t more;
    if (rc == 0 && gzread(f, &more, 1) != 0) {
        int code;
        gzerror(f, &code);
        rc = err_set(err, ERR_CORRUPT, code < 0 ? "%s does not verify after its last byte %llu; fetch it again"
                                                : "%s goes on after byte %llu, where its header says it ends",
                     path, (unsigned long long)(head + size));
    }
    if (rc < 0) {
        free(p);
        return rc;
    }
    *bytes = p;
    return 0;
}

int idx_read(const char *path, uint32_t dim_count, uint32_t dims[4], uint8_t **bytes, struct err *err)
{
    gzFile f;
    TRY(open_file(path, &f, err));
    gzbuffer(f, 1 << 17);
    int rc = read_body(f, path, dim_count, dims, bytes, err);
    gzclose(f);
    return rc;
}
