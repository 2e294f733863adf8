/* attendant.h - a thread that reads a channel in place of an owner who is busy, and gives back what the peer takes back.
 *
 * The owner says what it does by two words that it writes anyway: `started`, the number of the frame that it works on, and
 * `done`. While they differ it neither polls the channel nor looks at a frame that it polled; whoever reads ahead looks at
 * them under the channel's lock. So the owner pays nothing: the thread looks every millisecond, and reads ahead
 * once it has seen one number twice. It runs no code of the owner's, blocks every signal, and ends with its owner.
 *
 *   from      what                                who        to
 *   ABSENT    rfaas_attendant_start               owner      AWAKE
 *   AWAKE     rfaas_attendant_rest                owner      AWAKE, wanted at rest
 *   AWAKE     finds that it is wanted at rest     thread     RESTING: takes no CPU at all
 *   RESTING   rfaas_attendant_resume              owner      AWAKE
 *   any       rfaas_attendant_stop                owner      ABSENT
 *
 * Fork: a child has no such thread. Stop it before where forking a process of several threads matters.
 */
#ifndef RFAAS_ATTENDANT_H
#define RFAAS_ATTENDANT_H

#include <pthread.h>
#include <sys/types.h>

#include "rfaas_channel.h"

typedef struct rfaas_attendant {
    rfaas_channel *channel;
    pthread_mutex_t *channel_lock;
    const uint64_t *started, *done;
    dev_t device; /* of the channel's descriptor: code that we don't know may have closed or replaced it */
    ino_t inode;
    pid_t owner; /* process; 0: there is no thread */
    pthread_t thread;
    pthread_mutex_t lock; /* of what follows, and of sleeping */
    pthread_cond_t wake;
    int wanted_at_rest, resting, stopping; /* atomic */
} rfaas_attendant;

/* Begins to attend; all that is named stays the caller's and outlives the thread. 0, or an errno: there is no thread. */
int rfaas_attendant_start(rfaas_attendant *attendant, rfaas_channel *channel, pthread_mutex_t *channel_lock,
                          const uint64_t *started, const uint64_t *done);

/* The owner is about to sleep: nothing has to be looked at. Costs one store. */
void rfaas_attendant_rest(rfaas_attendant *attendant);

/* The owner is awake again. Makes a system call only if the thread has gone to rest meanwhile. */
void rfaas_attendant_resume(rfaas_attendant *attendant);

/* Waits until the thread is gone; some microseconds, or a frame's time. Repeatable; nothing in a forked child. */
void rfaas_attendant_stop(rfaas_attendant *attendant);

#endif
