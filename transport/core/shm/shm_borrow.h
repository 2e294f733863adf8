/* shm_borrow.h - segments that are read where the peer made them: in its arena, or in its pool for arrays.
 *
 * The reader's side. What lies in the pool stays the peer's: it may write there again once the call has ended, so what is
 * still looked at then is replaced by a private copy at the same address.
 */
#ifndef RFAAS_SHM_BORROW_H
#define RFAAS_SHM_BORROW_H

#include "receiver.h"
#include "shm_segment.h"

struct rfaas_shm_pool; /* the peer's pool, mapped for reading */

/* Maps the pool behind `fd`, which stays the caller's; NULL if it can't be, or is no memory that never shrinks. */
struct rfaas_shm_pool *rfaas_shm_pool_map(int fd);

/* Gives one use up; the last one unmaps. Any thread. */
void rfaas_shm_pool_unuse(struct rfaas_shm_pool *pool);

/* The placed segments of one frame; owned by whoever owns that frame's buffer. */
typedef struct rfaas_shm_borrow rfaas_shm_borrow;

/* Notes one more segment of the frame that begins next, as an entry of kind PLACED says. `*borrow` is made if it is NULL.
 * False: there can be no such segment, or no memory is left. */
bool rfaas_shm_borrow_add(rfaas_shm_borrow **borrow, rfaas_shm_segment *segment, struct rfaas_shm_pool *pool,
                          const rfaas_shm_entry *entry, rfaas_receiver *receiver);

/* The head of that frame has come: the frame takes the borrow over, or it is released if the frame was refused. */
void rfaas_shm_borrow_settle(rfaas_shm_borrow *borrow, rfaas_receiver *receiver);

/* The release() of the memory of such a frame. Any thread. */
void rfaas_shm_borrow_release(void *context, void *buffer, size_t size_bytes);

/* True if the rest of that frame's payload had to come through the ring. */
bool rfaas_shm_borrow_came_by_ring(const rfaas_frame *frame);

/* Replaces all that frames still hold of the pool by private copies, and `*pool` by a fresh mapping, NULL if there can be
 * none. False: no memory for a copy; then what could not be copied is still the peer's. */
bool rfaas_shm_pool_detach(struct rfaas_shm_pool **pool);

/* True if these bytes lie in the pool. */
bool rfaas_shm_pool_has(const struct rfaas_shm_pool *pool, const void *bytes, size_t size_bytes);

#endif
