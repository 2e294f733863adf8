/* calls.h - what the programs share that call a compiled function by rfaas.h: a client with one worker, one call that is
 * timed.
 *
 * The library of functions holds `echo` and `process_id` (transport/raw/echo_function.c).
 */
#ifndef RFAAS_RAW_CALLS_H
#define RFAAS_RAW_CALLS_H

#include <rfaas.h>

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct caller {
    rfaas_client *client;
    rfaas_function *echo;
    pid_t worker;
    uint8_t *in, *out;
    size_t size_bytes;
    uint64_t number; /* of the call */
} caller;

static void fail_with(const char *what, const rfaas_error *error)
{
    char text[1024] = "";
    if (error != NULL)
        rfaas_error_text(error, text, sizeof text);
    fprintf(stderr, "%s: %s\n", what, text);
    exit(1);
}

static int64_t clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void pin_process(pid_t process, int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(process, sizeof set, &set) != 0)
        fail_with("sched_setaffinity", NULL);
}

static int in_order(const void *left, const void *right)
{
    int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
    return a < b ? -1 : a > b;
}

/* Connects to an embedded allocator whose worker is reached over `transport`; `spin_for_s` as of rfaas_options. */
static caller caller_begin(const char *library, const char *transport, size_t size_bytes, double spin_for_s)
{
    caller made = {.size_bytes = size_bytes, .in = calloc(2, size_bytes)};
    rfaas_error error = RFAAS_ERROR_INIT;
    rfaas_options options;
    rfaas_function *process_id;
    rfaas_options_init(&options, sizeof options);
    options.max_workers = 1;
    options.allocator = "embedded";
    options.transport = transport;
    options.spin_for_s = spin_for_s;
    if (made.in == NULL)
        fail_with("malloc", NULL);
    made.out = made.in + size_bytes;
    if (rfaas_connect(&options, &made.client, &error) != RFAAS_SUCCESS)
        fail_with("rfaas_connect", &error);
    if (rfaas_function_from_library(made.client, library, "echo", NULL, &made.echo, &error) != RFAAS_SUCCESS ||
        rfaas_function_from_library(made.client, library, "process_id", NULL, &process_id, &error) != RFAAS_SUCCESS)
        fail_with(library, &error);
    int64_t worker = 0;
    uint64_t worker_bytes = sizeof worker;
    if (rfaas_invoke(made.client, process_id, NULL, 0, &worker, &worker_bytes, &error) != RFAAS_SUCCESS)
        fail_with("process_id", &error);
    made.worker = (pid_t)worker;
    return made;
}

/* Nanoseconds of one call, whose answer is compared with what was sent. */
static int64_t call_once(caller *by)
{
    rfaas_error error = RFAAS_ERROR_INIT;
    uint64_t out_bytes = by->size_bytes;
    by->number++;
    memcpy(by->in, &by->number, by->size_bytes < sizeof by->number ? by->size_bytes : sizeof by->number); /* no old answer */
    int64_t begun_ns = clock_ns();
    int rc = rfaas_invoke(by->client, by->echo, by->in, by->size_bytes, by->out, &out_bytes, &error);
    int64_t took_ns = clock_ns() - begun_ns;
    if (rc != RFAAS_SUCCESS)
        fail_with("rfaas_invoke", &error);
    if (out_bytes != by->size_bytes || memcmp(by->in, by->out, by->size_bytes) != 0)
        fail_with("a call brought back something else", NULL);
    return took_ns;
}

static void caller_end(caller *ended)
{
    rfaas_disconnect(ended->client);
    free(ended->in);
}

#endif
