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

/* The next frame, if one comes within `spin_ns`; AGAIN: none. Others get the lock if it does not come at once. */
static rfaas_rc next_frame(rfaas_channel *channel, pthread_mutex_t *lock, int64_t spin_ns, rfaas_frame *frame)
{
    rfaas_rc rc = rfaas_channel_look(channel);
    if (rc == RFAAS_AGAIN) {
        pthread_mutex_unlock(lock);
        rc = rfaas_channel_spin(channel, spin_ns);
        pthread_mutex_lock(lock);
    }
    if (rc == RFAAS_AGAIN)
        return rc;
    do
        rc = rfaas_channel_poll(channel, budget_bytes, frame);
    while (rc == RFAAS_MORE && (channel->holds_bytes || !channel->medium->polls_out));
    return rc == RFAAS_MORE ? RFAAS_AGAIN : rc;
}

static rfaas_rc send_answer(rfaas_channel *channel, const rfaas_plain_request *plain, const rfaas_header *request,
                            const struct iovec *answer, void *cookie)
{
    rfaas_header header = {
        .kind = plain->answer_kind, .call_id = request->call_id, .function = plain->function, .credits = 1};
    return rfaas_channel_send(channel, &header, answer, answer->iov_len > 0, NULL, 0, cookie);
}

/* True: the next one may come. With the lock, which is given up while the server works. */
static bool serve_one(rfaas_channel *channel, pthread_mutex_t *lock, const rfaas_plain_request *plain,
                      const rfaas_server *server, int64_t spin_ns, void *cookie, rfaas_serving *serving)
{
    struct iovec in = {NULL, 0}, answer = {NULL, 0};
    rfaas_frame *frame = &serving->frame;
    serving->rc = next_frame(channel, lock, spin_ns, frame);
    serving->end = serving->rc == RFAAS_AGAIN ? RFAAS_SERVING_IDLE
                   : serving->rc != RFAAS_OK  ? RFAAS_SERVING_ENDED
                                              : RFAAS_SERVING_FRAME;
    if (serving->rc != RFAAS_OK || !is_plain(plain, frame))
        return false;
    serving->n_served++;
    serving->request = frame->header;
    if (frame->n_segments > 0) /* the frame's own list lies in the channel, which an attendant may read into meanwhile */
        in = frame->segments[0];
    pthread_mutex_unlock(lock);
    bool is_answered = server->serve(server->context, &serving->request, &in, &answer);
    pthread_mutex_lock(lock);
    if (is_answered)
        serving->rc = send_answer(channel, plain, &serving->request, &answer, cookie);
    if (frame->buffer != NULL) /* after the answer: nobody waits for this */
        frame->memory.release(frame->memory.context, frame->buffer, frame->buffer_bytes);
    frame->buffer = NULL;
    serving->end = !is_answered                   ? RFAAS_SERVING_LEFT
                   : serving->rc == RFAAS_QUEUED ? RFAAS_SERVING_FULL
                   : serving->rc != RFAAS_OK     ? RFAAS_SERVING_ENDED
                                                 : RFAAS_SERVING_IDLE;
    return serving->end == RFAAS_SERVING_IDLE;
}

rfaas_serving_end rfaas_serve(rfaas_channel *channel, pthread_mutex_t *lock, const rfaas_plain_request *plain,
                              const rfaas_server *server, int64_t spin_ns, int64_t for_ns, void *cookie,
                              rfaas_serving *serving)
{
    const int64_t until_ns = now_ns() + for_ns;
    serving->n_served = 0;
    pthread_mutex_lock(lock);
    while (serve_one(channel, lock, plain, server, spin_ns, cookie, serving) && now_ns() < until_ns)
        ;
    pthread_mutex_unlock(lock);
    return serving->end;
}
