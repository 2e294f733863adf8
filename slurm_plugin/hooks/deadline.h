/* How long something may still take. CLOCK_MONOTONIC, in milliseconds. */
#ifndef RFAAS_DEADLINE_H
#define RFAAS_DEADLINE_H

#include <stdint.h>
#include <time.h>

static inline int64_t rfaas_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Milliseconds until `deadline_ms`, 0 if it has passed: what poll(2) takes. */
static inline int rfaas_left_ms(int64_t deadline_ms)
{
    int64_t left_ms = deadline_ms - rfaas_now_ms();
    return left_ms > 0 ? (int)left_ms : 0;
}

/* Sleep `ms`, or less if a signal comes. */
static inline void rfaas_pause_ms(int ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L}, NULL);
}

#endif
