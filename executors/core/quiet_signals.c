#include "quiet_signals.h"

#include <signal.h>
#include <stddef.h>

static const int quiet[] = {SIGTERM, SIGINT};
enum { N_QUIET = sizeof quiet / sizeof quiet[0] };

static struct sigaction before[N_QUIET];
static int installed;

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
    return 0;
}
