/* core_parts.h - what the parts of the client core know of each other. For client_core.c, core_channels.c, core_target.c,
 * failures.c alone. */
#ifndef RFAAS_CORE_PARTS_H
#define RFAAS_CORE_PARTS_H

#include "client_core.h"

/* Reason codes that decide something (001 section 6). */
enum {
    REASON_NONE = 0,
    REASON_NODE_DOWN = 3,
    REASON_QUOTA = 8,
    REASON_PARTITION = 13,
    REASON_WORKER_CRASHED = 14,
    REASON_WORKER_EXITED = 15,
    REASON_AGENT_LOST = 16,
    REASON_CALL_TIMEOUT = 17,
    REASON_CALL_INTERRUPTED = 18,
    REASON_MEMORY_LIMIT = 19,
    REASON_MEMORY_EXHAUSTED = 20,
    REASON_PROCESS_LIMIT = 21,
};

/* client_core.c: calls */
void call_resolve(client_core *core, rfaas_call *call, int code, rfaas_error *failure);
void call_fail(client_core *core, rfaas_call *call, int code, rfaas_error *failure);
void call_again(client_core *core, rfaas_call *call); /* proven not started, or paid for: to the front of the queue */
void call_pause(client_core *core, rfaas_call *call, int64_t now_ns);
void call_fail_waiting(client_core *core, const rfaas_error *why);
void step_end(client_core *core, int64_t now_ns);

/* core_channels.c: channels, their ends, and what becomes of the call on them */
void channel_make_busy(client_core *core, core_channel *channel);
void channel_make_useless(client_core *core, core_channel *channel); /* nothing is sent on it any more */
void channel_abandon(client_core *core, core_channel *channel); /* its call got an end without it: nothing may come now */
void channel_on_due(client_core *core, core_channel *channel, int64_t now_ns);
void channels_condemn_all(client_core *core, const verdict *said, int64_t now_ns);
bool channels_any_serving(const client_core *core);

/* core_target.c: how many workers are asked for, and the session process that is asked */
void target_update(client_core *core, int64_t now_ns);
void target_on_tick(client_core *core, int64_t now_ns);
int64_t target_due_ns(const client_core *core);

/* failures.c */
__attribute__((format(printf, 3, 4))) void failure_says(rfaas_error *failure, const char *hint, const char *form, ...);

#endif
