/* clock.h - the clock of all deadlines of a client in C; its core is told what it says. */
#ifndef RFAAS_CLIENT_CLOCK_H
#define RFAAS_CLIENT_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline int64_t client_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

#endif
