/* core_test.c - the C core without Python, to be run under sanitizers; test_core_sanitized.py builds it.
 *
 * Usage: core_test [SHARE [valgrind]]: of the rounds one in so many. Exits 0 when all held; otherwise says where it did not.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core_pairs.h"
#include "crc32c.h"
#include "large_buffer.h"
#include "poller.h"
#include "rfaas_channel.h"
#include "tls_stream.h"
#include "zerocopy.h"

void test_arrays(bool maps_twice); /* core_arrays_test.c */
void test_heap(int rounds); /* core_heap_test.c */
void test_loan(uint64_t n_calls); /* core_loan_test.c */
void test_region(int rounds); /* core_region_test.c */

void test_attendant(rfaas_channel *left, rfaas_channel *right); /* core_attendant_test.c */

static int share = 1; /* of the rounds: one in so many */

static void release(rfaas_frame *frame)
{
    if (frame->buffer != NULL)
        frame->memory.release(frame->memory.context, frame->buffer, frame->buffer_bytes);
}

static rfaas_rc send_kind(rfaas_channel *channel, uint8_t kind, uint16_t credits, const struct iovec *segments,
                          size_t n_segments, void *cookie)
{
    rfaas_header header = {.kind = kind, .credits = credits, .call_id = 42};
    return rfaas_channel_send(channel, &header, segments, n_segments, "text", 4, cookie);
}

/* The next frame of `receiver`, while `sender` moves on. */
static rfaas_frame next_frame(rfaas_channel *receiver, rfaas_channel *sender)
{
    rfaas_frame frame;
    rfaas_rc rc;
    do {
        rfaas_channel_flush(sender, BUDGET_BYTES);
        rc = rfaas_channel_poll(receiver, BUDGET_BYTES, &frame);
    } while (rc == RFAAS_AGAIN || rc == RFAAS_MORE);
    EXPECT(rc == RFAAS_OK);
    return frame;
}

static void test_exchange(make_pair_f make_pair)
{
    enum { N_SEGMENTS = 5000, SEGMENT_BYTES = 777 };
    static uint8_t bytes[N_SEGMENTS][SEGMENT_BYTES];
    static struct iovec segments[N_SEGMENTS];
    rfaas_channel *left, *right;
    make_pair(&left, &right);
    for (size_t i = 0; i < N_SEGMENTS; i++) {
        memset(bytes[i], (int)i, SEGMENT_BYTES);
        segments[i] = (struct iovec){bytes[i], i % SEGMENT_BYTES};
    }
    EXPECT(send_kind(left, RFAAS_KIND_CALL, 0, segments, 1, NULL) == RFAAS_NO_CREDIT);
    EXPECT(send_kind(right, RFAAS_KIND_HELLO, 1, NULL, 0, NULL) == RFAAS_OK);
    rfaas_frame frame = next_frame(left, right);
    EXPECT(frame.header.credits == 1 && frame.n_segments == 0 && frame.text_bytes == 4);
    int cookie;
    rfaas_rc rc = send_kind(left, RFAAS_KIND_CALL, 0, segments, N_SEGMENTS, &cookie);
    EXPECT(rc == RFAAS_OK || rc == RFAAS_QUEUED);
    frame = next_frame(right, left);
    EXPECT(frame.n_segments == N_SEGMENTS);
    for (size_t i = 0; i < N_SEGMENTS; i++) {
        EXPECT(frame.segments[i].iov_len == i % SEGMENT_BYTES);
        EXPECT(frame.segments[i].iov_len == 0 ||
               memcmp(frame.segments[i].iov_base, bytes[i], frame.segments[i].iov_len) == 0);
    }
    release(&frame);
    while (left->queued_frames > 0) /* by reference: until the kernel has given it back */
        EXPECT(rfaas_channel_flush(left, BUDGET_BYTES) == RFAAS_OK);
    EXPECT(rfaas_channel_completed(left) == (rc == RFAAS_QUEUED ? (void *)&cookie : NULL));
    EXPECT(rfaas_channel_completed(left) == NULL);
    rfaas_channel_free(left);
    EXPECT(rfaas_channel_poll(right, BUDGET_BYTES, &frame) == RFAAS_CLOSED);
    rfaas_channel_free(right);
}

/* A frame that is never read, one that is half read, one half sent: all are let go. */
static void test_close_in_the_middle(make_pair_f make_pair)
{
    static uint8_t large[8 << 20];
    const struct iovec segment = {large, sizeof large};
    int cookie;
    rfaas_channel *left, *right;
    make_pair(&left, &right);
    EXPECT(send_kind(left, RFAAS_KIND_RESULT, 0, &segment, 1, NULL) >= RFAAS_OK);
    rfaas_rc rc = send_kind(left, RFAAS_KIND_RESULT, 0, &segment, 1, &cookie);
    rfaas_frame frame;
    rfaas_rc polled = rfaas_channel_poll(right, 1000, &frame);
    EXPECT(polled == RFAAS_MORE || polled == RFAAS_OK);
    if (polled == RFAAS_OK)
        release(&frame);
    rfaas_channel_close(left);
    EXPECT(rfaas_channel_completed(left) == (rc == RFAAS_QUEUED ? (void *)&cookie : NULL));
    EXPECT(send_kind(left, RFAAS_KIND_RESULT, 0, NULL, 0, NULL) == RFAAS_CLOSED);
    rfaas_channel_free(left);
    rfaas_channel_free(right);
}

/* Heads of random extensions under a true checksum: never read beyond, never accept what doesn't add up. */
static void test_random_heads(void)
{
    srand(1);
    for (int round = 0; round < 20000 / share; round++) {
        size_t words = 8 + (size_t)rand() % 12;
        uint8_t *head = calloc(words, 8); /* exactly so large, for the sanitizer to see a step beyond */
        head[0] = RFAAS_WIRE_VERSION;
        head[1] = (uint8_t)rand();
        head[4] = (uint8_t)words;
        head[48] = (uint8_t)(rand() % 40);
        for (size_t i = 64; i < words * 8; i += 8) {
            const uint16_t types[] = {0x8001, 2, 3, 0x8003};
            uint16_t type = types[rand() % 4];
            head[i] = (uint8_t)type;
            head[i + 1] = (uint8_t)(type >> 8);
            head[i + 4] = (uint8_t)(rand() % 30);
        }
        uint32_t crc = rfaas_crc32c(head, words * 8, 0);
        memcpy(head + 8, &crc, 4);
        rfaas_head decoded;
        if (rfaas_head_decode(head, words * 8, &decoded) == RFAAS_HEAD_OK) {
            uint64_t sum = 0;
            for (uint32_t i = 0; i < decoded.n_segments; i++)
                sum += rfaas_head_segment_size(&decoded, i);
            EXPECT(sum == decoded.header.in_size);
        }
        free(head);
    }
}

/* Bytes of a frame, damaged here and there, against a channel. */
static void test_damaged_streams(void)
{
    srand(2);
    for (int round = 0; round < 2000 / share; round++) {
        rfaas_channel *left, *right;
        unix_pair(&left, &right);
        uint8_t bytes[256];
        rfaas_header header = {.kind = RFAAS_KIND_RESULT, .call_id = 1};
        const struct iovec segments[] = {{"abc", 3}, {"defgh", 5}};
        uint64_t in_size;
        size_t head_bytes = rfaas_head_size(&header, segments, 2, 0, &in_size);
        rfaas_head_encode(bytes, head_bytes, &header, in_size, segments, 2, NULL, 0);
        memcpy(bytes + head_bytes, "abcdefgh", 8);
        for (int hits = rand() % 3; hits > 0; hits--)
            bytes[(size_t)rand() % (head_bytes + 8)] = (uint8_t)rand();
        size_t size_bytes = (size_t)rand() % (head_bytes + 9);
        EXPECT(write(rfaas_channel_fd(left), bytes, size_bytes) == (ssize_t)size_bytes);
        rfaas_channel_free(left);
        rfaas_frame frame;
        rfaas_rc rc = rfaas_channel_poll(right, BUDGET_BYTES, &frame);
        EXPECT(rc == RFAAS_OK || rc == RFAAS_CLOSED || rc == RFAAS_BROKEN);
        if (rc == RFAAS_OK)
            release(&frame);
        rfaas_channel_free(right);
    }
}

enum { N_ROUNDS = 2000 };

static void *echo(void *argument)
{
    rfaas_channel *channel = argument;
    for (int i = 0; i < N_ROUNDS / share; i++) {
        rfaas_frame frame;
        while (rfaas_channel_poll(channel, BUDGET_BYTES, &frame) != RFAAS_OK)
            rfaas_channel_wait(channel, -1);
        EXPECT(send_kind(channel, RFAAS_KIND_RESULT, 0, frame.segments, frame.n_segments, NULL) == RFAAS_OK);
        release(&frame);
    }
    return NULL;
}

static void test_two_threads(make_pair_f make_pair)
{
    rfaas_channel *left, *right;
    make_pair(&left, &right);
    pthread_t thread;
    EXPECT(pthread_create(&thread, NULL, echo, right) == 0);
    rfaas_poller poller;
    EXPECT(rfaas_poller_open(&poller) == 0);
    EXPECT(rfaas_poller_add(&poller, rfaas_channel_fd(left), 7) == 0);
    for (int i = 0; i < N_ROUNDS / share; i++) {
        const struct iovec segments[] = {{&i, sizeof i}, {"x", 1}};
        EXPECT(send_kind(left, RFAAS_KIND_RESULT, 0, segments, 2, NULL) == RFAAS_OK);
        rfaas_frame frame;
        uint64_t token = 0;
        while (rfaas_channel_poll(left, BUDGET_BYTES, &frame) != RFAAS_OK)
            EXPECT(rfaas_poller_wait(&poller, &token, 1, -1) == 1 && token == 7);
        EXPECT(memcmp(frame.segments[0].iov_base, &i, sizeof i) == 0);
        release(&frame);
    }
    pthread_join(thread, NULL);
    rfaas_poller_close(&poller);
    rfaas_channel_free(left);
    rfaas_channel_free(right);
}

/* Many frames of all sizes at once, read by a side that falls asleep and wakes up between any two of them. */
static void test_reading_ahead(make_pair_f make_pair)
{
    enum { N_FRAMES = 400 };
    static uint8_t bytes[5000];
    rfaas_channel *left, *right;
    make_pair(&left, &right);
    srand(3);
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)rand();
    int sizes_bytes[N_FRAMES];
    for (int sent = 0, got = 0; got < N_FRAMES;) {
        for (int burst = rand() % 8; burst > 0 && sent < N_FRAMES; burst--, sent++) {
            sizes_bytes[sent] = rand() % (rand() % 4 == 0 ? (int)sizeof bytes : 100);
            const struct iovec segment = {bytes, (size_t)sizes_bytes[sent]};
            rfaas_rc rc = send_kind(left, RFAAS_KIND_RESULT, 0, &segment, 1, NULL);
            EXPECT(rc == RFAAS_OK || rc == RFAAS_QUEUED);
        }
        rfaas_channel_flush(left, BUDGET_BYTES);
        if (rand() % 2)
            rfaas_channel_stay_awake(right, rand() % 2);
        rfaas_frame frame;
        if (rfaas_channel_spin(right, 1000) != RFAAS_OK && got < sent)
            EXPECT(rfaas_channel_wait(right, -1) == RFAAS_OK); /* of what was sent nothing may be hidden from it */
        if (rfaas_channel_poll(right, (uint64_t)(1 + rand() % 3000), &frame) != RFAAS_OK)
            continue;
        EXPECT(frame.n_segments == 1 && frame.segments[0].iov_len == (size_t)sizes_bytes[got]);
        EXPECT(sizes_bytes[got] == 0 || memcmp(frame.segments[0].iov_base, bytes, frame.segments[0].iov_len) == 0);
        got++;
        release(&frame);
    }
    rfaas_channel_free(left);
    rfaas_channel_free(right);
}

static void *take_and_give(void *argument)
{
    (void)argument;
    for (int i = 0; i < 300; i++) {
        size_t size_bytes = RFAAS_LARGE_BUFFER_MIN_BYTES + (size_t)(i % 3) * 1000000;
        uint8_t *buffer = rfaas_large_buffer_take(size_bytes);
        EXPECT(buffer != NULL);
        buffer[0] = buffer[size_bytes - 1] = 1;
        rfaas_large_buffer_give(buffer, size_bytes);
    }
    return NULL;
}

/* A block is one owner's at a time, used again for sizes alike, and a large one or the third is not kept. */
static void test_large_buffers(void)
{
    const size_t size_bytes = RFAAS_LARGE_BUFFER_MIN_BYTES;
    void *first = rfaas_large_buffer_take(size_bytes), *second = rfaas_large_buffer_take(size_bytes);
    EXPECT(first != NULL && second != NULL && first != second);
    rfaas_large_buffer_give(first, size_bytes);
    EXPECT(rfaas_large_buffer_take(size_bytes - 1000) == first);
    rfaas_large_buffer_give(first, size_bytes - 1000);
    rfaas_large_buffer_give(second, size_bytes);
    void *again[] = {rfaas_large_buffer_take(size_bytes), rfaas_large_buffer_take(size_bytes)};
    EXPECT((again[0] == first && again[1] == second) || (again[0] == second && again[1] == first));
    for (int i = 0; i < 2; i++)
        rfaas_large_buffer_give(again[i], size_bytes);
    void *huge = rfaas_large_buffer_take(RFAAS_LARGE_BUFFER_MAX_BYTES + 1);
    rfaas_large_buffer_give(huge, RFAAS_LARGE_BUFFER_MAX_BYTES + 1);
    pthread_t threads[3];
    for (int i = 0; i < 3; i++)
        EXPECT(pthread_create(&threads[i], NULL, take_and_give, NULL) == 0);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
}

/* Payloads sent by reference: each cookie comes back once, in whatever order the kernel says so. */
static void test_loans(void)
{
    rfaas_zerocopy zerocopy = {.on = true};
    for (uint64_t base = 0; base < 3000; base += 10) {
        const uint64_t order[][2] = {{3, 5}, {0, 1}, {7, 10}, {5, 7}, {1, 3}}, after[] = {0, 1, 1, 1, 10};
        for (size_t i = 0; i < 5; i++) {
            rfaas_zerocopy_note(&zerocopy, base + order[i][0], base + order[i][1]);
            EXPECT(zerocopy.returned == base + after[i]);
        }
    }
    enum { N_FRAMES = 40 };
    static uint8_t bytes[200000];
    static int cookies[N_FRAMES];
    const struct iovec segments[] = {{bytes, 100000}, {bytes + 100000, 100000}};
    rfaas_channel *left, *right;
    zerocopy_pair(&left, &right);
    for (int i = 0; i < N_FRAMES; i++)
        EXPECT(send_kind(left, RFAAS_KIND_RESULT, 0, segments, 2, &cookies[i]) == RFAAS_QUEUED);
    for (int i = 0; i < N_FRAMES; i++) {
        rfaas_frame frame = next_frame(right, left);
        EXPECT(frame.n_segments == 2 && frame.segments[1].iov_len == 100000);
        release(&frame);
    }
    int n_back = 0;
    while (n_back < N_FRAMES) {
        EXPECT(rfaas_channel_flush(left, BUDGET_BYTES) == RFAAS_OK && !rfaas_channel_wants_write(left));
        for (int *cookie; (cookie = rfaas_channel_completed(left)) != NULL; n_back++)
            EXPECT((*cookie)++ == 0);
    }
    EXPECT(left->queued_frames == 0);
    rfaas_channel_free(left);
    rfaas_channel_free(right);
}

/* Records of an encrypted channel, damaged, cut or made up, against the other end; and a handshake likewise. */
static void test_damaged_records(void)
{
    srand(4);
    for (int round = 0; round < 300 / share; round++) {
        rfaas_channel *left, *right;
        int fds[2];
        uint8_t bytes[4096];
        if (round % 2) {
            tls_pair(&left, &right);
        } else {
            static const uint8_t key[RFAAS_SECURE_KEY_BYTES] = "of this test";
            const rfaas_tcp_options options = {.max_payload_bytes = LIMIT_BYTES, .secure = &rfaas_tls, .key = key};
            tcp_sockets(fds);
            EXPECT(rfaas_tcp_adopt(fds[0], &options, &left) == RFAAS_OK);
            EXPECT(rfaas_tcp_adopt(fds[1], &options, &right) == RFAAS_OK);
        }
        size_t size_bytes = 1 + (size_t)rand() % 300;
        for (size_t i = 0; i < size_bytes; i++)
            bytes[i] = (uint8_t)rand();
        if (rand() % 4) {
            bytes[0] = (uint8_t)(20 + rand() % 4);
            bytes[1] = bytes[2] = 3;
            bytes[3] = 0;
            bytes[4] = (uint8_t)size_bytes;
        }
        EXPECT(write(rfaas_channel_fd(left), bytes, size_bytes) == (ssize_t)size_bytes);
        shutdown(rfaas_channel_fd(left), SHUT_WR);
        rfaas_frame frame;
        rfaas_rc rc;
        while ((rc = rfaas_channel_poll(right, BUDGET_BYTES, &frame)) == RFAAS_AGAIN || rc == RFAAS_MORE)
            rfaas_channel_wait(right, -1);
        EXPECT(rc == RFAAS_BROKEN && strlen(rfaas_channel_why(right)) > 0);
        rfaas_channel_free(left);
        rfaas_channel_free(right);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1)
        share = atoi(argv[1]);
    EXPECT(share > 0);
    const make_pair_f makers[] = {inproc_pair, unix_pair, shm_pair,      tcp_pair,
                                  awake_pair,  tls_pair,  awake_tls_pair, zerocopy_pair};
    for (size_t i = 0; i < sizeof makers / sizeof *makers; i++) {
        test_exchange(makers[i]);
        test_close_in_the_middle(makers[i]);
        test_two_threads(makers[i]);
    }
    test_reading_ahead(tcp_pair);
    test_reading_ahead(tls_pair);
    test_reading_ahead(shm_pair);
    const make_pair_f attended[] = {unix_pair, tls_pair, shm_pair};
    for (size_t i = 0; i < sizeof attended / sizeof *attended; i++) {
        rfaas_channel *left, *right;
        attended[i](&left, &right);
        test_attendant(left, right);
    }
    test_large_buffers();
    test_loans();
    test_random_heads();
    test_damaged_streams();
    test_damaged_records();
    test_arrays(argc < 3);
    test_heap(5000 / share);
    test_loan(3000 / (uint64_t)share);
    test_region(60 / share);
    return 0;
}
