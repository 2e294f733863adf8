#include "ticks.h"

#include <time.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <x86intrin.h>
#endif

enum {
    APART_NS = 5000000,  /* looks that tell the speed to some ten parts in a million */
    OFF_NS = 1000000,    /* what was counted and what the clock says may differ by, or it is begun anew */
    TOGETHER_TICKS = 10000, /* some us: else this thread was put off its CPU between counter and clock */
};

static uint64_t clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t counter(void) {
#if defined(__x86_64__)
    return __rdtsc();
#else
    return 0;
#endif
}

/* Whether the counter runs at one speed whatever the CPU does. */
static bool runs_evenly(void) {
#if defined(__x86_64__)
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid(0x80000007, &eax, &ebx, &ecx, &edx) && (edx & 1u << 8) != 0;
#else
    return false;
#endif
}

/* A machine that slept has a clock that went on and a counter that did not, or that began anew. */
static bool agree(const rfaas_ticks *ticks, uint64_t now_ticks, uint64_t now_ns) {
    if (now_ticks <= ticks->at_ticks) return false;
    const double counted_ns = (double)(now_ticks - ticks->at_ticks) * ticks->ns_a_tick;
    const double off_ns = counted_ns - (double)(now_ns - ticks->at_ns);
    return ticks->ns_a_tick == 0 || (off_ns < OFF_NS && off_ns > -OFF_NS);
}

void rfaas_ticks_look(rfaas_ticks *ticks) {
    if (ticks->first_ns == 0) ticks->is_uneven = !runs_evenly();
    if (ticks->is_uneven) return;
    const uint64_t before_ticks = counter(), now_ns = clock_ns(), now_ticks = counter();
    if (now_ticks - before_ticks > TOGETHER_TICKS) return;
    if (ticks->first_ns == 0 || !agree(ticks, now_ticks, now_ns))
        *ticks = (rfaas_ticks){.first_ticks = now_ticks, .first_ns = now_ns};
    else if (now_ns - ticks->first_ns >= APART_NS)
        ticks->ns_a_tick = (double)(now_ns - ticks->first_ns) / (double)(now_ticks - ticks->first_ticks);
    ticks->at_ticks = now_ticks;
    ticks->at_ns = now_ns;
}

uint64_t rfaas_ticks_now_ns(const rfaas_ticks *ticks) {
    if (ticks->ns_a_tick == 0) return clock_ns();
    const int64_t since_ticks = (int64_t)(counter() - ticks->at_ticks);
    return ticks->at_ns + (since_ticks > 0 ? (uint64_t)((double)since_ticks * ticks->ns_a_tick) : 0);
}
