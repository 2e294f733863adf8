/* receiver.c - the states of an arriving frame; see receiver.h. */
#include "receiver.h"

#include "large_buffer.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { DISCARD_BYTES = 16384 };

/* Payloads that nobody will see are read to here. */
static _Thread_local uint8_t discard[DISCARD_BYTES];

enum { SMALL_BYTES = 4096 }; /* malloc keeps such blocks at hand, posix_memalign searches for one each time */

static void *small_allocate(size_t size_bytes)
{
    uint8_t *block = malloc(size_bytes + RFAAS_SEGMENT_ALIGNMENT);
    if (block == NULL)
        return NULL;
    uint8_t skipped = (uint8_t)(RFAAS_SEGMENT_ALIGNMENT - ((uintptr_t)block & (RFAAS_SEGMENT_ALIGNMENT - 1)));
    block += skipped; /* 1 to 64: room for the byte that says how many */
    block[-1] = skipped;
    return block;
}

static void *default_allocate(void *context, size_t size_bytes)
{
    (void)context;
    void *buffer;
    if (size_bytes <= SMALL_BYTES)
        return small_allocate(size_bytes);
    if (size_bytes >= RFAAS_LARGE_BUFFER_MIN_BYTES)
        return rfaas_large_buffer_take(size_bytes);
    return posix_memalign(&buffer, RFAAS_SEGMENT_ALIGNMENT, size_bytes) == 0 ? buffer : NULL;
}

static void default_release(void *context, void *buffer, size_t size_bytes)
{
    (void)context;
    uint8_t *block = buffer;
    if (size_bytes >= RFAAS_LARGE_BUFFER_MIN_BYTES)
        rfaas_large_buffer_give(buffer, size_bytes);
    else
        free(size_bytes <= SMALL_BYTES ? block - block[-1] : block);
}

const rfaas_memory rfaas_memory_default = {default_allocate, default_release, NULL};

static const char too_large[] = "the payload is larger than max_payload_bytes";
static const char no_memory[] = "no memory for the payload";

static void fail(rfaas_receiver *receiver, const char *problem)
{
    receiver->state = RFAAS_RECEIVER_FAILED;
    receiver->problem = problem;
}

static void begin(rfaas_receiver *receiver)
{
    receiver->state = RFAAS_RECEIVER_HEADER;
    receiver->head_bytes = RFAAS_HEADER_BYTES;
    receiver->head_got_bytes = 0;
    receiver->n_placed = 0;
    receiver->frame.buffer = NULL;
    receiver->frame.buffer_bytes = 0;
}

/* Where segment `index` lies already, NULL if it is yet to be moved. */
static const rfaas_placed *placed_at(const rfaas_receiver *receiver, uint32_t index)
{
    for (uint32_t i = 0; i < receiver->n_placed; i++)
        if (receiver->placed[i].segment == index)
            return &receiver->placed[i];
    return NULL;
}

/* False: what the medium placed are no segments of this frame. `*size_bytes` is their sum. */
static bool placed_fit(const rfaas_receiver *receiver, const rfaas_head *head, uint64_t *size_bytes)
{
    *size_bytes = 0;
    for (uint32_t i = 0; i < receiver->n_placed; i++) {
        const rfaas_placed *placed = &receiver->placed[i];
        bool rises = i == 0 || placed->segment > receiver->placed[i - 1].segment;
        if (!rises || placed->segment >= head->n_segments ||
            rfaas_head_segment_size(head, placed->segment) != placed->where.iov_len)
            return false;
        *size_bytes += placed->where.iov_len;
    }
    return true;
}

bool rfaas_receiver_init(rfaas_receiver *receiver, uint64_t max_payload_bytes)
{
    memset(receiver, 0, sizeof *receiver);
    /* Room for the alignment of segments, so that no sum of sizes below the limit can overflow. */
    receiver->max_payload_bytes = max_payload_bytes < SIZE_MAX / 4 ? max_payload_bytes : SIZE_MAX / 4;
    receiver->memory = rfaas_memory_default;
    receiver->head_room_bytes = 512;
    receiver->segments_room = 8;
    receiver->head = malloc(receiver->head_room_bytes);
    receiver->segments = malloc(receiver->segments_room * sizeof *receiver->segments);
    if (receiver->head == NULL || receiver->segments == NULL) {
        rfaas_receiver_fini(receiver);
        return false;
    }
    begin(receiver);
    return true;
}

static void release_buffer(rfaas_receiver *receiver)
{
    rfaas_frame *frame = &receiver->frame;
    if (frame->buffer != NULL)
        frame->memory.release(frame->memory.context, frame->buffer, frame->buffer_bytes);
    frame->buffer = NULL;
}

void rfaas_receiver_fini(rfaas_receiver *receiver)
{
    release_buffer(receiver);
    free(receiver->head);
    free(receiver->segments);
    receiver->head = NULL;
    receiver->segments = NULL;
}

static size_t aligned(uint64_t size_bytes)
{
    return (size_t)((size_bytes + RFAAS_SEGMENT_ALIGNMENT - 1) & ~(uint64_t)(RFAAS_SEGMENT_ALIGNMENT - 1));
}

/* The same if it needs no room in the frame's buffer. */
static const rfaas_placed *elsewhere_at(const rfaas_receiver *receiver, uint32_t index)
{
    const rfaas_placed *placed = placed_at(receiver, index);
    return placed != NULL && placed->where.iov_base != NULL ? placed : NULL;
}

/* The same for one segment that is yet to come, as most frames have. */
static bool allocate_one(rfaas_receiver *receiver, uint64_t size_bytes)
{
    rfaas_frame *frame = &receiver->frame;
    frame->memory = receiver->memory;
    receiver->segments[0] = (struct iovec){NULL, (size_t)size_bytes};
    if (size_bytes == 0)
        return true;
    frame->buffer_bytes = aligned(size_bytes);
    frame->buffer = frame->memory.allocate(frame->memory.context, frame->buffer_bytes);
    receiver->segments[0].iov_base = frame->buffer;
    return frame->buffer != NULL;
}

/* One allocation for all segments; false: no memory. The sum was verified and is below max_payload_bytes. */
static bool allocate_payload(rfaas_receiver *receiver, const rfaas_head *head)
{
    rfaas_frame *frame = &receiver->frame;
    if (head->n_segments == 1 && receiver->n_placed == 0)
        return allocate_one(receiver, head->header.in_size);
    if (head->n_segments > receiver->segments_room) {
        struct iovec *grown = realloc(receiver->segments, head->n_segments * sizeof *grown);
        if (grown == NULL)
            return false;
        receiver->segments = grown;
        receiver->segments_room = head->n_segments;
    }
    size_t size_bytes = 0;
    for (uint32_t i = 0; i < head->n_segments; i++)
        if (elsewhere_at(receiver, i) == NULL)
            size_bytes += aligned(rfaas_head_segment_size(head, i));
    frame->memory = receiver->memory;
    if (size_bytes > 0) {
        frame->buffer = frame->memory.allocate(frame->memory.context, size_bytes);
        if (frame->buffer == NULL)
            return false;
        frame->buffer_bytes = size_bytes;
    }
    uint8_t *at = frame->buffer;
    for (uint32_t i = 0; i < head->n_segments; i++) {
        uint64_t segment_bytes = rfaas_head_segment_size(head, i);
        const rfaas_placed *placed = elsewhere_at(receiver, i);
        if (placed != NULL) {
            receiver->segments[i] = placed->where;
            continue;
        }
        receiver->segments[i] = (struct iovec){at, (size_t)segment_bytes};
        at = at == NULL ? NULL : at + aligned(segment_bytes);
    }
    return true;
}

static void skip_full_segments(rfaas_receiver *receiver)
{
    while (receiver->segment < receiver->frame.n_segments &&
           (receiver->segment_got_bytes == receiver->segments[receiver->segment].iov_len ||
            placed_at(receiver, receiver->segment) != NULL)) {
        receiver->segment++;
        receiver->segment_got_bytes = 0;
    }
}

/* The head is complete: verify, then and only then make room for the payload. */
static void on_head(rfaas_receiver *receiver)
{
    rfaas_head head;
    rfaas_head_problem problem = rfaas_head_decode(receiver->head, receiver->head_bytes, &head);
    if (problem != RFAAS_HEAD_OK) {
        fail(receiver, rfaas_head_problem_text(problem));
        return;
    }
    if (head.header.in_size > receiver->max_payload_bytes) {
        fail(receiver, too_large);
        return;
    }
    uint64_t placed_bytes;
    if (!placed_fit(receiver, &head, &placed_bytes)) {
        fail(receiver, "a segment was placed where the frame has none");
        return;
    }
    rfaas_frame *frame = &receiver->frame;
    frame->header = head.header;
    frame->text = head.text;
    frame->text_bytes = head.text_bytes;
    frame->unknown_extension = head.unknown_extension;
    frame->dropped = !rfaas_kind_is_known(head.header.kind) || head.unknown_extension != 0;
    frame->n_segments = frame->dropped ? 0 : head.n_segments;
    if (!frame->dropped && !allocate_payload(receiver, &head)) {
        fail(receiver, no_memory);
        return;
    }
    frame->segments = receiver->segments;
    frame->placed = receiver->placed;
    bool is_elsewhere = receiver->n_placed > 0 && receiver->placed[0].where.iov_base != NULL;
    frame->n_placed = is_elsewhere && !frame->dropped ? receiver->n_placed : 0;
    receiver->segment = 0;
    receiver->segment_got_bytes = 0;
    receiver->payload_left_bytes = head.header.in_size - placed_bytes;
    skip_full_segments(receiver);
    receiver->state = receiver->payload_left_bytes > 0 ? RFAAS_RECEIVER_PAYLOAD : RFAAS_RECEIVER_WHOLE;
}

static void on_header(rfaas_receiver *receiver)
{
    rfaas_head_problem problem = rfaas_head_measure(receiver->head, &receiver->head_bytes);
    if (problem != RFAAS_HEAD_OK) {
        fail(receiver, rfaas_head_problem_text(problem));
        return;
    }
    if (receiver->head_bytes == RFAAS_HEADER_BYTES) {
        on_head(receiver);
        return;
    }
    if (receiver->head_bytes > receiver->head_room_bytes) {
        uint8_t *grown = realloc(receiver->head, receiver->head_bytes);
        if (grown == NULL) {
            fail(receiver, "no memory for a head");
            return;
        }
        receiver->head = grown;
        receiver->head_room_bytes = receiver->head_bytes;
    }
    receiver->state = RFAAS_RECEIVER_HEAD;
}

static size_t want_payload(rfaas_receiver *receiver, struct iovec *pieces)
{
    if (receiver->frame.dropped) {
        uint64_t left_bytes = receiver->payload_left_bytes;
        pieces[0] = (struct iovec){discard, left_bytes < DISCARD_BYTES ? (size_t)left_bytes : DISCARD_BYTES};
        return 1;
    }
    size_t n = 0;
    uint64_t got_bytes = receiver->segment_got_bytes;
    for (uint32_t i = receiver->segment; i < receiver->frame.n_segments && n < RFAAS_RECEIVER_IOVECS; i++) {
        const struct iovec *segment = &receiver->segments[i];
        if (segment->iov_len > got_bytes && placed_at(receiver, i) == NULL)
            pieces[n++] = (struct iovec){(uint8_t *)segment->iov_base + got_bytes, segment->iov_len - got_bytes};
        got_bytes = 0;
    }
    return n;
}

size_t rfaas_receiver_want(rfaas_receiver *receiver, struct iovec pieces[RFAAS_RECEIVER_IOVECS])
{
    switch (receiver->state) {
    case RFAAS_RECEIVER_HEADER:
    case RFAAS_RECEIVER_HEAD:
        pieces[0] = (struct iovec){receiver->head + receiver->head_got_bytes,
                                   receiver->head_bytes - receiver->head_got_bytes};
        return 1;
    case RFAAS_RECEIVER_PAYLOAD:
        return want_payload(receiver, pieces);
    case RFAAS_RECEIVER_WHOLE:
    case RFAAS_RECEIVER_FAILED:
        break;
    }
    return 0;
}

static void got_payload(rfaas_receiver *receiver, size_t size_bytes)
{
    receiver->payload_left_bytes -= size_bytes;
    while (!receiver->frame.dropped && size_bytes > 0) {
        uint64_t room_bytes = receiver->segments[receiver->segment].iov_len - receiver->segment_got_bytes;
        uint64_t step_bytes = size_bytes < room_bytes ? size_bytes : room_bytes;
        receiver->segment_got_bytes += step_bytes;
        size_bytes -= (size_t)step_bytes;
        skip_full_segments(receiver);
    }
    if (receiver->payload_left_bytes == 0)
        receiver->state = RFAAS_RECEIVER_WHOLE;
}

void rfaas_receiver_got(rfaas_receiver *receiver, size_t size_bytes)
{
    if (receiver->state == RFAAS_RECEIVER_PAYLOAD) {
        got_payload(receiver, size_bytes);
        return;
    }
    receiver->head_got_bytes += size_bytes;
    if (receiver->head_got_bytes < receiver->head_bytes)
        return;
    if (receiver->state == RFAAS_RECEIVER_HEADER)
        on_header(receiver);
    else
        on_head(receiver);
}

/* True: these bytes are all that is missing of the only segment, as of most frames. */
static bool is_rest_of_one_segment(const rfaas_receiver *receiver, size_t size_bytes)
{
    return receiver->state == RFAAS_RECEIVER_PAYLOAD && receiver->payload_left_bytes == size_bytes &&
           receiver->frame.n_segments == 1 && receiver->n_placed == 0 && !receiver->frame.dropped;
}

static size_t feed_rest(rfaas_receiver *receiver, const uint8_t *bytes, size_t size_bytes)
{
    if (is_rest_of_one_segment(receiver, size_bytes)) {
        memcpy((uint8_t *)receiver->segments[0].iov_base + receiver->segment_got_bytes, bytes, size_bytes);
        receiver->payload_left_bytes = 0;
        receiver->state = RFAAS_RECEIVER_WHOLE;
        return size_bytes;
    }
    struct iovec pieces[RFAAS_RECEIVER_IOVECS];
    size_t fed_bytes = 0;
    while (fed_bytes < size_bytes) {
        size_t n = rfaas_receiver_want(receiver, pieces), step_bytes = 0;
        if (n == 0)
            break;
        for (size_t i = 0; i < n && fed_bytes + step_bytes < size_bytes; i++) {
            size_t left_bytes = size_bytes - fed_bytes - step_bytes;
            size_t piece_bytes = pieces[i].iov_len < left_bytes ? pieces[i].iov_len : left_bytes;
            memcpy(pieces[i].iov_base, bytes + fed_bytes + step_bytes, piece_bytes);
            step_bytes += piece_bytes;
        }
        rfaas_receiver_got(receiver, step_bytes);
        fed_bytes += step_bytes;
    }
    return fed_bytes;
}

size_t rfaas_receiver_feed(rfaas_receiver *receiver, const uint8_t *bytes, size_t size_bytes)
{
    size_t head_bytes = 0;
    if (size_bytes >= RFAAS_HEADER_BYTES && rfaas_receiver_is_between_frames(receiver)) {
        head_bytes = RFAAS_HEADER_BYTES;
        memcpy(receiver->head, bytes, RFAAS_HEADER_BYTES);
        receiver->head_got_bytes = RFAAS_HEADER_BYTES;
        on_header(receiver);
        if (size_bytes == RFAAS_HEADER_BYTES || receiver->state == RFAAS_RECEIVER_FAILED)
            return RFAAS_HEADER_BYTES;
    }
    return head_bytes + feed_rest(receiver, bytes + head_bytes, size_bytes - head_bytes);
}

void *rfaas_receiver_accept(rfaas_receiver *receiver, uint32_t n_segments)
{
    rfaas_frame *frame = &receiver->frame;
    const rfaas_header *header = &frame->header;
    if (header->in_size > receiver->max_payload_bytes) {
        fail(receiver, too_large);
        return NULL;
    }
    frame->text = NULL;
    frame->text_bytes = 0;
    frame->unknown_extension = 0;
    frame->dropped = !rfaas_kind_is_known(header->kind);
    frame->n_segments = frame->dropped ? 0 : n_segments;
    frame->segments = receiver->segments;
    frame->n_placed = 0;
    frame->memory = receiver->memory;
    receiver->state = RFAAS_RECEIVER_WHOLE;
    receiver->segments[0] = (struct iovec){NULL, (size_t)header->in_size};
    if (frame->n_segments == 0 || header->in_size == 0)
        return NULL;
    frame->buffer_bytes = aligned(header->in_size);
    frame->buffer = frame->memory.allocate(frame->memory.context, frame->buffer_bytes);
    if (frame->buffer == NULL)
        fail(receiver, no_memory);
    receiver->segments[0].iov_base = frame->buffer;
    return frame->buffer;
}

bool rfaas_receiver_is_between_frames(const rfaas_receiver *receiver)
{
    return receiver->state == RFAAS_RECEIVER_HEADER && receiver->head_got_bytes == 0;
}

void rfaas_receiver_take(rfaas_receiver *receiver, rfaas_frame *frame)
{
    *frame = receiver->frame;
    begin(receiver);
}
