/* array_heap.h - numpy's memory while a function runs: large arrays lie in the arena of the channel on which the call came,
 * so that one that is returned is handed over instead of copied.
 *
 * An allocator in numpy's sense (NEP 49), which passes on to numpy's own whatever is small or finds no room. What it gave
 * out stays where it is until it is freed, whatever becomes of the call and of its channel; freed memory is the channel's
 * again. One a process, thread-safe; allocating and freeing need no interpreter. A forked child has a private copy of what
 * was in use, and allocates as if there were no channel. Spec: docs/spec/006-shared-memory.md section 7.
 */
#ifndef RFAAS_ARRAY_HEAP_H
#define RFAAS_ARRAY_HEAP_H

#include <pthread.h>

#include "rfaas_channel.h"

enum {
    RFAAS_ARRAY_HEAP_LEAST_BYTES = 1 << 16, /* smaller ones cost less to copy than to keep books of */
    RFAAS_ARRAY_HEAP_MOST = 32,             /* at one time, of the arena's RFAAS_SHM_BLOCKS */
};

/* As numpy lays it out: PyDataMemAllocator and PyDataMem_Handler of numpy/ndarraytypes.h, version 1. */
typedef struct rfaas_array_allocator {
    void *context;
    void *(*malloc)(void *context, size_t size_bytes);
    void *(*calloc)(void *context, size_t n, size_t size_bytes);
    void *(*realloc)(void *context, void *at, size_t size_bytes);
    void (*free)(void *context, void *at, size_t size_bytes);
} rfaas_array_allocator;

typedef struct rfaas_array_handler {
    char name[127];
    uint8_t version;
    rfaas_array_allocator allocator;
} rfaas_array_handler;

/* What numpy is to be given, once it is known what stands behind it; that is copied. */
rfaas_array_handler *rfaas_array_heap_begin(const rfaas_array_allocator *behind);

/* On which channel the call came that runs now; NULL: none runs. It is valid, and so is its lock, until another is named or
 * rfaas_array_heap_leave(). */
void rfaas_array_heap_serve(rfaas_channel *channel, pthread_mutex_t *channel_lock);

/* Before a channel is closed: nothing is allocated there any more. Its lock is not held. */
void rfaas_array_heap_leave(const rfaas_channel *channel);

/* True while arrays are in use here. */
bool rfaas_array_heap_is_used(void);

/* An array that is about to be sent: it stays where it is, freed or not, until the pin is drawn. */
typedef struct rfaas_array_pin rfaas_array_pin;

/* The array of this channel in which these bytes lie, NULL: they lie in none. */
rfaas_array_pin *rfaas_array_heap_pin(const rfaas_channel *channel, const void *bytes, size_t size_bytes);

/* If the array was freed since, and has no other pin, it is the caller's, who gives it back as if it had taken it by
 * rfaas_channel_array_take(), and the pin is gone. False: somebody may still look at it or write to it. */
bool rfaas_array_heap_claim(rfaas_array_pin *pin, rfaas_channel_array *array, size_t *size_bytes);

/* Draws the pin. */
void rfaas_array_heap_unpin(rfaas_array_pin *pin);

#endif
