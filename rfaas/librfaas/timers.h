/* timers.h - things that are due at a time: a heap of entries that live in what they belong to. Sans-IO.
 *
 * Room for an entry is made when its owner is, so setting a timer can't fail.
 */
#ifndef RFAAS_TIMERS_H
#define RFAAS_TIMERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum timer_kind { TIMER_CALL, TIMER_CHANNEL } timer_kind;

typedef struct timer {
    int64_t due_ns;
    size_t place; /* in the heap, from 1; 0: not set */
    timer_kind kind;
} timer;

typedef struct timers {
    timer **heap; /* from 1 */
    size_t n, room, reserved;
} timers;

/* Makes room for one more owner; false: no memory. */
bool timers_reserve(timers *all);
void timers_free(timers *all);

/* Sets, or sets anew. */
void timers_set(timers *all, timer *one, int64_t due_ns);
void timers_clear(timers *all, timer *one);

/* The earliest, not due before its `due_ns`; NULL if none is set. */
timer *timers_first(const timers *all);

#endif
