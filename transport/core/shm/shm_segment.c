/* shm_segment.c - see shm_segment.h. */
#include "shm_segment.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "failpoint.h"
#include "rfaas_channel.h"

enum {
    ARENA_MAX_BYTES = 1 << 30,
    SEALS = F_SEAL_SHRINK | F_SEAL_GROW,
};

static size_t rings_bytes(void)
{
    size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    return (2 * sizeof(rfaas_shm_shared) + page_bytes - 1) / page_bytes * page_bytes;
}

int rfaas_shm_create(uint64_t arena_bytes)
{
    if (arena_bytes > ARENA_MAX_BYTES || arena_bytes % RFAAS_SHM_ARENA_STEP_BYTES != 0) {
        errno = EINVAL;
        return -1;
    }
    int fd = memfd_create("rfaas-channel", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -1;
    if (ftruncate(fd, (off_t)(rings_bytes() + 2 * arena_bytes)) == 0 && fcntl(fd, F_ADD_SEALS, SEALS | F_SEAL_SEAL) == 0)
        return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

static bool is_sealed(int fd, size_t *size_bytes)
{
    struct stat status;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & SEALS) != SEALS || fstat(fd, &status) != 0)
        return false;
    *size_bytes = (size_t)status.st_size;
    return *size_bytes >= rings_bytes() && (*size_bytes - rings_bytes()) % (2 * (size_t)RFAAS_SHM_ARENA_STEP_BYTES) == 0;
}

rfaas_shm_segment *rfaas_shm_map(int memory_fd, int side)
{
    size_t size_bytes;
    rfaas_shm_segment *segment = is_sealed(memory_fd, &size_bytes) ? calloc(1, sizeof *segment) : NULL;
    if (segment == NULL)
        return NULL;
    void *at = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory_fd, 0);
    if (at == MAP_FAILED) {
        free(segment);
        return NULL;
    }
    segment->users = 1;
    segment->side = side;
    segment->size_bytes = size_bytes;
    segment->arena_bytes = (size_bytes - rings_bytes()) / 2;
    segment->directions = at;
    madvise(at, size_bytes, MADV_DONTDUMP); /* a core dump would touch all of it */
    rfaas_guard_begin(&segment->guarded, at, size_bytes, fcntl(memory_fd, F_DUPFD_CLOEXEC, 3));
    segment->arenas = (uint8_t *)at + rings_bytes();
    if (side == 0) /* its own writing is its touching */
        atomic_store(&rfaas_shm_tx(segment)->lines.arena_ready_bytes, segment->arena_bytes);
    return segment;
}

void rfaas_shm_retire(rfaas_shm_segment *segment)
{
    atomic_store(&segment->retired, true);
    if (atomic_load(&segment->users) == 1)
        rfaas_guard_end(&segment->guarded);
}

void rfaas_shm_unuse(rfaas_shm_segment *segment)
{
    if (atomic_load(&segment->retired) && atomic_load(&segment->users) == 2) /* this, and the channel that has ended */
        rfaas_guard_end(&segment->guarded);
    if (atomic_fetch_sub(&segment->users, 1) > 1)
        return;
    rfaas_guard_end(&segment->guarded);
    munmap(segment->directions, segment->size_bytes);
    free(segment);
}

rfaas_shm_lent *rfaas_shm_lend(rfaas_shm_segment *segment, uint64_t at, uint64_t size_bytes, uint32_t slot,
                               uint32_t generation)
{
    if (slot >= RFAAS_SHM_BLOCKS || size_bytes == 0 || at > segment->arena_bytes ||
        size_bytes > segment->arena_bytes - at)
        return NULL;
    rfaas_shm_lent *lent = &segment->lent[slot];
    *lent = (rfaas_shm_lent){segment, slot, generation};
    atomic_fetch_add(&segment->users, 1);
    return lent;
}

void rfaas_shm_lent_release(void *context, void *buffer, size_t size_bytes)
{
    (void)buffer;
    (void)size_bytes;
    const rfaas_shm_lent *lent = context;
    if (!lent->segment->guarded.inherited) /* a child's letting go is not its parent's */
        rfaas_shm_block_release(rfaas_shm_rx(lent->segment), lent->slot, lent->generation);
    rfaas_shm_unuse(lent->segment);
}

void rfaas_shm_grow_peers_arena(rfaas_shm_segment *segment, uint64_t size_bytes)
{
    _Atomic uint64_t *ready = &rfaas_shm_rx(segment)->lines.arena_ready_bytes;
    uint64_t ready_bytes = atomic_load(ready);
    uint64_t step_bytes = (size_bytes + RFAAS_SHM_ARENA_STEP_BYTES - 1) & ~(uint64_t)(RFAAS_SHM_ARENA_STEP_BYTES - 1);
    if (ready_bytes > segment->arena_bytes || step_bytes > segment->arena_bytes - ready_bytes)
        return;
    for (uint64_t i = ready_bytes; i < ready_bytes + step_bytes; i += RFAAS_SHM_ARENA_STEP_BYTES)
        rfaas_shm_rx_arena(segment)[i] = 0;
    FAILPOINT("after-touching");
    atomic_store(ready, ready_bytes + step_bytes);
    FAILPOINT("after-arena-ready");
}

void rfaas_shm_grow_as_wanted(rfaas_shm_segment *segment)
{
    const rfaas_shm_lines *lines = &rfaas_shm_rx(segment)->lines;
    uint64_t wanted_bytes = atomic_load(&lines->arena_wanted_bytes), ready_bytes = atomic_load(&lines->arena_ready_bytes);
    if (wanted_bytes > segment->arena_bytes)
        wanted_bytes = segment->arena_bytes;
    if (wanted_bytes > ready_bytes)
        rfaas_shm_grow_peers_arena(segment, wanted_bytes - ready_bytes);
}
