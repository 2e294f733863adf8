/* shm_arrays.c - memory for arrays beside the frames: blocks of this side's arena that are filled before they are sent, and
 * the peer's pool, which is only looked at.
 */
#include "failpoint.h"
#include "shm_channel.h"

/* The channel if it is one of this medium. */
static shm_channel *of(const rfaas_channel *base)
{
    return base->medium->receive == rfaas_shm_receive ? (shm_channel *)base : NULL;
}

void rfaas_shm_adopt_pool(rfaas_channel *base, int pool_fd)
{
    shm_channel *channel = of(base);
    if (channel == NULL || channel->segment->side != 1 || channel->pool != NULL)
        return;
    channel->pool = rfaas_shm_pool_map(pool_fd);
    atomic_store(&channel->segment->directions[0].lines.pool_mapped, channel->pool != NULL);
    FAILPOINT("after-pool-mapped");
}

bool rfaas_channel_array_take(rfaas_channel *base, size_t size_bytes, rfaas_channel_array *array)
{
    shm_channel *channel = of(base);
    rfaas_shm_block block;
    if (channel == NULL || base->closed || size_bytes == 0)
        return false;
    array->at = rfaas_shm_block_take(&channel->writer, size_bytes, &block);
    if (array->at == NULL) {
        uint64_t wanted_bytes = rfaas_shm_arena_bytes_for(&channel->writer, size_bytes);
        if (wanted_bytes > channel->missed_bytes)
            channel->missed_bytes = wanted_bytes;
        return false;
    }
    array->slot = block.slot;
    array->generation = block.generation;
    rfaas_shm_block *taken = rfaas_shm_block_find(&channel->writer, array->at, size_bytes);
    taken->held = true;
    taken->owner = array->owner;
    return true;
}

bool rfaas_channel_array_missed(const rfaas_channel *base)
{
    const shm_channel *channel = of(base);
    return channel != NULL && channel->missed_bytes > 0;
}

void rfaas_channel_array_want(rfaas_channel *base, bool wanted)
{
    shm_channel *channel = of(base);
    if (channel == NULL)
        return;
    if (wanted && channel->segment->side == 1) {
        atomic_store(&channel->segment->directions[1].lines.arena_wanted_bytes, channel->missed_bytes);
        FAILPOINT("after-arena-wanted");
    }
    channel->missed_bytes = 0;
}

void *rfaas_channel_array_owner(const rfaas_channel *base, const void *bytes, size_t size_bytes)
{
    shm_channel *channel = of(base);
    rfaas_shm_block *block = channel == NULL ? NULL : rfaas_shm_block_find(&channel->writer, bytes, size_bytes);
    return block != NULL && block->held && !block->handed ? block->owner : NULL;
}

/* The block if it is still its taker's. */
static rfaas_shm_block *find(shm_channel *channel, const rfaas_channel_array *array)
{
    rfaas_shm_block *block = channel == NULL ? NULL : rfaas_shm_block_find(&channel->writer, array->at, 1);
    bool is_it = block != NULL && block->slot == array->slot && block->generation == array->generation;
    return is_it && block->held ? block : NULL;
}

void rfaas_channel_array_give_back(rfaas_channel *base, const rfaas_channel_array *array)
{
    rfaas_shm_block *block = find(of(base), array);
    if (block == NULL)
        return;
    block->held = false;
    block->given_back = true;
}

void rfaas_channel_array_hand_over(rfaas_channel *base, const rfaas_channel_array *array)
{
    rfaas_shm_block *block = find(of(base), array);
    if (block != NULL)
        block->handed = true;
}

rfaas_rc rfaas_channel_detach(rfaas_channel *base)
{
    shm_channel *channel = of(base);
    if (channel == NULL)
        return RFAAS_OK;
    bool whole = rfaas_shm_pool_detach(&channel->pool);
    atomic_store(&channel->segment->directions[0].lines.pool_mapped, channel->pool != NULL);
    FAILPOINT("after-pool-mapped");
    return whole ? RFAAS_OK : RFAAS_NO_MEMORY;
}

bool rfaas_channel_is_borrowed(const rfaas_channel *base, const void *bytes, size_t size_bytes)
{
    const shm_channel *channel = of(base);
    return channel != NULL && rfaas_shm_pool_has(channel->pool, bytes, size_bytes);
}
