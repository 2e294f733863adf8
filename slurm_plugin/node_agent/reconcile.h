/* reconcile.h - events that were lost: what is held for a job that Slurm does not know on this node is released, and at the
 * start of a node agent, which may have missed any, the jobs that are here are held before anything is lent.
 *
 * Slurm's word holds (009 section 2). It is asked as an administrator would, by squeue, in a process of its own; a Slurm that
 * does not answer, or says an error, releases nothing.
 */
#ifndef RFAAS_NODE_RECONCILE_H
#define RFAAS_NODE_RECONCILE_H

#include "book.h"

/* A job is asked about when it has been held for hold_check_ms, then each time that it is twice as old, or the longest pause
 * has passed: thousands of nodes ask one slurmctld. */
enum { LIST_BYTES = 64 << 10, SQUEUE_TIMEOUT_MS = 20000, LONGEST_PAUSE_MS = 600000, FIRST_AGAIN_MS = 1000 };

struct reconcile {
    const struct config *config;
    struct book *book;
    int output; /* -1: squeue does not run */
    pid_t pid;
    uint64_t asked_ms, next_ms;
    size_t size;
    char list[LIST_BYTES + 1];
};

void reconcile_init(struct reconcile *reconcile, const struct config *config, struct book *book);

/* Begin to ask where it is due, give up what hangs; ms until it is to be looked at again, -1: nothing is held. */
int reconcile_tick(struct reconcile *reconcile);

/* squeue has said something or ended. */
void reconcile_heard(struct reconcile *reconcile);

/* Whether a list of squeue's, one job a line, names this job. */
bool reconcile_names(const char *list, uint64_t job);

#endif
