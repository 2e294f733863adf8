/* region_server.c - the side that has the memory; see region.h. */
#include <string.h>

#include "region_span.h"

enum {
    TURN_BYTES = 16 << 20, /* moved before the channel is asked again */
    TURN_REQUESTS = 256,   /* before the owner gets its turn */
};

static bool is_in(const rfaas_region *region, uint64_t offset, uint64_t size_bytes)
{
    return size_bytes > 0 && offset < region->size_bytes && size_bytes <= region->size_bytes - offset;
}

static bool is_ours(const rfaas_region_server *server, const rfaas_header *header)
{
    return header->lease_seq == server->lease_seq && header->epoch == server->epoch;
}

/* The receiver's memory: the place of a WRITE that is in order, else as always. The head was verified. */
static void *land(void *context, size_t size_bytes)
{
    const rfaas_region_server *server = context;
    const rfaas_frame *frame = &server->channel->receiver.frame;
    const rfaas_header *header = &frame->header;
    if (header->kind == RFAAS_KIND_WRITE && frame->n_segments == 1 && is_ours(server, header) &&
        is_in(server->region, header->deadline_ns, header->in_size))
        return server->region->bytes + header->deadline_ns;
    return rfaas_memory_default.allocate(NULL, size_bytes);
}

static bool has_landed(void *context, const void *buffer)
{
    const rfaas_region *region = ((const rfaas_region_server *)context)->region;
    const uint8_t *at = buffer;
    return at >= region->bytes && at < region->bytes + region->size_bytes;
}

static void take_off(void *context, void *buffer, size_t size_bytes)
{
    if (!has_landed(context, buffer))
        rfaas_memory_default.release(NULL, buffer, size_bytes);
}

void rfaas_region_server_begin(rfaas_region_server *server)
{
    /* Over shared memory a payload lies in an arena before its head is read: there is nothing to land. */
    if (strcmp(server->channel->name, "shm") != 0)
        server->channel->receiver.memory = (rfaas_memory){land, take_off, server};
}

void rfaas_region_let_go(rfaas_channel *channel, bool (*has_landed)(void *context, const void *buffer), void *context)
{
    rfaas_receiver *receiver = &channel->receiver;
    if (receiver->memory.context != context)
        return;
    receiver->memory = rfaas_memory_default;
    if (receiver->frame.buffer != NULL && receiver->frame.memory.context == context) {
        if (has_landed(context, receiver->frame.buffer))
            receiver->frame.buffer = NULL;
        else
            receiver->frame.memory = rfaas_memory_default;
    }
}

void rfaas_region_server_end(rfaas_region_server *server)
{
    rfaas_region_let_go(server->channel, has_landed, server);
    rfaas_region_spans_end(server);
}

static rfaas_rc refuse(const rfaas_region_server *server, const rfaas_frame *frame)
{
    static const char text[] = "a memory server takes no frame of this kind";
    rfaas_header answer = {.kind = RFAAS_KIND_ERROR,
                           .status = RFAAS_STATUS_BAD_FRAME,
                           .call_id = frame->header.call_id,
                           .credits = rfaas_kind_is_credited(frame->header.kind)};
    return rfaas_channel_send(server->channel, &answer, NULL, 0, text, sizeof text - 1, NULL);
}

static bool is_in_order(const rfaas_region_server *server, const rfaas_frame *frame)
{
    const rfaas_header *header = &frame->header;
    if (header->kind == RFAAS_KIND_WRITE)
        return frame->n_segments == 1 && is_in(server->region, header->deadline_ns, header->in_size);
    return frame->n_segments == 0 && is_in(server->region, header->deadline_ns, header->out_size) &&
           header->out_size <= server->channel->max_payload_bytes;
}

/* The region's own bytes are sent, without a copy here: they stay where they are. */
static rfaas_rc answer(rfaas_region_server *server, const rfaas_frame *frame)
{
    const rfaas_header *header = &frame->header;
    rfaas_header result = {.kind = RFAAS_KIND_RESULT, .call_id = header->call_id, .credits = 1};
    if (!is_ours(server, header))
        result.status = RFAAS_STATUS_STALE;
    else if (!is_in_order(server, frame))
        result.status = RFAAS_STATUS_OUT_OF_RANGE;
    if (result.status != 0)
        return rfaas_channel_send(server->channel, &result, NULL, 0, NULL, 0, NULL);
    uint8_t *at = server->region->bytes + header->deadline_ns;
    server->n_requests++;
    if (header->kind == RFAAS_KIND_WRITE) {
        if (!has_landed(server, frame->segments[0].iov_base))
            memcpy(at, frame->segments[0].iov_base, frame->segments[0].iov_len);
        server->bytes_in += header->in_size;
        return rfaas_channel_send(server->channel, &result, NULL, 0, NULL, 0, NULL);
    }
    server->bytes_out += header->out_size;
    const struct iovec piece = {at, (size_t)header->out_size};
    return rfaas_channel_send(server->channel, &result, &piece, 1, NULL, 0, NULL);
}

static rfaas_rc answer_span(rfaas_region_server *server, const rfaas_frame *frame)
{
    const rfaas_header *header = &frame->header;
    uint64_t offset = header->deadline_ns;
    rfaas_header result = {.kind = RFAAS_KIND_RESULT, .call_id = header->call_id, .credits = 1};
    const uint8_t *answer = NULL;
    if (!is_ours(server, header))
        result.status = RFAAS_STATUS_STALE;
    else if (frame->n_segments != 0 || !is_in(server->region, offset, 1) || offset % RFAAS_REGION_SPAN_BYTES != 0)
        result.status = RFAAS_STATUS_OUT_OF_RANGE;
    else if ((answer = rfaas_region_span_open(server, offset)) == NULL)
        result.status = RFAAS_STATUS_NO_SPAN;
    const struct iovec piece = {(void *)(uintptr_t)answer, RFAAS_REGION_SPAN_ANSWER_BYTES};
    return rfaas_channel_send(server->channel, &result, &piece, answer != NULL, NULL, 0, NULL);
}

static rfaas_rc on_frame(rfaas_region_server *server, rfaas_frame *frame)
{
    rfaas_rc rc = RFAAS_OK;
    switch (frame->header.kind) {
    case RFAAS_KIND_READ:
    case RFAAS_KIND_WRITE: rc = answer(server, frame); break;
    case RFAAS_KIND_SPAN: rc = answer_span(server, frame); break;
    case RFAAS_KIND_CREDIT:
    case RFAAS_KIND_ERROR: break;
    default: rc = refuse(server, frame);
    }
    if (frame->buffer != NULL)
        frame->memory.release(frame->memory.context, frame->buffer, frame->buffer_bytes);
    if (rc == RFAAS_NO_MEMORY) /* an answer that is not sent would be waited for for ever */
        return rfaas_channel_broken(server->channel, "no memory for an answer", 0);
    return rc;
}

rfaas_rc rfaas_region_serve(rfaas_region_server *server, int64_t spin_ns)
{
    for (int n = 0; n < TURN_REQUESTS;) {
        rfaas_frame frame;
        rfaas_rc rc = rfaas_channel_poll(server->channel, TURN_BYTES, &frame);
        if (rc == RFAAS_AGAIN && spin_ns > 0)
            rc = rfaas_channel_spin(server->channel, spin_ns) == RFAAS_AGAIN ? RFAAS_AGAIN : RFAAS_MORE;
        if (rc == RFAAS_MORE)
            continue;
        if (rc != RFAAS_OK)
            return rc;
        rc = on_frame(server, &frame);
        if (rc != RFAAS_OK && rc != RFAAS_QUEUED)
            return rc;
        n++;
    }
    return RFAAS_MORE;
}
