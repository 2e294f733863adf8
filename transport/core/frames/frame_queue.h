/* frame_queue.h - frames on their way out: how far one frame has gone, and the list of those that did not fit at once.
 *
 * For media that can be full. The list holds frames by reference: heads and the arrays of segments are copied, the bytes
 * of the segments stay borrowed from the caller until the frame's cookie is completed.
 */
#ifndef RFAAS_FRAME_QUEUE_H
#define RFAAS_FRAME_QUEUE_H

#include "rfaas_channel.h"

/* What of one frame is still to go. Its pieces are the head, then the segments. */
typedef struct rfaas_cursor {
    const uint8_t *head;
    size_t head_bytes;
    const struct iovec *segments;
    size_t n_segments;   /* a medium that has sent the payload by another way makes it 0 */
    size_t at;           /* 0: in the head; i: in segment i - 1; n_segments + 1: done */
    size_t offset_bytes; /* in that piece */
} rfaas_cursor;

static inline bool rfaas_cursor_is_at_start(const rfaas_cursor *cursor)
{
    return cursor->at == 0 && cursor->offset_bytes == 0;
}

static inline bool rfaas_cursor_is_done(const rfaas_cursor *cursor)
{
    return cursor->at > cursor->n_segments;
}

uint64_t rfaas_cursor_left_bytes(const rfaas_cursor *cursor);

/* The next pieces, none empty, at most `room` of them; returns how many. */
size_t rfaas_cursor_pieces(const rfaas_cursor *cursor, struct iovec *pieces, size_t room);

/* `size_bytes` have gone. Passes empty pieces too, so that the cursor is done exactly when nothing is left. */
void rfaas_cursor_advance(rfaas_cursor *cursor, size_t size_bytes);

/* Copies the next `size_bytes`, of which there are as many, and advances. */
void rfaas_cursor_copy(rfaas_cursor *cursor, uint8_t *to, size_t size_bytes);

typedef struct rfaas_queued {
    struct rfaas_queued *next;
    void *cookie;
    uint64_t lent_until;     /* once it has gone: which loan it waits for */
    rfaas_cursor cursor;     /* over the copies below */
    struct iovec segments[]; /* then the head's bytes */
} rfaas_queued;

/* A medium whose kernel reads the buffers after a frame has gone counts such loans in `loans`; the frame is completed when
 * rfaas_frame_queue_returned() says that they are back. */
typedef struct rfaas_frame_queue {
    rfaas_queued *first, **last;
    uint64_t loans, loans_before; /* so far; before the present frame */
    rfaas_queued *first_lent, **last_lent;
} rfaas_frame_queue;

/* How a medium moves a frame on, at most about `budget_bytes`: OK (it has gone), AGAIN (the medium is full), MORE (the
 * budget is spent), BROKEN. Says in `*put_bytes` how many bytes of the frame went, whatever the answer. */
typedef rfaas_rc (*rfaas_put)(rfaas_channel *channel, rfaas_cursor *cursor, uint64_t budget_bytes,
                              uint64_t *put_bytes);

void rfaas_frame_queue_init(rfaas_frame_queue *queue);

/* What a medium answers to send: puts the frame, after all that wait, and queues what does not go within the budget. */
rfaas_rc rfaas_frame_queue_send(rfaas_channel *channel, rfaas_frame_queue *queue, const rfaas_outgoing *out,
                                uint64_t budget_bytes, rfaas_put put);

/* Queues a frame of which nothing has gone, after all that wait: QUEUED or NO_MEMORY. */
rfaas_rc rfaas_frame_queue_add(rfaas_channel *channel, rfaas_frame_queue *queue, const rfaas_outgoing *out);

/* The first `loans` loans of all have come back: completes the frames that waited for no other. */
void rfaas_frame_queue_returned(rfaas_channel *channel, rfaas_frame_queue *queue, uint64_t loans);

/* Of the first frame, of which nothing has gone: the bytes of this segment go another way, and are not queued any more. */
void rfaas_frame_queue_pass(rfaas_channel *channel, rfaas_frame_queue *queue, size_t segment);

/* What a medium answers to flush. */
rfaas_rc rfaas_frame_queue_flush(rfaas_channel *channel, rfaas_frame_queue *queue, uint64_t budget_bytes,
                                 rfaas_put put);

/* Completes all that wait, unsent, and all that are lent. */
void rfaas_frame_queue_drop(rfaas_channel *channel, rfaas_frame_queue *queue);

#endif
