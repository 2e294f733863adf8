#include "output.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ALIGNMENT = 64, MARK = 0xA5 };

static uint64_t rounded(uint64_t n, uint64_t to) { return (n + to - 1) / to * to; }

static size_t marked_bytes(const rfaas_output *output) {
    return (size_t)(output->guard - output->start) - (size_t)output->capacity_bytes;
}

int rfaas_output_map(uint64_t capacity_bytes, rfaas_output *output) {
    const uint64_t page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
    if (capacity_bytes > SIZE_MAX / 2) {
        errno = ENOMEM;
        return -1;
    }
    const uint64_t aligned_bytes = rounded(capacity_bytes ? capacity_bytes : 1, ALIGNMENT);
    const uint64_t data_bytes = rounded(aligned_bytes, page_bytes);
    output->map_bytes = (size_t)(data_bytes + page_bytes);
    /* Shared, so that a capacity of gigabytes that nobody writes to takes nothing from the limit of private data. */
    void *map = mmap(NULL, output->map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) {
        output->map = NULL;
        return -1;
    }
    uint8_t *guard = (uint8_t *)map + data_bytes;
    /* For the same reason a child that the function forks must not have it: it would write into the answer. */
    if (madvise(map, output->map_bytes, MADV_DONTFORK) != 0 || mprotect(guard, page_bytes, PROT_NONE) != 0) {
        const int why = errno;
        munmap(map, output->map_bytes);
        output->map = NULL;
        errno = why;
        return -1;
    }
    output->map = map;
    output->guard = guard;
    output->start = guard - aligned_bytes;
    output->capacity_bytes = capacity_bytes;
    memset(output->start + capacity_bytes, MARK, marked_bytes(output));
    return 0;
}

bool rfaas_output_fit(rfaas_output *output, uint64_t capacity_bytes) {
    const uint64_t data_bytes = (uint64_t)(output->guard - (const uint8_t *)output->map);
    const uint64_t aligned_bytes = rounded(capacity_bytes ? capacity_bytes : 1, ALIGNMENT);
    if (capacity_bytes > data_bytes || aligned_bytes > data_bytes) return false;
    output->start = (uint8_t *)output->map + (data_bytes - aligned_bytes);
    output->capacity_bytes = capacity_bytes;
    memset(output->start + capacity_bytes, MARK, marked_bytes(output));
    return true;
}

void rfaas_output_unmap(rfaas_output *output) {
    if (output->map != NULL) munmap(output->map, output->map_bytes);
    output->map = NULL;
}

bool rfaas_output_is_sound(rfaas_output *output) {
    uint8_t *marks = output->start + output->capacity_bytes;
    const size_t n = marked_bytes(output);
    for (size_t i = 0; i < n; i++) {
        if (marks[i] != MARK) {
            memset(marks, MARK, n);
            return false;
        }
    }
    return true;
}

void rfaas_output_shrink(rfaas_output *output, uint64_t keep_bytes) {
    const uintptr_t page_bytes = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t from = rounded((uintptr_t)output->start + keep_bytes, page_bytes);
    const uintptr_t to = (uintptr_t)output->guard - page_bytes; /* the last page has the marks */
    if (from < to) (void)madvise((void *)from, to - from, MADV_REMOVE);
}
