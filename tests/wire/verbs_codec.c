/* verbs_codec.c - reads and writes what spec 007 says, by the core's codec, for tests/wire/test_verbs.py.
 *
 * A line in, a line out:   read HEX                     the fields of a message, or "no: why"
 *                          address / connected / refused FIELDS   the bytes of a message in hex
 *                          word SIZE FREED END PLACES   a word in hex, network order;  split HEX  its parts
 *                          place ADDRESS SIZE RKEY SEGMENT  a place in hex;  whereabouts HEX  its fields
 */
#include <arpa/inet.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "verbs_channel.h"

static size_t from_hex(const char *text, uint8_t *bytes, size_t room_bytes)
{
    size_t n = 0;
    unsigned value;
    while (n < room_bytes && sscanf(text + 2 * n, "%2x", &value) == 1)
        bytes[n++] = (uint8_t)value;
    return n;
}

static void print_hex(const uint8_t *bytes, size_t size_bytes)
{
    for (size_t i = 0; i < size_bytes; i++)
        printf("%02x", bytes[i]);
    printf("\n");
}

static void read_message(const char *hex)
{
    uint8_t bytes[RFAAS_VERBS_MESSAGE_BYTES];
    rfaas_verbs_message message;
    if (from_hex(hex, bytes, sizeof bytes) != sizeof bytes) {
        printf("no: not so many bytes\n");
        return;
    }
    const char *problem = rfaas_verbs_message_decode(bytes, &message);
    const rfaas_verbs_address *at = &message.address;
    if (problem != NULL) {
        printf("no: %s\n", problem);
    } else if (message.kind == RFAAS_VERBS_ADDRESS) {
        printf("1 %" PRIu64 " %u %u %u %u %u %u %u %u ", at->ring_address, at->ring_bytes, at->ring_key, at->queue_pair,
               at->packet_sequence, at->lid, at->mtu, at->is_ethernet, at->reads);
        print_hex(at->gid, sizeof at->gid);
    } else {
        printf("%u %s\n", message.kind, message.text);
    }
}

static void write_message(const char *line)
{
    uint8_t bytes[RFAAS_VERBS_MESSAGE_BYTES];
    rfaas_verbs_message message = {.kind = RFAAS_VERBS_CONNECTED};
    rfaas_verbs_address *at = &message.address;
    char gid[33];
    unsigned lid, mtu, is_ethernet, reads;
    if (strncmp(line, "refused ", 8) == 0) {
        message.kind = RFAAS_VERBS_REFUSED;
        snprintf(message.text, sizeof message.text, "%.*s", RFAAS_VERBS_TEXT_BYTES - 1, line + 8);
    } else if (sscanf(line, "address %" SCNu64 " %u %u %u %u %u %u %u %u %32s", &at->ring_address, &at->ring_bytes,
                      &at->ring_key, &at->queue_pair, &at->packet_sequence, &lid, &mtu, &is_ethernet, &reads, gid) == 10) {
        message.kind = RFAAS_VERBS_ADDRESS;
        at->lid = (uint16_t)lid;
        at->mtu = (uint8_t)mtu;
        at->is_ethernet = (uint8_t)is_ethernet;
        at->reads = (uint8_t)reads;
        from_hex(gid, at->gid, sizeof at->gid);
    }
    rfaas_verbs_message_encode(&message, bytes);
    print_hex(bytes, sizeof bytes);
}

int main(void)
{
    char line[1024];
    while (fgets(line, sizeof line, stdin) != NULL) {
        unsigned size_bytes, freed, is_end, is_places;
        rfaas_verbs_place place;
        uint8_t place_bytes[RFAAS_VERBS_PLACE_BYTES];
        uint32_t word;
        line[strcspn(line, "\n")] = '\0';
        if (strncmp(line, "read ", 5) == 0) {
            read_message(line + 5);
        } else if (sscanf(line, "word %u %u %u %u", &size_bytes, &freed, &is_end, &is_places) == 4) {
            word = htonl(rfaas_verbs_word(size_bytes, freed, is_end << 31 | is_places << 30));
            print_hex((const uint8_t *)&word, sizeof word);
        } else if (sscanf(line, "split %x", &word) == 1) {
            printf("%u %u %d %d\n", rfaas_verbs_word_size_bytes(word), rfaas_verbs_word_freed_slots(word),
                   rfaas_verbs_word_is_end(word), rfaas_verbs_word_is_of_places(word));
        } else if (sscanf(line, "place %" SCNu64 " %" SCNu64 " %u %u", &place.address, &place.size_bytes, &place.key,
                          &place.segment) == 4) {
            rfaas_verbs_place_encode(&place, place_bytes);
            print_hex(place_bytes, sizeof place_bytes);
        } else if (strncmp(line, "whereabouts ", 12) == 0 && from_hex(line + 12, place_bytes, sizeof place_bytes) > 0) {
            rfaas_verbs_place_decode(place_bytes, &place);
            printf("%" PRIu64 " %" PRIu64 " %u %u\n", place.address, place.size_bytes, place.key, place.segment);
        } else {
            write_message(line);
        }
    }
    return 0;
}
