/* fuzz_head.c - frame.c: a head of a frame is refused, or adds up and says nothing that lies outside of it. */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t head_bytes;
    uint8_t *bytes = copy_of(data, size);
    mend_checksums(bytes, size);
    rfaas_head head;
    if (size >= RFAAS_HEADER_BYTES && rfaas_head_measure(bytes, &head_bytes) == RFAAS_HEAD_OK && head_bytes <= size &&
        rfaas_head_decode(bytes, head_bytes, &head) == RFAAS_HEAD_OK) {
        uint64_t sum = 0;
        for (uint32_t i = 0; i < head.n_segments; i++)
            sum += rfaas_head_segment_size(&head, i);
        EXPECT(sum == head.header.in_size);
        EXPECT(head.header.checkpoint == 0 || head.header.checkpoint < head.n_segments);
        EXPECT(head.text == NULL || (head.text >= bytes && head.text + head.text_bytes <= bytes + head_bytes));
    }
    free(bytes);
    return 0;
}
