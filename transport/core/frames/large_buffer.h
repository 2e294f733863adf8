/* large_buffer.h - memory for large payloads, used again: fresh pages cost as much as the payload's way through the kernel.
 *
 * malloc gives blocks beyond 32 MiB back to the system at once, so each large frame would be written to pages that the
 * kernel has to find and clear first. A process keeps two such blocks at most. Any thread; never blocks.
 */
#ifndef RFAAS_LARGE_BUFFER_H
#define RFAAS_LARGE_BUFFER_H

#include <stddef.h>

enum {
    RFAAS_LARGE_BUFFER_MIN_BYTES = 8 << 20, /* smaller ones malloc keeps itself */
    RFAAS_LARGE_BUFFERS_KEPT = 2,
};
static const size_t RFAAS_LARGE_BUFFER_MAX_BYTES = 65u << 20; /* larger ones are not kept: they are somebody's memory limit */

/* `size_bytes` >= RFAAS_LARGE_BUFFER_MIN_BYTES, aligned to a page, of unknown content; NULL: no memory. */
void *rfaas_large_buffer_take(size_t size_bytes);

/* Gives one back, with the size that it was asked for with. */
void rfaas_large_buffer_give(void *buffer, size_t size_bytes);

#endif
