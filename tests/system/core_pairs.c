/* core_pairs.c - see core_pairs.h. */
#include "core_pairs.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tls_stream.h"

void unix_pair(rfaas_channel **left, rfaas_channel **right)
{
    int fds[2];
    const rfaas_tcp_options options = {.max_payload_bytes = LIMIT_BYTES};
    EXPECT(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    EXPECT(rfaas_tcp_adopt(fds[0], &options, left) == RFAAS_OK);
    EXPECT(rfaas_tcp_adopt(fds[1], &options, right) == RFAAS_OK);
}

void tcp_sockets(int fds[2])
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size_bytes = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    EXPECT(bind(listener, (struct sockaddr *)&address, sizeof address) == 0 && listen(listener, 1) == 0);
    EXPECT(getsockname(listener, (struct sockaddr *)&address, &size_bytes) == 0);
    fds[0] = socket(AF_INET, SOCK_STREAM, 0);
    EXPECT(connect(fds[0], (struct sockaddr *)&address, sizeof address) == 0);
    fds[1] = accept(listener, NULL, NULL);
    EXPECT(fds[1] >= 0);
    close(listener);
}

void tcp_pair(rfaas_channel **left, rfaas_channel **right)
{
    int fds[2];
    const rfaas_tcp_options options = {.max_payload_bytes = LIMIT_BYTES};
    tcp_sockets(fds);
    EXPECT(rfaas_tcp_adopt(fds[0], &options, left) == RFAAS_OK);
    EXPECT(rfaas_tcp_adopt(fds[1], &options, right) == RFAAS_OK);
}

/* Both sides have proved the key when it returns. */
void tls_pair(rfaas_channel **left, rfaas_channel **right)
{
    int fds[2];
    static const uint8_t key[RFAAS_SECURE_KEY_BYTES] = "of this test";
    rfaas_tcp_options options = {.max_payload_bytes = LIMIT_BYTES, .secure = &rfaas_tls, .key = key};
    tcp_sockets(fds);
    EXPECT(rfaas_tcp_adopt(fds[1], &options, right) == RFAAS_OK);
    options.is_dialer = true;
    EXPECT(rfaas_tcp_adopt(fds[0], &options, left) == RFAAS_OK);
    rfaas_channel *const order[] = {*right, *left, *right};
    for (size_t i = 0; i < 3; i++) {
        rfaas_frame frame;
        EXPECT(rfaas_channel_wait(order[i], -1) == RFAAS_OK);
        EXPECT(rfaas_channel_poll(order[i], BUDGET_BYTES, &frame) == RFAAS_AGAIN);
    }
}

void zerocopy_pair(rfaas_channel **left, rfaas_channel **right)
{
    int fds[2], on = 1;
    const rfaas_tcp_options options = {.max_payload_bytes = LIMIT_BYTES};
    tcp_sockets(fds);
    for (int i = 0; i < 2; i++)
        EXPECT(setsockopt(fds[i], SOL_SOCKET, SO_ZEROCOPY, &on, sizeof on) == 0);
    EXPECT(rfaas_tcp_adopt(fds[0], &options, left) == RFAAS_OK);
    EXPECT(rfaas_tcp_adopt(fds[1], &options, right) == RFAAS_OK);
}

void awake_pair(rfaas_channel **left, rfaas_channel **right)
{
    tcp_pair(left, right);
    rfaas_channel_stay_awake(*left, true);
    rfaas_channel_stay_awake(*right, true);
}

void awake_tls_pair(rfaas_channel **left, rfaas_channel **right)
{
    tls_pair(left, right);
    rfaas_channel_stay_awake(*left, true);
    rfaas_channel_stay_awake(*right, true);
}

void inproc_pair(rfaas_channel **left, rfaas_channel **right)
{
    EXPECT(rfaas_inproc_pair(LIMIT_BYTES, left, right) == RFAAS_OK);
}

void shm_pair(rfaas_channel **left, rfaas_channel **right)
{
    int fds[2], memory_fd = rfaas_shm_create(1 << 20);
    EXPECT(memory_fd >= 0);
    EXPECT(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    EXPECT(rfaas_shm_adopt(fds[0], dup(memory_fd), 0, LIMIT_BYTES, left) == RFAAS_OK);
    EXPECT(rfaas_shm_adopt(fds[1], memory_fd, 1, LIMIT_BYTES, right) == RFAAS_OK);
}
