/* failures.c - the errors that a client's calls end with: codes, texts, remedies. Pure. Spec: 001 section 6. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core_parts.h"

static const struct {
    int code;
    bool retriable;
    const char *text;
} codes[] = {
    {RFAAS_SUCCESS, false, "success"},
    {RFAAS_PENDING, false, "pending"},
    {RFAAS_ERROR_CONFIG, false, "config"},
    {RFAAS_ERROR_ALLOCATOR_UNAVAILABLE, true, "allocator-unavailable"},
    {RFAAS_ERROR_VERSION_MISMATCH, false, "version-mismatch"},
    {RFAAS_ERROR_AUTHENTICATION_FAILED, false, "authentication-failed"},
    {RFAAS_ERROR_ACQUIRE_TIMEOUT, true, "acquire-timeout"},
    {RFAAS_ERROR_LEASE_DENIED, false, "lease-denied"},
    {RFAAS_ERROR_ENVIRONMENT_FAILED, false, "environment-failed"},
    {RFAAS_ERROR_RECLAIMED, true, "reclaimed"},
    {RFAAS_ERROR_WORKER_LOST, true, "worker-lost"},
    {RFAAS_ERROR_FUNCTION_OOM, false, "function-oom"},
    {RFAAS_ERROR_AGENT_LOST, true, "agent-lost"},
    {RFAAS_ERROR_NODE_LOST, true, "node-lost"},
    {RFAAS_ERROR_CONNECTION_LOST, true, "connection-lost"},
    {RFAAS_ERROR_DEADLINE_EXCEEDED, false, "deadline-exceeded"},
    {RFAAS_ERROR_POISON_FUNCTION, false, "poison-function"},
    {RFAAS_ERROR_CANCELLED, false, "cancelled"},
    {RFAAS_ERROR_PAYLOAD_TOO_LARGE, false, "payload-too-large"},
    {RFAAS_ERROR_BAD_FUNCTION, false, "bad-function"},
    {RFAAS_ERROR_REMOTE, false, "remote"},
    {RFAAS_ERROR_FUNCTION, false, "function-error"},
    {RFAAS_ERROR_PROTOCOL, false, "protocol"},
    {RFAAS_ERROR_ARGUMENT, false, "argument"},
    {RFAAS_ERROR_NO_MEMORY, false, "no-memory"},
    {RFAAS_ERROR_FORKED, false, "forked"},
    {RFAAS_ERROR_SYSTEM, false, "system"},
};

const char *rfaas_strerror(int code)
{
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        if (codes[i].code == code)
            return codes[i].text;
    return "unknown";
}

bool code_is_retriable(int code)
{
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        if (codes[i].code == code)
            return codes[i].retriable;
    return false;
}

static const char *const reasons[] = {
    "none",           "slurm-preempt", "node-drain",    "node-down",       "job-timelimit",   "admin",
    "owner-release",  "lease-expired", "quota",         "memory-pressure", "cpu-pressure",    "upgrade",
    "client-gone",    "partition",     "worker-crashed", "worker-exited",  "agent-lost",      "call-timeout",
    "call-interrupted", "memory-limit", "memory-exhausted", "process-limit", "key-violation",
};

static const char *reason_text(int reason)
{
    return reason >= 0 && (size_t)reason < sizeof reasons / sizeof *reasons ? reasons[reason] : "unknown";
}

void rfaas_error_init(rfaas_error *error, size_t struct_size)
{
    if (error == NULL || struct_size < sizeof error->struct_size)
        return;
    const rfaas_error empty = RFAAS_ERROR_INIT;
    memcpy(error, &empty, struct_size < sizeof empty ? struct_size : sizeof empty);
    error->struct_size = (uint32_t)struct_size;
}

size_t rfaas_error_text(const rfaas_error *error, char *text, size_t size)
{
    if (error == NULL)
        return (size_t)snprintf(text, size, "no error was kept");
    int n;
    const char *hint = error->hint[0] == '\0' ? "" : "\n  remedy: ";
    if (error->code == RFAAS_SUCCESS || error->code == RFAAS_PENDING)
        n = snprintf(text, size, "%s", rfaas_strerror(error->code));
    else
        n = snprintf(text, size, "%s: %s%s%s", rfaas_strerror(error->code), error->message, hint, error->hint);
    return n < 0 ? 0 : (size_t)n;
}

void failure_says(rfaas_error *failure, const char *hint, const char *form, ...)
{
    if (failure == NULL)
        return;
    va_list arguments;
    va_start(arguments, form);
    vsnprintf(failure->message, sizeof failure->message, form, arguments);
    va_end(arguments);
    snprintf(failure->hint, sizeof failure->hint, "%s", hint);
    failure->retriable = code_is_retriable(failure->code);
}

rfaas_error *failure_of(const rfaas_call *call, int code, int phase)
{
    rfaas_error *failure = malloc(sizeof *failure);
    if (failure == NULL)
        return NULL;
    rfaas_error_init(failure, sizeof *failure);
    failure->code = code;
    failure->phase = phase;
    failure->may_have_run = call->may_have_run;
    failure->attempt = call->dispatches > 0 ? (int32_t)call->dispatches - 1 : 0;
    failure->retriable = code_is_retriable(code);
    return failure;
}

int code_of_verdict(const verdict *said)
{
    if (said->silent || said->reason == REASON_NONE || said->reason == REASON_CALL_INTERRUPTED)
        return RFAAS_ERROR_CONNECTION_LOST;
    switch (said->reason) {
    case REASON_CALL_TIMEOUT:
        return RFAAS_ERROR_DEADLINE_EXCEEDED;
    case REASON_WORKER_CRASHED:
    case REASON_WORKER_EXITED:
    case REASON_PROCESS_LIMIT:
        return RFAAS_ERROR_WORKER_LOST;
    case REASON_AGENT_LOST:
        return RFAAS_ERROR_AGENT_LOST;
    case REASON_NODE_DOWN:
    case REASON_PARTITION:
        return RFAAS_ERROR_NODE_LOST;
    case REASON_MEMORY_LIMIT:
    case REASON_MEMORY_EXHAUSTED:
        return RFAAS_ERROR_FUNCTION_OOM;
    default:
        return RFAAS_ERROR_RECLAIMED;
    }
}

static void how_it_ended(const verdict *said, char *text, size_t room_bytes)
{
    if (said->hint[0] != '\0')
        snprintf(text, room_bytes, "%s", said->hint);
    else if (said->signal > 0)
        snprintf(text, room_bytes, "signal %d", said->signal);
    else if (said->exit_status >= 0)
        snprintf(text, room_bytes, "exit status %d", said->exit_status);
    else
        snprintf(text, room_bytes, "no exit status known");
}

static const char *remedy(int code, int reason)
{
    switch (reason) {
    case REASON_MEMORY_LIMIT:
        return "ask for more, at first twice that (memory_bytes), or let each call use less";
    case REASON_MEMORY_EXHAUSTED:
        return "run fewer workers at a time (max_workers), or say what each needs (memory_bytes)";
    case REASON_PROCESS_LIMIT:
        return "start fewer processes and threads, or raise `agent.tasks_per_worker`";
    default:
        break;
    }
    if (code == RFAAS_ERROR_RECLAIMED)
        return "set idempotent if the function may run twice: then it is dispatched again by itself";
    if (code == RFAAS_ERROR_POISON_FUNCTION)
        return "look for a crash or for memory exhaustion in the function";
    return "";
}

static void say_what_happened(rfaas_error *failure, const rfaas_call *call, const verdict *said, const char *node)
{
    char how[300], grace[48] = "";
    how_it_ended(said, how, sizeof how);
    if (said->grace_s >= 0)
        snprintf(grace, sizeof grace, ", after %g s of grace", said->grace_s);
    const char *hint = remedy(failure->code, said->reason), *reason = reason_text(said->reason);
    switch (failure->code) {
    case RFAAS_ERROR_DEADLINE_EXCEEDED:
        failure_says(failure, hint, "call_timeout_s=%g passed while the call ran on %s; its worker was killed",
                     (double)call->settings.timeout_ns / 1e9, node);
        break;
    case RFAAS_ERROR_RECLAIMED:
        failure_says(failure, hint, "the cores on %s went back to their owner while the call ran (%s%s)", node, reason, grace);
        break;
    case RFAAS_ERROR_CANCELLED:
        failure_says(failure, hint, "the call was cancelled on %s after it had started (%s)", node, reason);
        break;
    case RFAAS_ERROR_CONNECTION_LOST:
        failure_says(failure, hint, "the connection to the worker on %s broke%s", node,
                     said->silent ? ", and nobody could say what became of the call" : " before the result came");
        break;
    case RFAAS_ERROR_AGENT_LOST:
        failure_says(failure, hint, "the agent on %s died, and its workers with it%s%s%s", node,
                     said->hint[0] != '\0' ? " (" : "", said->hint, said->hint[0] != '\0' ? ")" : "");
        break;
    case RFAAS_ERROR_NODE_LOST:
        failure_says(failure, hint, "the node is lost (%s): %s", reason, node);
        break;
    case RFAAS_ERROR_FUNCTION_OOM:
        failure_says(failure, hint, "the worker on %s was killed during the call: %s", node, how);
        break;
    case RFAAS_ERROR_POISON_FUNCTION:
        failure_says(failure, hint, "the call ended %u workers, the last on %s (%s); it is not dispatched again",
                     call->kills, node, how);
        break;
    default:
        failure_says(failure, hint, "the worker on %s died during the call (%s)", node, how);
    }
}

rfaas_error *failure_of_verdict(const rfaas_call *call, const core_channel *channel, int *code)
{
    const verdict *said = &channel->verdict;
    *code = code_of_verdict(said);
    if ((*code == RFAAS_ERROR_WORKER_LOST || *code == RFAAS_ERROR_FUNCTION_OOM) && call->kills >= 3)
        *code = RFAAS_ERROR_POISON_FUNCTION;
    if (call->interrupted)
        *code = RFAAS_ERROR_CANCELLED;
    int phase = !said->known ? RFAAS_PHASE_SENT
                             : (call->call_id <= said->last_done ? RFAAS_PHASE_DONE : RFAAS_PHASE_STARTED);
    rfaas_error *failure = failure_of(call, *code, phase);
    if (failure == NULL)
        return NULL;
    failure->may_have_run = 1;
    failure->reason = said->reason;
    failure->grace_s = said->grace_s;
    failure->epoch = channel->epoch;
    memcpy(failure->lease_id, channel->lease, sizeof failure->lease_id);
    memcpy(failure->node, channel->node, sizeof failure->node);
    say_what_happened(failure, call, said, channel->node[0] != '\0' ? channel->node : "an unnamed node");
    return failure;
}
