/* verbs_place.h - where a segment lies that the peer reads by itself: bytes to fields and back.
 *
 * Pure. Spec: docs/spec/007-verbs.md section 7. Vectors: tests/wire/vectors/verbs.json.
 */
#ifndef RFAAS_VERBS_PLACE_H
#define RFAAS_VERBS_PLACE_H

#include <stdint.h>

enum { RFAAS_VERBS_PLACE_BYTES = 32 };

typedef struct rfaas_verbs_place {
    uint64_t address, size_bytes;
    uint32_t key;
    uint32_t segment; /* its number in the frame */
} rfaas_verbs_place;

void rfaas_verbs_place_encode(const rfaas_verbs_place *place, uint8_t bytes[RFAAS_VERBS_PLACE_BYTES]);
void rfaas_verbs_place_decode(const uint8_t bytes[RFAAS_VERBS_PLACE_BYTES], rfaas_verbs_place *place);

#endif
