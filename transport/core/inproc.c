/* inproc.c - the medium between two ends in one process, for tests and for an executor inside its client.
 *
 * A frame is copied once into the peer's queue and once out of it, in the bytes of the wire, so that the same code
 * verifies it as on any medium. The queue is bounded by credits alone. Each end may have its own thread.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "rfaas_channel.h"

typedef struct message {
    struct message *next;
    size_t size_bytes, taken_bytes;
    uint8_t bytes[];
} message;

struct inproc_channel;

/* Shared by both ends, freed by the last. All below is guarded by the lock. */
typedef struct inproc_shared {
    pthread_mutex_t lock;
    struct inproc_channel *ends[2]; /* NULL once closed */
    int users;
} inproc_shared;

typedef struct inproc_channel {
    rfaas_channel base;
    inproc_shared *shared;
    int side;
    int event_fd;            /* readable while the queue holds something or the peer has closed */
    message *first, **last;  /* what arrived */
} inproc_channel;

static void ring(const inproc_channel *channel)
{
    const uint64_t one = 1;
    /* Can only fail when the counter is full: readable then anyway. */
    ssize_t n = write(channel->event_fd, &one, sizeof one);
    (void)n;
}

static void silence(const inproc_channel *channel)
{
    uint64_t count;
    ssize_t n = read(channel->event_fd, &count, sizeof count);
    (void)n;
}

static message *make_message(const rfaas_outgoing *out)
{
    message *made = malloc(sizeof *made + out->head_bytes + (size_t)out->in_size);
    if (made == NULL)
        return NULL;
    made->next = NULL;
    made->taken_bytes = 0;
    uint8_t *at = made->bytes;
    memcpy(at, out->head, out->head_bytes);
    at += out->head_bytes;
    for (size_t i = 0; i < out->n_segments; i++) {
        if (out->segments[i].iov_len > 0)
            memcpy(at, out->segments[i].iov_base, out->segments[i].iov_len);
        at += out->segments[i].iov_len;
    }
    made->size_bytes = (size_t)(at - made->bytes);
    return made;
}

static rfaas_rc inproc_send(rfaas_channel *base, const rfaas_outgoing *out)
{
    inproc_channel *channel = (inproc_channel *)base;
    message *made = make_message(out);
    if (made == NULL)
        return RFAAS_NO_MEMORY;
    pthread_mutex_lock(&channel->shared->lock);
    inproc_channel *peer = channel->shared->ends[1 - channel->side];
    if (peer != NULL) {
        if (peer->first == NULL)
            ring(peer);
        *peer->last = made;
        peer->last = &made->next;
    }
    pthread_mutex_unlock(&channel->shared->lock);
    if (peer != NULL)
        return RFAAS_OK;
    free(made);
    return rfaas_channel_broken(base, "sending failed", EPIPE);
}

static rfaas_rc inproc_flush(rfaas_channel *base, uint64_t budget_bytes)
{
    (void)base;
    (void)budget_bytes;
    return RFAAS_OK; /* nothing is ever queued on this side */
}

static void pop_first(inproc_channel *channel)
{
    pthread_mutex_lock(&channel->shared->lock);
    message *gone = channel->first;
    channel->first = gone->next;
    if (channel->first == NULL) {
        channel->last = &channel->first;
        if (channel->shared->ends[1 - channel->side] != NULL)
            silence(channel);
    }
    pthread_mutex_unlock(&channel->shared->lock);
    free(gone);
}

/* Copies from the first message what the receiver wants next. */
static void feed(rfaas_receiver *receiver, message *from)
{
    struct iovec pieces[RFAAS_RECEIVER_IOVECS];
    size_t n = rfaas_receiver_want(receiver, pieces);
    size_t copied_bytes = 0;
    for (size_t i = 0; i < n; i++) {
        memcpy(pieces[i].iov_base, from->bytes + from->taken_bytes, pieces[i].iov_len);
        from->taken_bytes += pieces[i].iov_len;
        copied_bytes += pieces[i].iov_len;
    }
    rfaas_receiver_got(receiver, copied_bytes);
}

static rfaas_rc inproc_receive(rfaas_channel *base, uint64_t budget_bytes)
{
    (void)budget_bytes; /* a message is here whole */
    inproc_channel *channel = (inproc_channel *)base;
    rfaas_receiver *receiver = &base->receiver;
    pthread_mutex_lock(&channel->shared->lock);
    message *arrived = channel->first;
    bool ended = channel->shared->ends[1 - channel->side] == NULL;
    pthread_mutex_unlock(&channel->shared->lock);
    if (arrived == NULL)
        return ended ? RFAAS_CLOSED : RFAAS_AGAIN;
    /* One message is one frame of our own encoder, so what the receiver wants never exceeds what is left. */
    while (receiver->state != RFAAS_RECEIVER_WHOLE && receiver->state != RFAAS_RECEIVER_FAILED)
        feed(receiver, arrived);
    pop_first(channel);
    if (receiver->state == RFAAS_RECEIVER_FAILED)
        return rfaas_channel_broken(base, receiver->problem, 0);
    return RFAAS_OK;
}

static rfaas_rc inproc_wait(rfaas_channel *base, int64_t timeout_ns)
{
    struct pollfd entry = {.fd = ((inproc_channel *)base)->event_fd, .events = POLLIN};
    struct timespec timeout = {.tv_sec = timeout_ns / 1000000000, .tv_nsec = timeout_ns % 1000000000};
    return ppoll(&entry, 1, timeout_ns < 0 ? NULL : &timeout, NULL) == 0 ? RFAAS_AGAIN : RFAAS_OK;
}

static bool inproc_ready(const rfaas_channel *base)
{
    const inproc_channel *channel = (const inproc_channel *)base;
    pthread_mutex_lock(&channel->shared->lock);
    bool ready = channel->first != NULL || channel->shared->ends[1 - channel->side] == NULL;
    pthread_mutex_unlock(&channel->shared->lock);
    return ready;
}

static int inproc_fd(const rfaas_channel *base)
{
    return ((const inproc_channel *)base)->event_fd;
}

static uint64_t inproc_unacknowledged_bytes(const rfaas_channel *base)
{
    (void)base;
    return 0; /* what was sent is with the peer */
}

/* Takes this end off the list and tells the peer. */
static void leave(inproc_channel *channel)
{
    pthread_mutex_lock(&channel->shared->lock);
    channel->shared->ends[channel->side] = NULL; /* nobody adds to our queue from here on */
    if (channel->shared->ends[1 - channel->side] != NULL)
        ring(channel->shared->ends[1 - channel->side]);
    pthread_mutex_unlock(&channel->shared->lock);
}

static void inproc_close(rfaas_channel *base)
{
    inproc_channel *channel = (inproc_channel *)base;
    if (!rfaas_channel_is_inherited(base)) /* else the peer's descriptor is the parent's too */
        leave(channel);
    for (message *gone = channel->first; gone != NULL;) {
        message *next = gone->next;
        free(gone);
        gone = next;
    }
    channel->first = NULL;
    close(channel->event_fd);
    channel->event_fd = -1;
}

static void release_shared(inproc_shared *shared)
{
    pthread_mutex_lock(&shared->lock);
    int users = --shared->users;
    pthread_mutex_unlock(&shared->lock);
    if (users > 0)
        return;
    pthread_mutex_destroy(&shared->lock);
    free(shared);
}

static void inproc_free(rfaas_channel *base)
{
    if (!rfaas_channel_is_inherited(base)) /* else its lock may never be free again: the copy is left to the child's end */
        release_shared(((inproc_channel *)base)->shared);
    rfaas_channel_fini(base);
    free(base);
}

static const rfaas_medium inproc_medium = {
    .name = "inproc",
    .send = inproc_send,
    .flush = inproc_flush,
    .receive = inproc_receive,
    .wait = inproc_wait,
    .ready = inproc_ready,
    .fd = inproc_fd,
    .unacknowledged_bytes = inproc_unacknowledged_bytes,
    .close = inproc_close,
    .free = inproc_free,
};

/* One end, counted among the users of `shared`. */
static rfaas_rc make_end(inproc_shared *shared, int side, uint64_t max_payload_bytes)
{
    inproc_channel *made = malloc(sizeof *made);
    if (made == NULL)
        return RFAAS_NO_MEMORY;
    made->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (made->event_fd < 0) {
        free(made);
        return RFAAS_UNSUITABLE;
    }
    if (rfaas_channel_init(&made->base, &inproc_medium, "inproc", max_payload_bytes) != RFAAS_OK) {
        close(made->event_fd);
        free(made);
        return RFAAS_NO_MEMORY;
    }
    made->shared = shared;
    made->side = side;
    made->first = NULL;
    made->last = &made->first;
    shared->ends[side] = made;
    shared->users++;
    return RFAAS_OK;
}

rfaas_rc rfaas_inproc_pair(uint64_t max_payload_bytes, rfaas_channel **left, rfaas_channel **right)
{
    inproc_shared *shared = calloc(1, sizeof *shared);
    if (shared == NULL)
        return RFAAS_NO_MEMORY;
    pthread_mutex_init(&shared->lock, NULL);
    shared->users = 1; /* this function, so that a failing second end can free the first */
    rfaas_rc rc = make_end(shared, 0, max_payload_bytes);
    if (rc == RFAAS_OK)
        rc = make_end(shared, 1, max_payload_bytes);
    if (rc == RFAAS_OK) {
        *left = &shared->ends[0]->base;
        *right = &shared->ends[1]->base;
    } else if (shared->ends[0] != NULL) {
        int error = errno;
        rfaas_channel_free(&shared->ends[0]->base);
        errno = error;
    }
    release_shared(shared);
    return rc;
}
