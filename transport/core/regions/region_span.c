/* region_span.c - spans as a server opens them, and as both sides say it; see region_span.h. */
#include "region_span.h"

#include <stdlib.h>

#include "little_endian.h"

/* One of a server's; a region has so few of them that a table of all is cheap, and its untouched pages cost nothing. */
struct rfaas_region_span {
    bool is_open;
    uint8_t answer[RFAAS_REGION_SPAN_ANSWER_BYTES];
};

void rfaas_region_span_encode(uint64_t address, uint64_t size_bytes, uint32_t key,
                              uint8_t bytes[RFAAS_REGION_SPAN_ANSWER_BYTES])
{
    put_little(bytes, address, 8);
    put_little(bytes + 8, size_bytes, 8);
    put_little(bytes + 16, key, 8);
}

void rfaas_region_span_decode(const uint8_t bytes[RFAAS_REGION_SPAN_ANSWER_BYTES], uint64_t *address,
                              uint64_t *size_bytes, uint32_t *key)
{
    *address = get_little(bytes, 8);
    *size_bytes = get_little(bytes + 8, 8);
    *key = (uint32_t)get_little(bytes + 16, 4);
}

const uint8_t *rfaas_region_span_open(rfaas_region_server *server, uint64_t offset)
{
    const rfaas_region *region = server->region;
    const rfaas_remote_ops *remote = server->channel->medium->remote;
    uint64_t left_bytes = region->size_bytes - offset, index = offset / RFAAS_REGION_SPAN_BYTES;
    uint64_t size_bytes = left_bytes < RFAAS_REGION_SPAN_BYTES ? left_bytes : RFAAS_REGION_SPAN_BYTES;
    uint32_t key;
    if (remote == NULL)
        return NULL;
    if (server->spans == NULL)
        server->spans = calloc(region->size_bytes / RFAAS_REGION_SPAN_BYTES + 1, sizeof *server->spans);
    if (server->spans == NULL)
        return NULL;
    rfaas_region_span *span = &server->spans[index];
    if (!span->is_open && remote->lend(server->channel, region->bytes + offset, (size_t)size_bytes, &key) == 0) {
        rfaas_region_span_encode((uintptr_t)region->bytes + offset, size_bytes, key, span->answer);
        span->is_open = true;
    }
    return span->is_open ? span->answer : NULL;
}

void rfaas_region_spans_end(rfaas_region_server *server)
{
    free(server->spans);
    server->spans = NULL;
}
