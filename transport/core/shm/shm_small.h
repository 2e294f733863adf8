/* shm_small.h - small frames as entries of two lines: from a header's fields and back. Spec: docs/spec/006-shared-memory.md.
 *
 * Most calls and results are small: so they neither pass through an encoded head nor touch a third line.
 */
#ifndef RFAAS_SHM_SMALL_H
#define RFAAS_SHM_SMALL_H

#include <string.h>

#include "shm_ring.h"

enum { RFAAS_SHM_SMALL_BYTES = RFAAS_SHM_LINE_BYTES };

/* The word whose first four bytes are `first`, and the two parts of one. */
static inline uint64_t rfaas_shm_pair(uint32_t first, uint32_t second)
{
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    return (uint64_t)first << 32 | second;
#else
    return (uint64_t)second << 32 | first;
#endif
}

static inline uint32_t rfaas_shm_first_of(uint64_t pair)
{
    return (uint32_t)(pair >> (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ ? 32 : 0));
}

static inline uint32_t rfaas_shm_second_of(uint64_t pair)
{
    return (uint32_t)(pair >> (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ ? 0 : 32));
}

/* At most 64 bytes, by two moves that may overlap: a call of memcpy() costs more than that. */
static inline void rfaas_shm_copy_small(void *to, const void *from, size_t size_bytes)
{
    uint8_t *out = to;
    const uint8_t *in = from;
    if (size_bytes >= 32) {
        memcpy(out, in, 32);
        memcpy(out + size_bytes - 32, in + size_bytes - 32, 32);
    } else if (size_bytes >= 16) {
        memcpy(out, in, 16);
        memcpy(out + size_bytes - 16, in + size_bytes - 16, 16);
    } else if (size_bytes >= 8) {
        memcpy(out, in, 8);
        memcpy(out + size_bytes - 8, in + size_bytes - 8, 8);
    } else {
        for (size_t i = 0; i < size_bytes; i++)
            out[i] = in[i];
    }
}

/* Fills an entry but for its sequence number. `n_segments` is 0, or 1 of at most RFAAS_SHM_SMALL_BYTES. */
void rfaas_shm_put_small(rfaas_shm_entry *entry, const rfaas_header *header, const struct iovec *segment,
                         uint32_t n_segments);

/* What such an entry says, read once. False: that can't be. The payload is not looked at. */
bool rfaas_shm_get_small(const rfaas_shm_entry *entry, rfaas_header *header, uint32_t *n_segments);

#endif
