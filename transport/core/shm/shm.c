/* shm.c - the medium over memory shared by two processes of one node.
 *
 * Frames lie in the rings of shm_ring.h, one a direction. A unix socket goes with the memory: a byte on it wakes a
 * reader that has gone to sleep, and its end tells that the peer is gone, which memory can't. While nobody sleeps no
 * system call is made. Large payloads go to the writer's arena and are read in place; the block is the reader's until it
 * lets go of the frame. This file: the bell, sleeping and the two ends; shm_send.c and shm_receive.c move the frames.
 * Spec: docs/spec/006-shared-memory.md.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "failpoint.h"
#include "shm_channel.h"
#include "shm_small.h"

/* ---- the bell ---- */

static bool socket_is_ours(const shm_channel *channel)
{
    struct stat status;
    return fstat(channel->fd, &status) == 0 && status.st_ino == channel->socket_inode &&
           status.st_dev == channel->socket_device;
}

void rfaas_shm_ring_bell(shm_channel *channel)
{
    const char bell = 1;
    ssize_t n;
    if (!socket_is_ours(channel)) { /* whose it is now must not be written to; our peer sees the socket's end */
        channel->peer_gone = true;
        return;
    }
    do
        n = send(channel->fd, &bell, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    /* A full socket holds bells enough. */
    if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK)
        channel->peer_gone = true;
}

bool rfaas_shm_ask_socket(shm_channel *channel)
{
    char bells[64];
    bool rung = false;
    channel->looks = 0;
    channel->peer_gone |= !socket_is_ours(channel);
    while (!channel->peer_gone) {
        ssize_t n = recv(channel->fd, bells, sizeof bells, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK))
            channel->peer_gone = true;
        rung |= n > 0;
        if (n < (ssize_t)sizeof bells)
            break;
    }
    return rung;
}

bool rfaas_shm_go_to_sleep(shm_channel *channel)
{
    bool rung = rfaas_shm_ask_socket(channel); /* or the descriptor would stay readable */
    bool empty = rfaas_shm_fall_asleep(&channel->reader);
    /* That bell may have said: there is room. */
    return !empty || channel->peer_gone || (rung && channel->queue.first != NULL);
}

/* ---- sleeping ---- */

static rfaas_rc shm_wait(rfaas_channel *base, int64_t timeout_ns)
{
    shm_channel *channel = (shm_channel *)base;
    struct pollfd entry = {.fd = channel->fd, .events = POLLIN};
    struct timespec timeout = {.tv_sec = timeout_ns / 1000000000, .tv_nsec = timeout_ns % 1000000000};
    if (rfaas_shm_entry_to_read(&channel->reader) != NULL || (channel->stays_awake && rfaas_shm_go_to_sleep(channel)))
        return RFAAS_OK;
    int n = ppoll(&entry, 1, timeout_ns < 0 ? NULL : &timeout, NULL);
    if (channel->stays_awake)
        rfaas_shm_stay_awake(&channel->reader);
    return n == 0 ? RFAAS_AGAIN : RFAAS_OK;
}

static bool shm_stay_awake(rfaas_channel *base, bool on)
{
    shm_channel *channel = (shm_channel *)base;
    channel->stays_awake = on;
    if (!on)
        return rfaas_shm_go_to_sleep(channel);
    rfaas_shm_stay_awake(&channel->reader);
    return false;
}

/* Asks the socket now and then, which alone tells that the peer is gone. */
static bool shm_ready(const rfaas_channel *base)
{
    shm_channel *channel = (shm_channel *)base;
    const rfaas_shm_entry *entry = rfaas_shm_entry_to_read(&channel->reader);
    if (entry != NULL)
        rfaas_shm_fetch_ahead(&channel->reader, entry);
    if (entry != NULL || channel->peer_gone)
        return true;
    uint32_t spins_a_syscall = channel->queue.first != NULL ? RFAAS_SHM_LOOKS_A_SYSCALL : RFAAS_SHM_SPINS_A_SYSCALL;
    if ((++channel->spins & (spins_a_syscall - 1)) != 0)
        return false;
    char bell;
    ssize_t n = recv(channel->fd, &bell, 1, MSG_PEEK | MSG_DONTWAIT);
    return n == 0 || (n > 0 && channel->queue.first != NULL) || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK);
}

static int shm_fd(const rfaas_channel *base)
{
    return ((const shm_channel *)base)->fd;
}

static uint64_t shm_unacknowledged_bytes(const rfaas_channel *base)
{
    (void)base;
    return 0; /* what was sent lies in memory that outlives this process */
}

static void shm_close(rfaas_channel *base)
{
    shm_channel *channel = (shm_channel *)base;
    bool ours = socket_is_ours(channel);
    rfaas_frame_queue_drop(base, &channel->queue);
    if (!rfaas_channel_is_inherited(base)) {
        atomic_store(&channel->reader.shared->lines.reader, RFAAS_SHM_GONE);
        FAILPOINT("after-gone");
        if (ours)
            shutdown(channel->fd, SHUT_RDWR); /* a forked child may hold a copy of the descriptor */
    }
    if (ours)
        close(channel->fd);
    channel->fd = -1;
    rfaas_shm_retire(channel->segment);
}

static void shm_free(rfaas_channel *base)
{
    shm_channel *channel = (shm_channel *)base;
    if (channel->placed != NULL)
        rfaas_shm_lent_release(channel->placed, NULL, 0);
    if (channel->borrow != NULL)
        rfaas_shm_borrow_release(channel->borrow, NULL, 0);
    rfaas_shm_pool_unuse(channel->pool);
    rfaas_channel_fini(base);
    rfaas_shm_unuse(channel->segment);
    free(channel);
}

static const rfaas_medium shm_medium = {
    .name = "shm",
    .send = rfaas_shm_send,
    .send_small = rfaas_shm_send_small,
    .small_bytes = RFAAS_SHM_SMALL_BYTES,
    .flush = rfaas_shm_flush,
    .receive = rfaas_shm_receive,
    .wait = shm_wait,
    .stay_awake = shm_stay_awake,
    .ready = shm_ready,
    .fd = shm_fd,
    .unacknowledged_bytes = shm_unacknowledged_bytes,
    .close = shm_close,
    .free = shm_free,
};

/* ---- the two ends ---- */

static bool is_unix_stream(int fd)
{
    int type = 0, domain = 0;
    socklen_t size_bytes = sizeof type;
    return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size_bytes) == 0 && type == SOCK_STREAM &&
           getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size_bytes) == 0 && domain == AF_UNIX;
}

rfaas_rc rfaas_shm_adopt(int fd, int memory_fd, int side, uint64_t max_payload_bytes, rfaas_channel **channel)
{
    struct stat status;
    int flags = fcntl(fd, F_GETFL);
    if (fstat(fd, &status) != 0 || (side != 0 && side != 1) || flags < 0 || !is_unix_stream(fd))
        return RFAAS_UNSUITABLE;
    rfaas_shm_segment *segment = rfaas_shm_map(memory_fd, side);
    if (segment == NULL)
        return RFAAS_UNSUITABLE;
    shm_channel *made = calloc(1, sizeof *made);
    if (made == NULL || rfaas_channel_init(&made->base, &shm_medium, "shm", max_payload_bytes) != RFAAS_OK) {
        free(made);
        rfaas_shm_unuse(segment);
        return RFAAS_NO_MEMORY;
    }
    fcntl(fd, F_SETFL, flags | O_NONBLOCK);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    close(memory_fd);
    made->fd = fd;
    made->socket_inode = status.st_ino;
    made->socket_device = status.st_dev;
    made->segment = segment;
    rfaas_frame_queue_init(&made->queue);
    rfaas_shm_writer_init(&made->writer, rfaas_shm_tx(segment), rfaas_shm_tx_arena(segment), segment->arena_bytes);
    made->writer.freed = segment->freed;
    made->reader.shared = rfaas_shm_rx(segment);
    *channel = &made->base;
    return RFAAS_OK;
}
