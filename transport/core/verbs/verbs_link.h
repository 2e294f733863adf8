/* verbs_link.h - what RDMA has to offer to the medium over it; verbs/ offers it over libibverbs.
 *
 * A table of functions, so that who uses no RDMA loads no such library, and the core builds without one. Knows queue
 * pairs and memory, no frames: one link is one reliable connection that writes to the peer's memory and tells it so. One
 * thread at a time uses a link, but for `poll`, `allow`, `reading`, `enroll` and `withdraw`, which another may call meanwhile.
 */
#ifndef RFAAS_VERBS_LINK_H
#define RFAAS_VERBS_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "remote_memory.h"

enum {
    RFAAS_VERBS_MESSAGES_MAX = 320, /* that may be on their way to this side at once */
    RFAAS_VERBS_READS_MAX = 16,     /* of the peer's memory, under way at once */
    RFAAS_VERBS_WHY_BYTES = 160,
};

typedef struct rfaas_verbs_link rfaas_verbs_link;
typedef struct rfaas_verbs_region rfaas_verbs_region; /* memory that is registered with a link's device */

typedef struct rfaas_verbs_window rfaas_verbs_window; /* a right of the peer's to read a part of a region */

/* What memory is registered for. */
typedef enum rfaas_verbs_use {
    RFAAS_VERBS_TO_READ_TO, /* read() writes there, the peer can't reach it */
    RFAAS_VERBS_BY_KEY,     /* the peer reads it */
    RFAAS_VERBS_BY_WINDOWS, /* the peer reads of it what windows open */
    RFAAS_VERBS_BORROWING,  /* access() reads to it and writes from it, until the link is freed */
    RFAAS_VERBS_LENT,       /* the peer reads and writes it, until the link is freed */
} rfaas_verbs_use;

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
    uint8_t reads; /* that the device serves at once; 0: none, and no rendezvous */
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

    /* Registers memory of the caller's, which must outlive the region and be left to it. `*key`, unless `key` is NULL, is what the
     * peer accesses it by, or what access() is told. NULL with errno: it can't be (a limit of locked memory, too many regions, a
     * device without windows, or without reads); nothing has changed then. The peer's right ends with withdraw(), which must come
     * before the link is freed; what is registered until then is never withdrawn. */
    rfaas_verbs_region *(*enroll)(rfaas_verbs_link *link, void *memory, size_t size_bytes, rfaas_verbs_use use, uint32_t *key);
    void (*withdraw)(rfaas_verbs_link *link, rfaas_verbs_region *region);

    /* Lets the peer, and nobody else, read a part of a region that was enrolled for windows, by `*key`, until close_window(): that has
     * happened when it returns. NULL: not now. One thread at a time; before the region is withdrawn. */
    rfaas_verbs_window *(*open_window)(rfaas_verbs_link *link, rfaas_verbs_region *region, void *at, size_t size_bytes,
                                       uint32_t *key);
    void (*close_window)(rfaas_verbs_link *link, rfaas_verbs_window *window);

    /* Begins to read `size_bytes` at `from` of the peer's memory to `to`, which lies in `region`, or, if that is NULL, in the memory of
     * begin() behind the ring: OK, AGAIN (too much is under way), BROKEN. */
    rfaas_rc (*read)(rfaas_verbs_link *link, const rfaas_verbs_region *region, void *to, size_t size_bytes, uint64_t from,
                     uint32_t key);

    /* 1: something that was begun is still being read; then arm() covers its end too. 0: nothing. Negative: the connection failed. */
    int (*reading)(rfaas_verbs_link *link);

    /* True: the peer asked this side's device for memory that no key of its opens, which ended the connection. */
    bool (*violated)(rfaas_verbs_link *link);

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
