/* client.c - connecting and disconnecting, and what is known of a client as a whole. */
#include "client.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "entries.h"

enum { OPTIONS_BYTES_MAX = 4096 }; /* no version's struct is longer: somebody forgot to begin it */

static const int64_t spin_default_ns = 100000;
static const double connect_max_s = 1e6; /* what the helper waits by takes no more */
const int64_t connect_default_ns = 120000000000; /* as rfaas.session.start: cold interpreters on a busy file system */

/* ---- options ---- */

void rfaas_options_init(rfaas_options *options, size_t struct_size)
{
    const rfaas_options as_set = {.struct_size = (uint32_t)struct_size,
                                  .idempotent = -1,
                                  .call_timeout_s = -1,
                                  .acquire_timeout_s = -1,
                                  .hot_for_s = -1,
                                  .spin_for_s = -1,
                                  .connect_timeout_s = -1};
    if (options == NULL || struct_size < sizeof options->struct_size)
        return;
    memset(options, 0, struct_size); /* a newer header's, which has more: 0 is "as set" in all that came later */
    memcpy(options, &as_set, struct_size < sizeof as_set ? struct_size : sizeof as_set);
}

/* Whether a newer header's struct says something that this library does not know. */
static bool says_more(const rfaas_options *given)
{
    const char *bytes = (const char *)given;
    for (size_t at = sizeof *given; at < given->struct_size; at++)
        if (bytes[at] != 0)
            return true;
    return false;
}

/* The caller's options in a struct of this version; false: no such struct. */
static bool take_options(rfaas_options *taken, const rfaas_options *given)
{
    rfaas_options_init(taken, sizeof *taken);
    if (given == NULL)
        return true;
    uint32_t size_bytes = given->struct_size;
    if (size_bytes < offsetof(rfaas_options, python) + sizeof given->python || size_bytes > OPTIONS_BYTES_MAX)
        return false;
    memcpy(taken, given, size_bytes < sizeof *taken ? size_bytes : sizeof *taken);
    if (!(taken->connect_timeout_s < connect_max_s)) /* nor is it a number */
        taken->connect_timeout_s = connect_max_s;
    return true;
}

/* Polling takes the CPU from a worker that has no other. */
static int64_t spin_time_ns(double spin_for_s)
{
    cpu_set_t usable;
    if (spin_for_s >= 0)
        return duration_ns(spin_for_s);
    bool single = sched_getaffinity(0, sizeof usable, &usable) == 0 && CPU_COUNT(&usable) == 1;
    return single ? 0 : spin_default_ns;
}

/* ---- making ---- */

static bool make_lock(rfaas_client *client)
{
    pthread_condattr_t attributes;
    if (pthread_condattr_init(&attributes) != 0)
        return false;
    bool made = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC) == 0 &&
                pthread_cond_init(&client->moved, &attributes) == 0;
    pthread_condattr_destroy(&attributes);
    return made && pthread_mutex_init(&client->lock, NULL) == 0;
}

/* Frees all that is no descriptor of the poller's. */
static void free_client(rfaas_client *client)
{
    while (client->functions != NULL) {
        rfaas_function *next = client->functions->next;
        function_free(client->functions);
        client->functions = next;
    }
    while (client->made_calls != NULL) {
        rfaas_call *next = client->made_calls->next_made;
        core_forget(&client->core, client->made_calls);
        free(client->made_calls);
        client->made_calls = next;
    }
    pack_free(&client->joiner.said);
    pack_free(&client->unsent);
    core_fini(&client->core);
    launch_free(client->helper_command);
    free(client->packet);
    rfaas_poller_close(&client->poller);
    free(client);
}

static rfaas_client *make_client(const rfaas_options *options, rfaas_error *error)
{
    rfaas_client *client = calloc(1, sizeof *client);
    uint64_t seed = 1;
    if (client == NULL)
        goto no_memory;
    client->session_fd = client->joiner.fd = client->poller.epoll_fd = client->poller.wake_fd = -1;
    client->start = launch_process_start();
    client->helper_command = launch_command(options, client->start);
    client->packet = malloc(PACKET_BYTES_MAX);
    if (client->helper_command == NULL || client->packet == NULL || !make_lock(client))
        goto no_memory;
    int rc = rfaas_poller_open(&client->poller);
    if (rc != 0 || client->start == 0 || getrandom(client->id, sizeof client->id, 0) != (ssize_t)sizeof client->id ||
        getrandom(&seed, sizeof seed, 0) != (ssize_t)sizeof seed) {
        free_client(client);
        say_error(error, RFAAS_ERROR_SYSTEM, "raise the limit of open files (ulimit -n), mount /proc",
                  "the system gave no descriptor, or hides this process's own start time");
        return NULL;
    }
    client->fork_generation = entry_forks();
    client->spin_ns = spin_time_ns(options->spin_for_s);
    client->connect_timeout_ns =
        options->connect_timeout_s < 0 ? connect_default_ns : duration_ns(options->connect_timeout_s);
    client->show_output = options->show_output != 0;
    client->tried_due_ns = INT64_MAX;
    rfaas_error_init(&client->join_error, sizeof client->join_error);
    core_init(&client->core, 1, 0, seed);
    return client;
no_memory:
    if (client != NULL)
        free_client(client);
    say_error(error, RFAAS_ERROR_NO_MEMORY, "", "no memory for a client");
    return NULL;
}

static bool has_joined_or_failed(void *context)
{
    const rfaas_client *client = context;
    return client->core.session != SESSION_JOINING;
}

int rfaas_connect(const rfaas_options *options, rfaas_client **client, rfaas_error *error)
{
    rfaas_options taken;
    if (client == NULL)
        return say_error(error, RFAAS_ERROR_ARGUMENT, "", "rfaas_connect needs a place for the client");
    *client = NULL;
    if (!take_options(&taken, options))
        return say_error(error, RFAAS_ERROR_ARGUMENT, "call rfaas_options_init(&options, sizeof options) first",
                         "these are no rfaas_options of any version");
    if (options != NULL && says_more(options))
        return say_error(error, RFAAS_ERROR_ARGUMENT, "link the library that belongs to that rfaas.h, or leave the option out",
                         "the options say more than this library knows: they are of a newer rfaas.h (this one: %d)",
                         RFAAS_API_VERSION);
    rfaas_client *made = make_client(&taken, error);
    if (made == NULL)
        return error != NULL && error->struct_size >= 2 * sizeof(uint32_t) ? error->code : RFAAS_ERROR_NO_MEMORY;
    entry_lock(made);
    core_connect(&made->core);
    client_do_effects(made);
    await(made, has_joined_or_failed, made, -1);
    bool joined = made->core.session == SESSION_UP;
    entry_unlock(made);
    if (!joined) {
        int code = copy_error(error, &made->join_error);
        free_client(made);
        return code;
    }
    *client = made;
    return entry_succeeded(error);
}

/* ---- leaving ---- */

static void close_all(rfaas_client *client)
{
    for (core_channel *channel = client->core.channels; channel != NULL;) {
        port *one = (port *)channel;
        channel = channel->next;
        if (!one->core.gone)
            port_close(one);
    }
    for (core_channel *channel; (channel = client->core.gone) != NULL;) {
        client->core.gone = channel->next_gone;
        port_close((port *)channel);
    }
    while (client->dead != NULL) {
        port *one = client->dead;
        client->dead = one->next_dead;
        port_free(one);
    }
}

/* In a forked child: the copies go, and nobody hears of it. The poller is the parent's too: nothing is taken out of it. */
static void forget(rfaas_client *client)
{
    close(client->poller.epoll_fd);
    client->poller.epoll_fd = -1;
    if (client->session_fd >= 0)
        close(client->session_fd);
    if (client->joiner.fd >= 0)
        close(client->joiner.fd);
    close_all(client);
    free_client(client);
}

void rfaas_disconnect(rfaas_client *client)
{
    if (client == NULL)
        return;
    if (!entry_is_allowed(client)) {
        forget(client);
        return;
    }
    entry_lock(client);
    core_close(&client->core);
    join_abandon(client);
    close_all(client);
    session_leave(client);
    entry_unlock(client);
    pthread_mutex_destroy(&client->lock);
    pthread_cond_destroy(&client->moved);
    free_client(client);
}

/* ---- what is known ---- */

int rfaas_api_version(void)
{
    return RFAAS_API_VERSION;
}

int rfaas_why_waiting(rfaas_client *client, char *text, size_t size)
{
    if (client == NULL || text == NULL || size == 0)
        return RFAAS_ERROR_ARGUMENT;
    if (!entry_is_allowed(client))
        return RFAAS_ERROR_FORKED;
    entry_lock(client);
    const client_core *core = &client->core;
    snprintf(text, size, "%s%s%s", core->why_waiting, core->why_more[0] != '\0' ? ": " : "", core->why_more);
    entry_unlock(client);
    return RFAAS_SUCCESS;
}

int rfaas_get_statistics(rfaas_client *client, rfaas_client_statistics *statistics)
{
    if (client == NULL || statistics == NULL || statistics->struct_size < sizeof statistics->struct_size)
        return RFAAS_ERROR_ARGUMENT;
    if (!entry_is_allowed(client))
        return RFAAS_ERROR_FORKED;
    uint32_t size_bytes = statistics->struct_size;
    entry_lock(client);
    rfaas_client_statistics now = client->core.counters;
    now.running = client->core.n_busy;
    entry_unlock(client);
    now.struct_size = size_bytes;
    memcpy(statistics, &now, size_bytes < sizeof now ? size_bytes : sizeof now);
    return RFAAS_SUCCESS;
}
