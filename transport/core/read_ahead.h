/* read_ahead.h - frames of a channel that were read before their owner asked for them, in order; part of a channel.
 *
 * Whoever reads ahead does so in place of the owner (attendant.h), under the channel's lock. A frame that is kept can be
 * taken back by the peer that sent it: TAKE_BACK names it, TAKEN says that it is gone. Spec: docs/spec/001-invocation.md
 * sections 2, 3.
 */
#ifndef RFAAS_READ_AHEAD_H
#define RFAAS_READ_AHEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "receiver.h"

enum {
    RFAAS_AHEAD_FRAMES_MAX = 256,       /* then nothing more is read: the peer's medium holds it up */
    RFAAS_AHEAD_BYTES_MAX = 64u << 20,
};

typedef struct rfaas_kept rfaas_kept;

typedef struct rfaas_read_ahead {
    rfaas_kept *first, **last;
    size_t n_frames;
    uint64_t payload_bytes;
    rfaas_kept *taken; /* what the frame that was taken last points to */
} rfaas_read_ahead;

void rfaas_ahead_init(rfaas_read_ahead *ahead);

/* Frees all, the buffers of the frames included. */
void rfaas_ahead_fini(rfaas_read_ahead *ahead);

static inline bool rfaas_ahead_is_full(const rfaas_read_ahead *ahead)
{
    return ahead->n_frames >= RFAAS_AHEAD_FRAMES_MAX || ahead->payload_bytes >= RFAAS_AHEAD_BYTES_MAX;
}

/* Keeps a frame, its buffer included, after those that are kept. False: no memory, and the frame is still the caller's. */
bool rfaas_ahead_keep(rfaas_read_ahead *ahead, const rfaas_frame *frame);

/* Hands over the first frame, of which there is one: its buffer is the caller's, the rest is valid until the next is
 * taken. Its deadline is less by the time that it was kept, and not 0 if it had one. */
void rfaas_ahead_take(rfaas_read_ahead *ahead, rfaas_frame *frame);

/* Drops the credited frame of this number; false if none is kept. */
bool rfaas_ahead_drop(rfaas_read_ahead *ahead, uint64_t call_id);

#endif
