/* verbs_place.c - see verbs_place.h. */
#include "verbs_place.h"

#include <stddef.h>
#include <string.h>

#include "little_endian.h"

enum { ADDRESS_AT = 0, SIZE_AT = 8, KEY_AT = 16, SEGMENT_AT = 20 };

void rfaas_verbs_place_encode(const rfaas_verbs_place *place, uint8_t bytes[RFAAS_VERBS_PLACE_BYTES])
{
    memset(bytes, 0, RFAAS_VERBS_PLACE_BYTES);
    put_little(bytes + ADDRESS_AT, place->address, 8);
    put_little(bytes + SIZE_AT, place->size_bytes, 8);
    put_little(bytes + KEY_AT, place->key, 4);
    put_little(bytes + SEGMENT_AT, place->segment, 4);
}

void rfaas_verbs_place_decode(const uint8_t bytes[RFAAS_VERBS_PLACE_BYTES], rfaas_verbs_place *place)
{
    place->address = get_little(bytes + ADDRESS_AT, 8);
    place->size_bytes = get_little(bytes + SIZE_AT, 8);
    place->key = (uint32_t)get_little(bytes + KEY_AT, 4);
    place->segment = (uint32_t)get_little(bytes + SEGMENT_AT, 4);
}
