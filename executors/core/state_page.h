/* The page that a worker shares with its agent: which call each channel started last, and ended last; behind the slots
 * what all calls have cost.
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

#define RFAAS_PAGE_SLOTS 64
#define RFAAS_PAGE_USAGE_OFFSET 4096
#define RFAAS_PAGE_OUTPUT_OFFSET 4160
#define RFAAS_PAGE_WORDS_OFFSET 6144 /* a worker's last words: u32 size, then UTF-8 text */
#define RFAAS_PAGE_WORDS_BYTES 2044
#define RFAAS_PAGE_SIZE_BYTES 8192

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

/* What the calls of one worker have cost since its start; every number only rises. */
typedef struct {
    uint64_t running_ns; /* from STARTED to DONE */
    uint64_t hot_ns;     /* polling for the next call */
    uint64_t calls;      /* that ended */
    uint64_t bytes_in;   /* payload of those */
    uint64_t bytes_out;  /* payload of their results */
    uint64_t reserved[3];
} rfaas_page_usage;

_Static_assert(sizeof(rfaas_page_usage) == 64, "the usage is one cache line");

/* What the agent took from the worker's standard output and error; the agent's to write. A cache line of its own. */
typedef struct {
    uint64_t takes; /* reads that found something, counted before they are made */
    uint64_t reserved[7];
} rfaas_page_output;

_Static_assert(sizeof(rfaas_page_output) == 64, "the output is one cache line");

/* Say that what was printed is about to be taken. Call it before the read: whoever then finds the pipe empty sees it. */
void rfaas_page_take_output(rfaas_page_output *output);

/* How many times that was said. Look into the pipe first. */
uint64_t rfaas_page_output_takes(const rfaas_page_output *output);

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

/* Add an ended call to the usage. Call it after `rfaas_page_finish`: a reader that takes the usage first and the slots
 * second then misses a call for a moment, and never counts one twice. */
void rfaas_page_account(rfaas_page_usage *usage, uint64_t running_ns, uint64_t bytes_in, uint64_t bytes_out);

/* Copy the usage; `running_ns` is read first. */
void rfaas_page_read_usage(const rfaas_page_usage *usage, rfaas_page_usage *copy);

/* Copy a slot. While the worker lives the copy may mix two calls; `started` is read first, `done` second. */
void rfaas_page_read(const rfaas_page_slot *slot, rfaas_page_slot *copy);

#endif
