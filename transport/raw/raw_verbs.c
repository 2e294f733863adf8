/* raw_verbs.c - see raw_verbs.h. Of rfaas it uses what chooses the device, so that both measure the same one. */
#include "raw_verbs.h"

#include "verbs_device.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum {
    DEPTH = 64,
    SIGNAL_EVERY = 16,
    INLINE_WISH_BYTES = 256,
    LOOKS_A_CLOCK = 16,
    FIRST_LOOKS = 128,      /* as verbs channels have it */
    YIELD_AFTER_NS = 20000, /* as rfaas_channel_spin */
    ACKNOWLEDGE_TIMEOUT = 18,
    PING = 1,
    STOP = 2,
};

struct raw_verbs {
    rfaas_verbs_port port;
    struct ibv_pd *domain;
    struct ibv_comp_channel *events;
    struct ibv_cq *sent, *received;
    struct ibv_qp *pair;
    struct ibv_mr *source, *target;
    size_t size_bytes;
    uint64_t peer_address;
    uint32_t peer_key, inline_bytes;
    uint64_t posted, acknowledged;
};

/* What the two sides tell each other, as it lies in memory: both run this program's machine code. */
typedef struct address {
    uint64_t at;
    uint32_t key, pair;
    union ibv_gid gid;
    uint16_t lid;
    uint8_t mtu;
} address;

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int receive_next(raw_verbs *link)
{
    struct ibv_recv_wr request = {0}, *bad;
    return -ibv_post_recv(link->pair, &request, &bad);
}

/* ---- making one ---- */

static bool make_pair(raw_verbs *link)
{
    struct ibv_qp_init_attr wanted;
    for (uint32_t inline_bytes = INLINE_WISH_BYTES;; inline_bytes /= 2) {
        wanted = (struct ibv_qp_init_attr){.send_cq = link->sent, .recv_cq = link->received, .qp_type = IBV_QPT_RC,
                                           .cap = {DEPTH, DEPTH, 1, 1, inline_bytes}};
        link->pair = ibv_create_qp(link->domain, &wanted);
        if (link->pair != NULL || inline_bytes == 0)
            break;
    }
    link->inline_bytes = wanted.cap.max_inline_data;
    return link->pair != NULL;
}

static bool make(raw_verbs *link, uint8_t *out, uint8_t *in)
{
    struct ibv_context *context = link->port.context;
    int writable = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE;
    if ((link->domain = ibv_alloc_pd(context)) == NULL || (link->events = ibv_create_comp_channel(context)) == NULL ||
        (link->sent = ibv_create_cq(context, DEPTH, NULL, NULL, 0)) == NULL ||
        (link->received = ibv_create_cq(context, DEPTH, NULL, link->events, 0)) == NULL ||
        (link->target = ibv_reg_mr(link->domain, in, link->size_bytes, writable)) == NULL)
        return false;
    link->source = out == in ? link->target : ibv_reg_mr(link->domain, out, link->size_bytes, 0);
    if (link->source == NULL || !make_pair(link))
        return false;
    struct ibv_qp_attr init = {
        .qp_state = IBV_QPS_INIT, .port_num = link->port.port, .qp_access_flags = IBV_ACCESS_REMOTE_WRITE};
    errno = ibv_modify_qp(link->pair, &init,
                          IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
    for (int i = 0; errno == 0 && i < DEPTH; i++)
        errno = -receive_next(link);
    return errno == 0;
}

static bool swap(int fd, const void *ours, void *theirs, size_t size_bytes)
{
    return send(fd, ours, size_bytes, MSG_NOSIGNAL) == (ssize_t)size_bytes &&
           recv(fd, theirs, size_bytes, MSG_WAITALL) == (ssize_t)size_bytes;
}

static bool connect_pair(raw_verbs *link, const address *peer)
{
    uint8_t own_mtu = (uint8_t)link->port.attributes.active_mtu;
    bool is_ethernet = link->port.attributes.link_layer == IBV_LINK_LAYER_ETHERNET;
    struct ibv_qp_attr attributes = {
        .qp_state = IBV_QPS_RTR,
        .path_mtu = own_mtu < peer->mtu ? own_mtu : peer->mtu,
        .dest_qp_num = peer->pair,
        .min_rnr_timer = 12,
        .ah_attr = {.dlid = peer->lid, .port_num = link->port.port, .is_global = is_ethernet,
                    .grh = {.dgid = peer->gid, .sgid_index = (uint8_t)link->port.gid_index, .hop_limit = 64}},
    };
    errno = ibv_modify_qp(link->pair, &attributes,
                          IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                              IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
    if (errno != 0)
        return false;
    attributes = (struct ibv_qp_attr){
        .qp_state = IBV_QPS_RTS, .timeout = ACKNOWLEDGE_TIMEOUT, .retry_cnt = 7, .rnr_retry = 7};
    errno = ibv_modify_qp(link->pair, &attributes,
                          IBV_QP_STATE | IBV_QP_SQ_PSN | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                              IBV_QP_MAX_QP_RD_ATOMIC);
    return errno == 0;
}

static bool meet(raw_verbs *link, int fd, uint8_t *in)
{
    address theirs, ours = {.at = (uintptr_t)in, .key = link->target->rkey, .pair = link->pair->qp_num, .gid = link->port.gid,
                            .lid = link->port.attributes.lid, .mtu = (uint8_t)link->port.attributes.active_mtu};
    char ready = 1;
    if (!swap(fd, &ours, &theirs, sizeof ours) || !connect_pair(link, &theirs))
        return false;
    link->peer_address = theirs.at;
    link->peer_key = theirs.key;
    return swap(fd, &ready, &ready, 1);
}

void raw_verbs_end(raw_verbs *link)
{
    if (link->pair != NULL)
        ibv_destroy_qp(link->pair);
    if (link->source != NULL && link->source != link->target)
        ibv_dereg_mr(link->source);
    if (link->target != NULL)
        ibv_dereg_mr(link->target);
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

raw_verbs *raw_verbs_begin(int fd, uint8_t *out, uint8_t *in, size_t size_bytes, char why[RAW_VERBS_WHY_BYTES])
{
    raw_verbs *link = calloc(1, sizeof *link);
    snprintf(why, RAW_VERBS_WHY_BYTES, "no memory");
    if (link == NULL || !rfaas_verbs_port_open(&link->port, "", fd, why)) {
        free(link);
        return NULL;
    }
    link->size_bytes = size_bytes;
    if (make(link, out, in) && meet(link, fd, in))
        return link;
    snprintf(why, RAW_VERBS_WHY_BYTES, "the raw RDMA link failed: %s", strerror(errno));
    raw_verbs_end(link);
    return NULL;
}

/* ---- round trips ---- */

static int reap(raw_verbs *link)
{
    struct ibv_wc completion;
    int n;
    while ((n = ibv_poll_cq(link->sent, 1, &completion)) > 0) {
        if (completion.status != IBV_WC_SUCCESS)
            return -EIO;
        link->acknowledged = completion.wr_id;
    }
    return n;
}

static int put(raw_verbs *link, size_t size_bytes, uint32_t word)
{
    struct ibv_sge piece = {(uintptr_t)link->source->addr, (uint32_t)size_bytes, link->source->lkey};
    struct ibv_send_wr *bad, request = {
        .wr_id = link->posted + 1,
        .sg_list = &piece,
        .num_sge = 1,
        .opcode = IBV_WR_RDMA_WRITE_WITH_IMM,
        .imm_data = htonl(word),
        .send_flags = size_bytes <= link->inline_bytes ? IBV_SEND_INLINE : 0,
        .wr.rdma = {link->peer_address, link->peer_key},
    };
    if (request.wr_id % SIGNAL_EVERY == 0 || word == STOP)
        request.send_flags |= IBV_SEND_SIGNALED;
    int rc = 0;
    while (rc == 0 && link->posted - link->acknowledged >= DEPTH - SIGNAL_EVERY)
        rc = reap(link);
    if (rc == 0 && (rc = -ibv_post_send(link->pair, &request, &bad)) == 0)
        link->posted++;
    return rc;
}

/* Sleeps until a completion comes. 0: look again. */
static int sleep_for_word(raw_verbs *link, const raw_series *series)
{
    struct pollfd one = {.fd = link->events->fd, .events = POLLIN};
    struct ibv_cq *queue;
    void *context;
    int n = poll(&one, 1, (int)(series->patience_ns / 1000000u));
    if (n == 0)
        return -ETIMEDOUT;
    if (n < 0)
        return errno == EINTR ? 0 : -errno;
    if (ibv_get_cq_event(link->events, &queue, &context) != 0)
        return -errno;
    ibv_ack_cq_events(queue, 1);
    return 0;
}

static int get(raw_verbs *link, const raw_series *series, uint32_t *word)
{
    struct ibv_wc completion;
    uint64_t since_ns = 0;
    int n, rc = 0;
    bool armed = false;
    for (uint32_t looks = 1; (n = ibv_poll_cq(link->received, 1, &completion)) == 0; looks++) {
        if (series->sleeps && !armed) {
            if ((rc = -ibv_req_notify_cq(link->received, 0)) != 0)
                return rc;
            armed = true;
        } else if (series->sleeps) {
            if ((rc = sleep_for_word(link, series)) != 0)
                return rc;
            armed = false;
        } else if (looks >= FIRST_LOOKS && looks % LOOKS_A_CLOCK == 0) {
            uint64_t at_ns = now_ns();
            since_ns = since_ns == 0 ? at_ns : since_ns;
            if (at_ns - since_ns > series->patience_ns)
                return -ETIMEDOUT;
            if (at_ns - since_ns >= YIELD_AFTER_NS)
                sched_yield();
        }
    }
    if (n < 0 || completion.status != IBV_WC_SUCCESS)
        return -EIO;
    *word = ntohl(completion.imm_data);
    return receive_next(link);
}

static void pause_for(uint64_t pause_ns)
{
    struct timespec rest = {(time_t)(pause_ns / 1000000000u), (long)(pause_ns % 1000000000u)};
    while (pause_ns != 0 && nanosleep(&rest, &rest) != 0 && errno == EINTR) {
    }
}

int64_t raw_verbs_ping(raw_verbs *link, const raw_series *series, int64_t *took_ns, size_t rounds, bool last)
{
    uint64_t first_ns = now_ns();
    size_t done = 0;
    uint32_t word;
    int rc = 0;
    while (done < rounds) {
        pause_for(series->pause_ns);
        uint64_t begun_ns = now_ns();
        if ((rc = put(link, link->size_bytes, PING)) != 0 || (rc = get(link, series, &word)) != 0)
            return rc;
        uint64_t ended_ns = now_ns();
        took_ns[done++] = (int64_t)(ended_ns - begun_ns);
        if (ended_ns - first_ns > series->budget_ns)
            break;
    }
    if (last && ((rc = put(link, 1, STOP)) != 0 || (rc = get(link, series, &word)) != 0))
        return rc; /* the peer's answer tells that it has it: the connection ends with this side */
    return (int64_t)done;
}

int64_t raw_verbs_serve(raw_verbs *link, const raw_series *series)
{
    for (int64_t served = 0;; served++) {
        uint32_t word;
        int rc = get(link, series, &word);
        if (rc != 0)
            return rc;
        if ((rc = put(link, word == STOP ? 1 : link->size_bytes, word)) != 0)
            return rc;
        if (word == STOP) {
            struct timespec pause = {.tv_nsec = 20000};
            for (int i = 0; i < 5000 && reap(link) == 0 && link->acknowledged < link->posted; i++)
                nanosleep(&pause, NULL);
            return served;
        }
    }
}
