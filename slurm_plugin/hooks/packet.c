#include "packet.h"

#include <stdio.h>
#include <string.h>

#define VALUE_BYTES "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.,:-+[]"

void rfaas_packet_begin(rfaas_packet *packet, const char *verb)
{
    int size = snprintf(packet->bytes, sizeof packet->bytes, RFAAS_HOOK_PROTOCOL " %s", verb);
    packet->size = (size_t)size;
}

bool rfaas_packet_add(rfaas_packet *packet, const char *key, const char *value)
{
    if (value == NULL || *value == '\0' || value[strspn(value, VALUE_BYTES)] != '\0')
        return false;
    size_t room = sizeof packet->bytes - packet->size;
    int size = snprintf(packet->bytes + packet->size, room, " %s=%s", key, value);
    if (size < 0 || (size_t)size >= room) {
        packet->bytes[packet->size] = '\0';
        return false;
    }
    packet->size += (size_t)size;
    return true;
}

bool rfaas_packet_says_done(const char *bytes, size_t size)
{
    static const char done[] = RFAAS_HOOK_PROTOCOL " done";
    const size_t length = sizeof done - 1;
    return size >= length && memcmp(bytes, done, length) == 0 && (size == length || bytes[length] == ' ');
}
