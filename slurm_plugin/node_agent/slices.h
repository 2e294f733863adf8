/* slices.h - the lives of the slices that this node lends: starting, running, noticed, being killed, gone.
 *
 * One table of states:
 *   STARTING -> RUNNING   the agent was executed
 *   STARTING, RUNNING -> NOTICED   expiry, eviction or shutdown: SIGTERM (SIGQUIT with less than grace_ms), and a time for the kill
 *   any -> KILLING        the agent is gone, or its time is over: everything in the group is killed
 *   KILLING -> GONE       the group could be removed: the proof of death
 */
#ifndef RFAAS_NODE_SLICES_H
#define RFAAS_NODE_SLICES_H

#include "book.h"
#include "launch.h"
#include "proof.h"

enum slice_state { SLICE_GONE, SLICE_STARTING, SLICE_RUNNING, SLICE_NOTICED, SLICE_KILLING };

struct slice {
    enum slice_state state;
    char name[NAME_BYTES];
    uid_t uid;
    pid_t pid;
    int pidfd;     /* -1 once the agent is reaped */
    int report;    /* -1 once the agent runs */
    int asker;     /* who waits for the answer to his request; -1: nobody */
    uint64_t started_ms, ends_ms, kill_at_ms; /* CLOCK_BOOTTIME */
    const char *reason;
};

struct slices {
    const struct config *config;
    struct cgroups groups;
    struct book book;
    struct slice slice[MOST_SLICES]; /* by the slots of the book */
};

uint64_t boottime_ms(void);

/* Start what a proof asks for; the asker is answered and closed now or later. */
void slices_start(struct slices *slices, const struct proof *proof, int asker);

/* Tell the site's allocator what is lent here, after giving it back with notice if a job is about to start; then close. */
void slices_asked(struct slices *slices, const struct node_query *query, int asker);

/* Give notice to every slice that uses one of these CPUs; it is killed `grace_ms` from now. Returns which: a bit a slot. */
uint64_t slices_end(struct slices *slices, const cpu_set_t *cpus, uint64_t grace_ms, const char *reason);

/* The agent of a slice has ended, or told how its start went. */
void slices_agent_ended(struct slices *slices, int slot);
void slices_reported(struct slices *slices, int slot);

/* Do what is due; returns when to look again, in ms from now (-1: nothing is due). */
int slices_tick(struct slices *slices);

/* Which live: a bit a slot. */
uint64_t slices_alive(const struct slices *slices);

/* Send one answer to who asked over TCP, and close. */
__attribute__((format(printf, 2, 3))) void answer(int asker, const char *format, ...);

#endif
