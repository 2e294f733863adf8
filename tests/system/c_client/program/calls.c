/* calls.c - calls one by one and many at a time, of all sizes; how long and failing ones end. */
#include "program.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int invoke_many(char **words)
{
    uint64_t n = number(words[0]);
    connect_with(2, 0, 0);
    rfaas_function *echo = function("echo");
    for (uint64_t i = 0; i < n; i++)
        REQUIRE(echo_one(echo, i));
    return 0;
}

/* All on one channel. */
int invoke_on_one(char **words)
{
    uint64_t n = number(words[0]);
    rfaas_client_statistics counted = RFAAS_CLIENT_STATISTICS_INIT;
    connect_with(1, 0, 0);
    rfaas_function *echo = function("echo");
    for (uint64_t i = 0; i < n; i++)
        REQUIRE(echo_one(echo, i));
    REQUIRE(rfaas_get_statistics(client, &counted) == RFAAS_SUCCESS);
    REQUIRE(counted.dispatched == n && counted.redispatched == 0 && counted.late_results == 0);
    return 0;
}

/* As many at a time as are asked for, answers taken as they come; each exactly once. */
int submit_many(char **words)
{
    size_t n = number(words[0]);
    connect_with(2, 0, 0);
    rfaas_function *echo = function("echo");
    rfaas_error error = RFAAS_ERROR_INIT;
    rfaas_call **calls = calloc(n, sizeof *calls);
    uint64_t *in = calloc(n, sizeof *in), *out = calloc(n, sizeof *out), size;
    unsigned *answers = calloc(n, sizeof *answers);
    for (size_t i = 0; i < n; i++) {
        in[i] = i * i;
        REQUIRE(rfaas_submit(client, echo, &in[i], 8, &out[i], 8, NULL, &calls[i], &error) == RFAAS_SUCCESS);
    }
    size_t index = n;
    REQUIRE(rfaas_test(&calls[n - 1], NULL, &error) != RFAAS_ERROR_ARGUMENT);
    if (calls[n - 1] == NULL)
        answers[n - 1]++;
    for (size_t left = n - (calls[n - 1] == NULL); left > 0; left--) {
        REQUIRE(rfaas_wait_any(calls, n, -1, &index, &size, &error) == RFAAS_SUCCESS);
        REQUIRE(size == 8 && calls[index] == NULL);
        answers[index]++;
    }
    for (size_t i = 0; i < n; i++)
        REQUIRE(answers[i] == 1 && out[i] == in[i]);
    REQUIRE(rfaas_wait_any(calls, n, -1, &index, &size, &error) == RFAAS_ERROR_ARGUMENT);
    REQUIRE(rfaas_progress(client, -1) == RFAAS_SUCCESS);
    rfaas_client_statistics counted = RFAAS_CLIENT_STATISTICS_INIT;
    REQUIRE(rfaas_get_statistics(client, &counted) == RFAAS_SUCCESS);
    REQUIRE(counted.submitted == n && counted.answered == n && counted.failed == 0 && counted.running == 0);
    free(calls);
    free(in);
    free(out);
    free(answers);
    return 0;
}

/* Sizes about which something changes: nothing, one cache line, what is inline in a write, slot, ring and arena, rendezvous, an
 * arena's half. Up to `most_bytes`, 0: all. */
int all_sizes(char **words)
{
    size_t most_bytes = number(words[0]);
    static const size_t sizes[] = {0,     1,     31,     32,     33,      64,      192,           193,
                                   1024,  4095,  32767,  32768,  131071,  131072,  (32 << 20) + 3, 262144,
                                   1 << 20};
    size_t largest_bytes = most_bytes != 0 ? most_bytes : (32 << 20) + 3;
    connect_with(1, 0, 0);
    rfaas_function *echo = function("echo");
    rfaas_error error = RFAAS_ERROR_INIT;
    uint8_t *in = malloc(largest_bytes), *out = malloc(largest_bytes);
    for (size_t i = 0; i < largest_bytes; i++)
        in[i] = (uint8_t)(i * 2654435761u >> 24);
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        uint64_t size = sizes[k];
        if (size > largest_bytes)
            continue;
        memset(out, 0, sizes[k]);
        REQUIRE(rfaas_invoke(client, echo, in, sizes[k], out, &size, &error) == RFAAS_SUCCESS);
        REQUIRE(size == sizes[k] && memcmp(in, out, sizes[k]) == 0);
    }
    free(in);
    free(out);
    return 0;
}

/* The worker's pid, then a call that takes its time after it made the file of this path; how that ended, then that the next
 * one works. */
static int one_long_call(char **words, int idempotent)
{
    uint64_t ms = number(words[0]);
    const char *path = words[1];
    char in[4096];
    REQUIRE(path != NULL);
    size_t in_size = sizeof ms + strlen(path) + 1;
    REQUIRE(in_size <= sizeof in);
    memcpy(in, &ms, sizeof ms);
    strcpy(in + sizeof ms, path);
    connect_with(1, idempotent, idempotent ? 3 : 0);
    rfaas_function *count = function("count"), *doze = function("touch_and_doze"), *echo = function("echo");
    rfaas_error error = RFAAS_ERROR_INIT;
    int64_t found[2] = {0, 0};
    char out[8];
    uint64_t size = sizeof found;
    REQUIRE(rfaas_invoke(client, count, "", 0, found, &size, &error) == RFAAS_SUCCESS);
    printf("worker=%lld\n", (long long)found[1]);
    fflush(stdout);
    size = sizeof out;
    rfaas_invoke(client, doze, in, in_size, out, &size, &error);
    tell(&error);
    REQUIRE(echo_one(echo, 7));
    rfaas_client_statistics counted = RFAAS_CLIENT_STATISTICS_INIT;
    rfaas_get_statistics(client, &counted);
    printf("sessions_lost=%llu retried=%llu failed=%llu\n", (unsigned long long)counted.sessions_lost,
           (unsigned long long)counted.retried, (unsigned long long)counted.failed);
    return 0;
}

int long_call(char **words) { return one_long_call(words, 0); }

int long_idempotent_call(char **words) { return one_long_call(words, 1); }

int crash(char **words)
{
    const char *symbol = words[0];
    connect_with(1, 0, 0);
    rfaas_error error = RFAAS_ERROR_INIT;
    char out[8];
    uint64_t size = sizeof out;
    REQUIRE(rfaas_invoke(client, function(symbol), "", 0, out, &size, &error) != RFAAS_SUCCESS);
    tell(&error);
    REQUIRE(echo_one(function("echo"), 7));
    return 0;
}

int time_outs(char **words)
{
    (void)words;
    connect_with(1, 0, 0);
    rfaas_function *doze = function("doze"), *echo = function("echo");
    rfaas_error error = RFAAS_ERROR_INIT;
    rfaas_call_options options = RFAAS_CALL_OPTIONS_INIT;
    rfaas_call *running, *waiting, *third;
    uint64_t ms = 60000, size = 0;
    char out[8];
    REQUIRE(echo_one(echo, 1));
    options.call_timeout_s = 0.3;
    REQUIRE(rfaas_submit(client, doze, &ms, 8, out, 8, &options, &running, &error) == RFAAS_SUCCESS);
    REQUIRE(rfaas_wait(&running, 0.01, &size, &error) == RFAAS_PENDING && running != NULL);
    REQUIRE(error.code == RFAAS_PENDING);
    REQUIRE(rfaas_wait(&running, -1, &size, &error) == RFAAS_ERROR_DEADLINE_EXCEEDED && running == NULL);
    tell(&error);

    /* one that runs is interrupted, one that waits is taken back */
    REQUIRE(rfaas_submit(client, doze, &ms, 8, out, 8, NULL, &running, &error) == RFAAS_SUCCESS);
    REQUIRE(rfaas_submit(client, echo, &ms, 8, out, 8, NULL, &waiting, &error) == RFAAS_SUCCESS);
    REQUIRE(rfaas_submit(client, echo, &ms, 8, out, 8, NULL, &third, &error) == RFAAS_SUCCESS);
    rfaas_client_statistics counted = RFAAS_CLIENT_STATISTICS_INIT;
    do
        rfaas_progress(client, 0.05);
    while (rfaas_get_statistics(client, &counted) != RFAAS_SUCCESS || counted.running == 0);
    rfaas_progress(client, 0.3);
    REQUIRE(rfaas_cancel(running, 0) == RFAAS_PENDING);
    REQUIRE(rfaas_cancel(waiting, 0) == RFAAS_SUCCESS);
    REQUIRE(rfaas_wait(&waiting, -1, NULL, &error) == RFAAS_ERROR_CANCELLED && error.may_have_run == 0);
    REQUIRE(rfaas_cancel(running, 1) == RFAAS_SUCCESS);
    REQUIRE(rfaas_wait(&running, -1, NULL, &error) == RFAAS_ERROR_CANCELLED && error.may_have_run == 1);
    tell(&error);
    REQUIRE(rfaas_wait(&third, -1, NULL, &error) == RFAAS_SUCCESS);

    /* what is not waited for ends with its client */
    REQUIRE(rfaas_submit(client, doze, &ms, 8, out, 8, NULL, &running, &error) == RFAAS_SUCCESS);
    rfaas_progress(client, 0.05);
    return 0;
}
