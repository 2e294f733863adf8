/* little_endian.h - numbers of any width in messages that are set up once; frame.c has quicker ways for its heads. */
#ifndef RFAAS_LITTLE_ENDIAN_H
#define RFAAS_LITTLE_ENDIAN_H

#include <stddef.h>
#include <stdint.h>

static inline void put_little(uint8_t *to, uint64_t value, size_t size_bytes)
{
    for (size_t i = 0; i < size_bytes; i++)
        to[i] = (uint8_t)(value >> (8 * i));
}

static inline uint64_t get_little(const uint8_t *from, size_t size_bytes)
{
    uint64_t value = 0;
    for (size_t i = 0; i < size_bytes; i++)
        value |= (uint64_t)from[i] << (8 * i);
    return value;
}

#endif
