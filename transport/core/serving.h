/* serving.h - plain requests that come one upon the other on one channel, each answered by a function in C.
 *
 * For a thread that polls a channel and has nothing else to do: between an answer and the next request there is no code
 * but this. What a request asks for is the server's affair; what is no plain request, and what the server does not end
 * by a plain answer, is left to whoever asked for this. Starts no thread.
 */
#ifndef RFAAS_SERVING_H
#define RFAAS_SERVING_H

#include <pthread.h>

#include "rfaas_channel.h"

/* What serves one request. `in` (a buffer aligned to RFAAS_SEGMENT_ALIGNMENT, or NULL and 0) is its until it returns. True:
 * `answer` is what is sent, with status 0, and stays as it is until the next request. False: nothing is sent. Called
 * without a lock, and may take as long as it likes. */
typedef struct rfaas_server {
    bool (*serve)(void *context, const rfaas_header *request, const struct iovec *in, struct iovec *answer);
    void *context;
} rfaas_server;

/* Which requests are plain: first dispatches without a deadline, of one small segment or none, and otherwise like this. */
typedef struct rfaas_plain_request {
    uint8_t kind, answer_kind;
    uint16_t function;
    uint64_t lease_seq, epoch;
    uint64_t in_bytes_max;
} rfaas_plain_request;

/* Why serving ended. */
typedef enum rfaas_serving_end {
    RFAAS_SERVING_IDLE,  /* nothing came within the time, or the time is over */
    RFAAS_SERVING_FRAME, /* `frame` came and is not plain: its buffer is the caller's, nothing was done about it */
    RFAAS_SERVING_LEFT,  /* the request of `request` was served, and its answer is the caller's affair */
    RFAAS_SERVING_FULL,  /* an answer is queued: its bytes are borrowed until `cookie` is completed */
    RFAAS_SERVING_ENDED, /* the channel, as `rc` says, when it was polled or an answer was sent */
} rfaas_serving_end;

typedef struct rfaas_serving {
    rfaas_frame frame;
    rfaas_header request; /* the last plain one */
    uint64_t n_served;    /* requests that were given to the server */
    rfaas_rc rc;
    rfaas_serving_end end;
} rfaas_serving;

/* Serves what comes until nothing came for `spin_ns` or `for_ns` are over. `lock` is held but while the server works and while
 * nothing comes; the caller alone polls. */
rfaas_serving_end rfaas_serve(rfaas_channel *channel, pthread_mutex_t *lock, const rfaas_plain_request *plain,
                              const rfaas_server *server, int64_t spin_ns, int64_t for_ns, void *cookie,
                              rfaas_serving *serving);

#endif
