/* process.c - what the process around a client does: forks, threads, signals, long absence, many clients. */
#include "program.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

int forked(char **words)
{
    (void)words;
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

int threads(char **words)
{
    (void)words;
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
int signals(char **words)
{
    (void)words;
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

/* Computes, as far as the library can tell, for longer than a lease lives without renewal. */
int away(char **words)
{
    unsigned seconds = (unsigned)number(words[0]);
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

/* Connects, calls, and leaves, some times; then waits, with nothing of a client left. */
int come_and_go(char **words)
{
    uint64_t times = number(words[0]);
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
int pause_between(char **words)
{
    unsigned seconds = (unsigned)number(words[0]);
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

/* Nobody reads what functions print. */
int unread(char **words)
{
    (void)words;
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
