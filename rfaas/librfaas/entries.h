/* entries.h - the door of every public entry: whose process this is, the lock, the plain answer. */
#ifndef RFAAS_ENTRIES_H
#define RFAAS_ENTRIES_H

#include "client.h"

/* Of how many forks this process is the child, as far as they happened since somebody first asked. */
unsigned entry_forks(void);

/* False in a forked child, where the lock may be held by a thread that is not there. */
bool entry_is_allowed(const rfaas_client *client);
int entry_refused(rfaas_error *error);
void entry_lock(rfaas_client *client);
void entry_unlock(rfaas_client *client);

static inline int entry_succeeded(rfaas_error *error)
{
    if (error != NULL && error->struct_size >= 2 * sizeof(uint32_t))
        error->code = RFAAS_SUCCESS;
    return RFAAS_SUCCESS;
}

/* Nothing but the code: no error is there to tell. */
static inline int entry_pending(rfaas_error *error)
{
    if (error != NULL && error->struct_size >= 2 * sizeof(uint32_t))
        error->code = RFAAS_PENDING;
    return RFAAS_PENDING;
}

/* drive.c: what a thread that waits does. */

typedef bool (*await_test)(void *context);

/* With the lock held: makes progress until `is_done` or the end of `timeout_s` (negative: for ever): true if done. The lock
 * is given up while it sleeps. */
bool await(rfaas_client *client, await_test is_done, void *context, double timeout_s);

/* Sends a call on a channel (core_submit_at_once()) and polls that channel alone, for as long as a worker takes that answers
 * at once; await() does the rest. Only while nobody drives. */
void await_at_once(rfaas_client *client, core_channel *channel, rfaas_call *call);

void function_free(rfaas_function *function);

#endif
