/* shm_borrow.c - see shm_borrow.h. */
#include "shm_borrow.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct range {
    uint8_t *begin, *end;
} range;

struct rfaas_shm_pool {
    _Atomic uint32_t users; /* the channel, and every frame that borrows */
    pthread_mutex_t mutex;  /* of the list */
    rfaas_shm_borrow *first;
    uint8_t *base;
    size_t size_bytes;
    range *kept; /* all that is left of the mapping, NULL: it is whole */
    uint32_t n_kept;
};

typedef struct part {
    rfaas_shm_lent *lent; /* NULL: it lies in the pool, at `at` */
    uint8_t *at;
    size_t size_bytes;
} part;

struct rfaas_shm_borrow {
    rfaas_shm_borrow *previous, *next; /* in the pool's list */
    struct rfaas_shm_pool *pool;       /* NULL: nothing of it lies in the pool */
    part parts[RFAAS_PLACED_MAX];
    uint32_t n_parts;
    rfaas_memory rest; /* of the segments that were moved */
    void *rest_buffer;
    size_t rest_bytes;
};

/* ---- the pool ---- */

static struct rfaas_shm_pool *wrap(void *base, size_t size_bytes)
{
    struct rfaas_shm_pool *pool = calloc(1, sizeof *pool);
    if (pool == NULL) {
        munmap(base, size_bytes);
        return NULL;
    }
    madvise(base, size_bytes, MADV_DONTDUMP);
    pthread_mutex_init(&pool->mutex, NULL);
    pool->users = 1;
    pool->base = base;
    pool->size_bytes = size_bytes;
    return pool;
}

struct rfaas_shm_pool *rfaas_shm_pool_map(int fd)
{
    struct stat status;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || fstat(fd, &status) != 0 || status.st_size <= 0)
        return NULL;
    void *base = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, 0);
    return base == MAP_FAILED ? NULL : wrap(base, (size_t)status.st_size);
}

void rfaas_shm_pool_unuse(struct rfaas_shm_pool *pool)
{
    if (pool == NULL || atomic_fetch_sub(&pool->users, 1) > 1)
        return;
    if (pool->kept == NULL)
        munmap(pool->base, pool->size_bytes);
    for (uint32_t i = 0; i < pool->n_kept; i++)
        munmap(pool->kept[i].begin, (size_t)(pool->kept[i].end - pool->kept[i].begin));
    free(pool->kept);
    pthread_mutex_destroy(&pool->mutex);
    free(pool);
}

bool rfaas_shm_pool_has(const struct rfaas_shm_pool *pool, const void *bytes, size_t size_bytes)
{
    uintptr_t base = (uintptr_t)(pool == NULL ? NULL : pool->base), at = (uintptr_t)bytes;
    return pool != NULL && at >= base && at - base <= pool->size_bytes && size_bytes <= pool->size_bytes - (at - base);
}

static void enlist(struct rfaas_shm_pool *pool, rfaas_shm_borrow *borrow)
{
    atomic_fetch_add(&pool->users, 1);
    borrow->pool = pool;
    pthread_mutex_lock(&pool->mutex);
    borrow->next = pool->first;
    if (pool->first != NULL)
        pool->first->previous = borrow;
    pool->first = borrow;
    pthread_mutex_unlock(&pool->mutex);
}

static void delist(rfaas_shm_borrow *borrow)
{
    struct rfaas_shm_pool *pool = borrow->pool;
    pthread_mutex_lock(&pool->mutex);
    if (borrow->previous != NULL)
        borrow->previous->next = borrow->next;
    else
        pool->first = borrow->next;
    if (borrow->next != NULL)
        borrow->next->previous = borrow->previous;
    pthread_mutex_unlock(&pool->mutex);
    rfaas_shm_pool_unuse(pool);
}

/* The pages on which these bytes lie. */
static range pages_of(uint8_t *at, size_t size_bytes)
{
    uintptr_t step_bytes = (uintptr_t)sysconf(_SC_PAGESIZE), end = (uintptr_t)at + size_bytes;
    uint8_t *begin = at - ((uintptr_t)at & (step_bytes - 1));
    return (range){begin, at + size_bytes + (step_bytes - (end & (step_bytes - 1))) % step_bytes};
}

/* Puts a copy in the place of the pages of these bytes, at one stroke for all other threads. */
static bool make_private(const part *one)
{
    range pages = pages_of(one->at, one->size_bytes);
    size_t size_bytes = (size_t)(pages.end - pages.begin);
    void *copy = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (copy == MAP_FAILED)
        return false;
    memcpy(copy, pages.begin, size_bytes);
    mprotect(copy, size_bytes, PROT_READ);
    if (mremap(copy, size_bytes, size_bytes, MREMAP_MAYMOVE | MREMAP_FIXED, pages.begin) != MAP_FAILED)
        return true;
    munmap(copy, size_bytes);
    return false;
}

static int by_begin(const void *left, const void *right)
{
    const uint8_t *a = ((const range *)left)->begin, *b = ((const range *)right)->begin;
    return a < b ? -1 : a > b;
}

/* Sorts and joins what overlaps; returns how many are left. */
static uint32_t join(range *ranges, uint32_t n)
{
    uint32_t n_joined = 0;
    qsort(ranges, n, sizeof *ranges, by_begin);
    for (uint32_t i = 0; i < n; i++) {
        if (n_joined == 0 || ranges[i].begin > ranges[n_joined - 1].end)
            ranges[n_joined++] = ranges[i];
        else if (ranges[i].end > ranges[n_joined - 1].end)
            ranges[n_joined - 1].end = ranges[i].end;
    }
    return n_joined;
}

/* Unmaps all but what frames still look at: mappings of whole pools would use up the address space. */
static void keep_only_borrowed(struct rfaas_shm_pool *pool)
{
    uint32_t n = 0;
    for (const rfaas_shm_borrow *borrow = pool->first; borrow != NULL; borrow = borrow->next)
        n += borrow->n_parts;
    range *ranges = malloc(n * sizeof *ranges);
    if (ranges == NULL)
        return;
    n = 0;
    for (const rfaas_shm_borrow *borrow = pool->first; borrow != NULL; borrow = borrow->next)
        for (uint32_t i = 0; i < borrow->n_parts; i++)
            if (borrow->parts[i].lent == NULL)
                ranges[n++] = pages_of(borrow->parts[i].at, borrow->parts[i].size_bytes);
    pool->n_kept = join(ranges, n);
    pool->kept = ranges;
    uint8_t *at = pool->base, *end = pages_of(pool->base, pool->size_bytes).end;
    for (uint32_t i = 0; i < pool->n_kept; i++) {
        if (ranges[i].begin > at)
            munmap(at, (size_t)(ranges[i].begin - at));
        at = ranges[i].end;
    }
    if (end > at)
        munmap(at, (size_t)(end - at));
}

bool rfaas_shm_pool_detach(struct rfaas_shm_pool **pool)
{
    struct rfaas_shm_pool *old = *pool;
    bool whole = true;
    if (old == NULL)
        return true;
    pthread_mutex_lock(&old->mutex);
    if (old->first == NULL) {
        pthread_mutex_unlock(&old->mutex);
        return true;
    }
    void *again = mremap(old->base, 0, old->size_bytes, MREMAP_MAYMOVE); /* 0: a second mapping of the same memory */
    *pool = again == MAP_FAILED ? NULL : wrap(again, old->size_bytes);
    for (const rfaas_shm_borrow *borrow = old->first; borrow != NULL; borrow = borrow->next)
        for (uint32_t i = 0; i < borrow->n_parts; i++)
            if (borrow->parts[i].lent == NULL)
                whole &= make_private(&borrow->parts[i]);
    keep_only_borrowed(old);
    pthread_mutex_unlock(&old->mutex);
    rfaas_shm_pool_unuse(old);
    return whole;
}

/* ---- what frames borrow ---- */

bool rfaas_shm_borrow_add(rfaas_shm_borrow **borrow, rfaas_shm_segment *segment, struct rfaas_shm_pool *pool,
                          const rfaas_shm_entry *entry, rfaas_receiver *receiver)
{
    uint64_t at = entry->at, size_bytes = entry->block_bytes;
    uint32_t space = entry->space, number = entry->segment;
    bool in_pool = space == RFAAS_SHM_POOL && pool != NULL && segment->side == 1;
    if (receiver->n_placed == RFAAS_PLACED_MAX || size_bytes == 0 || (!in_pool && space != RFAAS_SHM_ARENA))
        return false;
    if (in_pool && (at > pool->size_bytes || size_bytes > pool->size_bytes - at))
        return false;
    if (*borrow == NULL && (*borrow = calloc(1, sizeof **borrow)) == NULL)
        return false;
    part one = {.size_bytes = (size_t)size_bytes};
    if (!in_pool) {
        one.lent = rfaas_shm_lend(segment, at, size_bytes, entry->block, entry->generation);
        if (one.lent == NULL)
            return false;
    }
    one.at = (in_pool ? pool->base : rfaas_shm_rx_arena(segment)) + at;
    if (in_pool && (*borrow)->pool == NULL)
        enlist(pool, *borrow);
    (*borrow)->parts[(*borrow)->n_parts++] = one;
    receiver->placed[receiver->n_placed++] =
        (rfaas_placed){.segment = number, .read_only = in_pool, .where = {one.at, one.size_bytes}};
    return true;
}

void rfaas_shm_borrow_settle(rfaas_shm_borrow *borrow, rfaas_receiver *receiver)
{
    rfaas_frame *frame = &receiver->frame;
    if (receiver->state == RFAAS_RECEIVER_FAILED || frame->dropped) {
        rfaas_shm_borrow_release(borrow, NULL, 0);
        return;
    }
    borrow->rest = frame->memory;
    borrow->rest_buffer = frame->buffer;
    borrow->rest_bytes = frame->buffer_bytes;
    frame->memory = (rfaas_memory){NULL, rfaas_shm_borrow_release, borrow};
    if (frame->buffer == NULL)
        frame->buffer = borrow; /* a payload that has nowhere to be but where it lies is given back all the same */
}

void rfaas_shm_borrow_release(void *context, void *buffer, size_t size_bytes)
{
    (void)buffer;
    (void)size_bytes;
    rfaas_shm_borrow *borrow = context;
    if (borrow->pool != NULL)
        delist(borrow);
    for (uint32_t i = 0; i < borrow->n_parts; i++)
        if (borrow->parts[i].lent != NULL)
            rfaas_shm_lent_release(borrow->parts[i].lent, NULL, 0);
    if (borrow->rest_buffer != NULL)
        borrow->rest.release(borrow->rest.context, borrow->rest_buffer, borrow->rest_bytes);
    free(borrow);
}

bool rfaas_shm_borrow_came_by_ring(const rfaas_frame *frame)
{
    const rfaas_shm_borrow *borrow = frame->memory.context;
    if (frame->memory.release == rfaas_shm_borrow_release)
        return borrow->rest_buffer != NULL && borrow->rest.release != rfaas_shm_lent_release;
    return frame->memory.release != rfaas_shm_lent_release;
}
