#include "put_back.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

enum { FEWEST_DESCRIPTORS = 64 }; /* for a worker to go on: its own, new connections, what functions open */

static sigset_t mask;
static rlim_t most_descriptors;
static struct sigaction on_child;
static bool remembered;
static volatile sig_atomic_t last_status;

int rfaas_remember(void)
{
    if (sigaction(SIGCHLD, NULL, &on_child) != 0)
        return -1;
    if (pthread_sigmask(SIG_SETMASK, NULL, &mask) != 0)
        return -1;
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return -1;
    most_descriptors = limit.rlim_cur;
    remembered = true;
    return 0;
}

static bool may_open_enough(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= FEWEST_DESCRIPTORS)
        return true;
    if (limit.rlim_cur >= most_descriptors)
        return true; /* it never had more */
    limit.rlim_cur = most_descriptors;
    if (limit.rlim_max < most_descriptors)
        limit.rlim_max = most_descriptors; /* for root only */
    return setrlimit(RLIMIT_NOFILE, &limit) == 0;
}

bool rfaas_put_back(void)
{
    static const int timers[] = {ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF};
    const struct itimerval never = {{0, 0}, {0, 0}};
    if (!remembered)
        return true;
    for (size_t i = 0; i < sizeof timers / sizeof timers[0]; i++)
        setitimer(timers[i], &never, NULL); /* before the mask: what is pending must not act now */
    sigaction(SIGCHLD, &on_child, NULL);
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) == -1 && errno == EBADF)
            (void)!open("/dev/null", O_RDWR); /* takes the lowest number that is free: this one */
    return may_open_enough();
}

static void leave(int signo)
{
    (void)signo;
    _exit(last_status);
}

int rfaas_exit_within(int ms, int status)
{
    struct sigaction action = {.sa_handler = leave};
    sigset_t alarm;
    sigemptyset(&action.sa_mask);
    sigemptyset(&alarm);
    sigaddset(&alarm, SIGALRM);
    last_status = status;
    if (sigaction(SIGALRM, &action, NULL) != 0 || pthread_sigmask(SIG_UNBLOCK, &alarm, NULL) != 0)
        return -1;
    const struct itimerval end = {.it_value = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000}};
    return setitimer(ITIMER_REAL, &end, NULL);
}
