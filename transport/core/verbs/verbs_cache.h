/* verbs_cache.h - memory for arrays of this process (array_pool.h) that stays registered with one link, and gives the peer
 * no right by that: each segment that is lent is opened by a window of its own.
 *
 * Only what the pool has given out is kept: of other memory nobody would tell here that it was unmapped, and the device
 * would go on with pages that are nobody's. One thread at a time. Spec: docs/spec/007-verbs.md section 7.
 */
#ifndef RFAAS_VERBS_CACHE_H
#define RFAAS_VERBS_CACHE_H

#include "verbs_link.h"

enum {
    RFAAS_VERBS_CACHED = 16,               /* arrays a channel */
    RFAAS_VERBS_CACHED_BYTES = 256 << 20,  /* registered and not lent, a channel */
};

typedef struct rfaas_verbs_cached {
    void *block;
    size_t size_bytes;
    uint64_t life; /* of the block, as the pool counts */
    rfaas_verbs_region *region; /* NULL: a free place */
    uint32_t n_windows;
    uint64_t used_at;
} rfaas_verbs_cached;

typedef struct rfaas_verbs_cache {
    rfaas_verbs_cached entries[RFAAS_VERBS_CACHED];
    uint64_t n_used;
} rfaas_verbs_cache;

/* The registered block in which these bytes lie, registered now if need be; NULL: they are none of the pool's, or it can't be. */
rfaas_verbs_cached *rfaas_verbs_cache_find(rfaas_verbs_cache *cache, const rfaas_verbs_ops *ops, rfaas_verbs_link *link,
                                           const void *bytes, size_t size_bytes);

/* Withdraws all; no window is open. */
void rfaas_verbs_cache_end(rfaas_verbs_cache *cache, const rfaas_verbs_ops *ops, rfaas_verbs_link *link);

#endif
