/* tls_stream.c - see tls_stream.h.
 *
 * One cipher suite and one key, so there is nothing to negotiate and nothing to get wrong. The socket is read and written
 * here and not by OpenSSL: no SIGPIPE, and a failed write leaves what has arrived readable.
 */
#include "tls_stream.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static const char IDENTITY[] = "rfaas-004"; /* of the key: says nothing, there is one a connection */
static const unsigned char SUITE[] = {0x13, 0x02}; /* TLS_AES_256_GCM_SHA384 */

enum {
    READ_AHEAD_BYTES = 65536,
    /* RFC 8446 section 5.5: a key may protect 2^24.5 full records; half of that. */
    RECORDS_A_KEY = 1 << 23,
};

struct rfaas_secure {
    SSL *ssl;
    int fd;
    int read_error, write_error; /* errno of a socket that failed for good */
    bool stream_ended;           /* the other side's kernel said so */
    bool is_proven, reads_ahead;
    bool write_is_open;          /* a record waits to be written again */
    bool wants_write;
    uint64_t records, records_a_key;
    const char *why;
    uint8_t key[RFAAS_SECURE_KEY_BYTES];
    char text[160];
    uint8_t record[RFAAS_SECURE_RECORD_BYTES]; /* small pieces go out together */
};

static uint64_t records_a_key = RECORDS_A_KEY;

/* What all streams of this process share; made once, never freed. */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static SSL_CTX *contexts[2]; /* by is_dialer; NULL: OpenSSL failed */
static BIO_METHOD *socket_method;
static int our_index = -1; /* where an SSL keeps its stream */

/* ---- the socket ---- */

static int socket_write(BIO *bio, const char *bytes, int size_bytes)
{
    rfaas_secure *secure = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    ssize_t n;
    do
        n = send(secure->fd, bytes, (size_t)size_bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n >= 0)
        return (int)n;
    if (errno != EAGAIN && errno != EWOULDBLOCK && errno != ENOBUFS)
        secure->write_error = errno;
    BIO_set_retry_write(bio); /* of a failed one too: OpenSSL must not give up reading for it */
    return -1;
}

static int socket_read(BIO *bio, char *bytes, int size_bytes)
{
    rfaas_secure *secure = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    ssize_t n;
    do
        n = recv(secure->fd, bytes, (size_t)size_bytes, MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n > 0)
        return (int)n;
    if (n == 0)
        secure->stream_ended = true;
    else if (errno != EAGAIN && errno != EWOULDBLOCK)
        secure->read_error = errno;
    BIO_set_retry_read(bio);
    return -1;
}

static long socket_control(BIO *bio, int command, long number, void *pointer)
{
    (void)bio;
    (void)number;
    (void)pointer;
    return command == BIO_CTRL_FLUSH; /* nothing is held here */
}

/* ---- the key ---- */

/* OpenSSL knows an external key as a session that was never held. NULL: no memory. */
static SSL_SESSION *session_of_key(SSL *ssl)
{
    const rfaas_secure *secure = SSL_get_ex_data(ssl, our_index);
    const SSL_CIPHER *cipher = SSL_CIPHER_find(ssl, SUITE);
    SSL_SESSION *session = SSL_SESSION_new();
    if (session != NULL && cipher != NULL &&
        SSL_SESSION_set1_master_key(session, secure->key, sizeof secure->key) == 1 &&
        SSL_SESSION_set_cipher(session, cipher) == 1 &&
        SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION) == 1)
        return session;
    SSL_SESSION_free(session);
    return NULL;
}

static int offer_key(SSL *ssl, const EVP_MD *digest, const unsigned char **identity, size_t *identity_bytes,
                     SSL_SESSION **session)
{
    (void)digest; /* there is one suite */
    *identity = (const unsigned char *)IDENTITY;
    *identity_bytes = sizeof IDENTITY - 1;
    *session = session_of_key(ssl);
    return *session != NULL;
}

static int find_key(SSL *ssl, const unsigned char *identity, size_t identity_bytes, SSL_SESSION **session)
{
    bool known = identity_bytes == sizeof IDENTITY - 1 && memcmp(identity, IDENTITY, identity_bytes) == 0;
    *session = known ? session_of_key(ssl) : NULL;
    return !known || *session != NULL;
}

/* ---- what is shared ---- */

static SSL_CTX *make_context(bool is_dialer)
{
    SSL_CTX *context = SSL_CTX_new(is_dialer ? TLS_client_method() : TLS_server_method());
    if (context == NULL)
        return NULL;
    SSL_CTX_set_options(context, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION);
    SSL_CTX_clear_options(context, SSL_OP_ENABLE_MIDDLEBOX_COMPAT | SSL_OP_IGNORE_UNEXPECTED_EOF |
                                       SSL_OP_ALLOW_NO_DHE_KEX);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_default_read_buffer_len(context, READ_AHEAD_BYTES);
    if (is_dialer) {
        SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL); /* no root is known: a certificate instead of the key fails */
        SSL_CTX_set_psk_use_session_callback(context, offer_key);
    } else {
        SSL_CTX_set_psk_find_session_callback(context, find_key);
    }
    if (SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) == 1 &&
        SSL_CTX_set_max_proto_version(context, TLS1_3_VERSION) == 1 && SSL_CTX_set_num_tickets(context, 0) == 1 &&
        SSL_CTX_set_ciphersuites(context, "TLS_AES_256_GCM_SHA384") == 1 &&
        SSL_CTX_set1_groups_list(context, "X25519:P-256") == 1)
        return context;
    SSL_CTX_free(context);
    return NULL;
}

static void make_shared(void)
{
    our_index = SSL_get_ex_new_index(0, NULL, NULL, NULL, NULL);
    socket_method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "rfaas socket");
    if (our_index < 0 || socket_method == NULL)
        return;
    BIO_meth_set_write(socket_method, socket_write);
    BIO_meth_set_read(socket_method, socket_read);
    BIO_meth_set_ctrl(socket_method, socket_control);
    contexts[0] = make_context(false);
    contexts[1] = make_context(true);
}

/* ---- a stream ---- */

static rfaas_secure *tls_begin(int fd, bool is_dialer, const uint8_t *key)
{
    pthread_once(&once, make_shared);
    if (contexts[is_dialer] == NULL)
        return NULL;
    rfaas_secure *secure = calloc(1, sizeof *secure);
    SSL *ssl = SSL_new(contexts[is_dialer]);
    BIO *bio = BIO_new(socket_method);
    if (secure == NULL || ssl == NULL || bio == NULL || SSL_set_ex_data(ssl, our_index, secure) != 1) {
        free(secure);
        SSL_free(ssl);
        BIO_free(bio);
        ERR_clear_error();
        return NULL;
    }
    secure->ssl = ssl;
    secure->fd = fd;
    secure->records_a_key = records_a_key;
    memcpy(secure->key, key, sizeof secure->key);
    BIO_set_data(bio, secure);
    BIO_set_init(bio, 1);
    SSL_set_bio(ssl, bio, bio);
    if (is_dialer)
        SSL_set_connect_state(ssl);
    else
        SSL_set_accept_state(ssl);
    return secure;
}

static void tls_free(rfaas_secure *secure)
{
    SSL_free(secure->ssl);
    OPENSSL_cleanse(secure->key, sizeof secure->key);
    OPENSSL_cleanse(secure->record, sizeof secure->record);
    free(secure);
}

static rfaas_rc failed(rfaas_secure *secure, const char *what, int error)
{
    char text[80] = "";
    const char *said = error == 0 ? "" : strerror_r(error, text, sizeof text);
    if (secure->why == NULL)
        snprintf(secure->text, sizeof secure->text, error == 0 ? "%s%s" : "%s: %s", what, said);
    secure->why = secure->text;
    return RFAAS_BROKEN;
}

/* What OpenSSL refused, in its words; before the handshake's end mostly the key. */
static rfaas_rc refused(rfaas_secure *secure)
{
    const char *reason = ERR_reason_error_string(ERR_peek_error());
    char text[120];
    snprintf(text, sizeof text, "%s (%s)",
             secure->is_proven ? "TLS: what came was changed on its way" : "TLS: the peer did not prove the channel's key",
             reason == NULL ? "no reason given" : reason);
    ERR_clear_error();
    return failed(secure, text, 0);
}

/* What an operation that moved nothing means. */
static rfaas_rc outcome(rfaas_secure *secure, int rc, bool is_writing)
{
    int error = SSL_get_error(secure->ssl, rc);
    secure->wants_write = error == SSL_ERROR_WANT_WRITE;
    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) {
        if (secure->write_error != 0 && (is_writing || error == SSL_ERROR_WANT_WRITE))
            return failed(secure, "sending failed", secure->write_error);
        if (secure->read_error != 0)
            return failed(secure, "receiving failed", secure->read_error);
        if (secure->stream_ended)
            return failed(secure, "TLS: the stream was cut off: its end was not said", 0);
        return RFAAS_AGAIN;
    }
    return error == SSL_ERROR_ZERO_RETURN ? RFAAS_CLOSED : refused(secure);
}

static rfaas_rc tls_shake_hands(rfaas_secure *secure)
{
    if (secure->is_proven)
        return RFAAS_OK;
    ERR_clear_error();
    int rc = SSL_do_handshake(secure->ssl);
    if (rc != 1) {
        rfaas_rc meant = outcome(secure, rc, false);
        return meant == RFAAS_CLOSED ? failed(secure, "TLS: the peer left in the handshake", 0) : meant;
    }
    if (SSL_session_reused(secure->ssl) != 1) /* OpenSSL's word for: a pre-shared key was used */
        return failed(secure, "TLS: the peer did not prove the channel's key", 0);
    secure->is_proven = true;
    secure->wants_write = false;
    OPENSSL_cleanse(secure->key, sizeof secure->key);
    return RFAAS_OK;
}

/* The next bytes that make a record: one large piece where it lies, small ones together. */
static const uint8_t *next_record(rfaas_secure *secure, const struct iovec *pieces, size_t n, size_t *size_bytes)
{
    if (n == 1 || pieces[0].iov_len >= RFAAS_SECURE_RECORD_BYTES) {
        *size_bytes = pieces[0].iov_len < RFAAS_SECURE_RECORD_BYTES ? pieces[0].iov_len : RFAAS_SECURE_RECORD_BYTES;
        return pieces[0].iov_base;
    }
    size_t at = 0;
    for (size_t i = 0; i < n && at < RFAAS_SECURE_RECORD_BYTES; i++) {
        size_t room_bytes = RFAAS_SECURE_RECORD_BYTES - at;
        size_t step_bytes = pieces[i].iov_len < room_bytes ? pieces[i].iov_len : room_bytes;
        memcpy(secure->record + at, pieces[i].iov_base, step_bytes);
        at += step_bytes;
    }
    *size_bytes = at;
    return secure->record;
}

static rfaas_rc tls_write(rfaas_secure *secure, const struct iovec *pieces, size_t n, size_t *put_bytes)
{
    size_t size_bytes;
    const uint8_t *bytes = next_record(secure, pieces, n, &size_bytes);
    *put_bytes = 0;
    ERR_clear_error();
    if (!secure->write_is_open && ++secure->records % secure->records_a_key == 0 &&
        SSL_key_update(secure->ssl, SSL_KEY_UPDATE_NOT_REQUESTED) != 1)
        return refused(secure);
    int rc = SSL_write_ex(secure->ssl, bytes, size_bytes, put_bytes);
    if (rc == 1) {
        secure->write_is_open = false;
        return RFAAS_OK;
    }
    *put_bytes = 0;
    rfaas_rc meant = outcome(secure, rc, true);
    secure->write_is_open = meant == RFAAS_AGAIN;
    return meant == RFAAS_CLOSED ? failed(secure, "TLS: the peer has left", 0) : meant;
}

static rfaas_rc tls_read(rfaas_secure *secure, const struct iovec *pieces, size_t n, size_t *got_bytes)
{
    *got_bytes = 0;
    ERR_clear_error();
    for (size_t i = 0; i < n; i++) {
        for (size_t at = 0; at < pieces[i].iov_len;) {
            size_t step_bytes = 0;
            int rc = SSL_read_ex(secure->ssl, (uint8_t *)pieces[i].iov_base + at, pieces[i].iov_len - at, &step_bytes);
            if (rc != 1) {
                rfaas_rc meant = outcome(secure, rc, false);
                return *got_bytes > 0 && meant != RFAAS_BROKEN ? RFAAS_OK : meant;
            }
            at += step_bytes;
            *got_bytes += step_bytes;
        }
    }
    return RFAAS_OK;
}

static size_t tls_left_in_record_bytes(const rfaas_secure *secure)
{
    return (size_t)SSL_pending(secure->ssl);
}

static bool tls_holds_bytes(const rfaas_secure *secure)
{
    return secure->is_proven && SSL_has_pending(secure->ssl) == 1;
}

static void tls_read_ahead(rfaas_secure *secure, bool on)
{
    SSL_set_read_ahead(secure->ssl, on);
}

static bool tls_wants_write(const rfaas_secure *secure)
{
    return secure->wants_write;
}

static const char *tls_why(const rfaas_secure *secure)
{
    return secure->why == NULL ? "TLS failed" : secure->why;
}

static void tls_end(rfaas_secure *secure)
{
    if (secure->is_proven && !secure->write_is_open && secure->why == NULL)
        SSL_shutdown(secure->ssl);
    ERR_clear_error();
}

const rfaas_secure_ops rfaas_tls = {
    .name = "tls",
    .begin = tls_begin,
    .shake_hands = tls_shake_hands,
    .write = tls_write,
    .read = tls_read,
    .left_in_record_bytes = tls_left_in_record_bytes,
    .holds_bytes = tls_holds_bytes,
    .read_ahead = tls_read_ahead,
    .wants_write = tls_wants_write,
    .why = tls_why,
    .end = tls_end,
    .free = tls_free,
};

const char *rfaas_tls_library(void)
{
    return OpenSSL_version(OPENSSL_VERSION);
}

void rfaas_tls_change_keys_after(uint64_t records)
{
    records_a_key = records == 0 ? RECORDS_A_KEY : records;
}
