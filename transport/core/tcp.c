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

#include "rfaas_channel.h"

enum {
    PIECES_MAX = 256, /* pieces a system call; the kernel takes 1024, but then copies the array to its heap */
    SEND_ONCE_BYTES = 16 << 20, /* then a send leaves the rest to flush, or a fast reader would keep it for ever */
    KEEPALIVE_IDLE_S = 10,
    KEEPALIVE_INTERVAL_S = 5,
    KEEPALIVE_PROBES = 3,
};

/* What of one frame is still to be written. */
typedef struct tcp_cursor {
    const uint8_t *head;
    size_t head_bytes;
    const struct iovec *segments;
    size_t n_segments;
    size_t at;           /* 0: in the head; i: in segment i - 1; n_segments + 1: done */
    size_t offset_bytes; /* in that piece */
} tcp_cursor;

typedef struct tcp_queued {
    struct tcp_queued *next;
    void *cookie;
    tcp_cursor cursor;       /* over the copies below */
    struct iovec segments[]; /* then the head's bytes */
} tcp_queued;

typedef struct tcp_channel {
    rfaas_channel base;
    int fd;
    tcp_queued *first, **last;
} tcp_channel;

static struct iovec piece_at(const tcp_cursor *cursor, size_t at)
{
    return at == 0 ? (struct iovec){(void *)cursor->head, cursor->head_bytes} : cursor->segments[at - 1];
}

static size_t gather(const tcp_cursor *cursor, struct iovec *pieces)
{
    size_t n = 0;
    size_t offset_bytes = cursor->offset_bytes;
    for (size_t at = cursor->at; at <= cursor->n_segments && n < PIECES_MAX; at++, offset_bytes = 0) {
        struct iovec piece = piece_at(cursor, at);
        if (piece.iov_len > offset_bytes)
            pieces[n++] = (struct iovec){(uint8_t *)piece.iov_base + offset_bytes, piece.iov_len - offset_bytes};
    }
    return n;
}

/* Passes empty pieces too, so that `at` is beyond the last exactly when nothing is left. */
static void advance(tcp_cursor *cursor, size_t size_bytes)
{
    while (cursor->at <= cursor->n_segments) {
        size_t left_bytes = piece_at(cursor, cursor->at).iov_len - cursor->offset_bytes;
        if (size_bytes < left_bytes) {
            cursor->offset_bytes += size_bytes;
            return;
        }
        size_bytes -= left_bytes;
        cursor->at++;
        cursor->offset_bytes = 0;
    }
}

static bool is_full(int error)
{
    return error == EAGAIN || error == EWOULDBLOCK || error == ENOBUFS;
}

/* OK: all written. AGAIN: the socket is full. MORE: the budget is spent. `*written_bytes` is raised either way. */
static rfaas_rc write_some(tcp_channel *channel, tcp_cursor *cursor, uint64_t budget_bytes, uint64_t *written_bytes)
{
    struct iovec pieces[PIECES_MAX];
    uint64_t start_bytes = *written_bytes;
    while (cursor->at <= cursor->n_segments) {
        if (*written_bytes - start_bytes >= budget_bytes)
            return RFAAS_MORE;
        struct msghdr message = {.msg_iov = pieces, .msg_iovlen = gather(cursor, pieces)};
        ssize_t n = sendmsg(channel->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n >= 0) {
            advance(cursor, (size_t)n);
            *written_bytes += (uint64_t)n;
        } else if (is_full(errno)) {
            return RFAAS_AGAIN;
        } else if (errno != EINTR) {
            return rfaas_channel_broken(&channel->base, "sending failed", errno);
        }
    }
    return RFAAS_OK;
}

static rfaas_rc enqueue(tcp_channel *channel, const rfaas_outgoing *out, const tcp_cursor *cursor,
                        uint64_t written_bytes)
{
    size_t segments_bytes = out->n_segments * sizeof(struct iovec);
    tcp_queued *queued = malloc(sizeof *queued + segments_bytes + out->head_bytes);
    if (queued == NULL)
        return RFAAS_NO_MEMORY;
    if (rfaas_channel_enqueue(&channel->base, out->head_bytes + out->in_size - written_bytes) != RFAAS_OK) {
        free(queued);
        return RFAAS_NO_MEMORY;
    }
    uint8_t *head = (uint8_t *)(queued->segments + out->n_segments);
    memcpy(head, out->head, out->head_bytes);
    if (segments_bytes > 0)
        memcpy(queued->segments, out->segments, segments_bytes);
    queued->next = NULL;
    queued->cookie = out->cookie;
    queued->cursor = *cursor;
    queued->cursor.head = head;
    queued->cursor.segments = queued->segments;
    *channel->last = queued;
    channel->last = &queued->next;
    return RFAAS_QUEUED;
}

static rfaas_rc tcp_send(rfaas_channel *base, const rfaas_outgoing *out)
{
    tcp_channel *channel = (tcp_channel *)base;
    tcp_cursor cursor = {.head = out->head,
                         .head_bytes = out->head_bytes,
                         .segments = out->segments,
                         .n_segments = out->n_segments};
    uint64_t written_bytes = 0;
    if (channel->first == NULL) {
        rfaas_rc rc = write_some(channel, &cursor, SEND_ONCE_BYTES, &written_bytes);
        if (rc == RFAAS_OK || rc == RFAAS_BROKEN)
            return rc;
    }
    rfaas_rc rc = enqueue(channel, out, &cursor, written_bytes);
    if (rc == RFAAS_NO_MEMORY && written_bytes > 0)
        return rfaas_channel_broken(base, "no memory for the rest of a frame", 0);
    return rc;
}

static void pop_first(tcp_channel *channel)
{
    tcp_queued *queued = channel->first;
    channel->first = queued->next;
    if (channel->first == NULL)
        channel->last = &channel->first;
    rfaas_channel_complete(&channel->base, queued->cookie);
    free(queued);
}

static void drop_queue(tcp_channel *channel)
{
    while (channel->first != NULL)
        pop_first(channel);
    channel->base.queued_bytes = 0;
}

static rfaas_rc tcp_flush(rfaas_channel *base, uint64_t budget_bytes)
{
    tcp_channel *channel = (tcp_channel *)base;
    uint64_t total_bytes = 0;
    while (channel->first != NULL) {
        if (total_bytes >= budget_bytes)
            return RFAAS_MORE;
        uint64_t written_bytes = 0;
        rfaas_rc rc = write_some(channel, &channel->first->cursor, budget_bytes - total_bytes, &written_bytes);
        total_bytes += written_bytes;
        base->queued_bytes -= written_bytes;
        if (rc == RFAAS_BROKEN)
            drop_queue(channel);
        if (rc != RFAAS_OK)
            return rc;
        pop_first(channel);
    }
    return RFAAS_OK;
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
    struct pollfd entry = {.fd = channel->fd, .events = POLLIN | (channel->first == NULL ? 0 : POLLOUT)};
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
    drop_queue(channel);
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
    made->first = NULL;
    made->last = &made->first;
    *channel = &made->base;
    return RFAAS_OK;
}
