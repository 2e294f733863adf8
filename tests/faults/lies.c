/* lies.c - of everything that a side of a shared-memory channel says of itself: one thing that can't be. A part of
 * shared_memory.c's program; each check of the medium is there because of one of these.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "array_pool.h"
#include "crc32c.h"
#include "rfaas_channel.h"
#include "shm_segment.h"
#include "shm_small.h"

void tell_lies(void);

#define EXPECT(condition)                                                                   \
    do {                                                                                    \
        if (!(condition)) {                                                                 \
            fprintf(stderr, "%s:%d: %s (%s)\n", __FILE__, __LINE__, #condition, lie_told);  \
            exit(1);                                                                        \
        }                                                                                   \
    } while (0)

enum { ARENA_BYTES = 1 << 20, LIMIT_BYTES = 1 << 24, BUDGET_BYTES = 1 << 22, PAYLOAD_BYTES = 40000, POOL_BYTES = 1 << 20, TOLD_MAX = 16 };

static const char *lie_told = "";

/* ---- entries that are written by hand ---- */

typedef struct liar {
    rfaas_channel *ours; /* side 1 */
    int fd;              /* the liar's end of the socket */
    rfaas_shm_segment *segment;
    rfaas_shm_writer writer;
} liar;

static void begin(liar *one)
{
    int fds[2], memory_fd = rfaas_shm_create(ARENA_BYTES);
    EXPECT(memory_fd >= 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    EXPECT(rfaas_shm_adopt(fds[1], dup(memory_fd), 1, LIMIT_BYTES, &one->ours) == RFAAS_OK);
    one->fd = fds[0];
    one->segment = rfaas_shm_map(memory_fd, 0);
    EXPECT(one->segment != NULL);
    close(memory_fd);
    rfaas_shm_writer_init(&one->writer, rfaas_shm_tx(one->segment), rfaas_shm_tx_arena(one->segment), ARENA_BYTES);
}

static void end(liar *one)
{
    rfaas_channel_free(one->ours);
    rfaas_shm_retire(one->segment);
    rfaas_shm_unuse(one->segment);
    close(one->fd);
}

static rfaas_shm_entry *next_entry(liar *one, uint32_t kind)
{
    rfaas_shm_entry *entry = rfaas_shm_entry_to_write(&one->writer);
    memset(entry->header, 0, sizeof entry->header);
    memset(entry->bytes, 0, sizeof entry->bytes);
    entry->kind = kind;
    entry->size_bytes = 0;
    entry->at = 0;
    return entry;
}

/* The head of a frame whose payload is `sizes` long, into an entry of kind FRAME and what is left of it after the entry. */
static size_t put_head(rfaas_shm_entry *entry, const size_t *sizes, size_t n, uint8_t *rest)
{
    struct iovec segments[TOLD_MAX];
    uint8_t head[512];
    uint64_t in_size;
    rfaas_header header = {.kind = RFAAS_KIND_RESULT, .call_id = 7};
    for (size_t i = 0; i < n; i++)
        segments[i] = (struct iovec){NULL, sizes[i]};
    size_t head_bytes = rfaas_head_size(&header, segments, n, 0, &in_size);
    EXPECT(head_bytes > 0 && head_bytes <= sizeof head);
    rfaas_head_encode(head, head_bytes, &header, in_size, segments, n, NULL, 0);
    memcpy(entry->header, head, RFAAS_HEADER_BYTES);
    memcpy(rest, head + RFAAS_HEADER_BYTES, head_bytes - RFAAS_HEADER_BYTES);
    return head_bytes - RFAAS_HEADER_BYTES;
}

/* A frame whose payload of `sizes` has been said to lie somewhere. */
static void tell_frame(liar *one, const size_t *sizes, size_t n)
{
    rfaas_shm_entry *entry = next_entry(one, RFAAS_SHM_FRAME);
    uint8_t rest[512];
    size_t rest_bytes = put_head(entry, sizes, n, rest), got_bytes;
    uint8_t *to = entry->bytes;
    if (rest_bytes > RFAAS_SHM_INLINE_BYTES)
        to = rfaas_shm_data_to_write(&one->writer, rest_bytes, &got_bytes, &entry->at);
    memcpy(to, rest, rest_bytes);
    entry->size_bytes = (uint32_t)rest_bytes;
    rfaas_shm_publish(&one->writer);
}

/* A piece of a frame through the ring of bytes, as it is honest: of at most RFAAS_SHM_PIECE_BYTES. */
static rfaas_shm_entry *piece(liar *one, uint32_t kind, size_t piece_bytes)
{
    size_t got_bytes;
    rfaas_shm_entry *entry = next_entry(one, kind);
    rfaas_shm_data_to_write(&one->writer, piece_bytes, &got_bytes, &entry->at);
    EXPECT(got_bytes == piece_bytes);
    entry->size_bytes = (uint32_t)piece_bytes;
    return entry;
}

/* A frame of one segment of `payload_bytes`, of which `piece_bytes` come with its first entry. */
static rfaas_shm_entry *first_piece(liar *one, size_t payload_bytes, size_t piece_bytes)
{
    uint8_t rest[512];
    rfaas_shm_entry *entry = piece(one, RFAAS_SHM_FRAME, piece_bytes);
    EXPECT(put_head(entry, &payload_bytes, 1, rest) == 0);
    return entry;
}

static rfaas_shm_entry *place(liar *one, uint32_t kind, uint32_t segment)
{
    rfaas_shm_entry *entry = next_entry(one, kind);
    entry->at = 4096 * 16 * (uint64_t)segment;
    entry->block_bytes = PAYLOAD_BYTES;
    entry->block = 3 + segment;
    entry->generation = 1;
    entry->segment = segment;
    entry->space = RFAAS_SHM_ARENA;
    return entry;
}

static const size_t ONE[] = {PAYLOAD_BYTES};

static void publish(liar *one)
{
    rfaas_shm_publish(&one->writer);
}

/* ---- the truth, so that a lie is the one thing that is wrong ---- */

static void true_ring(liar *one)
{
    first_piece(one, 100, 100);
    publish(one);
}

static void true_block(liar *one)
{
    place(one, RFAAS_SHM_BLOCK, 0);
    publish(one);
    tell_frame(one, ONE, 1);
}

static void true_placed(liar *one)
{
    place(one, RFAAS_SHM_PLACED, 0);
    publish(one);
    tell_frame(one, ONE, 1);
}

/* A small frame, and what is wrong with it, of which its checksum knows. */
static void tell_small(liar *one, uint32_t size_bytes, uint32_t n_segments)
{
    uint8_t payload[RFAAS_SHM_SMALL_BYTES] = {0};
    const rfaas_header header = {.kind = RFAAS_KIND_RESULT, .call_id = 7};
    const struct iovec segment = {payload, sizeof payload};
    rfaas_shm_entry *entry = next_entry(one, 0);
    rfaas_shm_put_small(entry, &header, &segment, 1);
    entry->size_bytes = size_bytes;
    entry->small[RFAAS_SHM_SMALL_WORDS - 1] = rfaas_shm_pair(n_segments, 0);
    uint32_t crc = rfaas_crc32c(entry->small, sizeof entry->small, 0);
    entry->small[RFAAS_SHM_SMALL_WORDS - 1] = rfaas_shm_pair(n_segments, crc);
    publish(one);
}

static void true_small(liar *one)
{
    tell_small(one, RFAAS_SHM_SMALL_BYTES, 1);
    tell_small(one, 0, 1);
    tell_small(one, 0, 0);
}

static void true_pieces(liar *one)
{
    first_piece(one, 3 * RFAAS_SHM_PIECE_BYTES, RFAAS_SHM_PIECE_BYTES);
    publish(one);
    for (int i = 0; i < 2; i++) {
        piece(one, RFAAS_SHM_MORE, RFAAS_SHM_PIECE_BYTES);
        publish(one);
    }
}

static void true_eight_places(liar *one)
{
    size_t sizes[RFAAS_PLACED_MAX];
    for (uint32_t i = 0; i < RFAAS_PLACED_MAX; i++) {
        sizes[i] = PAYLOAD_BYTES;
        place(one, RFAAS_SHM_PLACED, i);
        publish(one);
    }
    tell_frame(one, sizes, RFAAS_PLACED_MAX);
}

/* ---- lies ---- */

static void piece_elsewhere(liar *one)
{
    first_piece(one, 100, 100)->at += RFAAS_SHM_LINE_BYTES;
    publish(one);
}

static void piece_of_the_past(liar *one)
{
    true_ring(one);
    first_piece(one, 100, 100)->at = 0;
    publish(one);
}

static void piece_too_large(liar *one)
{
    first_piece(one, RFAAS_SHM_PIECE_BYTES + 64, RFAAS_SHM_PIECE_BYTES)->size_bytes += 64;
    publish(one);
}

static void piece_beyond_the_end(liar *one)
{
    size_t before_end_bytes = 128, payload_bytes = RFAAS_SHM_DATA_BYTES - before_end_bytes + 256;
    first_piece(one, payload_bytes, RFAAS_SHM_PIECE_BYTES);
    publish(one);
    for (int i = 0; i < 3; i++) {
        piece(one, RFAAS_SHM_MORE, i < 2 ? RFAAS_SHM_PIECE_BYTES : RFAAS_SHM_PIECE_BYTES - before_end_bytes);
        publish(one);
    }
    piece(one, RFAAS_SHM_MORE, before_end_bytes)->size_bytes = 256;
    publish(one);
}

static void more_without_frame(liar *one)
{
    first_piece(one, 100, 100)->kind = RFAAS_SHM_MORE;
    publish(one);
}

static void frame_within_frame(liar *one)
{
    first_piece(one, 100 + RFAAS_HEADER_BYTES + 100, 100); /* it would be whole with the second */
    publish(one);
    first_piece(one, 100, 100);
    publish(one);
}

static void more_than_the_frame(liar *one)
{
    rfaas_shm_entry next; /* what is too much is a frame that would do */
    uint8_t rest[512];
    const rfaas_shm_entry *entry = first_piece(one, 100, 100 + RFAAS_HEADER_BYTES);
    EXPECT(put_head(&next, NULL, 0, rest) == 0);
    memcpy(one->writer.shared->data + entry->at % RFAAS_SHM_DATA_BYTES + 100, next.header, RFAAS_HEADER_BYTES);
    publish(one);
}

static void no_kind(liar *one)
{
    next_entry(one, 0);
    publish(one);
}

static void kind_to_come(liar *one)
{
    next_entry(one, RFAAS_SHM_SMALL + 1);
    publish(one);
}

static void kind_to_come_within_frame(liar *one)
{
    first_piece(one, 200, 100);
    publish(one);
    piece(one, RFAAS_SHM_SMALL + 1, 100);
    publish(one);
}

static void block_of_nothing(liar *one)
{
    place(one, RFAAS_SHM_BLOCK, 0)->block_bytes = 0;
    publish(one);
    tell_frame(one, NULL, 0);
}

static void block_within_frame(liar *one)
{
    first_piece(one, 200, 100);
    publish(one);
    place(one, RFAAS_SHM_BLOCK, 0);
    publish(one);
}

static void place_within_frame(liar *one)
{
    first_piece(one, 200, 100);
    publish(one);
    place(one, RFAAS_SHM_PLACED, 0);
    publish(one);
}

static void small_too_large(liar *one)
{
    tell_small(one, RFAAS_SHM_SMALL_BYTES + 1, 1);
}

static void small_of_two_segments(liar *one)
{
    tell_small(one, 10, 2);
}

static void small_of_no_segment(liar *one)
{
    tell_small(one, 10, 0);
}

static void small_without_checksum(liar *one)
{
    const rfaas_header header = {.kind = RFAAS_KIND_RESULT, .call_id = 7};
    rfaas_shm_entry *entry = next_entry(one, 0);
    rfaas_shm_put_small(entry, &header, NULL, 0);
    entry->small[1]++;
    publish(one);
}

static void small_within_frame(liar *one)
{
    first_piece(one, 200, 100);
    publish(one);
    tell_small(one, 10, 1);
}

static void small_after_block(liar *one)
{
    place(one, RFAAS_SHM_BLOCK, 0);
    publish(one);
    tell_small(one, 0, 0); /* a payload would have to be as large as the block */
}

static void small_after_place(liar *one)
{
    place(one, RFAAS_SHM_PLACED, 0);
    publish(one);
    tell_small(one, 10, 1);
}

static void block_twice(liar *one)
{
    place(one, RFAAS_SHM_BLOCK, 0);
    publish(one);
    true_block(one);
}

#define BLOCK_WHOSE(name, what)                    \
    static void name(liar *one)                    \
    {                                              \
        place(one, RFAAS_SHM_BLOCK, 0)->what;      \
        publish(one);                              \
        tell_frame(one, ONE, 1);                   \
    }

BLOCK_WHOSE(block_unaligned, at = 64)
BLOCK_WHOSE(block_beyond_arena, at = ARENA_BYTES + 4096)
BLOCK_WHOSE(block_at_arenas_end, at = ARENA_BYTES - 4096)
BLOCK_WHOSE(block_without_end, block_bytes = UINT64_MAX - 4095)
BLOCK_WHOSE(block_of_another_size, block_bytes = PAYLOAD_BYTES / 2)
BLOCK_WHOSE(block_without_number, block = RFAAS_SHM_BLOCKS)

#define PLACE_WHOSE(name, what)                    \
    static void name(liar *one)                    \
    {                                              \
        place(one, RFAAS_SHM_PLACED, 0)->what;     \
        publish(one);                              \
        tell_frame(one, ONE, 1);                   \
    }

PLACE_WHOSE(place_beyond_arena, at = ARENA_BYTES + 4096)
PLACE_WHOSE(place_at_arenas_end, at = ARENA_BYTES - 4096)
PLACE_WHOSE(place_of_no_bytes, block_bytes = 0)
PLACE_WHOSE(place_of_another_size, block_bytes = PAYLOAD_BYTES - 64)
PLACE_WHOSE(place_of_another_segment, segment = 1)
PLACE_WHOSE(place_in_no_pool, space = RFAAS_SHM_POOL)
PLACE_WHOSE(place_in_no_space, space = 2)

/* With a pool. */

static void tell_pooled(liar *one, uint64_t at)
{
    rfaas_shm_entry *entry = place(one, RFAAS_SHM_PLACED, 0);
    entry->space = RFAAS_SHM_POOL;
    entry->at = at;
    publish(one);
    tell_frame(one, ONE, 1);
}

static void true_pooled(liar *one)
{
    tell_pooled(one, 13);
}

static void place_at_pools_end(liar *one)
{
    tell_pooled(one, POOL_BYTES - PAYLOAD_BYTES + 1);
}

static void place_beyond_pool(liar *one)
{
    tell_pooled(one, POOL_BYTES + 4096);
}

static void places_that_fall(liar *one)
{
    size_t sizes[] = {PAYLOAD_BYTES, PAYLOAD_BYTES};
    for (uint32_t i = 0; i < 2; i++) {
        place(one, RFAAS_SHM_PLACED, 1 - i);
        publish(one);
    }
    tell_frame(one, sizes, 2);
}

static void nine_places(liar *one)
{
    size_t sizes[RFAAS_PLACED_MAX + 1];
    for (uint32_t i = 0; i <= RFAAS_PLACED_MAX; i++) {
        sizes[i] = PAYLOAD_BYTES;
        place(one, RFAAS_SHM_PLACED, i);
        publish(one);
    }
    tell_frame(one, sizes, RFAAS_PLACED_MAX + 1);
}

typedef struct telling {
    const char *name;
    void (*tell)(liar *one);
    bool is_true, with_pool;
} telling;

#define TRUTH(name) {#name, name, true, false}
#define LIE(name) {#name, name, false, false}

static const telling tellings[] = {
    TRUTH(true_small), LIE(small_too_large), LIE(small_of_two_segments), LIE(small_of_no_segment), LIE(small_without_checksum),
    LIE(small_within_frame), LIE(small_after_block), LIE(small_after_place),
    TRUTH(true_ring), TRUTH(true_block), TRUTH(true_placed), TRUTH(true_pieces), TRUTH(true_eight_places),
    LIE(piece_elsewhere), LIE(piece_of_the_past), LIE(piece_too_large), LIE(piece_beyond_the_end),
    LIE(more_without_frame), LIE(frame_within_frame), LIE(more_than_the_frame), LIE(no_kind), LIE(kind_to_come),
    LIE(block_within_frame), LIE(place_within_frame), LIE(block_twice), LIE(block_unaligned), LIE(block_beyond_arena),
    LIE(block_at_arenas_end), LIE(kind_to_come_within_frame), LIE(block_of_nothing), LIE(block_without_end), LIE(block_of_another_size),
    LIE(block_without_number), LIE(place_beyond_arena), LIE(place_at_arenas_end), LIE(place_of_no_bytes),
    LIE(place_of_another_size), LIE(place_of_another_segment), LIE(place_in_no_pool), LIE(place_in_no_space),
    LIE(places_that_fall), LIE(nine_places), {"true_pooled", true_pooled, true, true},
    {"place_at_pools_end", place_at_pools_end, false, true}, {"place_beyond_pool", place_beyond_pool, false, true},
};

static void tell(const telling *telling, int pool_fd)
{
    liar one;
    rfaas_frame frame;
    rfaas_rc rc;
    lie_told = telling->name;
    begin(&one);
    if (telling->with_pool)
        rfaas_shm_adopt_pool(one.ours, pool_fd);
    telling->tell(&one);
    while ((rc = rfaas_channel_poll(one.ours, BUDGET_BYTES, &frame)) == RFAAS_OK || rc == RFAAS_MORE) {
        if (rc == RFAAS_OK && frame.buffer != NULL)
            frame.memory.release(frame.memory.context, frame.buffer, frame.buffer_bytes);
    }
    EXPECT(rc == (telling->is_true ? RFAAS_AGAIN : RFAAS_BROKEN));
    end(&one);
}

/* An entry that becomes smaller while it is read, in turns of a budget. */
static void piece_that_shrinks(void)
{
    liar one;
    rfaas_frame frame;
    rfaas_rc rc;
    lie_told = "a piece that shrinks";
    begin(&one);
    rfaas_shm_entry *entry = first_piece(&one, LIMIT_BYTES, RFAAS_SHM_PIECE_BYTES); /* so much would be read */
    publish(&one);
    EXPECT(rfaas_channel_poll(one.ours, 1000, &frame) == RFAAS_MORE);
    entry->size_bytes = 100;
    while ((rc = rfaas_channel_poll(one.ours, BUDGET_BYTES, &frame)) == RFAAS_MORE)
        ;
    EXPECT(rc == RFAAS_BROKEN);
    end(&one);
}

/* ---- lies of a reader, and of a sequence number ---- */

static rfaas_shm_shared *shared_page(void)
{
    void *at = mmap(NULL, sizeof(rfaas_shm_shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    EXPECT(at != MAP_FAILED);
    return at;
}

static void publish_entries(rfaas_shm_writer *writer, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        EXPECT(rfaas_shm_has_room(writer, 0));
        rfaas_shm_entry_to_write(writer);
        rfaas_shm_publish(writer);
    }
}

/* What a reader says of its reading counts only where it can be true, and does no harm afterwards. */
static void lies_of_a_reader(void)
{
    rfaas_shm_shared *shared = shared_page();
    rfaas_shm_writer writer;
    lie_told = "read more than was written";
    rfaas_shm_writer_init(&writer, shared, NULL, 0);
    publish_entries(&writer, RFAAS_SHM_ENTRIES);
    shared->lines.consumed = RFAAS_SHM_ENTRIES + 1;
    EXPECT(!rfaas_shm_has_room(&writer, 0) && !rfaas_shm_has_entries(&writer, 1));
    shared->lines.consumed = RFAAS_SHM_ENTRIES;
    EXPECT(rfaas_shm_has_room(&writer, 0));
    lie_told = "read less than before";
    publish_entries(&writer, RFAAS_SHM_ENTRIES);
    shared->lines.consumed = 10;
    EXPECT(!rfaas_shm_has_entries(&writer, 1));
    shared->lines.consumed = 2 * RFAAS_SHM_ENTRIES;
    lie_told = "read more bytes than were written";
    size_t got_bytes;
    uint64_t at;
    for (int i = 0; i < RFAAS_SHM_DATA_BYTES / RFAAS_SHM_PIECE_BYTES; i++)
        rfaas_shm_data_to_write(&writer, RFAAS_SHM_PIECE_BYTES, &got_bytes, &at);
    shared->lines.consumed_bytes = RFAAS_SHM_DATA_BYTES + 64;
    EXPECT(!rfaas_shm_has_room(&writer, 1));
    shared->lines.consumed_bytes = RFAAS_SHM_DATA_BYTES;
    EXPECT(rfaas_shm_has_room(&writer, 1));
    lie_told = "read less bytes than before";
    publish_entries(&writer, RFAAS_SHM_ENTRIES);
    rfaas_shm_data_to_write(&writer, 64, &got_bytes, &at);
    shared->lines.consumed_bytes = 0;
    shared->lines.consumed = 3 * RFAAS_SHM_ENTRIES;
    EXPECT(rfaas_shm_has_room(&writer, 1));
    lie_told = "a sequence number of another round";
    const rfaas_shm_reader reader = {.shared = shared, .next = 0};
    EXPECT(rfaas_shm_entry_to_read(&reader) == NULL);
    munmap(shared, sizeof *shared);
}

/* Of the arena only what the maker says it has touched is written to, and never more than there is. */
static void lies_of_a_maker(void)
{
    static uint8_t arena[4 * RFAAS_SHM_ARENA_STEP_BYTES];
    rfaas_shm_shared *shared = shared_page();
    rfaas_shm_writer writer;
    rfaas_shm_block block;
    lie_told = "an arena larger than it is";
    rfaas_shm_writer_init(&writer, shared, arena, sizeof arena);
    EXPECT(rfaas_shm_block_take(&writer, 1, &block) == NULL);
    shared->lines.arena_ready_bytes = UINT64_MAX;
    EXPECT(rfaas_shm_block_take(&writer, sizeof arena + 1, &block) == NULL);
    EXPECT(rfaas_shm_block_take(&writer, sizeof arena, &block) == arena);
    lie_told = "the bytes behind a block";
    EXPECT(rfaas_shm_block_find(&writer, arena + 1, sizeof arena) == NULL);
    EXPECT(rfaas_shm_block_find(&writer, arena + 1, sizeof arena - 1) != NULL);
    munmap(shared, sizeof *shared);
}

/* A segment of memory that could shrink, or that is too small, is none. */
static void lies_of_a_descriptor(void)
{
    int fds[2], memory_fd;
    rfaas_channel *none;
    EXPECT(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    lie_told = "memory without seals";
    struct stat sealed;
    int sealed_fd = rfaas_shm_create(ARENA_BYTES);
    EXPECT(sealed_fd >= 0 && fstat(sealed_fd, &sealed) == 0 && close(sealed_fd) == 0);
    memory_fd = memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    EXPECT(memory_fd >= 0 && ftruncate(memory_fd, sealed.st_size) == 0);
    EXPECT(rfaas_shm_adopt(fds[0], memory_fd, 1, LIMIT_BYTES, &none) == RFAAS_UNSUITABLE);
    close(memory_fd);
    lie_told = "a descriptor of no socket";
    memory_fd = rfaas_shm_create(0);
    EXPECT(rfaas_shm_adopt(memory_fd, memory_fd, 1, LIMIT_BYTES, &none) == RFAAS_UNSUITABLE);
    close(memory_fd);
    close(fds[0]);
    close(fds[1]);
}

void tell_lies(void)
{
    rfaas_array_pool_set_size(POOL_BYTES);
    int pool_fd = rfaas_array_pool_export();
    EXPECT(pool_fd >= 0);
    for (size_t i = 0; i < sizeof tellings / sizeof *tellings; i++)
        tell(&tellings[i], pool_fd);
    close(pool_fd);
    piece_that_shrinks();
    lies_of_a_reader();
    lies_of_a_maker();
    lies_of_a_descriptor();
}
