/* channel.c - what all media share: credits, the answer to what is not understood, the end of a channel, statistics. */
#include "rfaas_channel.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    CREDITS_MAX = 65535,        /* spec 001 section 3 */
    DROPPED_IN_ONE_POLL = 64,   /* then the caller gets its turn, whatever the peer floods us with */
    UNREAD_ANSWERS_MAX = 1024,  /* a peer that sends nonsense and reads no answer is given up */
    HEAD_ROOM_BYTES = 512,
    COMPLETED_ROOM = 8,
    LOOKS_A_CLOCK = 64,      /* some 2 us of looks at memory */
    YIELD_AFTER_NS = 20000,  /* a peer that answers at all at once has answered by then */
    TAKEN_AWAY_NS = 200000,  /* a yield that took so long let somebody else run */
};

rfaas_rc rfaas_channel_init(rfaas_channel *channel, const rfaas_medium *medium, const char *name,
                            uint64_t max_payload_bytes)
{
    memset(channel, 0, sizeof *channel);
    channel->medium = medium;
    channel->name = name;
    channel->owner = getpid();
    channel->max_payload_bytes = max_payload_bytes;
    channel->head_room_bytes = HEAD_ROOM_BYTES;
    channel->head_room = malloc(HEAD_ROOM_BYTES);
    channel->completed_room = COMPLETED_ROOM;
    channel->completed = malloc(COMPLETED_ROOM * sizeof *channel->completed);
    rfaas_ahead_init(&channel->ahead);
    if (!rfaas_receiver_init(&channel->receiver, max_payload_bytes) || channel->head_room == NULL ||
        channel->completed == NULL) {
        rfaas_channel_fini(channel);
        return RFAAS_NO_MEMORY;
    }
    return RFAAS_OK;
}

void rfaas_channel_fini(rfaas_channel *channel)
{
    rfaas_ahead_fini(&channel->ahead);
    rfaas_receiver_fini(&channel->receiver);
    free(channel->head_room);
    free(channel->completed);
    channel->head_room = NULL;
    channel->completed = NULL;
}

bool rfaas_channel_is_inherited(const rfaas_channel *channel)
{
    return getpid() != channel->owner;
}

rfaas_rc rfaas_channel_enqueue(rfaas_channel *channel, size_t size_bytes)
{
    /* Room for the cookies of all that are queued is made here, where failing is still possible. */
    size_t needed = channel->n_completed + channel->queued_frames + 1;
    if (needed > channel->completed_room) {
        void **grown = realloc(channel->completed, 2 * needed * sizeof *grown);
        if (grown == NULL)
            return RFAAS_NO_MEMORY;
        channel->completed = grown;
        channel->completed_room = 2 * needed;
    }
    channel->queued_frames++;
    channel->queued_bytes += size_bytes;
    channel->statistics.frames_queued++;
    return RFAAS_OK;
}

void rfaas_channel_complete(rfaas_channel *channel, void *cookie)
{
    channel->queued_frames--;
    if (cookie != NULL)
        channel->completed[channel->n_completed++] = cookie;
}

void *rfaas_channel_completed(rfaas_channel *channel)
{
    return channel->n_completed == 0 ? NULL : channel->completed[--channel->n_completed];
}

rfaas_rc rfaas_channel_broken(rfaas_channel *channel, const char *what, int error)
{
    if (channel->why[0] == '\0') {
        char text[80] = "";
        const char *said = error == 0 ? "" : strerror_r(error, text, sizeof text);
        snprintf(channel->why, sizeof channel->why, error == 0 ? "%s%s" : "%s: %s", what, said);
    }
    return RFAAS_BROKEN;
}

static void set_why(rfaas_channel *channel, const char *why)
{
    if (channel->why[0] == '\0')
        snprintf(channel->why, sizeof channel->why, "%s", why);
}

static uint32_t add_credits(uint32_t held, uint32_t more)
{
    return held + more < CREDITS_MAX ? held + more : CREDITS_MAX;
}

static bool make_head_room(rfaas_channel *channel, size_t head_bytes)
{
    if (head_bytes <= channel->head_room_bytes)
        return true;
    uint8_t *grown = realloc(channel->head_room, head_bytes);
    if (grown == NULL)
        return false;
    channel->head_room = grown;
    channel->head_room_bytes = head_bytes;
    return true;
}

static void account_sent(rfaas_channel *channel, const rfaas_header *header)
{
    if (rfaas_kind_is_credited(header->kind))
        channel->tx_credits--;
    if (header->kind == RFAAS_KIND_BYE)
        channel->said_bye = true;
    channel->rx_credits = add_credits(channel->rx_credits, header->credits);
    channel->statistics.frames_sent++;
    channel->statistics.payload_bytes_sent += header->in_size;
}

/* True: the medium may have a shorter way for this frame. */
static bool is_small(const rfaas_channel *channel, const rfaas_header *header, const struct iovec *segments,
                     size_t n_segments, size_t text_bytes)
{
    return n_segments <= 1 && (n_segments == 0 || segments[0].iov_len <= channel->medium->small_bytes) && text_bytes == 0 &&
           (header->deadline_ns | header->invocation | header->checkpoint | header->flags) == 0;
}

static rfaas_rc send_encoded(rfaas_channel *channel, rfaas_header *header, const struct iovec *segments, size_t n_segments,
                             const void *text, size_t text_bytes, void *cookie)
{
    size_t head_bytes = (size_t)header->words * 8;
    if (!make_head_room(channel, head_bytes))
        return RFAAS_NO_MEMORY;
    rfaas_head_encode(channel->head_room, head_bytes, header, header->in_size, segments, n_segments, text, text_bytes);
    const rfaas_outgoing out = {channel->head_room, head_bytes, segments, n_segments, header->in_size, cookie};
    return channel->medium->send(channel, &out);
}

rfaas_rc rfaas_channel_send(rfaas_channel *channel, rfaas_header *header, const struct iovec *segments,
                            size_t n_segments, const void *text, size_t text_bytes, void *cookie)
{
    if (channel->closed || channel->said_bye)
        return RFAAS_CLOSED;
    if (channel->tx_end != RFAAS_OK)
        return channel->tx_end;
    size_t head_bytes = rfaas_head_size(header, segments, n_segments, text_bytes, &header->in_size);
    if (head_bytes == 0 || header->in_size > channel->max_payload_bytes)
        return RFAAS_TOO_LARGE;
    if (rfaas_kind_is_credited(header->kind) && channel->tx_credits == 0)
        return RFAAS_NO_CREDIT;
    header->words = (uint16_t)(head_bytes / 8);
    rfaas_rc rc = RFAAS_AGAIN;
    if (channel->medium->send_small != NULL && is_small(channel, header, segments, n_segments, text_bytes))
        rc = channel->medium->send_small(channel, header, segments, (uint32_t)n_segments);
    if (rc == RFAAS_AGAIN)
        rc = send_encoded(channel, header, segments, n_segments, text, text_bytes, cookie);
    if (rc == RFAAS_OK || rc == RFAAS_QUEUED)
        account_sent(channel, header);
    else if (rc == RFAAS_BROKEN)
        channel->tx_end = RFAAS_BROKEN;
    return rc;
}

rfaas_rc rfaas_channel_flush(rfaas_channel *channel, uint64_t budget_bytes)
{
    if (channel->closed)
        return RFAAS_CLOSED;
    if (channel->tx_end != RFAAS_OK)
        return channel->tx_end;
    if (channel->queued_frames == 0)
        return RFAAS_OK;
    rfaas_rc rc = channel->medium->flush(channel, budget_bytes);
    if (rc == RFAAS_BROKEN)
        channel->tx_end = RFAAS_BROKEN;
    return rc;
}

/* ERROR about a frame that was not delivered; it gives the credit back that the frame had used. */
static rfaas_rc answer_error(rfaas_channel *channel, const rfaas_frame *frame, uint16_t status, const char *text,
                             uint16_t credits)
{
    if (channel->tx_end != RFAAS_OK || channel->said_bye)
        return RFAAS_OK;
    if (channel->queued_frames > UNREAD_ANSWERS_MAX)
        return rfaas_channel_broken(channel, "the peer reads no answer to frames that can't be understood", 0);
    rfaas_header header = {
        .kind = RFAAS_KIND_ERROR, .status = status, .call_id = frame->header.call_id, .credits = credits};
    rfaas_rc rc = rfaas_channel_send(channel, &header, NULL, 0, text, strlen(text), NULL);
    if (rc == RFAAS_NO_MEMORY)
        return rfaas_channel_broken(channel, "no memory for an answer", 0);
    return RFAAS_OK; /* a medium that fails here is noticed by the reading that goes on */
}

static rfaas_rc drop_unknown(rfaas_channel *channel, const rfaas_frame *frame, uint16_t credits)
{
    char text[64];
    if (!rfaas_kind_is_known(frame->header.kind)) {
        snprintf(text, sizeof text, "kind %u is not known here", frame->header.kind);
        return answer_error(channel, frame, RFAAS_STATUS_UNKNOWN_KIND, text, credits);
    }
    snprintf(text, sizeof text, "extension 0x%04x is not known here", frame->unknown_extension);
    return answer_error(channel, frame, RFAAS_STATUS_UNKNOWN_EXTENSION, text, credits);
}

static void release_frame(rfaas_frame *frame)
{
    if (frame->buffer != NULL)
        frame->memory.release(frame->memory.context, frame->buffer, frame->buffer_bytes);
    frame->buffer = NULL;
}

/* OK: for the owner. AGAIN: dealt with here. CLOSED, BROKEN: the end. */
static rfaas_rc on_frame(rfaas_channel *channel, rfaas_frame *frame)
{
    const rfaas_header *header = &frame->header;
    rfaas_rc rc = RFAAS_OK;
    bool credited = rfaas_kind_is_credited(header->kind);
    channel->tx_credits = add_credits(channel->tx_credits, header->credits);
    channel->statistics.frames_received++;
    channel->statistics.payload_bytes_received += header->in_size;
    if (credited && channel->rx_credits == 0) {
        rc = answer_error(channel, frame, RFAAS_STATUS_BAD_FRAME, "sent without a credit", 0);
    } else {
        channel->rx_credits -= credited;
        if (frame->dropped)
            rc = drop_unknown(channel, frame, credited);
        else if (header->kind != RFAAS_KIND_BYE)
            return RFAAS_OK;
    }
    release_frame(frame);
    if (header->kind == RFAAS_KIND_BYE && !frame->dropped) {
        set_why(channel, "the peer said BYE");
        return RFAAS_CLOSED;
    }
    channel->statistics.frames_dropped++;
    return rc == RFAAS_OK ? RFAAS_AGAIN : rc;
}

/* Nothing arrives any more, so nothing that is sent has a reader. */
static rfaas_rc end(rfaas_channel *channel, rfaas_rc rc)
{
    set_why(channel, "the peer closed the channel");
    channel->rx_end = channel->tx_end == RFAAS_BROKEN ? RFAAS_BROKEN : rc;
    if (channel->tx_end == RFAAS_OK)
        channel->tx_end = rc;
    return channel->rx_end;
}

/* The next frame from the medium that is the owner's business. */
static rfaas_rc receive(rfaas_channel *channel, uint64_t budget_bytes, rfaas_frame *frame)
{
    if (channel->rx_end != RFAAS_OK)
        return channel->rx_end;
    rfaas_channel_flush(channel, budget_bytes); /* if that breaks, what has arrived still comes first */
    for (int dropped = 0; dropped < DROPPED_IN_ONE_POLL; dropped++) {
        rfaas_rc rc = channel->medium->receive(channel, budget_bytes);
        if (rc == RFAAS_OK) {
            rfaas_receiver_take(&channel->receiver, frame);
            rc = on_frame(channel, frame);
            if (rc == RFAAS_AGAIN)
                continue;
        }
        if (rc == RFAAS_AGAIN && channel->tx_end != RFAAS_OK)
            rc = channel->tx_end;
        return rc == RFAAS_CLOSED || rc == RFAAS_BROKEN ? end(channel, rc) : rc;
    }
    return RFAAS_MORE;
}

rfaas_rc rfaas_channel_poll(rfaas_channel *channel, uint64_t budget_bytes, rfaas_frame *frame)
{
    if (channel->closed)
        return RFAAS_CLOSED;
    if (channel->ahead.first == NULL)
        return receive(channel, budget_bytes, frame);
    rfaas_channel_flush(channel, budget_bytes);
    rfaas_ahead_take(&channel->ahead, frame);
    return RFAAS_OK;
}

static rfaas_rc give_back(rfaas_channel *channel, rfaas_frame *request)
{
    rfaas_header header = {.kind = RFAAS_KIND_TAKEN, .credits = 1, .call_id = request->header.call_id};
    release_frame(request);
    if (!rfaas_ahead_drop(&channel->ahead, header.call_id))
        return RFAAS_OK;
    rfaas_rc rc = rfaas_channel_send(channel, &header, NULL, 0, NULL, 0, NULL);
    return rc == RFAAS_NO_MEMORY ? rfaas_channel_broken(channel, "no memory for an answer", 0) : RFAAS_OK;
}

rfaas_rc rfaas_channel_read_ahead(rfaas_channel *channel, uint64_t budget_bytes)
{
    rfaas_frame frame;
    if (channel->closed)
        return RFAAS_CLOSED;
    while (!rfaas_ahead_is_full(&channel->ahead)) {
        rfaas_rc rc = receive(channel, budget_bytes, &frame);
        if (rc == RFAAS_CLOSED || rc == RFAAS_BROKEN)
            rfaas_ahead_fini(&channel->ahead); /* nobody is there for whom to work on it */
        if (rc != RFAAS_OK)
            return rc;
        if (frame.header.kind == RFAAS_KIND_TAKE_BACK && frame.header.call_id != 0)
            rc = give_back(channel, &frame);
        else if (!rfaas_ahead_keep(&channel->ahead, &frame)) {
            release_frame(&frame);
            rc = rfaas_channel_broken(channel, "no memory for a frame that was read ahead", 0);
        }
        if (rc != RFAAS_OK)
            return end(channel, rc);
    }
    return RFAAS_MORE;
}

rfaas_rc rfaas_channel_wait(rfaas_channel *channel, int64_t timeout_ns)
{
    if (channel->closed)
        return RFAAS_CLOSED;
    if (channel->ahead.first != NULL || channel->rx_end != RFAAS_OK)
        return RFAAS_OK;
    return channel->medium->wait(channel, timeout_ns);
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static uint32_t looks_a_clock(const rfaas_channel *channel)
{
    return channel->medium->looks_a_clock > 0 ? channel->medium->looks_a_clock : LOOKS_A_CLOCK;
}

static rfaas_rc look_again_and_again(const rfaas_channel *channel, uint32_t looks)
{
    if (channel->closed)
        return RFAAS_CLOSED;
    if (channel->ahead.first != NULL || channel->rx_end != RFAAS_OK)
        return RFAAS_OK;
    bool is_memory = channel->medium->looks_a_clock == 0; /* elsewhere a look takes long enough by itself */
    for (uint32_t look = 0; look < looks; look++) {
        if (channel->medium->ready(channel))
            return RFAAS_OK;
        if (is_memory)
            relax();
    }
    return RFAAS_AGAIN;
}

rfaas_rc rfaas_channel_look(const rfaas_channel *channel)
{
    uint32_t first_looks = channel->medium->first_looks;
    return look_again_and_again(channel, first_looks > 0 ? first_looks : looks_a_clock(channel));
}

rfaas_rc rfaas_channel_spin(const rfaas_channel *channel, int64_t spin_ns)
{
    int64_t start_ns = 0;
    for (;;) {
        rfaas_rc rc = look_again_and_again(channel, looks_a_clock(channel));
        if (rc != RFAAS_AGAIN)
            return rc;
        int64_t at_ns = now_ns();
        if (start_ns == 0)
            start_ns = at_ns;
        if (at_ns - start_ns >= spin_ns)
            return RFAAS_AGAIN;
        if (at_ns - start_ns >= YIELD_AFTER_NS) {
            sched_yield();
            if (now_ns() - at_ns > TAKEN_AWAY_NS)
                return channel->medium->ready(channel) ? RFAAS_OK : RFAAS_AGAIN;
        }
    }
}

bool rfaas_channel_stay_awake(rfaas_channel *channel, bool on)
{
    if (channel->closed || channel->rx_end != RFAAS_OK)
        return true;
    bool busy = channel->medium->stay_awake != NULL && channel->medium->stay_awake(channel, on);
    return busy || channel->ahead.first != NULL;
}

bool rfaas_channel_wants_write(const rfaas_channel *channel)
{
    if (!channel->medium->polls_out || channel->closed || channel->rx_end != RFAAS_OK)
        return false;
    bool queued = channel->queued_bytes > 0 && channel->tx_end == RFAAS_OK && !channel->tx_waits_for_rx;
    return queued || channel->rx_waits_for_tx;
}

int rfaas_channel_fd(const rfaas_channel *channel)
{
    return channel->closed ? -1 : channel->medium->fd(channel);
}

uint64_t rfaas_channel_unacknowledged_bytes(const rfaas_channel *channel)
{
    if (channel->closed || channel->tx_end != RFAAS_OK)
        return 0;
    return channel->queued_bytes + channel->medium->unacknowledged_bytes(channel);
}

void rfaas_channel_close(rfaas_channel *channel)
{
    if (channel->closed)
        return;
    channel->medium->close(channel);
    channel->closed = true;
    channel->queued_bytes = 0;
    set_why(channel, "closed here");
}

void rfaas_channel_free(rfaas_channel *channel)
{
    if (channel == NULL)
        return;
    rfaas_channel_close(channel);
    channel->medium->free(channel);
}

const char *rfaas_channel_why(const rfaas_channel *channel)
{
    return channel->why;
}
