/* fuzz_memory.c - the medium over shared memory (006): entries, blocks, places, and every word that the other side writes.
 *
 * The input is a list of records of 48 bytes: what to write, and where; between them this side receives and sends.
 */
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "array_pool.h"
#include "fuzz.h"
#include "rfaas_channel.h"
#include "shm_segment.h"
#include "shm_small.h"

enum { ARENA_BYTES = 1 << 16, POOL_BYTES = 1 << 16, LIMIT_BYTES = 1 << 20, BUDGET_BYTES = 1 << 20, RECORD_BYTES = 48 };

typedef struct record {
    uint8_t what, kind, number, flags;
    uint32_t size_bytes;
    uint64_t at, block_bytes;
    uint32_t block, generation, segment, space;
    uint8_t rest[8];
} record;

_Static_assert(sizeof(record) == RECORD_BYTES, "no padding");

static void put_entry(rfaas_shm_shared *theirs, uint64_t *next, uint64_t *data_at, const record *one)
{
    rfaas_shm_entry *entry = &theirs->entries[*next % RFAAS_SHM_ENTRIES];
    rfaas_header header = {.kind = one->rest[0], .call_id = 7};
    struct iovec segments[2] = {{NULL, one->rest[1] * 1000u}, {NULL, one->rest[2]}};
    uint8_t head[256];
    uint64_t in_size;
    size_t n = one->rest[3] % 3, head_bytes = rfaas_head_size(&header, segments, n, 0, &in_size);
    rfaas_head_encode(head, head_bytes, &header, in_size, segments, n, NULL, 0);
    memcpy(entry->header, head, sizeof entry->header);
    entry->kind = one->kind % 6;
    entry->size_bytes = one->size_bytes;
    entry->at = one->flags & 1 ? *data_at : one->at;
    if (one->size_bytes > RFAAS_SHM_INLINE_BYTES) {
        memcpy(theirs->data + entry->at % RFAAS_SHM_DATA_BYTES % (RFAAS_SHM_DATA_BYTES - sizeof head),
               head + sizeof entry->header, sizeof head - sizeof entry->header);
        *data_at = entry->at + (((uint64_t)one->size_bytes + 63) & ~(uint64_t)63);
    } else if (entry->kind == RFAAS_SHM_FRAME) {
        memcpy(entry->bytes, head + sizeof entry->header, sizeof entry->bytes);
    }
    if (entry->kind >= RFAAS_SHM_BLOCK) {
        entry->block_bytes = one->block_bytes;
        entry->block = one->block;
        entry->generation = one->generation;
        entry->segment = one->segment;
        entry->space = one->space;
    }
    if (entry->kind == RFAAS_SHM_SMALL) {
        const struct iovec segment = {head, one->rest[1] % (RFAAS_SHM_SMALL_BYTES + 1)};
        rfaas_shm_put_small(entry, &header, &segment, n > 0);
        if (one->flags & 4) /* what it says of itself is wrong, or its checksum is */
            entry->small[one->rest[4] % RFAAS_SHM_SMALL_WORDS] = one->block_bytes;
    }
    entry->sequence = one->flags & 2 ? one->at : ++*next;
}

static void put_word(rfaas_shm_shared *ours, rfaas_shm_shared *theirs, const record *one)
{
    switch (one->number % 9) {
    case 0: ours->lines.consumed = one->at; break;
    case 1: ours->lines.consumed_bytes = one->at; break;
    case 2: ours->lines.reader = one->block; break;
    case 3: ours->released[one->block % RFAAS_SHM_BLOCKS] = one->generation; break;
    case 4: ours->lines.arena_ready_bytes = one->at; break;
    case 5: ours->lines.pool_mapped = one->block; break;
    case 6: theirs->lines.writer_waits = one->block; break;
    case 7: theirs->lines.arena_wanted_bytes = one->at; break;
    default: theirs->lines.arena_ready_bytes = one->at; break;
    }
}

static void move_on(rfaas_channel *channel, const record *one)
{
    static uint8_t payload[50000];
    rfaas_frame frame;
    volatile uint8_t sum = 0;
    for (int i = 0; i < 4 && rfaas_channel_poll(channel, BUDGET_BYTES, &frame) == RFAAS_OK; i++) {
        for (uint32_t k = 0; !frame.dropped && k < frame.n_segments; k++)
            for (size_t at = 0; at < frame.segments[k].iov_len; at += 4096)
                sum = (uint8_t)(sum + ((const uint8_t *)frame.segments[k].iov_base)[at]);
        if (frame.buffer != NULL)
            frame.memory.release(frame.memory.context, frame.buffer, frame.buffer_bytes);
    }
    rfaas_header header = {.kind = RFAAS_KIND_RESULT, .call_id = 1};
    const struct iovec segment = {payload, one->size_bytes % sizeof payload};
    rfaas_channel_send(channel, &header, &segment, 1, NULL, 0, NULL);
    rfaas_channel_flush(channel, BUDGET_BYTES);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int fds[2], memory_fd = rfaas_shm_create(ARENA_BYTES), side = size > 0 && data[size - 1] % 2;
    rfaas_channel *channel;
    EXPECT(memory_fd >= 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    rfaas_shm_segment *segment = rfaas_shm_map(memory_fd, 1 - side);
    EXPECT(segment != NULL && rfaas_shm_adopt(fds[0], memory_fd, side, LIMIT_BYTES, &channel) == RFAAS_OK);
    rfaas_array_pool_set_size(POOL_BYTES);
    int pool_fd = rfaas_array_pool_export();
    EXPECT(pool_fd >= 0);
    rfaas_shm_adopt_pool(channel, pool_fd);
    close(pool_fd);
    rfaas_shm_shared *theirs = rfaas_shm_tx(segment), *ours = rfaas_shm_rx(segment);
    uint64_t next = 0, data_at = 0;
    for (size_t at = 0; at + RECORD_BYTES <= size; at += RECORD_BYTES) {
        record one;
        memcpy(&one, data + at, sizeof one);
        if (one.what % 4 < 2)
            put_entry(theirs, &next, &data_at, &one);
        else if (one.what % 4 == 2)
            put_word(ours, theirs, &one);
        else
            move_on(channel, &one);
    }
    move_on(channel, &(record){.size_bytes = 40000});
    rfaas_channel_free(channel);
    rfaas_shm_retire(segment);
    rfaas_shm_unuse(segment);
    close(fds[1]);
    return 0;
}
