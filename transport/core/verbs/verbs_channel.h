/* verbs_channel.h - one end of a channel over RDMA, for the files that are its medium: verbs.c (the socket, waiting, the
 * ends), verbs_move.c (frames through the rings).
 */
#ifndef RFAAS_VERBS_CHANNEL_H
#define RFAAS_VERBS_CHANNEL_H

#include <stdatomic.h>

#include "frame_queue.h"
#include "verbs_cache.h"
#include "verbs_landing.h"
#include "verbs_place.h"
#include "verbs_setup.h"

enum {
    RFAAS_VERBS_SLOTS = 256,
    RFAAS_VERBS_SLOT_BYTES = 1024,
    RFAAS_VERBS_RING_BYTES = RFAAS_VERBS_SLOTS * RFAAS_VERBS_SLOT_BYTES,
    RFAAS_VERBS_PIECE_BYTES = 65536 + RFAAS_VERBS_SLOT_BYTES, /* 64 KiB and a header are one message */
    RFAAS_VERBS_SMALL_BYTES = RFAAS_VERBS_PIECE_BYTES - RFAAS_HEADER_BYTES, /* of a payload: one message with its header */
    RFAAS_VERBS_SPARE_BYTES = 65536, /* behind the rings: what is read to where nothing can be registered goes by this */
    RFAAS_VERBS_MEMORY_BYTES = 2 * RFAAS_VERBS_RING_BYTES + RFAAS_VERBS_SPARE_BYTES,
    RFAAS_VERBS_WORDS = 512, /* a power of two above RFAAS_VERBS_MESSAGES_MAX */
    RFAAS_VERBS_LOOKS_A_SYSCALL = 64,
    RFAAS_VERBS_QUICK_LOOKS_A_SYSCALL = 1024,
    RFAAS_VERBS_LENT_FRAMES = 16,
    RFAAS_VERBS_LEND_BYTES = 131072, /* of a segment; less is copied faster than registered */
};

/* The word that goes with a write (spec 007 section 3). */
typedef enum rfaas_verbs_what {
    RFAAS_VERBS_OF_FRAMES = 0,
    RFAAS_VERBS_OF_PLACES = 1u << 30, /* with bytes: they are places; without: those of one frame have been read */
    RFAAS_VERBS_OF_THE_END = 1u << 31,
} rfaas_verbs_what;

static inline uint32_t rfaas_verbs_word(uint32_t size_bytes, uint32_t freed_slots, rfaas_verbs_what what)
{
    return size_bytes | freed_slots << 17 | (uint32_t)what;
}
static inline uint32_t rfaas_verbs_word_size_bytes(uint32_t word) { return word & 0x1ffff; }
static inline uint32_t rfaas_verbs_word_freed_slots(uint32_t word) { return word >> 17 & 0x1fff; }
static inline bool rfaas_verbs_word_is_of_places(uint32_t word) { return word >> 30 & 1; }
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

/* How one segment is lent: by a region of its own, or by a window into one that stays. */
typedef struct rfaas_verbs_loan {
    rfaas_verbs_region *region;
    rfaas_verbs_cached *cached;
    rfaas_verbs_window *window;
} rfaas_verbs_loan;

/* Frames of this side whose large segments the peer reads where they lie (verbs_rendezvous.c). */
typedef struct rfaas_verbs_lending {
    bool on; /* both sides know how */
    struct {
        rfaas_verbs_loan loans[RFAAS_PLACED_MAX];
        uint64_t size_bytes;
    } frames[RFAAS_VERBS_LENT_FRAMES]; /* by the number of the loan, as the queue counts it */
    rfaas_verbs_cache cache;
    uint64_t size_bytes;
    uint64_t taken_back;       /* frames */
    _Atomic uint64_t returned; /* frames of which the peer said so */
} rfaas_verbs_lending;

/* The frame of the peer's that comes next, or has come but for those segments. */
typedef struct rfaas_verbs_fetching {
    rfaas_verbs_place places[RFAAS_PLACED_MAX];
    uint32_t n_places, at; /* at: the first that is not asked for to its end */
    uint64_t asked_bytes;  /* of that */
    uint8_t *spared_to;    /* where what lies in the spare bytes belongs, NULL: nothing does */
    uint32_t spared_bytes;
    _Atomic bool under_way; /* reads were begun: the next thing to do is at their end */
    uint32_t untold;        /* frames that were read, of which the peer was not told */
    rfaas_verbs_landing *landing;
} rfaas_verbs_fetching;

typedef struct verbs_channel {
    rfaas_channel base;
    const rfaas_verbs_ops *ops;
    rfaas_verbs_link *link;
    uint8_t *memory; /* the ring that the peer writes to, the one that is sent from, the spare bytes */
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
    _Atomic uint32_t quick_looks; /* of ready(), by any thread */

    rfaas_verbs_lending lending;
    rfaas_verbs_fetching fetching;
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

/* A message without bytes: tells the peer which slots are free again, and `what`. */
rfaas_rc rfaas_verbs_tell(verbs_channel *channel, rfaas_verbs_what what);

/* A message of so many bytes, at most RFAAS_VERBS_SLOT_BYTES, that are no frame's: OK, AGAIN (no slot is free), BROKEN. */
rfaas_rc rfaas_verbs_put_places(verbs_channel *channel, const uint8_t *bytes, uint32_t size_bytes);

/* BROKEN, for what the peer told can't be. */
rfaas_rc rfaas_verbs_malformed(verbs_channel *channel);

/* The first frame of the queue, of which nothing has gone: large segments of it are left to the peer to read, where that can be. OK:
 * the rest may go. AGAIN: later. BROKEN. */
rfaas_rc rfaas_verbs_lend(verbs_channel *channel);

/* Takes back what the peer has read: OK, BROKEN (it read what was not lent). */
rfaas_rc rfaas_verbs_take_back(verbs_channel *channel);
static inline bool rfaas_verbs_has_returns(const verbs_channel *channel)
{
    return atomic_load_explicit(&channel->lending.returned, memory_order_acquire) > channel->lending.taken_back;
}

/* Nothing that was lent can be read by the peer any more. */
void rfaas_verbs_withdraw_all(verbs_channel *channel);

/* Places that came: OK, BROKEN. */
rfaas_rc rfaas_verbs_expect(verbs_channel *channel, const uint8_t *bytes, uint32_t size_bytes);

/* With a frame that is there but for its places: OK (they are there), AGAIN (the device is reading, or full), BROKEN. */
rfaas_rc rfaas_verbs_fetch(verbs_channel *channel);

/* Says of frames that were read that they were, as far as the send queue takes it. */
void rfaas_verbs_tell_fetched(verbs_channel *channel);

/* Before the link goes: nothing of this side's can be read any more. `inherited`: the device's objects are the parent's. */
void rfaas_verbs_end_rendezvous(verbs_channel *channel, bool inherited);

/* Reads and writes of the peer's memory. */
extern const rfaas_remote_ops rfaas_verbs_remote;

/* Entries of the medium's table. */
rfaas_rc rfaas_verbs_send(rfaas_channel *channel, const rfaas_outgoing *out);
rfaas_rc rfaas_verbs_send_small(rfaas_channel *channel, const rfaas_header *header, const struct iovec *segment,
                                uint32_t n_segments);
rfaas_rc rfaas_verbs_flush(rfaas_channel *channel, uint64_t budget_bytes);
rfaas_rc rfaas_verbs_receive(rfaas_channel *channel, uint64_t budget_bytes);

#endif
