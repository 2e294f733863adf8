/* wire.h - what the node agent reads: a grant, a start request, a hook's packet. Fixed fields only; no allocation.
 *
 * Specs: docs/spec/010-node-agent.md (grant, start request), 009-hooks.md (packets).
 */
#ifndef RFAAS_NODE_WIRE_H
#define RFAAS_NODE_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    GRANT_BYTES = 200,
    GRANT_SIGNED_BYTES = 136,
    SIGNATURE_BYTES = 64,
    SLICE_ID_BYTES = 16,
    NONCE_BYTES = 16,
    SECRET_BYTES = 32,
    NODE_NAME_BYTES = 56,
    STATE_DIR_BYTES = 256,
    ALLOCATOR_BYTES = 64,
    REQUEST_BYTES = 8 + GRANT_BYTES + SECRET_BYTES + STATE_DIR_BYTES + ALLOCATOR_BYTES,
    PACKET_BYTES = 4096,
    QUERY_SIGNED_BYTES = 104,
    QUERY_BYTES = QUERY_SIGNED_BYTES + SIGNATURE_BYTES,
};

#define GRANT_LABEL "rfaas-010 grant"
#define QUERY_LABEL "rfaas-010 query"

struct grant {
    uint8_t slice_id[SLICE_ID_BYTES];
    uint8_t nonce[NONCE_BYTES];
    uint64_t issued_s, use_by_s, ends_s; /* since 1970 */
    uint64_t memory_bytes;
    uint32_t uid, cores;
    char node[NODE_NAME_BYTES];
};

struct start_request {
    struct grant grant;
    uint8_t signed_bytes[GRANT_SIGNED_BYTES], signature[SIGNATURE_BYTES];
    uint8_t secret[SECRET_BYTES];
    char state_dir[STATE_DIR_BYTES]; /* absolute */
    char allocator[ALLOCATOR_BYTES]; /* "host:port" or empty */
};

enum query_verb { QUERY_LIST, QUERY_NOTICE };

struct node_query { /* of the site's allocator */
    uint8_t signed_bytes[QUERY_SIGNED_BYTES], signature[SIGNATURE_BYTES];
    uint64_t issued_s; /* since 1970 */
    uint64_t job;      /* of a notice: which is about to start here */
    uint32_t verb;
    char node[NODE_NAME_BYTES];
};

/* The query in exactly these bytes; false if any field is not what the specification allows. */
bool wire_read_query(const uint8_t *bytes, size_t size, struct node_query *query);

/* The request in exactly these bytes; false if any field is not what the specification allows. */
bool wire_read_request(const uint8_t *bytes, size_t size, struct start_request *request);

enum hook_verb { HOOK_UNKNOWN, HOOK_EVICT, HOOK_FREE, HOOK_STATUS };

struct hook_packet {
    enum hook_verb verb;
    uint64_t job; /* 0: not told */
    char node[NODE_NAME_BYTES];
    char cpus[256]; /* a list such as "0-3,8"; empty: the whole node */
};

/* One packet of a hook; false if it is none. A verb of a later version is HOOK_UNKNOWN, unknown keys are skipped. */
bool wire_read_hook(const char *bytes, size_t size, struct hook_packet *packet);

#endif
