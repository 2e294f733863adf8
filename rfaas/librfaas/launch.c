/* launch.c - starting the helper, which finds or starts the session process (004 section 6).
 *
 * Settings, state directories and the start of a session process are Python's (rfaas.librfaas): one implementation knows
 * them. posix_spawn, not fork: a program that has registered memory or many threads can be here.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <float.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client.h"

extern char **environ;

enum { WORDS_MAX = 64, ANSWER_FD = 3, SAFE_FD = 10, PATH_BYTES = 4096 };

static const char *const not_for_helpers[] = {"PYTHONINSPECT=", "PYTHONWARNINGS=", "PYTHONPROFILEIMPORTTIME=",
                                              "PYTHONTRACEMALLOC=", "PYTHONSTARTUP="};

uint64_t launch_process_start(void)
{
    char text[1024];
    int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0)
        return 0;
    text[n] = '\0';
    const char *at = strrchr(text, ')'); /* the name before may hold anything */
    for (int field = 2; at != NULL && field < 22; field++)
        at = strchr(at + 1, ' ');
    return at == NULL ? 0 : strtoull(at, NULL, 10);
}

/* The interpreter of the environment that this library is installed in: PREFIX/lib/pythonX.Y/site-packages/rfaas/lib. */
static bool own_interpreter(char *path, size_t room_bytes)
{
    Dl_info about;
    if (dladdr((const void *)(uintptr_t)&rfaas_connect, &about) == 0 || about.dli_fname == NULL)
        return false;
    char place[PATH_BYTES];
    if (realpath(about.dli_fname, place) == NULL)
        return false;
    char *parts[6]; /* librfaas.so, lib, rfaas, site-packages, pythonX.Y, lib: cut off from behind */
    for (int i = 0; i < 6; i++) {
        char *slash = strrchr(place, '/');
        if (slash == NULL)
            return false;
        *slash = '\0';
        parts[i] = slash + 1;
    }
    if (strncmp(parts[4], "python3", 7) != 0)
        return false;
    int n = snprintf(path, room_bytes, "%s/bin/%s", place, parts[4]);
    return n > 0 && (size_t)n < room_bytes && access(path, X_OK) == 0;
}

static bool add(char **words, const char *word)
{
    size_t n = 0;
    while (words[n] != NULL)
        n++;
    if (n + 1 >= WORDS_MAX)
        return false;
    words[n] = strdup(word);
    return words[n] != NULL;
}

/* One word, as a value may begin with a dash. */
static bool add_text(char **words, const char *name, const char *value)
{
    char *word = NULL;
    if (value == NULL)
        return true;
    bool added = asprintf(&word, "%s=%s", name, value) >= 0 && add(words, word);
    free(word);
    return added;
}

static bool add_count(char **words, const char *name, uint64_t value)
{
    char text[32];
    snprintf(text, sizeof text, "%llu", (unsigned long long)value);
    return value == 0 || add_text(words, name, text);
}

static bool add_duration(char **words, const char *name, double value_s)
{
    char text[DBL_MAX_10_EXP + 8];
    if (value_s < 0)
        return true;
    int64_t value_ns = duration_ns(value_s); /* in whole numbers: the program's locale may have a decimal comma */
    if (value_s < 1e9)
        snprintf(text, sizeof text, "%lld.%09lld", (long long)(value_ns / 1000000000), (long long)(value_ns % 1000000000));
    else
        snprintf(text, sizeof text, "%.0f", value_s); /* too long, inf, nan: settings say that they take none of them */
    return add_text(words, name, text);
}

/* Less than ours: it knows what it waited for, and says so while we still listen. */
static double helper_time_s(const rfaas_options *options)
{
    return 0.9 * (options->connect_timeout_s < 0 ? (double)connect_default_ns / 1e9 : options->connect_timeout_s);
}

static bool add_options(char **words, const rfaas_options *options)
{
    return add_text(words, "--allocator", options->allocator) && add_count(words, "--max-workers", options->max_workers) &&
           add_count(words, "--cores", options->cores) && add_count(words, "--memory", options->memory_bytes) &&
           add_text(words, "--transport", options->transport) && add_text(words, "--placement", options->placement) &&
           add_text(words, "--load", options->load) &&
           add_duration(words, "--hot-for-s", options->hot_for_s) &&
           add_duration(words, "--acquire-timeout-s", options->acquire_timeout_s) &&
           add_duration(words, "--call-timeout-s", options->call_timeout_s) &&
           (options->idempotent < 0 || add_text(words, "--idempotent", options->idempotent ? "true" : "false")) &&
           add_count(words, "--retries", options->retries) && add_duration(words, "--timeout-s", helper_time_s(options));
}

char **launch_command(const rfaas_options *options, uint64_t start)
{
    char own[PATH_BYTES];
    const char *python = options->python;
    if (python == NULL || python[0] == '\0')
        python = secure_getenv("RFAAS_PYTHON"); /* not what the caller of a setuid program says */
    if (python == NULL || python[0] == '\0')
        python = own_interpreter(own, sizeof own) ? own : "python3";
    char **words = calloc(WORDS_MAX, sizeof *words);
    if (words != NULL && add(words, python) && add(words, "-P") && add(words, "-m") && add(words, "rfaas.librfaas") &&
        add_count(words, "--client-pid", (uint64_t)getpid()) && add_count(words, "--client-start", start) &&
        add_options(words, options))
        return words;
    launch_free(words);
    return NULL;
}

void launch_free(char **command)
{
    for (char **word = command; word != NULL && *word != NULL; word++)
        free(*word);
    free(command);
}

/* This program's variables without those that make an interpreter behave oddly; NULL: no memory. */
static char **helper_environment(void)
{
    size_t n = 0, kept = 0;
    while (environ[n] != NULL)
        n++;
    char **variables = calloc(n + 1, sizeof *variables);
    for (size_t i = 0; variables != NULL && i < n; i++) {
        bool passed_over = false;
        for (size_t k = 0; k < sizeof not_for_helpers / sizeof *not_for_helpers; k++)
            passed_over |= strncmp(environ[i], not_for_helpers[k], strlen(not_for_helpers[k])) == 0;
        if (!passed_over)
            variables[kept++] = environ[i];
    }
    return variables;
}

/* A pipe whose ends are none of the numbers that a child's streams and answer have. */
static int open_pipe(int ends[2])
{
    int low[2];
    if (pipe2(low, O_CLOEXEC) != 0)
        return errno;
    ends[0] = fcntl(low[0], F_DUPFD_CLOEXEC, SAFE_FD);
    ends[1] = ends[0] < 0 ? -1 : fcntl(low[1], F_DUPFD_CLOEXEC, SAFE_FD);
    int error = ends[1] < 0 ? errno : 0;
    close(low[0]);
    close(low[1]);
    if (error != 0 && ends[0] >= 0)
        close(ends[0]);
    return error;
}

static int spawn(char **command, char **variables, int answer_fd, pid_t *pid)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, defaults;
    sigemptyset(&none);
    sigfillset(&defaults); /* as a shell would start it, whatever this program does with signals */
    sigdelset(&defaults, SIGKILL);
    sigdelset(&defaults, SIGSTOP);
    if (posix_spawn_file_actions_init(&actions) != 0)
        return ENOMEM;
    if (posix_spawnattr_init(&attributes) != 0) {
        posix_spawn_file_actions_destroy(&actions);
        return ENOMEM;
    }
    int rc = posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    if (rc == 0)
        rc = posix_spawn_file_actions_adddup2(&actions, answer_fd, ANSWER_FD);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &defaults);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    if (rc == 0)
        rc = posix_spawnp(pid, command[0], &actions, &attributes, command, variables);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return rc;
}

int launch_helper(char **command, int *fd)
{
    int ends[2] = {-1, -1};
    pid_t pid = -1;
    int error = open_pipe(ends);
    if (error != 0)
        return -error;
    char **variables = helper_environment();
    error = variables == NULL ? ENOMEM : spawn(command, variables, ends[1], &pid);
    free(variables);
    close(ends[1]);
    if (error != 0) {
        close(ends[0]);
        return -error;
    }
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    *fd = ends[0];
    return pid;
}
