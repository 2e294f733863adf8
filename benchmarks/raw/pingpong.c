/* pingpong.c - what a medium costs at its barest, and what a channel adds to it.
 *
 * Two processes pinned to two CPUs send `size` bytes there and back. Usage: pingpong MEDIUM SIZE ROUNDS CPU CPU, where MEDIUM is
 *   raw-shm      two cache-line aligned buffers and two flags
 *   raw-futex    the same, but the waiting side sleeps
 *   raw-tcp      loopback TCP, both sides poll with MSG_DONTWAIT
 *   raw-unix     a unix socket, both sides block
 *   shm, unix, tcp   a channel of frames over that medium, both sides awake
 *   shm-asleep   the same, both sides wait for their descriptors
 * Prints one line of nanoseconds a round trip: median, 99 %, 99.9 %, lowest of all rounds after a warm-up.
 */
#include <arpa/inet.h>
#include <linux/futex.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "rfaas_channel.h"

enum { ARENA_BYTES = 1 << 28, WARM_UP = 200 };
static const uint64_t LIMIT_BYTES = 1ull << 32, BUDGET_BYTES = UINT64_MAX;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void pin(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0)
        fail("sched_setaffinity");
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* One side: `round` sends and receives once (ping), or receives and sends (pong). */
typedef struct side {
    size_t size_bytes;
    uint8_t *buffer;
    bool first;
    bool sleeps;
    int fd;
    _Atomic uint32_t *mine, *theirs; /* flags, each on a line of its own */
    uint8_t *to, *from;
    uint32_t turn;
    rfaas_channel *channel;
    void (*send)(struct side *side);
    void (*receive)(struct side *side);
} side;

static void futex(_Atomic uint32_t *word, int operation, uint32_t value)
{
    syscall(SYS_futex, word, operation, value, NULL, NULL, 0);
}

static void memory_send(side *side)
{
    memcpy(side->to, side->buffer, side->size_bytes);
    atomic_store_explicit(side->theirs, ++side->turn, memory_order_release);
    if (side->sleeps)
        futex(side->theirs, FUTEX_WAKE, 1);
}

static void memory_receive(side *side)
{
    uint32_t wanted = side->first ? side->turn : side->turn + 1, seen;
    while ((seen = atomic_load_explicit(side->mine, memory_order_acquire)) != wanted) {
        if (side->sleeps)
            futex(side->mine, FUTEX_WAIT, seen);
        else
            __builtin_ia32_pause();
    }
    memcpy(side->buffer, side->from, side->size_bytes);
}

static void socket_send(side *side)
{
    for (size_t sent = 0; sent < side->size_bytes;) {
        ssize_t n = send(side->fd, side->buffer + sent, side->size_bytes - sent, side->sleeps ? 0 : MSG_DONTWAIT);
        if (n > 0)
            sent += (size_t)n;
    }
}

static void socket_receive(side *side)
{
    for (size_t got = 0; got < side->size_bytes;) {
        ssize_t n = recv(side->fd, side->buffer + got, side->size_bytes - got, side->sleeps ? 0 : MSG_DONTWAIT);
        if (n > 0)
            got += (size_t)n;
        else if (n == 0)
            exit(1);
    }
}

static void channel_send(side *side)
{
    rfaas_header header = {.kind = RFAAS_KIND_RESULT, .call_id = 1};
    const struct iovec segment = {side->buffer, side->size_bytes};
    rfaas_rc rc = rfaas_channel_send(side->channel, &header, &segment, 1, NULL, 0, NULL);
    while (rc == RFAAS_QUEUED || rc == RFAAS_AGAIN || rc == RFAAS_MORE)
        rc = rfaas_channel_flush(side->channel, BUDGET_BYTES);
    if (rc != RFAAS_OK)
        exit(1);
}

static void channel_receive(side *side)
{
    rfaas_frame frame;
    rfaas_rc rc;
    while ((rc = rfaas_channel_poll(side->channel, BUDGET_BYTES, &frame)) != RFAAS_OK) {
        if (rc != RFAAS_AGAIN && rc != RFAAS_MORE)
            exit(1);
        if (side->sleeps)
            rfaas_channel_wait(side->channel, -1);
    }
    if (frame.buffer != NULL)
        frame.memory.release(frame.memory.context, frame.buffer, frame.buffer_bytes);
}

static void tcp_pair(int fds[2])
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    if (bind(listener, (struct sockaddr *)&address, size) != 0 || listen(listener, 1) != 0)
        fail("listen");
    getsockname(listener, (struct sockaddr *)&address, &size);
    fds[0] = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fds[0], (struct sockaddr *)&address, size) != 0)
        fail("connect");
    fds[1] = accept(listener, NULL, NULL);
    close(listener);
    for (int i = 0; i < 2; i++)
        setsockopt(fds[i], IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static void open_memory(side sides[2], size_t size_bytes)
{
    size_t stride_bytes = (size_bytes + 4095) / 4096 * 4096;
    uint8_t *at = mmap(NULL, 4096 + 2 * stride_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        fail("mmap");
    memset(at, 0, 4096 + 2 * stride_bytes);
    for (int i = 0; i < 2; i++) {
        sides[i].mine = (_Atomic uint32_t *)(at + 256 * i);
        sides[i].theirs = (_Atomic uint32_t *)(at + 256 * (1 - i));
        sides[i].to = at + 4096 + stride_bytes * (size_t)i;
        sides[i].from = at + 4096 + stride_bytes * (size_t)(1 - i);
        sides[i].send = memory_send;
        sides[i].receive = memory_receive;
    }
}

static void open_channel(side sides[2], const char *medium)
{
    int fds[2];
    if (strcmp(medium, "tcp") == 0)
        tcp_pair(fds);
    else if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) != 0)
        fail("socketpair");
    int memory_fd = strncmp(medium, "shm", 3) == 0 ? rfaas_shm_create(ARENA_BYTES) : -1;
    for (int i = 0; i < 2; i++) {
        const rfaas_tcp_options options = {.max_payload_bytes = LIMIT_BYTES};
        rfaas_rc rc = memory_fd >= 0 ? rfaas_shm_adopt(fds[i], dup(memory_fd), i, LIMIT_BYTES, &sides[i].channel)
                                     : rfaas_tcp_adopt(fds[i], &options, &sides[i].channel);
        if (rc != RFAAS_OK)
            fail(medium);
        rfaas_channel_stay_awake(sides[i].channel, !sides[i].sleeps);
        sides[i].send = channel_send;
        sides[i].receive = channel_receive;
    }
}

static void open_sides(side sides[2], const char *medium, size_t size_bytes)
{
    int fds[2];
    for (int i = 0; i < 2; i++) {
        sides[i] = (side){.size_bytes = size_bytes, .first = i == 0, .buffer = aligned_alloc(64, (size_bytes + 64) / 64 * 64)};
        memset(sides[i].buffer, 1, size_bytes);
        sides[i].sleeps = strcmp(medium, "raw-futex") == 0 || strcmp(medium, "raw-unix") == 0 || strstr(medium, "asleep");
    }
    if (strcmp(medium, "raw-shm") == 0 || strcmp(medium, "raw-futex") == 0) {
        open_memory(sides, size_bytes);
        return;
    }
    if (strncmp(medium, "raw-", 4) != 0) {
        open_channel(sides, medium);
        return;
    }
    if (strcmp(medium, "raw-tcp") == 0)
        tcp_pair(fds);
    else if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) != 0)
        fail("socketpair");
    for (int i = 0; i < 2; i++) {
        sides[i].fd = fds[i];
        sides[i].send = socket_send;
        sides[i].receive = socket_receive;
    }
}

static int by_size(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return a < b ? -1 : a > b;
}

int main(int argc, char **argv)
{
    if (argc != 6) {
        fprintf(stderr, "usage: pingpong MEDIUM SIZE ROUNDS CPU CPU\n");
        return 2;
    }
    size_t size_bytes = strtoull(argv[2], NULL, 10), rounds = strtoull(argv[3], NULL, 10);
    side sides[2];
    open_sides(sides, argv[1], size_bytes);
    pid_t child = fork();
    if (child == 0) {
        pin(atoi(argv[5]));
        if (sides[1].channel != NULL)
            sides[1].channel->owner = getpid();
        for (size_t i = 0; i < rounds + WARM_UP; i++) {
            sides[1].receive(&sides[1]);
            sides[1].send(&sides[1]);
        }
        _exit(0);
    }
    pin(atoi(argv[4]));
    uint64_t *took_ns = malloc(rounds * sizeof *took_ns);
    for (size_t i = 0; i < rounds + WARM_UP; i++) {
        uint64_t start_ns = now_ns();
        sides[0].send(&sides[0]);
        sides[0].receive(&sides[0]);
        if (i >= WARM_UP)
            took_ns[i - WARM_UP] = now_ns() - start_ns;
    }
    waitpid(child, NULL, 0);
    qsort(took_ns, rounds, sizeof *took_ns, by_size);
    printf("%llu %llu %llu %llu\n", (unsigned long long)took_ns[rounds / 2], (unsigned long long)took_ns[rounds * 99 / 100],
           (unsigned long long)took_ns[rounds * 999 / 1000], (unsigned long long)took_ns[0]);
    return 0;
}
