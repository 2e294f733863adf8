/* client_core.h - deciding what a client does: which call goes to which worker when, and how each ends. Sans-IO.
 *
 * The same machine as rfaas/client/core.py, written a second time from the specification (001 sections 3, 5, 6; 004
 * section 3), for callers in C: one call a channel at a time, no chores, no examination of exceptions. No I/O, clock,
 * lock or allocation in here, so no step can fail: whoever makes calls and channels makes room for their timers.
 *
 * Events are functions that take the time; what is to be done then is taken out one by one by core_next(). Times are
 * nanoseconds of a clock that never goes back; 0 means none.
 *
 *   call:     FREE -> QUEUED <-> SENT -> DONE, with PAUSED -> QUEUED between two runs
 *   session:  DOWN -> JOINING -> UP -> DOWN, JOINING -> PAUSING -> DOWN
 */
#ifndef RFAAS_CLIENT_CORE_H
#define RFAAS_CLIENT_CORE_H

#include <stdbool.h>

#include "rfaas.h"
#include "timers.h"

typedef struct core_channel core_channel;
typedef struct core_lease core_lease;

typedef enum call_state { CALL_FREE, CALL_QUEUED, CALL_SENT, CALL_PAUSED, CALL_DONE } call_state;

/* How often a call may run, and how long it may live. */
typedef struct call_settings {
    bool idempotent;
    uint32_t retries;
    int64_t timeout_ns; /* 0: no limit */
} call_settings;

struct rfaas_call {
    timer timer; /* first: the heap knows calls by it */
    call_state state;
    rfaas_call *next, *previous; /* in the queue; the free ones by `next` */
    rfaas_client *client;
    const rfaas_function *function;
    const void *in;
    uint64_t in_size;
    void *out; /* the caller's; written by the I/O when a result comes */
    uint64_t out_capacity, out_size;
    call_settings settings;
    int64_t submitted_ns, deadline_ns, resume_ns, overdue_ns; /* end of a pause; end of patience after an interrupt */
    uint64_t call_id, first_call_id;                          /* of the present dispatch, 0: none */
    uint32_t dispatches, retries_used, reclaims_used, kills;
    bool may_have_run, interrupted, interrupt_unsaid;
    core_channel *channel; /* while SENT */
    void *checkpoint; /* malloc's: what the function saved last */
    size_t checkpoint_bytes;
    rfaas_error *failure; /* malloc's; NULL while there is none, or no memory for it */
    int code;             /* once DONE */
    rfaas_call *next_made; /* of all that the client ever made */
};

/* What a farewell or a loss says of a channel. */
typedef struct verdict {
    int reason;
    bool known;  /* last_started and last_done are what the agent read */
    bool silent; /* nobody said anything */
    uint64_t last_started, last_done;
    int exit_status, signal; /* -1: unknown; 0: none */
    double grace_s;          /* negative: there was no notice */
    char hint[256];
} verdict;

typedef enum channel_wait { WAIT_NOTHING, WAIT_WORD, WAIT_FAREWELL, WAIT_END } channel_wait;

/* One channel; the I/O's own part of it begins with this. */
struct core_channel {
    timer timer; /* first */
    core_channel *next, *previous;
    core_channel *next_idle, *previous_idle;
    bool is_idle, usable, greeted, ended, condemned, gone; /* gone: settled, nothing comes of it any more */
    uint32_t credits;
    rfaas_call *call; /* sent and not answered */
    channel_wait wait;
    int64_t ended_ns;
    verdict verdict;
    uint64_t number, lease_seq, epoch, slot, generation;
    uint8_t lease[16];
    char node[64];
    core_channel *next_gone;
};

/* A lease as the session process told it, for the next one (004 section 3, resume). */
struct core_lease {
    core_lease *next;
    uint8_t lease[16], slice[32];
    size_t slice_bytes;
    uint64_t lease_seq, epoch, workers;
    double ttl_s;
    char address[256], node[64];
    bool noticed;
};

typedef enum session_state { SESSION_DOWN, SESSION_JOINING, SESSION_UP, SESSION_PAUSING } session_state;

typedef struct client_core {
    timers timers;
    rfaas_call *queue, *queue_last;
    core_channel *channels, *idle;
    core_channel *gone; /* to be closed */
    rfaas_call *to_send, *to_send_last;
    core_lease *leases;
    session_state session;
    bool embedded, closing, wants_join, interrupts_unsaid;
    uint32_t max_workers, want, told;
    int64_t acquire_timeout_ns, quiet_ns, content_ns, starved_since_ns, starved_ns, reconnect_ns;
    uint64_t last_call_id, random;
    uint32_t outstanding; /* calls that are neither FREE nor DONE */
    uint32_t n_busy;      /* of them SENT */
    char why_waiting[256], why_more[256];
    rfaas_client_statistics counters;
} client_core;

/* What is to be done, in this order. */
typedef enum effect_kind {
    EFFECT_NONE,
    EFFECT_CLOSE,     /* `channel` will not be heard of again: close it, free it when nobody looks at it */
    EFFECT_SEND,      /* `call` on `channel`; then core_not_sent() if it could not be sent */
    EFFECT_INTERRUPT, /* ask for the end of call `number` of channel `channel` */
    EFFECT_JOIN,      /* a session process, resuming `leases` */
    EFFECT_WANT,      /* tell the session process that `number` workers are wanted */
} effect_kind;

typedef struct effect {
    effect_kind kind;
    core_channel *channel;
    rfaas_call *call;
    uint64_t number;
} effect;

void core_init(client_core *core, uint32_t max_workers, int64_t acquire_timeout_ns, uint64_t seed);
void core_fini(client_core *core);

/* The next thing to do; NONE: nothing, until another event. To be taken out after each event. */
effect core_next(client_core *core);

/* When core_tick() is needed at the latest; INT64_MAX: not before another event. */
int64_t core_due_ns(const client_core *core);
void core_tick(client_core *core, int64_t now_ns);

/* -- calls -- */

/* Takes a call that is FREE but for what the caller set: function, buffers, settings. `now_ns` may be 0 if it has no
 * time-out and a worker idles (core_has_idle): then no clock is needed. */
void core_submit(client_core *core, rfaas_call *call, int64_t now_ns);
bool core_has_idle(const client_core *core);

/* core_submit() of the only call while a worker idles and there is nothing else to do: the channel on which it is to be sent
 * now, as if an effect said so. NULL: nothing was done. */
core_channel *core_submit_at_once(client_core *core, rfaas_call *call);

/* True: it ends, or is to be ended (see rfaas_cancel). */
bool core_cancel(client_core *core, rfaas_call *call, bool interrupt, int64_t now_ns);

/* A call that is DONE is forgotten and FREE. */
void core_forget(client_core *core, rfaas_call *call);

/* -- channels -- */

/* Adds a channel whose identity is filled in; room for its timer was made. */
void core_channel_opened(client_core *core, core_channel *channel);
void core_credits(client_core *core, core_channel *channel, uint32_t credits);

/* An answer to the call that runs on this channel came: a RESULT that is its end. `code` and, for an error, `failure`
 * (malloc's, or NULL) become the call's. */
void core_answered(client_core *core, core_channel *channel, int code, rfaas_error *failure);

/* RESULT of status STALE (`is_stale`) or NOT_STARTED. */
void core_given_back(client_core *core, core_channel *channel, bool is_stale, int64_t now_ns);

/* A dispatch could not be sent: the channel is of no use (`broken`), or the call can't be sent at all, for `code`. */
void core_not_sent(client_core *core, rfaas_call *call, bool broken, int code, const char *why, int64_t now_ns);

/* The channel was read to its end. */
void core_channel_ended(client_core *core, core_channel *channel, int64_t now_ns);

/* -- the session process -- */

/* Joins one though no call needs it yet; and wants nothing more from any. */
void core_connect(client_core *core);
void core_close(client_core *core);

void core_session_up(client_core *core, bool embedded);
void core_session_lost(client_core *core, int64_t now_ns);
void core_session_failed(client_core *core, const rfaas_error *why, int64_t now_ns);
void core_condemned(client_core *core, uint64_t channel, const verdict *said, int64_t now_ns);
void core_notice(client_core *core, const uint8_t lease[16]);
void core_lease_granted(client_core *core, core_lease *lease); /* malloc's, the core's from then on */
void core_lease_ended(client_core *core, const uint8_t lease[16]);
void core_queued(client_core *core, const char *reason, const char *hint);
void core_denied(client_core *core, const char *code, const char *hint, int64_t now_ns);

/* -- for all who make errors of calls (failures.c) -- */

/* An error of a call with all that the call itself says; malloc's, NULL: no memory. */
rfaas_error *failure_of(const rfaas_call *call, int code, int phase);

/* The error of a call whose channel was condemned, and its code. */
rfaas_error *failure_of_verdict(const rfaas_call *call, const core_channel *channel, int *code);

/* The code of what a verdict means for a call that may have run. */
int code_of_verdict(const verdict *said);

bool code_is_retriable(int code);

#endif
