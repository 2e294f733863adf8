/* options.c - options at the edge of what they may be, and what is told of workers that don't come. */
#include "program.h"

#include <locale.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* Durations that no clock counts, or none to speak of, and options of a call that nobody began. */
int durations(char **words)
{
    (void)words;
    rfaas_error error = RFAAS_ERROR_INIT;
    rfaas_options options;
    rfaas_options_init(&options, sizeof options);
    options.max_workers = 1;
    options.connect_timeout_s = options.spin_for_s = INFINITY;
    call_with(&options);

    rfaas_function *doze = function("doze"), *echo = function("echo");
    rfaas_call_options call_options = RFAAS_CALL_OPTIONS_INIT, begun_by_nobody = {.idempotent = 1, .call_timeout_s = 0.1};
    uint64_t ms = 60000;
    rfaas_call *call;
    call_options.call_timeout_s = 1e-12; /* not none */
    REQUIRE(rfaas_submit(client, doze, &ms, 8, NULL, 0, &call_options, &call, &error) == RFAAS_SUCCESS);
    REQUIRE(rfaas_wait(&call, INFINITY, NULL, &error) == RFAAS_ERROR_DEADLINE_EXCEEDED);
    call_options.call_timeout_s = INFINITY;
    REQUIRE(rfaas_submit(client, echo, "x", 0, NULL, 0, &call_options, &call, &error) == RFAAS_SUCCESS);
    REQUIRE(rfaas_wait(&call, 1e300, NULL, &error) == RFAAS_SUCCESS);
    REQUIRE(rfaas_submit(client, echo, "x", 0, NULL, 0, &begun_by_nobody, &call, &error) == RFAAS_ERROR_ARGUMENT);
    REQUIRE(call == NULL);
    tell(&error);
    return 0;
}

/* What it prints of a number has a decimal comma. */
int with_a_comma(char **words)
{
    const char *name = words[0];
    char text[8];
    REQUIRE(setlocale(LC_ALL, name) != NULL);
    REQUIRE(snprintf(text, sizeof text, "%.1f", 0.5) == 3 && text[1] == ',');
    rfaas_options options;
    rfaas_options_init(&options, sizeof options);
    options.max_workers = 1;
    options.call_timeout_s = 120.5;
    call_with(&options);
    return 0;
}

/* A program of the first version, whose options end where `load` begins. */
int of_first_version(char **words)
{
    (void)words;
    rfaas_options options;
    memset(&options, 'x', sizeof options);
    rfaas_options_init(&options, offsetof(rfaas_options, load));
    options.max_workers = 1;
    call_with(&options);
    return 0;
}

/* Waits for a worker without a limit; says why, each time that it hears another reason. */
int why_waiting(char **words)
{
    const char *load = words[0];
    char why[RFAAS_WHY_BYTES] = "", before[RFAAS_WHY_BYTES] = "";
    rfaas_error error = RFAAS_ERROR_INIT;
    rfaas_options options;
    rfaas_call *call;
    rfaas_options_init(&options, sizeof options);
    options.load = strcmp(load, "0") == 0 ? NULL : load;
    if (rfaas_connect(&options, &client, &error) != RFAAS_SUCCESS)
        tell(&error);
    REQUIRE(client != NULL);
    REQUIRE(rfaas_submit(client, function("echo"), "x", 0, NULL, 0, NULL, &call, &error) == RFAAS_SUCCESS);
    while (rfaas_wait(&call, 0.05, NULL, &error) == RFAAS_PENDING) {
        REQUIRE(rfaas_why_waiting(client, why, sizeof why) == RFAAS_SUCCESS);
        if (why[0] != '\0' && strcmp(why, before) != 0)
            printf("why=%s\n", strcpy(before, why));
        fflush(stdout);
    }
    REQUIRE(error.code == RFAAS_SUCCESS);
    REQUIRE(rfaas_why_waiting(client, why, sizeof why) == RFAAS_SUCCESS && why[0] == '\0');
    return 0;
}

/* How connecting or the first call failed. */
int say_failure(char **words)
{
    (void)words;
    rfaas_error error = RFAAS_ERROR_INIT;
    rfaas_options options;
    rfaas_options_init(&options, sizeof options);
    options.max_workers = 1;
    char out[8];
    uint64_t size = sizeof out;
    if (rfaas_connect(&options, &client, &error) == RFAAS_SUCCESS)
        rfaas_invoke(client, function("echo"), "x", 1, out, &size, &error);
    tell(&error);
    return 0;
}

int no_workers(char **words)
{
    (void)words;
    rfaas_error error = RFAAS_ERROR_INIT;
    rfaas_options options;
    rfaas_options_init(&options, sizeof options);
    options.max_workers = 1;
    options.acquire_timeout_s = 0.5;
    options.memory_bytes = 64 << 20;
    REQUIRE(rfaas_connect(&options, &client, &error) == RFAAS_SUCCESS);
    char out[8];
    uint64_t size = sizeof out;
    REQUIRE(rfaas_invoke(client, function("echo"), "x", 1, out, &size, &error) == RFAAS_ERROR_ACQUIRE_TIMEOUT);
    tell(&error);
    return 0;
}
