/* client_core.c - see client_core.h: calls, how they wait and end, and the order of what is to be done. */
#include "client_core.h"

#include <stdlib.h>
#include <string.h>

#include "core_parts.h"

enum {
    RETRY_DOUBLINGS_MAX = 7,
};

static const int64_t second_ns = 1000000000;
static const int64_t kill_wait_ns = 900000000;       /* an overdue call: its agent kills it and says so */
static const int64_t interrupt_wait_ns = 2000000000; /* an interrupted call, likewise */
static const int64_t retry_pause_ns = 50000000;
static const int64_t retry_pause_max_ns = 5000000000;

void core_init(client_core *core, uint32_t max_workers, int64_t acquire_timeout_ns, uint64_t seed)
{
    memset(core, 0, sizeof *core);
    core->max_workers = max_workers;
    core->acquire_timeout_ns = acquire_timeout_ns;
    core->random = seed | 1;
}

void core_fini(client_core *core)
{
    while (core->leases != NULL) {
        core_lease *next = core->leases->next;
        free(core->leases);
        core->leases = next;
    }
    timers_free(&core->timers);
}

/* ---- the queue ---- */

static void queue_insert(client_core *core, rfaas_call *call, bool front)
{
    call->state = CALL_QUEUED;
    core->counters.queued++;
    call->next = front ? core->queue : NULL;
    call->previous = front ? NULL : core->queue_last;
    if (call->previous != NULL)
        call->previous->next = call;
    else
        core->queue = call;
    if (call->next != NULL)
        call->next->previous = call;
    else
        core->queue_last = call;
}

static void queue_remove(client_core *core, rfaas_call *call)
{
    core->counters.queued--;
    if (call->previous != NULL)
        call->previous->next = call->next;
    else
        core->queue = call->next;
    if (call->next != NULL)
        call->next->previous = call->previous;
    else
        core->queue_last = call->previous;
    call->next = call->previous = NULL;
}

/* ---- when something is due for a call ---- */

static int64_t earlier(int64_t a_ns, int64_t b_ns)
{
    return b_ns != 0 && (a_ns == 0 || b_ns < a_ns) ? b_ns : a_ns;
}

static void set_call_timer(client_core *core, rfaas_call *call)
{
    int64_t deadline_ns = call->deadline_ns;
    if (deadline_ns != 0 && call->state == CALL_SENT)
        deadline_ns += kill_wait_ns;
    int64_t due_ns = earlier(deadline_ns, call->state == CALL_PAUSED ? call->resume_ns : 0);
    due_ns = earlier(due_ns, call->overdue_ns);
    if (due_ns != 0)
        timers_set(&core->timers, &call->timer, due_ns);
    else
        timers_clear(&core->timers, &call->timer);
}

/* ---- ends ---- */

/* Not to be sent after all: its channel ended in the same step. */
static void unsend(client_core *core, rfaas_call *call)
{
    rfaas_call **at = &core->to_send, *last = NULL;
    while (*at != NULL && *at != call) {
        last = *at;
        at = &(*at)->next;
    }
    if (*at == NULL)
        return;
    *at = call->next;
    if (core->to_send_last == call)
        core->to_send_last = last;
    call->next = NULL;
}

/* Takes a call out of wherever it is. */
static void take_out(client_core *core, rfaas_call *call)
{
    if (call->state == CALL_QUEUED)
        queue_remove(core, call);
    if (call->state == CALL_SENT) {
        core->n_busy--;
        unsend(core, call);
    }
    call->channel = NULL;
}

void call_resolve(client_core *core, rfaas_call *call, int code, rfaas_error *failure)
{
    take_out(core, call);
    call->state = CALL_DONE;
    call->code = code;
    call->failure = failure;
    core->outstanding--;
    timers_clear(&core->timers, &call->timer);
}

void call_fail(client_core *core, rfaas_call *call, int code, rfaas_error *failure)
{
    core->counters.failed++;
    call_resolve(core, call, code, failure);
}

/* A call that never ran. */
static void withdraw(client_core *core, rfaas_call *call)
{
    core->counters.cancelled++;
    rfaas_error *failure = failure_of(call, RFAAS_ERROR_CANCELLED, RFAAS_PHASE_QUEUED);
    failure_says(failure, "", "cancelled before it ran");
    call_resolve(core, call, RFAAS_ERROR_CANCELLED, failure);
}

static void fail_with(client_core *core, rfaas_call *call, int code, int phase, const char *message)
{
    rfaas_error *failure = failure_of(call, code, phase);
    failure_says(failure, "", "%s", message);
    call_fail(core, call, code, failure);
}

/* ---- dispatching ---- */

/* This channel's from here on. */
static void bind(client_core *core, core_channel *channel, rfaas_call *call)
{
    channel_make_busy(core, channel);
    channel->credits--;
    channel->call = call;
    call->channel = channel;
    call->state = CALL_SENT;
    call->call_id = ++core->last_call_id;
    if (call->first_call_id == 0)
        call->first_call_id = call->call_id;
    call->dispatches++;
    core->n_busy++;
    core->counters.dispatched++;
}

static void dispatch(client_core *core, core_channel *channel, rfaas_call *call)
{
    queue_remove(core, call);
    bind(core, channel, call);
    if (call->timer.place != 0 || call->deadline_ns != 0)
        set_call_timer(core, call);
    if (core->to_send_last != NULL)
        core->to_send_last->next = call;
    else
        core->to_send = call;
    core->to_send_last = call;
}

void call_again(client_core *core, rfaas_call *call)
{
    take_out(core, call);
    call->state = CALL_FREE; /* in no list */
    if (call->interrupted) {
        if (call->may_have_run)
            fail_with(core, call, RFAAS_ERROR_CANCELLED, RFAAS_PHASE_QUEUED, "cancelled between two runs");
        else
            withdraw(core, call);
        return;
    }
    core->counters.redispatched++;
    call->call_id = 0;
    queue_insert(core, call, true);
    set_call_timer(core, call);
}

static uint64_t next_random(client_core *core)
{
    core->random ^= core->random << 13;
    core->random ^= core->random >> 7;
    core->random ^= core->random << 17;
    return core->random;
}

/* Spec 001 section 5: 0.05 s, twice as long each time up to 5 s, times 0.5 ... 1.5. */
void call_pause(client_core *core, rfaas_call *call, int64_t now_ns)
{
    uint32_t doublings = call->retries_used - 1 < RETRY_DOUBLINGS_MAX ? call->retries_used - 1 : RETRY_DOUBLINGS_MAX;
    int64_t pause_ns = retry_pause_ns << doublings;
    if (pause_ns > retry_pause_max_ns)
        pause_ns = retry_pause_max_ns;
    pause_ns = pause_ns / 2 + (int64_t)(next_random(core) % (uint64_t)pause_ns);
    take_out(core, call);
    core->counters.retried++;
    call->call_id = 0;
    call->state = CALL_PAUSED;
    call->resume_ns = now_ns + pause_ns;
    set_call_timer(core, call);
}

void call_fail_waiting(client_core *core, const rfaas_error *why)
{
    for (rfaas_call *call = core->queue; call != NULL;) {
        rfaas_call *next = call->next;
        rfaas_error *failure = failure_of(call, why->code, RFAAS_PHASE_QUEUED);
        if (failure != NULL) {
            memcpy(failure->message, why->message, sizeof failure->message);
            memcpy(failure->hint, why->hint, sizeof failure->hint);
            failure->reason = why->reason;
        }
        call_fail(core, call, why->code, failure);
        call = next;
    }
}

/* ---- what the user does ---- */

bool core_has_idle(const client_core *core)
{
    return core->idle != NULL && core->queue == NULL;
}

void core_submit(client_core *core, rfaas_call *call, int64_t now_ns)
{
    call->submitted_ns = now_ns;
    call->deadline_ns = call->settings.timeout_ns == 0 ? 0 : now_ns + call->settings.timeout_ns;
    core->counters.submitted++;
    core->outstanding++;
    queue_insert(core, call, false);
    if (call->deadline_ns != 0)
        set_call_timer(core, call);
    step_end(core, now_ns);
}

core_channel *core_submit_at_once(client_core *core, rfaas_call *call)
{
    core_channel *channel = core->idle;
    bool nothing_else = core->queue == NULL && core->to_send == NULL && core->gone == NULL && core->outstanding == 0 &&
                        core->session == SESSION_UP && core->want > 0 && core->want == core->told;
    if (channel == NULL || !nothing_else || call->settings.timeout_ns != 0)
        return NULL;
    core->counters.submitted++;
    core->outstanding++;
    bind(core, channel, call);
    return channel;
}

bool core_cancel(client_core *core, rfaas_call *call, bool interrupt, int64_t now_ns)
{
    if (call->state == CALL_DONE || call->interrupted)
        return true;
    if (call->state == CALL_QUEUED && !call->may_have_run) {
        withdraw(core, call);
    } else if (call->state == CALL_QUEUED || call->state == CALL_PAUSED) { /* it ran before */
        if (!interrupt)
            return false;
        fail_with(core, call, RFAAS_ERROR_CANCELLED, RFAAS_PHASE_QUEUED, "cancelled between two runs");
    } else {
        if (!interrupt)
            return false;
        call->interrupted = call->interrupt_unsaid = core->interrupts_unsaid = true;
        call->overdue_ns = now_ns + interrupt_wait_ns;
        set_call_timer(core, call);
    }
    step_end(core, now_ns);
    return true;
}

void core_forget(client_core *core, rfaas_call *call)
{
    (void)core;
    free(call->checkpoint);
    free(call->failure);
    call->checkpoint = NULL;
    call->checkpoint_bytes = 0;
    call->failure = NULL;
    call->state = CALL_FREE;
    call->function = NULL;
    call->call_id = call->first_call_id = 0;
    call->submitted_ns = call->deadline_ns = call->resume_ns = call->overdue_ns = 0;
    call->dispatches = call->retries_used = call->reclaims_used = call->kills = 0;
    call->may_have_run = call->interrupted = call->interrupt_unsaid = false;
    call->out_size = 0;
}

/* ---- what comes of a dispatch ---- */

void core_answered(client_core *core, core_channel *channel, int code, rfaas_error *failure)
{
    rfaas_call *call = channel->call;
    channel->call = NULL;
    core->counters.answered++;
    call_resolve(core, call, code, failure);
}

void core_given_back(client_core *core, core_channel *channel, bool is_stale, int64_t now_ns)
{
    rfaas_call *call = channel->call;
    channel->call = NULL;
    if (is_stale) /* the worker belongs to another lease by now */
        channel_make_useless(core, channel);
    call_again(core, call);
    step_end(core, now_ns);
}

void core_not_sent(client_core *core, rfaas_call *call, bool broken, int code, const char *why, int64_t now_ns)
{
    core_channel *channel = call->channel;
    channel->call = NULL;
    call->dispatches--;
    if (broken) {
        channel_make_useless(core, channel);
        call_again(core, call);
    } else {
        core_credits(core, channel, 1); /* it was not spent */
        rfaas_error *failure = failure_of(call, code, RFAAS_PHASE_QUEUED);
        failure_says(failure, "", "%s", why);
        call_fail(core, call, code, failure);
    }
    step_end(core, now_ns);
}

/* ---- time ---- */

static void on_call_due(client_core *core, rfaas_call *call, int64_t now_ns)
{
    if (call->overdue_ns != 0 && now_ns >= call->overdue_ns) {
        call->may_have_run = true;
        core_channel *channel = call->channel;
        fail_with(core, call, RFAAS_ERROR_CANCELLED, RFAAS_PHASE_SENT,
                  "cancelled while it ran, and no word came from the agent: it may run on");
        channel_abandon(core, channel);
        return;
    }
    if (call->state == CALL_PAUSED && now_ns >= call->resume_ns && (call->deadline_ns == 0 || now_ns < call->deadline_ns)) {
        call->resume_ns = 0;
        queue_insert(core, call, true);
        set_call_timer(core, call);
        return;
    }
    rfaas_error *failure;
    double timeout_s = (double)call->settings.timeout_ns / (double)second_ns;
    core_channel *channel = call->channel;
    if (call->state == CALL_SENT) { /* its agent should have killed the worker and said so */
        call->may_have_run = true;
        failure = failure_of(call, RFAAS_ERROR_DEADLINE_EXCEEDED, RFAAS_PHASE_SENT);
        failure_says(failure, "", "call_timeout_s=%g passed, and no word came from the agent", timeout_s);
    } else {
        failure = failure_of(call, RFAAS_ERROR_DEADLINE_EXCEEDED, RFAAS_PHASE_QUEUED);
        failure_says(failure, "", "call_timeout_s=%g passed before a worker could take the call%s%s%s%s", timeout_s,
                     call->may_have_run ? " again" : "", core->why_waiting[0] != '\0' ? " (" : "", core->why_waiting,
                     core->why_waiting[0] != '\0' ? ")" : "");
    }
    call_fail(core, call, RFAAS_ERROR_DEADLINE_EXCEEDED, failure);
    if (channel != NULL)
        channel_abandon(core, channel);
}

int64_t core_due_ns(const client_core *core)
{
    int64_t due_ns = target_due_ns(core);
    const timer *first = timers_first(&core->timers);
    if (first != NULL)
        due_ns = earlier(due_ns, first->due_ns);
    return due_ns == 0 ? INT64_MAX : due_ns;
}

void core_tick(client_core *core, int64_t now_ns)
{
    timer *first;
    while ((first = timers_first(&core->timers)) != NULL && first->due_ns <= now_ns) {
        timers_clear(&core->timers, first);
        if (first->kind == TIMER_CALL)
            on_call_due(core, (rfaas_call *)first, now_ns);
        else
            channel_on_due(core, (core_channel *)first, now_ns);
    }
    target_on_tick(core, now_ns);
    step_end(core, now_ns);
}

/* ---- the end of a step ---- */

void step_end(client_core *core, int64_t now_ns)
{
    while (core->queue != NULL && core->idle != NULL)
        dispatch(core, core->idle, core->queue);
    target_update(core, now_ns);
}

effect core_next(client_core *core)
{
    effect next = {EFFECT_NONE, NULL, NULL, 0};
    if (core->gone != NULL) {
        next.kind = EFFECT_CLOSE;
        next.channel = core->gone;
        core->gone = next.channel->next_gone;
        return next;
    }
    if (core->to_send != NULL) {
        next.kind = EFFECT_SEND;
        next.call = core->to_send;
        next.channel = next.call->channel;
        core->to_send = next.call->next;
        if (core->to_send == NULL)
            core->to_send_last = NULL;
        next.call->next = NULL;
        return next;
    }
    if (core->interrupts_unsaid && core->session == SESSION_UP) {
        for (core_channel *channel = core->channels; channel != NULL; channel = channel->next) {
            if (channel->call != NULL && channel->call->interrupt_unsaid) {
                channel->call->interrupt_unsaid = false;
                return (effect){EFFECT_INTERRUPT, channel, channel->call, channel->call->call_id};
            }
        }
        core->interrupts_unsaid = false;
    }
    if (core->wants_join) {
        core->wants_join = false;
        next.kind = EFFECT_JOIN;
    } else if (core->session == SESSION_UP && core->want != core->told) {
        core->told = core->want;
        next.kind = EFFECT_WANT;
        next.number = core->want;
    }
    return next;
}
