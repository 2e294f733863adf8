/* shm_receive.c - frames out of shared memory: pieces from the ring, payloads in the arena where they lie.
 *
 * The memory is the peer's too: what says where something lies is read once, checked, and used as it was read.
 */
#include "shm_channel.h"
#include "shm_small.h"

/* The receiver's memory for one frame: the block in which its payload lies already. */
static void *place_allocate(void *context, size_t size_bytes)
{
    const shm_channel *channel = context;
    return size_bytes == channel->place_bytes ? channel->place : NULL;
}

static rfaas_rc malformed(shm_channel *channel)
{
    return rfaas_channel_broken(&channel->base, "the peer wrote what can't be into the shared memory", 0);
}

static void consume(shm_channel *channel, uint64_t at, uint32_t size_bytes)
{
    if (rfaas_shm_consume(&channel->reader, at, size_bytes))
        rfaas_shm_ring_bell(channel);
    channel->entry_got_bytes = 0;
    channel->entry_begun = false;
}

/* Notes the block in which the payload of the frame that begins next lies. */
static rfaas_rc take_block(shm_channel *channel, const rfaas_shm_entry *entry)
{
    uint64_t at = entry->at, size_bytes = entry->block_bytes;
    rfaas_shm_lent *lent = channel->placed != NULL || at % RFAAS_SHM_ARENA_STEP_BYTES != 0
                               ? NULL
                               : rfaas_shm_lend(channel->segment, at, size_bytes, entry->block, entry->generation);
    if (lent == NULL)
        return malformed(channel);
    channel->placed = lent;
    channel->place = rfaas_shm_rx_arena(channel->segment) + at;
    channel->place_bytes = size_bytes;
    channel->base.receiver.memory = (rfaas_memory){place_allocate, rfaas_shm_lent_release, channel};
    return RFAAS_OK;
}

/* The head of a frame whose payload lies in a block has come: all of it is here then. */
static void place_payload(shm_channel *channel)
{
    rfaas_receiver *receiver = &channel->base.receiver;
    rfaas_shm_lent *lent = channel->placed;
    rfaas_frame *frame = &receiver->frame;
    channel->placed = NULL;
    if (frame->buffer == channel->place)
        frame->memory = (rfaas_memory){NULL, rfaas_shm_lent_release, lent};
    else
        rfaas_shm_lent_release(lent, NULL, 0); /* dropped, or refused */
    receiver->memory = rfaas_memory_default;
    if (receiver->state == RFAAS_RECEIVER_PAYLOAD)
        rfaas_receiver_got(receiver, (size_t)receiver->payload_left_bytes);
}

/* The head of a frame has come, of which something lies in memory already. */
static void settle(shm_channel *channel)
{
    if (channel->placed != NULL)
        place_payload(channel);
    if (channel->borrow != NULL)
        rfaas_shm_borrow_settle(channel->borrow, &channel->base.receiver);
    channel->borrow = NULL;
}

/* A whole frame, which is no part of another. */
static rfaas_rc take_small(shm_channel *channel, const rfaas_shm_entry *entry)
{
    rfaas_receiver *receiver = &channel->base.receiver;
    rfaas_header *header = &receiver->frame.header;
    uint32_t n_segments;
    if (!rfaas_receiver_is_between_frames(receiver) || channel->placed != NULL || channel->borrow != NULL ||
        !rfaas_shm_get_small(entry, header, &n_segments))
        return malformed(channel);
    void *to = rfaas_receiver_accept(receiver, n_segments);
    if (receiver->state == RFAAS_RECEIVER_FAILED)
        return rfaas_channel_broken(&channel->base, receiver->problem, 0);
    if (to != NULL)
        rfaas_shm_copy_small(to, entry->header, (size_t)header->in_size);
    consume(channel, 0, 0);
    return RFAAS_OK;
}

static rfaas_rc take_entry(shm_channel *channel, const rfaas_shm_entry *entry, uint64_t budget_bytes)
{
    rfaas_receiver *receiver = &channel->base.receiver;
    uint32_t kind = entry->kind, size_bytes = entry->size_bytes;
    if (kind == RFAAS_SHM_SMALL)
        return take_small(channel, entry);
    uint64_t at = entry->at;
    bool between = rfaas_receiver_is_between_frames(receiver);
    if (kind == RFAAS_SHM_BLOCK && between) {
        rfaas_rc rc = take_block(channel, entry);
        consume(channel, 0, 0);
        return rc;
    }
    if (kind == RFAAS_SHM_PLACED && between) {
        bool possible = rfaas_shm_borrow_add(&channel->borrow, channel->segment, channel->pool, entry, receiver);
        consume(channel, 0, 0);
        return possible ? RFAAS_OK : malformed(channel);
    }
    const uint8_t *bytes = rfaas_shm_data_to_read(&channel->reader, entry, at, size_bytes);
    if (bytes == NULL || (kind != RFAAS_SHM_FRAME && kind != RFAAS_SHM_MORE))
        return malformed(channel);
    if (size_bytes < channel->entry_got_bytes) /* it was larger when it was begun */
        return malformed(channel);
    if (!channel->entry_begun) {
        if (between != (kind == RFAAS_SHM_FRAME))
            return malformed(channel);
        channel->entry_begun = true;
        if (kind == RFAAS_SHM_FRAME)
            rfaas_receiver_feed(receiver, entry->header, RFAAS_HEADER_BYTES);
    }
    uint64_t left_bytes = size_bytes - channel->entry_got_bytes;
    size_t step_bytes = left_bytes < budget_bytes ? (size_t)left_bytes : (size_t)budget_bytes;
    size_t fed_bytes = rfaas_receiver_feed(receiver, bytes + channel->entry_got_bytes, step_bytes);
    channel->entry_got_bytes += (uint32_t)fed_bytes;
    if ((channel->placed != NULL || channel->borrow != NULL) && receiver->state >= RFAAS_RECEIVER_PAYLOAD)
        settle(channel);
    if (receiver->state == RFAAS_RECEIVER_FAILED)
        return rfaas_channel_broken(&channel->base, receiver->problem, 0);
    if (fed_bytes < step_bytes)
        return malformed(channel); /* more bytes than the frame has */
    if (channel->entry_got_bytes == size_bytes)
        consume(channel, at, size_bytes);
    return RFAAS_OK;
}

/* AGAIN: and the descriptor will tell when there is more, unless the owner stays awake. MORE: look again. */
static rfaas_rc nothing_there(shm_channel *channel)
{
    if (channel->stays_awake) {
        if (!channel->peer_gone && ++channel->looks < RFAAS_SHM_LOOKS_A_SYSCALL)
            return RFAAS_AGAIN;
        rfaas_shm_ask_socket(channel);
    } else if (rfaas_shm_go_to_sleep(channel) && channel->queue.first != NULL) {
        rfaas_channel_flush(&channel->base, UINT64_MAX);
    }
    /* What the peer published before it went is seen now: the kernel's lock of the socket lies between. */
    if (rfaas_shm_entry_to_read(&channel->reader) != NULL)
        return RFAAS_MORE;
    if (!channel->peer_gone)
        return RFAAS_AGAIN;
    return rfaas_receiver_is_between_frames(&channel->base.receiver)
               ? RFAAS_CLOSED
               : rfaas_channel_broken(&channel->base, "the peer ended in the middle of a frame", 0);
}

/* A large payload that came through the ring found no block: the peer writes only where the maker has touched. One that was
 * copied may have been made where there was no room for it. */
static void help_peer(shm_channel *channel)
{
    const rfaas_frame *frame = &channel->base.receiver.frame;
    if (channel->segment->side != 0 || frame->buffer_bytes < RFAAS_SHM_ARENA_MIN_BYTES)
        return;
    if (rfaas_shm_borrow_came_by_ring(frame))
        rfaas_shm_grow_peers_arena(channel->segment, frame->buffer_bytes);
    rfaas_shm_grow_as_wanted(channel->segment);
}

rfaas_rc rfaas_shm_receive(rfaas_channel *base, uint64_t budget_bytes)
{
    shm_channel *channel = (shm_channel *)base;
    uint64_t total_bytes = 0;
    while (base->receiver.state != RFAAS_RECEIVER_WHOLE) {
        const rfaas_shm_entry *entry = rfaas_shm_entry_to_read(&channel->reader);
        if (entry == NULL) {
            rfaas_rc rc = nothing_there(channel);
            if (rc != RFAAS_MORE)
                return rc;
            continue;
        }
        rfaas_shm_fetch_ahead(&channel->reader, entry);
        if (total_bytes >= budget_bytes)
            return RFAAS_MORE;
        uint32_t before_bytes = channel->entry_got_bytes;
        uint32_t size_bytes = entry->size_bytes;
        rfaas_rc rc = take_entry(channel, entry, budget_bytes - total_bytes);
        if (rc != RFAAS_OK)
            return rc;
        total_bytes += size_bytes - before_bytes;
    }
    help_peer(channel);
    if (!channel->stays_awake && rfaas_shm_entry_to_read(&channel->reader) == NULL && rfaas_shm_go_to_sleep(channel) &&
        channel->queue.first != NULL)
        rfaas_channel_flush(base, UINT64_MAX); /* the bell that was taken may have been for that */
    return RFAAS_OK;
}
