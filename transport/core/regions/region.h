/* region.h - reads and writes of a piece of memory that lies at the other end of a channel: the server's and the borrower's side.
 *
 * Payloads are received straight into their destination where the medium can do that (sockets), on both sides; over
 * shared memory they are copied from the channel's arena. Over RDMA the borrower reads and writes by itself, and the server
 * has nothing to do (region_span.h). Knows no lease but its two numbers; starts no thread. Spec: docs/spec/008-memory.md section 2.
 */
#ifndef RFAAS_REGION_H
#define RFAAS_REGION_H

#include "rfaas_channel.h"

enum {
    RFAAS_REGION_CREDITS = 64,        /* requests that a borrower may have under way; what a server gives */
    RFAAS_REGION_WINDOW = 64,         /* that one has, */
    RFAAS_REGION_WINDOW_BYTES = 16 << 20, /* and so many bytes of them */
    RFAAS_REGION_PIECE_BYTES = 1 << 20, /* of a larger read or write, in one frame */
    RFAAS_REGION_SPAN_ANSWER_BYTES = 24,
};

/* What has landed elsewhere than in the receiver's own memory is not given back there. */
void rfaas_region_let_go(rfaas_channel *channel, bool (*has_landed)(void *context, const void *buffer), void *context);

/* ---- the server ---- */

typedef struct rfaas_region {
    uint8_t *bytes; /* mapped for reading and writing, page-aligned */
    uint64_t size_bytes;
} rfaas_region;

typedef struct rfaas_region_span rfaas_region_span;

typedef struct rfaas_region_server {
    const rfaas_region *region;
    rfaas_channel *channel;
    uint64_t lease_seq, epoch;
    /* What was served so far. */
    uint64_t n_requests, bytes_in, bytes_out;
    rfaas_region_span *spans; /* that were asked for; NULL: none was */
} rfaas_region_server;

/* From here on WRITEs of `server->channel` land in the region, until the end. */
void rfaas_region_server_begin(rfaas_region_server *server);

/* The channel knows nothing of `server` and the region any more; nothing more is received on it. */
void rfaas_region_server_end(rfaas_region_server *server);

/* Serves what has come, and what comes within `spin_ns` of the last: AGAIN (nothing more now), MORE (a turn's worth was served),
 * CLOSED, BROKEN (the channel's end). */
rfaas_rc rfaas_region_serve(rfaas_region_server *server, int64_t spin_ns);

/* ---- the borrower ---- */

/* One read or write. `bytes` is borrowed until the transfer ends. */
typedef struct rfaas_region_op {
    uint64_t offset;
    uint8_t *bytes; /* of a write: read only */
    uint64_t size_bytes;
    bool is_write;
} rfaas_region_op;

typedef struct rfaas_region_pending {
    uint64_t call_id; /* 0: free */
    uint64_t offset;
    uint8_t *bytes;
    uint64_t size_bytes;
    bool is_write;
    bool is_span; /* a SPAN: `bytes` are the client's own */
} rfaas_region_pending;

typedef struct rfaas_region_reach rfaas_region_reach;

typedef struct rfaas_region_client {
    rfaas_channel *channel;
    uint64_t lease_seq, epoch;
    uint64_t next_id;
    rfaas_region_pending pending[RFAAS_REGION_WINDOW]; /* of call_id n: at n mod RFAAS_REGION_WINDOW */
    uint32_t n_pending;
    uint64_t pending_bytes;
    uint16_t status; /* of the first request that was answered by another than OK; 0: none was */

    /* One-sided access (region_span.h). */
    rfaas_region_reach *reach; /* NULL: not yet, or never */
    uint32_t n_pieces;         /* under way */
    uint32_t n_spans;          /* that are open */
    bool takes_no_span;
    uint8_t span_answer[RFAAS_REGION_SPAN_ANSWER_BYTES];
} rfaas_region_client;

/* Where a transfer is. Begins as zeros. */
typedef struct rfaas_region_progress {
    size_t op;           /* the first that is not sent whole */
    uint64_t sent_bytes; /* of it */
    uint64_t done_bytes; /* of all */
} rfaas_region_progress;

/* From here on what READs bring lands where it belongs, until the end. */
void rfaas_region_client_begin(rfaas_region_client *client);

/* The channel, closed before, knows nothing of `client` and of borrowed bytes any more. */
void rfaas_region_client_end(rfaas_region_client *client);

/* Goes on with a transfer for about `for_ns`. OK: all of it is done, or, where `client->status` is set, all that was sent is
 * answered and nothing more was sent. AGAIN: call again; `stop` true sends nothing more. CLOSED, BROKEN: the channel's end: what was
 * answered is done, what was not may be. After anything but OK the ops stay borrowed until OK or the end of the channel. */
rfaas_rc rfaas_region_transfer(rfaas_region_client *client, const rfaas_region_op *ops, size_t n_ops,
                               rfaas_region_progress *progress, int64_t for_ns, bool stop);

#endif
