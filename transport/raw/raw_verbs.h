/* raw_verbs.h - what RDMA costs at its barest: bytes there and back by RDMA_WRITE_WITH_IMM between two processes' own memory.
 *
 * The limit beside which calls over verbs are measured, as raw_link.h for other media; the rules are those there. Nothing is
 * copied: the payload is written from where it lies to where the other side wants it. A side that polls gives its CPU up as
 * a channel of rfaas does (rfaas_channel_spin), so that the two differ by what they do and not by how they wait.
 */
#ifndef RFAAS_RAW_VERBS_H
#define RFAAS_RAW_VERBS_H

#include "raw_link.h"

typedef struct raw_verbs raw_verbs;

enum { RAW_VERBS_WHY_BYTES = 160 };

/* Connects to a peer that does the same at the other end of the blocking stream socket `fd`, which stays the caller's.
 * `out` is sent from and `in` is written to by the peer, `size_bytes` each, both registered until the end; they may be one.
 * NULL: `why` says why. */
raw_verbs *raw_verbs_begin(int fd, uint8_t *out, uint8_t *in, size_t size_bytes, char why[RAW_VERBS_WHY_BYTES]);

/* As raw_stream_ping and raw_stream_serve, over the connection; all of `size_bytes`. */
int64_t raw_verbs_ping(raw_verbs *link, const raw_series *series, int64_t *took_ns, size_t rounds, bool last);
int64_t raw_verbs_serve(raw_verbs *link, const raw_series *series);

void raw_verbs_end(raw_verbs *link);

#endif
