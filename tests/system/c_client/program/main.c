/* main.c - a program in C for test_c_client.py: one command a run, lines on standard output, 0 if all was as it should. */
#include "program.h"

#include <string.h>

const char *library;
rfaas_client *client;

static const struct {
    const char *name;
    int (*run)(char **words);
} commands[] = {
    {"invoke", invoke_many},
    {"invoke-on-one", invoke_on_one},
    {"submit", submit_many},
    {"sizes", all_sizes},
    {"long", long_call},
    {"long-idempotent", long_idempotent_call},
    {"crash", crash},
    {"time-outs", time_outs},
    {"wrong", wrong_things},
    {"fork", forked},
    {"threads", threads},
    {"signals", signals},
    {"away", away},
    {"come-and-go", come_and_go},
    {"pause-between", pause_between},
    {"unread", unread},
    {"durations", durations},
    {"comma", with_a_comma},
    {"of-first-version", of_first_version},
    {"why-waiting", why_waiting},
    {"say-failure", say_failure},
    {"no-workers", no_workers},
};

void tell(const rfaas_error *error)
{
    char text[1200];
    rfaas_error_text(error, text, sizeof text);
    printf("code=%s reason=%d may_have_run=%d phase=%d value=%d retriable=%d text=%s\n", rfaas_strerror(error->code),
           error->reason, error->may_have_run, error->phase, error->value, error->retriable, text);
    fflush(stdout);
}

void connect_with(uint32_t workers, int idempotent, uint32_t retries)
{
    rfaas_error error = RFAAS_ERROR_INIT;
    rfaas_options options;
    rfaas_options_init(&options, sizeof options);
    options.max_workers = workers;
    options.idempotent = idempotent;
    options.retries = retries;
    options.memory_bytes = 256 << 20;
    if (rfaas_connect(&options, &client, &error) != RFAAS_SUCCESS) {
        tell(&error);
        exit(3);
    }
}

rfaas_function *function(const char *symbol)
{
    rfaas_error error = RFAAS_ERROR_INIT;
    rfaas_function *found = NULL;
    REQUIRE(rfaas_function_from_library(client, library, symbol, NULL, &found, &error) == RFAAS_SUCCESS);
    return found;
}

int echo_one(rfaas_function *echo, uint64_t number)
{
    rfaas_error error = RFAAS_ERROR_INIT;
    uint64_t out = 0, size = sizeof out;
    int code = rfaas_invoke(client, echo, &number, sizeof number, &out, &size, &error);
    REQUIRE(code == error.code);
    if (code != RFAAS_SUCCESS)
        tell(&error);
    return code == RFAAS_SUCCESS && size == sizeof out && out == number;
}

void call_with(const rfaas_options *options)
{
    rfaas_error error = RFAAS_ERROR_INIT;
    if (rfaas_connect(options, &client, &error) != RFAAS_SUCCESS)
        tell(&error);
    REQUIRE(client != NULL && echo_one(function("echo"), 7));
}

uint64_t number(const char *word) { return strtoull(word, NULL, 10); }

static int run(const char *name, char **words)
{
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (strcmp(name, commands[i].name) == 0)
            return commands[i].run(words);
    return 2;
}

int main(int argc, char **argv)
{
    static char *none[] = {"0", NULL};
    if (argc < 3)
        return 2;
    library = argv[1];
    int status = run(argv[2], argc > 3 ? argv + 3 : none);
    rfaas_disconnect(client);
    return status;
}
