/* verbs_over_ib.c - see verbs_over_ib.h.
 *
 * A protection domain a link: who is connected to one reaches nothing of another. The peer may write to the ring, and to
 * nothing else. Receives carry no buffer, since a write with immediate data needs none. Spec: docs/spec/007-verbs.md.
 */
#include "verbs_over_ib.h"

#include "verbs_device.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

enum {
    SENDS_MAX = 512,
    SIGNAL_EVERY = 32, /* sends are acknowledged in order: one completion stands for all before it */
    INLINE_WISH_BYTES = 256,
    RECEIVES_AT_ONCE = 64,
    POLL_AT_ONCE = 16,
    /* InfiniBand's time-out 14 is 67 ms (4.096 us * 2^14), of which devices wait up to four: a peer that is gone is noticed
     * within seconds. Receives are always posted in time, so a receiver that is not ready is waited for (7: always). */
    ACKNOWLEDGE_TIMEOUT = 14,
    RETRIES = 7,
    RECEIVER_RETRIES = 7,
    RECEIVER_PAUSE = 12,
    HOPS_MAX = 64,
};

struct rfaas_verbs_link {
    rfaas_verbs_port port;
    struct ibv_pd *domain;
    struct ibv_comp_channel *events;
    struct ibv_cq *sent, *received;
    struct ibv_qp *pair;
    struct ibv_mr *ring, *source; /* what the peer writes to; what this side sends from */
    uint8_t *memory;
    uint32_t packet_sequence, inline_bytes;
    uint64_t peer_ring;
    uint32_t peer_key, peer_ring_bytes;
    uint64_t posted, acknowledged, last_signalled; /* sends, counted */
    _Atomic int receive_status, send_status;       /* enum ibv_wc_status, 0: all is well */
    int error;                                     /* errno of what failed otherwise */
    const char *doing;                             /* when it failed */
    char why[RFAAS_VERBS_WHY_BYTES];
};

/* ---- making one ---- */

static bool failed(rfaas_verbs_link *link, const char *doing, int error)
{
    link->doing = doing;
    link->error = error;
    return false;
}

/* As much as the device takes inline, which only trying tells. */
static bool make_pair(rfaas_verbs_link *link)
{
    struct ibv_qp_init_attr wanted;
    for (uint32_t inline_bytes = INLINE_WISH_BYTES;; inline_bytes /= 2) {
        wanted = (struct ibv_qp_init_attr){
            .send_cq = link->sent,
            .recv_cq = link->received,
            .qp_type = IBV_QPT_RC,
            .cap = {.max_send_wr = SENDS_MAX,
                    .max_recv_wr = RFAAS_VERBS_MESSAGES_MAX,
                    .max_send_sge = 1,
                    .max_recv_sge = 1,
                    .max_inline_data = inline_bytes},
        };
        link->pair = ibv_create_qp(link->domain, &wanted);
        if (link->pair != NULL || inline_bytes == 0)
            break;
    }
    if (link->pair == NULL)
        return failed(link, "making an RDMA queue pair", errno);
    link->inline_bytes = wanted.cap.max_inline_data;
    return true;
}

static bool allow(rfaas_verbs_link *link, uint32_t n)
{
    struct ibv_recv_wr requests[RECEIVES_AT_ONCE], *bad;
    while (n > 0) {
        uint32_t step = n < RECEIVES_AT_ONCE ? n : RECEIVES_AT_ONCE;
        for (uint32_t i = 0; i < step; i++)
            requests[i] = (struct ibv_recv_wr){.next = i + 1 < step ? &requests[i + 1] : NULL};
        int error = ibv_post_recv(link->pair, requests, &bad);
        if (error != 0)
            return failed(link, "posting RDMA receives", error);
        n -= step;
    }
    return true;
}

static bool set_up(rfaas_verbs_link *link, size_t memory_bytes, size_t ring_bytes)
{
    struct ibv_context *context = link->port.context;
    if ((link->domain = ibv_alloc_pd(context)) == NULL)
        return failed(link, "making an RDMA protection domain", errno);
    if ((link->events = ibv_create_comp_channel(context)) == NULL)
        return failed(link, "making an RDMA completion channel", errno);
    fcntl(link->events->fd, F_SETFL, fcntl(link->events->fd, F_GETFL) | O_NONBLOCK);
    fcntl(link->events->fd, F_SETFD, FD_CLOEXEC);
    link->sent = ibv_create_cq(context, SENDS_MAX, NULL, NULL, 0);
    link->received = ibv_create_cq(context, RFAAS_VERBS_MESSAGES_MAX, NULL, link->events, 0);
    if (link->sent == NULL || link->received == NULL)
        return failed(link, "making an RDMA completion queue", errno);
    link->ring = ibv_reg_mr(link->domain, link->memory, ring_bytes, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE);
    link->source = ibv_reg_mr(link->domain, link->memory + ring_bytes, memory_bytes - ring_bytes, 0);
    if (link->ring == NULL || link->source == NULL)
        return failed(link, "registering memory for RDMA (the limit: ulimit -l)", errno);
    if (!make_pair(link))
        return false;
    struct ibv_qp_attr init = {.qp_state = IBV_QPS_INIT, .port_num = link->port.port, .qp_access_flags = IBV_ACCESS_REMOTE_WRITE};
    int error = ibv_modify_qp(link->pair, &init, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
    if (error != 0)
        return failed(link, "initialising an RDMA queue pair", error);
    return allow(link, RFAAS_VERBS_MESSAGES_MAX);
}

static void verbs_free(rfaas_verbs_link *link, bool inherited)
{
    if (inherited) { /* the device's objects are the parent's: this process has copies of descriptors only */
        close(link->events->fd);
        free(link);
        return;
    }
    if (link->pair != NULL)
        ibv_destroy_qp(link->pair);
    if (link->ring != NULL)
        ibv_dereg_mr(link->ring);
    if (link->source != NULL)
        ibv_dereg_mr(link->source);
    if (link->received != NULL)
        ibv_destroy_cq(link->received);
    if (link->sent != NULL)
        ibv_destroy_cq(link->sent);
    if (link->events != NULL)
        ibv_destroy_comp_channel(link->events);
    if (link->domain != NULL)
        ibv_dealloc_pd(link->domain);
    rfaas_verbs_port_close(&link->port);
    free(link);
}

static const char *why(const rfaas_verbs_link *link)
{
    char *text = ((rfaas_verbs_link *)link)->why;
    int sent = atomic_load(&link->send_status), received = atomic_load(&link->receive_status);
    if (link->error != 0)
        snprintf(text, sizeof link->why, "%s failed: %s", link->doing, strerror(link->error));
    else if (sent == IBV_WC_RETRY_EXC_ERR)
        snprintf(text, sizeof link->why, "the peer's RDMA device does not answer (%s)", ibv_wc_status_str(sent));
    else
        snprintf(text, sizeof link->why, "the RDMA connection failed: %s",
                 ibv_wc_status_str((enum ibv_wc_status)(sent != 0 ? sent : received)));
    return text;
}

static rfaas_verbs_link *begin(const char *device, int fd, uint8_t *memory, size_t memory_bytes, size_t ring_bytes,
                               rfaas_verbs_address *address, char problem[RFAAS_VERBS_WHY_BYTES])
{
    rfaas_verbs_link *link = calloc(1, sizeof *link);
    if (link == NULL) {
        snprintf(problem, RFAAS_VERBS_WHY_BYTES, "no memory");
        return NULL;
    }
    if (!rfaas_verbs_port_open(&link->port, device, fd, problem)) {
        free(link);
        return NULL;
    }
    link->memory = memory;
    if (getrandom(&link->packet_sequence, sizeof link->packet_sequence, 0) < 0)
        link->packet_sequence = (uint32_t)(uintptr_t)link;
    link->packet_sequence &= 0xffffff;
    if (!set_up(link, memory_bytes, ring_bytes)) {
        snprintf(problem, RFAAS_VERBS_WHY_BYTES, "%s", why(link));
        verbs_free(link, false);
        return NULL;
    }
    *address = (rfaas_verbs_address){
        .ring_address = (uintptr_t)memory,
        .ring_bytes = (uint32_t)ring_bytes,
        .ring_key = link->ring->rkey,
        .queue_pair = link->pair->qp_num,
        .packet_sequence = link->packet_sequence,
        .lid = link->port.attributes.lid,
        .mtu = (uint8_t)link->port.attributes.active_mtu,
        .is_ethernet = link->port.attributes.link_layer == IBV_LINK_LAYER_ETHERNET,
    };
    memcpy(address->gid, link->port.gid.raw, sizeof address->gid);
    return link;
}

static bool connect_pair(rfaas_verbs_link *link, const rfaas_verbs_address *peer)
{
    uint8_t own_mtu = (uint8_t)link->port.attributes.active_mtu;
    bool is_ethernet = link->port.attributes.link_layer == IBV_LINK_LAYER_ETHERNET;
    if (is_ethernet != peer->is_ethernet)
        return failed(link, "connecting InfiniBand and Ethernet", EPROTONOSUPPORT);
    struct ibv_qp_attr attributes = {
        .qp_state = IBV_QPS_RTR,
        .path_mtu = own_mtu < peer->mtu ? own_mtu : peer->mtu,
        .dest_qp_num = peer->queue_pair,
        .rq_psn = peer->packet_sequence,
        .min_rnr_timer = RECEIVER_PAUSE,
        .ah_attr = {.dlid = peer->lid, .port_num = link->port.port, .is_global = is_ethernet,
                    .grh = {.sgid_index = (uint8_t)link->port.gid_index, .hop_limit = HOPS_MAX}},
    };
    memcpy(attributes.ah_attr.grh.dgid.raw, peer->gid, sizeof peer->gid);
    int error = ibv_modify_qp(link->pair, &attributes,
                              IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                                  IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
    if (error != 0)
        return failed(link, "connecting to the peer's RDMA queue pair", error);
    attributes = (struct ibv_qp_attr){
        .qp_state = IBV_QPS_RTS,
        .sq_psn = link->packet_sequence,
        .timeout = ACKNOWLEDGE_TIMEOUT,
        .retry_cnt = RETRIES,
        .rnr_retry = RECEIVER_RETRIES,
    };
    error = ibv_modify_qp(link->pair, &attributes,
                          IBV_QP_STATE | IBV_QP_SQ_PSN | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                              IBV_QP_MAX_QP_RD_ATOMIC);
    if (error != 0)
        return failed(link, "opening an RDMA queue pair", error);
    link->peer_ring = peer->ring_address;
    link->peer_ring_bytes = peer->ring_bytes;
    link->peer_key = peer->ring_key;
    return true;
}

/* ---- moving ---- */

/* False: the connection failed. */
static bool reap(rfaas_verbs_link *link)
{
    struct ibv_wc completions[POLL_AT_ONCE];
    int n;
    while ((n = ibv_poll_cq(link->sent, POLL_AT_ONCE, completions)) > 0) {
        for (int i = 0; i < n; i++) {
            if (completions[i].status == IBV_WC_SUCCESS)
                link->acknowledged = completions[i].wr_id;
            else if (atomic_load(&link->send_status) == 0)
                atomic_store(&link->send_status, (int)completions[i].status);
        }
    }
    return n == 0 && atomic_load(&link->send_status) == 0;
}

static rfaas_rc post(rfaas_verbs_link *link, struct ibv_send_wr *request)
{
    struct ibv_send_wr *bad;
    request->wr_id = link->posted + 1;
    int error = ibv_post_send(link->pair, request, &bad);
    if (error == ENOMEM)
        return RFAAS_AGAIN;
    if (error != 0) {
        failed(link, "posting an RDMA write", error);
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
    if (signalled && !reap(link))
        return RFAAS_BROKEN;
    if (link->posted - link->acknowledged >= SENDS_MAX - 1)
        return reap(link) ? RFAAS_AGAIN : RFAAS_BROKEN;
    struct ibv_sge piece = {(uintptr_t)link->memory + from, (uint32_t)size_bytes, link->source->lkey};
    struct ibv_send_wr request = {
        .sg_list = &piece,
        .num_sge = size_bytes > 0,
        .opcode = IBV_WR_RDMA_WRITE_WITH_IMM,
        .imm_data = htonl(word),
        .send_flags = (signalled ? IBV_SEND_SIGNALED : 0) | (size_bytes <= link->inline_bytes ? IBV_SEND_INLINE : 0),
        .wr.rdma = {link->peer_ring + to, link->peer_key},
    };
    return post(link, &request);
}

/* An empty write behind the last one, whose completion stands for it, unless one is under way. */
static uint32_t unacknowledged(rfaas_verbs_link *link)
{
    if (!reap(link))
        return 0;
    if (link->acknowledged != link->posted && link->last_signalled != link->posted) {
        struct ibv_send_wr request = {.opcode = IBV_WR_RDMA_WRITE,
                                      .send_flags = IBV_SEND_SIGNALED,
                                      .wr.rdma = {link->peer_ring, link->peer_key}};
        if (link->posted - link->acknowledged < SENDS_MAX)
            post(link, &request);
    }
    return (uint32_t)(link->posted - link->acknowledged);
}

static int poll_words(rfaas_verbs_link *link, uint32_t *words, int room)
{
    struct ibv_wc completions[POLL_AT_ONCE];
    if (atomic_load_explicit(&link->receive_status, memory_order_relaxed) != 0)
        return -1;
    int n = ibv_poll_cq(link->received, room < POLL_AT_ONCE ? room : POLL_AT_ONCE, completions);
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
    unsigned n = 0;
    while (ibv_get_cq_event(link->events, &queue, &context) == 0)
        n++;
    if (n > 0)
        ibv_ack_cq_events(link->received, n);
    int error = ibv_req_notify_cq(link->received, 0);
    return error == 0 || failed(link, "asking for RDMA completion events", error);
}

static int descriptor(const rfaas_verbs_link *link)
{
    return link->events->fd;
}

const rfaas_verbs_ops rfaas_verbs = {
    .begin = begin,
    .connect = connect_pair,
    .write = write_to_peer,
    .poll = poll_words,
    .allow = allow,
    .fd = descriptor,
    .arm = arm,
    .unacknowledged = unacknowledged,
    .why = why,
    .free = verbs_free,
};
