/* raw_link.h - what a medium costs at its barest: bytes there and back between two processes, and nothing else.
 *
 * The limit beside which channels and calls are measured (`rfaas bench`, benchmarks/raw/). Two sides: one pings, one
 * serves. The pinging side times each round trip with CLOCK_MONOTONIC, one reading of the clock inside each interval.
 * Must not know frames, channels or Python. All functions return a negative errno when they fail; both sides are then to
 * be given up. A peer that is silent for `patience_ns` is -ETIMEDOUT; a blocking read waits for the end of the peer instead.
 */
#ifndef RFAAS_RAW_LINK_H
#define RFAAS_RAW_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* How one series of round trips is made. */
typedef struct raw_series {
    size_t size_bytes;   /* there, and as many back; at least 1 */
    bool sleeps;         /* the side that waits sleeps in the kernel (futex, blocking read); else it polls */
    uint64_t pause_ns;   /* the pinging side sleeps so long before each round trip: then the server sleeps for certain */
    uint64_t budget_ns;  /* no round trip begins later than this after the first */
    uint64_t patience_ns; /* how long a peer may be silent */
} raw_series;

/* ---- memory that both sides map ----
 * A page of flags, then a slot each way of at least size_bytes. One copy into the slot, one from slot to slot by the server,
 * one out of the slot: the least that bytes need that begin and end in the pinging side's own memory. */

/* Bytes of the whole, for payloads of up to `size_bytes`. */
size_t raw_memory_bytes(size_t size_bytes);

/* Sets all of it to zero, which touches it; before the server begins. */
void raw_memory_prepare(void *memory, size_t memory_bytes);

/* Makes up to `rounds` round trips of `payload`, the answer in `answer`; returns how many, their times in `took_ns`. With
 * `last` the server is told to end. `turn` counts round trips over the whole life of the memory: 0 at first. */
int64_t raw_memory_ping(void *memory, size_t memory_bytes, const raw_series *series, const uint8_t *payload, uint8_t *answer,
                        int64_t *took_ns, size_t rounds, uint32_t *turn, bool last);

/* Serves until the end is told; returns the number of round trips. */
int64_t raw_memory_serve(void *memory, size_t memory_bytes, const raw_series *series);

/* ---- descriptors: a stream socket (in = out), or two pipes ----
 * The first byte of a payload says whether it is the last; the answer's is that of the payload. */
int64_t raw_stream_ping(int in, int out, const raw_series *series, uint8_t *payload, uint8_t *answer, int64_t *took_ns,
                        size_t rounds, bool last);
int64_t raw_stream_serve(int in, int out, const raw_series *series, uint8_t *buffer);

/* What one reading of CLOCK_MONOTONIC costs: the least of many, in nanoseconds. */
int64_t raw_clock_cost_ns(void);

#endif
