/* verbs_place.c - see verbs_place.h. */
#include "verbs_place.h"

#include <stddef.h>
#include <string.h>

enum { ADDRESS_AT = 0, SIZE_AT = 8, KEY_AT = 16, SEGMENT_AT = 20 };

static void put(uint8_t *to, uint64_t value, size_t size_bytes)
{
    for (size_t i = 0; i < size_bytes; i++)
        to[i] = (uint8_t)(value >> (8 * i));
}

static uint64_t get(const uint8_t *from, size_t size_bytes)
{
    uint64_t value = 0;
    for (size_t i = 0; i < size_bytes; i++)
        value |= (uint64_t)from[i] << (8 * i);
    return value;
}

void rfaas_verbs_place_encode(const rfaas_verbs_place *place, uint8_t bytes[RFAAS_VERBS_PLACE_BYTES])
{
    memset(bytes, 0, RFAAS_VERBS_PLACE_BYTES);
    put(bytes + ADDRESS_AT, place->address, 8);
    put(bytes + SIZE_AT, place->size_bytes, 8);
    put(bytes + KEY_AT, place->key, 4);
    put(bytes + SEGMENT_AT, place->segment, 4);
}

void rfaas_verbs_place_decode(const uint8_t bytes[RFAAS_VERBS_PLACE_BYTES], rfaas_verbs_place *place)
{
    place->address = get(bytes + ADDRESS_AT, 8);
    place->size_bytes = get(bytes + SIZE_AT, 8);
    place->key = (uint32_t)get(bytes + KEY_AT, 4);
    place->segment = (uint32_t)get(bytes + SEGMENT_AT, 4);
}
