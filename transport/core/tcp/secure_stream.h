/* secure_stream.h - what encryption has to offer to the medium over sockets; tls/ offers it over OpenSSL.
 *
 * A table of functions, so that who does not encrypt loads no such library, and the core builds without one. Must not
 * know frames. One thread at a time uses a stream. Nothing blocks and nothing raises SIGPIPE.
 */
#ifndef RFAAS_SECURE_STREAM_H
#define RFAAS_SECURE_STREAM_H

#include "rfaas_channel.h"

enum {
    RFAAS_SECURE_KEY_BYTES = 32,
    RFAAS_SECURE_RECORD_BYTES = 16384, /* what is encrypted at once, at most */
};

typedef struct rfaas_secure rfaas_secure;

typedef struct rfaas_secure_ops {
    const char *name; /* of the medium over it */

    /* A stream over a connected socket, which stays the caller's and must outlive it. `key`: as in rfaas_tcp_options,
     * not kept beyond `free`. NULL: no memory, or the library failed. Neither reads nor writes. */
    rfaas_secure *(*begin)(int fd, bool is_dialer, const uint8_t *key);

    /* Moves the handshake on: OK (both sides have proved the key), AGAIN, BROKEN. */
    rfaas_rc (*shake_hands)(rfaas_secure *secure);

    /* After the handshake. Encrypts and sends the first bytes of `pieces` (none empty), a record at most: OK, AGAIN (the
     * socket is full; the next call must be given the same bytes first), BROKEN. `*put_bytes`: how many, 0 unless OK. */
    rfaas_rc (*write)(rfaas_secure *secure, const struct iovec *pieces, size_t n, size_t *put_bytes);

    /* After the handshake. Fills `pieces` in order as far as there is something: OK (something came), AGAIN, CLOSED (the
     * peer ended in order), BROKEN. `*got_bytes`: how many, 0 unless OK. */
    rfaas_rc (*read)(rfaas_secure *secure, const struct iovec *pieces, size_t n, size_t *got_bytes);

    /* How many bytes of the present record are decrypted and not read; and whether more than the socket may say is here. */
    size_t (*left_in_record_bytes)(const rfaas_secure *secure);
    bool (*holds_bytes)(const rfaas_secure *secure);

    /* Whether reading takes as much as there is from the socket, or a record at a time. */
    void (*read_ahead)(rfaas_secure *secure, bool on);

    /* After AGAIN of shake_hands or read: the socket must be writable first. */
    bool (*wants_write)(const rfaas_secure *secure);

    /* After BROKEN: why, for people. */
    const char *(*why)(const rfaas_secure *secure);

    /* Tells the peer that nothing more comes, unless something is half written. */
    void (*end)(rfaas_secure *secure);

    /* Frees it and forgets the key. */
    void (*free)(rfaas_secure *secure);
} rfaas_secure_ops;

#endif
