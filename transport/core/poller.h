/* poller.h - waits for many descriptors at once: epoll, level-triggered, with a wake from any thread.
 *
 * Knows no channels. Negative results are errno values. A descriptor must be removed before it is closed: a copy of it
 * in a forked child would keep it registered. A poller is not usable in a forked child.
 */
#ifndef RFAAS_POLLER_H
#define RFAAS_POLLER_H

#include <stdbool.h>
#include <stdint.h>

typedef struct rfaas_poller {
    int epoll_fd;
    int wake_fd;
} rfaas_poller;

#define RFAAS_POLLER_TOKEN_MAX (UINT64_MAX - 1)

/* 0, or the errno of what could not be made; nothing is left then. */
int rfaas_poller_open(rfaas_poller *poller);

/* Any thread, also while another waits. `token` <= RFAAS_POLLER_TOKEN_MAX comes back from wait. */
int rfaas_poller_add(rfaas_poller *poller, int fd, uint64_t token);
int rfaas_poller_want_write(rfaas_poller *poller, int fd, uint64_t token, bool on);
int rfaas_poller_remove(rfaas_poller *poller, int fd);

/* Blocks up to `timeout_ns` (negative: for ever): the number of tokens written to `tokens`, 0 on time-out or wake. */
int rfaas_poller_wait(rfaas_poller *poller, uint64_t *tokens, int n_max, int64_t timeout_ns);

/* Any thread, and signal handlers: the wait that runs, or the next one, returns at once. */
void rfaas_poller_wake(rfaas_poller *poller);

/* Nobody may be waiting. */
void rfaas_poller_close(rfaas_poller *poller);

#endif
