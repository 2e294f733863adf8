/* verbs_access.c - memory of one side of a connection that the other reads and writes: registered, accessed, taken back.
 *
 * A queue pair's requests are done in order, so the number of the last one that is done says it of all before.
 */
#include "verbs_pair.h"

#include <errno.h>
#include <stdlib.h>

int rfaas_verbs_open_memory(rfaas_verbs_link *link, uint8_t *bytes, size_t size_bytes, bool lent, uint32_t *key)
{
    if (!lent && link->reads_begun == 0)
        return EOPNOTSUPP;
    int rights = IBV_ACCESS_LOCAL_WRITE | (lent ? IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE : 0);
    rfaas_verbs_opened *made = malloc(sizeof *made);
    if (made == NULL)
        return ENOMEM;
    made->memory = ibv_reg_mr(link->domain, bytes, size_bytes, rights);
    if (made->memory == NULL) {
        int error = errno;
        free(made);
        return error;
    }
    made->next = link->opened;
    link->opened = made;
    *key = lent ? made->memory->rkey : made->memory->lkey;
    return 0;
}

void rfaas_verbs_close_memory(rfaas_verbs_link *link)
{
    while (link->opened != NULL) {
        rfaas_verbs_opened *first = link->opened;
        link->opened = first->next;
        ibv_dereg_mr(first->memory);
        free(first);
    }
}

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
    rfaas_rc rc = rfaas_verbs_pair_has_room(link);
    if (rc == RFAAS_OK)
        rc = rfaas_verbs_pair_post(link, &request);
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
