/* core_target.c - how many workers a client asks for, who is asked, and what that one says. A part of client_core.h.
 * Spec: 002 section 5 (standing requests), 004 section 3.
 */
#include <stdlib.h>
#include <string.h>

#include "core_parts.h"

static const int64_t lower_want_after_ns = 5000000000; /* without a waiting call, nothing is worth asking for again */
static const int64_t denied_pause_ns = 5000000000;     /* while workers serve, more are not asked for so soon */
static const int64_t reconnect_pause_ns = 500000000;

static uint32_t at_least(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static void join(client_core *core)
{
    core->session = SESSION_JOINING;
    core->wants_join = true;
}

static void watch_the_clock(client_core *core, int64_t now_ns)
{
    if (core->queue != NULL || core->want <= 1)
        core->quiet_ns = 0;
    else if (core->quiet_ns == 0)
        core->quiet_ns = now_ns + lower_want_after_ns;
    if (core->queue == NULL || channels_any_serving(core)) {
        core->starved_since_ns = core->starved_ns = 0;
    } else if (core->starved_since_ns == 0 && core->acquire_timeout_ns > 0) {
        core->starved_since_ns = now_ns;
        core->starved_ns = now_ns + core->acquire_timeout_ns;
    }
}

/* `now_ns` = 0: of no moment, since nothing waits. */
void target_update(client_core *core, int64_t now_ns)
{
    if (core->content_ns == 0 || (now_ns != 0 && now_ns >= core->content_ns) || !channels_any_serving(core)) {
        uint32_t needed = core->outstanding < core->max_workers ? core->outstanding : core->max_workers;
        core->want = at_least(core->want, needed);
    }
    if (now_ns != 0)
        watch_the_clock(core, now_ns);
    if (core->session == SESSION_DOWN && !core->closing &&
        (core->queue != NULL || (core->leases != NULL && core->outstanding > 0)))
        join(core);
}

/* Without a worker for acquire_timeout_s: who has waited so long fails. */
static void on_starved(client_core *core, int64_t now_ns)
{
    core->starved_ns = 0;
    for (rfaas_call *call = core->queue; call != NULL;) {
        rfaas_call *next = call->next;
        int64_t since_ns = call->submitted_ns > core->starved_since_ns ? call->submitted_ns : core->starved_since_ns;
        if (since_ns + core->acquire_timeout_ns > now_ns) {
            core->starved_ns = since_ns + core->acquire_timeout_ns;
            break;
        }
        bool known = core->why_waiting[0] != '\0';
        rfaas_error *failure = failure_of(call, RFAAS_ERROR_ACQUIRE_TIMEOUT, RFAAS_PHASE_QUEUED);
        failure_says(failure, "wait longer, or ask for less: fewer cores or less memory a worker; see `rfaas explain`",
                     "no worker came within acquire_timeout_s=%g%s%s%s%s%s", (double)core->acquire_timeout_ns / 1e9,
                     known ? " (" : "", core->why_waiting, core->why_more[0] != '\0' ? ": " : "", core->why_more,
                     known ? ")" : "");
        call_fail(core, call, RFAAS_ERROR_ACQUIRE_TIMEOUT, failure);
        call = next;
    }
}

void target_on_tick(client_core *core, int64_t now_ns)
{
    if (core->quiet_ns != 0 && now_ns >= core->quiet_ns) {
        core->quiet_ns = 0;
        uint32_t needed = at_least(1, core->outstanding);
        core->want = core->want < needed ? core->want : needed;
    }
    if (core->content_ns != 0 && now_ns >= core->content_ns)
        core->content_ns = 0; /* the end of this step asks again */
    if (core->starved_ns != 0 && now_ns >= core->starved_ns)
        on_starved(core, now_ns);
    if (core->reconnect_ns != 0 && now_ns >= core->reconnect_ns) {
        core->reconnect_ns = 0;
        if (core->session == SESSION_PAUSING)
            core->session = SESSION_DOWN; /* the end of this step joins again if there are calls */
    }
}

int64_t target_due_ns(const client_core *core)
{
    const int64_t dues_ns[] = {core->quiet_ns, core->content_ns, core->starved_ns, core->reconnect_ns};
    int64_t due_ns = 0;
    for (size_t i = 0; i < sizeof dues_ns / sizeof *dues_ns; i++)
        if (dues_ns[i] != 0 && (due_ns == 0 || dues_ns[i] < due_ns))
            due_ns = dues_ns[i];
    return due_ns;
}

/* ---- the session process ---- */

void core_connect(client_core *core)
{
    if (core->session == SESSION_DOWN)
        join(core);
}

void core_close(client_core *core)
{
    core->closing = true;
}

void core_session_up(client_core *core, bool embedded)
{
    core->session = SESSION_UP;
    core->embedded = embedded;
    core->told = 0; /* who was told may have forgotten */
    for (core_channel *channel = core->channels; channel != NULL; channel = channel->next)
        if (channel->call != NULL && channel->call->interrupted)
            channel->call->interrupt_unsaid = core->interrupts_unsaid = true;
}

static void forget_leases(client_core *core)
{
    while (core->leases != NULL) {
        core_lease *next = core->leases->next;
        free(core->leases);
        core->leases = next;
    }
}

void core_session_lost(client_core *core, int64_t now_ns)
{
    if (core->session == SESSION_DOWN)
        return;
    core->session = SESSION_DOWN;
    core->counters.sessions_lost++;
    if (core->embedded) { /* agent and workers died with it */
        verdict said = {.reason = REASON_AGENT_LOST, .exit_status = -1, .grace_s = -1};
        strcpy(said.hint, "the embedded session process ended");
        forget_leases(core);
        core->want = 0;
        channels_condemn_all(core, &said, now_ns);
    }
    if (core->leases != NULL && !core->closing) /* somebody must renew them */
        join(core);
    step_end(core, now_ns);
}

void core_session_failed(client_core *core, const rfaas_error *why, int64_t now_ns)
{
    core->told = 0;
    if (!channels_any_serving(core)) /* else what waits gets those workers, with or without a session process */
        call_fail_waiting(core, why);
    if (core->leases != NULL) {
        core->session = SESSION_PAUSING;
        core->reconnect_ns = now_ns + reconnect_pause_ns;
    } else {
        core->session = SESSION_DOWN;
        core->want = 0;
    }
    step_end(core, now_ns);
}

void core_notice(client_core *core, const uint8_t lease[16])
{
    core->counters.notices++;
    for (core_channel *channel = core->channels; channel != NULL; channel = channel->next)
        if (memcmp(channel->lease, lease, sizeof channel->lease) == 0)
            channel_make_useless(core, channel);
}

void core_lease_granted(client_core *core, core_lease *lease)
{
    core_lease_ended(core, lease->lease); /* told again */
    lease->next = core->leases;
    core->leases = lease;
    core->why_waiting[0] = core->why_more[0] = '\0';
}

void core_lease_ended(client_core *core, const uint8_t lease[16])
{
    for (core_lease **at = &core->leases; *at != NULL; at = &(*at)->next) {
        if (memcmp((*at)->lease, lease, sizeof(*at)->lease) == 0) {
            core_lease *ended = *at;
            *at = ended->next;
            free(ended);
            return;
        }
    }
}

static void copy(char *room, size_t room_bytes, const char *text)
{
    size_t n = strnlen(text, room_bytes - 1);
    memcpy(room, text, n);
    room[n] = '\0';
}

void core_queued(client_core *core, const char *reason, const char *hint)
{
    copy(core->why_waiting, sizeof core->why_waiting, reason);
    copy(core->why_more, sizeof core->why_more, hint);
}

void core_denied(client_core *core, const char *code, const char *hint, int64_t now_ns)
{
    core->want = core->told = 0;
    if (channels_any_serving(core)) { /* one node that can't says nothing about the others */
        copy(core->why_waiting, sizeof core->why_waiting, "more workers were denied");
        copy(core->why_more, sizeof core->why_more, hint);
        core->content_ns = now_ns + denied_pause_ns;
    } else {
        rfaas_error why = RFAAS_ERROR_INIT;
        if (strcmp(code, "environment-failed") == 0) {
            why.code = RFAAS_ERROR_ENVIRONMENT_FAILED;
            failure_says(&why, "the interpreter that librfaas uses must be reachable from where functions run",
                         "the interpreter for this program's functions could not be started there: %s", hint);
        } else if (strcmp(code, "verbs-unavailable") == 0) { /* the hint is what stands against RDMA */
            why.code = RFAAS_ERROR_CONFIG;
            failure_says(&why, "leave transport at \"auto\", or see what `rfaas doctor` says on both hosts", "%s", hint);
        } else {
            why.code = RFAAS_ERROR_LEASE_DENIED;
            why.reason = strcmp(code, "quota") == 0 ? REASON_QUOTA : 0;
            failure_says(&why, hint, "no lease is given (%s)", code);
        }
        call_fail_waiting(core, &why);
    }
    step_end(core, now_ns);
}
