/* The ends of a start delay, measured in C so that no interpreter's start is in the figure. Clock: CLOCK_BOOTTIME.
 *
 *   delay_probe launch CMD...   report the time, then become CMD (srun)
 *   delay_probe task [CMD...]   report the time as the first thing a task does, then become CMD
 *   delay_probe script FILE     the same as the interpreter of a batch script, whose text it does not read
 *   delay_probe harvest FILE    a harvest step that exits at once on SIGTERM; FILE gets "ready", then the time of it
 *
 * launch, task and script report on stderr: "rfaas-delay WORD HOSTNAME NANOSECONDS".
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* One write: lines of several tasks must not be torn. */
static void report(int fd, const char *word, int64_t time_ns)
{
    char host[65] = "", line[160];
    gethostname(host, sizeof host - 1);
    int length = snprintf(line, sizeof line, "rfaas-delay %s %s %" PRId64 "\n", word, host, time_ns);
    if (write(fd, line, (size_t)length) != length)
        _exit(3);
}

static int become(char **command)
{
    execvp(command[0], command);
    perror(command[0]);
    return 127;
}

/* Waits for the signal instead of handling it, so that it may report the time before it exits. */
static int harvest(const char *path)
{
    sigset_t terminate;
    sigemptyset(&terminate);
    sigaddset(&terminate, SIGTERM);
    sigprocmask(SIG_BLOCK, &terminate, NULL);
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0) {
        perror(path);
        return 1;
    }
    report(fd, "ready", now_ns());
    while (sigwaitinfo(&terminate, NULL) != SIGTERM)
        ; /* SIGCONT, which Slurm sends along, interrupts it */
    report(fd, "terminated", now_ns());
    return 0;
}

int main(int argc, char **argv)
{
    const int64_t began_ns = now_ns();
    const char *mode = argc > 1 ? argv[1] : "";
    if (strcmp(mode, "launch") == 0 && argc > 2) {
        report(STDERR_FILENO, mode, now_ns());
        return become(argv + 2);
    }
    if (strcmp(mode, "task") == 0) {
        report(STDERR_FILENO, mode, began_ns);
        return argc > 2 ? become(argv + 2) : 0;
    }
    if (strcmp(mode, "script") == 0) {
        report(STDERR_FILENO, "task", began_ns);
        return 0;
    }
    if (strcmp(mode, "harvest") == 0 && argc == 3)
        return harvest(argv[2]);
    fprintf(stderr, "usage: delay_probe launch CMD... | task [CMD...] | script FILE | harvest FILE\n");
    return 2;
}
