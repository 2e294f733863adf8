/* region_span.h - a part of a region that a borrower reads and writes by itself (RDMA): what is said of it, and its use.
 *
 * For the files that are a region's two sides; see region.h. Spec: docs/spec/008-memory.md section 2.1.
 */
#ifndef RFAAS_REGION_SPAN_H
#define RFAAS_REGION_SPAN_H

#include "region.h"
#include "remote_memory.h"

enum { RFAAS_REGION_SPAN_BYTES = 64 << 20 };

void rfaas_region_span_encode(uint64_t address, uint64_t size_bytes, uint32_t key,
                              uint8_t bytes[RFAAS_REGION_SPAN_ANSWER_BYTES]);
void rfaas_region_span_decode(const uint8_t bytes[RFAAS_REGION_SPAN_ANSWER_BYTES], uint64_t *address,
                              uint64_t *size_bytes, uint32_t *key);

/* ---- the server ---- */

/* Opens the span that begins at `offset`, once; its answer stays valid. NULL: it can't be. */
const uint8_t *rfaas_region_span_open(rfaas_region_server *server, uint64_t offset);
void rfaas_region_spans_end(rfaas_region_server *server);

/* ---- the borrower ---- */

/* How the first of these bytes are reached. What goes beyond the region's end is the server's to refuse, as a whole. */
typedef enum rfaas_region_way {
    RFAAS_REGION_BY_FRAMES,
    RFAAS_REGION_ONE_SIDED,
    RFAAS_REGION_ASK, /* for their span, first */
} rfaas_region_way;

rfaas_region_way rfaas_region_reach_way(rfaas_region_client *client, uint64_t offset, uint64_t size_bytes);

/* The server's answer about the span of `offset`; `refused`: it gave none. */
void rfaas_region_reach_answer(rfaas_region_client *client, uint64_t offset, bool refused);

/* Begins the first part of a read or write: OK (`*begun_bytes` of it), AGAIN, BROKEN. */
rfaas_rc rfaas_region_reach_begin(rfaas_region_client *client, uint64_t offset, uint8_t *bytes, uint64_t size_bytes,
                                  bool is_write, uint64_t *begun_bytes);

/* Takes what is done, and looks for it for up to `spin_ns`: OK (something was), AGAIN, BROKEN. */
rfaas_rc rfaas_region_reach_take(rfaas_region_client *client, rfaas_region_progress *progress, int64_t spin_ns);

/* True: the channel's descriptor tells of the next that is done, and nothing is now. */
bool rfaas_region_reach_may_sleep(rfaas_region_client *client);

/* The channel is closed. */
void rfaas_region_reach_end(rfaas_region_client *client);

#endif
