/* shm_segment.h - the memory of a shared-memory channel: made, sealed, mapped, and kept mapped while anything lies in it.
 *
 * Knows no frames and no sockets. The maker's process touches what the peer may write, so that it is charged to the
 * maker's job and outlives the peer.
 */
#ifndef RFAAS_SHM_SEGMENT_H
#define RFAAS_SHM_SEGMENT_H

#include "fork_guard.h"
#include "shm_ring.h"

struct rfaas_shm_segment;

/* A block of the peer's arena that a frame here owns. */
typedef struct rfaas_shm_lent {
    struct rfaas_shm_segment *segment;
    uint32_t slot, generation;
} rfaas_shm_lent;

typedef struct rfaas_shm_segment {
    _Atomic uint32_t users; /* the channel, and every block that is lent */
    int side;               /* 0: made it. It writes direction 0 and reads direction 1 */
    size_t size_bytes;
    uint64_t arena_bytes; /* of each direction */
    rfaas_guarded guarded;
    _Atomic bool retired;
    rfaas_shm_shared *directions;
    uint8_t *arenas;
    rfaas_shm_lent lent[RFAAS_SHM_BLOCKS];
    _Atomic uint32_t freed[RFAAS_SHM_BLOCKS]; /* the writer's: see there */
} rfaas_shm_segment;

/* Maps the segment behind `memory_fd`, whose descriptor stays the caller's; NULL if it is none: memory that is not
 * sealed against shrinking would kill its readers by SIGBUS. */
rfaas_shm_segment *rfaas_shm_map(int memory_fd, int side);

/* The channel has ended: no descriptor is kept longer than something that was read in place. */
void rfaas_shm_retire(rfaas_shm_segment *segment);

/* Gives one use up; the last one unmaps. Any thread. */
void rfaas_shm_unuse(rfaas_shm_segment *segment);

/* What this side writes, and its arena; what it reads, and the peer's arena. */
static inline rfaas_shm_shared *rfaas_shm_tx(const rfaas_shm_segment *segment)
{
    return &segment->directions[segment->side];
}

static inline uint8_t *rfaas_shm_tx_arena(const rfaas_shm_segment *segment)
{
    return segment->arenas + (uint64_t)segment->side * segment->arena_bytes;
}

static inline rfaas_shm_shared *rfaas_shm_rx(const rfaas_shm_segment *segment)
{
    return &segment->directions[1 - segment->side];
}

static inline uint8_t *rfaas_shm_rx_arena(const rfaas_shm_segment *segment)
{
    return segment->arenas + (uint64_t)(1 - segment->side) * segment->arena_bytes;
}

/* Notes that the peer's block is lent to a frame here; NULL if there can be no such block. */
rfaas_shm_lent *rfaas_shm_lend(rfaas_shm_segment *segment, uint64_t at, uint64_t size_bytes, uint32_t slot,
                               uint32_t generation);

/* The release() of an rfaas_memory whose context is a lent block: gives it back to the peer. Any thread. */
void rfaas_shm_lent_release(void *context, void *buffer, size_t size_bytes);

/* By the maker, after a payload of this size found no block: touches more of the arena that the peer writes. */
void rfaas_shm_grow_peers_arena(rfaas_shm_segment *segment, uint64_t size_bytes);

/* By the maker: as much of it as the peer wants, as far as there is so much. */
void rfaas_shm_grow_as_wanted(rfaas_shm_segment *segment);

#endif
