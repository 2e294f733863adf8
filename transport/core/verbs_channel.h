/* verbs_channel.h - one end of a channel over RDMA, for the files that are its medium: verbs.c (the socket, waiting, the
 * ends), verbs_move.c (frames through the rings).
 */
#ifndef RFAAS_VERBS_CHANNEL_H
#define RFAAS_VERBS_CHANNEL_H

#include <stdatomic.h>

#include "frame_queue.h"
#include "verbs_link.h"
#include "verbs_setup.h"

enum {
    RFAAS_VERBS_SLOTS = 256,
    RFAAS_VERBS_SLOT_BYTES = 1024,
    RFAAS_VERBS_RING_BYTES = RFAAS_VERBS_SLOTS * RFAAS_VERBS_SLOT_BYTES,
    RFAAS_VERBS_PIECE_BYTES = 65536,
    RFAAS_VERBS_WORDS = 512, /* a power of two above RFAAS_VERBS_MESSAGES_MAX */
    RFAAS_VERBS_LOOKS_A_SYSCALL = 256,
};

/* The word that goes with a write (spec 007 section 3). */
static inline uint32_t rfaas_verbs_word(uint32_t size_bytes, uint32_t freed_slots, bool is_end)
{
    return size_bytes | freed_slots << 17 | (uint32_t)is_end << 31;
}
static inline uint32_t rfaas_verbs_word_size_bytes(uint32_t word) { return word & 0x1ffff; }
static inline uint32_t rfaas_verbs_word_freed_slots(uint32_t word) { return word >> 17 & 0x3fff; }
static inline bool rfaas_verbs_word_is_end(uint32_t word) { return word >> 31 != 0; }

static inline uint32_t rfaas_verbs_slots_of(uint32_t size_bytes)
{
    return (size_bytes + RFAAS_VERBS_SLOT_BYTES - 1) / RFAAS_VERBS_SLOT_BYTES;
}

typedef enum verbs_state {
    RFAAS_VERBS_AWAITS_ADDRESS,
    RFAAS_VERBS_AWAITS_PEER, /* connected here: the peer says CONNECTED when it is */
    RFAAS_VERBS_OPEN,
} verbs_state;

typedef struct verbs_channel {
    rfaas_channel base;
    const rfaas_verbs_ops *ops;
    rfaas_verbs_link *link;
    uint8_t *memory; /* the ring that the peer writes to, then the one that is sent from */
    int fd;          /* the socket on which the channel was set up, whose end tells of the peer's */
    int wait_fd;     /* readable: the socket, the link, or `kept_fd` is */
    int kept_fd;     /* readable while words were taken from the link that nobody has seen */
    bool kept;
    bool stays_awake;
    verbs_state state;
    size_t message_got_bytes;
    uint8_t message[RFAAS_VERBS_MESSAGE_BYTES];
    rfaas_frame_queue queue;

    /* Words taken from the link, by whoever has `polling`; read by the thread that receives. */
    atomic_flag polling;
    _Atomic uint32_t words_end, words_at;
    uint32_t words[RFAAS_VERBS_WORDS]; /* of messages with bytes */
    uint32_t empty_messages;           /* not allowed again yet; with `polling` held */
    _Atomic int link_failed;
    _Atomic bool socket_ended;
    _Atomic bool peer_ended; /* it said so */

    /* Sending: slots that were written since the beginning, and those the peer has freed. */
    uint64_t slots_sent;
    _Atomic uint64_t slots_returned;

    /* Receiving: slots taken; those not told to the peer, and messages not allowed again. */
    uint64_t slots_taken;
    uint32_t slots_untold, messages_taken;
    uint32_t got_bytes; /* of the present message */
    uint32_t looks;
} verbs_channel;

/* Takes what the peer has told from the link. Any thread. */
void rfaas_verbs_collect(verbs_channel *channel);

static inline bool rfaas_verbs_has_words(const verbs_channel *channel)
{
    return atomic_load_explicit(&channel->words_at, memory_order_relaxed) !=
           atomic_load_explicit(&channel->words_end, memory_order_acquire);
}

/* Asks the socket: moves the set-up on, notices the peer's end. OK, AGAIN (nothing new), BROKEN. */
rfaas_rc rfaas_verbs_ask_socket(verbs_channel *channel);

/* True: there is something to do, and the descriptor may not tell. False: it will. */
bool rfaas_verbs_go_to_sleep(verbs_channel *channel);

/* BROKEN, for the reason that the link gives. */
rfaas_rc rfaas_verbs_broken_below(verbs_channel *channel);

/* Tells the peer which slots are free again, in a message of its own; `is_end`: and that nothing more comes. */
rfaas_rc rfaas_verbs_tell(verbs_channel *channel, bool is_end);

/* Reads and writes of the peer's memory. */
extern const rfaas_remote_ops rfaas_verbs_remote;

/* Entries of the medium's table. */
rfaas_rc rfaas_verbs_send(rfaas_channel *channel, const rfaas_outgoing *out);
rfaas_rc rfaas_verbs_flush(rfaas_channel *channel, uint64_t budget_bytes);
rfaas_rc rfaas_verbs_receive(rfaas_channel *channel, uint64_t budget_bytes);

#endif
