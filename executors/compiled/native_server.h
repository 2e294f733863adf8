/* native_server.h - a compiled function as what serves plain requests: from CALL to RESULT without Python in between.
 *
 * In the order of docs/spec/001-invocation.md section 5: STARTED before the function, DONE when its output is there. What
 * is no plain end is told to whoever goes on with that call in the ordinary way.
 */
#ifndef RFAAS_NATIVE_SERVER_H
#define RFAAS_NATIVE_SERVER_H

#include "held.h"
#include "native_call.h"
#include "serving.h"
#include "state_page.h"
#include "ticks.h"

/* Why a call was left. */
typedef enum rfaas_native_left {
    RFAAS_LEFT_INTERRUPTED, /* it was not called, and must not be */
    RFAAS_LEFT_ENDED,       /* `result` is no output to be sent like this; or it may have printed, or closed what is watched */
    RFAAS_LEFT_AT_END,      /* it is interrupted while it ends: `result` is an output, and it did not print */
} rfaas_native_left;

typedef bool (*rfaas_process_check)(void);

typedef struct rfaas_native_server {
    const rfaas_native *function;
    rfaas_output *output;   /* mapped for the largest capacity */
    uint64_t capacity_bytes_max; /* what a request gets that names no capacity, or a larger one */
    uint64_t out_bytes_max;      /* a larger output is left to the caller */
    uint8_t holder_id[16];
    rfaas_ctx *ctx; /* outlives every call: threads that a function leaves may still look at it */
    rfaas_page_slot *slot;
    rfaas_page_usage *usage; /* NULL: the page has no place for it */
    rfaas_process_check is_this_process;
    uint64_t write_ns; /* less than a write to a pipe takes: a function that was faster printed nothing */
    int out_fd, err_fd; /* pipes that prints go to, looked at otherwise; -1: nobody takes them */
    const rfaas_page_output *taken; /* how often the agent took something; NULL: it doesn't say */
    const uint64_t *known_takes;    /* how often it had at the last look */
    rfaas_held watched; /* what answers go through, where that is a descriptor; else its number is -1 */
    rfaas_ticks ticks; /* looked at by whoever has requests served, before it does */
    /* Of the call that was left. */
    rfaas_native_left left;
    rfaas_call_result result;
} rfaas_native_server;

/* For struct rfaas_server: `context` is a rfaas_native_server. Ends the process where the function has forked and the child
 * returned: its parent answers. */
bool rfaas_native_serve(void *context, const rfaas_header *request, const struct iovec *in, struct iovec *answer);

#endif
