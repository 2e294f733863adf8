/* crc32c.c - CRC-32C by eight tables (slicing-by-8), or by the CPU's own instruction where it has one.
 * Tables and choice are made once, when the library is loaded, so that a call has nothing to check.
 */
#include "crc32c.h"

#include <string.h>

#define POLYNOMIAL_REFLECTED 0x82F63B78u

typedef uint32_t (*crc_update_f)(uint32_t state, const uint8_t *data, size_t size_bytes);

/* table[k][b]: the effect of byte b when k more bytes follow it. */
static uint32_t table[8][256];

static uint32_t update_tables(uint32_t state, const uint8_t *data, size_t size_bytes)
{
    for (; size_bytes >= 8; data += 8, size_bytes -= 8) {
        /* Byte by byte, so that the host's byte order and alignment rules do not matter. */
        state ^= (uint32_t)data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 | (uint32_t)data[3] << 24;
        state = table[7][state & 0xff] ^ table[6][state >> 8 & 0xff] ^ table[5][state >> 16 & 0xff] ^
                table[4][state >> 24] ^ table[3][data[4]] ^ table[2][data[5]] ^ table[1][data[6]] ^
                table[0][data[7]];
    }
    for (; size_bytes > 0; data++, size_bytes--)
        state = state >> 8 ^ table[0][(state ^ *data) & 0xff];
    return state;
}

#if defined(__x86_64__)
#include <nmmintrin.h>

__attribute__((target("sse4.2"))) static uint32_t update_sse42(uint32_t state, const uint8_t *data, size_t size_bytes)
{
    uint64_t wide = state;
    for (; size_bytes >= 8; data += 8, size_bytes -= 8) {
        uint64_t word;
        memcpy(&word, data, sizeof word);
        wide = _mm_crc32_u64(wide, word);
    }
    state = (uint32_t)wide;
    for (; size_bytes > 0; data++, size_bytes--)
        state = _mm_crc32_u8(state, *data);
    return state;
}
#endif

static crc_update_f update = update_tables;

__attribute__((constructor)) static void choose_update(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t state = byte;
        for (int bit = 0; bit < 8; bit++)
            state = state >> 1 ^ (state & 1 ? POLYNOMIAL_REFLECTED : 0);
        table[0][byte] = state;
    }
    for (int k = 1; k < 8; k++)
        for (int byte = 0; byte < 256; byte++)
            table[k][byte] = table[k - 1][byte] >> 8 ^ table[0][table[k - 1][byte] & 0xff];
#if defined(__x86_64__)
    __builtin_cpu_init(); /* needed where a constructor asks before libgcc's own constructor ran */
    if (__builtin_cpu_supports("sse4.2"))
        update = update_sse42;
#endif
}

uint32_t rfaas_crc32c(const void *data, size_t size_bytes, uint32_t crc)
{
    return ~update(~crc, data, size_bytes);
}

uint32_t rfaas_crc32c_portable(const void *data, size_t size_bytes, uint32_t crc)
{
    return ~update_tables(~crc, data, size_bytes);
}
