/* results.c - what a RESULT, or an ERROR about a call, means to who made the call. Spec: 001 sections 2, 4. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client.h"
#include "core_parts.h"

/* Status of a RESULT (001 section 4). */
enum {
    STATUS_OK = 0,
    STATUS_EXCEPTION = 1,
    STATUS_BAD_FUNCTION = 2,
    STATUS_BAD_ARGUMENTS = 3,
    STATUS_BAD_RESULT = 4,
    STATUS_TOO_LARGE = 5,
    STATUS_STALE = 6,
    STATUS_NOT_STARTED = 7,
    STATUS_FUNCTION_ERROR = 8,
};

/* An error of the call that runs here, with what the channel says of it. */
static rfaas_error *failure_on(const port *from, int code, int phase)
{
    rfaas_error *failure = failure_of(from->core.call, code, phase);
    if (failure == NULL)
        return NULL;
    failure->may_have_run = phase == RFAAS_PHASE_DONE;
    failure->epoch = from->core.epoch;
    memcpy(failure->lease_id, from->core.lease, sizeof failure->lease_id);
    memcpy(failure->node, from->core.node, sizeof failure->node);
    return failure;
}

static void end_badly(port *from, int code, rfaas_error *failure)
{
    core_answered(&from->client->core, &from->core, code, failure);
}

static void take_ok(port *from, const rfaas_frame *frame)
{
    rfaas_call *call = from->core.call;
    uint64_t size = frame->n_segments > 0 ? frame->segments[0].iov_len : 0;
    if (frame->n_segments > 1 || size > call->out_capacity) {
        rfaas_error *failure = failure_on(from, RFAAS_ERROR_PAYLOAD_TOO_LARGE, RFAAS_PHASE_DONE);
        failure_says(failure, "give it more room", "the output has %llu bytes, there is room for %llu",
                     (unsigned long long)frame->header.in_size, (unsigned long long)call->out_capacity);
        if (failure != NULL)
            failure->needed_size = frame->header.in_size;
        end_badly(from, RFAAS_ERROR_PAYLOAD_TOO_LARGE, failure);
        return;
    }
    if (size > 0 && frame->segments[0].iov_base != call->out)
        memcpy(call->out, frame->segments[0].iov_base, size);
    call->out_size = size;
    core_answered(&from->client->core, &from->core, RFAAS_SUCCESS, NULL);
}

static void take_too_large(port *from, const rfaas_frame *frame)
{
    rfaas_error *failure = failure_on(from, RFAAS_ERROR_PAYLOAD_TOO_LARGE, RFAAS_PHASE_DONE);
    failure_says(failure, "give it more room", "the output would have %llu bytes, there is room for %llu",
                 (unsigned long long)frame->header.out_size, (unsigned long long)from->core.call->out_capacity);
    if (failure != NULL)
        failure->needed_size = frame->header.out_size;
    end_badly(from, RFAAS_ERROR_PAYLOAD_TOO_LARGE, failure);
}

static void take_function_error(port *from, const rfaas_frame *frame)
{
    uint32_t bits = 0;
    int32_t value;
    if (frame->n_segments > 0 && frame->segments[0].iov_len == sizeof bits) {
        const uint8_t *at = frame->segments[0].iov_base;
        bits = (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
    }
    memcpy(&value, &bits, sizeof value);
    rfaas_error *failure = failure_on(from, RFAAS_ERROR_FUNCTION, RFAAS_PHASE_DONE);
    failure_says(failure, "", "the function returned %d", value);
    if (failure != NULL)
        failure->value = value;
    end_badly(from, RFAAS_ERROR_FUNCTION, failure);
}

/* Segment 0 is msgpack {"type", "message", "traceback"} with perhaps "hint". */
static void take_exception(port *from, const rfaas_frame *frame, int code, int phase, const char *what)
{
    rfaas_error *failure = failure_on(from, code, phase);
    char type[80] = "", message[380] = "", hint[sizeof failure->hint] = "";
    pack_value about;
    if (frame->n_segments > 0 && pack_read(frame->segments[0].iov_base, frame->segments[0].iov_len, &about)) {
        pack_value part = pack_find(&about, "type");
        pack_copy_text(&part, type, sizeof type);
        part = pack_find(&about, "message");
        pack_copy_text(&part, message, sizeof message);
        part = pack_find(&about, "hint");
        pack_copy_text(&part, hint, sizeof hint);
    }
    failure_says(failure, hint, "%s%s%s%s", what, type, message[0] != '\0' && type[0] != '\0' ? ": " : "", message);
    end_badly(from, code, failure);
}

static void take_refusal(port *from, const rfaas_frame *frame)
{
    rfaas_error *failure = failure_on(from, RFAAS_ERROR_PROTOCOL, RFAAS_PHASE_SENT);
    failure_says(failure, "", "the worker refused the call: %.*s", (int)frame->text_bytes, (const char *)frame->text);
    end_badly(from, RFAAS_ERROR_PROTOCOL, failure);
}

void result_take(port *from, const rfaas_frame *frame, int64_t now_ns)
{
    const rfaas_call *call = from->core.call;
    if (call == NULL || call->call_id != frame->header.call_id) {
        from->client->core.counters.late_results += frame->header.kind == RFAAS_KIND_RESULT;
        return;
    }
    if (frame->header.kind == RFAAS_KIND_ERROR) {
        take_refusal(from, frame);
        return;
    }
    switch (frame->header.status) {
    case STATUS_OK:
        take_ok(from, frame);
        break;
    case STATUS_EXCEPTION:
        take_exception(from, frame, RFAAS_ERROR_REMOTE, RFAAS_PHASE_DONE, "");
        break;
    case STATUS_BAD_FUNCTION:
        take_exception(from, frame, RFAAS_ERROR_BAD_FUNCTION, RFAAS_PHASE_STARTED, "the worker can't load the function: ");
        break;
    case STATUS_BAD_ARGUMENTS:
        take_exception(from, frame, RFAAS_ERROR_REMOTE, RFAAS_PHASE_STARTED, "the worker can't use the input: ");
        break;
    case STATUS_BAD_RESULT:
        take_exception(from, frame, RFAAS_ERROR_REMOTE, RFAAS_PHASE_DONE, "the function's result can't be sent: ");
        break;
    case STATUS_TOO_LARGE:
        take_too_large(from, frame);
        break;
    case STATUS_FUNCTION_ERROR:
        take_function_error(from, frame);
        break;
    case STATUS_STALE:
    case STATUS_NOT_STARTED:
        core_given_back(&from->client->core, &from->core, frame->header.status == STATUS_STALE,
                        now_ns != 0 ? now_ns : client_now_ns());
        break;
    default:
        take_exception(from, frame, RFAAS_ERROR_PROTOCOL, RFAAS_PHASE_SENT, "the worker answered what this version does not know");
    }
}
