/* core_heap_test.c - numpy's memory in a channel's arena, without numpy and under sanitizers: a part of core_test.c's
 * program.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "array_heap.h"
#include "expect.h"
#include "shm_channel.h"

enum { ARENA_BYTES = 4 << 20, LIMIT_BYTES = 1 << 24, SIZE_BYTES = 300000, THREADS = 4 };

void test_heap(int rounds);

static rfaas_channel *worker, *client;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static rfaas_array_allocator heap;
static _Atomic int n_plain; /* in use of what stands behind */

/* ---- what stands behind ---- */

static void *plain_malloc(void *context, size_t size_bytes)
{
    EXPECT(context == &n_plain);
    n_plain++;
    return malloc(size_bytes);
}

static void *plain_calloc(void *context, size_t n, size_t size_bytes)
{
    EXPECT(context == &n_plain);
    if (n > SIZE_MAX / size_bytes)
        return NULL;
    n_plain++;
    return calloc(n, size_bytes);
}

static void *plain_realloc(void *context, void *at, size_t size_bytes)
{
    EXPECT(context == &n_plain);
    return realloc(at, size_bytes);
}

static void plain_free(void *context, void *at, size_t size_bytes)
{
    (void)size_bytes;
    EXPECT(context == &n_plain);
    n_plain--;
    free(at);
}

/* ---- a channel whose side 1 serves calls, with all of its arena ready ---- */

static void begin(void)
{
    static const rfaas_array_allocator behind = {&n_plain, plain_malloc, plain_calloc, plain_realloc, plain_free};
    int fds[2], memory_fd = rfaas_shm_create(ARENA_BYTES);
    EXPECT(memory_fd >= 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    EXPECT(rfaas_shm_adopt(fds[0], dup(memory_fd), 0, LIMIT_BYTES, &client) == RFAAS_OK);
    EXPECT(rfaas_shm_adopt(fds[1], memory_fd, 1, LIMIT_BYTES, &worker) == RFAAS_OK);
    rfaas_shm_grow_peers_arena(((shm_channel *)client)->segment, ARENA_BYTES);
    heap = rfaas_array_heap_begin(&behind)->allocator;
    rfaas_array_heap_serve(worker, &lock);
}

static void end(void)
{
    rfaas_array_heap_leave(worker);
    rfaas_channel_free(worker);
    rfaas_channel_free(client);
    EXPECT(n_plain == 0 && !rfaas_array_heap_is_used());
}

static bool is_in_arena(const void *at)
{
    const rfaas_shm_segment *segment = ((shm_channel *)worker)->segment;
    const uint8_t *begin = rfaas_shm_tx_arena(segment);
    return (const uint8_t *)at >= begin && (const uint8_t *)at < begin + segment->arena_bytes;
}

static void *take(size_t size_bytes)
{
    void *at = heap.malloc(heap.context, size_bytes);
    EXPECT(at != NULL);
    return at;
}

static void give(void *at, size_t size_bytes)
{
    heap.free(heap.context, at, size_bytes);
}

static rfaas_frame sent(const void *bytes, size_t size_bytes)
{
    rfaas_header header = {.kind = RFAAS_KIND_RESULT, .call_id = 7};
    const struct iovec piece = {(void *)bytes, size_bytes};
    rfaas_frame frame;
    EXPECT(rfaas_channel_send(worker, &header, &piece, 1, NULL, 0, NULL) == RFAAS_OK);
    EXPECT(rfaas_channel_poll(client, LIMIT_BYTES, &frame) == RFAAS_OK && frame.n_segments == 1);
    return frame;
}

static void release(rfaas_frame *frame)
{
    frame->memory.release(frame->memory.context, frame->buffer, frame->buffer_bytes);
}

/* ---- */

static void test_what_lies_where(void)
{
    begin();
    void *small = take(1000), *large = take(SIZE_BYTES);
    EXPECT(!is_in_arena(small) && is_in_arena(large) && (uintptr_t)large % 4096 == 0);
    memset(large, 1, SIZE_BYTES);
    give(large, SIZE_BYTES);
    EXPECT(take(SIZE_BYTES - 5) == large); /* recycled */
    give(large, SIZE_BYTES - 5);
    uint8_t *zeros = heap.calloc(heap.context, SIZE_BYTES / 4, 4);
    EXPECT(zeros == large && zeros[0] == 0 && memcmp(zeros, zeros + 1, SIZE_BYTES - 1) == 0);
    zeros[0] = 9;
    EXPECT(heap.realloc(heap.context, zeros, SIZE_BYTES / 2) == zeros);
    uint8_t *grown = heap.realloc(heap.context, zeros, 2 * SIZE_BYTES);
    EXPECT(is_in_arena(grown) && grown != zeros && grown[0] == 9 && grown[SIZE_BYTES - 1] == 0);
    small = heap.realloc(heap.context, small, 2 * SIZE_BYTES);
    EXPECT(!is_in_arena(small)); /* whoever made it enlarges it */
    EXPECT(heap.calloc(heap.context, SIZE_MAX / 2, 4) == NULL); /* and not a block for what is left of that number */
    rfaas_array_heap_serve(NULL, NULL);
    void *between = take(SIZE_BYTES);
    EXPECT(!is_in_arena(between));
    give(between, SIZE_BYTES);
    give(grown, 2 * SIZE_BYTES); /* after the call, too */
    give(small, 2 * SIZE_BYTES);
    end();
}

/* Half of the arena, and so many arrays; more lie where they always lay. */
static void test_limits(void)
{
    void *held[RFAAS_ARRAY_HEAP_MOST + 1];
    begin();
    void *half = take(ARENA_BYTES / 2), *more = take(RFAAS_ARRAY_HEAP_LEAST_BYTES);
    EXPECT(is_in_arena(half) && !is_in_arena(more));
    give(half, ARENA_BYTES / 2);
    give(more, RFAAS_ARRAY_HEAP_LEAST_BYTES);
    pthread_mutex_lock(&lock);
    more = take(SIZE_BYTES);
    pthread_mutex_unlock(&lock);
    EXPECT(!is_in_arena(more)); /* nobody waits for who uses the channel */
    give(more, SIZE_BYTES);
    for (int i = 0; i <= RFAAS_ARRAY_HEAP_MOST; i++) {
        held[i] = take(RFAAS_ARRAY_HEAP_LEAST_BYTES);
        EXPECT(is_in_arena(held[i]) == (i < RFAAS_ARRAY_HEAP_MOST && i < ARENA_BYTES / 2 / RFAAS_ARRAY_HEAP_LEAST_BYTES));
    }
    for (int i = 0; i <= RFAAS_ARRAY_HEAP_MOST; i++)
        give(held[i], RFAAS_ARRAY_HEAP_LEAST_BYTES);
    end();
}

static void test_handing_over(void)
{
    rfaas_channel_array array;
    size_t array_bytes;
    begin();
    uint8_t *result = take(SIZE_BYTES);
    memset(result, 3, SIZE_BYTES);
    EXPECT(rfaas_array_heap_pin(client, result, SIZE_BYTES) == NULL);
    EXPECT(rfaas_array_heap_pin(worker, result, ARENA_BYTES) == NULL);
    rfaas_array_pin *pin = rfaas_array_heap_pin(worker, result + 10, SIZE_BYTES - 10);
    EXPECT(pin != NULL && !rfaas_array_heap_claim(pin, &array, &array_bytes)); /* the function has it still */
    rfaas_frame kept = sent(result + 10, SIZE_BYTES - 10);
    EXPECT(kept.n_placed == 0);
    give(result, SIZE_BYTES); /* a pin holds it: it is no one else's */
    void *other = take(SIZE_BYTES);
    EXPECT(other != result && result[0] == 3);
    rfaas_array_pin *second = rfaas_array_heap_pin(worker, other, SIZE_BYTES);
    rfaas_array_pin *third = rfaas_array_heap_pin(worker, other, SIZE_BYTES / 2);
    give(other, SIZE_BYTES);
    EXPECT(!rfaas_array_heap_claim(second, &array, &array_bytes)); /* two parts of it are sent */
    rfaas_array_heap_unpin(third);
    rfaas_array_heap_unpin(second);
    EXPECT(take(SIZE_BYTES) == other);
    give(other, SIZE_BYTES);
    EXPECT(rfaas_array_heap_claim(pin, &array, &array_bytes) && array_bytes >= SIZE_BYTES && array.at == result);
    rfaas_channel_array_hand_over(worker, &array);
    rfaas_frame frame = sent(result + 10, SIZE_BYTES - 10);
    EXPECT(frame.n_placed == 1 && ((uint8_t *)frame.segments[0].iov_base)[SIZE_BYTES - 11] == 3);
    rfaas_channel_array_give_back(worker, &array); /* too late */
    other = take(SIZE_BYTES);
    EXPECT(other != result);
    give(other, SIZE_BYTES);
    release(&kept);
    release(&frame);
    other = take(SIZE_BYTES);
    EXPECT(other == result);
    give(other, SIZE_BYTES);
    end();
}

/* What a function keeps is there when its channel is not. */
static void test_outliving(void)
{
    begin();
    uint8_t *array = take(SIZE_BYTES), *pinned = take(SIZE_BYTES);
    memset(array, 5, SIZE_BYTES);
    rfaas_array_pin *pin = rfaas_array_heap_pin(worker, pinned, SIZE_BYTES);
    rfaas_channel_array claimed;
    size_t claimed_bytes;
    rfaas_array_heap_leave(worker);
    EXPECT(rfaas_array_heap_pin(worker, array, SIZE_BYTES) == NULL);
    give(pinned, SIZE_BYTES);
    EXPECT(!rfaas_array_heap_claim(pin, &claimed, &claimed_bytes));
    void *plain = take(SIZE_BYTES);
    rfaas_channel_free(worker);
    rfaas_channel_free(client);
    rfaas_array_heap_unpin(pin);
    array[1] = 6;
    EXPECT(array[0] == 5 && array[SIZE_BYTES - 1] == 5);
    give(plain, SIZE_BYTES);
    give(array, SIZE_BYTES);
    EXPECT(n_plain == 0 && !rfaas_array_heap_is_used());
}

/* A child has what there was at the fork, whatever its parent does with it, and gives nothing of its parent's back. */
static void test_forking(void)
{
    int go[2], status;
    char byte = 0;
    begin();
    uint8_t *array = take(SIZE_BYTES);
    memset(array, 1, SIZE_BYTES);
    EXPECT(pipe(go) == 0);
    pid_t child = fork();
    EXPECT(child >= 0);
    if (child == 0) {
        close(go[1]);
        bool right = read(go[0], &byte, 1) == 0; /* the parent has written and freed */
        for (int i = 0; i < SIZE_BYTES; i++)
            right = right && array[i] == 1;
        array[0] = 4;
        void *own = take(SIZE_BYTES);
        right = right && !is_in_arena(own);
        give(own, SIZE_BYTES);
        pid_t grandchild = fork();
        if (grandchild == 0)
            _exit(array[0] == 4 && array[1] == 1 ? 0 : 1);
        right = right && waitpid(grandchild, &status, 0) == grandchild && status == 0;
        give(array, SIZE_BYTES);
        _exit(right && !rfaas_array_heap_is_used() ? 0 : 1);
    }
    memset(array, 2, SIZE_BYTES);
    give(array, SIZE_BYTES);
    EXPECT(take(SIZE_BYTES) == array);
    memset(array, 3, SIZE_BYTES);
    close(go[0]);
    close(go[1]);
    EXPECT(waitpid(child, &status, 0) == child && status == 0);
    for (int i = 0; i < SIZE_BYTES; i++)
        EXPECT(array[i] == 3);
    void *other = take(SIZE_BYTES); /* the child gave nothing back */
    EXPECT(other != array);
    give(other, SIZE_BYTES);
    give(array, SIZE_BYTES);
    end();
}

static void *make_and_pass_on(void *argument)
{
    static _Atomic(void *) passed; /* each frees what another made */
    unsigned random = 20261126;
    for (int i = 0; i < *(const int *)argument; i++) {
        size_t size_bytes = 60000 + (size_t)rand_r(&random) % SIZE_BYTES;
        uint8_t *array = take(size_bytes);
        array[0] = array[size_bytes - 1] = (uint8_t)i;
        EXPECT(array[0] == (uint8_t)i && array[size_bytes - 1] == (uint8_t)i);
        void *before = atomic_exchange(&passed, array);
        if (before != NULL)
            give(before, 1);
    }
    void *last = atomic_exchange(&passed, NULL);
    if (last != NULL)
        give(last, 1);
    return NULL;
}

static void test_threads(int rounds)
{
    pthread_t threads[THREADS];
    begin();
    for (int i = 0; i < THREADS; i++)
        EXPECT(pthread_create(&threads[i], NULL, make_and_pass_on, &rounds) == 0);
    for (int i = 0; i < rounds / 10; i++) { /* calls come and go meanwhile */
        rfaas_array_heap_serve(NULL, NULL);
        rfaas_array_heap_serve(worker, &lock);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    end();
}

void test_heap(int rounds)
{
    test_what_lies_where();
    test_limits();
    test_handing_over();
    test_outliving();
    test_forking();
    test_threads(rounds);
}
