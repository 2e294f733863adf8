/* proof.h - who wants a slice: reads one request from a connection, asks munged whose it is, checks the allocator's hand.
 *
 * Runs in a process of its own for each connection, so that whatever a stranger sends, or a munged that hangs, stops or
 * breaks that process alone.
 */
#ifndef RFAAS_NODE_PROOF_H
#define RFAAS_NODE_PROOF_H

#include "config.h"

enum { REQUEST_TIMEOUT_S = 2, PROOF_TIMEOUT_S = 6, HINT_BYTES = 160 };

struct proof {
    char code[24]; /* empty: proven */
    char hint[HINT_BYTES];
    uint32_t uid, gid;
    uint32_t size;
    uint8_t payload[REQUEST_BYTES]; /* as munged gave it back, so many bytes of it */
    struct start_request request;   /* what proof_check makes of it; or, by its size, */
    struct node_query query;        /* ... of the site's allocator */
};

/* Once, before anything is heard: find munged's socket, and have libcrypto read what it reads. */
void proof_prepare(struct config *config);

/* Fill `proof` from what comes on `connection`. Gives up all of root's but its uid first (seal.h), for good. */
void proof_take(const struct config *config, int connection, struct proof *proof);

/* Whether it is a query. */
static inline bool proof_is_query(const struct proof *proof)
{
    return proof->size == QUERY_BYTES;
}

/* Read `payload` into `request`, or `query`, and see that the allocator signed it; false: `code` says why not.
 * Of a hearer nothing but the uid is believed: its parent does this again, so that whoever took one over has no grant yet. */
bool proof_check(const struct config *config, struct proof *proof);

/* Whether the allocator signed this. */
bool proof_signature(const uint8_t key[PUBLIC_KEY_BYTES], const char *label, const uint8_t *bytes, size_t size,
                     const uint8_t signature[SIGNATURE_BYTES]);

#endif
