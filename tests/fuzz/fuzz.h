/* fuzz.h - what fuzz targets share. */
#ifndef RFAAS_FUZZ_H
#define RFAAS_FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "crc32c.h"
#include "frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define EXPECT(condition)                                                   \
    do {                                                                    \
        if (!(condition)) {                                                 \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                        \
        }                                                                   \
    } while (0)

/* A copy of exactly its size, so that a sanitizer sees a step beyond. */
static inline uint8_t *copy_of(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size > 0 ? size : 1);
    EXPECT(copy != NULL);
    if (size > 0)
        memcpy(copy, data, size);
    return copy;
}

/* Bytes rarely have a checksum that is right: each frame in turn is given one, as far as its lengths tell where it is. */
static inline void mend_checksums(uint8_t *bytes, size_t size)
{
    for (size_t at = 0; size - at >= RFAAS_HEADER_BYTES;) {
        size_t head_bytes;
        uint8_t *head = bytes + at;
        uint64_t in_size;
        if (rfaas_head_measure(head, &head_bytes) != RFAAS_HEAD_OK || head_bytes > size - at)
            return;
        memset(head + 8, 0, 4);
        uint32_t crc = rfaas_crc32c(head, head_bytes, 0);
        memcpy(head + 8, &crc, sizeof crc);
        memcpy(&in_size, head + 48, sizeof in_size);
        if (in_size > size - at - head_bytes)
            return;
        at += head_bytes + in_size;
    }
}

#endif
