/* tcp.c - the medium over connected stream sockets, TCP or unix.
 *
 * Sends straight from the caller's buffers; what the socket does not take at once is remembered by reference. Receives
 * what the receiver asks for and no byte more, so that the socket's own readiness says all and a descriptor can change
 * hands between two frames. That costs one more system call a frame than reading ahead.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "frame_queue.h"

enum {
    PIECES_MAX = 256, /* pieces a system call; the kernel takes 1024, but then copies the array to its heap */
    SEND_ONCE_BYTES = 16 << 20, /* then a send leaves the rest to flush, or a fast reader would keep it for ever */
    KEEPALIVE_IDLE_S = 10,
    KEEPALIVE_INTERVAL_S = 5,
    KEEPALIVE_PROBES = 3,
};

typedef struct tcp_channel {
    rfaas_channel base;
    int fd;
    rfaas_frame_queue queue;
} tcp_channel;

static bool is_full(int error)
{
    return error == EAGAIN || error == EWOULDBLOCK || error == ENOBUFS;
}

static rfaas_rc write_some(rfaas_channel *base, rfaas_cursor *cursor, uint64_t budget_bytes, uint64_t *written_bytes)
{
    struct iovec pieces[PIECES_MAX];
    while (!rfaas_cursor_is_done(cursor)) {
        if (*written_bytes >= budget_bytes)
            return RFAAS_MORE;
        struct msghdr message = {.msg_iov = pieces, .msg_iovlen = rfaas_cursor_pieces(cursor, pieces, PIECES_MAX)};
        ssize_t n = sendmsg(((tcp_channel *)base)->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n >= 0) {
            rfaas_cursor_advance(cursor, (size_t)n);
            *written_bytes += (uint64_t)n;
        } else if (is_full(errno)) {
            return RFAAS_AGAIN;
        } else if (errno != EINTR) {
            return rfaas_channel_broken(base, "sending failed", errno);
        }
    }
    return RFAAS_OK;
}

static rfaas_rc tcp_send(rfaas_channel *base, const rfaas_outgoing *out)
{
    return rfaas_frame_queue_send(base, &((tcp_channel *)base)->queue, out, SEND_ONCE_BYTES, write_some);
}

static rfaas_rc tcp_flush(rfaas_channel *base, uint64_t budget_bytes)
{
    return rfaas_frame_queue_flush(base, &((tcp_channel *)base)->queue, budget_bytes, write_some);
}

/* The first pieces up to `limit_bytes` together; returns how many are left. */
static size_t trim(struct iovec *pieces, size_t n, uint64_t limit_bytes)
{
    for (size_t i = 0; i < n; i++) {
        if (pieces[i].iov_len >= limit_bytes) {
            pieces[i].iov_len = (size_t)limit_bytes;
            return i + 1;
        }
        limit_bytes -= pieces[i].iov_len;
    }
    return n;
}

static rfaas_rc tcp_receive(rfaas_channel *base, uint64_t budget_bytes)
{
    tcp_channel *channel = (tcp_channel *)base;
    rfaas_receiver *receiver = &base->receiver;
    struct iovec pieces[RFAAS_RECEIVER_IOVECS];
    for (uint64_t total_bytes = 0; receiver->state != RFAAS_RECEIVER_WHOLE;) {
        if (receiver->state == RFAAS_RECEIVER_FAILED)
            return rfaas_channel_broken(base, receiver->problem, 0);
        if (total_bytes >= budget_bytes)
            return RFAAS_MORE;
        size_t n_pieces = trim(pieces, rfaas_receiver_want(receiver, pieces), budget_bytes - total_bytes);
        struct msghdr message = {.msg_iov = pieces, .msg_iovlen = n_pieces};
        ssize_t n = recvmsg(channel->fd, &message, MSG_DONTWAIT);
        if (n > 0) {
            rfaas_receiver_got(receiver, (size_t)n);
            total_bytes += (uint64_t)n;
        } else if (n == 0) {
            return rfaas_receiver_is_between_frames(receiver)
                       ? RFAAS_CLOSED
                       : rfaas_channel_broken(base, "the stream ended in the middle of a frame", 0);
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            return RFAAS_AGAIN;
        } else if (errno != EINTR) {
            return rfaas_channel_broken(base, "receiving failed", errno);
        }
    }
    return RFAAS_OK;
}

static rfaas_rc tcp_wait(rfaas_channel *base, int64_t timeout_ns)
{
    const tcp_channel *channel = (tcp_channel *)base;
    struct pollfd entry = {.fd = channel->fd, .events = POLLIN | (channel->queue.first == NULL ? 0 : POLLOUT)};
    struct timespec timeout = {.tv_sec = timeout_ns / 1000000000, .tv_nsec = timeout_ns % 1000000000};
    int n = ppoll(&entry, 1, timeout_ns < 0 ? NULL : &timeout, NULL);
    return n == 0 ? RFAAS_AGAIN : RFAAS_OK; /* an interruption or failure is an early OK: poll() tells the rest */
}

static bool tcp_ready(const rfaas_channel *base)
{
    char byte;
    ssize_t n = recv(((const tcp_channel *)base)->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return n >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK);
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

static void tcp_close(rfaas_channel *base)
{
    tcp_channel *channel = (tcp_channel *)base;
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
    .send = tcp_send,
    .flush = tcp_flush,
    .receive = tcp_receive,
    .wait = tcp_wait,
    .ready = tcp_ready,
    .fd = tcp_fd,
    .polls_out = true,
    .unacknowledged_bytes = tcp_unacknowledged_bytes,
    .close = tcp_close,
    .free = tcp_free,
};

static int option_of(int fd, int name)
{
    int value = -1;
    socklen_t size_bytes = sizeof value;
    return getsockopt(fd, SOL_SOCKET, name, &value, &size_bytes) == 0 ? value : -1;
}

/* "tcp", "unix", or NULL when `fd` is no connected stream socket. */
static const char *medium_name(int fd)
{
    struct sockaddr_storage peer;
    socklen_t size_bytes = sizeof peer;
    if (option_of(fd, SO_TYPE) != SOCK_STREAM)
        return NULL;
    /* A peer that has hung up already leaves ENOTCONN: its last frames can still be read. */
    if (getpeername(fd, (struct sockaddr *)&peer, &size_bytes) != 0 && errno != ENOTCONN)
        return NULL;
    if (option_of(fd, SO_ACCEPTCONN) != 0)
        return NULL;
    switch (option_of(fd, SO_DOMAIN)) {
    case AF_UNIX: return "unix";
    case AF_INET:
    case AF_INET6: return "tcp";
    default: return NULL;
    }
}

static bool set_tcp_options(int fd, const rfaas_tcp_options *options)
{
    const struct {
        int level, name, value;
    } wanted[] = {
        {IPPROTO_TCP, TCP_NODELAY, 1},
        {SOL_SOCKET, SO_KEEPALIVE, 1},
        {IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_S},
        {IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S},
        {IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES},
        {IPPROTO_TCP, TCP_USER_TIMEOUT, (int)options->user_timeout_ms},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        if (setsockopt(fd, wanted[i].level, wanted[i].name, &wanted[i].value, sizeof wanted[i].value) != 0)
            return false;
    return true;
}

rfaas_rc rfaas_tcp_adopt(int fd, const rfaas_tcp_options *options, rfaas_channel **channel)
{
    const char *name = medium_name(fd);
    if (name == NULL)
        return RFAAS_UNSUITABLE;
    if (strcmp(name, "tcp") == 0 && !set_tcp_options(fd, options))
        return RFAAS_UNSUITABLE;
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) != 0)
        return RFAAS_UNSUITABLE;
    tcp_channel *made = malloc(sizeof *made);
    if (made == NULL)
        return RFAAS_NO_MEMORY;
    if (rfaas_channel_init(&made->base, &tcp_medium, name, options->max_payload_bytes) != RFAAS_OK) {
        free(made);
        return RFAAS_NO_MEMORY;
    }
    made->fd = fd;
    rfaas_frame_queue_init(&made->queue);
    *channel = &made->base;
    return RFAAS_OK;
}
