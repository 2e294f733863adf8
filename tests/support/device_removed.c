/* device_removed.c - in the place of an RDMA device that is pulled out: to this process a port that goes down is the whole
 * device (IBV_EVENT_DEVICE_FATAL, as drivers say that support removal). soft-RoCE does not support it: it waits until nobody
 * uses the device. LD_PRELOADed. */
#include <dlfcn.h>
#include <infiniband/verbs.h>
#include <stddef.h>

int ibv_get_async_event(struct ibv_context *context, struct ibv_async_event *event)
{
    void *library = dlopen("libibverbs.so.1", RTLD_LAZY); /* not RTLD_NEXT: a module of Python's brought it, for itself */
    union {
        void *symbol;
        int (*get)(struct ibv_context *, struct ibv_async_event *);
    } real = {library != NULL ? dlsym(library, "ibv_get_async_event") : NULL};
    int rc = real.symbol != NULL ? real.get(context, event) : -1;
    if (rc == 0 && event->event_type == IBV_EVENT_PORT_ERR)
        event->event_type = IBV_EVENT_DEVICE_FATAL;
    return rc;
}
