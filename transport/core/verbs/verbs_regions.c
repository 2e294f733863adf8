/* verbs_regions.c - memory that is registered for a while, and reading of the peer's: part of the operations of verbs_link.h. */
#include "verbs_pair.h"

rfaas_verbs_region *rfaas_verbs_enroll(rfaas_verbs_link *link, void *memory, size_t size_bytes, uint32_t *key)
{
    unsigned access = key != NULL ? IBV_ACCESS_REMOTE_READ : IBV_ACCESS_LOCAL_WRITE;
    struct ibv_mr *made = ibv_reg_mr(link->domain, memory, size_bytes, access);
    if (made != NULL && key != NULL)
        *key = made->rkey;
    return (rfaas_verbs_region *)made;
}

void rfaas_verbs_withdraw(rfaas_verbs_link *link, rfaas_verbs_region *region)
{
    (void)link;
    ibv_dereg_mr((struct ibv_mr *)region);
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
