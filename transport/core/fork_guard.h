/* fork_guard.h - what a forked child does with memory that its parent shares with other processes: it makes it its own.
 *
 * Without that a child that writes to an array, or only frees one, would change the parent's data and bookkeeping. After
 * a fork the child's mapping is private (copy on write) at the same address. Thread-safe.
 */
#ifndef RFAAS_FORK_GUARD_H
#define RFAAS_FORK_GUARD_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

typedef struct rfaas_guarded {
    struct rfaas_guarded *previous, *next;
    void *at;
    size_t size_bytes;
    bool ended;
    int fd; /* -1: none. Code that we don't know may close or replace it, hence: */
    dev_t device;
    ino_t inode;
    bool inherited; /* this process is a child of the one that mapped it */
} rfaas_guarded;

/* Before others register handlers of fork whose locks are taken before this one's; repeatable. */
void rfaas_guard_install(void);

/* Registers the writable mapping at `at` of the whole of `fd`, which becomes the guard's. */
void rfaas_guard_begin(rfaas_guarded *guarded, void *at, size_t size_bytes, int fd);

/* Before the mapping goes, or when nothing in it matters any more; closes the descriptor. Repeatable. */
void rfaas_guard_end(rfaas_guarded *guarded);

/* True if the descriptor is still the one that was registered. */
bool rfaas_guard_has_fd(const rfaas_guarded *guarded);

#endif
