/* tls_echo.c - the same over TLS 1.3: OpenSSL as one uses it, and medium "tls". Same key, suite and kernel sockets.
 *
 * Usage: tls_echo raw|channel SIZE ITERATIONS [CPU CPU]. Prints one JSON object, nanoseconds a round trip.
 */
#include <openssl/err.h>
#include <openssl/ssl.h>

#include "channel_side.h"
#include "tls_stream.h"

static const unsigned char IDENTITY[] = "echo", KEY[RFAAS_SECURE_KEY_BYTES] = "a key that is known to everyone";
static const unsigned char SUITE[] = {0x13, 0x02}; /* TLS_AES_256_GCM_SHA384, as in tls_stream.c */

static void fail_tls(const char *what)
{
    fprintf(stderr, "%s\n", what);
    ERR_print_errors_fp(stderr);
    exit(1);
}

static SSL_SESSION *session(SSL *ssl)
{
    SSL_SESSION *made = SSL_SESSION_new();
    if (SSL_SESSION_set1_master_key(made, KEY, sizeof KEY) != 1 ||
        SSL_SESSION_set_cipher(made, SSL_CIPHER_find(ssl, SUITE)) != 1 ||
        SSL_SESSION_set_protocol_version(made, TLS1_3_VERSION) != 1)
        fail_tls("SSL_SESSION");
    return made;
}

static int offer(SSL *ssl, const EVP_MD *digest, const unsigned char **identity, size_t *size_bytes, SSL_SESSION **made)
{
    (void)digest;
    *identity = IDENTITY;
    *size_bytes = sizeof IDENTITY;
    *made = session(ssl);
    return 1;
}

static int find(SSL *ssl, const unsigned char *identity, size_t size_bytes, SSL_SESSION **made)
{
    *made = size_bytes == sizeof IDENTITY && memcmp(identity, IDENTITY, size_bytes) == 0 ? session(ssl) : NULL;
    return 1;
}

static bool is_again(SSL *ssl, int rc)
{
    int error = SSL_get_error(ssl, rc);
    return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE;
}

static SSL *connected(int fd, bool is_dialer)
{
    SSL_CTX *context = SSL_CTX_new(is_dialer ? TLS_client_method() : TLS_server_method());
    SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
    SSL_CTX_set_ciphersuites(context, "TLS_AES_256_GCM_SHA384");
    SSL_CTX_set_num_tickets(context, 0);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_psk_use_session_callback(context, offer);
    SSL_CTX_set_psk_find_session_callback(context, find);
    SSL *ssl = SSL_new(context);
    SSL_set_fd(ssl, fd);
    SSL_set_read_ahead(ssl, 1); /* a system call a record less; the fastest that the documented interface gives */
    for (int rc; (rc = is_dialer ? SSL_connect(ssl) : SSL_accept(ssl)) != 1;)
        if (!is_again(ssl, rc))
            fail_tls("handshake");
    return ssl;
}

static void raw_send(void *state, uint8_t *buffer, size_t size_bytes)
{
    for (size_t sent_bytes = 0, n; sent_bytes < size_bytes; sent_bytes += n) {
        int rc = SSL_write_ex(state, buffer + sent_bytes, size_bytes - sent_bytes, &n);
        if (rc != 1 && !is_again(state, rc))
            fail_tls("SSL_write_ex");
        n = rc == 1 ? n : 0;
    }
}

static void raw_receive(void *state, uint8_t *buffer, size_t size_bytes)
{
    for (size_t got_bytes = 0, n; got_bytes < size_bytes; got_bytes += n) {
        int rc = SSL_read_ex(state, buffer + got_bytes, size_bytes - got_bytes, &n);
        if (rc != 1 && !is_again(state, rc))
            fail_tls("SSL_read_ex");
        n = rc == 1 ? n : 0;
    }
}

int main(int count, char **arguments)
{
    size_t size_bytes, iterations;
    int cpus[2], ends[2];
    bool is_raw = count > 1 && strcmp(arguments[1], "raw") == 0;
    if (count < 2 || (!is_raw && strcmp(arguments[1], "channel") != 0))
        count = 1;
    read_arguments(count - 2, arguments + 2, "tls_echo raw|channel", &size_bytes, &iterations, cpus);
    tcp_pair(ends);
    pid_t child = fork();
    int side = child == 0;
    close(ends[1 - side]);
    pin(cpus[side]);
    const rfaas_tcp_options options = {
        .max_payload_bytes = 1ull << 32, .secure = &rfaas_tls, .key = KEY, .is_dialer = side == 0};
    ping_pong here = is_raw ? (ping_pong){connected(ends[side], side == 0), raw_send, raw_receive}
                            : channel_over(ends[side], &options);
    if (child == 0) {
        pong(here, size_bytes, iterations);
        _exit(0);
    }
    ping(is_raw ? "raw tls" : "channel tls", here, size_bytes, iterations);
    return waitpid(child, NULL, 0) == child ? 0 : 1;
}
