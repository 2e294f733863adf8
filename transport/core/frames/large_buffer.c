/* large_buffer.c - see large_buffer.h. */
#include "large_buffer.h"

#include <stdatomic.h>
#include <stdlib.h>

enum { STEP_BYTES = 1 << 20, ALIGNMENT = 4096 };

static struct {
    void *buffer;
    size_t capacity_bytes;
} kept[RFAAS_LARGE_BUFFERS_KEPT];

/* Whoever finds it taken does without: so a process forked at that moment does nothing worse for ever. */
static atomic_flag busy = ATOMIC_FLAG_INIT;
static size_t oldest;

/* What a block of this size really has, so that almost equal sizes share blocks. */
static size_t capacity_of(size_t size_bytes)
{
    return (size_bytes + STEP_BYTES - 1) / STEP_BYTES * STEP_BYTES;
}

void *rfaas_large_buffer_take(size_t size_bytes)
{
    size_t capacity_bytes = capacity_of(size_bytes);
    void *found = NULL;
    if (!atomic_flag_test_and_set_explicit(&busy, memory_order_acquire)) {
        for (size_t i = 0; i < RFAAS_LARGE_BUFFERS_KEPT && found == NULL; i++)
            if (kept[i].buffer != NULL && kept[i].capacity_bytes == capacity_bytes) {
                found = kept[i].buffer;
                kept[i].buffer = NULL;
            }
        atomic_flag_clear_explicit(&busy, memory_order_release);
    }
    if (found == NULL && posix_memalign(&found, ALIGNMENT, capacity_bytes) != 0)
        return NULL;
    return found;
}

void rfaas_large_buffer_give(void *buffer, size_t size_bytes)
{
    size_t capacity_bytes = capacity_of(size_bytes);
    void *surplus = buffer;
    if (capacity_bytes <= RFAAS_LARGE_BUFFER_MAX_BYTES && !atomic_flag_test_and_set_explicit(&busy, memory_order_acquire)) {
        size_t place = oldest;
        for (size_t i = 0; i < RFAAS_LARGE_BUFFERS_KEPT; i++)
            if (kept[i].buffer == NULL)
                place = i;
        surplus = kept[place].buffer;
        kept[place].buffer = buffer;
        kept[place].capacity_bytes = capacity_bytes;
        oldest = (place + 1) % RFAAS_LARGE_BUFFERS_KEPT;
        atomic_flag_clear_explicit(&busy, memory_order_release);
    }
    free(surplus);
}
