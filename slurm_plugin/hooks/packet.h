/* The packets that hooks send and get: docs/spec/009-hooks.md section 2. No I/O here. */
#ifndef RFAAS_PACKET_H
#define RFAAS_PACKET_H

#include <stdbool.h>
#include <stddef.h>

#define RFAAS_HOOK_PROTOCOL "rfaas-hook/1"
#define RFAAS_HOOK_PACKET_BYTES 4096

typedef struct {
    size_t size;
    char bytes[RFAAS_HOOK_PACKET_BYTES];
} rfaas_packet;

/* Begin a packet that asks for `verb`. */
void rfaas_packet_begin(rfaas_packet *packet, const char *verb);

/* Add `key=value`. False, and the packet is as before, if there is no value, if a byte of it may not stand in a packet
 * (what may: letters, digits and _ . , : - + [ ]), or if it does not fit any more. */
bool rfaas_packet_add(rfaas_packet *packet, const char *key, const char *value);

/* True if these bytes are an answer that says `done`. */
bool rfaas_packet_says_done(const char *bytes, size_t size);

#endif
