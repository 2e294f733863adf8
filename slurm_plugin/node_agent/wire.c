#include "wire.h"

#include <string.h>

static uint64_t number(const uint8_t *bytes, int size)
{
    uint64_t value = 0;
    for (int i = size; i-- > 0;)
        value = value << 8 | bytes[i];
    return value;
}

/* A text that fills its field with zeros, of printable ASCII without the space. */
static bool text(const uint8_t *bytes, size_t size, char *out)
{
    size_t length = strnlen((const char *)bytes, size);
    if (length == size)
        return false;
    for (size_t i = 0; i < length; i++)
        if (bytes[i] <= ' ' || bytes[i] > '~')
            return false;
    for (size_t i = length; i < size; i++)
        if (bytes[i] != 0)
            return false;
    memcpy(out, bytes, size);
    return true;
}

static bool host_name(const char *name)
{
    for (const char *c = name; *c; c++)
        if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.", *c))
            return false;
    return name[0] != '\0' && name[0] != '.' && name[0] != '-';
}

static bool read_grant(const uint8_t *at, struct grant *grant)
{
    if (memcmp(at, "rfaasgr1", 8) != 0)
        return false;
    memcpy(grant->slice_id, at + 8, SLICE_ID_BYTES);
    memcpy(grant->nonce, at + 24, NONCE_BYTES);
    grant->issued_s = number(at + 40, 8);
    grant->use_by_s = number(at + 48, 8);
    grant->ends_s = number(at + 56, 8);
    grant->memory_bytes = number(at + 64, 8);
    grant->uid = (uint32_t)number(at + 72, 4);
    grant->cores = (uint32_t)number(at + 76, 4);
    return text(at + 80, NODE_NAME_BYTES, grant->node) && host_name(grant->node);
}

/* Absolute, and without a way up: who opens it does so as the user, but it goes to logs and command lines. */
static bool plain_path(const char *path)
{
    return path[0] == '/' && !strstr(path, "/../") && !strstr(path, "//");
}

bool wire_read_request(const uint8_t *bytes, size_t size, struct start_request *request)
{
    if (size != REQUEST_BYTES || memcmp(bytes, "rfaasst1", 8) != 0)
        return false;
    const uint8_t *grant = bytes + 8, *secret = grant + GRANT_BYTES, *rest = secret + SECRET_BYTES;
    memcpy(request->signed_bytes, grant, GRANT_SIGNED_BYTES);
    memcpy(request->signature, grant + GRANT_SIGNED_BYTES, SIGNATURE_BYTES);
    memcpy(request->secret, secret, SECRET_BYTES);
    return read_grant(grant, &request->grant) && text(rest, STATE_DIR_BYTES, request->state_dir) &&
           plain_path(request->state_dir) && text(rest + STATE_DIR_BYTES, ALLOCATOR_BYTES, request->allocator) &&
           request->allocator[0] != '-';
}

bool wire_read_query(const uint8_t *bytes, size_t size, struct node_query *query)
{
    if (size != QUERY_BYTES || memcmp(bytes, "rfaasqy1", 8) != 0)
        return false;
    memcpy(query->signed_bytes, bytes, QUERY_SIGNED_BYTES);
    memcpy(query->signature, bytes + QUERY_SIGNED_BYTES, SIGNATURE_BYTES);
    query->issued_s = number(bytes + 24, 8); /* after 16 random bytes */
    query->job = number(bytes + 32, 8);
    query->verb = (uint32_t)number(bytes + 40, 4);
    return number(bytes + 44, 4) == 0 && text(bytes + 48, NODE_NAME_BYTES, query->node) && host_name(query->node);
}

/* The next word up to one space; false at the end. */
static bool next_word(const char **at, const char *end, const char **word, size_t *length)
{
    if (*at >= end)
        return false;
    const char *space = memchr(*at, ' ', (size_t)(end - *at));
    const char *stop = space ? space : end;
    *word = *at;
    *length = (size_t)(stop - *at);
    *at = space ? space + 1 : end;
    return true;
}

static bool is(const char *word, size_t length, const char *what)
{
    return length == strlen(what) && memcmp(word, what, length) == 0;
}

static bool copy_value(const char *value, size_t length, char *out, size_t room)
{
    if (length >= room)
        return false;
    memcpy(out, value, length);
    out[length] = '\0';
    return true;
}

static bool decimal(const char *value, size_t length, uint64_t *out)
{
    uint64_t sum = 0;
    if (length == 0 || length > 18)
        return false;
    for (size_t i = 0; i < length; i++) {
        if (value[i] < '0' || value[i] > '9')
            return false;
        sum = sum * 10 + (uint64_t)(value[i] - '0');
    }
    *out = sum;
    return true;
}

static bool read_field(const char *word, size_t length, struct hook_packet *packet)
{
    const char *equals = memchr(word, '=', length);
    if (!equals || equals == word)
        return false;
    size_t key = (size_t)(equals - word), size = length - key - 1;
    const char *value = equals + 1;
    if (is(word, key, "job"))
        return decimal(value, size, &packet->job);
    if (is(word, key, "node"))
        return copy_value(value, size, packet->node, sizeof packet->node);
    if (is(word, key, "cpus"))
        return copy_value(value, size, packet->cpus, sizeof packet->cpus);
    return true;
}

bool wire_read_hook(const char *bytes, size_t size, struct hook_packet *packet)
{
    memset(packet, 0, sizeof *packet);
    if (size == 0 || size > PACKET_BYTES)
        return false;
    for (size_t i = 0; i < size; i++)
        if (bytes[i] < ' ' || bytes[i] > '~')
            return false;
    const char *at = bytes, *end = bytes + size, *word;
    size_t length;
    if (!next_word(&at, end, &word, &length) || !is(word, length, "rfaas-hook/1"))
        return false;
    if (!next_word(&at, end, &word, &length) || length == 0)
        return false;
    packet->verb = is(word, length, "evict")    ? HOOK_EVICT
                   : is(word, length, "free")   ? HOOK_FREE
                   : is(word, length, "status") ? HOOK_STATUS
                                                : HOOK_UNKNOWN;
    while (next_word(&at, end, &word, &length))
        if (length > 0 && !read_field(word, length, packet))
            return false;
    return true;
}
