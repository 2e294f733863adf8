/* frame_queue.c - the cursor over a frame and the list of waiting frames; see frame_queue.h. */
#include "frame_queue.h"

#include <stdlib.h>
#include <string.h>

static struct iovec piece_at(const rfaas_cursor *cursor, size_t at)
{
    return at == 0 ? (struct iovec){(void *)cursor->head, cursor->head_bytes} : cursor->segments[at - 1];
}

uint64_t rfaas_cursor_left_bytes(const rfaas_cursor *cursor)
{
    uint64_t left_bytes = 0;
    for (size_t at = cursor->at; at <= cursor->n_segments; at++)
        left_bytes += piece_at(cursor, at).iov_len;
    return left_bytes - cursor->offset_bytes;
}

size_t rfaas_cursor_pieces(const rfaas_cursor *cursor, struct iovec *pieces, size_t room)
{
    size_t n = 0;
    size_t offset_bytes = cursor->offset_bytes;
    for (size_t at = cursor->at; at <= cursor->n_segments && n < room; at++, offset_bytes = 0) {
        struct iovec piece = piece_at(cursor, at);
        if (piece.iov_len > offset_bytes)
            pieces[n++] = (struct iovec){(uint8_t *)piece.iov_base + offset_bytes, piece.iov_len - offset_bytes};
    }
    return n;
}

void rfaas_cursor_advance(rfaas_cursor *cursor, size_t size_bytes)
{
    while (cursor->at <= cursor->n_segments) {
        size_t left_bytes = piece_at(cursor, cursor->at).iov_len - cursor->offset_bytes;
        if (size_bytes < left_bytes) {
            cursor->offset_bytes += size_bytes;
            return;
        }
        size_bytes -= left_bytes;
        cursor->at++;
        cursor->offset_bytes = 0;
    }
}

void rfaas_cursor_copy(rfaas_cursor *cursor, uint8_t *to, size_t size_bytes)
{
    while (size_bytes > 0) {
        struct iovec piece = piece_at(cursor, cursor->at);
        size_t left_bytes = piece.iov_len - cursor->offset_bytes;
        size_t step_bytes = size_bytes < left_bytes ? size_bytes : left_bytes;
        if (step_bytes > 0)
            memcpy(to, (const uint8_t *)piece.iov_base + cursor->offset_bytes, step_bytes);
        to += step_bytes;
        size_bytes -= step_bytes;
        rfaas_cursor_advance(cursor, step_bytes);
    }
}

void rfaas_frame_queue_init(rfaas_frame_queue *queue)
{
    queue->first = queue->first_lent = NULL;
    queue->last = &queue->first;
    queue->last_lent = &queue->first_lent;
    queue->loans = queue->loans_before = 0;
}

static rfaas_rc enqueue(rfaas_channel *channel, rfaas_frame_queue *queue, const rfaas_cursor *cursor, void *cookie,
                        uint64_t left_bytes)
{
    size_t segments_bytes = cursor->n_segments * sizeof(struct iovec);
    rfaas_queued *queued = malloc(sizeof *queued + segments_bytes + cursor->head_bytes);
    if (queued == NULL)
        return RFAAS_NO_MEMORY;
    if (rfaas_channel_enqueue(channel, left_bytes) != RFAAS_OK) {
        free(queued);
        return RFAAS_NO_MEMORY;
    }
    uint8_t *head = (uint8_t *)(queued->segments + cursor->n_segments);
    memcpy(head, cursor->head, cursor->head_bytes);
    if (segments_bytes > 0)
        memcpy(queued->segments, cursor->segments, segments_bytes);
    queued->next = NULL;
    queued->cookie = cookie;
    queued->cursor = *cursor;
    queued->cursor.head = head;
    queued->cursor.segments = queued->segments;
    *queue->last = queued;
    queue->last = &queued->next;
    return RFAAS_QUEUED;
}

static rfaas_cursor beginning_of(const rfaas_outgoing *out)
{
    return (rfaas_cursor){.head = out->head,
                          .head_bytes = out->head_bytes,
                          .segments = out->segments,
                          .n_segments = out->n_segments};
}

rfaas_rc rfaas_frame_queue_add(rfaas_channel *channel, rfaas_frame_queue *queue, const rfaas_outgoing *out)
{
    rfaas_cursor cursor = beginning_of(out);
    return enqueue(channel, queue, &cursor, out->cookie, out->head_bytes + out->in_size);
}

rfaas_rc rfaas_frame_queue_send(rfaas_channel *channel, rfaas_frame_queue *queue, const rfaas_outgoing *out,
                                uint64_t budget_bytes, rfaas_put put)
{
    rfaas_cursor cursor = beginning_of(out);
    uint64_t put_bytes = 0;
    if (queue->first == NULL) {
        rfaas_rc rc = put(channel, &cursor, budget_bytes, &put_bytes);
        if (rc == RFAAS_OK || rc == RFAAS_BROKEN)
            return rc;
    }
    rfaas_rc rc = enqueue(channel, queue, &cursor, out->cookie, out->head_bytes + out->in_size - put_bytes);
    if (rc == RFAAS_NO_MEMORY && put_bytes > 0)
        return rfaas_channel_broken(channel, "no memory for the rest of a frame", 0);
    return rc;
}

static void pop_first(rfaas_channel *channel, rfaas_frame_queue *queue)
{
    rfaas_queued *queued = queue->first;
    queue->first = queued->next;
    if (queue->first == NULL)
        queue->last = &queue->first;
    bool is_lent = queue->loans != queue->loans_before;
    queue->loans_before = queue->loans;
    if (is_lent) {
        queued->next = NULL;
        queued->lent_until = queue->loans;
        *queue->last_lent = queued;
        queue->last_lent = &queued->next;
        return;
    }
    rfaas_channel_complete(channel, queued->cookie);
    free(queued);
}

void rfaas_frame_queue_returned(rfaas_channel *channel, rfaas_frame_queue *queue, uint64_t loans)
{
    while (queue->first_lent != NULL && queue->first_lent->lent_until <= loans) {
        rfaas_queued *back = queue->first_lent;
        queue->first_lent = back->next;
        if (queue->first_lent == NULL)
            queue->last_lent = &queue->first_lent;
        rfaas_channel_complete(channel, back->cookie);
        free(back);
    }
}

void rfaas_frame_queue_pass(rfaas_channel *channel, rfaas_frame_queue *queue, size_t segment)
{
    channel->queued_bytes -= queue->first->segments[segment].iov_len;
    queue->first->segments[segment].iov_len = 0;
}

void rfaas_frame_queue_drop(rfaas_channel *channel, rfaas_frame_queue *queue)
{
    while (queue->first != NULL)
        pop_first(channel, queue);
    rfaas_frame_queue_returned(channel, queue, UINT64_MAX);
    channel->queued_bytes = 0;
}

rfaas_rc rfaas_frame_queue_flush(rfaas_channel *channel, rfaas_frame_queue *queue, uint64_t budget_bytes,
                                 rfaas_put put)
{
    uint64_t total_bytes = 0;
    while (queue->first != NULL) {
        if (total_bytes >= budget_bytes)
            return RFAAS_MORE;
        uint64_t put_bytes = 0;
        rfaas_rc rc = put(channel, &queue->first->cursor, budget_bytes - total_bytes, &put_bytes);
        total_bytes += put_bytes;
        channel->queued_bytes -= put_bytes;
        if (rc == RFAAS_BROKEN)
            rfaas_frame_queue_drop(channel, queue);
        if (rc != RFAAS_OK)
            return rc;
        pop_first(channel, queue);
    }
    return RFAAS_OK;
}
