/* shm_send.c - frames into shared memory: through the ring in pieces, large payloads as blocks of the arena. */
#include <errno.h>
#include <string.h>

#include "array_pool.h"
#include "failpoint.h"
#include "shm_channel.h"
#include "shm_small.h"

enum {
    RFAAS_SHM_PLACEABLE_SEGMENTS = 64, /* frames with more are moved whole */
    RFAAS_SHM_WHOLE_BYTES = 4096,
};

/* A reader that sleeps is woken before anything is published: what fails then was not sent. False: it is gone. */
static bool wake_reader(shm_channel *channel)
{
    bool is_gone;
    if (rfaas_shm_must_wake(&channel->writer, &is_gone))
        rfaas_shm_ring_bell(channel);
    return !is_gone && !channel->peer_gone;
}

static size_t aligned(size_t size_bytes)
{
    return (size_bytes + RFAAS_SEGMENT_ALIGNMENT - 1) & ~(size_t)(RFAAS_SEGMENT_ALIGNMENT - 1);
}

/* All segments into a block, each on a line of its own as the receiver lays them out, and the entry that says so. False:
 * no block is free, and the payload goes through the rings. */
static bool put_block(shm_channel *channel, rfaas_cursor *frame)
{
    uint64_t size_bytes = 0;
    for (size_t i = 0; i < frame->n_segments; i++)
        size_bytes += aligned(frame->segments[i].iov_len);
    rfaas_shm_block block;
    uint8_t *at = rfaas_shm_block_take(&channel->writer, size_bytes, &block);
    if (at == NULL)
        return false;
    for (size_t i = 0; i < frame->n_segments; i++) {
        size_t segment_bytes = frame->segments[i].iov_len;
        if (segment_bytes > 0)
            memcpy(at, frame->segments[i].iov_base, segment_bytes);
        at += aligned(segment_bytes);
    }
    FAILPOINT("after-block-bytes");
    rfaas_shm_entry *entry = rfaas_shm_entry_to_write(&channel->writer);
    entry->kind = RFAAS_SHM_BLOCK;
    entry->size_bytes = 0;
    entry->at = block.offset_bytes;
    entry->block_bytes = size_bytes;
    entry->block = block.slot;
    entry->generation = block.generation;
    frame->n_segments = 0;
    return true;
}

/* One entry with what comes next of the frame; there is room for it. */
static void put_piece(shm_channel *channel, rfaas_cursor *frame)
{
    rfaas_shm_entry *entry = rfaas_shm_entry_to_write(&channel->writer);
    bool is_first = rfaas_cursor_is_at_start(frame);
    entry->kind = is_first ? RFAAS_SHM_FRAME : RFAAS_SHM_MORE;
    if (is_first)
        rfaas_cursor_copy(frame, entry->header, RFAAS_HEADER_BYTES);
    FAILPOINT("after-header");
    uint64_t left_bytes = rfaas_cursor_left_bytes(frame);
    size_t size_bytes = left_bytes < RFAAS_SHM_PIECE_BYTES ? (size_t)left_bytes : RFAAS_SHM_PIECE_BYTES;
    uint8_t *to = entry->bytes;
    if (size_bytes > RFAAS_SHM_INLINE_BYTES)
        to = rfaas_shm_data_to_write(&channel->writer, size_bytes, &size_bytes, &entry->at);
    entry->size_bytes = (uint32_t)size_bytes;
    rfaas_cursor_copy(frame, to, size_bytes);
}

/* OK: all of it is with the peer. AGAIN: the rings are full. MORE: the budget is spent. BROKEN: the peer is gone. */
static rfaas_rc put_some(shm_channel *channel, rfaas_cursor *frame, uint64_t budget_bytes, uint64_t *put_bytes)
{
    uint64_t start_bytes = rfaas_cursor_left_bytes(frame), left_bytes = start_bytes;
    bool to_arena = rfaas_cursor_is_at_start(frame) && start_bytes - frame->head_bytes >= RFAAS_SHM_ARENA_MIN_BYTES;
    rfaas_rc rc = RFAAS_OK;
    while (left_bytes > 0 && rc == RFAAS_OK) {
        if (start_bytes - left_bytes >= budget_bytes) {
            rc = RFAAS_MORE;
        } else if (!rfaas_shm_has_room(&channel->writer, left_bytes > RFAAS_SHM_INLINE_BYTES ? 1 : 0)) {
            rc = RFAAS_AGAIN;
        } else if (!wake_reader(channel)) {
            rc = rfaas_channel_broken(&channel->base, "sending failed", EPIPE);
        } else {
            if (!(to_arena && put_block(channel, frame)))
                put_piece(channel, frame);
            to_arena = false;
            left_bytes = rfaas_cursor_left_bytes(frame);
            if (rfaas_shm_publish(&channel->writer))
                rfaas_shm_ring_bell(channel);
        }
    }
    *put_bytes = start_bytes - left_bytes;
    return rc;
}

static rfaas_rc put_until_full(rfaas_channel *base, rfaas_cursor *frame, uint64_t budget_bytes, uint64_t *put_bytes)
{
    shm_channel *channel = (shm_channel *)base;
    uint64_t total_bytes = 0;
    for (;;) {
        rfaas_rc rc = put_some(channel, frame, budget_bytes - total_bytes, put_bytes);
        total_bytes += *put_bytes;
        *put_bytes = total_bytes;
        if (rc != RFAAS_AGAIN || rfaas_shm_wait_for_room(&channel->writer))
            return rc;
    }
}

/* Where a segment lies that need not be moved, as its entry says it; false: it must be. */
static bool find_place(shm_channel *channel, const struct iovec *segment, rfaas_shm_entry *place)
{
    rfaas_shm_lines *lines = &channel->segment->directions[0].lines;
    uint64_t at;
    if (segment->iov_len < RFAAS_SHM_ARENA_MIN_BYTES)
        return false;
    rfaas_shm_block *block = rfaas_shm_block_find(&channel->writer, segment->iov_base, segment->iov_len);
    if (block != NULL && block->held && block->handed) {
        block->held = false;
        *place = (rfaas_shm_entry){.space = RFAAS_SHM_ARENA, .block = block->slot, .generation = block->generation};
        place->at = (uint64_t)((uint8_t *)segment->iov_base - channel->writer.arena);
        return true;
    }
    if (channel->segment->side != 0 || atomic_load(&lines->pool_mapped) != 1 ||
        !rfaas_array_pool_find(segment->iov_base, segment->iov_len, &at))
        return false;
    *place = (rfaas_shm_entry){.space = RFAAS_SHM_POOL, .at = at};
    return true;
}

/* Says of segments that lie where the peer can read them where that is, and makes them empty in `rest`. How many. */
static uint32_t place_segments(shm_channel *channel, const rfaas_outgoing *out, struct iovec *rest)
{
    uint32_t n = 0;
    for (size_t i = 0; i < out->n_segments && n < RFAAS_PLACED_MAX; i++) {
        rfaas_shm_entry place;
        if (!find_place(channel, &out->segments[i], &place))
            continue;
        rfaas_shm_entry *entry = rfaas_shm_entry_to_write(&channel->writer);
        entry->kind = RFAAS_SHM_PLACED;
        entry->size_bytes = 0;
        entry->at = place.at;
        entry->block_bytes = out->segments[i].iov_len;
        entry->block = place.block;
        entry->generation = place.generation;
        entry->segment = (uint32_t)i;
        entry->space = place.space;
        if (rfaas_shm_publish(&channel->writer))
            rfaas_shm_ring_bell(channel);
        rest[i].iov_len = 0;
        n++;
    }
    return n;
}

/* A frame some of whose segments may stay where they are. There are entries enough for all that is said of them, or they
 * are moved like any: nothing waits for room between those entries and the frame. */
static rfaas_rc send_placed(shm_channel *channel, const rfaas_outgoing *out)
{
    struct iovec rest[RFAAS_SHM_PLACEABLE_SEGMENTS];
    rfaas_outgoing left = *out;
    memcpy(rest, out->segments, out->n_segments * sizeof *rest);
    if (!wake_reader(channel))
        return rfaas_channel_broken(&channel->base, "sending failed", EPIPE);
    uint32_t n = place_segments(channel, out, rest);
    left.segments = rest;
    for (size_t i = 0; i < out->n_segments; i++)
        left.in_size -= out->segments[i].iov_len - rest[i].iov_len;
    rfaas_rc rc = rfaas_frame_queue_send(&channel->base, &channel->queue, &left, UINT64_MAX, put_until_full);
    if (rc == RFAAS_NO_MEMORY && n > 0) /* the next frame would be taken for the one whose segments were placed */
        return rfaas_channel_broken(&channel->base, "no memory for a frame", 0);
    return rc;
}

/* True: one entry takes all of the frame, and the bytes that do not fit into it lie in the ring without a break. */
static bool fits_one_entry(shm_channel *channel, const rfaas_outgoing *out)
{
    const rfaas_shm_writer *writer = &channel->writer;
    if (out->head_bytes != RFAAS_HEADER_BYTES || out->n_segments > 1 || out->in_size > RFAAS_SHM_WHOLE_BYTES ||
        channel->queue.first != NULL)
        return false;
    if (out->in_size <= RFAAS_SHM_INLINE_BYTES)
        return rfaas_shm_has_room(&channel->writer, 0);
    uint64_t used_bytes = writer->data_at - writer->consumed_bytes;
    uint64_t to_end_bytes = RFAAS_SHM_DATA_BYTES - writer->data_at % RFAAS_SHM_DATA_BYTES;
    return rfaas_shm_has_room(&channel->writer, 1) && RFAAS_SHM_DATA_BYTES - used_bytes >= out->in_size &&
           to_end_bytes >= out->in_size;
}

/* What put_until_full() does to most frames, in one step. */
static rfaas_rc put_whole(shm_channel *channel, const rfaas_outgoing *out)
{
    if (!wake_reader(channel))
        return rfaas_channel_broken(&channel->base, "sending failed", EPIPE);
    rfaas_shm_entry *entry = rfaas_shm_entry_to_write(&channel->writer);
    size_t size_bytes = (size_t)out->in_size;
    uint8_t *to = entry->bytes;
    entry->kind = RFAAS_SHM_FRAME;
    memcpy(entry->header, out->head, RFAAS_HEADER_BYTES);
    if (size_bytes > RFAAS_SHM_INLINE_BYTES)
        to = rfaas_shm_data_to_write(&channel->writer, size_bytes, &size_bytes, &entry->at);
    entry->size_bytes = (uint32_t)size_bytes;
    if (size_bytes > 0)
        memcpy(to, out->segments[0].iov_base, size_bytes);
    if (rfaas_shm_publish(&channel->writer))
        rfaas_shm_ring_bell(channel);
    /* While the peer is busy with this one. */
    rfaas_shm_fetch_to_write(rfaas_shm_entry_to_write(&channel->writer)->header);
    rfaas_shm_fetch_to_write(channel->writer.shared->data + channel->writer.data_at % RFAAS_SHM_DATA_BYTES);
    return RFAAS_OK;
}

rfaas_rc rfaas_shm_send_small(rfaas_channel *base, const rfaas_header *header, const struct iovec *segment, uint32_t n_segments)
{
    shm_channel *channel = (shm_channel *)base;
    if (channel->queue.first != NULL || !rfaas_shm_has_room(&channel->writer, 0))
        return RFAAS_AGAIN;
    if (!wake_reader(channel))
        return rfaas_channel_broken(&channel->base, "sending failed", EPIPE);
    rfaas_shm_put_small(rfaas_shm_entry_to_write(&channel->writer), header, segment, n_segments);
    if (rfaas_shm_publish(&channel->writer))
        rfaas_shm_ring_bell(channel);
    rfaas_shm_fetch_to_write(rfaas_shm_entry_to_write(&channel->writer)->header); /* while the peer is busy with this one */
    return RFAAS_OK;
}

rfaas_rc rfaas_shm_send(rfaas_channel *base, const rfaas_outgoing *out)
{
    shm_channel *channel = (shm_channel *)base;
    if (fits_one_entry(channel, out))
        return put_whole(channel, out);
    if (out->in_size >= RFAAS_SHM_ARENA_MIN_BYTES && out->n_segments <= RFAAS_SHM_PLACEABLE_SEGMENTS &&
        channel->queue.first == NULL && rfaas_shm_has_entries(&channel->writer, RFAAS_PLACED_MAX + 2))
        return send_placed(channel, out);
    return rfaas_frame_queue_send(base, &channel->queue, out, UINT64_MAX, put_until_full);
}

/* Until the rings are full, whatever the budget: only then the peer's bell tells when to go on. */
rfaas_rc rfaas_shm_flush(rfaas_channel *base, uint64_t budget_bytes)
{
    (void)budget_bytes;
    return rfaas_frame_queue_flush(base, &((shm_channel *)base)->queue, UINT64_MAX, put_until_full);
}
