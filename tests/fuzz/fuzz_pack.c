/* fuzz_pack.c - a fuzz target for the msgpack reader: whatever the bytes are, no byte beyond them is read.
 *
 *     clang -fsanitize=fuzzer,address -DLIBFUZZER -I rfaas/librfaas tests/fuzz/fuzz_pack.c rfaas/librfaas/pack.c
 *
 * Beside driver.c it is tried by parts_test.c, whose `fuzz` mutates values.
 */
#include <stdlib.h>
#include <string.h>

#include "pack.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t walk(const pack_value *value, int depth)
{
    char text[32];
    uint64_t sum = pack_as_unsigned(value, 1) + (uint64_t)pack_as_signed(value, 2) + (pack_as_real(value, 0) > 3);
    pack_copy_text(value, text, sizeof text);
    sum += strlen(text) + pack_is_text(value, "channel");
    if (value->kind == PACK_BYTES || value->kind == PACK_TEXT)
        for (uint64_t i = 0; i < value->size; i++)
            sum += value->data[i];
    const uint8_t *at = NULL;
    for (pack_value child = pack_next(value, &at); child.kind != PACK_NOTHING; child = pack_next(value, &at))
        sum += depth > 32 ? 0 : walk(&child, depth + 1);
    pack_value found = pack_find(value, "channel");
    if (found.kind != PACK_NOTHING && depth <= 32)
        sum += walk(&found, depth + 1);
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size > 0 ? size : 1); /* of exactly its size: a sanitizer sees the byte behind it */
    if (copy == NULL)
        return 0;
    if (size > 0)
        memcpy(copy, data, size);
    pack_value value;
    volatile uint64_t sum = pack_read(copy, size, &value) ? walk(&value, 0) : 0;
    (void)sum;
    free(copy);
    return 0;
}
