/* poller.c - see poller.h. */
#include "poller.h"

#include <errno.h>
#include <limits.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { EVENTS_MAX = 256 };

static const uint64_t WAKE_TOKEN = UINT64_MAX;

static int control(rfaas_poller *poller, int operation, int fd, uint64_t token, bool write)
{
    struct epoll_event event = {.events = EPOLLIN | (write ? EPOLLOUT : 0), .data.u64 = token};
    return epoll_ctl(poller->epoll_fd, operation, fd, &event) == 0 ? 0 : -errno;
}

int rfaas_poller_open(rfaas_poller *poller)
{
    poller->wake_fd = -1;
    poller->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (poller->epoll_fd < 0)
        return -errno;
    poller->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int rc = poller->wake_fd < 0 ? -errno : control(poller, EPOLL_CTL_ADD, poller->wake_fd, WAKE_TOKEN, false);
    if (rc != 0)
        rfaas_poller_close(poller);
    return rc;
}

int rfaas_poller_add(rfaas_poller *poller, int fd, uint64_t token)
{
    return control(poller, EPOLL_CTL_ADD, fd, token, false);
}

int rfaas_poller_want_write(rfaas_poller *poller, int fd, uint64_t token, bool on)
{
    return control(poller, EPOLL_CTL_MOD, fd, token, on);
}

int rfaas_poller_remove(rfaas_poller *poller, int fd)
{
    return control(poller, EPOLL_CTL_DEL, fd, 0, false);
}

/* Rounded up, so that a caller that waits for a moment is not woken before it, again and again. */
static int milliseconds(int64_t timeout_ns)
{
    if (timeout_ns < 0)
        return -1;
    int64_t ms = timeout_ns / 1000000 + (timeout_ns % 1000000 != 0);
    return ms < INT_MAX ? (int)ms : INT_MAX;
}

int rfaas_poller_wait(rfaas_poller *poller, uint64_t *tokens, int n_max, int64_t timeout_ns)
{
    struct epoll_event events[EVENTS_MAX];
    int n = epoll_wait(poller->epoll_fd, events, n_max < EVENTS_MAX ? n_max : EVENTS_MAX, milliseconds(timeout_ns));
    if (n < 0)
        return -errno;
    int n_tokens = 0;
    for (int i = 0; i < n; i++) {
        if (events[i].data.u64 == WAKE_TOKEN) {
            uint64_t count;
            ssize_t got = read(poller->wake_fd, &count, sizeof count);
            (void)got;
        } else {
            tokens[n_tokens++] = events[i].data.u64;
        }
    }
    return n_tokens;
}

void rfaas_poller_wake(rfaas_poller *poller)
{
    const uint64_t one = 1;
    int error = errno; /* a signal handler must leave it as it was */
    ssize_t n = write(poller->wake_fd, &one, sizeof one);
    (void)n;
    errno = error;
}

void rfaas_poller_close(rfaas_poller *poller)
{
    if (poller->epoll_fd >= 0)
        close(poller->epoll_fd);
    if (poller->wake_fd >= 0)
        close(poller->wake_fd);
    poller->epoll_fd = poller->wake_fd = -1;
}
