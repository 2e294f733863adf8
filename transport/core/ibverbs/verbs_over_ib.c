/* verbs_over_ib.c - see verbs_over_ib.h: bytes to the peer's memory, and the words that it tells. */
#include "verbs_over_ib.h"

#include "verbs_pair.h"

#include <arpa/inet.h>
#include <errno.h>

enum { SIGNAL_EVERY = 32 }; /* sends are acknowledged in order: one completion stands for all before it */

rfaas_rc rfaas_verbs_pair_post(rfaas_verbs_link *link, struct ibv_send_wr *request)
{
    struct ibv_send_wr *bad;
    if (link->posted - atomic_load_explicit(&link->acknowledged, memory_order_relaxed) >= RFAAS_VERBS_SENDS_MAX)
        return rfaas_verbs_pair_reap(link) ? RFAAS_AGAIN : RFAAS_BROKEN;
    request->wr_id = link->posted + 1;
    int error = ibv_post_send(link->pair, request, &bad);
    if (error == ENOMEM)
        return RFAAS_AGAIN;
    if (error != 0) {
        rfaas_verbs_pair_failed(link, "posting to an RDMA queue pair", error);
        return RFAAS_BROKEN;
    }
    link->posted++;
    if (request->send_flags & IBV_SEND_SIGNALED)
        link->last_signalled = link->posted;
    return RFAAS_OK;
}

static rfaas_rc write_to_peer(rfaas_verbs_link *link, size_t from, size_t size_bytes, uint64_t to, uint32_t word)
{
    bool signalled = link->posted + 1 - link->last_signalled >= SIGNAL_EVERY;
    if (to > link->peer_ring_bytes || size_bytes > link->peer_ring_bytes - to)
        return RFAAS_BROKEN;
    if (signalled && !rfaas_verbs_pair_reap(link))
        return RFAAS_BROKEN;
    struct ibv_sge piece = {(uintptr_t)link->memory + from, (uint32_t)size_bytes, link->source->lkey};
    struct ibv_send_wr request = {
        .sg_list = &piece,
        .num_sge = size_bytes > 0,
        .opcode = IBV_WR_RDMA_WRITE_WITH_IMM,
        .imm_data = htonl(word),
        .send_flags = (signalled ? IBV_SEND_SIGNALED : 0) | (size_bytes <= link->inline_bytes ? IBV_SEND_INLINE : 0),
        .wr.rdma = {link->peer_ring + to, link->peer_key},
    };
    return rfaas_verbs_pair_post(link, &request);
}

/* An empty write behind the last one, whose completion stands for it, unless one is under way. */
static uint32_t unacknowledged(rfaas_verbs_link *link)
{
    if (!rfaas_verbs_pair_reap(link))
        return 0;
    if (link->acknowledged != link->posted && link->last_signalled != link->posted) {
        struct ibv_send_wr request = {.opcode = IBV_WR_RDMA_WRITE,
                                      .send_flags = IBV_SEND_SIGNALED,
                                      .wr.rdma = {link->peer_ring, link->peer_key}};
        rfaas_verbs_pair_post(link, &request); /* where the queue is full the next look tries again */
    }
    return (uint32_t)(link->posted - link->acknowledged);
}

static int poll_words(rfaas_verbs_link *link, uint32_t *words, int room)
{
    struct ibv_wc completions[RFAAS_VERBS_POLL_AT_ONCE];
    if (atomic_load_explicit(&link->receive_status, memory_order_relaxed) != 0 ||
        atomic_load_explicit(&link->alarm.ended_by, memory_order_relaxed) != 0)
        return -1;
    int n = ibv_poll_cq(link->received, room < RFAAS_VERBS_POLL_AT_ONCE ? room : RFAAS_VERBS_POLL_AT_ONCE, completions);
    if (n < 0)
        atomic_store(&link->receive_status, IBV_WC_FATAL_ERR);
    for (int i = 0; i < n; i++) {
        if (completions[i].status != IBV_WC_SUCCESS) {
            atomic_store(&link->receive_status, (int)completions[i].status);
            return i > 0 ? i : -1;
        }
        words[i] = ntohl(completions[i].imm_data);
    }
    return n;
}

static bool arm(rfaas_verbs_link *link)
{
    struct ibv_cq *queue;
    void *context;
    unsigned n = 0, n_sent = 0;
    while (ibv_get_cq_event(link->events, &queue, &context) == 0)
        *(queue == link->sent ? &n_sent : &n) += 1;
    if (n > 0)
        ibv_ack_cq_events(link->received, n);
    if (n_sent > 0)
        ibv_ack_cq_events(link->sent, n_sent);
    rfaas_verbs_hear(link->port.context);
    int error = ibv_req_notify_cq(link->received, 0);
    if (error == 0 && atomic_load(&link->read_until) > atomic_load(&link->acknowledged))
        error = ibv_req_notify_cq(link->sent, 0);
    return error == 0 || rfaas_verbs_pair_failed(link, "asking for RDMA completion events", error);
}

static int descriptor(const rfaas_verbs_link *link)
{
    return link->wait_fd;
}

const rfaas_verbs_ops rfaas_verbs = {
    .begin = rfaas_verbs_pair_begin,
    .connect = rfaas_verbs_pair_connect,
    .write = write_to_peer,
    .poll = poll_words,
    .allow = rfaas_verbs_pair_allow,
    .fd = descriptor,
    .arm = arm,
    .unacknowledged = unacknowledged,
    .enroll = rfaas_verbs_enroll,
    .withdraw = rfaas_verbs_withdraw,
    .open_window = rfaas_verbs_open_window,
    .close_window = rfaas_verbs_close_window,
    .read = rfaas_verbs_read,
    .reading = rfaas_verbs_reading,
    .violated = rfaas_verbs_pair_violated,
    .access = rfaas_verbs_access,
    .accessed = rfaas_verbs_accessed,
    .arm_accessed = rfaas_verbs_arm_accessed,
    .why = rfaas_verbs_pair_why,
    .free = rfaas_verbs_pair_free,
};
