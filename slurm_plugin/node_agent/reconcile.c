#include "reconcile.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "say.h"
#include "slices.h"

void reconcile_init(struct reconcile *reconcile, const struct config *config, struct book *book)
{
    memset(reconcile, 0, sizeof *reconcile);
    reconcile->config = config;
    reconcile->book = book;
    reconcile->output = -1;
    book->unsure = config->squeue[0] != '\0';
}

bool reconcile_names(const char *list, uint64_t job)
{
    for (const char *at = list; *at;) {
        char *end;
        unsigned long long named = strtoull(at, &end, 10);
        if (end != at && (*end == '\n' || *end == '\0') && named == job)
            return true;
        at = strchr(at, '\n');
        if (!at)
            return false;
        at++;
    }
    return false;
}

static bool anything_to_ask(const struct reconcile *reconcile, uint64_t now_ms)
{
    for (int i = 0; i < MOST_HOLDS; i++) {
        const struct hold *hold = &reconcile->book->holds[i];
        if (hold->used && hold->since_ms + reconcile->config->hold_check_ms <= now_ms)
            return true;
    }
    return false;
}

__attribute__((noreturn)) static void run_squeue(const struct config *config, int output)
{
    char *const arguments[] = {"squeue", "--noheader", "--all", "--nodelist", (char *)config->node, "--format=%A", NULL};
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (dup2(nothing, 0) < 0 || dup2(output, 1) < 0 || dup2(nothing, 2) < 0)
        _exit(127);
    syscall(SYS_close_range, 3U, ~0U, 0U);
    execv(config->squeue, arguments);
    _exit(127);
}

static void ask(struct reconcile *reconcile, uint64_t now_ms)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0)
        return;
    reconcile->pid = fork();
    if (reconcile->pid == 0)
        run_squeue(reconcile->config, ends[1]);
    close(ends[1]);
    if (reconcile->pid < 0) {
        close(ends[0]);
        return;
    }
    reconcile->output = ends[0];
    reconcile->asked_ms = now_ms;
    reconcile->size = 0;
}

static int end_squeue(struct reconcile *reconcile)
{
    int status = -1;
    kill(reconcile->pid, SIGKILL); /* where it is late; a status that it has already stays as it is */
    waitpid(reconcile->pid, &status, 0);
    close(reconcile->output);
    reconcile->output = -1;
    return status;
}

/* Holds that are older than the question are released where the answer does not name their job. */
static void release(struct reconcile *reconcile)
{
    reconcile->list[reconcile->size] = '\0';
    for (int i = 0; i < MOST_HOLDS; i++) {
        const struct hold *hold = &reconcile->book->holds[i];
        if (!hold->used || hold->since_ms + reconcile->config->hold_check_ms > reconcile->asked_ms ||
            reconcile_names(reconcile->list, hold->job))
            continue;
        say("job-gone job=%llu by=squeue", (unsigned long long)hold->job);
        book_release(reconcile->book, hold->job);
    }
}

/* The first whole answer of this life: each job that it names is here, and on which CPUs is not said. */
static void hold_all(struct reconcile *reconcile)
{
    cpu_set_t every;
    int jobs = 0;
    memset(&every, 0xff, sizeof every);
    reconcile->book->unsure = false;
    for (char *at = reconcile->list; *at;) {
        char *end;
        unsigned long long job = strtoull(at, &end, 10);
        if (end != at && job > 0) {
            book_hold(reconcile->book, job, &every, reconcile->asked_ms);
            say("job job=%llu held by=squeue", job);
            jobs++;
        }
        at = strchr(at, '\n');
        if (!at)
            break;
        at++;
    }
    say("lending jobs=%d", jobs);
}

void reconcile_heard(struct reconcile *reconcile)
{
    ssize_t got = read(reconcile->output, reconcile->list + reconcile->size, LIST_BYTES - reconcile->size);
    if (got > 0) {
        reconcile->size += (size_t)got;
        return;
    }
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    bool whole = got == 0 && reconcile->size < LIST_BYTES;
    for (int looks = 0; whole && looks < 50; looks++) { /* its output is closed: its status comes within a moment */
        siginfo_t ended = {0};
        if (waitid(P_PID, (id_t)reconcile->pid, &ended, WEXITED | WNOHANG | WNOWAIT) != 0 || ended.si_pid != 0)
            break;
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    }
    int status = end_squeue(reconcile);
    if (!whole || status != 0)
        return;
    release(reconcile);
    if (reconcile->book->unsure)
        hold_all(reconcile);
}

static uint64_t pause_ms(const struct reconcile *reconcile, uint64_t now_ms)
{
    uint64_t youngest_ms = LONGEST_PAUSE_MS;
    for (int i = 0; i < MOST_HOLDS; i++) {
        const struct hold *hold = &reconcile->book->holds[i];
        if (hold->used && now_ms - hold->since_ms < youngest_ms)
            youngest_ms = now_ms - hold->since_ms;
    }
    return youngest_ms > reconcile->config->hold_check_ms ? youngest_ms : reconcile->config->hold_check_ms;
}

int reconcile_tick(struct reconcile *reconcile)
{
    uint64_t now_ms = boottime_ms();
    bool held = false;
    if (!reconcile->config->squeue[0])
        return -1;
    if (reconcile->output >= 0) {
        if (now_ms >= reconcile->asked_ms + SQUEUE_TIMEOUT_MS)
            end_squeue(reconcile);
        return 1000;
    }
    if (reconcile->book->unsure) {
        if (now_ms >= reconcile->next_ms) {
            reconcile->next_ms = now_ms + FIRST_AGAIN_MS;
            ask(reconcile, now_ms);
        }
        return FIRST_AGAIN_MS;
    }
    for (int i = 0; i < MOST_HOLDS && !held; i++)
        held = reconcile->book->holds[i].used;
    if (!held)
        return -1;
    if (now_ms >= reconcile->next_ms) {
        reconcile->next_ms = now_ms + pause_ms(reconcile, now_ms);
        if (anything_to_ask(reconcile, now_ms))
            ask(reconcile, now_ms);
    }
    return (int)reconcile->config->hold_check_ms;
}
