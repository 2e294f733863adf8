/* verbs_regions.c - memory that is registered, and the peer's that is read and written without its help: the operations of
 * verbs_link.h for large segments (spec 007 section 7) and for memory that is lent (spec 008).
 *
 * A queue pair's requests are done in order, so the number of the last one that is done says it of all before.
 */
#include "verbs_pair.h"

#include <errno.h>
#include <stdlib.h>

/* ---- registering ---- */

static const struct {
    unsigned rights;
    bool tells_remote_key;
    bool is_kept; /* until the queue pair has gone */
} uses[] = {
    [RFAAS_VERBS_TO_READ_TO] = {IBV_ACCESS_LOCAL_WRITE, false, false},
    [RFAAS_VERBS_BY_KEY] = {IBV_ACCESS_REMOTE_READ, true, false},
    [RFAAS_VERBS_BY_WINDOWS] = {IBV_ACCESS_MW_BIND, false, false},
    [RFAAS_VERBS_BORROWING] = {IBV_ACCESS_LOCAL_WRITE, false, true},
    [RFAAS_VERBS_LENT] = {IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE, true, true},
};

static bool can_serve(const rfaas_verbs_link *link, rfaas_verbs_use use)
{
    if (use == RFAAS_VERBS_BY_WINDOWS)
        return link->has_windows;
    return use != RFAAS_VERBS_BORROWING || link->reads_begun > 0;
}

rfaas_verbs_region *rfaas_verbs_enroll(rfaas_verbs_link *link, void *memory, size_t size_bytes, rfaas_verbs_use use,
                                       uint32_t *key)
{
    rfaas_verbs_kept *kept = NULL;
    errno = EOPNOTSUPP;
    if (!can_serve(link, use) || (uses[use].is_kept && (kept = malloc(sizeof *kept)) == NULL))
        return NULL;
    struct ibv_mr *made = ibv_reg_mr(link->domain, memory, size_bytes, uses[use].rights);
    if (made == NULL) {
        int error = errno;
        free(kept);
        errno = error;
        return NULL;
    }
    if (kept != NULL) {
        *kept = (rfaas_verbs_kept){link->kept, made};
        link->kept = kept;
    }
    if (key != NULL)
        *key = uses[use].tells_remote_key ? made->rkey : made->lkey;
    return (rfaas_verbs_region *)made;
}

void rfaas_verbs_withdraw(rfaas_verbs_link *link, rfaas_verbs_region *region)
{
    (void)link;
    ibv_dereg_mr((struct ibv_mr *)region);
}

void rfaas_verbs_withdraw_kept(rfaas_verbs_link *link)
{
    while (link->kept != NULL) {
        rfaas_verbs_kept *first = link->kept;
        link->kept = first->next;
        ibv_dereg_mr(first->memory);
        free(first);
    }
}

/* ---- windows ---- */

/* Of type 2: bound by a request on this queue pair, before whatever tells the peer of it, and good on this one alone. */
rfaas_verbs_window *rfaas_verbs_open_window(rfaas_verbs_link *link, rfaas_verbs_region *region, void *at, size_t size_bytes,
                                            uint32_t *key)
{
    struct ibv_mw *made = ibv_alloc_mw(link->domain, IBV_MW_TYPE_2);
    if (made == NULL)
        return NULL;
    *key = ibv_inc_rkey(made->rkey);
    struct ibv_send_wr request = {.opcode = IBV_WR_BIND_MW,
                                  .bind_mw = {.mw = made,
                                              .rkey = *key,
                                              .bind_info = {.mr = (struct ibv_mr *)region,
                                                            .addr = (uintptr_t)at,
                                                            .length = size_bytes,
                                                            .mw_access_flags = IBV_ACCESS_REMOTE_READ}}};
    if (rfaas_verbs_pair_post(link, &request) == RFAAS_OK)
        return (rfaas_verbs_window *)made;
    ibv_dealloc_mw(made);
    return NULL;
}

/* Deallocated, not invalidated by a request: that would be over only some time after the memory is its owner's again. */
void rfaas_verbs_close_window(rfaas_verbs_link *link, rfaas_verbs_window *window)
{
    (void)link;
    ibv_dealloc_mw((struct ibv_mw *)window);
}

/* ---- reading and writing ---- */

rfaas_rc rfaas_verbs_access(rfaas_verbs_link *link, const rfaas_remote_access *access, uint64_t *number)
{
    struct ibv_sge piece = {(uintptr_t)access->bytes, access->size_bytes, access->bytes_key};
    struct ibv_send_wr request = {
        .sg_list = &piece,
        .num_sge = 1,
        .opcode = access->is_write ? IBV_WR_RDMA_WRITE : IBV_WR_RDMA_READ,
        .send_flags = IBV_SEND_SIGNALED,
        .wr.rdma = {access->address, access->key},
    };
    rfaas_rc rc = rfaas_verbs_pair_post(link, &request);
    *number = link->posted;
    return rc;
}

bool rfaas_verbs_accessed(rfaas_verbs_link *link, uint64_t *number)
{
    bool is_well = rfaas_verbs_pair_reap(link) && atomic_load_explicit(&link->alarm.ended_by, memory_order_relaxed) == 0;
    *number = link->acknowledged;
    return is_well;
}

bool rfaas_verbs_arm_accessed(rfaas_verbs_link *link)
{
    return ibv_req_notify_cq(link->sent, 0) == 0;
}

rfaas_rc rfaas_verbs_read(rfaas_verbs_link *link, const rfaas_verbs_region *region, void *to, size_t size_bytes, uint64_t from,
                          uint32_t key)
{
    const struct ibv_mr *registered = region != NULL ? (const struct ibv_mr *)region : link->source;
    const rfaas_remote_access access = {.bytes = to,
                                        .bytes_key = registered->lkey,
                                        .size_bytes = (uint32_t)size_bytes,
                                        .address = from,
                                        .key = key};
    uint64_t number;
    rfaas_rc rc = rfaas_verbs_access(link, &access, &number);
    if (rc == RFAAS_OK)
        atomic_store(&link->read_until, number);
    return rc;
}

int rfaas_verbs_reading(rfaas_verbs_link *link)
{
    uint64_t until = atomic_load(&link->read_until);
    if (until <= atomic_load(&link->acknowledged))
        return 0;
    if (!rfaas_verbs_pair_reap(link))
        return -1;
    return until > atomic_load(&link->acknowledged);
}
