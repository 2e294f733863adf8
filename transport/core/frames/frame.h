/* frame.h - the bytes of a frame: header of 64 bytes and typed extensions, encoded and verified.
 *
 * Knows no medium, no credits and no meaning of a kind; allocates nothing, calls no system.
 * Spec: docs/spec/001-invocation.md sections 1 and 2. Vectors: tests/wire/vectors/.
 */
#ifndef RFAAS_FRAME_H
#define RFAAS_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

enum {
    RFAAS_WIRE_VERSION = 1,
    RFAAS_HEADER_BYTES = 64,
    RFAAS_HEAD_BYTES_MAX = 8191 * 8, /* header and extensions: what `words` can say */
    RFAAS_SEGMENTS_MAX = 7168,       /* leaves room in a head for text and for extensions to come */
    RFAAS_TEXT_BYTES_MAX = 4096,
};

enum rfaas_kind {
    RFAAS_KIND_DEFINE = 1,
    RFAAS_KIND_CALL = 2,
    RFAAS_KIND_RESULT = 3,
    RFAAS_KIND_FETCH = 4,
    RFAAS_KIND_BLOB = 5,
    RFAAS_KIND_TAKE_BACK = 6,
    RFAAS_KIND_TAKEN = 7,
    RFAAS_KIND_CHECKPOINT = 8,
    RFAAS_KIND_OUTPUT = 9,
    RFAAS_KIND_READ = 32,
    RFAAS_KIND_WRITE = 33,
    RFAAS_KIND_SPAN = 34,
    RFAAS_KIND_HELLO = 96,
    RFAAS_KIND_CREDIT = 97,
    RFAAS_KIND_ERROR = 98,
    RFAAS_KIND_BYE = 99,
};

enum rfaas_status {
    RFAAS_STATUS_STALE = 6,
    RFAAS_STATUS_OUT_OF_RANGE = 9,
    RFAAS_STATUS_NO_SPAN = 10,
    RFAAS_STATUS_UNKNOWN_KIND = 32,
    RFAAS_STATUS_UNKNOWN_EXTENSION = 33,
    RFAAS_STATUS_BAD_FRAME = 35,
};

/* The fields of a header in the host's byte order. Version and CRC exist on the wire only. */
typedef struct rfaas_header {
    uint8_t kind;
    uint8_t flags;
    uint8_t attempt;
    uint16_t words; /* set by the encoder */
    uint16_t status;
    uint16_t function;
    uint16_t credits;
    uint64_t call_id;
    uint64_t lease_seq;
    uint64_t epoch;
    uint64_t deadline_ns; /* of READ, WRITE and SPAN: the offset */
    uint64_t in_size; /* set by the encoder */
    uint64_t out_size;
    /* These two travel as extensions of 8 bytes, and not at all while they are 0. */
    uint64_t invocation; /* call_id of the invocation's first dispatch, if that is another one */
    uint64_t checkpoint; /* which payload segment (never the first) is what an earlier attempt saved */
} rfaas_header;

/* A verified head. The pointers lie in the bytes it was decoded from and live as long as those. */
typedef struct rfaas_head {
    rfaas_header header;
    const uint8_t *segment_sizes; /* little-endian u64 each, unaligned; NULL: one segment of in_size, or none if that is 0 */
    uint32_t n_segments;
    const uint8_t *text; /* UTF-8 claimed, not checked; NULL if none */
    uint32_t text_bytes;
    uint16_t unknown_extension; /* the first type that must be understood and isn't; 0 if none */
} rfaas_head;

/* Why bytes are no frame; rfaas_head_problem_text() says it in words. */
typedef enum rfaas_head_problem {
    RFAAS_HEAD_OK = 0,
    RFAAS_HEAD_VERSION,
    RFAAS_HEAD_WORDS,
    RFAAS_HEAD_CRC,
    RFAAS_HEAD_FLAGS,
    RFAAS_HEAD_EXTENSIONS,
    RFAAS_HEAD_SEGMENTS,
} rfaas_head_problem;

/* True for the kinds that this version gives a meaning. */
bool rfaas_kind_is_known(uint8_t kind);

/* True for the kinds that consume a credit (spec 001 section 3). */
bool rfaas_kind_is_credited(uint8_t kind);

/* Bytes of the head that a frame with this header, segments and text needs; 0 if it has more segments, a longer text or
 * a larger sum than a frame may have. `*in_size` is the sum of the segments. */
size_t rfaas_head_size(const rfaas_header *header, const struct iovec *segments, size_t n_segments, size_t text_bytes,
                       uint64_t *in_size);

/* Writes a head of `head_bytes`, as rfaas_head_size() gave it, to `out`; sets words and in_size of `header`. */
void rfaas_head_encode(uint8_t *out, size_t head_bytes, rfaas_header *header, uint64_t in_size,
                       const struct iovec *segments, size_t n_segments, const void *text, size_t text_bytes);

/* From the first RFAAS_HEADER_BYTES of a frame: how long its head is. On a problem `*head_bytes` is untouched. */
rfaas_head_problem rfaas_head_measure(const uint8_t *bytes, size_t *head_bytes);

/* Verifies and decodes a whole head of `head_bytes` = what rfaas_head_measure() said. On a problem `*head` is
 * undefined. Never reads beyond `bytes + head_bytes`, whatever they hold. */
rfaas_head_problem rfaas_head_decode(const uint8_t *bytes, size_t head_bytes, rfaas_head *head);

/* Size of segment `index` < n_segments of a decoded head. */
uint64_t rfaas_head_segment_size(const rfaas_head *head, uint32_t index);

const char *rfaas_head_problem_text(rfaas_head_problem problem);

#endif
