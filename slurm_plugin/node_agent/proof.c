#include "proof.h"

#include <errno.h>
#include <munge.h>
#include <openssl/evp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "seal.h"

static void refuse(struct proof *proof, const char *code, const char *hint)
{
    snprintf(proof->code, sizeof proof->code, "%s", code);
    snprintf(proof->hint, sizeof proof->hint, "%s", hint);
}

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static bool read_all(int connection, void *bytes, size_t size, int64_t until_ms)
{
    for (size_t at = 0; at < size;) {
        int64_t left_ms = until_ms - now_ms();
        struct pollfd waited = {.fd = connection, .events = POLLIN};
        if (left_ms <= 0 || poll(&waited, 1, (int)left_ms) <= 0)
            return false;
        ssize_t got = recv(connection, (char *)bytes + at, size - at, MSG_DONTWAIT);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
            return false;
        at += got > 0 ? (size_t)got : 0;
    }
    return true;
}

/* The credential, as text; NULL if none came within its time. */
static const char *read_credential(int connection, char text[PACKET_BYTES])
{
    uint8_t length[4];
    int64_t until_ms = now_ms() + REQUEST_TIMEOUT_S * 1000;
    if (!read_all(connection, length, sizeof length, until_ms))
        return NULL;
    size_t size = length[0] | (size_t)length[1] << 8 | (size_t)length[2] << 16 | (size_t)length[3] << 24;
    if (size == 0 || size > PACKET_BYTES - sizeof length || !read_all(connection, text, size, until_ms))
        return NULL;
    text[size] = '\0';
    return strlen(text) == size ? text : NULL;
}

bool proof_signature(const uint8_t key[PUBLIC_KEY_BYTES], const char *label, const uint8_t *bytes, size_t size,
                     const uint8_t signature[SIGNATURE_BYTES])
{
    uint8_t message[sizeof GRANT_LABEL - 1 + GRANT_SIGNED_BYTES];
    size_t label_bytes = strlen(label), length = label_bytes + size;
    if (length > sizeof message)
        return false;
    memcpy(message, label, label_bytes);
    memcpy(message + label_bytes, bytes, size);
    EVP_PKEY *public = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, key, PUBLIC_KEY_BYTES);
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    bool right = public && context && EVP_DigestVerifyInit(context, NULL, NULL, NULL, public) == 1 &&
                 EVP_DigestVerify(context, signature, SIGNATURE_BYTES, message, length) == 1;
    EVP_MD_CTX_free(context);
    EVP_PKEY_free(public);
    return right;
}

/* Whether one of the keys that may sign has signed it. */
static bool is_signed(const struct config *config, const char *label, const uint8_t *bytes, size_t size,
                      const uint8_t signature[SIGNATURE_BYTES])
{
    for (unsigned i = 0; i < config->n_allocator_keys; i++)
        if (proof_signature(config->allocator_keys[i], label, bytes, size, signature))
            return true;
    return false;
}

bool proof_check(const struct config *config, struct proof *proof)
{
    proof->code[sizeof proof->code - 1] = proof->hint[sizeof proof->hint - 1] = '\0';
    if (proof->code[0])
        return false;
    const struct start_request *request = &proof->request;
    const struct node_query *query = &proof->query;
    bool asks = proof_is_query(proof);
    if (asks ? !wire_read_query(proof->payload, proof->size, &proof->query)
             : !wire_read_request(proof->payload, proof->size, &proof->request))
        refuse(proof, "bad-message", "no start request of this version");
    else if (asks ? !is_signed(config, QUERY_LABEL, query->signed_bytes, QUERY_SIGNED_BYTES, query->signature)
                  : !is_signed(config, GRANT_LABEL, request->signed_bytes, GRANT_SIGNED_BYTES, request->signature))
        refuse(proof, "bad-grant", "the site's allocator did not sign it");
    return !proof->code[0];
}

static void decode(const struct config *config, const char *socket_below, const char *credential, struct proof *proof)
{
    void *payload = NULL;
    int size = 0;
    uid_t uid = (uid_t)-1;
    gid_t gid = (gid_t)-1;
    munge_ctx_t context = munge_ctx_create();
    if (context)
        munge_ctx_set(context, MUNGE_OPT_SOCKET, socket_below);
    munge_err_t error = context ? munge_decode(credential, context, &payload, &size, &uid, &gid) : EMUNGE_NO_MEMORY;
    if (error != EMUNGE_SUCCESS)
        refuse(proof, error == EMUNGE_SOCKET ? "munge-unavailable" : "not-proven", munge_strerror(error));
    else if (size != REQUEST_BYTES && size != QUERY_BYTES)
        refuse(proof, "bad-message", "no start request of this version");
    else
        memcpy(proof->payload, payload, proof->size = (uint32_t)size);
    proof->uid = uid;
    proof->gid = gid;
    proof_check(config, proof);
    if (payload && size > 0)
        explicit_bzero(payload, (size_t)size);
    free(payload);
    if (context)
        munge_ctx_destroy(context);
}

void proof_prepare(struct config *config)
{
    const char *own = NULL;
    munge_ctx_t context = munge_ctx_create();
    if (!config->munge_socket[0] && context && munge_ctx_get(context, MUNGE_OPT_SOCKET, &own) == EMUNGE_SUCCESS && own)
        snprintf(config->munge_socket, sizeof config->munge_socket, "%s", own);
    if (context)
        munge_ctx_destroy(context);
    static const uint8_t nothing[GRANT_SIGNED_BYTES];
    proof_signature(config->allocator_keys[0], GRANT_LABEL, nothing, sizeof nothing, nothing); /* what libcrypto opens and reads once, it opens and reads here */
}

/* Seal this process into the directory of munged's socket. The socket's name there; NULL: `proof` says why not. */
static const char *seal(const struct config *config, struct proof *proof)
{
    static char folder[TEXT_BYTES];
    snprintf(folder, sizeof folder, "%s", config->munge_socket);
    char *slash = strrchr(folder, '/');
    const char *kept = "root directory";
    if (slash) {
        *slash = '\0';
        kept = seal_hearer(folder[0] ? folder : "/");
    }
    if (!kept)
        return config->munge_socket + (slash - folder);
    char hint[HINT_BYTES];
    if (errno == ENOENT || errno == ENOTDIR) {
        snprintf(hint, sizeof hint, "munged of this node does not run: there is no %.100s", folder);
        refuse(proof, "munge-unavailable", hint);
    } else {
        snprintf(hint, sizeof hint, "the node agent can't give up its %s: %s", kept, strerror(errno));
        refuse(proof, "not-proven", hint);
    }
    return NULL;
}

void proof_take(const struct config *config, int connection, struct proof *proof)
{
    char text[PACKET_BYTES];
    memset(proof, 0, sizeof *proof);
    const char *socket_below = seal(config, proof);
    if (!socket_below)
        return;
    const char *credential = read_credential(connection, text);
    if (credential)
        decode(config, socket_below, credential, proof);
    else
        refuse(proof, "bad-message", "one credential of at most 4 KiB is due within 2 s");
}
