/* shm_ring.h - one direction of a shared-memory channel: a ring of entries, a ring of bytes, and an arena for large
 * payloads. One writer, one reader, in two processes that trust each other with their data but not with their health:
 * either may die at any instruction, and what one finds in the other's lines is verified before it is used.
 *
 * An entry is published by its sequence number, which nothing but sequence numbers is ever written to, so no byte of a
 * payload can pass for one. Sans-IO: never blocks, wakes nobody and calls no system. Spec: docs/spec/006-shared-memory.md.
 */
#ifndef RFAAS_SHM_RING_H
#define RFAAS_SHM_RING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "frame.h"

enum {
    RFAAS_SHM_LINE_BYTES = 64,
    RFAAS_SHM_ENTRIES = 64,         /* a direction */
    RFAAS_SHM_DATA_BYTES = 1 << 18, /* the ring of bytes */
    RFAAS_SHM_PIECE_BYTES = 1 << 16, /* most that one entry carries there, so that both sides copy at the same time */
    RFAAS_SHM_INLINE_BYTES = 32,
    RFAAS_SHM_BLOCKS = 256,          /* of an arena, in use at one time */
    RFAAS_SHM_ARENA_MIN_BYTES = 1 << 15, /* smaller payloads are copied: two copies cost less than a block */
    RFAAS_SHM_ARENA_STEP_BYTES = 1 << 12,
};

typedef enum rfaas_shm_kind {
    RFAAS_SHM_FRAME = 1, /* a frame begins: its header is in the entry, bytes that follow may be too */
    RFAAS_SHM_MORE = 2,  /* goes on with the frame before */
    RFAAS_SHM_BLOCK = 3, /* before a FRAME: its payload, but for what is placed, lies in the arena */
    RFAAS_SHM_PLACED = 4, /* before a FRAME: one segment of it lies where it was made */
    RFAAS_SHM_SMALL = 5, /* a whole frame: payload in the first line, its header's fields in the second */
} rfaas_shm_kind;

/* Where a placed segment lies: `at` counts from its beginning. */
typedef enum rfaas_shm_space {
    RFAAS_SHM_ARENA = 0, /* of this direction, inside of `block`, which becomes the reader's */
    RFAAS_SHM_POOL = 1,  /* the maker's memory for arrays (array_pool.h), which stays the maker's */
} rfaas_shm_space;

/* An entry of kind SMALL behind its sequence number: its kind and size, then the header's fields that are not the same in
 * all of them, packed as shm_small.h says. */
enum { RFAAS_SHM_SMALL_WORDS = 7 };

/* Two lines: the header (SMALL: the payload), then what says where the rest is. */
typedef struct rfaas_shm_entry {
    _Alignas(RFAAS_SHM_LINE_BYTES) uint8_t header[RFAAS_HEADER_BYTES];
    _Atomic uint64_t sequence; /* number of the entry + 1 once the entry is whole */
    union {
        struct {
            uint32_t kind;
            uint32_t size_bytes; /* FRAME, MORE: in `bytes` if that many fit there, else in the ring of bytes */
            uint64_t at;         /* position in the ring of bytes; BLOCK: offset in the arena */
            union {
                uint8_t bytes[RFAAS_SHM_INLINE_BYTES];
                struct {
                    uint64_t block_bytes;
                    uint32_t block;
                    uint32_t generation;
                    uint32_t segment; /* PLACED */
                    uint32_t space;   /* PLACED: a rfaas_shm_space */
                };
            };
        };
        uint64_t small[RFAAS_SHM_SMALL_WORDS];
    };
} rfaas_shm_entry;

/* Of a reader. ASLEEP: it wants a bell for the next entry, as a reader does that has not come yet; whoever rings makes it
 * AWAKE. GONE: it has closed. */
enum { RFAAS_SHM_ASLEEP = 0, RFAAS_SHM_AWAKE = 1, RFAAS_SHM_GONE = 2 };

/* What the two sides say of their reading and writing. */
typedef struct rfaas_shm_lines {
    _Alignas(RFAAS_SHM_LINE_BYTES) _Atomic uint64_t consumed; /* entries read, by this direction's reader */
    _Atomic uint64_t consumed_bytes;                         /* of the ring of bytes */
    _Alignas(RFAAS_SHM_LINE_BYTES) _Atomic uint32_t reader;  /* ASLEEP, AWAKE, GONE */
    _Alignas(RFAAS_SHM_LINE_BYTES) _Atomic uint32_t writer_waits; /* 1: it wants a bell when there is room */
    _Alignas(RFAAS_SHM_LINE_BYTES) _Atomic uint64_t arena_ready_bytes; /* what the segment's maker has touched */
    _Atomic uint32_t pool_mapped; /* by the reader, direction 0: 1 while it can read the maker's pool */
    _Atomic uint64_t arena_wanted_bytes; /* by the writer, direction 1: with so much ready there had been no copy */
} rfaas_shm_lines;

typedef struct rfaas_shm_shared {
    rfaas_shm_lines lines;
    rfaas_shm_entry entries[RFAAS_SHM_ENTRIES];
    _Alignas(RFAAS_SHM_LINE_BYTES) _Atomic uint32_t released[RFAAS_SHM_BLOCKS]; /* by the reader: the generation */
    _Alignas(RFAAS_SHM_LINE_BYTES) uint8_t data[RFAAS_SHM_DATA_BYTES];
} rfaas_shm_shared;

/* ---- the writer's side ---- */

typedef struct rfaas_shm_block {
    uint64_t offset_bytes, size_bytes;
    uint32_t slot, generation;
    bool held;       /* by whoever took it to write an array into it: no word of the reader's frees it */
    bool handed;     /* sending it hands it over, instead of copying; then it is not held any more */
    bool given_back; /* unsent */
    void *owner;     /* the holder's word */
} rfaas_shm_block;

typedef struct rfaas_shm_writer {
    rfaas_shm_shared *shared;
    uint8_t *arena;
    uint64_t arena_bytes;
    uint64_t next;           /* number of the entry to be written next */
    uint64_t data_at;        /* position in the ring of bytes */
    uint64_t consumed;       /* as last seen */
    uint64_t consumed_bytes; /* as last seen */
    uint32_t n_blocks;
    rfaas_shm_block blocks[RFAAS_SHM_BLOCKS]; /* in use, by offset */
    uint32_t generation[RFAAS_SHM_BLOCKS];
    bool slot_used[RFAAS_SHM_BLOCKS];
    const _Atomic uint32_t *freed; /* by a holder who may not touch the above: of each block the generation; NULL: none may */
} rfaas_shm_writer;

void rfaas_shm_writer_init(rfaas_shm_writer *writer, rfaas_shm_shared *shared, uint8_t *arena, uint64_t arena_bytes);

/* The block of this writer in which these bytes lie, NULL if they do not lie in one. */
rfaas_shm_block *rfaas_shm_block_find(rfaas_shm_writer *writer, const void *bytes, size_t size_bytes);

/* True if `n` entries can be written. */
bool rfaas_shm_has_entries(rfaas_shm_writer *writer, uint32_t n);

/* Asks for a bell when the reader has read something; false if it has meanwhile, and there is room. */
bool rfaas_shm_wait_for_room(rfaas_shm_writer *writer);

/* True if an entry can be written, and if `size_bytes` > 0 some of that into the ring of bytes. */
bool rfaas_shm_has_room(rfaas_shm_writer *writer, size_t size_bytes);

/* The entry to fill in; publish() makes it visible. Only after has_room(). */
rfaas_shm_entry *rfaas_shm_entry_to_write(rfaas_shm_writer *writer);

/* Where up to `size_bytes` can be written without a break; `*got_bytes` says how many, at least 1. Only after
 * has_room(size_bytes); commits the space, so fill it and publish an entry whose `at` is the returned position. */
uint8_t *rfaas_shm_data_to_write(rfaas_shm_writer *writer, size_t size_bytes, size_t *got_bytes, uint64_t *at);

/* True: the reader sleeps, and the bell is the caller's to ring. `*is_gone`: it has closed. */
bool rfaas_shm_must_wake(rfaas_shm_writer *writer, bool *is_gone);

/* Makes the entry visible: from here on it was sent, whatever becomes of the reader. True: as rfaas_shm_must_wake(). */
bool rfaas_shm_publish(rfaas_shm_writer *writer);

/* A block of the arena of `size_bytes`, NULL if none is free; it is the reader's from publish() on, until it releases
 * it. The writer may release one that was not sent. */
uint8_t *rfaas_shm_block_take(rfaas_shm_writer *writer, uint64_t size_bytes, rfaas_shm_block *block);

/* How much of the arena there would have to be for one more block of `size_bytes`. */
uint64_t rfaas_shm_arena_bytes_for(const rfaas_shm_writer *writer, uint64_t size_bytes);

/* ---- the reader's side ---- */

typedef struct rfaas_shm_reader {
    rfaas_shm_shared *shared;
    uint64_t next;    /* number of the entry to be read next */
    uint64_t data_at; /* position in the ring of bytes up to which all was read */
} rfaas_shm_reader;

/* The next entry, or NULL. What is in it is the writer's word: copy, then verify. */
const rfaas_shm_entry *rfaas_shm_entry_to_read(const rfaas_shm_reader *reader);

/* Where the entry's bytes lie, or NULL if what it says can't be. */
const uint8_t *rfaas_shm_data_to_read(const rfaas_shm_reader *reader, const rfaas_shm_entry *entry, uint64_t at,
                                      uint32_t size_bytes);

/* Asks for a bell with the next entry; false if one is there already. */
bool rfaas_shm_fall_asleep(rfaas_shm_reader *reader);
void rfaas_shm_stay_awake(rfaas_shm_reader *reader);

/* The entry has been read, with `size_bytes` of the ring of bytes from position `at`. True: the writer wants a bell. */
bool rfaas_shm_consume(rfaas_shm_reader *reader, uint64_t at, uint32_t size_bytes);

/* Gives a block back to its writer; any thread. */
void rfaas_shm_block_release(rfaas_shm_shared *shared, uint32_t slot, uint32_t generation);

#endif
