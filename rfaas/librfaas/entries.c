/* entries.c - what every public entry begins with: is it this process's client, and the lock. */
#include "entries.h"

static volatile unsigned forks; /* of which this process is the child */
static pthread_once_t watching = PTHREAD_ONCE_INIT;

static void count_fork(void)
{
    forks++;
}

static void watch(void)
{
    pthread_atfork(NULL, NULL, count_fork);
}

unsigned entry_forks(void)
{
    pthread_once(&watching, watch);
    return forks;
}

bool entry_is_allowed(const rfaas_client *client)
{
    return client->fork_generation == forks;
}

int entry_refused(rfaas_error *error)
{
    return say_error(error, RFAAS_ERROR_FORKED, "call rfaas_connect in this process",
                     "this client belongs to the process that connected, of which this one is a fork");
}

void entry_lock(rfaas_client *client)
{
    if (pthread_mutex_trylock(&client->lock) == 0)
        return;
    atomic_fetch_add(&client->wanting, 1);
    pthread_mutex_lock(&client->lock);
    atomic_fetch_sub(&client->wanting, 1);
}

void entry_unlock(rfaas_client *client)
{
    pthread_mutex_unlock(&client->lock);
}
