/* core_copies.c - counts what the core copies, and what goes through system calls, for a large payload over a socket.
 *
 * Linked with --wrap for each function counted, so every call that the core's own code makes is seen; test_core_copies.py
 * builds it with -fno-builtin, or the compiler would make copies of its own. Prints "copied moved_out moved_in" in bytes, for a
 * payload of PAYLOAD_BYTES in two segments.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "rfaas_channel.h"

enum { PAYLOAD_BYTES = 32 << 20, HALF_BYTES = PAYLOAD_BYTES / 2 };

static uint64_t copied_bytes, sent_bytes, received_bytes;

void *__real_memcpy(void *to, const void *from, size_t size_bytes);
void *__real_memmove(void *to, const void *from, size_t size_bytes);
ssize_t __real_send(int fd, const void *bytes, size_t size_bytes, int flags);
ssize_t __real_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t __real_recvmsg(int fd, struct msghdr *message, int flags);
ssize_t __real_recv(int fd, void *buffer, size_t size_bytes, int flags);

void *__wrap_memcpy(void *to, const void *from, size_t size_bytes)
{
    copied_bytes += size_bytes;
    return __real_memcpy(to, from, size_bytes);
}

void *__wrap_memmove(void *to, const void *from, size_t size_bytes)
{
    copied_bytes += size_bytes;
    return __real_memmove(to, from, size_bytes);
}

ssize_t __wrap_send(int fd, const void *bytes, size_t size_bytes, int flags)
{
    ssize_t n = __real_send(fd, bytes, size_bytes, flags);
    sent_bytes += n > 0 ? (uint64_t)n : 0;
    return n;
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags)
{
    ssize_t n = __real_sendmsg(fd, message, flags);
    sent_bytes += n > 0 ? (uint64_t)n : 0;
    return n;
}

ssize_t __wrap_recvmsg(int fd, struct msghdr *message, int flags)
{
    ssize_t n = __real_recvmsg(fd, message, flags);
    received_bytes += n > 0 ? (uint64_t)n : 0;
    return n;
}

ssize_t __wrap_recv(int fd, void *buffer, size_t size_bytes, int flags)
{
    ssize_t n = __real_recv(fd, buffer, size_bytes, flags);
    received_bytes += n > 0 && !(flags & MSG_PEEK) ? (uint64_t)n : 0;
    return n;
}

static void check(bool holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "%s\n", what);
        exit(1);
    }
}

int main(int count, char **arguments)
{
    bool awake = count > 1 && strcmp(arguments[1], "awake") == 0;
    bool copy_once_more = count > 2; /* to see that the count finds it */
    const rfaas_tcp_options options = {.max_payload_bytes = PAYLOAD_BYTES};
    int fds[2], cookie;
    rfaas_channel *left, *right;
    check(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0, "socketpair");
    check(rfaas_tcp_adopt(fds[0], &options, &left) == RFAAS_OK, "left");
    check(rfaas_tcp_adopt(fds[1], &options, &right) == RFAAS_OK, "right");
    rfaas_channel_stay_awake(left, awake);
    rfaas_channel_stay_awake(right, awake);
    uint8_t *payload = malloc(PAYLOAD_BYTES);
    memset(payload, 7, HALF_BYTES);
    memset(payload + HALF_BYTES, 9, HALF_BYTES);
    const struct iovec segments[] = {{payload, HALF_BYTES}, {payload + HALF_BYTES, HALF_BYTES}};
    rfaas_header header = {.kind = RFAAS_KIND_RESULT, .call_id = 1};
    copied_bytes = sent_bytes = received_bytes = 0;
    rfaas_rc rc = rfaas_channel_send(left, &header, segments, 2, NULL, 0, &cookie);
    check(rc == RFAAS_QUEUED, "larger than the socket takes at once");
    rfaas_frame frame;
    while ((rc = rfaas_channel_poll(right, 1 << 20, &frame)) != RFAAS_OK) {
        check(rc == RFAAS_AGAIN || rc == RFAAS_MORE, rfaas_channel_why(right));
        if (awake)
            rfaas_channel_spin(right, 1000);
        rfaas_channel_flush(left, 1 << 20);
    }
    const uint8_t *first = frame.segments[0].iov_base, *second = frame.segments[1].iov_base;
    check(frame.segments[0].iov_len == HALF_BYTES && first[0] == 7 && first[HALF_BYTES - 1] == 7, "first");
    check(frame.segments[1].iov_len == HALF_BYTES && second[0] == 9 && second[HALF_BYTES - 1] == 9, "second");
    if (copy_once_more)
        memcpy(payload, first, HALF_BYTES);
    printf("%llu %llu %llu\n", (unsigned long long)copied_bytes, (unsigned long long)sent_bytes,
           (unsigned long long)received_bytes);
    frame.memory.release(frame.memory.context, frame.buffer, frame.buffer_bytes);
    rfaas_channel_free(left);
    rfaas_channel_free(right);
    free(payload);
    return 0;
}
