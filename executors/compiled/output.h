/* Memory that a function writes its output to, with a page behind it that can't be touched.
 *
 * The capacity ends at that page, or up to 63 bytes before it, for the start lies on a multiple of 64; those bytes are
 * marked. So nothing that is written behind the capacity goes unnoticed. docs/spec/001-invocation.md section 11.
 */
#ifndef RFAAS_OUTPUT_H
#define RFAAS_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    void *map; /* NULL: none */
    size_t map_bytes;
    uint8_t *start;
    uint64_t capacity_bytes;
    const uint8_t *guard; /* the page behind */
} rfaas_output;

/* Map an output. No memory is used before it is written to, and none of it counts as private data (RLIMIT_DATA).
 * 0, or -1 with errno. */
int rfaas_output_map(uint64_t capacity_bytes, rfaas_output *output);

/* Unmap; repeatable. */
void rfaas_output_unmap(rfaas_output *output);

/* Let the output have another capacity in the same memory, which is still followed by the page. What it holds is not
 * specified. False: that memory is too small, and nothing has changed. */
bool rfaas_output_fit(rfaas_output *output, uint64_t capacity_bytes);

/* False if something was written between the capacity and the page behind it; marks it anew then. */
bool rfaas_output_is_sound(rfaas_output *output);

/* Give the memory behind the first `keep_bytes` back to the system; what it holds is lost. */
void rfaas_output_shrink(rfaas_output *output, uint64_t keep_bytes);

#endif
