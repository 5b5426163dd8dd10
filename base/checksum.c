#include "base/checksum.h"

#include <openssl/evp.h>
#include <string.h>
#include <xxhash.h>

#include "base/err.h"

uint64_t xxh64_of(const void *p, size_t n, uint64_t seed) { return XXH3_64bits_withSeed(p, n, seed); }

/* Four bits at a time over the reflected polynomial 0x82f63b78: sixteen words of table, fast enough for the few hundred bytes a step that use it. */
uint32_t crc32c_of(const void *p, size_t n)
{
    static const uint32_t table[16] = {0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
                                       0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9, 0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75};
    uint32_t crc = UINT32_MAX;
    for (const uint8_t *b = p, *end = b + n; b < end; b++) {
        crc ^= *b;
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return ~crc;
}

uint32_t crc32c_masked(const void *p, size_t n)
{
    uint32_t crc = crc32c_of(p, n);
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

/* struct sha256 is EVP_MD_CTX under another name, so that callers do not see OpenSSL. */
struct sha256 *sha256_new(void)
{
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    CHECK(c != NULL);
    CHECK(EVP_DigestInit_ex(c, EVP_sha256(), NULL) == 1);
    return (struct sha256 *)c;
}

void sha256_add(struct sha256 *s, const void *p, size_t n)
{
    CHECK(EVP_DigestUpdate((EVP_MD_CTX *)s, p, n) == 1);
}

void sha256_end(struct sha256 *s, uint8_t out[SHA256_BYTES])
{
    CHECK(EVP_DigestFinal_ex((EVP_MD_CTX *)s, out, NULL) == 1);
    EVP_MD_CTX_free((EVP_MD_CTX *)s);
}

void sha256_of(const void *p, size_t n, uint8_t out[SHA256_BYTES])
{
    struct sha256 *s = sha256_new();
    sha256_add(s, p, n);
    sha256_end(s, out);
}

void hex_of(const uint8_t *p, size_t n, char *out)
{
    static const char digit[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digit[p[i] >> 4];
        out[2 * i + 1] = digit[p[i] & 15];
    }
    out[2 * n] = '\0';
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int hex_read(const char *hex, uint8_t *out, size_t n)
{
    if (strlen(hex) != 2 * n)
        return -1;
    for (size_t i = 0; i < n; i++) {
        int hi = hex_digit(hex[2 * i]), lo = hex_digit(hex[2 * i + 1]);
        if (hi < 0 || lo < 0)
            return -1;
        out[i] = (uint8_t)(hi << 4 | lo);
    }
    return 0;
}
