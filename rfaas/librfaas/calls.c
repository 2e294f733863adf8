/* calls.c - invoking, submitting, waiting. The shortest way, rfaas_invoke on a worker that idles, takes no memory, no clock
 * and no system call.
 */
#include <stdlib.h>
#include <string.h>

#include "entries.h"

/* ---- objects of calls, which are used again ---- */

static rfaas_call *take_call(rfaas_client *client)
{
    rfaas_call *call = client->free_calls;
    if (call != NULL) {
        client->free_calls = call->next;
        call->next = NULL;
        return call;
    }
    call = calloc(1, sizeof *call);
    if (call == NULL || !timers_reserve(&client->core.timers)) {
        free(call);
        return NULL;
    }
    call->timer.kind = TIMER_CALL;
    call->client = client;
    call->next_made = client->made_calls;
    client->made_calls = call;
    return call;
}

static void give_back(rfaas_client *client, rfaas_call *call)
{
    core_forget(&client->core, call);
    call->next = client->free_calls;
    client->free_calls = call;
}

/* Tells how a call ended, and frees it. */
static int finish(rfaas_call *call, uint64_t *out_size, rfaas_error *error)
{
    rfaas_client *client = call->client;
    int code = call->code;
    if (out_size != NULL)
        *out_size = call->out_size;
    if (code == RFAAS_SUCCESS)
        entry_succeeded(error);
    else if (call->failure != NULL)
        copy_error(error, call->failure);
    else
        say_error(error, code, "", "no memory was left for the reason");
    give_back(client, call);
    return code;
}

static bool is_done(void *context)
{
    const rfaas_call *call = context;
    return call->state == CALL_DONE;
}

/* ---- submitting ---- */

static bool can_be_called(const rfaas_client *client, const rfaas_function *function, const void *in, uint64_t in_size,
                          const void *out, uint64_t out_capacity)
{
    return client != NULL && function != NULL && function->client == client && (in != NULL || in_size == 0) &&
           (out != NULL || out_capacity == 0);
}

/* The driver's time to sleep may be another now, or a call of somebody's have ended. */
static void tell_others(rfaas_client *client)
{
    if (client->asleep)
        rfaas_poller_wake(&client->poller);
    if (client->followers > 0)
        pthread_cond_broadcast(&client->moved);
}

static int refuse_call(rfaas_error *error)
{
    return say_error(error, RFAAS_ERROR_ARGUMENT, "",
                     "a call needs a client, a function of that client, and buffers where their sizes are not 0");
}

static int refuse_options(rfaas_error *error)
{
    return say_error(error, RFAAS_ERROR_ARGUMENT, "begin with RFAAS_CALL_OPTIONS_INIT",
                     "these are no rfaas_call_options of any version");
}

static int refuse_retries(rfaas_error *error)
{
    return say_error(error, RFAAS_ERROR_ARGUMENT, "set idempotent to 1 if the function may run twice, or retries to 0",
                     "retries need an idempotent call: one that may have run is only run again if that does no harm");
}

static int refuse_size(rfaas_error *error, uint64_t in_size)
{
    return say_error(error, RFAAS_ERROR_PAYLOAD_TOO_LARGE, "send it in parts, or let the function read it from a file",
                     "the input has %llu bytes, a call takes %llu", (unsigned long long)in_size,
                     (unsigned long long)PAYLOAD_BYTES_MAX);
}

/* With the lock held; NULL: no memory. */
static rfaas_call *make_call(rfaas_client *client, const rfaas_function *function, const void *in, uint64_t in_size,
                          void *out, uint64_t out_capacity, const call_settings *settings)
{
    rfaas_call *call = take_call(client);
    if (call == NULL)
        return NULL;
    call->function = function;
    call->in = in;
    call->in_size = in_size;
    call->out = out;
    call->out_capacity = out_capacity;
    call->settings = *settings;
    return call;
}

static void submit(rfaas_client *client, rfaas_call *call)
{
    bool at_once = call->settings.timeout_ns == 0 && core_has_idle(&client->core);
    core_submit(&client->core, call, at_once ? 0 : client_now_ns());
    client_do_effects(client);
}

/* Until it is over: by the shortest way if its worker idles and nobody else is about. */
static void run(rfaas_client *client, rfaas_call *call)
{
    core_channel *channel = client->driving || client->spin_ns == 0 ? NULL : core_submit_at_once(&client->core, call);
    if (channel != NULL)
        await_at_once(client, channel, call);
    else
        submit(client, call);
    if (call->state != CALL_DONE)
        await(client, is_done, call, -1);
}

int rfaas_invoke(rfaas_client *client, const rfaas_function *function, const void *in, uint64_t in_size, void *out,
                 uint64_t *out_size, rfaas_error *error)
{
    uint64_t out_capacity = out_size == NULL ? 0 : *out_size;
    if (!can_be_called(client, function, in, in_size, out, out_capacity))
        return refuse_call(error);
    if (!entry_is_allowed(client))
        return entry_refused(error);
    if (in_size > PAYLOAD_BYTES_MAX)
        return refuse_size(error, in_size);
    entry_lock(client);
    int code;
    rfaas_call *call = make_call(client, function, in, in_size, out, out_capacity, &client->settings);
    if (call == NULL) {
        code = say_error(error, RFAAS_ERROR_NO_MEMORY, "", "no memory for a call");
    } else {
        run(client, call);
        code = finish(call, out_size, error);
    }
    entry_unlock(client);
    return code;
}

static call_settings settings_of(const rfaas_client *client, const rfaas_call_options *options)
{
    call_settings settings = client->settings;
    if (options == NULL)
        return settings;
    if (options->idempotent >= 0)
        settings.idempotent = options->idempotent != 0;
    if (options->idempotent >= 0 || options->retries > 0)
        settings.retries = options->retries;
    if (options->call_timeout_s >= 0)
        settings.timeout_ns = duration_ns(options->call_timeout_s);
    return settings;
}

int rfaas_submit(rfaas_client *client, const rfaas_function *function, const void *in, uint64_t in_size, void *out,
                 uint64_t out_capacity, const rfaas_call_options *options, rfaas_call **call, rfaas_error *error)
{
    if (call != NULL)
        *call = NULL;
    if (call == NULL || !can_be_called(client, function, in, in_size, out, out_capacity))
        return refuse_call(error);
    if (options != NULL && options->struct_size < sizeof *options) /* what they say would be passed over */
        return refuse_options(error);
    if (!entry_is_allowed(client))
        return entry_refused(error);
    if (in_size > PAYLOAD_BYTES_MAX)
        return refuse_size(error, in_size);
    entry_lock(client);
    call_settings settings = settings_of(client, options);
    if (settings.retries > 0 && !settings.idempotent) {
        entry_unlock(client);
        return refuse_retries(error);
    }
    *call = make_call(client, function, in, in_size, out, out_capacity, &settings);
    if (*call != NULL)
        submit(client, *call);
    tell_others(client);
    entry_unlock(client);
    return *call == NULL ? say_error(error, RFAAS_ERROR_NO_MEMORY, "", "no memory for a call") : entry_succeeded(error);
}

/* ---- waiting ---- */

int rfaas_wait(rfaas_call **call, double timeout_s, uint64_t *out_size, rfaas_error *error)
{
    if (call == NULL || *call == NULL)
        return say_error(error, RFAAS_ERROR_ARGUMENT, "", "there is no call to wait for");
    rfaas_client *client = (*call)->client;
    if (!entry_is_allowed(client))
        return entry_refused(error);
    entry_lock(client);
    int code = RFAAS_PENDING;
    if (await(client, is_done, *call, timeout_s)) {
        code = finish(*call, out_size, error);
        *call = NULL;
    }
    entry_unlock(client);
    return code == RFAAS_PENDING ? entry_pending(error) : code;
}

int rfaas_test(rfaas_call **call, uint64_t *out_size, rfaas_error *error)
{
    return rfaas_wait(call, 0, out_size, error);
}

typedef struct several {
    rfaas_call **calls;
    size_t n, done;
} several;

static bool is_one_done(void *context)
{
    several *all = context;
    for (all->done = 0; all->done < all->n; all->done++)
        if (all->calls[all->done] != NULL && all->calls[all->done]->state == CALL_DONE)
            return true;
    return false;
}

int rfaas_wait_any(rfaas_call **calls, size_t n, double timeout_s, size_t *index, uint64_t *out_size, rfaas_error *error)
{
    rfaas_client *client = NULL;
    for (size_t i = 0; calls != NULL && i < n; i++) {
        if (calls[i] == NULL)
            continue;
        if (client != NULL && calls[i]->client != client)
            return say_error(error, RFAAS_ERROR_ARGUMENT, "", "rfaas_wait_any takes calls of one client");
        client = calls[i]->client;
    }
    if (client == NULL || index == NULL)
        return say_error(error, RFAAS_ERROR_ARGUMENT, "", "there is no call to wait for, or no place for its index");
    if (!entry_is_allowed(client))
        return entry_refused(error);
    several all = {calls, n, n};
    int code = RFAAS_PENDING;
    entry_lock(client);
    if (await(client, is_one_done, &all, timeout_s)) {
        code = finish(calls[all.done], out_size, error);
        calls[all.done] = NULL;
    }
    entry_unlock(client);
    *index = all.done;
    return code == RFAAS_PENDING ? entry_pending(error) : code;
}

int rfaas_cancel(rfaas_call *call, int interrupt)
{
    if (call == NULL)
        return RFAAS_ERROR_ARGUMENT;
    rfaas_client *client = call->client;
    if (!entry_is_allowed(client))
        return RFAAS_ERROR_FORKED;
    entry_lock(client);
    bool ends = core_cancel(&client->core, call, interrupt != 0, client_now_ns());
    client_do_effects(client);
    tell_others(client);
    entry_unlock(client);
    return ends ? RFAAS_SUCCESS : RFAAS_PENDING;
}

static bool is_quiet(void *context)
{
    const rfaas_client *client = context;
    return client->core.outstanding == 0;
}

static bool never(void *context)
{
    (void)context;
    return false;
}

int rfaas_progress(rfaas_client *client, double timeout_s)
{
    if (client == NULL)
        return RFAAS_ERROR_ARGUMENT;
    if (!entry_is_allowed(client))
        return RFAAS_ERROR_FORKED;
    entry_lock(client);
    if (timeout_s == 0)
        await(client, never, NULL, 0);
    else
        await(client, is_quiet, client, timeout_s);
    int code = client->core.outstanding == 0 ? RFAAS_SUCCESS : RFAAS_PENDING;
    entry_unlock(client);
    return code;
}
