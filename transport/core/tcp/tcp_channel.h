/* tcp_channel.h - one end of a channel over a socket, for the files that are its medium: tcp.c (receiving, waiting, the
 * ends) and tcp_send.c.
 */
#ifndef RFAAS_TCP_CHANNEL_H
#define RFAAS_TCP_CHANNEL_H

#include "frame_queue.h"
#include "secure_stream.h"
#include "zerocopy.h"

enum {
    RFAAS_TCP_AHEAD_BYTES = 2048, /* of a large frame so much is copied once more, which must not matter */
    RFAAS_TCP_SEND_ONCE_BYTES = 16 << 20, /* then a send leaves the rest to flush, or a fast reader would keep it for ever */
};

typedef struct tcp_channel {
    rfaas_channel base;
    int fd;
    bool stays_awake; /* reads ahead */
    rfaas_frame_queue queue;
    size_t ahead_at, ahead_end; /* what was read ahead lies there in `ahead` */
    const rfaas_secure_ops *secure_ops; /* NULL: plain */
    rfaas_secure *secure;
    bool is_proven; /* its handshake is over */
    rfaas_zerocopy zerocopy;
    uint8_t ahead[RFAAS_TCP_AHEAD_BYTES];
} tcp_channel;

/* OK: frames may go and come. AGAIN, BROKEN: of the handshake of one that is encrypted. */
rfaas_rc rfaas_tcp_shake_hands(tcp_channel *channel);

/* BROKEN, for the reason that what encrypts gives. */
rfaas_rc rfaas_tcp_broken_below(tcp_channel *channel);

/* Before a close that gives the buffers back to the caller. */
void rfaas_tcp_take_back_loans(tcp_channel *channel);

/* Entries of the medium's table. */
rfaas_rc rfaas_tcp_send(rfaas_channel *channel, const rfaas_outgoing *out);
rfaas_rc rfaas_tcp_flush(rfaas_channel *channel, uint64_t budget_bytes);

#endif
