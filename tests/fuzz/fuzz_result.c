/* fuzz_result.c - librfaas's results.c: what a frame means for the call that waits. It ends once, or waits on, and no byte
 * beyond the caller's buffer is written.
 */
#include "client.h"
#include "fuzz.h"

static void drain(client_core *core)
{
    for (effect next = core_next(core); next.kind != EFFECT_NONE; next = core_next(core))
        ;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum { OUT_BYTES = 24, LIMIT_BYTES = 1 << 20 };
    static rfaas_client client;
    static rfaas_call call;
    static port from;
    rfaas_receiver receiver;
    uint8_t *bytes = copy_of(data, size), *out = malloc(OUT_BYTES);
    core_lease *lease = calloc(1, sizeof *lease);
    EXPECT(out != NULL && lease != NULL && rfaas_receiver_init(&receiver, LIMIT_BYTES));
    memset(&client, 0, sizeof client);
    memset(&call, 0, sizeof call);
    memset(&from, 0, sizeof from);
    core_init(&client.core, 1, 1000000000, 1);
    core_session_up(&client.core, true);
    core_lease_granted(&client.core, lease);
    EXPECT(timers_reserve(&client.core.timers) && timers_reserve(&client.core.timers));
    from.client = call.client = &client;
    from.core.number = 1;
    core_channel_opened(&client.core, &from.core);
    core_credits(&client.core, &from.core, 1);
    call.out = out;
    call.out_capacity = OUT_BYTES;
    core_submit(&client.core, &call, 1000000);
    drain(&client.core);
    EXPECT(from.core.call == &call);
    if (size >= RFAAS_HEADER_BYTES) {
        bytes[1] = size % 8 == 0 ? RFAAS_KIND_ERROR : RFAAS_KIND_RESULT;
        memcpy(bytes + 16, &call.call_id, sizeof call.call_id);
    }
    mend_checksums(bytes, size);
    rfaas_receiver_feed(&receiver, bytes, size);
    if (receiver.state == RFAAS_RECEIVER_WHOLE) {
        rfaas_frame frame;
        rfaas_receiver_take(&receiver, &frame);
        if (!frame.dropped)
            result_take(&from, &frame, 2000000);
        if (frame.buffer != NULL)
            frame.memory.release(frame.memory.context, frame.buffer, frame.buffer_bytes);
        EXPECT(call.state != CALL_DONE || call.code == RFAAS_SUCCESS || call.failure != NULL);
        EXPECT(call.out_size <= OUT_BYTES);
    }
    drain(&client.core);
    rfaas_error *failure = call.state == CALL_DONE ? call.failure : NULL;
    free(failure);
    call.failure = NULL;
    core_fini(&client.core);
    rfaas_receiver_fini(&receiver);
    free(bytes);
    free(out);
    return 0;
}
