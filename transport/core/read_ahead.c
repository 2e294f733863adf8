#include "read_ahead.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* The frame with copies of what it points to, but for its buffer: segments, placed segments and text follow. */
struct rfaas_kept {
    struct rfaas_kept *next;
    int64_t since_ns;
    rfaas_frame frame;
    struct iovec segments[];
};

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void rfaas_ahead_init(rfaas_read_ahead *ahead)
{
    memset(ahead, 0, sizeof *ahead);
    ahead->last = &ahead->first;
}

static void release(rfaas_kept *kept)
{
    rfaas_frame *frame = &kept->frame;
    if (frame->buffer != NULL)
        frame->memory.release(frame->memory.context, frame->buffer, frame->buffer_bytes);
    free(kept);
}

void rfaas_ahead_fini(rfaas_read_ahead *ahead)
{
    while (ahead->first != NULL) {
        rfaas_kept *kept = ahead->first;
        ahead->first = kept->next;
        release(kept);
    }
    free(ahead->taken);
    rfaas_ahead_init(ahead);
}

static void *copy(void *to, const void *from, size_t size_bytes)
{
    return size_bytes == 0 ? to : memcpy(to, from, size_bytes);
}

bool rfaas_ahead_keep(rfaas_read_ahead *ahead, const rfaas_frame *frame)
{
    size_t segments_bytes = frame->n_segments * sizeof *frame->segments;
    size_t placed_bytes = frame->n_placed * sizeof *frame->placed;
    rfaas_kept *kept = malloc(sizeof *kept + segments_bytes + placed_bytes + frame->text_bytes);
    if (kept == NULL)
        return false;
    char *room = (char *)kept->segments;
    kept->next = NULL;
    kept->since_ns = now_ns();
    kept->frame = *frame;
    kept->frame.segments = copy(room, frame->segments, segments_bytes);
    kept->frame.placed = copy(room + segments_bytes, frame->placed, placed_bytes);
    kept->frame.text = copy(room + segments_bytes + placed_bytes, frame->text, frame->text_bytes);
    *ahead->last = kept;
    ahead->last = &kept->next;
    ahead->n_frames++;
    ahead->payload_bytes += frame->header.in_size;
    return true;
}

/* Out of the list; `place` is what points to it. */
static rfaas_kept *unlink_at(rfaas_read_ahead *ahead, rfaas_kept **place)
{
    rfaas_kept *kept = *place;
    *place = kept->next;
    if (ahead->last == &kept->next)
        ahead->last = place;
    ahead->n_frames--;
    ahead->payload_bytes -= kept->frame.header.in_size;
    return kept;
}

void rfaas_ahead_take(rfaas_read_ahead *ahead, rfaas_frame *frame)
{
    rfaas_kept *kept = unlink_at(ahead, &ahead->first);
    free(ahead->taken);
    ahead->taken = kept;
    uint64_t *deadline_ns = &kept->frame.header.deadline_ns;
    if (*deadline_ns != 0) {
        uint64_t kept_ns = (uint64_t)(now_ns() - kept->since_ns);
        *deadline_ns = *deadline_ns > kept_ns ? *deadline_ns - kept_ns : 1;
    }
    *frame = kept->frame;
}

bool rfaas_ahead_drop(rfaas_read_ahead *ahead, uint64_t call_id)
{
    for (rfaas_kept **place = &ahead->first; *place != NULL; place = &(*place)->next) {
        const rfaas_header *header = &(*place)->frame.header;
        if (header->call_id == call_id && rfaas_kind_is_credited(header->kind)) {
            release(unlink_at(ahead, place));
            return true;
        }
    }
    return false;
}
