/* Whether this is the process that made the mark or a copy of it that somebody forked: told without a system call.
 *
 * A function may fork and let the child return. That child holds the worker's channels and must answer nothing.
 */
#ifndef RFAAS_FORK_MARK_H
#define RFAAS_FORK_MARK_H

#include <stdbool.h>

/* Mark this process, once more after a fork that is meant. 0, or -1 with errno: no memory. */
int rfaas_mark_process(void);

/* True in the process that was marked last; false in every copy of it, whoever made it and how. True where none was. */
bool rfaas_is_marked_process(void);

#endif
