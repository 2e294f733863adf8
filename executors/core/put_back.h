/* What a worker puts back after each call, of what a function may have changed in its process.
 *
 * Only what rfaas itself stands on: docs/spec/001-invocation.md section 5. All of it together costs some microseconds.
 */
#ifndef RFAAS_PUT_BACK_H
#define RFAAS_PUT_BACK_H

#include <stdbool.h>
#include <sys/types.h>

/* Remember the signal mask of the calling thread and the action of SIGCHLD: what `rfaas_put_back` restores. 0, or -1 with
 * errno. */
int rfaas_remember(void);

/* Restore mask and SIGCHLD, disarm the interval timers, put /dev/null where a standard descriptor is closed: else the next
 * connection would become what functions print to. Take back a soft limit of descriptors that leaves too few. In the thread
 * that remembered; nothing if none did. False if the process can't have enough descriptors any more. */
bool rfaas_put_back(void);

/* End the process with `status` in `ms` from now, whatever its code does meanwhile. 0, or -1 with errno. */
int rfaas_exit_within(int ms, int status);

#endif
