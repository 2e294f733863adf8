/* verbs_cache.c - see verbs_cache.h. */
#include "verbs_cache.h"

#include "array_pool.h"

static void drop(rfaas_verbs_cached *entry, const rfaas_verbs_ops *ops, rfaas_verbs_link *link)
{
    ops->withdraw(link, entry->region);
    entry->region = NULL;
}

/* Blocks whose memory the pool has given back since keep pages registered that nobody else uses. */
static void drop_dead(rfaas_verbs_cache *cache, const rfaas_verbs_ops *ops, rfaas_verbs_link *link)
{
    for (size_t i = 0; i < RFAAS_VERBS_CACHED; i++) {
        rfaas_verbs_cached *entry = &cache->entries[i];
        if (entry->region != NULL && entry->n_windows == 0 && !rfaas_array_pool_lives(entry->block, entry->life))
            drop(entry, ops, link);
    }
}

/* The one that was used longest ago, of those without a window. */
static rfaas_verbs_cached *oldest(rfaas_verbs_cache *cache)
{
    rfaas_verbs_cached *found = NULL;
    for (size_t i = 0; i < RFAAS_VERBS_CACHED; i++) {
        rfaas_verbs_cached *entry = &cache->entries[i];
        if (entry->region != NULL && entry->n_windows == 0 && (found == NULL || entry->used_at < found->used_at))
            found = entry;
    }
    return found;
}

static size_t kept_bytes(const rfaas_verbs_cache *cache)
{
    size_t size_bytes = 0;
    for (size_t i = 0; i < RFAAS_VERBS_CACHED; i++)
        if (cache->entries[i].region != NULL && cache->entries[i].n_windows == 0)
            size_bytes += cache->entries[i].size_bytes;
    return size_bytes;
}

/* A free place, for so many bytes more; NULL: windows are open on all. */
static rfaas_verbs_cached *make_room(rfaas_verbs_cache *cache, size_t size_bytes, const rfaas_verbs_ops *ops,
                                     rfaas_verbs_link *link)
{
    rfaas_verbs_cached *old, *free_place = NULL;
    while ((old = oldest(cache)) != NULL && kept_bytes(cache) + size_bytes > RFAAS_VERBS_CACHED_BYTES)
        drop(old, ops, link);
    for (size_t i = 0; i < RFAAS_VERBS_CACHED && free_place == NULL; i++)
        if (cache->entries[i].region == NULL)
            free_place = &cache->entries[i];
    if (free_place == NULL && old != NULL) {
        drop(old, ops, link);
        free_place = old;
    }
    return free_place;
}

rfaas_verbs_cached *rfaas_verbs_cache_find(rfaas_verbs_cache *cache, const rfaas_verbs_ops *ops, rfaas_verbs_link *link,
                                           const void *bytes, size_t size_bytes)
{
    rfaas_array_pool_block block;
    if (!rfaas_array_pool_block_of(bytes, size_bytes, &block))
        return NULL;
    for (size_t i = 0; i < RFAAS_VERBS_CACHED; i++) {
        rfaas_verbs_cached *entry = &cache->entries[i];
        if (entry->region != NULL && entry->block == block.at && entry->life == block.life) {
            entry->used_at = ++cache->n_used;
            return entry;
        }
    }
    drop_dead(cache, ops, link);
    rfaas_verbs_cached *made = make_room(cache, block.size_bytes, ops, link);
    if (made == NULL)
        return NULL;
    made->region = ops->enroll(link, block.at, block.size_bytes, RFAAS_VERBS_BY_WINDOWS, NULL);
    if (made->region == NULL)
        return NULL;
    made->block = block.at;
    made->size_bytes = block.size_bytes;
    made->life = block.life;
    made->n_windows = 0;
    made->used_at = ++cache->n_used;
    return made;
}

void rfaas_verbs_cache_end(rfaas_verbs_cache *cache, const rfaas_verbs_ops *ops, rfaas_verbs_link *link)
{
    for (size_t i = 0; i < RFAAS_VERBS_CACHED; i++)
        if (cache->entries[i].region != NULL)
            drop(&cache->entries[i], ops, link);
}
