/* verbs_setup.h - the messages by which two sides set an RDMA connection up, over the socket that they have already.
 *
 * Pure: bytes to fields and back. Spec: docs/spec/007-verbs.md section 2. Vectors: tests/wire/vectors/verbs.json.
 */
#ifndef RFAAS_VERBS_SETUP_H
#define RFAAS_VERBS_SETUP_H

#include "verbs_link.h"

enum {
    RFAAS_VERBS_MESSAGE_BYTES = 192,
    RFAAS_VERBS_TEXT_BYTES = 160, /* of a refusal, its end included */
};

enum rfaas_verbs_message_kind {
    RFAAS_VERBS_ADDRESS = 1,
    RFAAS_VERBS_CONNECTED = 2,
    RFAAS_VERBS_REFUSED = 3,
};

typedef struct rfaas_verbs_message {
    uint8_t kind;
    rfaas_verbs_address address;       /* of ADDRESS */
    char text[RFAAS_VERBS_TEXT_BYTES]; /* of REFUSED: why, UTF-8 claimed, ended by 0 */
} rfaas_verbs_message;

void rfaas_verbs_message_encode(const rfaas_verbs_message *message, uint8_t bytes[RFAAS_VERBS_MESSAGE_BYTES]);

/* NULL, or why these bytes are no such message; then `*message` is undefined. */
const char *rfaas_verbs_message_decode(const uint8_t bytes[RFAAS_VERBS_MESSAGE_BYTES], rfaas_verbs_message *message);

#endif
