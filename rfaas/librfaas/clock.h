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

/* Nanoseconds of a duration that is not negative: so many that adding one to a time does no harm, and none only of 0, which
 * means something else almost everywhere. What is no number is long. */
static inline int64_t duration_ns(double duration_s)
{
    if (duration_s == 0)
        return 0;
    int64_t ns = duration_s < 1e9 ? (int64_t)(duration_s * 1e9) : 1000000000000000000;
    return ns > 0 ? ns : 1;
}

#endif
