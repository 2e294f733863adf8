/* verbs_setup.c - see verbs_setup.h. */
#include "verbs_setup.h"

#include <string.h>

#include "little_endian.h"

static const uint8_t MAGIC[8] = {'r', 'f', 'a', 'a', 's', '0', '0', '7'};

enum { VERSION = 1, MTU_MIN = 1, MTU_MAX = 5, KIND_AT = 8, VERSION_AT = 9, BODY_AT = 16 };

void rfaas_verbs_message_encode(const rfaas_verbs_message *message, uint8_t bytes[RFAAS_VERBS_MESSAGE_BYTES])
{
    const rfaas_verbs_address *address = &message->address;
    uint8_t *body = bytes + BODY_AT;
    memset(bytes, 0, RFAAS_VERBS_MESSAGE_BYTES);
    memcpy(bytes, MAGIC, sizeof MAGIC);
    bytes[KIND_AT] = message->kind;
    bytes[VERSION_AT] = VERSION;
    if (message->kind == RFAAS_VERBS_REFUSED) {
        memcpy(body, message->text, strnlen(message->text, RFAAS_VERBS_TEXT_BYTES - 1));
    } else if (message->kind == RFAAS_VERBS_ADDRESS) {
        put_little(body, address->ring_address, 8);
        put_little(body + 8, address->ring_bytes, 4);
        put_little(body + 12, address->ring_key, 4);
        put_little(body + 16, address->queue_pair, 4);
        put_little(body + 20, address->packet_sequence, 4);
        memcpy(body + 24, address->gid, sizeof address->gid);
        put_little(body + 40, address->lid, 2);
        body[42] = address->mtu;
        body[43] = address->is_ethernet;
        body[44] = address->reads;
    }
}

const char *rfaas_verbs_message_decode(const uint8_t bytes[RFAAS_VERBS_MESSAGE_BYTES], rfaas_verbs_message *message)
{
    const uint8_t *body = bytes + BODY_AT;
    memset(message, 0, sizeof *message);
    if (memcmp(bytes, MAGIC, sizeof MAGIC) != 0)
        return "the peer does not set up an RDMA connection";
    if (bytes[VERSION_AT] != VERSION)
        return "the peer sets its RDMA connection up in another version";
    message->kind = bytes[KIND_AT];
    if (message->kind == RFAAS_VERBS_CONNECTED)
        return NULL;
    if (message->kind == RFAAS_VERBS_REFUSED) {
        memcpy(message->text, body, RFAAS_VERBS_TEXT_BYTES - 1);
        return NULL;
    }
    if (message->kind != RFAAS_VERBS_ADDRESS)
        return "the peer sent an unknown message while setting up RDMA";
    rfaas_verbs_address *address = &message->address;
    address->ring_address = get_little(body, 8);
    address->ring_bytes = (uint32_t)get_little(body + 8, 4);
    address->ring_key = (uint32_t)get_little(body + 12, 4);
    address->queue_pair = (uint32_t)get_little(body + 16, 4);
    address->packet_sequence = (uint32_t)get_little(body + 20, 4);
    memcpy(address->gid, body + 24, sizeof address->gid);
    address->lid = (uint16_t)get_little(body + 40, 2);
    address->mtu = body[42];
    address->is_ethernet = body[43];
    address->reads = body[44];
    if (address->mtu < MTU_MIN || address->mtu > MTU_MAX || address->queue_pair >> 24 != 0 ||
        address->packet_sequence >> 24 != 0 || address->is_ethernet > 1 || address->reads > RFAAS_VERBS_READS_MAX)
        return "the peer's RDMA address has a field out of range";
    return NULL;
}
