/* verbs_pair.c - see verbs_pair.h.
 *
 * A protection domain a link: who is connected to one reaches nothing of another. The peer may write to the ring, and to
 * nothing else. Receives carry no buffer, since a write with immediate data needs none. Spec: docs/spec/007-verbs.md.
 */
#include "verbs_pair.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>

enum {
    INLINE_WISH_BYTES = 256,
    RECEIVES_AT_ONCE = 64,
    /* InfiniBand's time-out 18 is 1.07 s (4.096 us * 2^18), of which devices wait up to four: a fabric may be away for some
     * seconds, as over TCP, and a dead peer is known by its socket anyway. Receives are always posted in time, so a receiver
     * that is not ready breaks the specification; ours, were it ever so, has six pauses of 164 ms. */
    ACKNOWLEDGE_TIMEOUT = 18,
    RETRIES = 6, /* not 7: soft-RoCE takes that for "always" too, and would never give up */
    RECEIVER_RETRIES = 6, /* 7: for ever */
    RECEIVER_PAUSE = 28,
    HOPS_MAX = 64,
};

/* ---- what befell it ---- */

bool rfaas_verbs_pair_failed(rfaas_verbs_link *link, const char *doing, int error)
{
    link->doing = doing;
    link->error = error;
    return false;
}

bool rfaas_verbs_pair_reap(rfaas_verbs_link *link)
{
    struct ibv_wc completions[RFAAS_VERBS_POLL_AT_ONCE];
    int n;
    if (atomic_flag_test_and_set_explicit(&link->reaping, memory_order_acquire))
        return atomic_load(&link->send_status) == 0;
    while ((n = ibv_poll_cq(link->sent, RFAAS_VERBS_POLL_AT_ONCE, completions)) > 0) {
        for (int i = 0; i < n; i++) {
            if (completions[i].status == IBV_WC_SUCCESS)
                link->acknowledged = completions[i].wr_id;
            else if (atomic_load(&link->send_status) == 0)
                atomic_store(&link->send_status, (int)completions[i].status);
        }
    }
    atomic_flag_clear_explicit(&link->reaping, memory_order_release);
    return n == 0 && atomic_load(&link->send_status) == 0;
}

/* The device says so, or ended the queue pair though nothing failed that this side asked for: soft-RoCE says no more. */
bool rfaas_verbs_pair_violated(rfaas_verbs_link *link)
{
    if (link->sent == NULL)
        return false;
    if (link->has_alarm) /* a device that fails or goes flushes its queue pairs too, and that is nobody's wrong */
        rfaas_verbs_hear(link->port.context);
    int ended_by = atomic_load(&link->alarm.ended_by) - 1, received = atomic_load(&link->receive_status);
    rfaas_verbs_pair_reap(link);
    bool said_so = ended_by == IBV_EVENT_QP_ACCESS_ERR || received == IBV_WC_REM_ACCESS_ERR || received == IBV_WC_LOC_ACCESS_ERR;
    return said_so || (received == IBV_WC_WR_FLUSH_ERR && ended_by < 0 && atomic_load(&link->send_status) == 0 && link->error == 0);
}

const char *rfaas_verbs_pair_why(const rfaas_verbs_link *link)
{
    char *text = ((rfaas_verbs_link *)link)->why;
    if (link->has_alarm) /* receives are flushed by what befell a send, or what the peer wrote: those tell more */
        rfaas_verbs_hear(link->port.context);
    if (link->sent != NULL)
        rfaas_verbs_pair_reap((rfaas_verbs_link *)link);
    int sent = atomic_load(&link->send_status), received = atomic_load(&link->receive_status);
    int ended_by = atomic_load(&link->alarm.ended_by);
    if (link->has_alarm && atomic_load(&link->alarm.port_down))
        snprintf(text, sizeof link->why, "port %d of the RDMA device %.40s is down (rfaas devices, and its cable, tell more)",
                 link->port.port, ibv_get_device_name(link->port.context->device));
    else if (rfaas_verbs_pair_violated((rfaas_verbs_link *)link))
        snprintf(text, sizeof link->why, "the peer asked the RDMA device for memory that no key of its opens");
    else if (ended_by == IBV_EVENT_DEVICE_FATAL + 1)
        snprintf(text, sizeof link->why, "the RDMA device %.40s failed or was removed (rfaas devices lists those that are there)",
                 ibv_get_device_name(link->port.context->device));
    else if (ended_by != 0)
        snprintf(text, sizeof link->why, "the RDMA device says: %s", ibv_event_type_str((enum ibv_event_type)(ended_by - 1)));
    else if (link->error != 0)
        snprintf(text, sizeof link->why, "%s failed: %s", link->doing, strerror(link->error));
    else if (sent == IBV_WC_RETRY_EXC_ERR)
        snprintf(text, sizeof link->why, "the peer's RDMA device does not answer (%s)", ibv_wc_status_str(sent));
    else if (sent == IBV_WC_RNR_RETRY_EXC_ERR)
        snprintf(text, sizeof link->why, "the peer posts no RDMA receives, which it must (%s)", ibv_wc_status_str(sent));
    else if (sent == 0 && received == IBV_WC_WR_FLUSH_ERR)
        snprintf(text, sizeof link->why, "the RDMA connection failed: the peer wrote where it may not, or the queue pair was ended");
    else
        snprintf(text, sizeof link->why, "the RDMA connection failed: %s",
                 ibv_wc_status_str((enum ibv_wc_status)(sent != 0 ? sent : received)));
    return text;
}

/* ---- making one ---- */

bool rfaas_verbs_pair_allow(rfaas_verbs_link *link, uint32_t n)
{
    struct ibv_recv_wr requests[RECEIVES_AT_ONCE], *bad;
    while (n > 0) {
        uint32_t step = n < RECEIVES_AT_ONCE ? n : RECEIVES_AT_ONCE;
        for (uint32_t i = 0; i < step; i++)
            requests[i] = (struct ibv_recv_wr){.next = i + 1 < step ? &requests[i + 1] : NULL};
        int error = ibv_post_recv(link->pair, requests, &bad);
        if (error != 0)
            return rfaas_verbs_pair_failed(link, "posting RDMA receives", error);
        n -= step;
    }
    return true;
}

/* As much as the device takes inline, which only trying tells. */
static bool make_pair(rfaas_verbs_link *link)
{
    struct ibv_qp_init_attr wanted;
    for (uint32_t inline_bytes = INLINE_WISH_BYTES;; inline_bytes /= 2) {
        wanted = (struct ibv_qp_init_attr){
            .send_cq = link->sent,
            .recv_cq = link->received,
            .qp_context = &link->alarm,
            .qp_type = IBV_QPT_RC,
            .cap = {.max_send_wr = RFAAS_VERBS_SENDS_MAX,
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
        return rfaas_verbs_pair_failed(link, "making an RDMA queue pair", errno);
    link->inline_bytes = wanted.cap.max_inline_data;
    return true;
}

static bool make_wait_fd(rfaas_verbs_link *link)
{
    int error = rfaas_verbs_alarm_begin(&link->alarm, &link->port);
    if (error != 0)
        return rfaas_verbs_pair_failed(link, "making a descriptor for what the RDMA device tells", error);
    link->has_alarm = true;
    link->wait_fd = epoll_create1(EPOLL_CLOEXEC);
    const int watched[] = {link->events->fd, link->alarm.fd, rfaas_verbs_alarm_source(&link->alarm)};
    for (size_t i = 0; link->wait_fd >= 0 && i < sizeof watched / sizeof *watched; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = watched[i]};
        if (epoll_ctl(link->wait_fd, EPOLL_CTL_ADD, watched[i], &event) != 0)
            return rfaas_verbs_pair_failed(link, "waiting for an RDMA device", errno);
    }
    return link->wait_fd >= 0 || rfaas_verbs_pair_failed(link, "making a descriptor to wait for an RDMA device", errno);
}

static bool cant_register(rfaas_verbs_link *link, int error)
{
    struct rlimit limit;
    bool is_limited = error == ENOMEM && getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
    const char *doing = is_limited ? "registering memory for RDMA, of which ulimit -l allows too little (best: unlimited),"
                                   : "registering memory for RDMA";
    return rfaas_verbs_pair_failed(link, doing, error);
}

/* How many reads at once, and by windows; none where a forked child would lose the pages that are registered, which are anybody's. */
static void ask_for_reads(rfaas_verbs_link *link)
{
    struct ibv_device_attr limits;
    if (ibv_is_fork_initialized() != IBV_FORK_UNNEEDED || ibv_query_device(link->port.context, &limits) != 0 ||
        limits.max_qp_rd_atom <= 0 || limits.max_qp_init_rd_atom <= 0)
        return;
    int most = RFAAS_VERBS_READS_MAX;
    link->reads_served = (uint8_t)(limits.max_qp_rd_atom < most ? limits.max_qp_rd_atom : most);
    link->has_windows = (limits.device_cap_flags & IBV_DEVICE_MEM_WINDOW_TYPE_2B) != 0;
    link->reads_begun = (uint8_t)(limits.max_qp_init_rd_atom < most ? limits.max_qp_init_rd_atom : most);
}

static bool set_up(rfaas_verbs_link *link, size_t memory_bytes, size_t ring_bytes)
{
    struct ibv_context *context = link->port.context;
    if ((link->domain = ibv_alloc_pd(context)) == NULL)
        return rfaas_verbs_pair_failed(link, "making an RDMA protection domain", errno);
    if ((link->events = ibv_create_comp_channel(context)) == NULL)
        return rfaas_verbs_pair_failed(link, "making an RDMA completion channel", errno);
    fcntl(link->events->fd, F_SETFL, fcntl(link->events->fd, F_GETFL) | O_NONBLOCK);
    fcntl(link->events->fd, F_SETFD, FD_CLOEXEC);
    if (!make_wait_fd(link))
        return false;
    link->sent = ibv_create_cq(context, RFAAS_VERBS_SENDS_MAX, &link->alarm, link->events, 0);
    link->received = ibv_create_cq(context, RFAAS_VERBS_MESSAGES_MAX, &link->alarm, link->events, 0);
    if (link->sent == NULL || link->received == NULL)
        return rfaas_verbs_pair_failed(link, "making an RDMA completion queue", errno);
    link->ring = ibv_reg_mr(link->domain, link->memory, ring_bytes, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE);
    link->source = ibv_reg_mr(link->domain, link->memory + ring_bytes, memory_bytes - ring_bytes, IBV_ACCESS_LOCAL_WRITE);
    if (link->ring == NULL || link->source == NULL)
        return cant_register(link, errno);
    ask_for_reads(link);
    if (!make_pair(link))
        return false;
    struct ibv_qp_attr init = {.qp_state = IBV_QPS_INIT,
                               .port_num = link->port.port,
                               .qp_access_flags = IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ};
    int error = ibv_modify_qp(link->pair, &init, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
    if (error != 0)
        return rfaas_verbs_pair_failed(link, "initialising an RDMA queue pair", error);
    return rfaas_verbs_pair_allow(link, RFAAS_VERBS_MESSAGES_MAX);
}

void rfaas_verbs_pair_free(rfaas_verbs_link *link, bool inherited)
{
    if (inherited) { /* the device's objects are the parent's: this process has copies of descriptors only */
        close(link->events->fd);
        close(link->wait_fd);
        rfaas_verbs_alarm_end(&link->alarm);
        free(link);
        return;
    }
    if (link->pair != NULL)
        ibv_destroy_qp(link->pair);
    if (link->ring != NULL)
        ibv_dereg_mr(link->ring);
    if (link->source != NULL)
        ibv_dereg_mr(link->source);
    rfaas_verbs_withdraw_kept(link);
    if (link->received != NULL)
        ibv_destroy_cq(link->received);
    if (link->sent != NULL)
        ibv_destroy_cq(link->sent);
    if (link->events != NULL)
        ibv_destroy_comp_channel(link->events);
    if (link->domain != NULL)
        ibv_dealloc_pd(link->domain);
    if (link->has_alarm)
        rfaas_verbs_alarm_end(&link->alarm); /* last: events name queue pairs and completion queues */
    if (link->wait_fd >= 0)
        close(link->wait_fd);
    rfaas_verbs_port_close(&link->port);
    free(link);
}

rfaas_verbs_link *rfaas_verbs_pair_begin(const char *device, int fd, uint8_t *memory, size_t memory_bytes, size_t ring_bytes,
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
    link->wait_fd = -1;
    atomic_flag_clear(&link->reaping);
    if (getrandom(&link->packet_sequence, sizeof link->packet_sequence, 0) < 0)
        link->packet_sequence = (uint32_t)(uintptr_t)link;
    link->packet_sequence &= 0xffffff;
    if (!set_up(link, memory_bytes, ring_bytes)) {
        snprintf(problem, RFAAS_VERBS_WHY_BYTES, "%s", rfaas_verbs_pair_why(link));
        rfaas_verbs_pair_free(link, false);
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
        .reads = link->reads_served,
    };
    memcpy(address->gid, link->port.gid.raw, sizeof address->gid);
    return link;
}

bool rfaas_verbs_pair_connect(rfaas_verbs_link *link, const rfaas_verbs_address *peer)
{
    uint8_t own_mtu = (uint8_t)link->port.attributes.active_mtu;
    bool is_ethernet = link->port.attributes.link_layer == IBV_LINK_LAYER_ETHERNET;
    if (peer->reads < link->reads_begun)
        link->reads_begun = peer->reads;
    if (is_ethernet != peer->is_ethernet)
        return rfaas_verbs_pair_failed(link, "connecting InfiniBand and Ethernet", EPROTONOSUPPORT);
    struct ibv_qp_attr attributes = {
        .qp_state = IBV_QPS_RTR,
        .path_mtu = own_mtu < peer->mtu ? own_mtu : peer->mtu,
        .dest_qp_num = peer->queue_pair,
        .rq_psn = peer->packet_sequence,
        .min_rnr_timer = RECEIVER_PAUSE,
        .max_dest_rd_atomic = link->reads_served,
        .ah_attr = {.dlid = peer->lid, .port_num = link->port.port, .is_global = is_ethernet,
                    .grh = {.sgid_index = (uint8_t)link->port.gid_index, .hop_limit = HOPS_MAX}},
    };
    memcpy(attributes.ah_attr.grh.dgid.raw, peer->gid, sizeof peer->gid);
    int error = ibv_modify_qp(link->pair, &attributes,
                              IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                                  IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
    if (error != 0)
        return rfaas_verbs_pair_failed(link, "connecting to the peer's RDMA queue pair", error);
    attributes = (struct ibv_qp_attr){
        .qp_state = IBV_QPS_RTS,
        .sq_psn = link->packet_sequence,
        .timeout = ACKNOWLEDGE_TIMEOUT,
        .retry_cnt = RETRIES,
        .rnr_retry = RECEIVER_RETRIES,
        .max_rd_atomic = link->reads_begun,
    };
    error = ibv_modify_qp(link->pair, &attributes,
                          IBV_QP_STATE | IBV_QP_SQ_PSN | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                              IBV_QP_MAX_QP_RD_ATOMIC);
    if (error != 0)
        return rfaas_verbs_pair_failed(link, "opening an RDMA queue pair", error);
    link->peer_ring = peer->ring_address;
    link->peer_ring_bytes = peer->ring_bytes;
    link->peer_key = peer->ring_key;
    return true;
}
