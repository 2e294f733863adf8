#include "quiet_signals.h"

#include <signal.h>
#include <stddef.h>

static const int quiet[] = {SIGTERM, SIGINT};
enum { N_QUIET = sizeof quiet / sizeof quiet[0] };

static struct sigaction before[N_QUIET];
static int installed;
static _Thread_local sigset_t mask_before_hold;

static void do_nothing(int signo) { (void)signo; }

int rfaas_quiet_install(void)
{
    struct sigaction action = {.sa_handler = do_nothing, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    for (int i = 0; i < N_QUIET; i++)
        if (sigaction(quiet[i], &action, installed ? NULL : &before[i]) != 0)
            return -1;
    installed = 1;
    return 0;
}

int rfaas_quiet_restore(void)
{
    if (!installed)
        return 0;
    for (int i = 0; i < N_QUIET; i++)
        if (sigaction(quiet[i], &before[i], NULL) != 0)
            return -1;
    installed = 0; /* what this process installs itself from now on is its own */
    return 0;
}

void rfaas_quiet_hold(void)
{
    sigset_t held;
    sigemptyset(&held);
    for (int i = 0; i < N_QUIET; i++)
        sigaddset(&held, quiet[i]);
    pthread_sigmask(SIG_BLOCK, &held, &mask_before_hold);
}

void rfaas_quiet_let_go(void) { pthread_sigmask(SIG_SETMASK, &mask_before_hold, NULL); }
