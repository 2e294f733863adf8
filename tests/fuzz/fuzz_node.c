/* fuzz_node.c - a fuzz target for what the root node agent reads: a start request of a user, a packet of a hook. */
#include "fuzz.h"
#include "wire.h"

static void request(uint8_t *bytes, size_t size)
{
    struct start_request read;
    memset(&read, 0x5a, sizeof read);
    if (!wire_read_request(bytes, size, &read))
        return;
    EXPECT(size == REQUEST_BYTES);
    EXPECT(read.state_dir[0] == '/' && strnlen(read.state_dir, sizeof read.state_dir) < sizeof read.state_dir);
    EXPECT(strnlen(read.allocator, sizeof read.allocator) < sizeof read.allocator && read.allocator[0] != '-');
    size_t name = strnlen(read.grant.node, sizeof read.grant.node);
    EXPECT(name > 0 && name < sizeof read.grant.node && !strchr(read.grant.node, '/'));
    EXPECT(memcmp(read.signed_bytes, bytes + 8, GRANT_SIGNED_BYTES) == 0);
}

static void query(uint8_t *bytes, size_t size)
{
    struct node_query read;
    memset(&read, 0x5a, sizeof read);
    if (!wire_read_query(bytes, size, &read))
        return;
    size_t name = strnlen(read.node, sizeof read.node);
    EXPECT(size == QUERY_BYTES && name > 0 && name < sizeof read.node && !strchr(read.node, '/'));
    EXPECT(memcmp(read.signed_bytes, bytes, QUERY_SIGNED_BYTES) == 0);
}

static void packet(uint8_t *bytes, size_t size)
{
    struct hook_packet read;
    if (!wire_read_hook((const char *)bytes, size, &read))
        return;
    EXPECT(strnlen(read.node, sizeof read.node) < sizeof read.node);
    EXPECT(strnlen(read.cpus, sizeof read.cpus) < sizeof read.cpus);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *copy = copy_of(data, size);
    request(copy, size);
    query(copy, size);
    packet(copy, size);
    if (size >= 16) { /* a request has one size, which few mutations keep: give it that */
        uint8_t *whole = calloc(1, REQUEST_BYTES);
        EXPECT(whole != NULL);
        memcpy(whole, data, size < REQUEST_BYTES ? size : REQUEST_BYTES);
        request(whole, REQUEST_BYTES);
        query(whole, QUERY_BYTES);
        free(whole);
    }
    free(copy);
    return 0;
}
