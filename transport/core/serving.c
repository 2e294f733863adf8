/* serving.c - see serving.h. */
#include "serving.h"

#include <time.h>

static const uint64_t budget_bytes = 16 << 20; /* moved in one turn */

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static bool is_plain(const rfaas_plain_request *plain, const rfaas_frame *frame)
{
    const rfaas_header *header = &frame->header;
    return header->kind == plain->kind && header->function == plain->function && header->lease_seq == plain->lease_seq &&
           header->epoch == plain->epoch && header->deadline_ns == 0 && header->attempt == 0 && header->invocation == 0 &&
           header->checkpoint == 0 && frame->n_segments <= 1 && frame->n_placed == 0 &&
           header->in_size <= plain->in_bytes_max;
}

/* The next frame, if one comes within `spin_ns`; AGAIN: none. */
static rfaas_rc next_frame(rfaas_channel *channel, pthread_mutex_t *lock, int64_t spin_ns, rfaas_frame *frame)
{
    rfaas_rc rc = rfaas_channel_spin(channel, spin_ns);
    if (rc == RFAAS_AGAIN)
        return rc;
    pthread_mutex_lock(lock);
    do
        rc = rfaas_channel_poll(channel, budget_bytes, frame);
    while (rc == RFAAS_MORE && (channel->holds_bytes || !channel->medium->polls_out));
    pthread_mutex_unlock(lock);
    return rc == RFAAS_MORE ? RFAAS_AGAIN : rc;
}

static rfaas_rc send_answer(rfaas_channel *channel, pthread_mutex_t *lock, const rfaas_plain_request *plain,
                            const rfaas_header *request, const struct iovec *answer, void *cookie)
{
    rfaas_header header = {
        .kind = plain->answer_kind, .call_id = request->call_id, .function = plain->function, .credits = 1};
    pthread_mutex_lock(lock);
    rfaas_rc rc = rfaas_channel_send(channel, &header, answer, answer->iov_len > 0, NULL, 0, cookie);
    pthread_mutex_unlock(lock);
    return rc;
}

rfaas_serving_end rfaas_serve(rfaas_channel *channel, pthread_mutex_t *lock, const rfaas_plain_request *plain,
                              const rfaas_server *server, int64_t spin_ns, int64_t for_ns, void *cookie,
                              rfaas_serving *serving)
{
    const int64_t until_ns = now_ns() + for_ns;
    const struct iovec nothing = {NULL, 0};
    rfaas_frame *frame = &serving->frame;
    serving->n_served = 0;
    do {
        struct iovec answer = {NULL, 0};
        serving->rc = next_frame(channel, lock, spin_ns, frame);
        if (serving->rc == RFAAS_AGAIN)
            return RFAAS_SERVING_IDLE;
        if (serving->rc != RFAAS_OK)
            return RFAAS_SERVING_ENDED;
        if (!is_plain(plain, frame))
            return RFAAS_SERVING_FRAME;
        serving->n_served++;
        serving->request = frame->header;
        /* The frame's own list of segments lies in the channel, which an attendant may read into meanwhile. */
        const struct iovec in = frame->n_segments > 0 ? frame->segments[0] : nothing;
        bool is_answered = server->serve(server->context, &serving->request, &in, &answer);
        if (is_answered)
            serving->rc = send_answer(channel, lock, plain, &serving->request, &answer, cookie);
        if (frame->buffer != NULL) /* after the answer: nobody waits for this */
            frame->memory.release(frame->memory.context, frame->buffer, frame->buffer_bytes);
        frame->buffer = NULL;
        if (!is_answered)
            return RFAAS_SERVING_LEFT;
        if (serving->rc == RFAAS_QUEUED)
            return RFAAS_SERVING_FULL;
        if (serving->rc != RFAAS_OK)
            return RFAAS_SERVING_ENDED;
    } while (now_ns() < until_ns);
    return RFAAS_SERVING_IDLE;
}
