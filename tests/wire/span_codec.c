/* span_codec.c - reads and writes a SPAN's answer (spec 008 section 2.1) by the core's codec, for tests/wire/test_spans.py.
 *
 * A line in, a line out: 48 digits of hex, or "ADDRESS SIZE KEY".
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "region_span.h"

int main(void)
{
    char line[256];
    while (fgets(line, sizeof line, stdin) != NULL) {
        uint8_t bytes[RFAAS_REGION_SPAN_ANSWER_BYTES];
        uint64_t address, size_bytes;
        uint32_t key;
        if (sscanf(line, "%" SCNu64 " %" SCNu64 " %" SCNu32, &address, &size_bytes, &key) == 3) {
            rfaas_region_span_encode(address, size_bytes, key, bytes);
            for (size_t i = 0; i < sizeof bytes; i++)
                printf("%02x", bytes[i]);
            printf("\n");
            continue;
        }
        for (size_t i = 0; i < sizeof bytes; i++) {
            unsigned value = 0;
            sscanf(line + 2 * i, "%2x", &value);
            bytes[i] = (uint8_t)value;
        }
        rfaas_region_span_decode(bytes, &address, &size_bytes, &key);
        printf("%" PRIu64 " %" PRIu64 " %" PRIu32 "\n", address, size_bytes, key);
    }
    return 0;
}
