/* pack.c - see pack.h. Format: the msgpack specification (github.com/msgpack/msgpack/blob/master/spec.md). */
#include "pack.h"

#include <stdlib.h>
#include <string.h>

/* ---- writing ---- */

static uint8_t *grow(pack_writer *writer, size_t more_bytes)
{
    if (writer->failed || more_bytes > SIZE_MAX / 4 - writer->size_bytes) {
        writer->failed = true;
        return NULL;
    }
    if (writer->size_bytes + more_bytes > writer->room_bytes) {
        size_t room_bytes = 2 * (writer->size_bytes + more_bytes) + 64;
        uint8_t *grown = realloc(writer->bytes, room_bytes);
        if (grown == NULL) {
            writer->failed = true;
            return NULL;
        }
        writer->bytes = grown;
        writer->room_bytes = room_bytes;
    }
    uint8_t *at = writer->bytes + writer->size_bytes;
    writer->size_bytes += more_bytes;
    return at;
}

void pack_free(pack_writer *writer)
{
    free(writer->bytes);
    memset(writer, 0, sizeof *writer);
}

static void put_big_endian(uint8_t *at, uint64_t value, size_t n_bytes)
{
    for (size_t i = 0; i < n_bytes; i++)
        at[i] = (uint8_t)(value >> 8 * (n_bytes - 1 - i));
}

/* A type byte and a number of `n_bytes` behind it. */
static void put(pack_writer *writer, uint8_t type, uint64_t value, size_t n_bytes)
{
    uint8_t *at = grow(writer, 1 + n_bytes);
    if (at == NULL)
        return;
    at[0] = type;
    put_big_endian(at + 1, value, n_bytes);
}

void pack_map(pack_writer *writer, uint32_t n_pairs)
{
    if (n_pairs < 16)
        put(writer, (uint8_t)(0x80 | n_pairs), 0, 0);
    else if (n_pairs <= UINT16_MAX)
        put(writer, 0xde, n_pairs, 2);
    else
        put(writer, 0xdf, n_pairs, 4);
}

void pack_array(pack_writer *writer, uint32_t n)
{
    if (n < 16)
        put(writer, (uint8_t)(0x90 | n), 0, 0);
    else if (n <= UINT16_MAX)
        put(writer, 0xdc, n, 2);
    else
        put(writer, 0xdd, n, 4);
}

void pack_packed(pack_writer *writer, const void *bytes, size_t size_bytes)
{
    uint8_t *at = grow(writer, size_bytes);
    if (at != NULL && size_bytes > 0)
        memcpy(at, bytes, size_bytes);
}

void pack_text(pack_writer *writer, const char *text)
{
    size_t size_bytes = strlen(text);
    if (size_bytes < 32)
        put(writer, (uint8_t)(0xa0 | size_bytes), 0, 0);
    else if (size_bytes <= UINT8_MAX)
        put(writer, 0xd9, size_bytes, 1);
    else if (size_bytes <= UINT16_MAX)
        put(writer, 0xda, size_bytes, 2);
    else
        put(writer, 0xdb, size_bytes, 4);
    pack_packed(writer, text, size_bytes);
}

void pack_bytes(pack_writer *writer, const void *bytes, size_t size_bytes)
{
    if (size_bytes <= UINT8_MAX)
        put(writer, 0xc4, size_bytes, 1);
    else if (size_bytes <= UINT16_MAX)
        put(writer, 0xc5, size_bytes, 2);
    else
        put(writer, 0xc6, size_bytes, 4);
    pack_packed(writer, bytes, size_bytes);
}

void pack_unsigned(pack_writer *writer, uint64_t value)
{
    if (value < 128)
        put(writer, (uint8_t)value, 0, 0);
    else if (value <= UINT8_MAX)
        put(writer, 0xcc, value, 1);
    else if (value <= UINT16_MAX)
        put(writer, 0xcd, value, 2);
    else if (value <= UINT32_MAX)
        put(writer, 0xce, value, 4);
    else
        put(writer, 0xcf, value, 8);
}

void pack_real(pack_writer *writer, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    put(writer, 0xcb, bits, 8);
}

/* ---- reading ---- */

static uint64_t big_endian(const uint8_t *at, size_t n_bytes)
{
    uint64_t value = 0;
    for (size_t i = 0; i < n_bytes; i++)
        value = value << 8 | at[i];
    return value;
}

/* A number of `n_bytes` behind the type byte; false: the bytes end before. */
static bool number(const uint8_t *at, const uint8_t *end, size_t n_bytes, uint64_t *value)
{
    if ((size_t)(end - at) < 1 + n_bytes)
        return false;
    *value = big_endian(at + 1, n_bytes);
    return true;
}

static void set_integer(pack_value *value, uint64_t bits, size_t n_bytes, bool is_signed)
{
    value->kind = PACK_INTEGER;
    value->negative = is_signed && (bits >> (8 * n_bytes - 1) & 1) != 0;
    if (value->negative && n_bytes < 8)
        bits |= UINT64_MAX << 8 * n_bytes;
    value->magnitude = bits;
}

static void set_real(pack_value *value, uint64_t bits, size_t n_bytes)
{
    value->kind = PACK_REAL;
    if (n_bytes == 8) {
        memcpy(&value->real, &bits, sizeof value->real);
    } else {
        uint32_t narrow = (uint32_t)bits;
        float real;
        memcpy(&real, &narrow, sizeof real);
        value->real = (double)real;
    }
}

/* Text, bytes or a container whose length of `n_bytes` stands behind the type byte. */
static const uint8_t *set_sized(pack_value *value, pack_kind kind, const uint8_t *at, const uint8_t *end, size_t n_bytes)
{
    if (!number(at, end, n_bytes, &value->size))
        return NULL;
    value->kind = kind;
    value->data = at + 1 + n_bytes;
    return value->data;
}

/* Reads the head of a value: its end for a scalar, the beginning of its content otherwise; NULL: malformed. */
static const uint8_t *read_head(const uint8_t *at, const uint8_t *end, pack_value *value)
{
    static const uint8_t widths[] = {1, 2, 4, 8};
    *value = (pack_value){.begin = at};
    if (at == end)
        return NULL;
    uint8_t type = *at;
    uint64_t bits = 0;
    if (type < 0x80 || type >= 0xe0) {
        set_integer(value, type, 1, true);
        return at + 1;
    }
    if (type < 0xc0) {
        value->kind = type < 0x90 ? PACK_MAP : type < 0xa0 ? PACK_ARRAY : PACK_TEXT;
        value->size = type < 0xa0 ? type & 15 : type & 31;
        value->data = at + 1;
        return at + 1;
    }
    switch (type) {
    case 0xc0:
        value->kind = PACK_NIL;
        return at + 1;
    case 0xc2:
    case 0xc3:
        value->kind = PACK_BOOL;
        value->magnitude = type & 1;
        return at + 1;
    case 0xc4:
    case 0xc5:
    case 0xc6:
        return set_sized(value, PACK_BYTES, at, end, widths[type - 0xc4]);
    case 0xca:
    case 0xcb:
        if (!number(at, end, widths[type - 0xc8], &bits))
            return NULL;
        set_real(value, bits, widths[type - 0xc8]);
        return at + 1 + widths[type - 0xc8];
    case 0xcc:
    case 0xcd:
    case 0xce:
    case 0xcf:
    case 0xd0:
    case 0xd1:
    case 0xd2:
    case 0xd3:
        if (!number(at, end, widths[type & 3], &bits))
            return NULL;
        set_integer(value, bits, widths[type & 3], type >= 0xd0);
        return at + 1 + widths[type & 3];
    case 0xd9:
    case 0xda:
    case 0xdb:
        return set_sized(value, PACK_TEXT, at, end, widths[type - 0xd9]);
    case 0xdc:
    case 0xdd:
        return set_sized(value, PACK_ARRAY, at, end, widths[type - 0xdb]);
    case 0xde:
    case 0xdf:
        return set_sized(value, PACK_MAP, at, end, widths[type - 0xdd]);
    default:
        return NULL; /* extension types, and 0xc1 */
    }
}

/* Reads a value with all that is in it; its end, or NULL. */
static const uint8_t *read_value(const uint8_t *at, const uint8_t *end, int depth, pack_value *value)
{
    at = read_head(at, end, value);
    if (at == NULL)
        return NULL;
    if (value->kind == PACK_TEXT || value->kind == PACK_BYTES) {
        if (value->size > (uint64_t)(end - at))
            return NULL;
        at += value->size;
    } else if (value->kind == PACK_ARRAY || value->kind == PACK_MAP) {
        uint64_t n = value->kind == PACK_MAP ? 2 * value->size : value->size;
        if (depth == 0 || n > (uint64_t)(end - at)) /* each element has a byte at least */
            return NULL;
        pack_value child;
        for (uint64_t i = 0; i < n && at != NULL; i++) {
            at = read_value(at, end, depth - 1, &child);
            if (at != NULL && value->kind == PACK_MAP && i % 2 == 0 && child.kind != PACK_TEXT)
                return NULL;
        }
    }
    value->end = at;
    return at;
}

bool pack_read(const void *bytes, size_t size_bytes, pack_value *value)
{
    const uint8_t *end = (const uint8_t *)bytes + size_bytes;
    if (size_bytes == 0 || read_value(bytes, end, PACK_DEPTH_MAX, value) != end) {
        *value = (pack_value){.kind = PACK_NOTHING};
        return false;
    }
    return true;
}

pack_value pack_find(const pack_value *map, const char *key)
{
    pack_value found = {.kind = PACK_NOTHING}, name;
    const uint8_t *at = map->data;
    for (uint64_t i = 0; map->kind == PACK_MAP && i < map->size; i++) {
        at = read_value(at, map->end, PACK_DEPTH_MAX, &name);
        at = read_value(at, map->end, PACK_DEPTH_MAX, &found);
        if (pack_is_text(&name, key))
            return found;
    }
    return (pack_value){.kind = PACK_NOTHING};
}

pack_value pack_next(const pack_value *array, const uint8_t **at)
{
    pack_value found = {.kind = PACK_NOTHING};
    if (array->kind != PACK_ARRAY)
        return found;
    if (*at == NULL)
        *at = array->data;
    if (*at < array->end)
        *at = read_value(*at, array->end, PACK_DEPTH_MAX, &found);
    return found;
}

uint64_t pack_as_unsigned(const pack_value *value, uint64_t otherwise)
{
    return value->kind == PACK_INTEGER && !value->negative ? value->magnitude : otherwise;
}

int64_t pack_as_signed(const pack_value *value, int64_t otherwise)
{
    if (value->kind != PACK_INTEGER || (!value->negative && value->magnitude > INT64_MAX))
        return otherwise;
    int64_t number;
    memcpy(&number, &value->magnitude, sizeof number);
    return number;
}

double pack_as_real(const pack_value *value, double otherwise)
{
    if (value->kind == PACK_REAL)
        return value->real;
    if (value->kind == PACK_INTEGER)
        return value->negative ? (double)pack_as_signed(value, 0) : (double)value->magnitude;
    return otherwise;
}

void pack_copy_text(const pack_value *value, char *text, size_t room_bytes)
{
    size_t n = 0;
    if (value->kind == PACK_TEXT)
        n = value->size < room_bytes - 1 ? (size_t)value->size : room_bytes - 1;
    while (n > 0 && n < value->size && (value->data[n] & 0xc0) == 0x80)
        n--; /* not in the middle of a character */
    for (size_t i = 0; i < n; i++) {
        uint8_t byte = value->data[i];
        text[i] = (char)((byte < 32 && byte != '\n' && byte != '\t') || byte == 127 ? '?' : byte);
    }
    text[n] = '\0';
}

bool pack_is_text(const pack_value *value, const char *text)
{
    return value->kind == PACK_TEXT && value->size == strlen(text) && memcmp(value->data, text, value->size) == 0;
}
