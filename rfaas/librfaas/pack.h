/* pack.h - msgpack, as far as rfaas uses it: a writer that grows, and a reader that believes no byte.
 *
 * Sans-IO. The reader looks at values in place and copies nothing; what it returns lies in the bytes it was given. It
 * never reads beyond them, nests at most PACK_DEPTH_MAX deep, and refuses extension types, which rfaas never sends.
 */
#ifndef RFAAS_PACK_H
#define RFAAS_PACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PACK_DEPTH_MAX = 16 };

/* ---- writing ---- */

typedef struct pack_writer {
    uint8_t *bytes;
    size_t size_bytes, room_bytes;
    bool failed; /* no memory was left: what was written is not whole, whatever came after */
} pack_writer;

/* The bytes are freed by pack_free(); a writer begins as all zeros. */
void pack_free(pack_writer *writer);

void pack_map(pack_writer *writer, uint32_t n_pairs);
void pack_array(pack_writer *writer, uint32_t n);
void pack_text(pack_writer *writer, const char *text);
void pack_bytes(pack_writer *writer, const void *bytes, size_t size_bytes);
void pack_unsigned(pack_writer *writer, uint64_t value);
void pack_real(pack_writer *writer, double value);

/* A value that is packed already. */
void pack_packed(pack_writer *writer, const void *bytes, size_t size_bytes);

/* ---- reading ---- */

typedef enum pack_kind {
    PACK_NOTHING, /* there is no such key, or no more value */
    PACK_NIL,
    PACK_BOOL,
    PACK_INTEGER,
    PACK_REAL,
    PACK_TEXT,
    PACK_BYTES,
    PACK_ARRAY,
    PACK_MAP,
} pack_kind;

typedef struct pack_value {
    pack_kind kind;
    const uint8_t *begin, *end; /* the encoded value */
    const uint8_t *data;        /* TEXT, BYTES: the content. ARRAY, MAP: the first element */
    uint64_t size;              /* TEXT, BYTES: bytes. ARRAY: elements. MAP: pairs */
    uint64_t magnitude;         /* BOOL, INTEGER: the value, or its two's complement */
    bool negative;
    double real;
} pack_value;

/* Reads the one value that these bytes hold, exactly; all that is in it is verified. False: they hold none. */
bool pack_read(const void *bytes, size_t size_bytes, pack_value *value);

/* The value of a key of a map that pack_read() found; NOTHING if there is none, or `map` is no map. */
pack_value pack_find(const pack_value *map, const char *key);

/* The next element of an array: begin with `*at` = NULL. NOTHING after the last. */
pack_value pack_next(const pack_value *array, const uint8_t **at);

/* The value as a C type, `otherwise` if it is of another kind or out of range. */
uint64_t pack_as_unsigned(const pack_value *value, uint64_t otherwise);
int64_t pack_as_signed(const pack_value *value, int64_t otherwise);
double pack_as_real(const pack_value *value, double otherwise);

/* Copies text, cut to `room_bytes` - 1 at the beginning of a character; empty if it is none. Bytes below a space but
 * line feeds and tabs become '?': it may be shown on a terminal. */
void pack_copy_text(const pack_value *value, char *text, size_t room_bytes);

/* True if it is this text. */
bool pack_is_text(const pack_value *value, const char *text);

#endif
