/* verbs_landing.h - memory for payloads that are read by RDMA: registered with one link, and kept for the next of its size.
 *
 * Given back by whoever has the frame, from any thread, also after the channel has ended. A forked child's copy of it is its
 * own to let go of, and nothing else.
 */
#ifndef RFAAS_VERBS_LANDING_H
#define RFAAS_VERBS_LANDING_H

#include "receiver.h"
#include "verbs_link.h"

enum { RFAAS_VERBS_LANDING_KEPT_BYTES = 16 << 20 }; /* registered memory that nobody uses, a channel */

typedef struct rfaas_verbs_landing rfaas_verbs_landing;

/* NULL: no memory. The link must not be freed before rfaas_verbs_landing_end(). */
rfaas_verbs_landing *rfaas_verbs_landing_begin(const rfaas_verbs_ops *ops, rfaas_verbs_link *link);

/* What frames are to allocate by. */
rfaas_memory rfaas_verbs_landing_memory(rfaas_verbs_landing *landing);

/* The region of a buffer that was allocated so; NULL: it could not be registered. */
const rfaas_verbs_region *rfaas_verbs_landing_region(rfaas_verbs_landing *landing, const void *buffer);

/* Withdraws all regions; buffers that are in use stay until they are given back. `inherited`: nothing is withdrawn. NULL is
 * allowed. */
void rfaas_verbs_landing_end(rfaas_verbs_landing *landing, bool inherited);

#endif
