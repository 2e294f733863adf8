/* ports.c - the channels of a client: opened, announced on, sent on, read, closed. Spec: 001 sections 2, 3; 006 section 6.
 *
 * A result goes straight into its caller's buffer: the receiver asks where a payload belongs once its head is verified.
 * So a call whose end came otherwise takes its channel with it (core: channel_abandon), before anybody may reuse a buffer.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client.h"

enum {
    BUDGET_BYTES = 1 << 20,
    FRAMES_A_TURN = 64,
    ATTEMPT_MAX = 255,
    INLINE_BLOB_BYTES = 64 << 10, /* larger ones are asked for, so that a node gets them once */
    DIGEST_BYTES = 32,
};

static const uint64_t arena_bytes = (uint64_t)1 << 28; /* each way; only what is used takes memory */

/* ---- where payloads go ---- */

static void *place_payload(void *context, size_t size_bytes)
{
    port *at = context;
    const rfaas_frame *frame = &at->channel->receiver.frame;
    const rfaas_call *call = at->core.call;
    bool is_result = frame->header.kind == RFAAS_KIND_RESULT && frame->header.status == 0 && frame->n_segments == 1;
    if (is_result && call != NULL && frame->header.call_id == call->call_id && frame->header.in_size <= call->out_capacity) {
        at->direct = call->out;
        return call->out;
    }
    return rfaas_memory_default.allocate(rfaas_memory_default.context, size_bytes);
}

static void release_payload(void *context, void *buffer, size_t size_bytes)
{
    port *at = context;
    if (buffer == at->direct)
        at->direct = NULL;
    else
        rfaas_memory_default.release(rfaas_memory_default.context, buffer, size_bytes);
}

/* ---- opening and closing ---- */

/* The client makes the memory, and sends it as the first thing on the connection. */
static rfaas_rc offer_memory(int fd, rfaas_channel **channel)
{
    static char here = 'M';
    int memory_fd = rfaas_shm_create(arena_bytes);
    if (memory_fd < 0)
        return RFAAS_UNSUITABLE;
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr aligned;
    } control;
    memset(&control, 0, sizeof control);
    struct iovec piece = {&here, 1};
    struct msghdr header = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    struct cmsghdr *part = CMSG_FIRSTHDR(&header);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(part), &memory_fd, sizeof(int));
    ssize_t n;
    do
        n = sendmsg(fd, &header, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    rfaas_rc rc = n == 1 ? rfaas_shm_adopt(fd, memory_fd, 0, PAYLOAD_BYTES_MAX, channel) : RFAAS_UNSUITABLE;
    if (rc != RFAAS_OK)
        close(memory_fd);
    return rc;
}

static rfaas_rc adopt(int fd, medium over, rfaas_channel **channel, char why[RFAAS_VERBS_WHY_BYTES])
{
    const rfaas_tcp_options options = {.max_payload_bytes = PAYLOAD_BYTES_MAX};
    if (over == MEDIUM_VERBS)
        return rdma_adopt(fd, channel, why);
    return over == MEDIUM_SHM ? offer_memory(fd, channel) : rfaas_tcp_adopt(fd, &options, channel);
}

void port_open(rfaas_client *client, const core_channel *about, int fd, medium over)
{
    char why[RFAAS_VERBS_WHY_BYTES] = "no descriptor could be watched";
    port *made = calloc(1, sizeof *made);
    if (made == NULL || !timers_reserve(&client->core.timers)) {
        free(made);
        close(fd); /* its worker sees the end, and a new channel is dialled */
        return;
    }
    rfaas_rc rc = adopt(fd, over, &made->channel, why);
    if (rc != RFAAS_OK || rfaas_poller_add(&client->poller, rfaas_channel_fd(made->channel), (uintptr_t)made) != 0) {
        if (rc == RFAAS_OK)
            rfaas_channel_free(made->channel);
        else
            close(fd);
        client->core.timers.reserved--;
        free(made);
        if (over == MEDIUM_VERBS) /* its worker is reached over another medium then */
            session_unusable(client, about->lease, why);
        return;
    }
    made->core = *about;
    made->client = client;
    made->watched = true;
    if (over == MEDIUM_VERBS)
        rdma_try(made, client_now_ns());
    core_channel_opened(&client->core, &made->core);
    port_serve(made); /* its worker's greeting may be there, of which the descriptor tells only after a look */
}

static void stop_watching(port *one)
{
    if (one->watched)
        rfaas_poller_remove(&one->client->poller, rfaas_channel_fd(one->channel));
    one->watched = false;
}

void port_close(port *one)
{
    rfaas_client *client = one->client;
    stop_watching(one);
    rfaas_channel_close(one->channel);
    if (client->hot == one)
        client->hot = NULL;
    one->next_dead = client->dead;
    client->dead = one;
}

void port_free(port *one)
{
    one->client->core.timers.reserved--;
    rfaas_channel_free(one->channel);
    free(one);
}

/* ---- sending ---- */

static rfaas_rc announce(port *to, const rfaas_function *function)
{
    uint32_t index = function->number % FUNCTIONS_A_CHANNEL;
    if (to->announced[index] == function)
        return RFAAS_OK;
    rfaas_header header = {.kind = RFAAS_KIND_DEFINE, .function = (uint16_t)index};
    const struct iovec segments[] = {{function->manifest.bytes, function->manifest.size_bytes},
                                     {function->blob, function->blob_bytes}};
    size_t n_segments = function->blob_bytes <= INLINE_BLOB_BYTES ? 2 : 1;
    rfaas_rc rc = rfaas_channel_send(to->channel, &header, segments, n_segments, NULL, 0, NULL);
    if (rc == RFAAS_OK || rc == RFAAS_QUEUED)
        to->announced[index] = function;
    return rc == RFAAS_QUEUED ? RFAAS_OK : rc;
}

static rfaas_rc send_call(port *to, const rfaas_call *call)
{
    rfaas_rc rc = announce(to, call->function);
    if (rc != RFAAS_OK)
        return rc;
    rfaas_header header = {.kind = RFAAS_KIND_CALL,
                           .function = (uint16_t)(call->function->number % FUNCTIONS_A_CHANNEL),
                           .call_id = call->call_id,
                           .lease_seq = to->core.lease_seq,
                           .epoch = to->core.epoch,
                           .out_size = call->out_capacity > 0 ? call->out_capacity : 1}; /* 0 would mean no limit */
    header.attempt = call->dispatches > ATTEMPT_MAX ? ATTEMPT_MAX : (uint8_t)(call->dispatches - 1);
    if (call->first_call_id != call->call_id)
        header.invocation = call->first_call_id;
    if (call->deadline_ns != 0) {
        int64_t left_ns = call->deadline_ns - client_now_ns();
        header.deadline_ns = left_ns > 0 ? (uint64_t)left_ns : 1;
    }
    header.checkpoint = call->checkpoint != NULL;
    const struct iovec segments[] = {{(void *)(uintptr_t)call->in, call->in_size}, {call->checkpoint, call->checkpoint_bytes}};
    return rfaas_channel_send(to->channel, &header, segments, call->checkpoint != NULL ? 2 : 1, NULL, 0, NULL);
}

static void watch_writes(port *one)
{
    bool wants = one->watched && rfaas_channel_wants_write(one->channel);
    if (wants == one->watches_write || !one->watched)
        return;
    one->watches_write = wants;
    rfaas_poller_want_write(&one->client->poller, rfaas_channel_fd(one->channel), (uintptr_t)one, wants);
}

void port_send(port *to, rfaas_call *call)
{
    client_core *core = &to->client->core;
    rfaas_rc rc = send_call(to, call);
    to->client->hot = to;
    switch (rc) {
    case RFAAS_OK:
        break;
    case RFAAS_QUEUED:
        watch_writes(to);
        break;
    case RFAAS_TOO_LARGE:
        core_not_sent(core, call, false, RFAAS_ERROR_PAYLOAD_TOO_LARGE, "the input is larger than a channel takes",
                      client_now_ns());
        break;
    case RFAAS_NO_MEMORY:
        core_not_sent(core, call, false, RFAAS_ERROR_NO_MEMORY, "no memory was left to send the call", client_now_ns());
        break;
    default:
        core_not_sent(core, call, true, 0, "", client_now_ns());
    }
}

static void answer_fetch(port *to, const rfaas_frame *frame)
{
    rfaas_header header = {.kind = RFAAS_KIND_BLOB, .call_id = frame->header.call_id, .status = 34};
    struct iovec blob = {NULL, 0};
    bool asked = frame->n_segments == 1 && frame->segments[0].iov_len == DIGEST_BYTES;
    for (const rfaas_function *one = to->client->functions; asked && one != NULL; one = one->next) {
        if (memcmp(one->digest, frame->segments[0].iov_base, DIGEST_BYTES) == 0) {
            header.status = 0;
            blob = (struct iovec){one->blob, one->blob_bytes};
            break;
        }
    }
    rfaas_channel_send(to->channel, &header, &blob, header.status == 0, NULL, 0, NULL); /* an end shows in reading */
    watch_writes(to);
}

/* ---- reading ---- */

static void keep_checkpoint(port *from, const rfaas_frame *frame)
{
    rfaas_call *call = from->core.call;
    if (call == NULL || call->call_id != frame->header.call_id || frame->n_segments != 1)
        return;
    void *kept = malloc(frame->segments[0].iov_len + 1);
    if (kept == NULL)
        return; /* the one before is older, not wrong */
    memcpy(kept, frame->segments[0].iov_base, frame->segments[0].iov_len);
    free(call->checkpoint);
    call->checkpoint = kept;
    call->checkpoint_bytes = frame->segments[0].iov_len;
}

/* False: the peer answered a call that it can't have read whole; nothing that it says is believed any more. */
static bool take_frame(port *from, const rfaas_frame *frame)
{
    from->tried_until_ns = 0;
    switch (frame->header.kind) {
    case RFAAS_KIND_RESULT:
    case RFAAS_KIND_ERROR:
        if (from->channel->queued_frames > 0)
            return false;
        result_take(from, frame, 0);
        break;
    case RFAAS_KIND_FETCH:
        answer_fetch(from, frame);
        break;
    case RFAAS_KIND_CHECKPOINT:
        keep_checkpoint(from, frame);
        break;
    default: /* HELLO, CREDIT: credits alone. OUTPUT: what was printed comes by the session process */
        break;
    }
    if (frame->header.credits > 0)
        core_credits(&from->client->core, &from->core, frame->header.credits);
    return true;
}

static void end(port *one)
{
    port_give_up(one, rfaas_channel_why(one->channel));
}

void port_give_up(port *one, const char *why)
{
    stop_watching(one);
    rfaas_channel_close(one->channel);
    core_channel_ended(&one->client->core, &one->core, client_now_ns());
    if (one->tried_until_ns != 0)
        rdma_failed(one, why);
}

void port_serve(port *from)
{
    rfaas_channel *channel = from->channel;
    for (int i = 0; i < FRAMES_A_TURN && !from->core.ended && !from->core.gone; i++) {
        rfaas_frame frame;
        if (channel->receiver.memory.allocate == rfaas_memory_default.allocate)
            channel->receiver.memory = (rfaas_memory){place_payload, release_payload, from};
        rfaas_rc rc = rfaas_channel_poll(channel, BUDGET_BYTES, &frame);
        if (rc == RFAAS_OK) {
            bool believed = take_frame(from, &frame);
            if (frame.buffer != NULL)
                frame.memory.release(frame.memory.context, frame.buffer, frame.buffer_bytes);
            if (!believed)
                end(from);
            if (from->core.call == NULL && from->awake)
                break; /* what was waited for is there; the rest is looked at with the next */
        } else if (rc == RFAAS_AGAIN) {
            break;
        } else if (rc != RFAAS_MORE) {
            end(from);
        }
    }
    if (!from->core.ended && !from->core.gone)
        watch_writes(from);
}

/* ---- polling all the time ---- */

bool port_is_ready(const port *one)
{
    return one->channel->medium->ready(one->channel);
}

void port_stay_awake(port *one)
{
    if (!one->awake)
        rfaas_channel_stay_awake(one->channel, true);
    one->awake = true;
}

bool port_may_sleep(port *one)
{
    if (!one->awake)
        return true;
    one->awake = false;
    return !rfaas_channel_stay_awake(one->channel, false);
}
