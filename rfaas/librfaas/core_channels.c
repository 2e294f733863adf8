/* core_channels.c - channels of a client: which may take a call, how they end, and what then becomes of the call on them.
 * A part of client_core.h. Results that arrived whole win, so a verdict waits for the channel's end (001 section 5).
 */
#include <string.h>

#include "core_parts.h"

enum { KILLS_OF_POISON = 3, RECLAIMS_MAX = 10 };

static const int64_t word_wait_ns = 250000000;      /* after an end: the farewell of a dead worker is on its way */
static const int64_t farewell_wait_ns = 2000000000; /* no farewell comes later than this */
static const int64_t end_wait_ns = 500000000;       /* after a farewell: results that are on their way, then the end */
static const int64_t lost_wait_ns = 250000000;      /* the same after a loss, which is told late itself */

/* ---- who may take a call: a stack, so that the warmest worker is asked first ---- */

static void idle_remove(client_core *core, core_channel *channel)
{
    if (!channel->is_idle)
        return;
    channel->is_idle = false;
    if (channel->previous_idle != NULL)
        channel->previous_idle->next_idle = channel->next_idle;
    else
        core->idle = channel->next_idle;
    if (channel->next_idle != NULL)
        channel->next_idle->previous_idle = channel->previous_idle;
}

static void idle_push(client_core *core, core_channel *channel)
{
    if (channel->is_idle || !channel->usable || channel->credits == 0 || channel->call != NULL)
        return;
    channel->is_idle = true;
    channel->previous_idle = NULL;
    channel->next_idle = core->idle;
    if (core->idle != NULL)
        core->idle->previous_idle = channel;
    core->idle = channel;
}

void channel_make_busy(client_core *core, core_channel *channel)
{
    idle_remove(core, channel);
}

void channel_make_useless(client_core *core, core_channel *channel)
{
    if (channel->usable && channel->greeted)
        core->counters.workers--;
    channel->usable = false;
    idle_remove(core, channel);
}

bool channels_any_serving(const client_core *core)
{
    return core->counters.workers > 0;
}

void core_channel_opened(client_core *core, core_channel *channel)
{
    channel->timer.kind = TIMER_CHANNEL;
    channel->usable = true;
    channel->previous = NULL;
    channel->next = core->channels;
    if (core->channels != NULL)
        core->channels->previous = channel;
    core->channels = channel;
}

void core_credits(client_core *core, core_channel *channel, uint32_t credits)
{
    if (channel->gone)
        return;
    if (credits > 0 && !channel->greeted) {
        channel->greeted = true;
        core->counters.workers += channel->usable;
    }
    channel->credits += credits;
    idle_push(core, channel);
    if (core->queue != NULL)
        step_end(core, 0);
}

/* ---- ends ---- */

/* Forgets a channel; the shell closes it. */
static void let_go(client_core *core, core_channel *channel)
{
    channel_make_useless(core, channel);
    timers_clear(&core->timers, &channel->timer);
    if (channel->previous != NULL)
        channel->previous->next = channel->next;
    else
        core->channels = channel->next;
    if (channel->next != NULL)
        channel->next->previous = channel->previous;
    channel->gone = true;
    channel->next_gone = core->gone;
    core->gone = channel;
}

void channel_abandon(client_core *core, core_channel *channel)
{
    if (channel == NULL || channel->gone)
        return;
    channel->call = NULL;
    let_go(core, channel);
}

typedef enum fate { FATE_FREE, FATE_AT_ONCE, FATE_LATER, FATE_FAIL } fate;

/* What to do with the call of a condemned channel; its budgets are charged. */
static fate judge(rfaas_call *call, const verdict *said)
{
    if (said->known && call->call_id > said->last_started)
        return FATE_FREE;
    int code = code_of_verdict(said);
    if (call->interrupted || !call->settings.idempotent || code == RFAAS_ERROR_DEADLINE_EXCEEDED)
        return FATE_FAIL;
    if (said->reason == REASON_MEMORY_LIMIT || said->reason == REASON_PROCESS_LIMIT) /* it would be again */
        return FATE_FAIL;
    if (code == RFAAS_ERROR_RECLAIMED)
        return ++call->reclaims_used <= RECLAIMS_MAX ? FATE_AT_ONCE : FATE_FAIL;
    if ((code == RFAAS_ERROR_WORKER_LOST || code == RFAAS_ERROR_FUNCTION_OOM) && ++call->kills >= KILLS_OF_POISON)
        return FATE_FAIL;
    return ++call->retries_used <= call->settings.retries ? FATE_LATER : FATE_FAIL;
}

/* Decides about the call of a channel that will not answer any more. */
static void settle(client_core *core, core_channel *channel, int64_t now_ns)
{
    rfaas_call *call = channel->call;
    channel->call = NULL;
    let_go(core, channel);
    if (call == NULL)
        return;
    fate end = judge(call, &channel->verdict);
    call->may_have_run |= end != FATE_FREE;
    if (end == FATE_FAIL) {
        int code;
        rfaas_error *failure = failure_of_verdict(call, channel, &code);
        call_fail(core, call, code, failure);
    } else if (end == FATE_LATER) {
        call_pause(core, call, now_ns);
    } else {
        core->counters.reclaimed += end == FATE_AT_ONCE;
        call_again(core, call);
    }
}

static void wait_for(client_core *core, core_channel *channel, channel_wait what, int64_t due_ns)
{
    channel->wait = what;
    timers_set(&core->timers, &channel->timer, due_ns);
}

void channel_on_due(client_core *core, core_channel *channel, int64_t now_ns)
{
    if (channel->wait == WAIT_WORD) { /* its worker may live: have the agent end what runs there, and say what it knows */
        if (channel->call != NULL)
            channel->call->interrupt_unsaid = core->interrupts_unsaid = true;
        wait_for(core, channel, WAIT_FAREWELL, channel->ended_ns + farewell_wait_ns);
        return;
    }
    if (channel->wait == WAIT_FAREWELL)
        channel->verdict = (verdict){.silent = true, .exit_status = -1, .grace_s = -1};
    settle(core, channel, now_ns);
}

void core_channel_ended(client_core *core, core_channel *channel, int64_t now_ns)
{
    if (channel->ended || channel->gone)
        return;
    channel->ended = true;
    channel->ended_ns = now_ns;
    channel_make_useless(core, channel);
    if (channel->condemned)
        settle(core, channel, now_ns);
    else
        wait_for(core, channel, WAIT_WORD, now_ns + word_wait_ns);
    step_end(core, now_ns);
}

/* The first verdict counts, once the channel is read to its end. */
static void condemn(client_core *core, core_channel *channel, const verdict *said, int64_t wait_ns, int64_t now_ns)
{
    if (channel->condemned)
        return;
    channel->condemned = true;
    channel->verdict = *said;
    channel_make_useless(core, channel);
    if (channel->ended)
        settle(core, channel, now_ns);
    else
        wait_for(core, channel, WAIT_END, now_ns + wait_ns);
}

static core_channel *find(const client_core *core, uint64_t number)
{
    core_channel *channel = core->channels;
    while (channel != NULL && channel->number != number)
        channel = channel->next;
    return channel;
}

void core_condemned(client_core *core, uint64_t number, const verdict *said, int64_t now_ns)
{
    core_channel *channel = find(core, number);
    if (channel != NULL)
        condemn(core, channel, said, said->known ? end_wait_ns : lost_wait_ns, now_ns);
    step_end(core, now_ns);
}

void channels_condemn_all(client_core *core, const verdict *said, int64_t now_ns)
{
    for (core_channel *channel = core->channels; channel != NULL;) {
        core_channel *next = channel->next;
        condemn(core, channel, said, end_wait_ns, now_ns);
        channel = next;
    }
}
