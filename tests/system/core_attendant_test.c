/* core_attendant_test.c - a channel that is read for a busy owner, under sanitizers: a part of core_test.c's program.
 *
 * One side sends numbered calls and takes some back, the other works on each, now and then for so long that its attendant
 * reads meanwhile. Each call is either answered or given back, once.
 */
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "attendant.h"
#include "core_pairs.h"

enum { CALLS = 64, LONG_EVERY = 8, LONG_NS = 8000000, SIZE_BYTES = 300 };

void test_attendant(rfaas_channel *left, rfaas_channel *right);

typedef struct owner {
    rfaas_channel *channel;
    pthread_mutex_t lock;
    uint64_t started, done;
} owner;

static void release(rfaas_frame *frame)
{
    if (frame->buffer != NULL)
        frame->memory.release(frame->memory.context, frame->buffer, frame->buffer_bytes);
}

static void answer(owner *one, uint64_t call_id)
{
    rfaas_header header = {.kind = RFAAS_KIND_RESULT, .call_id = call_id, .credits = 1};
    pthread_mutex_lock(&one->lock);
    rfaas_rc rc = rfaas_channel_send(one->channel, &header, NULL, 0, NULL, 0, NULL);
    EXPECT(rc == RFAAS_OK || rc == RFAAS_QUEUED);
    pthread_mutex_unlock(&one->lock);
}

static void work_on(owner *one, rfaas_frame *frame)
{
    uint64_t call_id = frame->header.call_id;
    if (frame->header.kind == RFAAS_KIND_CALL) {
        EXPECT(frame->n_segments == 2 && frame->segments[0].iov_len == 5 && frame->segments[1].iov_len == SIZE_BYTES);
        EXPECT(((uint8_t *)frame->segments[1].iov_base)[SIZE_BYTES - 1] == (uint8_t)call_id);
        EXPECT(frame->header.deadline_ns > 0 && frame->header.deadline_ns <= 1000000000);
    }
    release(frame);
    if (frame->header.kind != RFAAS_KIND_CALL)
        return; /* a take-back of what is over */
    EXPECT(call_id > one->done);
    __atomic_store_n(&one->started, call_id, __ATOMIC_SEQ_CST);
    if (call_id % LONG_EVERY == 0)
        nanosleep(&(struct timespec){0, LONG_NS}, NULL);
    __atomic_store_n(&one->done, call_id, __ATOMIC_SEQ_CST);
    answer(one, call_id);
}

static void *work(void *argument)
{
    owner *one = argument;
    for (;;) {
        rfaas_frame frame;
        pthread_mutex_lock(&one->lock);
        rfaas_rc rc = rfaas_channel_poll(one->channel, BUDGET_BYTES, &frame);
        pthread_mutex_unlock(&one->lock);
        if (rc == RFAAS_OK)
            work_on(one, &frame);
        else if (rc == RFAAS_CLOSED || rc == RFAAS_BROKEN)
            return NULL;
    }
}

static void send_kind(rfaas_channel *channel, uint8_t kind, uint64_t call_id)
{
    static uint8_t room[CALLS + 1][SIZE_BYTES]; /* borrowed while they are queued */
    uint8_t *bytes = memset(room[call_id], (int)call_id, SIZE_BYTES);
    const struct iovec segments[] = {{"first", 5}, {bytes, SIZE_BYTES}};
    rfaas_header header = {.kind = kind, .call_id = call_id, .deadline_ns = 1000000000};
    size_t n_segments = kind == RFAAS_KIND_CALL ? 2 : 0;
    rfaas_rc rc = rfaas_channel_send(channel, &header, segments, n_segments, NULL, 0, NULL);
    EXPECT(rc == RFAAS_OK || rc == RFAAS_QUEUED);
}

/* Notes what came of each call; returns how many came. */
static int take(rfaas_channel *left, uint8_t ends[CALLS + 1])
{
    int n = 0;
    rfaas_frame frame;
    for (;;) {
        rfaas_rc rc = rfaas_channel_poll(left, BUDGET_BYTES, &frame);
        if (rc != RFAAS_OK)
            return n;
        release(&frame);
        EXPECT(frame.header.call_id >= 1 && frame.header.call_id <= CALLS && ends[frame.header.call_id] == 0);
        ends[frame.header.call_id] = frame.header.kind;
        n++;
    }
}

void test_attendant(rfaas_channel *left, rfaas_channel *right)
{
    owner one = {.channel = right, .lock = PTHREAD_MUTEX_INITIALIZER};
    rfaas_attendant attendant;
    pthread_t worker;
    uint8_t ends[CALLS + 1] = {0};
    int n_ended = 0, n_given_back = 0;
    rfaas_header credit = {.kind = RFAAS_KIND_CREDIT, .credits = CALLS};
    rfaas_frame frame;
    EXPECT(rfaas_channel_send(right, &credit, NULL, 0, NULL, 0, NULL) == RFAAS_OK);
    while (rfaas_channel_poll(left, BUDGET_BYTES, &frame) != RFAAS_OK)
        ;
    EXPECT(rfaas_attendant_start(&attendant, right, &one.lock, &one.started, &one.done) == 0);
    rfaas_attendant_rest(&attendant);
    EXPECT(pthread_create(&worker, NULL, work, &one) == 0);
    rfaas_attendant_resume(&attendant);
    for (uint64_t call_id = 1; call_id <= CALLS; call_id++) {
        send_kind(left, RFAAS_KIND_CALL, call_id);
        if (call_id % LONG_EVERY == 3) /* behind the long one, or over by now */
            send_kind(left, RFAAS_KIND_TAKE_BACK, call_id);
        n_ended += take(left, ends);
    }
    while (n_ended < CALLS)
        n_ended += take(left, ends);
    for (int i = 1; i <= CALLS; i++)
        n_given_back += ends[i] == RFAAS_KIND_TAKEN;
    EXPECT(n_given_back > 0);
    EXPECT(left->tx_credits == CALLS);
    rfaas_attendant_stop(&attendant);
    rfaas_attendant_stop(&attendant);
    rfaas_channel_close(left);
    pthread_join(worker, NULL);
    rfaas_channel_free(left);
    rfaas_channel_free(right);
}
