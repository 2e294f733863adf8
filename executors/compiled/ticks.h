/* The time by the CPU's own counter, for a loop that asks for it twice in a call that takes less than the clock costs.
 *
 * Where the counter runs evenly (x86-64 with an invariant one) a time is counted from the last look at the clock; elsewhere, and
 * until two looks lie far enough apart to tell how fast it runs, the clock is asked. For one thread.
 */
#ifndef RFAAS_TICKS_H
#define RFAAS_TICKS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    uint64_t first_ticks, first_ns; /* of the first look; 0: there was none */
    uint64_t at_ticks, at_ns;       /* of the last */
    double ns_a_tick;               /* 0: not known, or uneven */
    bool is_uneven;
} rfaas_ticks;

/* Look at the clock; every second at the latest, or what `rfaas_ticks_now_ns` tells drifts. All zeros before the first. */
void rfaas_ticks_look(rfaas_ticks *ticks);

/* CLOCK_BOOTTIME, as well as it is known. May lie a microsecond before what it was just before `rfaas_ticks_look`. */
uint64_t rfaas_ticks_now_ns(const rfaas_ticks *ticks);

#endif
