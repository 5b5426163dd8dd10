/* Checksums: CRC-32C where a file format asks for it, xxh3-64 for frames and copies in memory, SHA-256 for whatever lies on disk or names content. */
#ifndef VIADUCT_BASE_CHECKSUM_H
#define VIADUCT_BASE_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/* CRC-32C (Castagnoli), and as TFRecord files mask it. */
uint32_t crc32c_of(const void *p, size_t n);
uint32_t crc32c_masked(const void *p, size_t n);
uint64_t xxh64_of(const void *p, size_t n, uint64_t seed);

#define SHA256_BYTES 32
#define SHA256_HEX 65                       /* 64 digits and the terminator */
struct sha256;                              /* streaming state, opaque */
struct sha256 *sha256_new(void);
void sha256_add(struct sha256 *s, const void *p, size_t n);
void sha256_end(struct sha256 *s, uint8_t out[SHA256_BYTES]);   /* frees s */
void sha256_of(const void *p, size_t n, uint8_t out[SHA256_BYTES]);
void hex_of(const uint8_t *p, size_t n, char *out);             /* out: 2n+1 chars */
int hex_read(const char *hex, uint8_t *out, size_t n);          /* 0, or -1 unless exactly 2n hex digits */

#endif
