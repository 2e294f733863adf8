/* region_client.c - the side that reads and writes memory elsewhere; see region.h. */
#include <string.h>
#include <time.h>

#include "region_span.h"

enum {
    TURN_BYTES = 16 << 20,
    SPIN_NS = 50000, /* a server that answers at once has answered by then */
};

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static rfaas_region_pending *find(rfaas_region_client *client, uint64_t call_id)
{
    rfaas_region_pending *pending = &client->pending[call_id % RFAAS_REGION_WINDOW];
    return call_id != 0 && pending->call_id == call_id ? pending : NULL;
}

/* True: the payload of this RESULT is what a READ waits for. */
static bool is_wanted(const rfaas_region_pending *pending, const rfaas_frame *frame)
{
    return pending != NULL && !pending->is_write && frame->header.kind == RFAAS_KIND_RESULT &&
           frame->header.status == 0 && frame->n_segments == 1 && frame->header.in_size == pending->size_bytes;
}

static void *land(void *context, size_t size_bytes)
{
    rfaas_region_client *client = context;
    const rfaas_frame *frame = &client->channel->receiver.frame;
    rfaas_region_pending *pending = find(client, frame->header.call_id);
    if (is_wanted(pending, frame))
        return pending->bytes;
    return rfaas_memory_default.allocate(NULL, size_bytes);
}

static bool has_landed(void *context, const void *buffer)
{
    const rfaas_region_client *client = context;
    for (size_t i = 0; i < RFAAS_REGION_WINDOW; i++)
        if (client->pending[i].call_id != 0 && client->pending[i].bytes == buffer)
            return true;
    return false;
}

static void take_off(void *context, void *buffer, size_t size_bytes)
{
    if (!has_landed(context, buffer))
        rfaas_memory_default.release(NULL, buffer, size_bytes);
}

void rfaas_region_client_begin(rfaas_region_client *client)
{
    if (strcmp(client->channel->name, "shm") != 0)
        client->channel->receiver.memory = (rfaas_memory){land, take_off, client};
}

void rfaas_region_client_end(rfaas_region_client *client)
{
    rfaas_region_let_go(client->channel, has_landed, client);
    rfaas_region_reach_end(client);
}

/* The one thing that the two sides' order does not keep apart: a READ's bytes may be taken when they leave. */
static bool must_wait(const rfaas_region_client *client, uint64_t offset, uint64_t size_bytes)
{
    for (size_t i = 0; i < RFAAS_REGION_WINDOW; i++) {
        const rfaas_region_pending *one = &client->pending[i];
        if (one->call_id != 0 && !one->is_write && offset < one->offset + one->size_bytes &&
            one->offset < offset + size_bytes)
            return true;
    }
    return false;
}

/* Sends one request: OK, AGAIN (not now), CLOSED, BROKEN. */
static rfaas_rc send_request(rfaas_region_client *client, uint8_t kind, const rfaas_region_pending *about)
{
    rfaas_region_pending *free_one = &client->pending[client->next_id % RFAAS_REGION_WINDOW];
    if (free_one->call_id != 0)
        return RFAAS_AGAIN;
    rfaas_header header = {.kind = kind,
                           .call_id = client->next_id,
                           .lease_seq = client->lease_seq,
                           .epoch = client->epoch,
                           .deadline_ns = about->offset,
                           .out_size = about->is_write ? 0 : about->size_bytes};
    const struct iovec piece = {about->bytes, (size_t)about->size_bytes};
    rfaas_rc rc = rfaas_channel_send(client->channel, &header, &piece, about->is_write ? 1 : 0, NULL, 0, NULL);
    if (rc == RFAAS_NO_CREDIT || rc == RFAAS_NO_MEMORY)
        return RFAAS_AGAIN;
    if (rc != RFAAS_OK && rc != RFAAS_QUEUED)
        return rc;
    *free_one = *about;
    free_one->call_id = client->next_id++;
    client->n_pending++;
    client->pending_bytes += about->size_bytes;
    return RFAAS_OK;
}

/* The answer changes how what follows is sent, so that waits. */
static rfaas_rc ask_for_span(rfaas_region_client *client, uint64_t offset)
{
    const rfaas_region_pending about = {.offset = offset - offset % RFAAS_REGION_SPAN_BYTES,
                                        .bytes = client->span_answer,
                                        .size_bytes = sizeof client->span_answer,
                                        .is_span = true};
    rfaas_rc rc = client->n_pending > 0 || client->n_pieces > 0 ? RFAAS_AGAIN : send_request(client, RFAAS_KIND_SPAN, &about);
    return rc == RFAAS_OK ? RFAAS_AGAIN : rc;
}

static rfaas_rc begin_piece(rfaas_region_client *client, const rfaas_region_op *op, rfaas_region_progress *progress)
{
    uint64_t begun_bytes;
    if (client->n_pending > 0)
        return RFAAS_AGAIN; /* nothing else orders it against them */
    rfaas_rc rc = rfaas_region_reach_begin(client, op->offset + progress->sent_bytes, op->bytes + progress->sent_bytes,
                                           op->size_bytes - progress->sent_bytes, op->is_write, &begun_bytes);
    if (rc == RFAAS_OK)
        progress->sent_bytes += begun_bytes;
    return rc;
}

/* OK: one request more is under way. AGAIN: not now. */
static rfaas_rc send_one(rfaas_region_client *client, const rfaas_region_op *op, rfaas_region_progress *progress)
{
    uint64_t left_bytes = op->size_bytes - progress->sent_bytes;
    uint64_t size_bytes = left_bytes < RFAAS_REGION_PIECE_BYTES ? left_bytes : RFAAS_REGION_PIECE_BYTES;
    uint64_t offset = op->offset + progress->sent_bytes;
    rfaas_region_way way = rfaas_region_reach_way(client, offset, left_bytes);
    if (way != RFAAS_REGION_BY_FRAMES)
        return way == RFAAS_REGION_ASK ? ask_for_span(client, offset) : begin_piece(client, op, progress);
    bool is_full = client->n_pending > 0 && client->pending_bytes + size_bytes > RFAAS_REGION_WINDOW_BYTES;
    if (is_full || client->n_pieces > 0 || (op->is_write && must_wait(client, offset, size_bytes)))
        return RFAAS_AGAIN;
    const rfaas_region_pending about = {
        .offset = offset, .bytes = op->bytes + progress->sent_bytes, .size_bytes = size_bytes, .is_write = op->is_write};
    rfaas_rc rc = send_request(client, op->is_write ? RFAAS_KIND_WRITE : RFAAS_KIND_READ, &about);
    if (rc == RFAAS_OK)
        progress->sent_bytes += size_bytes;
    return rc;
}

static rfaas_rc send_all(rfaas_region_client *client, const rfaas_region_op *ops, size_t n_ops,
                         rfaas_region_progress *progress)
{
    while (progress->op < n_ops) {
        if (progress->sent_bytes == ops[progress->op].size_bytes) {
            progress->op++;
            progress->sent_bytes = 0;
            continue;
        }
        rfaas_rc rc = send_one(client, &ops[progress->op], progress);
        if (rc != RFAAS_OK)
            return rc == RFAAS_AGAIN ? RFAAS_OK : rc;
    }
    return RFAAS_OK;
}

static rfaas_rc on_result(rfaas_region_client *client, const rfaas_frame *frame, rfaas_region_progress *progress)
{
    rfaas_region_pending *pending = find(client, frame->header.call_id);
    if (pending == NULL)
        return rfaas_channel_broken(client->channel, "the peer answered what was not asked", 0);
    if (frame->header.status != 0 && pending->is_span) {
        rfaas_region_reach_answer(client, pending->offset, true);
    } else if (frame->header.status != 0) {
        if (client->status == 0)
            client->status = frame->header.status;
    } else if (is_wanted(pending, frame)) {
        if (frame->segments[0].iov_base != pending->bytes)
            memcpy(pending->bytes, frame->segments[0].iov_base, (size_t)pending->size_bytes);
        if (pending->is_span)
            rfaas_region_reach_answer(client, pending->offset, false);
        else
            progress->done_bytes += pending->size_bytes;
    } else if (pending->is_write && frame->header.in_size == 0) {
        progress->done_bytes += pending->size_bytes;
    } else {
        return rfaas_channel_broken(client->channel, "the peer sent another number of bytes than were asked for", 0);
    }
    return RFAAS_OK;
}

/* A server that does not know SPAN is one of another version. */
static void on_error(rfaas_region_client *client, const rfaas_frame *frame)
{
    const rfaas_region_pending *pending = find(client, frame->header.call_id);
    if (pending != NULL && pending->is_span)
        client->takes_no_span = true;
    else if (pending != NULL && client->status == 0)
        client->status = frame->header.status;
}

/* The frame's buffer is given back before its request is forgotten: it may be the request's own. */
static rfaas_rc on_frame(rfaas_region_client *client, rfaas_frame *frame, rfaas_region_progress *progress)
{
    rfaas_rc rc = RFAAS_OK;
    uint64_t call_id = frame->header.call_id;
    uint8_t kind = frame->header.kind;
    if (kind == RFAAS_KIND_RESULT)
        rc = on_result(client, frame, progress);
    else if (kind == RFAAS_KIND_ERROR)
        on_error(client, frame);
    if (frame->buffer != NULL)
        frame->memory.release(frame->memory.context, frame->buffer, frame->buffer_bytes);
    rfaas_region_pending *pending = find(client, call_id);
    if (rc == RFAAS_OK && pending != NULL && (kind == RFAAS_KIND_RESULT || kind == RFAAS_KIND_ERROR)) {
        pending->call_id = 0;
        client->n_pending--;
        client->pending_bytes -= pending->size_bytes;
    }
    return rc;
}

/* Takes what has come: OK (something was), AGAIN, or the end. */
static rfaas_rc take_some(rfaas_region_client *client, rfaas_region_progress *progress)
{
    rfaas_frame frame;
    rfaas_rc rc = rfaas_channel_poll(client->channel, TURN_BYTES, &frame);
    if (rc == RFAAS_MORE)
        return RFAAS_OK;
    return rc == RFAAS_OK ? on_frame(client, &frame, progress) : rc;
}

/* A short answer comes while one looks for it; what waits for room in a socket takes longer. */
static bool must_sleep(rfaas_region_client *client)
{
    if (client->n_pieces > 0)
        return rfaas_region_reach_may_sleep(client);
    return rfaas_channel_wants_write(client->channel) || rfaas_channel_spin(client->channel, SPIN_NS) == RFAAS_AGAIN;
}

rfaas_rc rfaas_region_transfer(rfaas_region_client *client, const rfaas_region_op *ops, size_t n_ops,
                               rfaas_region_progress *progress, int64_t for_ns, bool stop)
{
    int64_t until_ns = now_ns() + for_ns;
    for (;;) {
        bool sends = !stop && client->status == 0;
        rfaas_rc rc = sends ? send_all(client, ops, n_ops, progress) : RFAAS_OK;
        if (rc != RFAAS_OK)
            return rc;
        if (client->n_pending == 0 && client->n_pieces == 0 && (!sends || progress->op == n_ops))
            return RFAAS_OK;
        rc = rfaas_region_reach_take(client, progress, SPIN_NS);
        if (rc == RFAAS_OK && now_ns() < until_ns)
            continue; /* frames are looked at when nothing is done: then the peer may have ended */
        if (rc != RFAAS_OK && rc != RFAAS_AGAIN)
            return rc;
        do
            rc = take_some(client, progress);
        while (rc == RFAAS_OK && client->n_pending > RFAAS_REGION_WINDOW / 2 && now_ns() < until_ns); /* batches */
        if (rc != RFAAS_OK && rc != RFAAS_AGAIN)
            return rc;
        int64_t left_ns = until_ns - now_ns();
        if (left_ns <= 0)
            return RFAAS_AGAIN;
        if (rc == RFAAS_AGAIN && must_sleep(client) &&
            rfaas_channel_wait(client->channel, left_ns) == RFAAS_CLOSED)
            return RFAAS_CLOSED;
    }
}
