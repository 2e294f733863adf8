/* device_removed.c - in the place of an RDMA device that is pulled out: at SIGUSR1 every device that this process has open
 * says IBV_EVENT_DEVICE_FATAL, as drivers do that support removal. soft-RoCE does not: it waits until nobody uses it.
 * LD_PRELOADed; events that the device itself has are not heard any more. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <infiniband/verbs.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { CONTEXTS_MAX = 64 };

static int bells[CONTEXTS_MAX];
static volatile sig_atomic_t n_bells;

static void pull_out(int signo)
{
    const uint64_t one = 1;
    (void)signo;
    for (int i = 0; i < n_bells; i++)
        if (write(bells[i], &one, sizeof one) < 0)
            abort();
}

struct ibv_context *ibv_open_device(struct ibv_device *device)
{
    union {
        void *symbol;
        struct ibv_context *(*open)(struct ibv_device *);
    } real = {dlsym(RTLD_NEXT, "ibv_open_device")};
    struct ibv_context *context = real.open(device);
    int bell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (context == NULL || bell < 0 || n_bells == CONTEXTS_MAX || dup2(bell, context->async_fd) < 0)
        abort();
    bells[n_bells++] = bell;
    signal(SIGUSR1, pull_out);
    return context;
}

int ibv_get_async_event(struct ibv_context *context, struct ibv_async_event *event)
{
    uint64_t n;
    if (read(context->async_fd, &n, sizeof n) != sizeof n)
        return -1;
    event->event_type = IBV_EVENT_DEVICE_FATAL;
    return 0;
}
