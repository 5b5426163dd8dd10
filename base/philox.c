#include "base/philox.h"

#include "base/err.h"

/* Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3" (SC'11), section 4.3. */
struct philox philox4x32(uint64_t key, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3)
{
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return (struct philox){{c0, c1, c2, c3}};
}

uint64_t philox_key(uint64_t seed, enum philox_stream stream)
{
    struct philox r = philox4x32(seed, (uint32_t)stream, 0x76696164u, 0, 0);
    return (uint64_t)r.v[0] << 32 | r.v[1];
}

uint64_t permute(uint64_t key, uint32_t pass, uint64_t n, uint64_t i)
{
    CHECK(n >= 1 && i < n);
    unsigned half = 1;   /* bits of each half: the smallest even-width domain that holds n */
    while (half < 32 && (n - 1) >> (2 * half))
        half++;
    uint64_t mask = (1ull << half) - 1, x = i;
    do {   /* cycle walking: leave the domain, come back inside */
        uint64_t left = x >> half, right = x & mask;
        for (uint32_t round = 0; round < 4; round++) {
            struct philox f = philox4x32(key, (uint32_t)right, (uint32_t)(right >> 32), pass, round);
            uint64_t next = left ^ (((uint64_t)f.v[0] << 32 | f.v[1]) & mask);
            left = right;
            right = next;
        }
        x = left << half | right;
    } while (x >= n);
    return x;
}

uint64_t sample_at(uint64_t seed, uint64_t count, uint32_t pass, uint64_t p)
{
    return permute(philox_key(seed, STREAM_ORDER), pass, count, p);
}
