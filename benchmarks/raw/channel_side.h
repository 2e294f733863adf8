/* channel_side.h - a ping-pong over a channel of rfaas, both sides awake, beside the raw one. */
#ifndef RFAAS_RAW_CHANNEL_SIDE_H
#define RFAAS_RAW_CHANNEL_SIDE_H

#include "measure.h"
#include "rfaas_channel.h"

enum { SPIN_NS = 1000000 };

static void channel_send(void *state, uint8_t *buffer, size_t size_bytes)
{
    rfaas_header header = {.kind = RFAAS_KIND_RESULT, .call_id = 1};
    const struct iovec segment = {buffer, size_bytes};
    rfaas_rc rc = rfaas_channel_send(state, &header, &segment, 1, NULL, 0, NULL);
    while (rc == RFAAS_QUEUED || rc == RFAAS_AGAIN || rc == RFAAS_MORE)
        rc = rfaas_channel_flush(state, UINT64_MAX);
    if (rc != RFAAS_OK)
        fail(rfaas_channel_why(state));
}

static void channel_receive(void *state, uint8_t *buffer, size_t size_bytes)
{
    rfaas_frame frame;
    rfaas_rc rc;
    (void)size_bytes;
    while ((rc = rfaas_channel_poll(state, UINT64_MAX, &frame)) == RFAAS_AGAIN || rc == RFAAS_MORE)
        if (rc == RFAAS_AGAIN)
            rfaas_channel_spin(state, SPIN_NS);
    if (rc != RFAAS_OK)
        fail(rfaas_channel_why(state));
    buffer[0] = *(uint8_t *)frame.buffer; /* read in place: what the other side gets is its own buffer */
    frame.memory.release(frame.memory.context, frame.buffer, frame.buffer_bytes);
}

static ping_pong channel_over(int fd, const rfaas_tcp_options *options)
{
    rfaas_channel *channel;
    if (rfaas_tcp_adopt(fd, options, &channel) != RFAAS_OK)
        fail("rfaas_tcp_adopt");
    rfaas_channel_stay_awake(channel, true);
    return (ping_pong){channel, channel_send, channel_receive};
}

#endif
