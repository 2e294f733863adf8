/* fork_guard.c - see fork_guard.h. */
#include "fork_guard.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static rfaas_guarded *first;

static void before_fork(void)
{
    pthread_mutex_lock(&mutex);
}

static void after_fork_in_parent(void)
{
    pthread_mutex_unlock(&mutex);
}

/* Only what is allowed between fork and exec: system calls. */
static void after_fork_in_child(void)
{
    for (rfaas_guarded *guarded = first; guarded != NULL; guarded = guarded->next) {
        if (guarded->inherited) /* private since the first fork: a mapping made anew would lose what was written */
            continue;
        guarded->inherited = true;
        if (rfaas_guard_has_fd(guarded))
            mmap(guarded->at, guarded->size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE,
                 guarded->fd, 0);
    }
    pthread_mutex_unlock(&mutex);
}

static void install(void)
{
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

void rfaas_guard_install(void)
{
    pthread_once(&once, install);
}

void rfaas_guard_begin(rfaas_guarded *guarded, void *at, size_t size_bytes, int fd)
{
    struct stat status = {0};
    rfaas_guard_install();
    *guarded = (rfaas_guarded){.at = at, .size_bytes = size_bytes, .fd = fstat(fd, &status) == 0 ? fd : -1};
    guarded->device = status.st_dev;
    guarded->inode = status.st_ino;
    pthread_mutex_lock(&mutex);
    guarded->next = first;
    if (first != NULL)
        first->previous = guarded;
    first = guarded;
    pthread_mutex_unlock(&mutex);
}

void rfaas_guard_end(rfaas_guarded *guarded)
{
    pthread_mutex_lock(&mutex);
    if (guarded->ended) {
        pthread_mutex_unlock(&mutex);
        return;
    }
    guarded->ended = true;
    if (guarded->previous != NULL)
        guarded->previous->next = guarded->next;
    else
        first = guarded->next;
    if (guarded->next != NULL)
        guarded->next->previous = guarded->previous;
    pthread_mutex_unlock(&mutex);
    if (rfaas_guard_has_fd(guarded))
        close(guarded->fd);
    guarded->fd = -1;
}

bool rfaas_guard_has_fd(const rfaas_guarded *guarded)
{
    struct stat status;
    return guarded->fd >= 0 && fstat(guarded->fd, &status) == 0 && status.st_ino == guarded->inode &&
           status.st_dev == guarded->device;
}
