/* fuzz_stream.c - receiver.c: whatever comes in pieces of whatever size, what is delivered was in it. */
#include "fuzz.h"
#include "receiver.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum { LIMIT_BYTES = 1 << 20 };
    rfaas_receiver receiver;
    uint8_t *bytes = copy_of(data, size);
    uint64_t payload_bytes = 0;
    mend_checksums(bytes, size);
    EXPECT(rfaas_receiver_init(&receiver, LIMIT_BYTES));
    size_t step_bytes = size > 0 && bytes[size - 1] > 0 ? bytes[size - 1] : 1;
    for (size_t at = 0; at < size && receiver.state != RFAAS_RECEIVER_FAILED;) {
        size_t left_bytes = size - at < step_bytes ? size - at : step_bytes;
        size_t fed_bytes = rfaas_receiver_feed(&receiver, bytes + at, left_bytes);
        EXPECT(fed_bytes <= left_bytes && (fed_bytes > 0 || receiver.state == RFAAS_RECEIVER_FAILED));
        at += fed_bytes;
        if (receiver.state != RFAAS_RECEIVER_WHOLE)
            continue;
        rfaas_frame frame;
        uint64_t sum = 0;
        rfaas_receiver_take(&receiver, &frame);
        volatile uint8_t last = 0;
        for (uint32_t i = 0; !frame.dropped && i < frame.n_segments; i++) {
            sum += frame.segments[i].iov_len;
            if (frame.segments[i].iov_len > 0)
                last = ((const uint8_t *)frame.segments[i].iov_base)[frame.segments[i].iov_len - 1];
        }
        (void)last;
        EXPECT(frame.dropped || sum == frame.header.in_size);
        payload_bytes += frame.header.in_size;
        EXPECT(payload_bytes <= size);
        if (frame.buffer != NULL)
            frame.memory.release(frame.memory.context, frame.buffer, frame.buffer_bytes);
    }
    rfaas_receiver_fini(&receiver);
    free(bytes);
    return 0;
}
