/* The page that a worker shares with its agent: which call each channel started last, and ended last.
 *
 * One writer (the worker's main thread) and any number of readers; `interrupted` alone is the agent's to write. Every
 * field is written by one aligned 8-byte store; `started` goes last, so whoever sees it also sees the deadline and the
 * time beside it.
 * Spec: docs/spec/001-invocation.md section 5.
 */
#ifndef RFAAS_STATE_PAGE_H
#define RFAAS_STATE_PAGE_H

#include <stdbool.h>
#include <stdint.h>

#define RFAAS_PAGE_SIZE_BYTES 4096
#define RFAAS_PAGE_SLOTS 64

/* One channel's slot; a cache line, so that two channels never share one. */
typedef struct {
    uint64_t channel;
    uint64_t started;
    uint64_t done;
    uint64_t deadline_boot_ns; /* CLOCK_BOOTTIME; 0: none */
    uint64_t started_boot_ns;
    uint64_t interrupted; /* the call that its client takes back; the agent's to write */
    uint64_t reserved[2];
} rfaas_page_slot;

_Static_assert(sizeof(rfaas_page_slot) == 64, "the slot is 64 bytes on every machine");

/* Give the slot to a channel: nothing started, nothing done. */
void rfaas_page_open(rfaas_page_slot *slot, uint64_t channel);

/* Say that a call starts. Call it before any byte of the user's is looked at. False: it was interrupted before, it must
 * not run. */
bool rfaas_page_start(rfaas_page_slot *slot, uint64_t call_id, uint64_t deadline_boot_ns, uint64_t now_boot_ns);

/* Say that the started call is over: its result is serialised, nothing of it was sent yet. False: it was interrupted,
 * and the agent may be about to kill this process: it must start no other call. */
bool rfaas_page_finish(rfaas_page_slot *slot, uint64_t call_id);

/* The agent's: take a call back. True: it runs, or is about to end; kill the worker, which starts no other call. False:
 * it is over, or has not started and never will. Ids rise, and a channel has one call at a time: a lower id than that of
 * the last interrupt is of a call that is over, and must not hide the later one from the worker. */
bool rfaas_page_interrupt(rfaas_page_slot *slot, uint64_t call_id);

/* Copy a slot. While the worker lives the copy may mix two calls; `started` is read first, `done` second. */
void rfaas_page_read(const rfaas_page_slot *slot, rfaas_page_slot *copy);

#endif
