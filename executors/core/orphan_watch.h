/* A template whose agent died has work left: to kill and reap its workers and all they started.
 *
 * The end of its control socket tells it. This watch is for a template that does not get to read it: one that is stopped
 * is woken, and one that hangs is ended some time later; the kernel kills its workers then.
 */
#ifndef RFAAS_ORPHAN_WATCH_H
#define RFAAS_ORPHAN_WATCH_H

#include <sys/types.h>

/* Ask the kernel for SIGCONT when the thread that made this process ends; SIGCONT then gives the process `last_ms` more,
 * and does nothing while the parent is still `parent`. Replaces another such wish. 0, or -1 with errno. */
int rfaas_orphan_watch(pid_t parent, int last_ms);

#endif
