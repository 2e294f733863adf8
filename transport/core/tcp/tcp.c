/* tcp.c - the medium over connected stream sockets, TCP or unix, plain or encrypted.
 *
 * Sends straight from the caller's buffers; what the socket does not take at once is remembered by reference. Payloads are
 * received straight into the frame's own buffer. While its owner sleeps between frames it asks for what the receiver wants
 * and no byte more, so that the socket's own readiness says all; while the owner polls it reads a little ahead, so that a
 * small frame costs one system call. tcp_send.c sends.
 */
#include <errno.h>
#include <linux/sockios.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tcp_channel.h"
#include "tcp_socket.h"

enum {
    LOOKS_A_CLOCK = 8, /* each a system call of some 0.25 us */
    FIRST_LOOKS = 40,  /* 10 us or so: a round trip over loopback with a call in it */
};

static bool holds_bytes(const tcp_channel *channel)
{
    return channel->ahead_at < channel->ahead_end ||
           (channel->secure != NULL && channel->secure_ops->holds_bytes(channel->secure));
}

/* ---- receiving ---- */

/* The first pieces up to `limit_bytes` together; returns how many are left, and in `*total_bytes` how much they are. */
static size_t trim(struct iovec *pieces, size_t n, uint64_t limit_bytes, size_t *total_bytes)
{
    *total_bytes = 0;
    for (size_t i = 0; i < n; i++) {
        if (pieces[i].iov_len >= limit_bytes) {
            pieces[i].iov_len = (size_t)limit_bytes;
            *total_bytes += (size_t)limit_bytes;
            return i + 1;
        }
        limit_bytes -= pieces[i].iov_len;
        *total_bytes += pieces[i].iov_len;
    }
    return n;
}

/* OK: some bytes came. AGAIN, CLOSED (the stream has ended), BROKEN. */
static rfaas_rc read_plain(tcp_channel *channel, struct iovec *pieces, size_t n_pieces, size_t wanted_bytes,
                           size_t *got_bytes)
{
    if (channel->stays_awake)
        pieces[n_pieces++] = (struct iovec){channel->ahead, RFAAS_TCP_AHEAD_BYTES};
    struct msghdr message = {.msg_iov = pieces, .msg_iovlen = n_pieces};
    ssize_t n;
    do
        n = recvmsg(channel->fd, &message, MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n == 0)
        return RFAAS_CLOSED;
    if (n < 0)
        return errno == EAGAIN || errno == EWOULDBLOCK
                   ? RFAAS_AGAIN
                   : rfaas_channel_broken(&channel->base, "receiving failed", errno);
    *got_bytes = (size_t)n < wanted_bytes ? (size_t)n : wanted_bytes;
    channel->ahead_at = 0;
    channel->ahead_end = (size_t)n - *got_bytes;
    return RFAAS_OK;
}

static rfaas_rc read_secure(tcp_channel *channel, const struct iovec *pieces, size_t n_pieces, size_t *got_bytes)
{
    rfaas_rc rc = channel->secure_ops->read(channel->secure, pieces, n_pieces, got_bytes);
    channel->base.rx_waits_for_tx = rc == RFAAS_AGAIN && channel->secure_ops->wants_write(channel->secure);
    return rc == RFAAS_BROKEN ? rfaas_tcp_broken_below(channel) : rc;
}

/* Moves some bytes, at most about `budget_bytes`, to where the receiver wants them. */
static rfaas_rc read_once(tcp_channel *channel, uint64_t budget_bytes, uint64_t *total_bytes)
{
    rfaas_receiver *receiver = &channel->base.receiver;
    if (channel->ahead_at < channel->ahead_end) {
        size_t left_bytes = channel->ahead_end - channel->ahead_at;
        if (left_bytes > RFAAS_HEADER_BYTES && rfaas_receiver_is_between_frames(receiver))
            left_bytes = RFAAS_HEADER_BYTES; /* the receiver takes a header, and then a payload, at less cost than both */
        size_t fed_bytes = rfaas_receiver_feed(receiver, channel->ahead + channel->ahead_at, left_bytes);
        channel->ahead_at += fed_bytes;
        *total_bytes += fed_bytes;
        return RFAAS_OK;
    }
    struct iovec pieces[RFAAS_RECEIVER_IOVECS + 1];
    size_t wanted_bytes, got_bytes = 0;
    size_t n_pieces = trim(pieces, rfaas_receiver_want(receiver, pieces), budget_bytes, &wanted_bytes);
    rfaas_rc rc = channel->secure != NULL ? read_secure(channel, pieces, n_pieces, &got_bytes)
                                          : read_plain(channel, pieces, n_pieces, wanted_bytes, &got_bytes);
    if (rc == RFAAS_CLOSED && !rfaas_receiver_is_between_frames(receiver))
        return rfaas_channel_broken(&channel->base, "the stream ended in the middle of a frame", 0);
    if (got_bytes > 0)
        rfaas_receiver_got(receiver, got_bytes);
    *total_bytes += got_bytes;
    return rc;
}

/* The handshake moves on in whoever receives; what was queued meanwhile goes at its end. */
static rfaas_rc receive_proof(tcp_channel *channel)
{
    rfaas_rc rc = rfaas_tcp_shake_hands(channel);
    if (rc == RFAAS_OK && channel->queue.first != NULL)
        rfaas_channel_flush(&channel->base, RFAAS_TCP_SEND_ONCE_BYTES);
    return rc;
}

static rfaas_rc tcp_receive(rfaas_channel *base, uint64_t budget_bytes)
{
    tcp_channel *channel = (tcp_channel *)base;
    rfaas_receiver *receiver = &base->receiver;
    uint64_t total_bytes = 0;
    rfaas_rc rc = channel->secure == NULL || channel->is_proven ? RFAAS_OK : receive_proof(channel);
    while (rc == RFAAS_OK && receiver->state != RFAAS_RECEIVER_WHOLE) {
        if (receiver->state == RFAAS_RECEIVER_FAILED)
            rc = rfaas_channel_broken(base, receiver->problem, 0);
        else if (total_bytes >= budget_bytes)
            rc = RFAAS_MORE;
        else
            rc = read_once(channel, budget_bytes - total_bytes, &total_bytes);
    }
    /* The socket would not tell of the second one. */
    if (rc == RFAAS_OK && channel->secure != NULL && channel->secure_ops->left_in_record_bytes(channel->secure) > 0)
        rc = rfaas_channel_broken(base, "the peer put two frames into one record", 0);
    base->holds_bytes = rc != RFAAS_AGAIN && holds_bytes(channel); /* half a record waits for the socket like nothing */
    return rc;
}

/* ---- waiting ---- */

static rfaas_rc tcp_wait(rfaas_channel *base, int64_t timeout_ns)
{
    const tcp_channel *channel = (tcp_channel *)base;
    if (base->holds_bytes)
        return RFAAS_OK;
    struct pollfd entry = {.fd = channel->fd, .events = POLLIN | (rfaas_channel_wants_write(base) ? POLLOUT : 0)};
    struct timespec timeout = {.tv_sec = timeout_ns / 1000000000, .tv_nsec = timeout_ns % 1000000000};
    int n = ppoll(&entry, 1, timeout_ns < 0 ? NULL : &timeout, NULL);
    return n == 0 ? RFAAS_AGAIN : RFAAS_OK; /* an interruption or failure is an early OK: poll() tells the rest */
}

/* While awake and between two frames the look takes what is there, which saves the call that would fetch it. */
static bool tcp_ready(const rfaas_channel *base)
{
    tcp_channel *channel = (tcp_channel *)base;
    if (base->holds_bytes)
        return true;
    ssize_t n;
    if (channel->stays_awake && channel->secure == NULL && rfaas_receiver_is_between_frames(&base->receiver)) {
        n = recv(channel->fd, channel->ahead, RFAAS_TCP_AHEAD_BYTES, MSG_DONTWAIT);
        channel->ahead_at = 0;
        channel->ahead_end = n > 0 ? (size_t)n : 0;
        channel->base.holds_bytes = n > 0;
    } else {
        char byte;
        n = recv(channel->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    }
    return n >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK);
}

static bool tcp_stay_awake(rfaas_channel *base, bool on)
{
    tcp_channel *channel = (tcp_channel *)base;
    channel->stays_awake = on;
    if (channel->secure != NULL)
        channel->secure_ops->read_ahead(channel->secure, on);
    return !on && base->holds_bytes;
}

static int tcp_fd(const rfaas_channel *base)
{
    return ((const tcp_channel *)base)->fd;
}

static uint64_t tcp_unacknowledged_bytes(const rfaas_channel *base)
{
    int size_bytes = 0;
    if (ioctl(((const tcp_channel *)base)->fd, SIOCOUTQ, &size_bytes) != 0)
        return 0;
    return (uint64_t)size_bytes;
}

/* ---- the ends ---- */

static void tcp_close(rfaas_channel *base)
{
    tcp_channel *channel = (tcp_channel *)base;
    if (channel->secure != NULL) {
        if (!rfaas_channel_is_inherited(base) && channel->queue.first == NULL)
            channel->secure_ops->end(channel->secure);
        channel->secure_ops->free(channel->secure);
        channel->secure = NULL;
    }
    if (channel->queue.first_lent != NULL && !rfaas_channel_is_inherited(base))
        rfaas_tcp_take_back_loans(channel);
    rfaas_frame_queue_drop(base, &channel->queue);
    close(channel->fd);
    channel->fd = -1;
}

static void tcp_free(rfaas_channel *base)
{
    rfaas_channel_fini(base);
    free(base);
}

static const rfaas_medium tcp_medium = {
    .name = "tcp",
    .send = rfaas_tcp_send,
    .flush = rfaas_tcp_flush,
    .receive = tcp_receive,
    .wait = tcp_wait,
    .ready = tcp_ready,
    .stay_awake = tcp_stay_awake,
    .fd = tcp_fd,
    .polls_out = true,
    .looks_a_clock = LOOKS_A_CLOCK,
    .first_looks = FIRST_LOOKS,
    .unacknowledged_bytes = tcp_unacknowledged_bytes,
    .close = tcp_close,
    .free = tcp_free,
};

static tcp_channel *make(int fd, const rfaas_tcp_options *options, const char *name)
{
    tcp_channel *made = calloc(1, sizeof *made);
    if (made == NULL)
        return NULL;
    const rfaas_secure_ops *secure_ops = options->secure;
    rfaas_secure *secure = NULL;
    if (secure_ops != NULL)
        secure = secure_ops->begin(fd, options->is_dialer, options->key);
    if ((secure_ops != NULL && secure == NULL) ||
        rfaas_channel_init(&made->base, &tcp_medium, name, options->max_payload_bytes) != RFAAS_OK) {
        if (secure != NULL)
            secure_ops->free(secure);
        free(made);
        return NULL;
    }
    made->secure_ops = secure_ops;
    made->secure = secure;
    return made;
}

rfaas_rc rfaas_tcp_adopt(int fd, const rfaas_tcp_options *options, rfaas_channel **channel)
{
    const char *name = rfaas_tcp_socket_name(fd);
    if (name == NULL || !rfaas_tcp_socket_set_up(fd, name, options))
        return RFAAS_UNSUITABLE;
    tcp_channel *made = make(fd, options, options->secure != NULL ? options->secure->name : name);
    if (made == NULL)
        return RFAAS_NO_MEMORY;
    made->fd = fd;
    made->zerocopy.on = made->secure == NULL && strcmp(name, "tcp") == 0 && rfaas_zerocopy_is_on(fd);
    rfaas_frame_queue_init(&made->queue);
    if (made->secure != NULL && options->is_dialer && rfaas_tcp_shake_hands(made) == RFAAS_BROKEN)
        made->base.tx_end = RFAAS_BROKEN; /* poll() tells, after what had come */
    *channel = &made->base;
    return RFAAS_OK;
}
