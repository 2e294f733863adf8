/* shm.c - the medium over memory shared by two processes of one node.
 *
 * Frames lie in the rings of shm_ring.h, one a direction. A unix socket goes with the memory: a byte on it wakes a
 * reader that has gone to sleep, and its end tells that the peer is gone, which memory can't. While nobody sleeps no
 * system call is made. Large payloads go to the writer's arena and are read in place; the block is the reader's until it
 * lets go of the frame. Spec: docs/spec/006-shared-memory.md.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "rfaas_channel.h"
#include "shm_segment.h"

enum {
    LOOKS_A_SYSCALL = 64, /* empty looks at the ring, while awake, until the socket is asked whether the peer lives */
};

/* A frame that did not fit at once; its bytes are borrowed. */
typedef struct shm_queued {
    struct shm_queued *next;
    void *cookie;
    rfaas_outgoing out; /* over the copies below */
    size_t piece, offset_bytes; /* 0: in the head; i: in segment i - 1 */
    size_t n_pieces;            /* that go through the rings: the head alone if the payload lies in the arena */
    bool begun;
    struct iovec segments[]; /* then the head's bytes */
} shm_queued;

typedef struct shm_channel {
    rfaas_channel base;
    int fd;
    dev_t socket_device; /* which socket it is: code that we don't know may close or replace the descriptor */
    ino_t socket_inode;
    bool stays_awake;  /* its owner polls: no bell, and the socket is asked now and then only */
    bool peer_gone;    /* the socket has ended */
    uint32_t looks;    /* empty ones since the socket was asked */
    rfaas_shm_segment *segment;
    rfaas_shm_writer writer;
    rfaas_shm_reader reader;
    uint32_t entry_got_bytes; /* of the entry that is being read */
    bool entry_begun;         /* its header has been taken */
    rfaas_shm_lent *placed;  /* the block in which the payload of the present frame lies, NULL: none */
    uint8_t *place;
    uint64_t place_bytes;
    shm_queued *first, **last;
} shm_channel;

/* ---- payloads that are read in place ---- */

static void *place_allocate(void *context, size_t size_bytes)
{
    const shm_channel *channel = context;
    return size_bytes == channel->place_bytes ? channel->place : NULL;
}

/* ---- the bell ---- */

static bool socket_is_ours(const shm_channel *channel)
{
    struct stat status;
    return fstat(channel->fd, &status) == 0 && status.st_ino == channel->socket_inode &&
           status.st_dev == channel->socket_device;
}

static void ring(shm_channel *channel)
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

/* Takes the bells that were rung, and learns whether the peer is gone. True: there were some. */
static bool ask_socket(shm_channel *channel)
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

/* Makes sure that the descriptor becomes readable when an entry comes. True: there is something to do already. */
static bool fall_asleep(shm_channel *channel)
{
    bool rung = ask_socket(channel); /* or the descriptor would stay readable */
    bool empty = rfaas_shm_fall_asleep(&channel->reader);
    return !empty || channel->peer_gone || (rung && channel->first != NULL); /* that bell may have said: there is room */
}

/* ---- sending ---- */

/* A reader that sleeps is woken before anything is published: what fails then was not sent. False: it is gone. */
static bool wake_reader(shm_channel *channel)
{
    bool is_gone;
    if (rfaas_shm_must_wake(&channel->writer, &is_gone))
        ring(channel);
    return !is_gone && !channel->peer_gone;
}

/* Copies `size_bytes` from where the frame's cursor stands, and moves it on. */
static void gather(shm_queued *frame, uint8_t *to, size_t size_bytes)
{
    while (size_bytes > 0) {
        const uint8_t *base = frame->piece == 0 ? frame->out.head : frame->out.segments[frame->piece - 1].iov_base;
        size_t piece_bytes = frame->piece == 0 ? frame->out.head_bytes : frame->out.segments[frame->piece - 1].iov_len;
        size_t left_bytes = piece_bytes - frame->offset_bytes;
        size_t step_bytes = size_bytes < left_bytes ? size_bytes : left_bytes;
        if (step_bytes > 0)
            memcpy(to, base + frame->offset_bytes, step_bytes);
        to += step_bytes;
        size_bytes -= step_bytes;
        frame->offset_bytes += step_bytes;
        if (frame->offset_bytes == piece_bytes) {
            frame->piece++;
            frame->offset_bytes = 0;
        }
    }
}

static uint64_t left_bytes_of(const shm_queued *frame)
{
    uint64_t left_bytes = 0;
    for (size_t i = frame->piece; i < frame->n_pieces; i++)
        left_bytes += i == 0 ? frame->out.head_bytes : frame->out.segments[i - 1].iov_len;
    return left_bytes - frame->offset_bytes;
}

static size_t aligned(size_t size_bytes)
{
    return (size_bytes + RFAAS_SEGMENT_ALIGNMENT - 1) & ~(size_t)(RFAAS_SEGMENT_ALIGNMENT - 1);
}

/* All segments into a block, each on a line of its own as the receiver lays them out, and the entry that says so. False:
 * no block is free, and the payload goes through the rings. */
static bool put_block(shm_channel *channel, shm_queued *frame)
{
    uint64_t size_bytes = 0;
    for (size_t i = 0; i < frame->out.n_segments; i++)
        size_bytes += aligned(frame->out.segments[i].iov_len);
    rfaas_shm_block block;
    uint8_t *at = rfaas_shm_block_take(&channel->writer, size_bytes, &block);
    if (at == NULL)
        return false;
    for (size_t i = 0; i < frame->out.n_segments; i++) {
        size_t segment_bytes = frame->out.segments[i].iov_len;
        if (segment_bytes > 0)
            memcpy(at, frame->out.segments[i].iov_base, segment_bytes);
        at += aligned(segment_bytes);
    }
    rfaas_shm_entry *entry = rfaas_shm_entry_to_write(&channel->writer);
    entry->kind = RFAAS_SHM_BLOCK;
    entry->size_bytes = 0;
    entry->at = block.offset_bytes;
    entry->block_bytes = size_bytes;
    entry->block = block.slot;
    entry->generation = block.generation;
    frame->n_pieces = 1;
    return true;
}

/* One entry with what comes next of the frame; there is room for it. */
static void put_piece(shm_channel *channel, shm_queued *frame)
{
    rfaas_shm_entry *entry = rfaas_shm_entry_to_write(&channel->writer);
    entry->kind = frame->begun ? RFAAS_SHM_MORE : RFAAS_SHM_FRAME;
    if (!frame->begun)
        gather(frame, entry->header, RFAAS_HEADER_BYTES);
    frame->begun = true;
    uint64_t left_bytes = left_bytes_of(frame);
    size_t size_bytes = left_bytes < RFAAS_SHM_PIECE_BYTES ? (size_t)left_bytes : RFAAS_SHM_PIECE_BYTES;
    uint8_t *to = entry->bytes;
    if (size_bytes > RFAAS_SHM_INLINE_BYTES)
        to = rfaas_shm_data_to_write(&channel->writer, size_bytes, &size_bytes, &entry->at);
    entry->size_bytes = (uint32_t)size_bytes;
    gather(frame, to, size_bytes);
}

/* OK: all of it is with the peer. AGAIN: the rings are full. MORE: the budget is spent. BROKEN: the peer is gone. */
static rfaas_rc put_some(shm_channel *channel, shm_queued *frame, uint64_t budget_bytes, uint64_t *put_bytes)
{
    bool to_arena = frame->out.in_size >= RFAAS_SHM_ARENA_MIN_BYTES && !frame->begun && frame->n_pieces > 1;
    uint64_t start_bytes = left_bytes_of(frame), left_bytes = start_bytes;
    rfaas_rc rc = RFAAS_OK;
    while (left_bytes > 0 && rc == RFAAS_OK) {
        if (start_bytes - left_bytes >= budget_bytes) {
            rc = RFAAS_MORE;
        } else if (!rfaas_shm_has_room(&channel->writer, left_bytes > RFAAS_SHM_INLINE_BYTES ? 1 : 0)) {
            rc = RFAAS_AGAIN;
        } else if (!wake_reader(channel)) {
            rc = rfaas_channel_broken(&channel->base, "sending failed", EPIPE);
        } else {
            if (!(to_arena && put_block(channel, frame)))
                put_piece(channel, frame);
            to_arena = false;
            left_bytes = left_bytes_of(frame);
            if (rfaas_shm_publish(&channel->writer))
                ring(channel);
        }
    }
    *put_bytes = start_bytes - left_bytes;
    return rc;
}

static rfaas_rc enqueue(shm_channel *channel, const shm_queued *frame, uint64_t left_bytes)
{
    const rfaas_outgoing *out = &frame->out;
    size_t segments_bytes = out->n_segments * sizeof(struct iovec);
    shm_queued *queued = malloc(sizeof *queued + segments_bytes + out->head_bytes);
    if (queued == NULL)
        return RFAAS_NO_MEMORY;
    if (rfaas_channel_enqueue(&channel->base, left_bytes) != RFAAS_OK) {
        free(queued);
        return RFAAS_NO_MEMORY;
    }
    *queued = *frame;
    uint8_t *head = (uint8_t *)(queued->segments + out->n_segments);
    memcpy(head, out->head, out->head_bytes);
    if (segments_bytes > 0)
        memcpy(queued->segments, out->segments, segments_bytes);
    queued->out.head = head;
    queued->out.segments = queued->segments;
    queued->cookie = out->cookie;
    *channel->last = queued;
    channel->last = &queued->next;
    return RFAAS_QUEUED;
}

static rfaas_rc put_until_full(shm_channel *channel, shm_queued *frame, uint64_t budget_bytes, uint64_t *put_bytes)
{
    uint64_t total_bytes = 0;
    for (;;) {
        rfaas_rc rc = put_some(channel, frame, budget_bytes - total_bytes, put_bytes);
        total_bytes += *put_bytes;
        *put_bytes = total_bytes;
        if (rc != RFAAS_AGAIN || rfaas_shm_wait_for_room(&channel->writer))
            return rc;
    }
}

static rfaas_rc shm_send(rfaas_channel *base, const rfaas_outgoing *out)
{
    shm_channel *channel = (shm_channel *)base;
    shm_queued frame = {.out = *out, .cookie = out->cookie, .n_pieces = out->n_segments + 1};
    uint64_t put_bytes = 0;
    if (channel->first == NULL) {
        rfaas_rc rc = put_until_full(channel, &frame, UINT64_MAX, &put_bytes);
        if (rc == RFAAS_OK || rc == RFAAS_BROKEN)
            return rc;
    }
    rfaas_rc rc = enqueue(channel, &frame, out->head_bytes + out->in_size - put_bytes);
    if (rc == RFAAS_NO_MEMORY && put_bytes > 0)
        return rfaas_channel_broken(base, "no memory for the rest of a frame", 0);
    return rc;
}

static void pop_first(shm_channel *channel)
{
    shm_queued *queued = channel->first;
    channel->first = queued->next;
    if (channel->first == NULL)
        channel->last = &channel->first;
    rfaas_channel_complete(&channel->base, queued->cookie);
    free(queued);
}

static void drop_queue(shm_channel *channel)
{
    while (channel->first != NULL)
        pop_first(channel);
    channel->base.queued_bytes = 0;
}

/* Until the rings are full, whatever the budget: only then the peer's bell tells when to go on. */
static rfaas_rc shm_flush(rfaas_channel *base, uint64_t budget_bytes)
{
    (void)budget_bytes;
    shm_channel *channel = (shm_channel *)base;
    while (channel->first != NULL) {
        uint64_t put_bytes = 0;
        rfaas_rc rc = put_until_full(channel, channel->first, UINT64_MAX, &put_bytes);
        base->queued_bytes -= put_bytes;
        if (rc == RFAAS_BROKEN)
            drop_queue(channel);
        if (rc != RFAAS_OK)
            return rc;
        pop_first(channel);
    }
    return RFAAS_OK;
}

/* ---- receiving ---- */

static rfaas_rc malformed(shm_channel *channel)
{
    return rfaas_channel_broken(&channel->base, "the peer wrote what can't be into the shared memory", 0);
}

static void consume(shm_channel *channel, uint64_t at, uint32_t size_bytes)
{
    if (rfaas_shm_consume(&channel->reader, at, size_bytes))
        ring(channel);
    channel->entry_got_bytes = 0;
    channel->entry_begun = false;
}

/* Feeds the receiver from `bytes`, at most `size_bytes`; returns how many it took. */
static size_t feed(rfaas_receiver *receiver, const uint8_t *bytes, size_t size_bytes)
{
    struct iovec pieces[RFAAS_RECEIVER_IOVECS];
    size_t fed_bytes = 0;
    while (fed_bytes < size_bytes) {
        size_t n = rfaas_receiver_want(receiver, pieces), step_bytes = 0;
        if (n == 0)
            break;
        for (size_t i = 0; i < n && fed_bytes + step_bytes < size_bytes; i++) {
            size_t left_bytes = size_bytes - fed_bytes - step_bytes;
            size_t piece_bytes = pieces[i].iov_len < left_bytes ? pieces[i].iov_len : left_bytes;
            memcpy(pieces[i].iov_base, bytes + fed_bytes + step_bytes, piece_bytes);
            step_bytes += piece_bytes;
        }
        rfaas_receiver_got(receiver, step_bytes);
        fed_bytes += step_bytes;
    }
    return fed_bytes;
}

/* Notes the block in which the payload of the frame that begins next lies. */
static rfaas_rc take_block(shm_channel *channel, const rfaas_shm_entry *entry)
{
    uint64_t at = entry->at, size_bytes = entry->block_bytes;
    rfaas_shm_lent *lent = channel->placed != NULL
                               ? NULL
                               : rfaas_shm_lend(channel->segment, at, size_bytes, entry->block, entry->generation);
    if (lent == NULL)
        return malformed(channel);
    channel->placed = lent;
    channel->place = rfaas_shm_rx_arena(channel->segment) + at;
    channel->place_bytes = size_bytes;
    channel->base.receiver.memory = (rfaas_memory){place_allocate, rfaas_shm_lent_release, channel};
    return RFAAS_OK;
}

/* The head of a frame whose payload lies in a block has come: all of it is here then. */
static void place_payload(shm_channel *channel)
{
    rfaas_receiver *receiver = &channel->base.receiver;
    rfaas_shm_lent *lent = channel->placed;
    rfaas_frame *frame = &receiver->frame;
    channel->placed = NULL;
    if (frame->buffer == channel->place)
        frame->memory = (rfaas_memory){NULL, rfaas_shm_lent_release, lent};
    else
        rfaas_shm_lent_release(lent, NULL, 0); /* dropped, or refused */
    receiver->memory = rfaas_memory_default;
    if (receiver->state == RFAAS_RECEIVER_PAYLOAD)
        rfaas_receiver_got(receiver, (size_t)receiver->payload_left_bytes);
}

static rfaas_rc take_entry(shm_channel *channel, const rfaas_shm_entry *entry, uint64_t budget_bytes)
{
    rfaas_receiver *receiver = &channel->base.receiver;
    uint32_t kind = entry->kind, size_bytes = entry->size_bytes;
    uint64_t at = entry->at;
    bool between = rfaas_receiver_is_between_frames(receiver);
    if (kind == RFAAS_SHM_BLOCK && between) {
        rfaas_rc rc = take_block(channel, entry);
        consume(channel, 0, 0);
        return rc;
    }
    const uint8_t *bytes = rfaas_shm_data_to_read(&channel->reader, entry, at, size_bytes);
    if (bytes == NULL || (kind != RFAAS_SHM_FRAME && kind != RFAAS_SHM_MORE))
        return malformed(channel);
    if (!channel->entry_begun) {
        if (between != (kind == RFAAS_SHM_FRAME))
            return malformed(channel);
        channel->entry_begun = true;
        if (kind == RFAAS_SHM_FRAME)
            feed(receiver, entry->header, RFAAS_HEADER_BYTES);
    }
    uint64_t left_bytes = size_bytes - channel->entry_got_bytes;
    size_t step_bytes = left_bytes < budget_bytes ? (size_t)left_bytes : (size_t)budget_bytes;
    size_t fed_bytes = feed(receiver, bytes + channel->entry_got_bytes, step_bytes);
    channel->entry_got_bytes += (uint32_t)fed_bytes;
    if (channel->placed != NULL && receiver->state >= RFAAS_RECEIVER_PAYLOAD)
        place_payload(channel);
    if (receiver->state == RFAAS_RECEIVER_FAILED)
        return rfaas_channel_broken(&channel->base, receiver->problem, 0);
    if (fed_bytes < step_bytes)
        return malformed(channel); /* more bytes than the frame has */
    if (channel->entry_got_bytes == size_bytes)
        consume(channel, at, size_bytes);
    return RFAAS_OK;
}

/* AGAIN: and the descriptor will tell when there is more, unless the owner stays awake. MORE: look again. */
static rfaas_rc nothing_there(shm_channel *channel)
{
    if (channel->stays_awake) {
        if (!channel->peer_gone && ++channel->looks < LOOKS_A_SYSCALL)
            return RFAAS_AGAIN;
        ask_socket(channel);
    } else if (fall_asleep(channel) && channel->first != NULL) {
        rfaas_channel_flush(&channel->base, UINT64_MAX);
    }
    /* What the peer published before it went is seen now: the kernel's lock of the socket lies between. */
    if (rfaas_shm_entry_to_read(&channel->reader) != NULL)
        return RFAAS_MORE;
    if (!channel->peer_gone)
        return RFAAS_AGAIN;
    return rfaas_receiver_is_between_frames(&channel->base.receiver)
               ? RFAAS_CLOSED
               : rfaas_channel_broken(&channel->base, "the peer ended in the middle of a frame", 0);
}

/* A large payload that came through the ring found no block: the peer writes only where the maker has touched. */
static void help_peer(shm_channel *channel)
{
    const rfaas_frame *frame = &channel->base.receiver.frame;
    if (channel->segment->side == 0 && frame->buffer_bytes >= RFAAS_SHM_ARENA_MIN_BYTES &&
        frame->memory.release != rfaas_shm_lent_release)
        rfaas_shm_grow_peers_arena(channel->segment, frame->buffer_bytes);
}

static rfaas_rc shm_receive(rfaas_channel *base, uint64_t budget_bytes)
{
    shm_channel *channel = (shm_channel *)base;
    uint64_t total_bytes = 0;
    while (base->receiver.state != RFAAS_RECEIVER_WHOLE) {
        const rfaas_shm_entry *entry = rfaas_shm_entry_to_read(&channel->reader);
        if (entry == NULL) {
            rfaas_rc rc = nothing_there(channel);
            if (rc != RFAAS_MORE)
                return rc;
            continue;
        }
        if (total_bytes >= budget_bytes)
            return RFAAS_MORE;
        uint32_t before_bytes = channel->entry_got_bytes;
        uint32_t size_bytes = entry->size_bytes;
        rfaas_rc rc = take_entry(channel, entry, budget_bytes - total_bytes);
        if (rc != RFAAS_OK)
            return rc;
        total_bytes += size_bytes - before_bytes;
    }
    help_peer(channel);
    if (!channel->stays_awake && rfaas_shm_entry_to_read(&channel->reader) == NULL && fall_asleep(channel) &&
        channel->first != NULL)
        rfaas_channel_flush(base, UINT64_MAX); /* the bell that was taken may have been for that */
    return RFAAS_OK;
}

static rfaas_rc shm_wait(rfaas_channel *base, int64_t timeout_ns)
{
    shm_channel *channel = (shm_channel *)base;
    struct pollfd entry = {.fd = channel->fd, .events = POLLIN};
    struct timespec timeout = {.tv_sec = timeout_ns / 1000000000, .tv_nsec = timeout_ns % 1000000000};
    if (rfaas_shm_entry_to_read(&channel->reader) != NULL || (channel->stays_awake && fall_asleep(channel)))
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
        return fall_asleep(channel);
    rfaas_shm_stay_awake(&channel->reader);
    return false;
}

/* Asks the socket now and then, which alone tells that the peer is gone. */
static bool shm_ready(const rfaas_channel *base)
{
    const shm_channel *channel = (const shm_channel *)base;
    static _Thread_local uint32_t looks;
    if (rfaas_shm_entry_to_read(&channel->reader) != NULL || channel->peer_gone)
        return true;
    if (++looks % LOOKS_A_SYSCALL != 0)
        return false;
    char bell;
    ssize_t n = recv(channel->fd, &bell, 1, MSG_PEEK | MSG_DONTWAIT);
    return n == 0 || (n > 0 && channel->first != NULL) || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK);
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
    drop_queue(channel);
    if (!rfaas_channel_is_inherited(base)) {
        atomic_store(&channel->reader.shared->lines.reader, RFAAS_SHM_GONE);
        if (ours)
            shutdown(channel->fd, SHUT_RDWR); /* a forked child may hold a copy of the descriptor */
    }
    if (ours)
        close(channel->fd);
    channel->fd = -1;
}

static void shm_free(rfaas_channel *base)
{
    shm_channel *channel = (shm_channel *)base;
    if (channel->placed != NULL)
        rfaas_shm_lent_release(channel->placed, NULL, 0);
    rfaas_channel_fini(base);
    rfaas_shm_unuse(channel->segment);
    free(channel);
}

static const rfaas_medium shm_medium = {
    .name = "shm",
    .send = shm_send,
    .flush = shm_flush,
    .receive = shm_receive,
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
    made->last = &made->first;
    rfaas_shm_writer_init(&made->writer, rfaas_shm_tx(segment), rfaas_shm_tx_arena(segment), segment->arena_bytes);
    made->reader.shared = rfaas_shm_rx(segment);
    *channel = &made->base;
    return RFAAS_OK;
}
