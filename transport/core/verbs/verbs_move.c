/* verbs_move.c - frames through the rings of a channel over RDMA: pieces into slots, slots into frames.
 *
 * What a side sends from mirrors the ring that it writes to: a slot may be filled again once the peer has freed it, since
 * then it has been read. The peer's words are verified; its bytes are copied before they are looked at.
 */
#include <errno.h>
#include <string.h>

#include "verbs_channel.h"

enum {
    TELL_WITH_FRAME_SLOTS = 32, /* then a frame that goes anyway says so */
    TELL_ALONE_SLOTS = 128,     /* then a message of its own does: at most RFAAS_VERBS_SLOTS / 128 wait unread */
    ALLOW_MESSAGES = 32,
};

rfaas_rc rfaas_verbs_broken_below(verbs_channel *channel)
{
    channel->base.violated |= channel->ops->violated(channel->link);
    return rfaas_channel_broken(&channel->base, channel->ops->why(channel->link), 0);
}

/* ---- sending ---- */

static uint32_t free_slots(const verbs_channel *channel)
{
    uint64_t waiting = channel->slots_sent - atomic_load_explicit(&channel->slots_returned, memory_order_acquire);
    return RFAAS_VERBS_SLOTS - (uint32_t)waiting;
}

/* True of a peer that lies: slots came back that were never sent. With the owner's lock, as `slots_sent` is only right then. */
static bool freed_too_many(const verbs_channel *channel)
{
    return atomic_load_explicit(&channel->slots_returned, memory_order_acquire) > channel->slots_sent;
}

rfaas_rc rfaas_verbs_malformed(verbs_channel *channel)
{
    return rfaas_channel_broken(&channel->base, "the peer told what can't be of its RDMA writes", 0);
}

/* Messages that were read may be sent again; before the peer hears of slots that they filled. */
static bool allow_messages(verbs_channel *channel)
{
    uint32_t n = channel->messages_taken;
    channel->messages_taken = 0;
    return n == 0 || channel->ops->allow(channel->link, n);
}

static rfaas_rc write_word(verbs_channel *channel, size_t at, uint32_t size_bytes, bool tells, rfaas_verbs_what what)
{
    uint32_t untold = tells ? channel->slots_untold : 0;
    if (untold > 0 && !allow_messages(channel))
        return rfaas_verbs_broken_below(channel);
    uint32_t word = rfaas_verbs_word(size_bytes, untold, what);
    rfaas_rc rc = channel->ops->write(channel->link, RFAAS_VERBS_RING_BYTES + at, size_bytes, at, word);
    if (rc == RFAAS_OK)
        channel->slots_untold -= untold;
    return rc == RFAAS_BROKEN ? rfaas_verbs_broken_below(channel) : rc;
}

rfaas_rc rfaas_verbs_tell(verbs_channel *channel, rfaas_verbs_what what)
{
    return write_word(channel, 0, 0, true, what);
}

rfaas_rc rfaas_verbs_put_places(verbs_channel *channel, const uint8_t *bytes, uint32_t size_bytes)
{
    if (free_slots(channel) == 0)
        rfaas_verbs_collect(channel);
    if (freed_too_many(channel))
        return rfaas_verbs_malformed(channel);
    if (free_slots(channel) == 0)
        return RFAAS_AGAIN;
    size_t at = (size_t)(channel->slots_sent % RFAAS_VERBS_SLOTS) * RFAAS_VERBS_SLOT_BYTES;
    memcpy(channel->memory + RFAAS_VERBS_RING_BYTES + at, bytes, size_bytes);
    rfaas_rc rc = write_word(channel, at, size_bytes, true, RFAAS_VERBS_OF_PLACES);
    channel->slots_sent += rc == RFAAS_OK;
    return rc;
}

/* The next piece of a frame, as much as the slots up to the ring's end hold. Never bytes of two frames in one message. */
static rfaas_rc put_piece(verbs_channel *channel, rfaas_cursor *frame, uint64_t left_bytes, uint64_t *put_bytes)
{
    uint32_t slot = (uint32_t)(channel->slots_sent % RFAAS_VERBS_SLOTS), n_free = free_slots(channel);
    uint32_t n_slots = n_free < RFAAS_VERBS_SLOTS - slot ? n_free : RFAAS_VERBS_SLOTS - slot;
    uint32_t room_bytes = n_slots * RFAAS_VERBS_SLOT_BYTES;
    if (room_bytes > RFAAS_VERBS_PIECE_BYTES)
        room_bytes = RFAAS_VERBS_PIECE_BYTES;
    uint32_t size_bytes = left_bytes < room_bytes ? (uint32_t)left_bytes : room_bytes;
    size_t at = (size_t)slot * RFAAS_VERBS_SLOT_BYTES;
    rfaas_cursor before = *frame;
    rfaas_cursor_copy(frame, channel->memory + RFAAS_VERBS_RING_BYTES + at, size_bytes);
    rfaas_rc rc = write_word(channel, at, size_bytes, channel->slots_untold >= TELL_WITH_FRAME_SLOTS, RFAAS_VERBS_OF_FRAMES);
    if (rc != RFAAS_OK) {
        *frame = before;
        return rc;
    }
    channel->slots_sent += rfaas_verbs_slots_of(size_bytes);
    *put_bytes += size_bytes;
    return RFAAS_OK;
}

/* OK: all of it is on its way. AGAIN: no slot is free. MORE: the budget is spent. */
static rfaas_rc put_some(rfaas_channel *base, rfaas_cursor *frame, uint64_t budget_bytes, uint64_t *put_bytes)
{
    verbs_channel *channel = (verbs_channel *)base;
    uint64_t left_bytes = rfaas_cursor_left_bytes(frame), start_bytes = left_bytes;
    if (channel->state != RFAAS_VERBS_OPEN)
        return RFAAS_AGAIN;
    rfaas_rc rc = RFAAS_OK;
    while (left_bytes > 0 && rc == RFAAS_OK) {
        if (free_slots(channel) == 0)
            rfaas_verbs_collect(channel); /* the peer may have freed some */
        if (freed_too_many(channel))
            rc = rfaas_verbs_malformed(channel);
        else if (channel->peer_ended || atomic_load(&channel->link_failed) != 0)
            rc = rfaas_channel_broken(base, "sending failed", EPIPE);
        else if (free_slots(channel) == 0)
            rc = RFAAS_AGAIN;
        else if (start_bytes - left_bytes >= budget_bytes)
            rc = RFAAS_MORE;
        else
            rc = put_piece(channel, frame, left_bytes, put_bytes);
        left_bytes = start_bytes - *put_bytes;
    }
    return rc;
}

/* A frame of which nothing has gone may have segments that the peer is to read by itself. */
static rfaas_rc put_or_lend(rfaas_channel *base, rfaas_cursor *frame, uint64_t budget_bytes, uint64_t *put_bytes)
{
    verbs_channel *channel = (verbs_channel *)base;
    if (channel->lending.on && rfaas_cursor_is_at_start(frame) && channel->state == RFAAS_VERBS_OPEN) {
        rfaas_rc rc = rfaas_verbs_lend(channel);
        if (rc != RFAAS_OK)
            return rc;
    }
    return put_some(base, frame, budget_bytes, put_bytes);
}

static rfaas_rc move_queue(verbs_channel *channel)
{
    if (rfaas_verbs_has_returns(channel) && rfaas_verbs_take_back(channel) == RFAAS_BROKEN) {
        rfaas_frame_queue_drop(&channel->base, &channel->queue);
        rfaas_verbs_withdraw_all(channel);
        return RFAAS_BROKEN;
    }
    rfaas_rc rc = rfaas_frame_queue_flush(&channel->base, &channel->queue, UINT64_MAX, put_or_lend);
    if (rc == RFAAS_BROKEN) /* all are completed, so their owners may write there */
        rfaas_verbs_withdraw_all(channel);
    return rc;
}

/* A frame that is lent goes through the queue, where it waits for its return. */
rfaas_rc rfaas_verbs_send(rfaas_channel *base, const rfaas_outgoing *out)
{
    verbs_channel *channel = (verbs_channel *)base;
    if (out->in_size < RFAAS_VERBS_LEND_BYTES || !channel->lending.on)
        return rfaas_frame_queue_send(base, &channel->queue, out, UINT64_MAX, put_some);
    rfaas_rc rc = rfaas_frame_queue_add(base, &channel->queue, out);
    if (rc == RFAAS_QUEUED && move_queue(channel) == RFAAS_BROKEN)
        base->tx_end = RFAAS_BROKEN; /* found out by the next operation: this frame is completed, with all that waited */
    return rc;
}

/* True: a message of so many slots may go now, at the ring's present place. What hinders is told by the ordinary way. */
static bool takes_at_once(verbs_channel *channel, uint32_t n_slots)
{
    if (channel->state != RFAAS_VERBS_OPEN || channel->queue.first != NULL || channel->peer_ended ||
        atomic_load_explicit(&channel->link_failed, memory_order_relaxed) != 0)
        return false;
    uint32_t left_slots = RFAAS_VERBS_SLOTS - (uint32_t)(channel->slots_sent % RFAAS_VERBS_SLOTS);
    return n_slots <= left_slots && !freed_too_many(channel) && free_slots(channel) >= n_slots;
}

/* Most frames are one message: encoded where the device reads them. */
rfaas_rc rfaas_verbs_send_small(rfaas_channel *base, const rfaas_header *header, const struct iovec *segment, uint32_t n_segments)
{
    verbs_channel *channel = (verbs_channel *)base;
    uint32_t size_bytes = RFAAS_HEADER_BYTES + (n_segments > 0 ? (uint32_t)segment->iov_len : 0);
    uint32_t n_slots = rfaas_verbs_slots_of(size_bytes);
    if (header->words != RFAAS_HEADER_BYTES / 8 || !takes_at_once(channel, n_slots))
        return RFAAS_AGAIN;
    size_t at = (size_t)(channel->slots_sent % RFAAS_VERBS_SLOTS) * RFAAS_VERBS_SLOT_BYTES;
    uint8_t *to = channel->memory + RFAAS_VERBS_RING_BYTES + at;
    rfaas_header encoded = *header;
    rfaas_head_encode(to, RFAAS_HEADER_BYTES, &encoded, header->in_size, segment, n_segments, NULL, 0);
    if (size_bytes > RFAAS_HEADER_BYTES)
        memcpy(to + RFAAS_HEADER_BYTES, segment->iov_base, segment->iov_len);
    rfaas_rc rc = write_word(channel, at, size_bytes, channel->slots_untold >= TELL_WITH_FRAME_SLOTS, RFAAS_VERBS_OF_FRAMES);
    channel->slots_sent += rc == RFAAS_OK ? n_slots : 0;
    return rc;
}

/* Until no slot is free, whatever the budget: only then the peer's word tells when to go on. */
rfaas_rc rfaas_verbs_flush(rfaas_channel *base, uint64_t budget_bytes)
{
    (void)budget_bytes;
    verbs_channel *channel = (verbs_channel *)base;
    if (channel->state != RFAAS_VERBS_OPEN && rfaas_verbs_ask_socket(channel) == RFAAS_BROKEN)
        return RFAAS_BROKEN;
    return move_queue(channel);
}

/* ---- receiving ---- */

/* Called with `polling` held: a word's freed slots count at once, its bytes when they are received. One without bytes is
 * over then: who only sends never receives, and must not wait for ever for slots. */
static void on_word(verbs_channel *channel, uint32_t word)
{
    uint32_t end = atomic_load_explicit(&channel->words_end, memory_order_relaxed);
    uint64_t returned = atomic_load_explicit(&channel->slots_returned, memory_order_relaxed);
    atomic_store_explicit(&channel->slots_returned, returned + rfaas_verbs_word_freed_slots(word), memory_order_release);
    if (rfaas_verbs_word_is_end(word))
        channel->peer_ended = true;
    if (rfaas_verbs_word_size_bytes(word) == 0) {
        channel->empty_messages++;
        if (rfaas_verbs_word_is_of_places(word))
            atomic_fetch_add_explicit(&channel->lending.returned, 1, memory_order_release);
        return;
    }
    channel->words[end % RFAAS_VERBS_WORDS] = word;
    atomic_store_explicit(&channel->words_end, end + 1, memory_order_release);
}

void rfaas_verbs_collect(verbs_channel *channel)
{
    uint32_t words[16];
    int n = 16;
    if (channel->state != RFAAS_VERBS_OPEN || atomic_load(&channel->link_failed) != 0)
        return;
    if (atomic_flag_test_and_set_explicit(&channel->polling, memory_order_acquire))
        return; /* somebody else takes them at this moment */
    while (n == 16) {
        uint32_t held = atomic_load(&channel->words_end) - atomic_load(&channel->words_at);
        if (held + 16 > RFAAS_VERBS_WORDS)
            break;
        n = channel->ops->poll(channel->link, words, 16);
        for (int i = 0; i < n; i++)
            on_word(channel, words[i]);
    }
    if (channel->empty_messages >= ALLOW_MESSAGES) {
        if (!channel->ops->allow(channel->link, channel->empty_messages))
            n = -1;
        channel->empty_messages = 0;
    }
    if (n < 0)
        atomic_store(&channel->link_failed, 1);
    atomic_flag_clear_explicit(&channel->polling, memory_order_release);
}

/* The message whose word is the first has been read. */
static rfaas_rc consume(verbs_channel *channel, uint32_t n_slots)
{
    rfaas_rc rc = RFAAS_OK;
    atomic_store_explicit(&channel->words_at, atomic_load(&channel->words_at) + 1, memory_order_release);
    channel->got_bytes = 0;
    channel->slots_taken += n_slots;
    channel->slots_untold += n_slots;
    channel->messages_taken++;
    if (channel->messages_taken >= ALLOW_MESSAGES && !allow_messages(channel))
        return rfaas_verbs_broken_below(channel);
    if (channel->slots_untold >= TELL_ALONE_SLOTS && !channel->peer_ended && atomic_load(&channel->link_failed) == 0)
        rc = rfaas_verbs_tell(channel, RFAAS_VERBS_OF_FRAMES);
    /* A peer that went meanwhile is told of by what comes next; a full queue lets the next message tell. */
    return rc == RFAAS_BROKEN ? RFAAS_OK : rc;
}

/* Some of the message whose word is the first. */
static rfaas_rc take_word(verbs_channel *channel, uint64_t budget_bytes, uint64_t *total_bytes)
{
    rfaas_receiver *receiver = &channel->base.receiver;
    uint32_t word = channel->words[atomic_load_explicit(&channel->words_at, memory_order_relaxed) % RFAAS_VERBS_WORDS];
    uint32_t size_bytes = rfaas_verbs_word_size_bytes(word), n_slots = rfaas_verbs_slots_of(size_bytes);
    uint32_t slot = (uint32_t)(channel->slots_taken % RFAAS_VERBS_SLOTS);
    if (size_bytes > RFAAS_VERBS_PIECE_BYTES || slot + n_slots > RFAAS_VERBS_SLOTS || freed_too_many(channel))
        return rfaas_verbs_malformed(channel);
    const uint8_t *bytes = channel->memory + (size_t)slot * RFAAS_VERBS_SLOT_BYTES + channel->got_bytes;
    if (rfaas_verbs_word_is_of_places(word)) {
        *total_bytes += size_bytes;
        rfaas_rc rc = rfaas_verbs_expect(channel, bytes, size_bytes);
        return rc == RFAAS_OK ? consume(channel, n_slots) : rc;
    }
    uint32_t left_bytes = size_bytes - channel->got_bytes;
    uint32_t step_bytes = left_bytes < budget_bytes ? left_bytes : (uint32_t)budget_bytes;
    uint32_t fed_bytes = (uint32_t)rfaas_receiver_feed(receiver, bytes, step_bytes);
    *total_bytes += fed_bytes;
    channel->got_bytes += fed_bytes;
    if (receiver->state == RFAAS_RECEIVER_FAILED)
        return rfaas_channel_broken(&channel->base, receiver->problem, 0);
    if (fed_bytes < step_bytes)
        return rfaas_verbs_malformed(channel); /* more bytes than the frame has */
    return channel->got_bytes == size_bytes ? consume(channel, n_slots) : RFAAS_OK;
}

static rfaas_rc ended(verbs_channel *channel)
{
    bool has_failed = atomic_load(&channel->link_failed) != 0;
    if (has_failed && (channel->fetching.under_way || channel->ops->violated(channel->link)))
        return rfaas_verbs_broken_below(channel); /* a peer that did that may have hung up at once */
    if (!rfaas_receiver_is_between_frames(&channel->base.receiver))
        return rfaas_channel_broken(&channel->base, "the peer ended in the middle of a frame", 0);
    if (channel->peer_ended)
        return RFAAS_CLOSED;
    if (has_failed && !atomic_load(&channel->socket_ended))
        return rfaas_verbs_broken_below(channel);
    return rfaas_channel_broken(&channel->base, "the peer's process ended without a word", 0);
}

/* True once in so many looks, or where the owner sleeps between them: the socket is to be asked, which costs a system call. */
static bool socket_is_due(verbs_channel *channel)
{
    if (!channel->stays_awake || channel->state != RFAAS_VERBS_OPEN)
        return true;
    if (++channel->looks < RFAAS_VERBS_LOOKS_A_SYSCALL)
        return false;
    channel->looks = 0;
    return true;
}

/* MORE: look again. AGAIN: and the descriptor will tell when there is more, unless the owner stays awake. */
static rfaas_rc nothing_there(verbs_channel *channel)
{
    bool was_open = channel->state == RFAAS_VERBS_OPEN;
    if (socket_is_due(channel) && rfaas_verbs_ask_socket(channel) == RFAAS_BROKEN)
        return RFAAS_BROKEN;
    if (!channel->stays_awake)
        rfaas_verbs_go_to_sleep(channel);
    rfaas_verbs_collect(channel); /* what the peer wrote before its end was told is here */
    if (freed_too_many(channel))
        return rfaas_verbs_malformed(channel);
    if ((channel->queue.first != NULL || rfaas_verbs_has_returns(channel)) && channel->state == RFAAS_VERBS_OPEN)
        rfaas_channel_flush(&channel->base, UINT64_MAX);
    if (rfaas_verbs_has_words(channel) || (!was_open && channel->state == RFAAS_VERBS_OPEN))
        return RFAAS_MORE;
    if (channel->peer_ended || atomic_load(&channel->link_failed) != 0 || atomic_load(&channel->socket_ended))
        return ended(channel);
    return RFAAS_AGAIN;
}

/* While the device reads: what else has come waits. MORE: it is done. AGAIN: the descriptor will tell. */
static rfaas_rc not_fetched_yet(verbs_channel *channel)
{
    if (socket_is_due(channel) && rfaas_verbs_ask_socket(channel) == RFAAS_BROKEN)
        return RFAAS_BROKEN;
    rfaas_verbs_collect(channel); /* what this side has lent may have come back */
    if (channel->queue.first != NULL || rfaas_verbs_has_returns(channel))
        rfaas_channel_flush(&channel->base, UINT64_MAX);
    if ((!channel->stays_awake && rfaas_verbs_go_to_sleep(channel)) || channel->ops->reading(channel->link) == 0)
        return RFAAS_MORE;
    if (atomic_load(&channel->link_failed) != 0 || atomic_load(&channel->socket_ended))
        return ended(channel);
    return RFAAS_AGAIN;
}

/* OK: the frame that has come is whole, with what was read by itself. */
static rfaas_rc fetch_places(verbs_channel *channel)
{
    rfaas_rc rc = RFAAS_MORE;
    while (rc == RFAAS_MORE) {
        rc = rfaas_verbs_fetch(channel);
        if (rc == RFAAS_AGAIN)
            rc = not_fetched_yet(channel);
    }
    return rc;
}

rfaas_rc rfaas_verbs_receive(rfaas_channel *base, uint64_t budget_bytes)
{
    verbs_channel *channel = (verbs_channel *)base;
    uint64_t total_bytes = 0;
    if (channel->fetching.untold > 0)
        rfaas_verbs_tell_fetched(channel);
    while (base->receiver.state != RFAAS_RECEIVER_WHOLE) {
        if (!rfaas_verbs_has_words(channel))
            rfaas_verbs_collect(channel);
        rfaas_rc rc = RFAAS_OK;
        if (!rfaas_verbs_has_words(channel))
            rc = nothing_there(channel);
        else if (total_bytes >= budget_bytes)
            return RFAAS_MORE;
        else
            rc = take_word(channel, budget_bytes - total_bytes, &total_bytes);
        if (rc != RFAAS_OK && rc != RFAAS_MORE)
            return rc;
    }
    if (channel->fetching.n_places > 0) {
        rfaas_rc rc = fetch_places(channel);
        if (rc != RFAAS_OK)
            return rc;
    }
    bool may_move = !channel->stays_awake && rfaas_verbs_go_to_sleep(channel);
    if (rfaas_verbs_has_returns(channel)                    /* told before this frame: its owner may have its bytes back */
        || (may_move && channel->queue.first != NULL))      /* the peer may have freed slots */
        rfaas_channel_flush(base, UINT64_MAX);
    return RFAAS_OK;
}
