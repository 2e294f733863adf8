/* shm_channel.h - one end of a shared-memory channel, for the files that are its medium: shm.c (the bell, sleeping, the
 * two ends), shm_send.c, shm_receive.c.
 */
#ifndef RFAAS_SHM_CHANNEL_H
#define RFAAS_SHM_CHANNEL_H

#include "frame_queue.h"
#include "shm_borrow.h"
#include "shm_segment.h"

typedef struct shm_channel {
    rfaas_channel base;
    int fd;
    dev_t socket_device; /* which socket it is: code that we don't know may close or replace the descriptor */
    ino_t socket_inode;
    bool stays_awake;  /* its owner polls: no bell, and the socket is asked now and then only */
    bool peer_gone;    /* the socket has ended */
    uint32_t looks;    /* empty ones since the socket was asked */
    uint32_t spins;    /* empty looks of whoever spins */
    rfaas_shm_segment *segment;
    rfaas_shm_writer writer;
    rfaas_shm_reader reader;
    uint32_t entry_got_bytes; /* of the entry that is being read */
    bool entry_begun;         /* its header has been taken */
    rfaas_shm_lent *placed;   /* the block in which the payload of the present frame lies, NULL: none */
    uint8_t *place;
    uint64_t place_bytes;
    rfaas_shm_borrow *borrow;    /* segments of the frame that begins next that lie where they were made, NULL: none */
    struct rfaas_shm_pool *pool; /* the peer's, NULL: none */
    uint64_t missed_bytes;       /* how much of the arena would have had to be ready for arrays that found no room */
    rfaas_frame_queue queue;
} shm_channel;

enum {
    /* Empty looks at the ring, while awake, until the socket is asked whether the peer lives. */
    RFAAS_SHM_LOOKS_A_SYSCALL = 64,
    /* The same for looks without a pause between: some 50 us of them; the system call costs as much as ten. */
    RFAAS_SHM_SPINS_A_SYSCALL = 2048,
};

/* The other lines of an entry that has come, and of its bytes, are the writer's still: ask for all of them at once. */
static inline void rfaas_shm_fetch_ahead(const rfaas_shm_reader *reader, const rfaas_shm_entry *entry)
{
    __builtin_prefetch(entry->header);
    if (entry->kind != RFAAS_SHM_SMALL)
        __builtin_prefetch(reader->shared->data + reader->data_at % RFAAS_SHM_DATA_BYTES);
}

/* For writing: a line that the peer has read is taken from it, which otherwise the store would wait for. */
static inline void rfaas_shm_fetch_to_write(const void *line)
{
#if defined(__x86_64__)
    __asm__ volatile("prefetchw %0" : : "m"(*(const char *)line)); /* does nothing on CPUs that lack it */
#else
    __builtin_prefetch(line, 1);
#endif
}

/* Wakes the peer, or learns that it is gone. */
void rfaas_shm_ring_bell(shm_channel *channel);

/* Takes the bells that were rung, and learns whether the peer is gone. True: there were some. */
bool rfaas_shm_ask_socket(shm_channel *channel);

/* Makes sure that the descriptor becomes readable when an entry comes. True: there is something to do already. */
bool rfaas_shm_go_to_sleep(shm_channel *channel);

/* Entries of the medium's table. */
rfaas_rc rfaas_shm_send(rfaas_channel *channel, const rfaas_outgoing *out);
rfaas_rc rfaas_shm_send_small(rfaas_channel *channel, const rfaas_header *header, const struct iovec *segment,
                              uint32_t n_segments);
rfaas_rc rfaas_shm_flush(rfaas_channel *channel, uint64_t budget_bytes);
rfaas_rc rfaas_shm_receive(rfaas_channel *channel, uint64_t budget_bytes);

#endif
