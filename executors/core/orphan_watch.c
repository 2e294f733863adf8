#include "orphan_watch.h"

#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <unistd.h>

static pid_t watcher, expected_parent;
static struct timeval last_words;

static void on_continue(int signo)
{
    (void)signo;
    /* Slurm sends SIGCONT too, and a child forked a moment ago has this handler still. */
    if (getpid() != watcher || getppid() == expected_parent)
        return;
    struct itimerval end = {.it_value = last_words};
    setitimer(ITIMER_REAL, &end, NULL); /* a plain system call on Linux, like alarm() */
}

int rfaas_orphan_watch(pid_t parent, int last_ms)
{
    struct sigaction on_cont = {.sa_handler = on_continue, .sa_flags = SA_RESTART};
    struct sigaction on_alarm = {.sa_handler = SIG_DFL};
    sigemptyset(&on_cont.sa_mask);
    sigemptyset(&on_alarm.sa_mask);
    watcher = getpid();
    expected_parent = parent;
    last_words.tv_sec = last_ms / 1000;
    last_words.tv_usec = last_ms % 1000 * 1000;
    if (sigaction(SIGALRM, &on_alarm, NULL) != 0 || sigaction(SIGCONT, &on_cont, NULL) != 0)
        return -1;
    return prctl(PR_SET_PDEATHSIG, SIGCONT, 0, 0, 0);
}
