/* shm_small.c - see shm_small.h. */
#include "shm_small.h"

#include "crc32c.h"

/* Stored by itself: a wide load of what was just stored in parts, as compilers like to make, has to wait for all of it. */
static inline uint64_t alone(uint64_t word)
{
    __asm__("" : "+r"(word));
    return word;
}

void rfaas_shm_put_small(rfaas_shm_entry *entry, const rfaas_header *header, const struct iovec *segment,
                         uint32_t n_segments)
{
    size_t size_bytes = n_segments > 0 ? segment->iov_len : 0;
    uint64_t words[RFAAS_SHM_SMALL_WORDS];
    words[0] = entry->small[0] = alone(rfaas_shm_pair(RFAAS_SHM_SMALL, (uint32_t)size_bytes));
    words[1] = entry->small[1] = alone(header->call_id);
    words[2] = entry->small[2] = alone(header->lease_seq);
    words[3] = entry->small[3] = alone(header->epoch);
    words[4] = entry->small[4] = alone(header->out_size);
    words[5] = entry->small[5] = alone(header->kind | (uint64_t)header->attempt << 8 | (uint64_t)header->status << 16 |
                                       (uint64_t)header->function << 32 | (uint64_t)header->credits << 48);
    words[6] = alone(rfaas_shm_pair(n_segments, 0));
    if (size_bytes > 0)
        rfaas_shm_copy_small(entry->header, segment->iov_base, size_bytes);
    entry->small[6] = rfaas_shm_pair(n_segments, rfaas_crc32c(words, sizeof words, 0));
}

bool rfaas_shm_get_small(const rfaas_shm_entry *entry, rfaas_header *header, uint32_t *n_segments)
{
    uint64_t words[RFAAS_SHM_SMALL_WORDS];
    memcpy(words, entry->small, sizeof words);
    __asm__ volatile("" : : "r"(words) : "memory"); /* from here on it is ours */
    uint32_t size_bytes = rfaas_shm_second_of(words[0]);
    uint32_t crc = rfaas_shm_second_of(words[6]);
    *n_segments = rfaas_shm_first_of(words[6]);
    words[6] = rfaas_shm_pair(*n_segments, 0);
    if (size_bytes > RFAAS_SHM_SMALL_BYTES || *n_segments > 1 || *n_segments < (size_bytes > 0) ||
        crc != rfaas_crc32c(words, sizeof words, 0))
        return false;
    *header = (rfaas_header){
        .kind = (uint8_t)words[5],
        .attempt = (uint8_t)(words[5] >> 8),
        .words = RFAAS_HEADER_BYTES / 8,
        .status = (uint16_t)(words[5] >> 16),
        .function = (uint16_t)(words[5] >> 32),
        .credits = (uint16_t)(words[5] >> 48),
        .call_id = words[1],
        .lease_seq = words[2],
        .epoch = words[3],
        .in_size = size_bytes,
        .out_size = words[4],
    };
    return true;
}
