/* verbs_link.h - what RDMA has to offer to the medium over it; verbs/ offers it over libibverbs.
 *
 * A table of functions, so that who uses no RDMA loads no such library, and the core builds without one. Knows queue
 * pairs and memory, no frames: one link is one reliable connection that writes to the peer's memory and tells it so. One
 * thread at a time uses a link, but for `poll` and `allow`, which another may call meanwhile.
 */
#ifndef RFAAS_VERBS_LINK_H
#define RFAAS_VERBS_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "remote_memory.h"

enum {
    RFAAS_VERBS_MESSAGES_MAX = 320, /* that may be on their way to this side at once */
    RFAAS_VERBS_WHY_BYTES = 160,
};

typedef struct rfaas_verbs_link rfaas_verbs_link;

/* What a side tells its peer before there is a connection. */
typedef struct rfaas_verbs_address {
    uint64_t ring_address; /* the memory that the peer may write to */
    uint32_t ring_bytes;
    uint32_t ring_key;
    uint32_t queue_pair;
    uint32_t packet_sequence;
    uint16_t lid;
    uint8_t gid[16];
    uint8_t mtu;   /* as in enum ibv_mtu */
    uint8_t is_ethernet;
    uint8_t reads; /* RDMA READs that its device serves at once; 0: none */
} rfaas_verbs_address;

typedef struct rfaas_verbs_ops {
    /* A link on `device` ("mlx5_0", "mlx5_0:1" with a port; "": the one that reaches the address to which the socket `fd` is
     * bound, else the first with a port that is up). Of `memory` the first `ring_bytes` become the peer's to write to,
     * the rest this side's to send from; it stays the caller's and must outlive the link. NULL: `why` says why. */
    rfaas_verbs_link *(*begin)(const char *device, int fd, uint8_t *memory, size_t memory_bytes, size_t ring_bytes,
                               rfaas_verbs_address *address, char why[RFAAS_VERBS_WHY_BYTES]);

    /* Connects to the peer of this address; it may be written to once it has connected too. False: why() says why. */
    bool (*connect)(rfaas_verbs_link *link, const rfaas_verbs_address *peer);

    /* Writes bytes of the memory to the peer's ring at `to` and tells it `word`: OK, AGAIN (too much is on its way), BROKEN.
     * The bytes must not change until the peer has them. */
    rfaas_rc (*write)(rfaas_verbs_link *link, size_t from, size_t size_bytes, uint64_t to, uint32_t word);

    /* Words that the peer has told, in order, at most `room`; negative: the connection failed, why() says how. */
    int (*poll)(rfaas_verbs_link *link, uint32_t *words, int room);

    /* The peer may tell `n` more words. False: the connection failed. */
    bool (*allow)(rfaas_verbs_link *link, uint32_t n);

    /* A descriptor that becomes readable with the next word after arm(), which also makes it unreadable. */
    int (*fd)(const rfaas_verbs_link *link);
    bool (*arm)(rfaas_verbs_link *link);

    /* How many writes the peer's device has not acknowledged yet. */
    uint32_t (*unacknowledged)(rfaas_verbs_link *link);

    /* Memory that the peer may read and write (`lent`), or that this side reads into and writes from, until the link is freed.
     * 0, or an errno: nothing was done then. */
    int (*open_memory)(rfaas_verbs_link *link, uint8_t *bytes, size_t size_bytes, bool lent, uint32_t *key);

    /* Reads or writes the peer's memory: OK, AGAIN (too much is on its way), BROKEN. `*number` counts it among all that was posted. */
    rfaas_rc (*access)(rfaas_verbs_link *link, const rfaas_remote_access *access, uint64_t *number);

    /* Up to which number all is done. False: the connection failed. */
    bool (*accessed)(rfaas_verbs_link *link, uint64_t *number);

    /* The descriptor becomes readable, too, with what is done next. */
    bool (*arm_accessed)(rfaas_verbs_link *link);

    /* What failed, for people. */
    const char *(*why)(const rfaas_verbs_link *link);

    /* Ends the connection and frees it. `inherited`: in a forked child, which must leave the device alone. */
    void (*free)(rfaas_verbs_link *link, bool inherited);
} rfaas_verbs_ops;

#endif
