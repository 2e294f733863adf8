/* tcp_send.c - frames into a socket: from the caller's buffers, encrypted, or by reference; and the handshake before that. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "tcp_channel.h"

enum {
    PIECES_MAX = 256, /* pieces a system call; the kernel takes 1024, but then copies the array to its heap */
    GATHER_PIECES = 4, /* so few, and so small together, cost the kernel less in one */
    GATHER_BYTES = 512,
};

rfaas_rc rfaas_tcp_broken_below(tcp_channel *channel)
{
    return rfaas_channel_broken(&channel->base, channel->secure_ops->why(channel->secure), 0);
}

rfaas_rc rfaas_tcp_shake_hands(tcp_channel *channel)
{
    if (channel->is_proven)
        return RFAAS_OK;
    rfaas_rc rc = channel->secure_ops->shake_hands(channel->secure);
    channel->is_proven = rc == RFAAS_OK;
    channel->base.tx_waits_for_rx = rc == RFAAS_AGAIN;
    channel->base.rx_waits_for_tx = rc == RFAAS_AGAIN && channel->secure_ops->wants_write(channel->secure);
    return rc == RFAAS_BROKEN ? rfaas_tcp_broken_below(channel) : rc;
}

static bool is_full(int error)
{
    return error == EAGAIN || error == EWOULDBLOCK || error == ENOBUFS;
}

/* All pieces in one, `room` if there are several; its size is 0 if they are too many or too large. */
static struct iovec gather(const struct iovec *pieces, size_t n_pieces, uint8_t room[GATHER_BYTES])
{
    struct iovec whole = {room, 0};
    if (n_pieces == 1)
        return pieces[0];
    for (size_t i = 0; i < n_pieces; i++) {
        if (n_pieces > GATHER_PIECES || pieces[i].iov_len > GATHER_BYTES - whole.iov_len)
            return (struct iovec){room, 0};
        memcpy(room + whole.iov_len, pieces[i].iov_base, pieces[i].iov_len);
        whole.iov_len += pieces[i].iov_len;
    }
    return whole;
}

static ssize_t send_pieces(int fd, const struct iovec *pieces, size_t n_pieces, int flags)
{
    const struct msghdr message = {.msg_iov = (struct iovec *)pieces, .msg_iovlen = n_pieces};
    uint8_t room[GATHER_BYTES];
    const struct iovec whole = gather(pieces, n_pieces, room);
    ssize_t n;
    flags |= MSG_NOSIGNAL | MSG_DONTWAIT;
    do
        n = whole.iov_len > 0 ? send(fd, whole.iov_base, whole.iov_len, flags) : sendmsg(fd, &message, flags);
    while (n < 0 && errno == EINTR);
    return n;
}

/* Payload only: the head's buffer is used again at once, so it is copied by the kernel. */
static ssize_t lend_pieces(tcp_channel *channel, const struct iovec *pieces, size_t n_pieces, bool has_head)
{
    if (has_head)
        return send_pieces(channel->fd, pieces, 1, n_pieces > 1 ? MSG_MORE : 0);
    ssize_t n = send_pieces(channel->fd, pieces, n_pieces, MSG_ZEROCOPY);
    if (n > 0)
        channel->queue.loans++;
    else if (n < 0 && errno == ENOBUFS) /* the kernel keeps no more notes of loans: this once by copy */
        return send_pieces(channel->fd, pieces, n_pieces, 0);
    return n;
}

/* OK: some bytes went. AGAIN, BROKEN. `lends`: the frame's payload may be sent by reference. */
static rfaas_rc write_once(tcp_channel *channel, const struct iovec *pieces, size_t n_pieces, bool lends, bool has_head,
                           size_t *put_bytes)
{
    if (channel->secure != NULL) {
        rfaas_rc rc = channel->secure_ops->write(channel->secure, pieces, n_pieces, put_bytes);
        return rc == RFAAS_BROKEN ? rfaas_tcp_broken_below(channel) : rc;
    }
    ssize_t n = lends ? lend_pieces(channel, pieces, n_pieces, has_head) : send_pieces(channel->fd, pieces, n_pieces, 0);
    *put_bytes = n > 0 ? (size_t)n : 0;
    if (n >= 0)
        return RFAAS_OK;
    return is_full(errno) ? RFAAS_AGAIN : rfaas_channel_broken(&channel->base, "sending failed", errno);
}

/* A frame that is sent by reference always goes through the queue, where it can wait for the kernel to give it back. */
static bool is_lent(const tcp_channel *channel, const rfaas_cursor *cursor)
{
    uint64_t payload_bytes = 0;
    for (size_t i = 0; channel->zerocopy.on && i < cursor->n_segments; i++)
        payload_bytes += cursor->segments[i].iov_len;
    return payload_bytes >= RFAAS_ZEROCOPY_MIN_BYTES;
}

/* OK: all written. AGAIN: the socket is full. MORE: the budget is spent. */
static rfaas_rc write_some(rfaas_channel *base, rfaas_cursor *cursor, uint64_t budget_bytes, uint64_t *written_bytes)
{
    tcp_channel *channel = (tcp_channel *)base;
    struct iovec pieces[PIECES_MAX];
    bool lends = is_lent(channel, cursor);
    rfaas_rc rc = channel->secure == NULL ? RFAAS_OK : rfaas_tcp_shake_hands(channel);
    while (rc == RFAAS_OK && !rfaas_cursor_is_done(cursor)) {
        if (*written_bytes >= budget_bytes)
            return RFAAS_MORE;
        size_t put_bytes = 0;
        size_t n_pieces = rfaas_cursor_pieces(cursor, pieces, PIECES_MAX);
        rc = write_once(channel, pieces, n_pieces, lends, cursor->at == 0, &put_bytes);
        rfaas_cursor_advance(cursor, put_bytes);
        *written_bytes += put_bytes;
    }
    return rc;
}

rfaas_rc rfaas_tcp_flush(rfaas_channel *base, uint64_t budget_bytes)
{
    tcp_channel *channel = (tcp_channel *)base;
    if (channel->queue.first_lent != NULL) {
        rfaas_zerocopy_collect(&channel->zerocopy, channel->fd, channel->queue.loans);
        rfaas_frame_queue_returned(base, &channel->queue, channel->zerocopy.returned);
    }
    return rfaas_frame_queue_flush(base, &channel->queue, budget_bytes, write_some);
}

rfaas_rc rfaas_tcp_send(rfaas_channel *base, const rfaas_outgoing *out)
{
    tcp_channel *channel = (tcp_channel *)base;
    if (!channel->zerocopy.on || out->in_size < RFAAS_ZEROCOPY_MIN_BYTES)
        return rfaas_frame_queue_send(base, &channel->queue, out, RFAAS_TCP_SEND_ONCE_BYTES, write_some);
    rfaas_rc rc = rfaas_frame_queue_add(base, &channel->queue, out);
    if (rc == RFAAS_QUEUED && rfaas_tcp_flush(base, RFAAS_TCP_SEND_ONCE_BYTES) == RFAAS_BROKEN)
        base->tx_end = RFAAS_BROKEN; /* found out by the next operation: this frame is completed, with all that waited */
    return rc;
}

/* What the kernel has not sent yet must not go with whatever is written to the buffers next, so the connection is reset. */
void rfaas_tcp_take_back_loans(tcp_channel *channel)
{
    const struct linger at_once = {.l_onoff = 1, .l_linger = 0};
    rfaas_zerocopy_collect(&channel->zerocopy, channel->fd, channel->queue.loans);
    if (channel->zerocopy.returned < channel->queue.loans && channel->base.medium->unacknowledged_bytes(&channel->base) > 0)
        setsockopt(channel->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
}
