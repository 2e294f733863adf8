/* verbs_alarm.h - what RDMA devices tell unasked, of themselves, their ports and connections (asynchronous events). */
#ifndef RFAAS_VERBS_ALARM_H
#define RFAAS_VERBS_ALARM_H

#include <stdatomic.h>

#include "verbs_device.h"

/* What one connection hears. The queue pair and the completion queues of the connection carry its address as context. */
typedef struct rfaas_verbs_alarm {
    struct rfaas_verbs_alarm *next;
    struct ibv_context *context;
    uint8_t port;
    int fd;                 /* readable once `ended_by` is set */
    _Atomic int ended_by;   /* 1 + the enum ibv_event_type after which the connection is of no use; 0: none */
    _Atomic bool port_down; /* a connection outlives that if the port is back before its peer is given up */
} rfaas_verbs_alarm;

/* Begins to hear. 0, or an errno: then there is nothing to end. */
int rfaas_verbs_alarm_begin(rfaas_verbs_alarm *alarm, const rfaas_verbs_port *port);
void rfaas_verbs_alarm_end(rfaas_verbs_alarm *alarm);

/* The descriptor that is readable while the device has something to tell, to any of its connections. */
static inline int rfaas_verbs_alarm_source(const rfaas_verbs_alarm *alarm) { return alarm->context->async_fd; }

/* Takes what it has to tell, for all of this process's connections. Never blocks. Any thread. */
void rfaas_verbs_hear(struct ibv_context *context);

#endif
