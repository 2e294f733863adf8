/* program.c - a program in C for test_c_client.py: one command a run, lines on standard output, 0 if all was as it should. */
#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stddef.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <rfaas.h>
#include <rfaas_function.h> /* both in one program */

#define REQUIRE(what)                                                          \
    do {                                                                       \
        if (!(what)) {                                                         \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #what); \
            exit(1);                                                           \
        }                                                                      \
    } while (0)

static const char *library;
static rfaas_client *client;

static void tell(const rfaas_error *error)
{
    char text[1200];
    rfaas_error_text(error, text, sizeof text);
    printf("code=%s reason=%d may_have_run=%d phase=%d value=%d retriable=%d text=%s\n", rfaas_strerror(error->code),
           error->reason, error->may_have_run, error->phase, error->value, error->retriable, text);
    fflush(stdout);
}

static void connect_with(uint32_t workers, int idempotent, uint32_t retries)
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

static rfaas_function *function(const char *symbol)
{
    rfaas_error error = RFAAS_ERROR_INIT;
    rfaas_function *found = NULL;
    REQUIRE(rfaas_function_from_library(client, library, symbol, NULL, &found, &error) == RFAAS_SUCCESS);
    return found;
}

static int echo_one(rfaas_function *echo, uint64_t number)
{
    rfaas_error error = RFAAS_ERROR_INIT;
    uint64_t out = 0, size = sizeof out;
    int code = rfaas_invoke(client, echo, &number, sizeof number, &out, &size, &error);
    REQUIRE(code == error.code);
    if (code != RFAAS_SUCCESS)
        tell(&error);
    return code == RFAAS_SUCCESS && size == sizeof out && out == number;
}

static int invoke_many(uint64_t n)
{
    connect_with(2, 0, 0);
    rfaas_function *echo = function("echo");
    for (uint64_t i = 0; i < n; i++)
        REQUIRE(echo_one(echo, i));
    return 0;
}

/* All on one channel. */
static int invoke_on_one(uint64_t n)
{
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
static int submit_many(size_t n)
{
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
static int all_sizes(size_t most_bytes)
{
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

static int wrong_things(void)
{
    connect_with(1, 0, 0);
    rfaas_error error = RFAAS_ERROR_INIT;
    rfaas_function *echo = function("echo"), *found = echo;
    char out[8];
    uint64_t size = sizeof out;
    int32_t value = -42;
    char text[8];
    size_t index;

    REQUIRE(rfaas_invoke(client, function("no_such"), "x", 1, out, &size, &error) == RFAAS_ERROR_BAD_FUNCTION);
    tell(&error);
    REQUIRE(rfaas_invoke(client, function("fail"), &value, sizeof value, out, &size, &error) == RFAAS_ERROR_FUNCTION);
    tell(&error);
    size = 4;
    REQUIRE(rfaas_invoke(client, echo, "too large", 9, out, &size, &error) == RFAAS_ERROR_PAYLOAD_TOO_LARGE);
    REQUIRE(error.needed_size == 9);
    tell(&error);
    REQUIRE(rfaas_invoke(client, echo, "x", 1, NULL, NULL, &error) == RFAAS_ERROR_PAYLOAD_TOO_LARGE);
    REQUIRE(rfaas_invoke(client, echo, out, (uint64_t)1 << 40, out, &size, &error) == RFAAS_ERROR_PAYLOAD_TOO_LARGE);
    tell(&error);

    REQUIRE(rfaas_function_from_library(client, "/no/such.so", "f", NULL, &found, &error) == RFAAS_ERROR_CONFIG);
    REQUIRE(found == NULL);
    tell(&error);
    REQUIRE(rfaas_function_from_library(client, "/dev/zero", "f", NULL, &found, &error) == RFAAS_ERROR_CONFIG);
    REQUIRE(rfaas_function_from_library(client, "/etc/passwd", "f", NULL, &found, &error) == RFAAS_ERROR_CONFIG);
    tell(&error);
    REQUIRE(rfaas_function_from_library(client, "/proc/self", "f", NULL, &found, &error) == RFAAS_ERROR_CONFIG);
    tell(&error);
    char empty[] = "/tmp/rfaas-empty-XXXXXX";
    int empty_fd = mkstemp(empty);
    REQUIRE(empty_fd >= 0);
    REQUIRE(rfaas_function_from_library(client, empty, "f", NULL, &found, &error) == RFAAS_ERROR_CONFIG);
    close(empty_fd);
    unlink(empty);
    tell(&error);
    REQUIRE(rfaas_function_from_library(client, library, "f", "rfaas-9", &found, &error) == RFAAS_ERROR_CONFIG);
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

    rfaas_options bad = {.struct_size = 4};
    rfaas_client *none = client;
    REQUIRE(rfaas_connect(&bad, &none, &error) == RFAAS_ERROR_ARGUMENT && none == NULL);
    rfaas_options_init(&bad, sizeof bad);
    bad.python = "/no/such/python";
    REQUIRE(rfaas_connect(&bad, &none, &error) == RFAAS_ERROR_CONFIG && none == NULL);
    tell(&error);
    bad.python = "/bin/true";
    REQUIRE(rfaas_connect(&bad, &none, &error) == RFAAS_ERROR_ALLOCATOR_UNAVAILABLE);
    tell(&error);
    rfaas_options_init(&bad, sizeof bad);
    bad.transport = "pigeon";
    REQUIRE(rfaas_connect(&bad, &none, &error) == RFAAS_ERROR_CONFIG);
    tell(&error);
    static const char *const no_loads[] = {"heavy", "", "--help", "\xff", "memory,io"};
    for (size_t i = 0; i < sizeof no_loads / sizeof *no_loads; i++) {
        rfaas_options_init(&bad, sizeof bad);
        bad.load = no_loads[i];
        none = client;
        REQUIRE(rfaas_connect(&bad, &none, &error) == RFAAS_ERROR_CONFIG && none == NULL);
        tell(&error);
    }

    REQUIRE(rfaas_why_waiting(NULL, text, sizeof text) == RFAAS_ERROR_ARGUMENT);
    REQUIRE(rfaas_why_waiting(client, NULL, 8) == RFAAS_ERROR_ARGUMENT);
    REQUIRE(rfaas_why_waiting(client, text, 0) == RFAAS_ERROR_ARGUMENT);
    REQUIRE(rfaas_why_waiting(client, text, 1) == RFAAS_SUCCESS && text[0] == '\0');
    REQUIRE(rfaas_api_version() == RFAAS_API_VERSION);

    /* a newer program's is longer: served while it says nothing that this library does not know */
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
    REQUIRE(rfaas_connect(&newer.options, &none, &error) == RFAAS_ERROR_ARGUMENT && none == NULL);
    tell(&error);

    rfaas_call_options twice = RFAAS_CALL_OPTIONS_INIT;
    rfaas_call *unmade = (rfaas_call *)&twice;
    for (twice.idempotent = -1, twice.retries = 3; twice.idempotent <= 0; twice.idempotent++) {
        REQUIRE(rfaas_submit(client, echo, "x", 1, out, 8, &twice, &unmade, &error) == RFAAS_ERROR_ARGUMENT);
        REQUIRE(unmade == NULL);
        tell(&error);
    }

    /* an older program's struct is shorter */
    struct {
        rfaas_error error;
        char behind[16];
    } old;
    memset(&old, 'x', sizeof old);
    rfaas_error_init(&old.error, 16);
    REQUIRE(rfaas_invoke(client, NULL, NULL, 0, NULL, NULL, &old.error) == RFAAS_ERROR_ARGUMENT);
    REQUIRE(old.error.code == RFAAS_ERROR_ARGUMENT && ((char *)&old)[16] == 'x' && old.behind[0] == 'x');

    REQUIRE(echo_one(echo, 7)); /* and after all that it works as before */
    return 0;
}

/* The worker's pid, then a call that takes its time after it made the file of this path; how that ended, then that the next
 * one works. */
static int one_long_call(uint64_t ms, const char *path, int idempotent)
{
    char in[4096];
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

static int crash(const char *symbol)
{
    connect_with(1, 0, 0);
    rfaas_error error = RFAAS_ERROR_INIT;
    char out[8];
    uint64_t size = sizeof out;
    REQUIRE(rfaas_invoke(client, function(symbol), "", 0, out, &size, &error) != RFAAS_SUCCESS);
    tell(&error);
    REQUIRE(echo_one(function("echo"), 7));
    return 0;
}

static int time_outs(void)
{
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

static int forked(void)
{
    connect_with(1, 0, 0);
    rfaas_function *echo = function("echo");
    REQUIRE(echo_one(echo, 1));
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        rfaas_error error = RFAAS_ERROR_INIT;
        char out[8];
        uint64_t size = sizeof out;
        rfaas_call *call = NULL;
        REQUIRE(rfaas_invoke(client, echo, "x", 1, out, &size, &error) == RFAAS_ERROR_FORKED);
        tell(&error);
        REQUIRE(rfaas_submit(client, echo, "x", 1, out, 8, NULL, &call, &error) == RFAAS_ERROR_FORKED);
        REQUIRE(rfaas_progress(client, -1) == RFAAS_ERROR_FORKED);
        rfaas_disconnect(client);
        connect_with(1, 0, 0); /* by itself it may */
        REQUIRE(echo_one(function("echo"), 2));
        rfaas_disconnect(client);
        _exit(0);
    }
    int status = -1;
    for (int i = 0; i < 100; i++)
        REQUIRE(echo_one(echo, (uint64_t)i));
    REQUIRE(waitpid(pid, &status, 0) == pid && status == 0);
    REQUIRE(echo_one(echo, 3));
    return 0;
}

enum { THREADS = 4, CALLS_A_THREAD = 200 };

static void *call_in_thread(void *echo)
{
    for (uint64_t i = 0; i < CALLS_A_THREAD; i++)
        REQUIRE(echo_one(echo, i + (uint64_t)(uintptr_t)pthread_self()));
    return NULL;
}

static int threads(void)
{
    connect_with(2, 0, 0);
    rfaas_function *echo = function("echo");
    pthread_t all[THREADS];
    for (int i = 0; i < THREADS; i++)
        REQUIRE(pthread_create(&all[i], NULL, call_in_thread, echo) == 0);
    for (int i = 0; i < THREADS; i++)
        REQUIRE(pthread_join(all[i], NULL) == 0);
    return 0;
}

static volatile sig_atomic_t alarms;

static void on_alarm(int number)
{
    (void)number;
    alarms++;
}

/* Signals without SA_RESTART all the time, SIGCHLD ignored, SIGPIPE deadly. */
static int signals(void)
{
    struct sigaction action = {.sa_handler = on_alarm};
    struct itimerval often = {{0, 1000}, {0, 1000}}, never = {{0, 0}, {0, 0}};
    sigaction(SIGALRM, &action, NULL);
    signal(SIGCHLD, SIG_IGN);
    signal(SIGPIPE, SIG_DFL);
    setitimer(ITIMER_REAL, &often, NULL);
    connect_with(1, 0, 0);
    rfaas_function *doze = function("doze"), *echo = function("echo");
    rfaas_error error = RFAAS_ERROR_INIT;
    uint64_t ms = 100, size = 8;
    char out[8];
    REQUIRE(rfaas_invoke(client, doze, &ms, 8, out, &size, &error) == RFAAS_SUCCESS);
    for (uint64_t i = 0; i < 200; i++)
        REQUIRE(echo_one(echo, i));
    setitimer(ITIMER_REAL, &never, NULL);
    REQUIRE(alarms > 20);
    return 0;
}

/* Connects with one option, and calls. */
static void call_with(const rfaas_options *options)
{
    rfaas_error error = RFAAS_ERROR_INIT;
    if (rfaas_connect(options, &client, &error) != RFAAS_SUCCESS)
        tell(&error);
    REQUIRE(client != NULL && echo_one(function("echo"), 7));
}

/* Durations that no clock counts, or none to speak of, and options of a call that nobody began. */
static int durations(void)
{
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
static int with_a_comma(const char *name)
{
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

/* Nobody reads what functions print. */
static int unread(void)
{
    rfaas_options options;
    rfaas_options_init(&options, sizeof options);
    options.max_workers = 1;
    options.show_output = 1;
    signal(SIGPIPE, SIG_DFL);
    call_with(&options);
    rfaas_error error = RFAAS_ERROR_INIT;
    rfaas_function *say = function("say");
    for (int i = 0; i < 20; i++) {
        REQUIRE(rfaas_invoke(client, say, "x", 1, NULL, NULL, &error) == RFAAS_SUCCESS);
        rfaas_progress(client, 0.01);
    }
    return 0;
}

/* A program of the first version, whose options end where `load` begins. */
static int of_first_version(void)
{
    rfaas_options options;
    memset(&options, 'x', sizeof options);
    rfaas_options_init(&options, offsetof(rfaas_options, load));
    options.max_workers = 1;
    call_with(&options);
    return 0;
}

/* Waits for a worker without a limit; says why, each time that it hears another reason. */
static int why_waiting(const char *load)
{
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

/* Computes, as far as the library can tell, for longer than a lease lives without renewal. */
static int away(unsigned seconds)
{
    connect_with(1, 0, 0);
    rfaas_function *count = function("count");
    rfaas_error error = RFAAS_ERROR_INIT;
    int64_t before[2], after[2];
    uint64_t size = sizeof before;
    REQUIRE(rfaas_invoke(client, count, "", 0, before, &size, &error) == RFAAS_SUCCESS);
    while ((seconds = sleep(seconds)) > 0)
        ;
    REQUIRE(rfaas_invoke(client, count, "", 0, after, &size, &error) == RFAAS_SUCCESS);
    REQUIRE(before[1] == after[1] && after[0] == before[0] + 1); /* the same worker */
    return 0;
}

/* How connecting or the first call failed. */
static int say_failure(void)
{
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

/* Connects, calls, and leaves, some times; then waits, with nothing of a client left. */
static int come_and_go(uint64_t times)
{
    for (uint64_t i = 0; i < times; i++) {
        connect_with(1, 0, 0);
        REQUIRE(echo_one(function("echo"), i));
        printf("connected\n");
        fflush(stdout);
        REQUIRE(getchar() != EOF);
        rfaas_disconnect(client);
        client = NULL;
        printf("left\n");
        fflush(stdout);
        REQUIRE(getchar() != EOF);
    }
    return 0;
}

/* A call, a time without any entry, and another call, of a program whose time is mostly its own. */
static int pause_between(unsigned seconds)
{
    rfaas_error error = RFAAS_ERROR_INIT;
    rfaas_options options;
    rfaas_options_init(&options, sizeof options);
    options.max_workers = 1;
    REQUIRE(rfaas_connect(&options, &client, &error) == RFAAS_SUCCESS);
    rfaas_function *echo = function("echo");
    rfaas_call *call;
    char out[8];
    REQUIRE(rfaas_submit(client, echo, "x", 1, out, 8, NULL, &call, &error) == RFAAS_SUCCESS);
    REQUIRE(rfaas_wait(&call, 2, NULL, &error) == RFAAS_PENDING);
    printf("away\n");
    fflush(stdout);
    while ((seconds = sleep(seconds)) > 0)
        ;
    REQUIRE(rfaas_wait(&call, -1, NULL, &error) == RFAAS_SUCCESS && out[0] == 'x');
    return 0;
}

static int no_workers(void)
{
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

static int run(int argc, char **argv)
{
    const char *command = argv[2];
    const char *argument = argc > 3 ? argv[3] : "0";
    if (strcmp(command, "invoke") == 0)
        return invoke_many(strtoull(argument, NULL, 10));
    if (strcmp(command, "invoke-on-one") == 0)
        return invoke_on_one(strtoull(argument, NULL, 10));
    if (strcmp(command, "submit") == 0)
        return submit_many(strtoull(argument, NULL, 10));
    if (strcmp(command, "sizes") == 0)
        return all_sizes(strtoull(argument, NULL, 10));
    if (strcmp(command, "wrong") == 0)
        return wrong_things();
    if (strcmp(command, "long") == 0)
        return one_long_call(strtoull(argument, NULL, 10), argv[4], 0);
    if (strcmp(command, "long-idempotent") == 0)
        return one_long_call(strtoull(argument, NULL, 10), argv[4], 1);
    if (strcmp(command, "crash") == 0)
        return crash(argument);
    if (strcmp(command, "time-outs") == 0)
        return time_outs();
    if (strcmp(command, "fork") == 0)
        return forked();
    if (strcmp(command, "threads") == 0)
        return threads();
    if (strcmp(command, "signals") == 0)
        return signals();
    if (strcmp(command, "away") == 0)
        return away((unsigned)atoi(argument));
    if (strcmp(command, "durations") == 0)
        return durations();
    if (strcmp(command, "comma") == 0)
        return with_a_comma(argument);
    if (strcmp(command, "unread") == 0)
        return unread();
    if (strcmp(command, "say-failure") == 0)
        return say_failure();
    if (strcmp(command, "come-and-go") == 0)
        return come_and_go(strtoull(argument, NULL, 10));
    if (strcmp(command, "pause-between") == 0)
        return pause_between((unsigned)atoi(argument));
    if (strcmp(command, "of-first-version") == 0)
        return of_first_version();
    if (strcmp(command, "why-waiting") == 0)
        return why_waiting(argument);
    if (strcmp(command, "no-workers") == 0)
        return no_workers();
    return 2;
}

int main(int argc, char **argv)
{
    library = argv[1];
    int status = argc < 3 ? 2 : run(argc, argv);
    rfaas_disconnect(client);
    return status;
}
