/* session.c - the connection to the session process: packets, and what they mean to the core. Spec: 004 section 3. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client.h"

enum { DESCRIPTORS_MAX = 8, LEAVE_WAIT_MS = 1000 };

/* ---- sending ---- */

void session_lose(rfaas_client *client)
{
    if (client->session_fd < 0)
        return;
    rfaas_poller_remove(&client->poller, client->session_fd);
    close(client->session_fd);
    client->session_fd = -1;
    pack_free(&client->unsent);
    core_session_lost(&client->core, client_now_ns());
}

static ssize_t send_whole(int fd, const void *bytes, size_t size_bytes)
{
    ssize_t n;
    do
        n = send(fd, bytes, size_bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    return n;
}

/* What did not go waits, each packet behind its length of four bytes. */
static void keep_unsent(rfaas_client *client, const pack_writer *message)
{
    uint32_t size_bytes = (uint32_t)message->size_bytes;
    pack_packed(&client->unsent, &size_bytes, sizeof size_bytes);
    pack_packed(&client->unsent, message->bytes, message->size_bytes);
    rfaas_poller_want_write(&client->poller, client->session_fd, 0, true);
}

bool session_send(rfaas_client *client, pack_writer *message)
{
    bool alive = client->session_fd >= 0 && !message->failed && !client->unsent.failed;
    if (alive && client->unsent.size_bytes > 0) {
        keep_unsent(client, message);
    } else if (alive) {
        ssize_t n = send_whole(client->session_fd, message->bytes, message->size_bytes);
        if (n < 0 && errno == EAGAIN)
            keep_unsent(client, message);
        else
            alive = n >= 0;
    }
    pack_free(message);
    if (!alive)
        session_lose(client);
    return alive;
}

void session_flush(rfaas_client *client)
{
    pack_writer *unsent = &client->unsent;
    size_t at = 0;
    while (client->session_fd >= 0 && at < unsent->size_bytes) {
        uint32_t size_bytes;
        memcpy(&size_bytes, unsent->bytes + at, sizeof size_bytes);
        ssize_t n = send_whole(client->session_fd, unsent->bytes + at + sizeof size_bytes, size_bytes);
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0) {
            session_lose(client);
            return;
        }
        at += sizeof size_bytes + size_bytes;
    }
    memmove(unsent->bytes, unsent->bytes + at, unsent->size_bytes - at);
    unsent->size_bytes -= at;
    if (client->session_fd >= 0 && unsent->size_bytes == 0)
        rfaas_poller_want_write(&client->poller, client->session_fd, 0, false);
}

void session_want(rfaas_client *client, uint64_t workers)
{
    pack_writer message = {0};
    if (!client->asked_verbs)
        rdma_why_not(client, client->no_verbs, sizeof client->no_verbs);
    client->asked_verbs = true;
    pack_map(&message, 10);
    pack_text(&message, "m");
    pack_text(&message, "want");
    pack_text(&message, "executor");
    pack_unsigned(&message, EXECUTOR);
    pack_text(&message, "workers");
    pack_unsigned(&message, workers);
    pack_text(&message, "cores");
    pack_unsigned(&message, client->cores);
    pack_text(&message, "memory_bytes");
    pack_unsigned(&message, client->memory_bytes);
    pack_text(&message, "placement");
    pack_text(&message, client->placement);
    pack_text(&message, "load");
    pack_text(&message, client->load);
    pack_text(&message, "transport");
    pack_text(&message, client->transport);
    pack_text(&message, "no_verbs");
    pack_text(&message, client->no_verbs);
    pack_text(&message, "hot_for_s");
    pack_real(&message, client->hot_for_s);
    session_send(client, &message);
}

void session_interrupt(rfaas_client *client, uint64_t channel, uint64_t call_id)
{
    pack_writer message = {0};
    pack_map(&message, 3);
    pack_text(&message, "m");
    pack_text(&message, "interrupt");
    pack_text(&message, "channel");
    pack_unsigned(&message, channel);
    pack_text(&message, "call_id");
    pack_unsigned(&message, call_id);
    session_send(client, &message);
}

void session_unusable(rfaas_client *client, const uint8_t lease[16], const char *why)
{
    pack_writer message = {0};
    pack_map(&message, 3);
    pack_text(&message, "m");
    pack_text(&message, "unusable");
    pack_text(&message, "lease");
    pack_bytes(&message, lease, 16);
    pack_text(&message, "why");
    pack_text(&message, why);
    session_send(client, &message);
}

/* ---- receiving ---- */

static uint64_t number_of(const pack_value *message, const char *key)
{
    pack_value value = pack_find(message, key);
    return pack_as_unsigned(&value, 0);
}

static void text_of(const pack_value *message, const char *key, char *text, size_t room_bytes)
{
    pack_value value = pack_find(message, key);
    pack_copy_text(&value, text, room_bytes);
}

static bool lease_of(const pack_value *message, uint8_t lease[16])
{
    pack_value value = pack_find(message, "lease");
    if (value.kind != PACK_BYTES || value.size != 16)
        return false;
    memcpy(lease, value.data, 16);
    return true;
}

static medium medium_of(const pack_value *message)
{
    pack_value named = pack_find(message, "medium");
    if (pack_is_text(&named, "shm"))
        return MEDIUM_SHM;
    return pack_is_text(&named, "verbs") ? MEDIUM_VERBS : MEDIUM_STREAM;
}

static void on_channel(rfaas_client *client, const pack_value *message, int *fd)
{
    core_channel about = {0};
    if (*fd < 0 || !lease_of(message, about.lease))
        return;
    about.number = number_of(message, "channel");
    about.lease_seq = number_of(message, "lease_seq");
    about.epoch = number_of(message, "epoch");
    about.slot = number_of(message, "slot");
    about.generation = number_of(message, "generation");
    text_of(message, "node", about.node, sizeof about.node);
    port_open(client, &about, *fd, medium_of(message));
    *fd = -1;
}

static void on_lease(rfaas_client *client, const pack_value *message)
{
    core_lease *lease = calloc(1, sizeof *lease);
    pack_value slice = pack_find(message, "slice"), ttl_s = pack_find(message, "ttl_s");
    if (lease == NULL || !lease_of(message, lease->lease) || slice.kind != PACK_BYTES || slice.size > sizeof lease->slice) {
        free(lease);
        return;
    }
    memcpy(lease->slice, slice.data, slice.size);
    lease->slice_bytes = (size_t)slice.size;
    lease->lease_seq = number_of(message, "lease_seq");
    lease->epoch = number_of(message, "epoch");
    lease->workers = number_of(message, "workers");
    lease->ttl_s = pack_as_real(&ttl_s, 0);
    text_of(message, "address", lease->address, sizeof lease->address);
    text_of(message, "node", lease->node, sizeof lease->node);
    core_lease_granted(&client->core, lease);
}

static int small_number(const pack_value *message, const char *key, int otherwise)
{
    pack_value value = pack_find(message, key);
    int64_t number = pack_as_signed(&value, otherwise);
    return number < INT32_MIN || number > INT32_MAX ? otherwise : (int)number;
}

static void on_farewell(rfaas_client *client, const pack_value *message)
{
    pack_value grace_s = pack_find(message, "grace_s");
    verdict said = {.known = true};
    said.reason = small_number(message, "reason_code", 0);
    said.last_started = number_of(message, "last_started");
    said.last_done = number_of(message, "last_done");
    said.exit_status = small_number(message, "exit_status", -1);
    said.signal = small_number(message, "signal", 0);
    said.grace_s = pack_as_real(&grace_s, -1);
    text_of(message, "hint", said.hint, sizeof said.hint);
    core_condemned(&client->core, number_of(message, "channel"), &said, client_now_ns());
}

static void on_lost(rfaas_client *client, const pack_value *message)
{
    verdict said = {.exit_status = -1, .grace_s = -1, .reason = small_number(message, "reason_code", 0)};
    text_of(message, "hint", said.hint, sizeof said.hint);
    pack_value channels = pack_find(message, "channels");
    const uint8_t *at = NULL;
    for (;;) {
        pack_value number = pack_next(&channels, &at);
        if (number.kind == PACK_NOTHING)
            break;
        core_condemned(&client->core, pack_as_unsigned(&number, 0), &said, client_now_ns());
    }
}

/* Unknown messages and keys are passed over. `*fd` is set to -1 if it was taken. */
static void take(rfaas_client *client, const pack_value *message, int *fd)
{
    char first[256], second[256];
    uint8_t lease[16];
    pack_value m = pack_find(message, "m");
    if (pack_is_text(&m, "channel")) {
        on_channel(client, message, fd);
    } else if (pack_is_text(&m, "lease")) {
        on_lease(client, message);
    } else if (pack_is_text(&m, "farewell")) {
        on_farewell(client, message);
    } else if (pack_is_text(&m, "lost")) {
        on_lost(client, message);
    } else if (pack_is_text(&m, "ended") && lease_of(message, lease)) {
        core_lease_ended(&client->core, lease);
    } else if (pack_is_text(&m, "notice") && lease_of(message, lease)) {
        core_notice(&client->core, lease);
    } else if (pack_is_text(&m, "queued")) {
        text_of(message, "reason", first, sizeof first);
        text_of(message, "hint", second, sizeof second);
        core_queued(&client->core, first, second);
    } else if (pack_is_text(&m, "denied")) {
        text_of(message, "code", first, sizeof first);
        text_of(message, "hint", second, sizeof second);
        core_denied(&client->core, first, second, client_now_ns());
    } else if (pack_is_text(&m, "output") && client->show_output) {
        output_show(message);
    }
}

static void take_descriptors(struct msghdr *header, int fds[DESCRIPTORS_MAX], size_t *n)
{
    for (struct cmsghdr *part = CMSG_FIRSTHDR(header); part != NULL; part = CMSG_NXTHDR(header, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
            continue;
        size_t size_bytes = part->cmsg_len - CMSG_LEN(0);
        for (size_t at = 0; at + sizeof(int) <= size_bytes && *n < DESCRIPTORS_MAX; at += sizeof(int))
            memcpy(&fds[(*n)++], CMSG_DATA(part) + at, sizeof(int));
    }
}

static bool serve_packet(rfaas_client *client)
{
    union {
        char bytes[CMSG_SPACE(DESCRIPTORS_MAX * sizeof(int))];
        struct cmsghdr aligned;
    } control;
    struct iovec place = {client->packet, PACKET_BYTES_MAX};
    struct msghdr header = {.msg_iov = &place, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    ssize_t n = recvmsg(client->session_fd, &header, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (n < 0 && errno == EINTR)
        return true;
    if (n < 0 && errno == EAGAIN)
        return false;
    int fds[DESCRIPTORS_MAX], first = -1;
    size_t n_fds = 0;
    pack_value message;
    if (n > 0)
        take_descriptors(&header, fds, &n_fds);
    bool whole = n > 0 && (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0;
    if (whole && pack_read(client->packet, (size_t)n, &message)) {
        first = n_fds > 0 ? fds[0] : -1;
        take(client, &message, &first);
        if (n_fds > 0)
            fds[0] = first;
    } else {
        whole = false;
    }
    for (size_t i = 0; i < n_fds; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    if (!whole)
        session_lose(client);
    return whole && client->session_fd >= 0;
}

bool session_serve(rfaas_client *client)
{
    if (client->session_fd >= 0 && client->unsent.size_bytes > 0)
        session_flush(client);
    return client->session_fd >= 0 && serve_packet(client);
}

/* ---- leaving ---- */

void session_leave(rfaas_client *client)
{
    static const uint8_t leave[] = {0x81, 0xa1, 'm', 0xa5, 'l', 'e', 'a', 'v', 'e'};
    int fd = client->session_fd;
    if (fd < 0)
        return;
    int64_t give_up_ns = client_now_ns() + (int64_t)LEAVE_WAIT_MS * 1000000;
    if (send_whole(fd, leave, sizeof leave) >= 0) {
        for (int64_t left_ns; (left_ns = give_up_ns - client_now_ns()) > 0;) {
            struct pollfd entry = {.fd = fd, .events = POLLIN};
            if (poll(&entry, 1, (int)(left_ns / 1000000) + 1) <= 0)
                continue; /* a signal, or the time is over */
            ssize_t n = recv(fd, client->packet, PACKET_BYTES_MAX, MSG_DONTWAIT); /* descriptors are dropped by the kernel */
            if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
                break;
        }
    }
    rfaas_poller_remove(&client->poller, fd);
    close(fd);
    client->session_fd = -1;
}
