/* remote_memory.h - memory of one side of a channel that the other reads and writes without its help, as RDMA can.
 *
 * What a medium provides beside frames; only verbs does. The owner's thread, as for rfaas_channel_poll(). Nothing here keeps
 * memory alive: it must outlive the channel's close. Spec: docs/spec/008-memory.md section 2.1.
 */
#ifndef RFAAS_REMOTE_MEMORY_H
#define RFAAS_REMOTE_MEMORY_H

#include "rfaas_channel.h"

/* One read or write of the peer's memory. */
typedef struct rfaas_remote_access {
    bool is_write;
    uint8_t *bytes; /* of this side's, inside of what `use` was told of; unchanged until it is done */
    uint32_t bytes_key;
    uint32_t size_bytes;
    uint64_t address; /* of the peer's, as it said */
    uint32_t key;
} rfaas_remote_access;

typedef struct rfaas_remote_ops {
    /* The peer may read and write these bytes until the channel is closed, by `*key`. Their pages come into being and stay. 0,
     * or the errno of what stands in the way: then nothing was done. */
    int (*lend)(rfaas_channel *channel, uint8_t *bytes, size_t size_bytes, uint32_t *key);

    /* This side reads into these bytes and writes from them, until the channel is closed. 0, or an errno. */
    int (*use)(rfaas_channel *channel, uint8_t *bytes, size_t size_bytes, uint32_t *key);

    /* Begins one: OK (`*number`, rising, is its own), AGAIN (too many are under way), BROKEN. */
    rfaas_rc (*begin)(rfaas_channel *channel, const rfaas_remote_access *access, uint64_t *number);

    /* OK: all up to `*number` are done, in order. BROKEN: one failed. */
    rfaas_rc (*done)(rfaas_channel *channel, uint64_t *number);

    /* The next one to be done makes the channel's descriptor readable, as long as nothing is polled. False: it won't. Ask done()
     * once more before sleeping. */
    bool (*arm)(rfaas_channel *channel);
} rfaas_remote_ops;

#endif
