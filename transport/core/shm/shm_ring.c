/* shm_ring.c - see shm_ring.h. */
#include "shm_ring.h"

#include <string.h>

#include "failpoint.h"

_Static_assert(sizeof(rfaas_shm_entry) == 2 * RFAAS_SHM_LINE_BYTES, "an entry is two lines");
_Static_assert((1 + RFAAS_SHM_SMALL_WORDS) * sizeof(uint64_t) == RFAAS_SHM_LINE_BYTES, "a line, with the sequence number");
_Static_assert((RFAAS_SHM_ENTRIES & (RFAAS_SHM_ENTRIES - 1)) == 0, "a power of two");
_Static_assert((RFAAS_SHM_DATA_BYTES & (RFAAS_SHM_DATA_BYTES - 1)) == 0, "a power of two");

void rfaas_shm_writer_init(rfaas_shm_writer *writer, rfaas_shm_shared *shared, uint8_t *arena, uint64_t arena_bytes)
{
    memset(writer, 0, sizeof *writer);
    writer->shared = shared;
    writer->arena = arena;
    writer->arena_bytes = arena_bytes;
}

/* The reader's word is taken only where it can be true: never back, never beyond what was written. */
static void look_again(rfaas_shm_writer *writer)
{
    uint64_t consumed = atomic_load_explicit(&writer->shared->lines.consumed, memory_order_acquire);
    uint64_t bytes = atomic_load_explicit(&writer->shared->lines.consumed_bytes, memory_order_acquire);
    if (consumed >= writer->consumed && consumed <= writer->next)
        writer->consumed = consumed;
    if (bytes >= writer->consumed_bytes && bytes <= writer->data_at)
        writer->consumed_bytes = bytes;
}

/* Bytes that can be written at the present position without a break, 0 if it is all in use. */
static size_t unbroken_bytes(const rfaas_shm_writer *writer, uint64_t *at)
{
    uint64_t free_bytes = RFAAS_SHM_DATA_BYTES - (writer->data_at - writer->consumed_bytes);
    uint64_t to_end_bytes = RFAAS_SHM_DATA_BYTES - writer->data_at % RFAAS_SHM_DATA_BYTES;
    *at = writer->data_at;
    return (size_t)(free_bytes < to_end_bytes ? free_bytes : to_end_bytes);
}

bool rfaas_shm_has_room(rfaas_shm_writer *writer, size_t size_bytes)
{
    for (int look = 0; look < 2; look++) {
        bool bytes_fit = size_bytes == 0 || writer->data_at - writer->consumed_bytes < RFAAS_SHM_DATA_BYTES;
        if (writer->next - writer->consumed < RFAAS_SHM_ENTRIES && bytes_fit)
            return true;
        look_again(writer);
    }
    return false;
}

rfaas_shm_entry *rfaas_shm_entry_to_write(rfaas_shm_writer *writer)
{
    return &writer->shared->entries[writer->next % RFAAS_SHM_ENTRIES];
}

uint8_t *rfaas_shm_data_to_write(rfaas_shm_writer *writer, size_t size_bytes, size_t *got_bytes, uint64_t *at)
{
    size_t room_bytes = unbroken_bytes(writer, at);
    size_bytes = size_bytes < RFAAS_SHM_PIECE_BYTES ? size_bytes : RFAAS_SHM_PIECE_BYTES;
    *got_bytes = size_bytes < room_bytes ? size_bytes : room_bytes;
    /* Pieces begin on a line of their own: no line is written by one side while the other reads another piece in it. */
    uint64_t used_bytes = (*got_bytes + RFAAS_SHM_LINE_BYTES - 1) & ~(uint64_t)(RFAAS_SHM_LINE_BYTES - 1);
    writer->data_at += used_bytes;
    return writer->shared->data + *at % RFAAS_SHM_DATA_BYTES;
}

bool rfaas_shm_must_wake(rfaas_shm_writer *writer, bool *is_gone)
{
    uint32_t state = atomic_load_explicit(&writer->shared->lines.reader, memory_order_seq_cst);
    *is_gone = state == RFAAS_SHM_GONE;
    if (state != RFAAS_SHM_ASLEEP)
        return false;
    bool ours = atomic_compare_exchange_strong(&writer->shared->lines.reader, &state, RFAAS_SHM_AWAKE);
    FAILPOINT("after-waking");
    return ours;
}

bool rfaas_shm_publish(rfaas_shm_writer *writer)
{
    bool is_gone;
    rfaas_shm_entry *entry = rfaas_shm_entry_to_write(writer);
    FAILPOINT("before-sequence");
    writer->next++;
    /* Sequentially consistent, as the load that follows: either we see that the reader sleeps, or it sees the entry. */
    atomic_exchange_explicit(&entry->sequence, writer->next, memory_order_seq_cst);
    FAILPOINT("after-sequence");
    return rfaas_shm_must_wake(writer, &is_gone);
}

bool rfaas_shm_wait_for_room(rfaas_shm_writer *writer)
{
    FAILPOINT("before-waiting");
    atomic_store_explicit(&writer->shared->lines.writer_waits, 1, memory_order_seq_cst);
    FAILPOINT("after-waiting");
    return !rfaas_shm_has_room(writer, 1);
}

/* Unsent, by its holder. */
static bool is_freed(const rfaas_shm_writer *writer, const rfaas_shm_block *block)
{
    return block->held && writer->freed != NULL &&
           atomic_load_explicit(&writer->freed[block->slot], memory_order_acquire) == block->generation;
}

static void reap_blocks(rfaas_shm_writer *writer)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < writer->n_blocks; i++) {
        const rfaas_shm_block *block = &writer->blocks[i];
        uint32_t released = atomic_load_explicit(&writer->shared->released[block->slot], memory_order_acquire);
        if ((!block->held && (block->given_back || released == block->generation)) || is_freed(writer, block))
            writer->slot_used[block->slot] = false;
        else
            writer->blocks[kept++] = *block;
    }
    writer->n_blocks = kept;
}

/* The first gap between blocks that is large enough; false: none. `*index` is where its block comes in the list. */
static bool find_gap(const rfaas_shm_writer *writer, uint64_t size_bytes, uint64_t limit_bytes, uint64_t *offset_bytes,
                     uint32_t *index)
{
    uint64_t end_bytes = 0;
    for (uint32_t i = 0; i <= writer->n_blocks; i++) {
        uint64_t gap_end_bytes = i < writer->n_blocks ? writer->blocks[i].offset_bytes : limit_bytes;
        if (gap_end_bytes > limit_bytes)
            gap_end_bytes = limit_bytes;
        if (gap_end_bytes >= end_bytes && gap_end_bytes - end_bytes >= size_bytes) {
            *offset_bytes = end_bytes;
            *index = i;
            return true;
        }
        if (i < writer->n_blocks)
            end_bytes = writer->blocks[i].offset_bytes + writer->blocks[i].size_bytes;
    }
    return false;
}

uint8_t *rfaas_shm_block_take(rfaas_shm_writer *writer, uint64_t size_bytes, rfaas_shm_block *block)
{
    uint64_t ready_bytes = atomic_load_explicit(&writer->shared->lines.arena_ready_bytes, memory_order_acquire);
    uint64_t limit_bytes = ready_bytes < writer->arena_bytes ? ready_bytes : writer->arena_bytes;
    uint32_t index, slot = 0;
    if (size_bytes > limit_bytes)
        return NULL;
    size_bytes = (size_bytes + RFAAS_SHM_ARENA_STEP_BYTES - 1) & ~(uint64_t)(RFAAS_SHM_ARENA_STEP_BYTES - 1);
    reap_blocks(writer);
    while (slot < RFAAS_SHM_BLOCKS && writer->slot_used[slot])
        slot++;
    if (slot == RFAAS_SHM_BLOCKS || !find_gap(writer, size_bytes, limit_bytes, &block->offset_bytes, &index))
        return NULL;
    block->held = block->handed = block->given_back = false;
    block->owner = NULL;
    block->size_bytes = size_bytes;
    block->slot = slot;
    block->generation = ++writer->generation[slot];
    writer->slot_used[slot] = true;
    memmove(&writer->blocks[index + 1], &writer->blocks[index], (writer->n_blocks - index) * sizeof *block);
    writer->blocks[index] = *block;
    writer->n_blocks++;
    return writer->arena + block->offset_bytes;
}

uint64_t rfaas_shm_arena_bytes_for(const rfaas_shm_writer *writer, uint64_t size_bytes)
{
    for (uint32_t i = 0; i < writer->n_blocks; i++)
        size_bytes += writer->blocks[i].size_bytes;
    return size_bytes;
}

rfaas_shm_block *rfaas_shm_block_find(rfaas_shm_writer *writer, const void *bytes, size_t size_bytes)
{
    uintptr_t arena = (uintptr_t)writer->arena, at = (uintptr_t)bytes;
    if (at < arena || at - arena >= writer->arena_bytes)
        return NULL;
    uint64_t offset_bytes = at - arena;
    for (uint32_t i = 0; i < writer->n_blocks; i++) {
        rfaas_shm_block *block = &writer->blocks[i];
        if (offset_bytes >= block->offset_bytes && offset_bytes - block->offset_bytes < block->size_bytes)
            return size_bytes <= block->size_bytes - (offset_bytes - block->offset_bytes) ? block : NULL;
    }
    return NULL;
}

bool rfaas_shm_has_entries(rfaas_shm_writer *writer, uint32_t n)
{
    if (RFAAS_SHM_ENTRIES - (writer->next - writer->consumed) < n)
        look_again(writer);
    return RFAAS_SHM_ENTRIES - (writer->next - writer->consumed) >= n;
}

const rfaas_shm_entry *rfaas_shm_entry_to_read(const rfaas_shm_reader *reader)
{
    const rfaas_shm_entry *entry = &reader->shared->entries[reader->next % RFAAS_SHM_ENTRIES];
    uint64_t sequence = atomic_load_explicit(&entry->sequence, memory_order_acquire);
    return sequence == reader->next + 1 ? entry : NULL;
}

const uint8_t *rfaas_shm_data_to_read(const rfaas_shm_reader *reader, const rfaas_shm_entry *entry, uint64_t at,
                                      uint32_t size_bytes)
{
    if (size_bytes <= RFAAS_SHM_INLINE_BYTES)
        return entry->bytes;
    bool unbroken = at % RFAAS_SHM_DATA_BYTES + size_bytes <= RFAAS_SHM_DATA_BYTES;
    bool fits = size_bytes <= RFAAS_SHM_PIECE_BYTES;
    return at == reader->data_at && unbroken && fits ? reader->shared->data + at % RFAAS_SHM_DATA_BYTES : NULL;
}

bool rfaas_shm_consume(rfaas_shm_reader *reader, uint64_t at, uint32_t size_bytes)
{
    rfaas_shm_lines *lines = &reader->shared->lines;
    if (size_bytes > RFAAS_SHM_INLINE_BYTES) {
        reader->data_at = at + ((size_bytes + RFAAS_SHM_LINE_BYTES - 1u) & ~(RFAAS_SHM_LINE_BYTES - 1u));
        atomic_store_explicit(&lines->consumed_bytes, reader->data_at, memory_order_release);
        FAILPOINT("after-consumed-bytes");
    }
    reader->next++;
    atomic_exchange_explicit(&lines->consumed, reader->next, memory_order_seq_cst);
    FAILPOINT("after-consumed");
    if (atomic_load_explicit(&lines->writer_waits, memory_order_seq_cst) == 0)
        return false;
    bool wanted = atomic_exchange(&lines->writer_waits, 0) != 0;
    FAILPOINT("after-taking-wish");
    return wanted;
}

bool rfaas_shm_fall_asleep(rfaas_shm_reader *reader)
{
    FAILPOINT("before-falling-asleep");
    atomic_store_explicit(&reader->shared->lines.reader, RFAAS_SHM_ASLEEP, memory_order_seq_cst);
    FAILPOINT("after-falling-asleep");
    return rfaas_shm_entry_to_read(reader) == NULL;
}

void rfaas_shm_stay_awake(rfaas_shm_reader *reader)
{
    atomic_store_explicit(&reader->shared->lines.reader, RFAAS_SHM_AWAKE, memory_order_relaxed);
    FAILPOINT("after-staying-awake");
}

void rfaas_shm_block_release(rfaas_shm_shared *shared, uint32_t slot, uint32_t generation)
{
    atomic_store_explicit(&shared->released[slot], generation, memory_order_release);
    FAILPOINT("after-releasing");
}
