/* verbs.c - the medium over RDMA: each side writes frames to a ring in the other's memory, and a word with each.
 *
 * A stream socket goes with the queue pair. On it the two sides set the connection up (verbs_setup.h), and its end tells
 * that the peer is gone, which a queue pair can't. This file: set-up, sleeping and the two ends; verbs_move.c moves the
 * frames; what speaks to the device is verbs_link.h's. Spec: docs/spec/007-verbs.md.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "verbs_channel.h"

enum {
    FIRST_LOOKS = 128,    /* a round trip of a device with a call in it: 10 us if a look takes 80 ns */
    LINGER_NS = 500000000, /* a close waits so long for the peer's device: the connection dies with this side's */
};

/* ---- set-up ---- */

/* A message fits into the empty buffer of a socket that carries nothing else. */
static bool say(verbs_channel *channel, const rfaas_verbs_message *message)
{
    uint8_t bytes[RFAAS_VERBS_MESSAGE_BYTES];
    rfaas_verbs_message_encode(message, bytes);
    return send(channel->fd, bytes, sizeof bytes, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)sizeof bytes;
}

static rfaas_rc cant_say(verbs_channel *channel)
{
    return rfaas_channel_broken(&channel->base, "setting RDMA up failed: sending over the connection", errno);
}

/* Makes the descriptor readable, or no longer. */
static void keep(verbs_channel *channel, bool on)
{
    uint64_t one = 1;
    if (channel->kept == on)
        return;
    channel->kept = on;
    ssize_t n = on ? write(channel->kept_fd, &one, sizeof one) : read(channel->kept_fd, &one, sizeof one);
    (void)n; /* it is as it should be then */
}

static rfaas_rc connect_to(verbs_channel *channel, const rfaas_verbs_address *peer)
{
    rfaas_verbs_message answer = {.kind = RFAAS_VERBS_CONNECTED};
    if (peer->ring_bytes != RFAAS_VERBS_RING_BYTES)
        return rfaas_channel_broken(&channel->base, "the peer's ring has another size", 0);
    if (!channel->ops->connect(channel->link, peer)) {
        answer.kind = RFAAS_VERBS_REFUSED;
        snprintf(answer.text, sizeof answer.text, "%s", channel->ops->why(channel->link));
        say(channel, &answer);
        return rfaas_verbs_broken_below(channel);
    }
    channel->lending.on = peer->reads > 0 && channel->fetching.landing != NULL;
    channel->state = RFAAS_VERBS_AWAITS_PEER;
    return say(channel, &answer) ? RFAAS_OK : cant_say(channel);
}

static rfaas_rc on_message(verbs_channel *channel)
{
    rfaas_verbs_message message;
    const char *problem = rfaas_verbs_message_decode(channel->message, &message);
    channel->message_got_bytes = 0;
    if (problem != NULL)
        return rfaas_channel_broken(&channel->base, problem, 0);
    if (message.kind == RFAAS_VERBS_REFUSED) {
        char text[RFAAS_VERBS_TEXT_BYTES + 32];
        snprintf(text, sizeof text, "the peer has no RDMA: %s", message.text);
        return rfaas_channel_broken(&channel->base, text, 0);
    }
    if (message.kind == RFAAS_VERBS_ADDRESS && channel->state == RFAAS_VERBS_AWAITS_ADDRESS)
        return connect_to(channel, &message.address);
    if (message.kind == RFAAS_VERBS_CONNECTED && channel->state == RFAAS_VERBS_AWAITS_PEER) {
        channel->state = RFAAS_VERBS_OPEN;
        channel->base.tx_waits_for_rx = false;
        keep(channel, true); /* whoever receives is to arm the link */
        return RFAAS_OK;
    }
    return rfaas_channel_broken(&channel->base, "the peer sent what it may not while setting up RDMA", 0);
}

rfaas_rc rfaas_verbs_ask_socket(verbs_channel *channel)
{
    rfaas_rc rc = RFAAS_AGAIN;
    while (!atomic_load(&channel->socket_ended)) {
        size_t room_bytes = channel->state == RFAAS_VERBS_OPEN ? 1 : sizeof channel->message - channel->message_got_bytes;
        ssize_t n = recv(channel->fd, channel->message + channel->message_got_bytes, room_bytes, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return rc;
        if (n <= 0) {
            atomic_store(&channel->socket_ended, true);
            return RFAAS_OK;
        }
        if (channel->state == RFAAS_VERBS_OPEN)
            return rfaas_channel_broken(&channel->base, "the peer sent bytes beside the RDMA connection", 0);
        channel->message_got_bytes += (size_t)n;
        if (channel->message_got_bytes == sizeof channel->message && (rc = on_message(channel)) == RFAAS_BROKEN)
            return rc;
    }
    return RFAAS_OK;
}

/* ---- sleeping ---- */

/* True if receiving has something to do. While the device reads for it, only the end of that counts. */
static bool has_work_now(const verbs_channel *channel)
{
    if (atomic_load_explicit(&channel->link_failed, memory_order_relaxed) != 0)
        return true;
    if (atomic_load_explicit(&channel->fetching.under_way, memory_order_acquire))
        return channel->ops->reading(channel->link) <= 0;
    return channel->peer_ended || rfaas_verbs_has_words(channel);
}

bool rfaas_verbs_go_to_sleep(verbs_channel *channel)
{
    if (channel->state != RFAAS_VERBS_OPEN)
        return false;
    uint64_t returned = atomic_load(&channel->slots_returned);
    if (atomic_load(&channel->fetching.under_way) || !rfaas_verbs_has_words(channel)) {
        if (!channel->ops->arm(channel->link))
            atomic_store(&channel->link_failed, 1);
        rfaas_verbs_collect(channel);
    }
    bool has_room = channel->queue.first != NULL && returned != atomic_load(&channel->slots_returned);
    bool has_work = has_work_now(channel);
    keep(channel, has_work);
    return has_work || has_room || rfaas_verbs_has_returns(channel);
}

static rfaas_rc verbs_wait(rfaas_channel *base, int64_t timeout_ns)
{
    verbs_channel *channel = (verbs_channel *)base;
    struct pollfd entry = {.fd = channel->wait_fd, .events = POLLIN};
    struct timespec timeout = {.tv_sec = timeout_ns / 1000000000, .tv_nsec = timeout_ns % 1000000000};
    if (has_work_now(channel) || (channel->stays_awake && rfaas_verbs_go_to_sleep(channel)))
        return RFAAS_OK;
    int n = ppoll(&entry, 1, timeout_ns < 0 ? NULL : &timeout, NULL);
    return n == 0 ? RFAAS_AGAIN : RFAAS_OK;
}

static bool verbs_stay_awake(rfaas_channel *base, bool on)
{
    verbs_channel *channel = (verbs_channel *)base;
    channel->stays_awake = on;
    return !on && rfaas_verbs_go_to_sleep(channel);
}

/* Takes what is there; asks the socket now and then, which alone tells that the peer is gone. */
static bool verbs_ready(const rfaas_channel *base)
{
    verbs_channel *channel = (verbs_channel *)base;
    uint64_t returned = atomic_load_explicit(&channel->slots_returned, memory_order_relaxed);
    uint64_t lent_returned = atomic_load_explicit(&channel->lending.returned, memory_order_relaxed);
    rfaas_verbs_collect(channel);
    if (has_work_now(channel) || returned != atomic_load_explicit(&channel->slots_returned, memory_order_relaxed) ||
        lent_returned != atomic_load_explicit(&channel->lending.returned, memory_order_relaxed))
        return true;
    uint32_t looks = atomic_load_explicit(&channel->quick_looks, memory_order_relaxed) + 1;
    atomic_store_explicit(&channel->quick_looks, looks, memory_order_relaxed); /* a count that is lost does no harm */
    if (looks % RFAAS_VERBS_QUICK_LOOKS_A_SYSCALL != 0 && channel->state == RFAAS_VERBS_OPEN)
        return false;
    char byte;
    ssize_t n = recv(channel->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return n >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
}

static int verbs_fd(const rfaas_channel *base)
{
    return ((const verbs_channel *)base)->wait_fd;
}

static uint64_t verbs_unacknowledged_bytes(const rfaas_channel *base)
{
    const verbs_channel *channel = (const verbs_channel *)base;
    if (channel->state != RFAAS_VERBS_OPEN || atomic_load(&channel->link_failed) != 0)
        return 0;
    return channel->lending.size_bytes + (uint64_t)channel->ops->unacknowledged(channel->link) * RFAAS_VERBS_SLOT_BYTES;
}

/* ---- the ends ---- */

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* What was sent must have reached the peer's device before this side's queue pair goes; it takes as long as a round trip
 * to a peer that is there. */
static void say_end(verbs_channel *channel)
{
    const struct timespec pause = {.tv_nsec = 20000};
    int64_t until_ns = now_ns() + LINGER_NS;
    rfaas_rc rc = RFAAS_AGAIN;
    while (!channel->peer_ended && atomic_load(&channel->link_failed) == 0 && now_ns() < until_ns) {
        if (rc == RFAAS_AGAIN)
            rc = rfaas_verbs_tell(channel, RFAAS_VERBS_OF_THE_END);
        if (rc == RFAAS_BROKEN || (rc == RFAAS_OK && channel->ops->unacknowledged(channel->link) == 0))
            return;
        nanosleep(&pause, NULL);
        rfaas_verbs_ask_socket(channel);
        if (atomic_load(&channel->socket_ended))
            return;
        rfaas_verbs_collect(channel);
    }
}

static void verbs_close(rfaas_channel *base)
{
    verbs_channel *channel = (verbs_channel *)base;
    bool inherited = rfaas_channel_is_inherited(base);
    rfaas_frame_queue_drop(base, &channel->queue);
    if (!inherited && channel->state == RFAAS_VERBS_OPEN)
        say_end(channel);
    rfaas_verbs_end_rendezvous(channel, inherited);
    channel->ops->free(channel->link, inherited);
    channel->link = NULL;
    if (!inherited) {
        munmap(channel->memory, RFAAS_VERBS_MEMORY_BYTES); /* in a child it may not be there, and something else instead */
        shutdown(channel->fd, SHUT_RDWR);      /* a forked child may hold a copy of the descriptor */
    }
    close(channel->wait_fd);
    close(channel->kept_fd);
    close(channel->fd);
    channel->fd = channel->wait_fd = channel->kept_fd = -1;
}

static void verbs_free(rfaas_channel *base)
{
    rfaas_channel_fini(base);
    free(base);
}

static const rfaas_medium verbs_medium = {
    .name = "verbs",
    .send = rfaas_verbs_send,
    .send_small = rfaas_verbs_send_small,
    .small_bytes = RFAAS_VERBS_SMALL_BYTES,
    .flush = rfaas_verbs_flush,
    .receive = rfaas_verbs_receive,
    .wait = verbs_wait,
    .stay_awake = verbs_stay_awake,
    .ready = verbs_ready,
    .fd = verbs_fd,
    .looks_a_clock = 16,
    .first_looks = FIRST_LOOKS,
    .unacknowledged_bytes = verbs_unacknowledged_bytes,
    .close = verbs_close,
    .free = verbs_free,
    .remote = &rfaas_verbs_remote,
};

static bool is_stream(int fd)
{
    int type = 0;
    socklen_t size_bytes = sizeof type;
    return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size_bytes) == 0 && type == SOCK_STREAM;
}

/* The link, and the descriptor that tells of it and of the socket. Leaves in `why` what could not be made. */
static bool make_link(verbs_channel *made, const char *device, rfaas_verbs_address *address, char *why)
{
    made->link = made->ops->begin(device, made->fd, made->memory, RFAAS_VERBS_MEMORY_BYTES, RFAAS_VERBS_RING_BYTES, address, why);
    if (made->link == NULL)
        return false;
    made->wait_fd = epoll_create1(EPOLL_CLOEXEC);
    made->kept_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    const int watched[] = {made->fd, made->kept_fd, made->ops->fd(made->link)};
    bool done = made->wait_fd >= 0 && made->kept_fd >= 0;
    for (size_t i = 0; done && i < sizeof watched / sizeof *watched; i++) {
        struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP, .data.fd = watched[i]};
        done = epoll_ctl(made->wait_fd, EPOLL_CTL_ADD, watched[i], &event) == 0;
    }
    if (done && address->reads > 0)
        made->fetching.landing = rfaas_verbs_landing_begin(made->ops, made->link);
    if (made->fetching.landing == NULL)
        address->reads = 0;
    if (!done) {
        snprintf(why, RFAAS_VERBS_WHY_BYTES, "no descriptor to wait with: %s", strerror(errno));
        made->ops->free(made->link, false);
    }
    return done;
}

static void give_up(verbs_channel *made)
{
    if (made->wait_fd >= 0)
        close(made->wait_fd);
    if (made->kept_fd >= 0)
        close(made->kept_fd);
    munmap(made->memory, RFAAS_VERBS_MEMORY_BYTES);
    rfaas_channel_fini(&made->base);
    free(made);
}

static verbs_channel *make(int fd, const rfaas_verbs_ops *ops, uint64_t max_payload_bytes)
{
    verbs_channel *made = calloc(1, sizeof *made);
    if (made == NULL)
        return NULL;
    made->memory = mmap(NULL, RFAAS_VERBS_MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (made->memory == MAP_FAILED ||
        rfaas_channel_init(&made->base, &verbs_medium, "verbs", max_payload_bytes) != RFAAS_OK) {
        if (made->memory != MAP_FAILED)
            munmap(made->memory, RFAAS_VERBS_MEMORY_BYTES);
        free(made);
        return NULL;
    }
    made->ops = ops;
    made->fd = fd;
    made->wait_fd = made->kept_fd = -1;
    made->base.tx_waits_for_rx = true;
    atomic_flag_clear(&made->polling);
    rfaas_frame_queue_init(&made->queue);
    return made;
}

rfaas_rc rfaas_verbs_adopt(int fd, const rfaas_verbs_ops *ops, const char *device, uint64_t max_payload_bytes,
                           rfaas_channel **channel, char *why)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || !is_stream(fd)) {
        snprintf(why, RFAAS_VERBS_WHY_BYTES, "descriptor %d is no stream socket", fd);
        return RFAAS_UNSUITABLE;
    }
    verbs_channel *made = make(fd, ops, max_payload_bytes);
    if (made == NULL)
        return RFAAS_NO_MEMORY;
    rfaas_verbs_message message = {.kind = RFAAS_VERBS_ADDRESS};
    if (!make_link(made, device, &message.address, why)) {
        message.kind = RFAAS_VERBS_REFUSED;
        snprintf(message.text, sizeof message.text, "%s", why);
        say(made, &message);
        give_up(made);
        return RFAAS_UNSUITABLE;
    }
    fcntl(fd, F_SETFL, flags | O_NONBLOCK);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    if (!say(made, &message))
        made->base.tx_end = cant_say(made); /* poll() tells */
    *channel = &made->base;
    return RFAAS_OK;
}
