/* array_pool.c - see array_pool.h. */
#include "array_pool.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fork_guard.h"

typedef struct block {
    uint64_t at, size_bytes;
    uint64_t cached_since; /* 0: in use; else the number of the giving back */
    uint64_t life;         /* which of all blocks it is: another one may begin at the same place later */
} block;

struct rfaas_array_pool {
    rfaas_guarded guarded;
    uint8_t *base;
    uint64_t size_bytes, cached_bytes, used_bytes;
    uint64_t n_given_back, n_lives;
    block *blocks; /* by offset */
    uint32_t n_blocks, room;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static rfaas_array_pool *current; /* of this process; those of its parents stay mapped for the arrays in them */
static bool tried;                /* and can't be made, if it is not there */
static uint64_t wanted_bytes;

/* ---- making it ---- */

static void before_fork(void)
{
    pthread_mutex_lock(&mutex);
}

static void after_fork_in_parent(void)
{
    pthread_mutex_unlock(&mutex);
}

static void after_fork_in_child(void)
{
    current = NULL;
    tried = false;
    pthread_mutex_unlock(&mutex);
}

static void install(void)
{
    rfaas_guard_install(); /* first: handlers before a fork run in reverse, and this lock is taken before that one */
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

static uint64_t chosen_bytes(void)
{
    uint64_t bytes = wanted_bytes;
    if (bytes == 0)
        bytes = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    return bytes & ~(uint64_t)(RFAAS_ARRAY_POOL_STEP_BYTES - 1);
}

static rfaas_array_pool *make_over(int fd, uint64_t size_bytes)
{
    if (size_bytes == 0 || ftruncate(fd, (off_t)size_bytes) != 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
        return NULL;
    void *base = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (base == MAP_FAILED)
        return NULL;
    rfaas_array_pool *pool = calloc(1, sizeof *pool);
    if (pool == NULL) {
        munmap(base, size_bytes);
        return NULL;
    }
    madvise(base, size_bytes, MADV_DONTDUMP); /* a core dump would touch all of it */
    pool->base = base;
    pool->size_bytes = size_bytes;
    return pool;
}

/* The pool of this process, made if need be; NULL: there can be none (a limit on address space or file sizes). */
static rfaas_array_pool *get(void)
{
    if (current != NULL || tried)
        return current;
    tried = true;
    int fd = memfd_create("rfaas-arrays", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return NULL;
    current = make_over(fd, chosen_bytes());
    if (current == NULL)
        close(fd);
    else
        rfaas_guard_begin(&current->guarded, current->base, current->size_bytes, fd);
    return current;
}

void rfaas_array_pool_set_size(uint64_t size_bytes)
{
    pthread_mutex_lock(&mutex);
    wanted_bytes = size_bytes;
    pthread_mutex_unlock(&mutex);
}

int rfaas_array_pool_export(void)
{
    char path[48];
    int fd = -1;
    pthread_once(&once, install);
    pthread_mutex_lock(&mutex);
    const rfaas_array_pool *pool = get();
    if (pool != NULL && rfaas_guard_has_fd(&pool->guarded)) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", pool->guarded.fd);
        fd = open(path, O_RDONLY | O_CLOEXEC);
    }
    pthread_mutex_unlock(&mutex);
    return fd;
}

/* ---- blocks ---- */

static void remove_block(rfaas_array_pool *pool, uint32_t index)
{
    memmove(&pool->blocks[index], &pool->blocks[index + 1], (pool->n_blocks - index - 1) * sizeof *pool->blocks);
    pool->n_blocks--;
}

/* Gives the memory of a block that is kept back to the system. */
static void drop_cached(rfaas_array_pool *pool, uint32_t index)
{
    const block dropped = pool->blocks[index];
    pool->cached_bytes -= dropped.size_bytes;
    remove_block(pool, index);
    madvise(pool->base + dropped.at, dropped.size_bytes, MADV_REMOVE);
}

static void drop_oldest(rfaas_array_pool *pool, uint64_t keep_bytes)
{
    while (pool->cached_bytes > keep_bytes) {
        uint32_t oldest = UINT32_MAX;
        for (uint32_t i = 0; i < pool->n_blocks; i++) {
            uint64_t since = pool->blocks[i].cached_since;
            if (since != 0 && (oldest == UINT32_MAX || since < pool->blocks[oldest].cached_since))
                oldest = i;
        }
        drop_cached(pool, oldest);
    }
}

/* The kept block that fits best, of at most a quarter more; NULL: none. */
static block *find_cached(rfaas_array_pool *pool, uint64_t size_bytes)
{
    block *best = NULL;
    for (uint32_t i = 0; i < pool->n_blocks && pool->cached_bytes > 0; i++) {
        block *one = &pool->blocks[i];
        if (one->cached_since != 0 && one->size_bytes >= size_bytes && one->size_bytes - size_bytes <= size_bytes / 4 &&
            (best == NULL || one->size_bytes < best->size_bytes))
            best = one;
    }
    return best;
}

static bool make_room(rfaas_array_pool *pool)
{
    if (pool->n_blocks < pool->room)
        return true;
    uint32_t room = pool->room == 0 ? 64 : 2 * pool->room;
    block *grown = realloc(pool->blocks, room * sizeof *grown);
    if (grown == NULL)
        return false;
    pool->blocks = grown;
    pool->room = room;
    return true;
}

/* A new block in the first gap that is large enough; NULL: there is none. */
static block *insert(rfaas_array_pool *pool, uint64_t size_bytes)
{
    uint64_t end = 0;
    uint32_t index = 0;
    for (; index < pool->n_blocks && pool->blocks[index].at - end < size_bytes; index++)
        end = pool->blocks[index].at + pool->blocks[index].size_bytes;
    if (pool->size_bytes - end < size_bytes || !make_room(pool))
        return NULL;
    memmove(&pool->blocks[index + 1], &pool->blocks[index], (pool->n_blocks - index) * sizeof *pool->blocks);
    pool->n_blocks++;
    pool->blocks[index] = (block){.at = end, .size_bytes = size_bytes, .life = ++pool->n_lives};
    return &pool->blocks[index];
}

static block *take(rfaas_array_pool *pool, uint64_t size_bytes)
{
    block *found = find_cached(pool, size_bytes);
    if (found != NULL) {
        pool->cached_bytes -= found->size_bytes;
        found->cached_since = 0;
        return found;
    }
    found = insert(pool, size_bytes);
    if (found == NULL && pool->cached_bytes > 0) {
        drop_oldest(pool, 0);
        found = insert(pool, size_bytes);
    }
    return found;
}

void *rfaas_array_pool_take(size_t size_bytes, rfaas_array_pool **pool)
{
    void *at = NULL;
    if (size_bytes == 0 || size_bytes > SIZE_MAX / 2)
        return NULL;
    pthread_once(&once, install);
    pthread_mutex_lock(&mutex);
    *pool = get();
    if (*pool != NULL) {
        uint64_t step_bytes = RFAAS_ARRAY_POOL_STEP_BYTES;
        const block *found = take(*pool, (size_bytes + step_bytes - 1) / step_bytes * step_bytes);
        if (found != NULL) {
            (*pool)->used_bytes += found->size_bytes;
            at = (*pool)->base + found->at;
        }
    }
    pthread_mutex_unlock(&mutex);
    return at;
}

static uint32_t index_of(const rfaas_array_pool *pool, uint64_t at)
{
    uint32_t low = 0, high = pool->n_blocks;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (pool->blocks[middle].at < at)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void rfaas_array_pool_give_back(rfaas_array_pool *pool, void *at)
{
    pthread_mutex_lock(&mutex);
    uint32_t index = index_of(pool, (uint64_t)((uint8_t *)at - pool->base));
    if (pool == current && index < pool->n_blocks && pool->base + pool->blocks[index].at == at) {
        block *given = &pool->blocks[index];
        given->cached_since = ++pool->n_given_back;
        pool->used_bytes -= given->size_bytes;
        pool->cached_bytes += given->size_bytes;
        drop_oldest(pool, RFAAS_ARRAY_POOL_KEEP_BYTES);
    }
    pthread_mutex_unlock(&mutex);
}

bool rfaas_array_pool_find(const void *bytes, size_t size_bytes, uint64_t *at)
{
    pthread_mutex_lock(&mutex);
    const rfaas_array_pool *pool = current;
    pthread_mutex_unlock(&mutex); /* a pool lives as long as its process */
    if (pool == NULL)
        return false;
    uintptr_t base = (uintptr_t)pool->base, begin = (uintptr_t)bytes;
    if (begin < base || begin - base > pool->size_bytes || size_bytes > pool->size_bytes - (begin - base))
        return false;
    *at = begin - base;
    return true;
}

bool rfaas_array_pool_block_of(const void *bytes, size_t size_bytes, rfaas_array_pool_block *found)
{
    uint64_t at;
    if (size_bytes == 0 || !rfaas_array_pool_find(bytes, size_bytes, &at))
        return false;
    pthread_mutex_lock(&mutex);
    uint32_t index = index_of(current, at + 1); /* the first block behind */
    const block *one = index > 0 ? &current->blocks[index - 1] : NULL;
    bool lies = one != NULL && one->cached_since == 0 && at - one->at <= one->size_bytes &&
                size_bytes <= one->size_bytes - (at - one->at);
    if (lies)
        *found = (rfaas_array_pool_block){current->base + one->at, (size_t)one->size_bytes, one->life};
    pthread_mutex_unlock(&mutex);
    return lies;
}

bool rfaas_array_pool_lives(const void *at, uint64_t life)
{
    pthread_mutex_lock(&mutex);
    uint64_t offset_bytes = current == NULL ? 0 : (uint64_t)((const uint8_t *)at - current->base);
    uint32_t index = current == NULL ? 0 : index_of(current, offset_bytes);
    bool lives = current != NULL && index < current->n_blocks && current->blocks[index].at == offset_bytes &&
                 current->blocks[index].life == life;
    pthread_mutex_unlock(&mutex);
    return lives;
}

rfaas_array_pool_use rfaas_array_pool_usage(void)
{
    rfaas_array_pool_use use = {0};
    pthread_mutex_lock(&mutex);
    if (current != NULL) {
        use = (rfaas_array_pool_use){current->size_bytes, current->used_bytes, current->cached_bytes, 0};
        for (uint32_t i = 0; i < current->n_blocks; i++)
            use.n_used += current->blocks[i].cached_since == 0;
    }
    pthread_mutex_unlock(&mutex);
    return use;
}
