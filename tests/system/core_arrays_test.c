/* core_arrays_test.c - arrays that are not copied, under sanitizers: a part of core_test.c's program.
 *
 * What a peer says of them is written into the ring by hand here, as a hostile or broken one would.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "array_pool.h"
#include "expect.h"
#include "rfaas_channel.h"
#include "shm_segment.h"

enum { ARENA_BYTES = 1 << 20, POOL_BYTES = 16 << 20, LIMIT_BYTES = 1 << 24, BUDGET_BYTES = 1 << 20, ROUNDS = 500 };

void test_arrays(bool maps_twice);

static int memory_fd; /* of the last pair */

static void make_pair(rfaas_channel **left, rfaas_channel **right, bool with_pool)
{
    int fds[2];
    memory_fd = rfaas_shm_create(ARENA_BYTES);
    EXPECT(memory_fd >= 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    EXPECT(rfaas_shm_adopt(fds[0], dup(memory_fd), 0, LIMIT_BYTES, left) == RFAAS_OK);
    EXPECT(rfaas_shm_adopt(fds[1], dup(memory_fd), 1, LIMIT_BYTES, right) == RFAAS_OK);
    if (!with_pool)
        return;
    int pool_fd = rfaas_array_pool_export();
    EXPECT(pool_fd >= 0);
    EXPECT(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, pool_fd, 0) == MAP_FAILED); /* to be read only */
    rfaas_shm_adopt_pool(*right, pool_fd);
    close(pool_fd);
}

static void free_pair(rfaas_channel *left, rfaas_channel *right)
{
    rfaas_channel_free(left);
    rfaas_channel_free(right);
    close(memory_fd);
}

static void release(rfaas_frame *frame)
{
    if (frame->buffer != NULL)
        frame->memory.release(frame->memory.context, frame->buffer, frame->buffer_bytes);
}

static rfaas_rc send_pieces(rfaas_channel *channel, const struct iovec *segments, size_t n_segments)
{
    rfaas_header header = {.kind = RFAAS_KIND_RESULT, .call_id = 7};
    return rfaas_channel_send(channel, &header, segments, n_segments, NULL, 0, NULL);
}

static rfaas_frame receive(rfaas_channel *channel)
{
    rfaas_frame frame;
    EXPECT(rfaas_channel_poll(channel, BUDGET_BYTES, &frame) == RFAAS_OK);
    return frame;
}

/* The next frame, while the other side sends what it has queued. */
static rfaas_frame receive_while_flushing(rfaas_channel *channel, rfaas_channel *sender)
{
    rfaas_frame frame;
    for (int turns = 0; rfaas_channel_poll(channel, BUDGET_BYTES, &frame) != RFAAS_OK; turns++) {
        EXPECT(turns < ROUNDS);
        rfaas_channel_flush(sender, BUDGET_BYTES);
    }
    return frame;
}

/* What lies in the pool is read where it is; what is kept of it beyond the call is a copy. */
static void test_pool(void)
{
    rfaas_channel *left, *right;
    rfaas_array_pool *pool;
    make_pair(&left, &right, true);
    const size_t size_bytes = 1 << 20;
    uint8_t *array = rfaas_array_pool_take(size_bytes, &pool);
    EXPECT(array != NULL);
    memset(array, 1, size_bytes);
    char small[] = "small", large[100000] = "large";
    const struct iovec pieces[] = {{small, sizeof small}, {array + 13, 500000}, {large, sizeof large}, {array, size_bytes}};
    EXPECT(send_pieces(left, pieces, 4) == RFAAS_OK);
    rfaas_frame frame = receive(right);
    EXPECT(frame.n_segments == 4 && frame.n_placed == 2 && frame.placed[0].segment == 1 && frame.placed[1].read_only);
    for (int i = 0; i < 4; i++)
        EXPECT(frame.segments[i].iov_len == pieces[i].iov_len &&
               memcmp(frame.segments[i].iov_base, pieces[i].iov_base, pieces[i].iov_len) == 0);
    const uint8_t *seen = frame.segments[3].iov_base;
    array[0] = 2;
    EXPECT(seen != array && seen[0] == 2); /* one memory, two mappings */
    EXPECT(rfaas_channel_is_borrowed(right, seen, 1));
    EXPECT(rfaas_channel_detach(right) == RFAAS_OK);
    array[0] = 3;
    EXPECT(seen[0] == 2 && seen[size_bytes - 1] == 1 && !rfaas_channel_is_borrowed(right, seen, 1));
    EXPECT(send_pieces(left, pieces + 3, 1) == RFAAS_OK);
    rfaas_frame next = receive(right);
    EXPECT(((const uint8_t *)next.segments[0].iov_base)[0] == 3 && seen[0] == 2);
    release(&next);
    EXPECT(rfaas_channel_detach(right) == RFAAS_OK);
    free_pair(left, right);
    EXPECT(seen[0] == 2); /* outlives the channel */
    release(&frame);
    rfaas_array_pool_give_back(pool, array);
    EXPECT(rfaas_array_pool_usage().n_used == 0);
}

/* Thousands of arrays that are kept need no thousands of mappings of the whole pool, and go one by one. */
static void test_many_kept(void)
{
    enum { KEPT = 200, SIZE_BYTES = 40000 };
    static rfaas_frame frames[KEPT];
    rfaas_channel *left, *right;
    rfaas_array_pool *pool;
    make_pair(&left, &right, true);
    uint8_t *array = rfaas_array_pool_take(3 * SIZE_BYTES, &pool);
    for (int i = 0; i < KEPT; i++) {
        memset(array, i, 3 * SIZE_BYTES);
        const struct iovec pieces[] = {{array + 1, SIZE_BYTES}, {array + SIZE_BYTES / 2, SIZE_BYTES}};
        EXPECT(send_pieces(left, pieces, 2) == RFAAS_OK);
        frames[i] = receive(right);
        EXPECT(frames[i].n_placed == 2);
        frames[i].segments = memcpy(malloc(2 * sizeof(struct iovec)), frames[i].segments, 2 * sizeof(struct iovec));
        EXPECT(rfaas_channel_detach(right) == RFAAS_OK);
    }
    FILE *maps = fopen("/proc/self/maps", "r");
    unsigned long begin, end;
    char line[512];
    uint64_t mapped_bytes = 0;
    EXPECT(maps != NULL);
    while (fgets(line, sizeof line, maps) != NULL)
        if (strstr(line, "rfaas-arrays") != NULL && sscanf(line, "%lx-%lx", &begin, &end) == 2)
            mapped_bytes += end - begin;
    fclose(maps);
    EXPECT(mapped_bytes <= 2 * POOL_BYTES); /* ours, and the peer's present one */
    for (int i = 0; i < KEPT; i++) {
        for (int j = 0; j < 2; j++) {
            const uint8_t *bytes = frames[i].segments[j].iov_base;
            EXPECT(bytes[0] == (uint8_t)i && bytes[SIZE_BYTES - 1] == (uint8_t)i);
        }
        free((void *)frames[i].segments);
        release(&frames[i]);
    }
    rfaas_array_pool_give_back(pool, array);
    free_pair(left, right);
}

/* A block that was taken is handed over, or comes back unsent; whatever the peer says of it meanwhile. */
static void test_blocks(void)
{
    rfaas_channel *left, *right;
    make_pair(&left, &right, false);
    rfaas_shm_segment *segment = rfaas_shm_map(memory_fd, 1);
    rfaas_channel_array array = {0}, other = {0};
    EXPECT(rfaas_channel_array_take(left, ARENA_BYTES / 2, &array));
    EXPECT(!rfaas_channel_array_take(left, ARENA_BYTES, &other));
    for (uint32_t i = 0; i < RFAAS_SHM_BLOCKS; i++)
        atomic_store(&rfaas_shm_rx(segment)->released[i], array.generation); /* a lie */
    EXPECT(!rfaas_channel_array_take(left, ARENA_BYTES, &other));
    for (uint32_t i = 0; i < RFAAS_SHM_BLOCKS; i++)
        atomic_store(&rfaas_shm_rx(segment)->released[i], 0);
    memset(array.at, 9, ARENA_BYTES / 2);
    const struct iovec piece = {(uint8_t *)array.at + 64, 100000};
    EXPECT(send_pieces(left, &piece, 1) == RFAAS_OK); /* not handed over: copied */
    rfaas_frame frame = receive(right);
    EXPECT(frame.n_placed == 0);
    release(&frame);
    rfaas_channel_array_hand_over(left, &array);
    EXPECT(send_pieces(left, &piece, 1) == RFAAS_OK);
    rfaas_channel_array_give_back(left, &array); /* too late: it is the peer's */
    EXPECT(!rfaas_channel_array_take(left, ARENA_BYTES, &other));
    frame = receive(right);
    EXPECT(frame.n_placed == 1 && !frame.placed[0].read_only && ((uint8_t *)frame.segments[0].iov_base)[99999] == 9);
    release(&frame);
    EXPECT(rfaas_channel_array_take(left, ARENA_BYTES, &other));
    rfaas_channel_array_give_back(left, &other);
    EXPECT(rfaas_channel_array_take(left, ARENA_BYTES, &other));
    rfaas_shm_unuse(segment);
    free_pair(left, right);
}

/* What is said of places comes right before their frame, or not at all: never over entries that were not read, never before
 * a frame that waits. */
static void test_places_in_turn(void)
{
    rfaas_channel *left, *right;
    rfaas_array_pool *pool;
    make_pair(&left, &right, true);
    uint8_t *array = rfaas_array_pool_take(100000, &pool);
    EXPECT(array != NULL);
    memset(array, 5, 100000);
    const struct iovec small = {"12345", 5}, large = {array, 100000};
    struct iovec many[RFAAS_PLACED_MAX];
    int n_sent = 0, n_got = 0;
    for (int i = 0; i < RFAAS_PLACED_MAX; i++)
        many[i] = (struct iovec){array + i, 90000};
    for (; n_sent < RFAAS_SHM_ENTRIES - 4; n_sent++)
        EXPECT(send_pieces(left, &small, 1) == RFAAS_OK);
    EXPECT(send_pieces(left, many, RFAAS_PLACED_MAX) >= RFAAS_OK); /* there is no room to say of each where it lies */
    for (; n_got <= n_sent; n_got++) {
        rfaas_frame frame = receive_while_flushing(right, left);
        EXPECT(frame.n_segments == (n_got < n_sent ? 1 : RFAAS_PLACED_MAX) && frame.n_placed == 0);
        release(&frame);
    }
    n_sent = n_got = 0;
    while (send_pieces(left, &small, 1) == RFAAS_OK)
        n_sent++;
    EXPECT(n_sent >= RFAAS_SHM_ENTRIES); /* and one more waits */
    EXPECT(send_pieces(left, &large, 1) == RFAAS_QUEUED);
    for (; n_got < RFAAS_SHM_ENTRIES / 2; n_got++) {
        rfaas_frame frame = receive(right);
        EXPECT(frame.header.in_size == 5);
        release(&frame);
    }
    EXPECT(send_pieces(left, &large, 1) == RFAAS_QUEUED); /* there is room in the rings, but others wait */
    for (; n_got < n_sent + 3; n_got++) {
        rfaas_frame frame = receive_while_flushing(right, left);
        bool is_large = n_got > n_sent;
        EXPECT(frame.n_segments == 1 && frame.segments[0].iov_len == (is_large ? large : small).iov_len);
        EXPECT(memcmp(frame.segments[0].iov_base, (is_large ? large : small).iov_base, frame.segments[0].iov_len) == 0);
        release(&frame);
    }
    rfaas_array_pool_give_back(pool, array);
    free_pair(left, right);
}

static void tell_lie(rfaas_shm_entry *entry, unsigned *random)
{
    const uint64_t wide[] = {0, 1, 4096, 40000, ARENA_BYTES - 1, ARENA_BYTES, POOL_BYTES, UINT64_MAX, UINT64_MAX - 4095};
    const uint32_t narrow[] = {0, 1, 2, 3, 255, 256, UINT32_MAX};
    uint64_t large = wide[rand_r(random) % 9];
    uint32_t small = narrow[rand_r(random) % 7];
    switch (rand_r(random) % 6) {
    case 0: entry->at = large; break;
    case 1: entry->block_bytes = large; break;
    case 2: entry->block = small; break;
    case 3: entry->segment = small; break;
    case 4: entry->space = small; break;
    default: entry->kind = RFAAS_SHM_BLOCK; break;
    }
}

/* Entries of which anything may be wrong, before a frame that is right: it is delivered as it was, or the channel breaks;
 * nothing beyond the memories is ever touched. */
static void test_lies(void)
{
    unsigned random = 20261126;
    int n_broken = 0, n_right = 0;
    for (int round = 0; round < ROUNDS; round++) {
        rfaas_channel *left, *right;
        make_pair(&left, &right, round % 2 == 0);
        rfaas_shm_segment *segment = rfaas_shm_map(memory_fd, 0);
        rfaas_shm_writer writer;
        rfaas_shm_writer_init(&writer, rfaas_shm_tx(segment), rfaas_shm_tx_arena(segment), segment->arena_bytes);
        for (int n = 1 + rand_r(&random) % (round % 4 == 0 ? 10 : 1); n > 0; n--) {
            rfaas_shm_entry *entry = rfaas_shm_entry_to_write(&writer);
            entry->kind = RFAAS_SHM_PLACED;
            entry->size_bytes = 0;
            entry->at = 4096;
            entry->block_bytes = 40000;
            entry->block = 3;
            entry->generation = 1;
            entry->segment = 0;
            entry->space = round % 3 == 0 ? RFAAS_SHM_POOL : RFAAS_SHM_ARENA;
            for (int lies = rand_r(&random) % 4; lies > 0; lies--)
                tell_lie(entry, &random);
            rfaas_shm_publish(&writer);
        }
        rfaas_header header = {.kind = RFAAS_KIND_RESULT};
        uint8_t head[1024];
        uint64_t in_size;
        const struct iovec pieces[] = {{NULL, 40000}, {NULL, 0}, {NULL, 0}};
        size_t head_bytes = rfaas_head_size(&header, pieces, 3, 0, &in_size);
        rfaas_head_encode(head, head_bytes, &header, in_size, pieces, 3, NULL, 0);
        rfaas_shm_entry *entry = rfaas_shm_entry_to_write(&writer);
        entry->kind = RFAAS_SHM_FRAME;
        memcpy(entry->header, head, RFAAS_HEADER_BYTES);
        entry->size_bytes = (uint32_t)(head_bytes - RFAAS_HEADER_BYTES);
        memcpy(entry->bytes, head + RFAAS_HEADER_BYTES, head_bytes - RFAAS_HEADER_BYTES);
        rfaas_shm_publish(&writer);
        rfaas_frame frame;
        rfaas_rc rc = rfaas_channel_poll(right, BUDGET_BYTES, &frame);
        if (rc == RFAAS_OK) {
            volatile uint8_t sum = 0;
            for (uint32_t i = 0; i < frame.n_segments; i++)
                for (size_t at = 0; at < frame.segments[i].iov_len; at++)
                    sum += ((const uint8_t *)frame.segments[i].iov_base)[at];
            release(&frame);
        }
        n_broken += rc == RFAAS_BROKEN;
        n_right += rc == RFAAS_OK;
        rfaas_shm_unuse(segment);
        free_pair(left, right);
    }
    EXPECT(n_broken > ROUNDS / 4 && n_right > ROUNDS / 10);
}

/* A child owns what it inherited: neither its writing nor its letting go shows in the parent. */
static void test_fork(void)
{
    rfaas_channel *left, *right;
    rfaas_array_pool *pool;
    make_pair(&left, &right, true);
    uint8_t *array = rfaas_array_pool_take(100000, &pool), data[100000] = {5};
    memset(array, 4, 100000);
    const struct iovec piece = {data, sizeof data};
    EXPECT(send_pieces(right, &piece, 1) == RFAAS_OK); /* through the ring; makes room */
    rfaas_frame frame = receive(left);
    release(&frame);
    EXPECT(send_pieces(right, &piece, 1) == RFAAS_OK);
    frame = receive(left);
    uint8_t *result = frame.segments[0].iov_base;
    pid_t child = fork();
    EXPECT(child >= 0);
    if (child == 0) {
        bool as_it_was = array[0] == 4 && result[0] == 5;
        array[0] = result[0] = 77;
        rfaas_array_pool *own;
        uint8_t *more = rfaas_array_pool_take(100000, &own);
        if (more != NULL)
            memset(more, 88, 100000);
        rfaas_array_pool_give_back(pool, array);
        release(&frame);
        _exit(as_it_was && more != NULL && more != array ? 0 : 1);
    }
    int status;
    EXPECT(waitpid(child, &status, 0) == child && status == 0);
    EXPECT(array[0] == 4 && array[99999] == 4 && result[0] == 5);
    EXPECT(rfaas_array_pool_usage().n_used == 1);
    EXPECT(send_pieces(right, &piece, 1) == RFAAS_OK); /* the block is not free because the child said so */
    EXPECT(result[0] == 5);
    release(&frame);
    rfaas_array_pool_give_back(pool, array);
    free_pair(left, right);
}

/* Blocks of any size, kept and given back in any order, never overlap; what is kept for the next is bounded. */
static void test_pool_at_random(void)
{
    enum { N = 40 };
    struct {
        uint8_t *at;
        size_t size_bytes;
    } held[N] = {{0}};
    rfaas_array_pool *pool;
    unsigned random = 7;
    for (int round = 0; round < 4000; round++) {
        int i = rand_r(&random) % N;
        if (held[i].at != NULL) {
            EXPECT(held[i].at[0] == (uint8_t)i && held[i].at[held[i].size_bytes - 1] == (uint8_t)i);
            rfaas_array_pool_give_back(pool, held[i].at);
            held[i].at = NULL;
            continue;
        }
        held[i].size_bytes = 1 + (size_t)rand_r(&random) % 600000;
        held[i].at = rfaas_array_pool_take(held[i].size_bytes, &pool);
        if (held[i].at == NULL)
            continue; /* full, for now */
        held[i].at[0] = held[i].at[held[i].size_bytes - 1] = (uint8_t)i;
    }
    for (int i = 0; i < N; i++)
        if (held[i].at != NULL)
            rfaas_array_pool_give_back(pool, held[i].at);
    rfaas_array_pool_use use = rfaas_array_pool_usage();
    EXPECT(use.n_used == 0 && use.used_bytes == 0 && use.cached_bytes <= use.size_bytes);
    EXPECT(rfaas_array_pool_take(POOL_BYTES + 1, &pool) == NULL);
    uint8_t *all = rfaas_array_pool_take(POOL_BYTES, &pool); /* what was kept makes way */
    EXPECT(all != NULL);
    rfaas_array_pool_give_back(pool, all);
}

/* `maps_twice`: mremap() can map shared memory a second time, which it can't under valgrind; then arrays are copied. */
void test_arrays(bool maps_twice)
{
    rfaas_array_pool_set_size(POOL_BYTES);
    if (maps_twice) {
        test_pool();
        test_many_kept();
    }
    test_blocks();
    test_places_in_turn();
    test_lies();
    test_fork();
    test_pool_at_random();
}
