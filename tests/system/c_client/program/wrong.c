/* wrong.c - what is refused, each time with its code and a remedy: functions, sizes, arguments, options, other versions. */
#include "program.h"

#include <string.h>
#include <unistd.h>

static void from_library(const char *file, const char *machine)
{
    rfaas_error error = RFAAS_ERROR_INIT;
    rfaas_function *found = (rfaas_function *)&error;
    REQUIRE(rfaas_function_from_library(client, file, "f", machine, &found, &error) == RFAAS_ERROR_CONFIG);
    REQUIRE(found == NULL);
    tell(&error);
}

static void wrong_functions(void)
{
    rfaas_error error = RFAAS_ERROR_INIT;
    char out[8];
    uint64_t size = sizeof out;
    int32_t value = -42;
    REQUIRE(rfaas_invoke(client, function("no_such"), "x", 1, out, &size, &error) == RFAAS_ERROR_BAD_FUNCTION);
    tell(&error);
    REQUIRE(rfaas_invoke(client, function("fail"), &value, sizeof value, out, &size, &error) == RFAAS_ERROR_FUNCTION);
    tell(&error);
}

static void wrong_sizes(void)
{
    rfaas_error error = RFAAS_ERROR_INIT;
    rfaas_function *echo = function("echo");
    char out[8];
    uint64_t size = 4;
    REQUIRE(rfaas_invoke(client, echo, "too large", 9, out, &size, &error) == RFAAS_ERROR_PAYLOAD_TOO_LARGE);
    REQUIRE(error.needed_size == 9);
    tell(&error);
    REQUIRE(rfaas_invoke(client, echo, "x", 1, NULL, NULL, &error) == RFAAS_ERROR_PAYLOAD_TOO_LARGE);
    REQUIRE(rfaas_invoke(client, echo, out, (uint64_t)1 << 40, out, &size, &error) == RFAAS_ERROR_PAYLOAD_TOO_LARGE);
    tell(&error);
}

static void wrong_libraries(void)
{
    char empty[] = "/tmp/rfaas-empty-XXXXXX";
    int empty_fd = mkstemp(empty);
    REQUIRE(empty_fd >= 0);
    close(empty_fd);
    from_library("/no/such.so", NULL);
    from_library("/dev/zero", NULL);
    from_library("/etc/passwd", NULL);
    from_library("/proc/self", NULL);
    from_library(empty, NULL);
    from_library(library, "rfaas-9");
    unlink(empty);
}

static void wrong_arguments(void)
{
    rfaas_error error = RFAAS_ERROR_INIT;
    rfaas_function *echo = function("echo"), *found;
    char text[8];
    size_t index;
    REQUIRE(rfaas_function_from_library(client, library, NULL, NULL, &found, &error) == RFAAS_ERROR_ARGUMENT);
    REQUIRE(rfaas_invoke(client, NULL, NULL, 0, NULL, NULL, &error) == RFAAS_ERROR_ARGUMENT);
    REQUIRE(rfaas_invoke(NULL, echo, NULL, 0, NULL, NULL, NULL) == RFAAS_ERROR_ARGUMENT);
    REQUIRE(rfaas_invoke(client, echo, NULL, 1, NULL, NULL, &error) == RFAAS_ERROR_ARGUMENT);
    REQUIRE(rfaas_wait(NULL, 0, NULL, &error) == RFAAS_ERROR_ARGUMENT);
    REQUIRE(rfaas_wait_any(NULL, 3, 0, &index, NULL, &error) == RFAAS_ERROR_ARGUMENT);
    REQUIRE(rfaas_cancel(NULL, 1) == RFAAS_ERROR_ARGUMENT);
    REQUIRE(rfaas_progress(NULL, 0) == RFAAS_ERROR_ARGUMENT);
    REQUIRE(rfaas_get_statistics(client, NULL) == RFAAS_ERROR_ARGUMENT);
    REQUIRE(rfaas_error_text(&error, text, sizeof text) > sizeof text && strlen(text) == sizeof text - 1);
    REQUIRE(strcmp(rfaas_strerror(12345), "unknown") == 0);

    REQUIRE(rfaas_why_waiting(NULL, text, sizeof text) == RFAAS_ERROR_ARGUMENT);
    REQUIRE(rfaas_why_waiting(client, NULL, 8) == RFAAS_ERROR_ARGUMENT);
    REQUIRE(rfaas_why_waiting(client, text, 0) == RFAAS_ERROR_ARGUMENT);
    REQUIRE(rfaas_why_waiting(client, text, 1) == RFAAS_SUCCESS && text[0] == '\0');
    REQUIRE(rfaas_api_version() == RFAAS_API_VERSION);
}

static void wrong_retries(void)
{
    rfaas_error error = RFAAS_ERROR_INIT;
    rfaas_function *echo = function("echo");
    char out[8];
    rfaas_call_options twice = RFAAS_CALL_OPTIONS_INIT;
    rfaas_call *unmade = (rfaas_call *)&twice;
    for (twice.idempotent = -1, twice.retries = 3; twice.idempotent <= 0; twice.idempotent++) {
        REQUIRE(rfaas_submit(client, echo, "x", 1, out, 8, &twice, &unmade, &error) == RFAAS_ERROR_ARGUMENT);
        REQUIRE(unmade == NULL);
        tell(&error);
    }
}

static void not_connected(const rfaas_options *options, int code)
{
    rfaas_error error = RFAAS_ERROR_INIT;
    rfaas_client *none = client;
    REQUIRE(rfaas_connect(options, &none, &error) == code && none == NULL);
    tell(&error);
}

static void wrong_options(void)
{
    static const char *const no_loads[] = {"heavy", "", "--help", "\xff", "memory,io"};
    rfaas_options bad = {.struct_size = 4};
    not_connected(&bad, RFAAS_ERROR_ARGUMENT);
    rfaas_options_init(&bad, sizeof bad);
    bad.python = "/no/such/python";
    not_connected(&bad, RFAAS_ERROR_CONFIG);
    bad.python = "/bin/true";
    not_connected(&bad, RFAAS_ERROR_ALLOCATOR_UNAVAILABLE);
    rfaas_options_init(&bad, sizeof bad);
    bad.transport = "pigeon";
    not_connected(&bad, RFAAS_ERROR_CONFIG);
    for (size_t i = 0; i < sizeof no_loads / sizeof *no_loads; i++) {
        rfaas_options_init(&bad, sizeof bad);
        bad.load = no_loads[i];
        not_connected(&bad, RFAAS_ERROR_CONFIG);
    }
}

/* Longer than this library's: served while it says nothing that the library does not know. */
static void options_of_a_newer_program(void)
{
    rfaas_error error = RFAAS_ERROR_INIT;
    rfaas_client *none;
    struct {
        rfaas_options options;
        uint64_t behind;
    } newer;
    memset(&newer, 'x', sizeof newer);
    rfaas_options_init(&newer.options, sizeof newer);
    REQUIRE(newer.behind == 0);
    REQUIRE(rfaas_connect(&newer.options, &none, &error) == RFAAS_SUCCESS);
    rfaas_disconnect(none);
    newer.behind = 1;
    not_connected(&newer.options, RFAAS_ERROR_ARGUMENT);
}

static void error_of_an_older_program(void)
{
    struct {
        rfaas_error error;
        char behind[16];
    } old;
    memset(&old, 'x', sizeof old);
    rfaas_error_init(&old.error, 16);
    REQUIRE(rfaas_invoke(client, NULL, NULL, 0, NULL, NULL, &old.error) == RFAAS_ERROR_ARGUMENT);
    REQUIRE(old.error.code == RFAAS_ERROR_ARGUMENT && ((char *)&old)[16] == 'x' && old.behind[0] == 'x');
}

int wrong_things(char **words)
{
    (void)words;
    connect_with(1, 0, 0);
    wrong_functions();
    wrong_sizes();
    wrong_libraries();
    wrong_arguments();
    wrong_retries();
    wrong_options();
    options_of_a_newer_program();
    error_of_an_older_program();
    REQUIRE(echo_one(function("echo"), 7)); /* and after all that it works as before */
    return 0;
}
