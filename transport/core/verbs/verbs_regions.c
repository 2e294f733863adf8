/* verbs_regions.c - memory that is registered for a while, and reading of the peer's: part of the operations of verbs_link.h. */
#include "verbs_pair.h"

rfaas_verbs_region *rfaas_verbs_enroll(rfaas_verbs_link *link, void *memory, size_t size_bytes, rfaas_verbs_use use,
                                       uint32_t *key)
{
    static const unsigned accesses[] = {[RFAAS_VERBS_TO_READ_TO] = IBV_ACCESS_LOCAL_WRITE,
                                        [RFAAS_VERBS_BY_KEY] = IBV_ACCESS_REMOTE_READ,
                                        [RFAAS_VERBS_BY_WINDOWS] = IBV_ACCESS_MW_BIND};
    if (use == RFAAS_VERBS_BY_WINDOWS && !link->has_windows)
        return NULL;
    struct ibv_mr *made = ibv_reg_mr(link->domain, memory, size_bytes, accesses[use]);
    if (made != NULL && use == RFAAS_VERBS_BY_KEY)
        *key = made->rkey;
    return (rfaas_verbs_region *)made;
}

void rfaas_verbs_withdraw(rfaas_verbs_link *link, rfaas_verbs_region *region)
{
    (void)link;
    ibv_dereg_mr((struct ibv_mr *)region);
}

/* Of type 2: bound by a request on this queue pair, before whatever tells the peer of it, and good on this one alone. */
rfaas_verbs_window *rfaas_verbs_open_window(rfaas_verbs_link *link, rfaas_verbs_region *region, void *at, size_t size_bytes,
                                            uint32_t *key)
{
    if (rfaas_verbs_pair_has_room(link) != RFAAS_OK)
        return NULL;
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

rfaas_rc rfaas_verbs_read(rfaas_verbs_link *link, const rfaas_verbs_region *region, void *to, size_t size_bytes, uint64_t from,
                          uint32_t key)
{
    const struct ibv_mr *registered = region != NULL ? (const struct ibv_mr *)region : link->source;
    struct ibv_sge piece = {(uintptr_t)to, (uint32_t)size_bytes, registered->lkey};
    struct ibv_send_wr request = {.sg_list = &piece,
                                  .num_sge = 1,
                                  .opcode = IBV_WR_RDMA_READ,
                                  .send_flags = IBV_SEND_SIGNALED,
                                  .wr.rdma = {from, key}};
    rfaas_rc rc = rfaas_verbs_pair_has_room(link);
    if (rc == RFAAS_OK)
        rc = rfaas_verbs_pair_post(link, &request);
    if (rc == RFAAS_OK)
        atomic_store(&link->read_until, link->posted);
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
