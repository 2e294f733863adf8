/* array_pool.h - the memory for arrays that this process will pass to functions: one memfd, which peers on this node map
 * for reading, so that an array in it is not copied at all.
 *
 * One pool a process, made when it is first asked for. Only what is used takes memory. Thread-safe; calls nothing but the
 * system. A forked child gets its own pool; what it inherited is its private copy. Spec: docs/spec/006-shared-memory.md
 * section 7.
 */
#ifndef RFAAS_ARRAY_POOL_H
#define RFAAS_ARRAY_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    RFAAS_ARRAY_POOL_STEP_BYTES = 1 << 12,  /* blocks begin and end on pages: a reader can replace each by a copy */
    RFAAS_ARRAY_POOL_KEEP_BYTES = 1 << 28,  /* of blocks that were given back, kept for arrays of their size */
};

typedef struct rfaas_array_pool rfaas_array_pool;

/* How large the pool is that will be made; 0: as the machine's memory. Without effect once it is there. */
void rfaas_array_pool_set_size(uint64_t size_bytes);

/* A block for `size_bytes` > 0, its beginning aligned to a page, its content undefined, and the pool that it is from; NULL
 * if there is no pool or no room. The memory is charged to whoever writes to it first. */
void *rfaas_array_pool_take(size_t size_bytes, rfaas_array_pool **pool);

/* Gives a block back, which no peer reads any more. In a forked child: nothing happens. */
void rfaas_array_pool_give_back(rfaas_array_pool *pool, void *block);

/* True if these bytes lie in this process's pool, and where: a byte offset in it. */
bool rfaas_array_pool_find(const void *bytes, size_t size_bytes, uint64_t *at);

/* A block that is in use: its memory is the same for as long as its `life` is. */
typedef struct rfaas_array_pool_block {
    void *at;
    size_t size_bytes;
    uint64_t life;
} rfaas_array_pool_block;

/* False: these bytes lie in no block of this process's pool that is in use. */
bool rfaas_array_pool_block_of(const void *bytes, size_t size_bytes, rfaas_array_pool_block *found);

/* False: the memory of the block that began there with this life has gone back to the system. */
bool rfaas_array_pool_lives(const void *at, uint64_t life);

/* A descriptor of the pool that can only be read, for a peer; the caller's. -1: there is none. */
int rfaas_array_pool_export(void);

typedef struct rfaas_array_pool_use {
    uint64_t size_bytes;              /* how much the pool may hold */
    uint64_t used_bytes, cached_bytes; /* in arrays; in blocks kept for the next ones */
    uint32_t n_used;
} rfaas_array_pool_use;

/* What is in this process's pool; all zero if it has none. */
rfaas_array_pool_use rfaas_array_pool_usage(void);

#endif
