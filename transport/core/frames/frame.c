/* frame.c - encoding and verification of frame heads, byte by byte where the host's byte order could matter. */
#include "frame.h"

#include <string.h>

#include "crc32c.h"

enum {
    EXTENSION_SEGMENTS = 0x8001,
    EXTENSION_TEXT = 0x0002,
    EXTENSION_INVOCATION = 0x0004,
    EXTENSION_CHECKPOINT = 0x0007,
    EXTENSION_MUST = 0x8000,
    EXTENSION_HEADER_BYTES = 8,
    NUMBER_BYTES = 8,
    CRC_OFFSET = 8,
    CRC_BYTES = 4,
};

/* Compilers turn these into single loads and stores on little-endian machines. */
static void put16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static void put32(uint8_t *p, uint32_t v)
{
    put16(p, (uint16_t)v);
    put16(p + 2, (uint16_t)(v >> 16));
}

static void put64(uint8_t *p, uint64_t v)
{
    put32(p, (uint32_t)v);
    put32(p + 4, (uint32_t)(v >> 32));
}

static uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)get16(p) | (uint32_t)get16(p + 2) << 16;
}

static uint64_t get64(const uint8_t *p)
{
    return (uint64_t)get32(p) | (uint64_t)get32(p + 4) << 32;
}

static size_t padded(size_t size_bytes)
{
    return (size_bytes + 7) & ~(size_t)7;
}

bool rfaas_kind_is_known(uint8_t kind)
{
    return (kind >= RFAAS_KIND_DEFINE && kind <= RFAAS_KIND_OUTPUT) ||
           (kind >= RFAAS_KIND_READ && kind <= RFAAS_KIND_SPAN) ||
           (kind >= RFAAS_KIND_HELLO && kind <= RFAAS_KIND_BYE);
}

bool rfaas_kind_is_credited(uint8_t kind)
{
    return kind == RFAAS_KIND_CALL || (kind >= 32 && kind <= 95);
}

/* One non-empty segment is what a payload is without further words; so is none. */
static bool needs_segments_extension(const struct iovec *segments, size_t n_segments)
{
    return n_segments > 1 || (n_segments == 1 && segments[0].iov_len == 0);
}

size_t rfaas_head_size(const rfaas_header *header, const struct iovec *segments, size_t n_segments, size_t text_bytes,
                       uint64_t *in_size)
{
    if (n_segments > RFAAS_SEGMENTS_MAX || text_bytes > RFAAS_TEXT_BYTES_MAX)
        return 0;
    uint64_t sum = 0;
    for (size_t i = 0; i < n_segments; i++)
        if (__builtin_add_overflow(sum, (uint64_t)segments[i].iov_len, &sum))
            return 0;
    *in_size = sum;
    size_t head_bytes = RFAAS_HEADER_BYTES;
    if (needs_segments_extension(segments, n_segments))
        head_bytes += EXTENSION_HEADER_BYTES + 8 * n_segments;
    if (text_bytes > 0)
        head_bytes += EXTENSION_HEADER_BYTES + padded(text_bytes);
    if (header->invocation != 0)
        head_bytes += EXTENSION_HEADER_BYTES + NUMBER_BYTES;
    if (header->checkpoint != 0)
        head_bytes += EXTENSION_HEADER_BYTES + NUMBER_BYTES;
    return head_bytes;
}

/* CRC of the head with the field itself taken as 0. */
static uint32_t head_crc(const uint8_t *head, size_t head_bytes)
{
    static const uint8_t zero[CRC_BYTES];
    if (head_bytes == RFAAS_HEADER_BYTES) { /* most are, and one pass costs half */
        uint8_t plain[RFAAS_HEADER_BYTES];
        memcpy(plain, head, sizeof plain);
        memset(plain + CRC_OFFSET, 0, CRC_BYTES);
        return rfaas_crc32c(plain, sizeof plain, 0);
    }
    uint32_t crc = rfaas_crc32c(head, CRC_OFFSET, 0);
    crc = rfaas_crc32c(zero, CRC_BYTES, crc);
    return rfaas_crc32c(head + CRC_OFFSET + CRC_BYTES, head_bytes - CRC_OFFSET - CRC_BYTES, crc);
}

static uint8_t *put_extension_header(uint8_t *p, uint16_t type, size_t size_bytes)
{
    put16(p, type);
    put16(p + 2, 0);
    put32(p + 4, (uint32_t)size_bytes);
    return p + EXTENSION_HEADER_BYTES;
}

static uint8_t *put_number_extension(uint8_t *p, uint16_t type, uint64_t number)
{
    if (number == 0)
        return p;
    p = put_extension_header(p, type, NUMBER_BYTES);
    put64(p, number);
    return p + NUMBER_BYTES;
}

void rfaas_head_encode(uint8_t *out, size_t head_bytes, rfaas_header *header, uint64_t in_size,
                       const struct iovec *segments, size_t n_segments, const void *text, size_t text_bytes)
{
    header->words = (uint16_t)(head_bytes / 8);
    header->in_size = in_size;
    out[0] = RFAAS_WIRE_VERSION;
    out[1] = header->kind;
    out[2] = header->flags;
    out[3] = header->attempt;
    put16(out + 4, header->words);
    put16(out + 6, header->status);
    put16(out + 12, header->function);
    put16(out + 14, header->credits);
    put64(out + 16, header->call_id);
    put64(out + 24, header->lease_seq);
    put64(out + 32, header->epoch);
    put64(out + 40, header->deadline_ns);
    put64(out + 48, header->in_size);
    put64(out + 56, header->out_size);
    uint8_t *p = out + RFAAS_HEADER_BYTES;
    if (needs_segments_extension(segments, n_segments)) {
        p = put_extension_header(p, EXTENSION_SEGMENTS, 8 * n_segments);
        for (size_t i = 0; i < n_segments; i++, p += 8)
            put64(p, segments[i].iov_len);
    }
    if (text_bytes > 0) {
        p = put_extension_header(p, EXTENSION_TEXT, text_bytes);
        memcpy(p, text, text_bytes);
        memset(p + text_bytes, 0, padded(text_bytes) - text_bytes);
        p += padded(text_bytes);
    }
    p = put_number_extension(p, EXTENSION_INVOCATION, header->invocation);
    put_number_extension(p, EXTENSION_CHECKPOINT, header->checkpoint);
    put32(out + CRC_OFFSET, head_crc(out, head_bytes));
}

rfaas_head_problem rfaas_head_measure(const uint8_t *bytes, size_t *head_bytes)
{
    if (bytes[0] != RFAAS_WIRE_VERSION)
        return RFAAS_HEAD_VERSION;
    size_t size_bytes = (size_t)get16(bytes + 4) * 8;
    if (size_bytes < RFAAS_HEADER_BYTES || size_bytes > RFAAS_HEAD_BYTES_MAX)
        return RFAAS_HEAD_WORDS;
    *head_bytes = size_bytes;
    return RFAAS_HEAD_OK;
}

static void get_header(const uint8_t *bytes, rfaas_header *header)
{
    header->kind = bytes[1];
    header->flags = bytes[2];
    header->attempt = bytes[3];
    header->words = get16(bytes + 4);
    header->status = get16(bytes + 6);
    header->function = get16(bytes + 12);
    header->credits = get16(bytes + 14);
    header->call_id = get64(bytes + 16);
    header->lease_seq = get64(bytes + 24);
    header->epoch = get64(bytes + 32);
    header->deadline_ns = get64(bytes + 40);
    header->in_size = get64(bytes + 48);
    header->out_size = get64(bytes + 56);
    header->invocation = 0;
    header->checkpoint = 0;
}

static rfaas_head_problem get_segments(const uint8_t *data, size_t size_bytes, rfaas_head *head)
{
    if (head->segment_sizes != NULL || size_bytes % 8 != 0)
        return RFAAS_HEAD_EXTENSIONS;
    head->segment_sizes = data;
    head->n_segments = (uint32_t)(size_bytes / 8);
    uint64_t sum = 0;
    for (uint32_t i = 0; i < head->n_segments; i++)
        if (__builtin_add_overflow(sum, get64(data + 8 * (size_t)i), &sum))
            return RFAAS_HEAD_SEGMENTS;
    return sum == head->header.in_size ? RFAAS_HEAD_OK : RFAAS_HEAD_SEGMENTS;
}

static rfaas_head_problem get_number(const uint8_t *data, size_t size_bytes, uint64_t *number)
{
    if (*number != 0 || size_bytes != NUMBER_BYTES)
        return RFAAS_HEAD_EXTENSIONS;
    *number = get64(data);
    return RFAAS_HEAD_OK;
}

static rfaas_head_problem get_extension(uint16_t type, const uint8_t *data, size_t size_bytes, rfaas_head *head)
{
    if (type == EXTENSION_SEGMENTS)
        return get_segments(data, size_bytes, head);
    if (type == EXTENSION_INVOCATION)
        return get_number(data, size_bytes, &head->header.invocation);
    if (type == EXTENSION_CHECKPOINT)
        return get_number(data, size_bytes, &head->header.checkpoint);
    if (type == EXTENSION_TEXT) {
        if (head->text != NULL)
            return RFAAS_HEAD_EXTENSIONS;
        head->text = data;
        head->text_bytes = (uint32_t)size_bytes;
    } else if ((type & EXTENSION_MUST) && head->unknown_extension == 0) {
        head->unknown_extension = type;
    }
    return RFAAS_HEAD_OK;
}

rfaas_head_problem rfaas_head_decode(const uint8_t *bytes, size_t head_bytes, rfaas_head *head)
{
    if (get32(bytes + CRC_OFFSET) != head_crc(bytes, head_bytes))
        return RFAAS_HEAD_CRC;
    get_header(bytes, &head->header);
    head->segment_sizes = head->text = NULL; /* each field: this is once a frame, and clearing all of it costs more */
    head->n_segments = head->text_bytes = 0;
    head->unknown_extension = 0;
    if (head->header.flags != 0)
        return RFAAS_HEAD_FLAGS;
    for (size_t at = RFAAS_HEADER_BYTES; at < head_bytes;) {
        /* Both numbers are multiples of 8, so an extension's own header always fits here. */
        const uint8_t *extension = bytes + at;
        size_t size_bytes = get32(extension + 4);
        size_t room_bytes = head_bytes - at - EXTENSION_HEADER_BYTES;
        if (size_bytes > room_bytes)
            return RFAAS_HEAD_EXTENSIONS;
        rfaas_head_problem problem =
            get_extension(get16(extension), extension + EXTENSION_HEADER_BYTES, size_bytes, head);
        if (problem != RFAAS_HEAD_OK)
            return problem;
        at += EXTENSION_HEADER_BYTES + padded(size_bytes);
    }
    if (head->segment_sizes == NULL)
        head->n_segments = head->header.in_size > 0;
    if (head->header.checkpoint != 0 && head->header.checkpoint >= head->n_segments)
        return RFAAS_HEAD_SEGMENTS;
    return RFAAS_HEAD_OK;
}

uint64_t rfaas_head_segment_size(const rfaas_head *head, uint32_t index)
{
    return head->segment_sizes == NULL ? head->header.in_size : get64(head->segment_sizes + 8 * (size_t)index);
}

const char *rfaas_head_problem_text(rfaas_head_problem problem)
{
    switch (problem) {
    case RFAAS_HEAD_OK: return "well formed";
    case RFAAS_HEAD_VERSION: return "another version of the frame format, or no frame at all";
    case RFAAS_HEAD_WORDS: return "the head's length is out of range";
    case RFAAS_HEAD_CRC: return "the head's checksum is wrong";
    case RFAAS_HEAD_FLAGS: return "a flag is set that has no meaning on this medium";
    case RFAAS_HEAD_EXTENSIONS: return "an extension is cut off, comes twice or has an impossible size";
    case RFAAS_HEAD_SEGMENTS: return "the segments do not add up to the payload";
    }
    return "unknown";
}
