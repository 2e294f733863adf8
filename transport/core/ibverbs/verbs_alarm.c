/* verbs_alarm.c - see verbs_alarm.h. */
#include "verbs_alarm.h"

#include <errno.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t prepared = PTHREAD_ONCE_INIT;
static rfaas_verbs_alarm *all_alarms; /* with `lock` held */

static void lock_before_fork(void) { pthread_mutex_lock(&lock); }
static void unlock_after_fork(void) { pthread_mutex_unlock(&lock); }
static void prepare_forks(void) { pthread_atfork(lock_before_fork, unlock_after_fork, unlock_after_fork); }

int rfaas_verbs_alarm_begin(rfaas_verbs_alarm *alarm, const rfaas_verbs_port *port)
{
    pthread_once(&prepared, prepare_forks);
    alarm->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (alarm->fd < 0)
        return errno;
    alarm->context = port->context;
    alarm->port = port->port;
    pthread_mutex_lock(&lock);
    alarm->next = all_alarms;
    all_alarms = alarm;
    pthread_mutex_unlock(&lock);
    return 0;
}

void rfaas_verbs_alarm_end(rfaas_verbs_alarm *alarm)
{
    pthread_mutex_lock(&lock);
    rfaas_verbs_alarm **at = &all_alarms;
    while (*at != NULL && *at != alarm)
        at = &(*at)->next;
    if (*at != NULL)
        *at = alarm->next;
    pthread_mutex_unlock(&lock);
    close(alarm->fd);
}

static void ring(rfaas_verbs_alarm *alarm, enum ibv_event_type type)
{
    int none = 0;
    uint64_t one = 1;
    atomic_compare_exchange_strong(&alarm->ended_by, &none, (int)type + 1);
    ssize_t n = write(alarm->fd, &one, sizeof one);
    (void)n; /* it is readable in any case */
}

/* Whether an event ends the connection of this alarm. */
static bool ends(const struct ibv_async_event *event, struct ibv_context *context, const rfaas_verbs_alarm *alarm)
{
    switch (event->event_type) {
    case IBV_EVENT_DEVICE_FATAL:
        return alarm->context == context;
    case IBV_EVENT_QP_FATAL:
    case IBV_EVENT_QP_REQ_ERR:
    case IBV_EVENT_QP_ACCESS_ERR:
        return event->element.qp->qp_context == alarm;
    case IBV_EVENT_CQ_ERR:
        return event->element.cq->cq_context == alarm;
    default:
        return false;
    }
}

static void tell_alarms(const struct ibv_async_event *event, struct ibv_context *context)
{
    bool is_down = event->event_type == IBV_EVENT_PORT_ERR, of_port = is_down || event->event_type == IBV_EVENT_PORT_ACTIVE;
    for (rfaas_verbs_alarm *alarm = all_alarms; alarm != NULL; alarm = alarm->next) {
        if (ends(event, context, alarm))
            ring(alarm, event->event_type);
        if (of_port && alarm->context == context && alarm->port == event->element.port_num)
            atomic_store(&alarm->port_down, is_down);
    }
}

void rfaas_verbs_hear(struct ibv_context *context)
{
    struct ibv_async_event event;
    while (ibv_get_async_event(context, &event) == 0) {
        pthread_mutex_lock(&lock);
        tell_alarms(&event, context);
        pthread_mutex_unlock(&lock);
        ibv_ack_async_event(&event);
    }
}
