/* tls_stream.h - TLS 1.3 under a tcp channel, over OpenSSL. Spec: docs/spec/004-session.md section 5.
 *
 * Both sides prove a key of 32 bytes that they have from elsewhere (an external pre-shared key with (EC)DHE, so what was
 * recorded stays secret when the key leaks later); there are no certificates. Whoever lacks the key is refused.
 */
#ifndef RFAAS_TLS_STREAM_H
#define RFAAS_TLS_STREAM_H

#include "secure_stream.h"

extern const rfaas_secure_ops rfaas_tls;

/* The version of the OpenSSL that is loaded, for people. */
const char *rfaas_tls_library(void);

/* For tests: after how many records a side changes its sending key; 0: as AES-GCM wants it. Streams begun from then on. */
void rfaas_tls_change_keys_after(uint64_t records);

#endif
