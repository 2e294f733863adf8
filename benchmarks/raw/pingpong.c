/* pingpong.c - what a medium costs at its barest, and what a channel of frames adds to it.
 *
 * Two processes pinned to two CPUs send `size` bytes there and back.
 * Usage: pingpong MEDIUM SIZE ROUNDS CPU CPU [SECONDS], SECONDS being a limit of raw media, and where MEDIUM is
 *   raw-shm      memory and two flags, both sides poll: three copies a round trip (transport/raw/raw_link.h)
 *   raw-futex    the same, the side that waits sleeps
 *   raw-tcp, raw-unix, raw-pipe                    both sides poll
 *   raw-tcp-asleep, raw-unix-asleep, raw-pipe-asleep   both sides block
 *   shm, unix, tcp   a channel of frames over that medium, both sides awake
 *   shm-asleep       the same, both sides wait for their descriptors
 * Prints one JSON object: nanoseconds a round trip, after a warm-up.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "raw_link.h"
#include "rfaas_channel.h"

enum { SPIN_NS = 200000, ARENA_BYTES = 1 << 28, WARM_UP = 200, WARM_UP_LARGE = 2, LARGE_BYTES = 1 << 20 };
static const uint64_t LIMIT_BYTES = 1ull << 32, BUDGET_BYTES = UINT64_MAX, PATIENCE_NS = 20000000000u;

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

/* What both sides know; made before the fork. */
typedef struct setup {
    raw_series series;
    size_t rounds, warm_up;
    uint8_t *payload, *answer;
    int64_t *took_ns;
    void *memory; /* of raw-shm and raw-futex */
    int fds[2][2]; /* of streams: where each side reads and writes; of channels: what each side has */
    bool is_channel;
    int memory_fd;          /* of a channel over shared memory, else -1 */
    rfaas_channel *channel; /* of this process, made after the fork */
} setup;

static uint8_t *touched(size_t size_bytes)
{
    uint8_t *buffer = aligned_alloc(64, (size_bytes + 64) / 64 * 64);
    if (buffer == NULL)
        fail("aligned_alloc");
    memset(buffer, 0, size_bytes);
    return buffer;
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

static void stream_pair(const char *medium, int fds[2])
{
    if (strstr(medium, "tcp") != NULL)
        tcp_pair(fds);
    else if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) != 0)
        fail("socketpair");
}

static void open_links(setup *made, const char *medium)
{
    int pair[2];
    stream_pair(medium, pair);
    made->is_channel = true;
    made->memory_fd = strncmp(medium, "shm", 3) == 0 ? rfaas_shm_create(ARENA_BYTES) : -1;
    for (int i = 0; i < 2; i++)
        made->fds[i][0] = pair[i];
}

/* After the fork: what a channel maps is not shared with a child. */
static void adopt(setup *made, int side)
{
    const rfaas_tcp_options options = {.max_payload_bytes = LIMIT_BYTES};
    int fd = made->fds[side][0];
    rfaas_rc rc = made->memory_fd >= 0 ? rfaas_shm_adopt(fd, made->memory_fd, side, LIMIT_BYTES, &made->channel)
                                       : rfaas_tcp_adopt(fd, &options, &made->channel);
    if (rc != RFAAS_OK)
        fail("adopt");
    close(made->fds[1 - side][0]);
    rfaas_channel_stay_awake(made->channel, !made->series.sleeps);
}

static void open_streams(setup *made, const char *medium)
{
    int pair[2], pipes[2][2];
    if (strstr(medium, "pipe") != NULL) {
        if (pipe(pipes[0]) != 0 || pipe(pipes[1]) != 0)
            fail("pipe");
        for (int i = 0; i < 2; i++) {
            made->fds[i][0] = pipes[i][0];
            made->fds[i][1] = pipes[1 - i][1];
        }
    } else {
        stream_pair(medium, pair);
        for (int i = 0; i < 2; i++)
            made->fds[i][0] = made->fds[i][1] = pair[i];
    }
    for (int i = 0; i < 4 && !made->series.sleeps; i++) {
        int fd = made->fds[i / 2][i % 2];
        if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) != 0)
            fail("fcntl");
    }
}

static void channel_send(const setup *made)
{
    rfaas_header header = {.kind = RFAAS_KIND_RESULT, .call_id = 1};
    const struct iovec segment = {made->payload, made->series.size_bytes};
    rfaas_rc rc = rfaas_channel_send(made->channel, &header, &segment, 1, NULL, 0, NULL);
    while (rc == RFAAS_QUEUED || rc == RFAAS_AGAIN || rc == RFAAS_MORE)
        rc = rfaas_channel_flush(made->channel, BUDGET_BYTES);
    if (rc != RFAAS_OK)
        exit(1);
}

static void channel_receive(const setup *made)
{
    rfaas_frame frame;
    rfaas_rc rc;
    while ((rc = rfaas_channel_poll(made->channel, BUDGET_BYTES, &frame)) != RFAAS_OK) {
        if (rc != RFAAS_AGAIN && rc != RFAAS_MORE)
            exit(1);
        if (made->series.sleeps)
            rfaas_channel_wait(made->channel, -1);
        else
            rfaas_channel_spin(made->channel, SPIN_NS);
    }
    if (frame.buffer != NULL)
        frame.memory.release(frame.memory.context, frame.buffer, frame.buffer_bytes);
}

static int64_t serve(setup *made)
{
    if (made->memory != NULL)
        return raw_memory_serve(made->memory, raw_memory_bytes(made->series.size_bytes), &made->series);
    if (!made->is_channel)
        return raw_stream_serve(made->fds[1][0], made->fds[1][1], &made->series, made->answer);
    for (size_t i = 0; i < made->rounds + made->warm_up; i++) {
        channel_receive(made);
        channel_send(made);
    }
    return 0;
}

static int64_t ping_channel(setup *made, size_t rounds)
{
    for (size_t i = 0; i < rounds; i++) {
        uint64_t begun_ns = now_ns();
        channel_send(made);
        channel_receive(made);
        made->took_ns[i] = (int64_t)(now_ns() - begun_ns);
    }
    return (int64_t)rounds;
}

static int64_t ping(setup *made, size_t rounds, uint32_t *turn, bool last)
{
    if (made->memory != NULL)
        return raw_memory_ping(made->memory, raw_memory_bytes(made->series.size_bytes), &made->series, made->payload,
                               made->answer, made->took_ns, rounds, turn, last);
    if (!made->is_channel)
        return raw_stream_ping(made->fds[0][0], made->fds[0][1], &made->series, made->payload, made->answer, made->took_ns,
                               rounds, last);
    return ping_channel(made, rounds);
}

static int by_size(const void *left, const void *right)
{
    int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
    return a < b ? -1 : a > b;
}

static void print(const char *medium, const setup *made)
{
    const int64_t *ns = made->took_ns;
    const size_t n = made->rounds;
    printf("{\"medium\": \"%s\", \"size_bytes\": %zu, \"iterations\": %zu, \"min_ns\": %lld, \"p50_ns\": %lld, "
           "\"p90_ns\": %lld, \"p99_ns\": %lld, \"p999_ns\": %lld, \"max_ns\": %lld, \"clock_ns\": %lld}\n",
           medium, made->series.size_bytes, n, (long long)ns[0], (long long)ns[(n - 1) / 2], (long long)ns[n * 9 / 10],
           (long long)ns[n * 99 / 100], (long long)ns[n * 999 / 1000], (long long)ns[n - 1], (long long)raw_clock_cost_ns());
}

static void open_medium(setup *made, const char *medium)
{
    size_t memory_bytes = raw_memory_bytes(made->series.size_bytes);
    if (strcmp(medium, "raw-shm") == 0 || strcmp(medium, "raw-futex") == 0) {
        made->memory = mmap(NULL, memory_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (made->memory == MAP_FAILED)
            fail("mmap");
        raw_memory_prepare(made->memory, memory_bytes);
    } else if (strncmp(medium, "raw-", 4) == 0) {
        open_streams(made, medium);
    } else {
        open_links(made, medium);
    }
}

int main(int argc, char **argv)
{
    setup made = {0};
    uint32_t turn = 0;
    if (argc < 6 || argc > 7 || (made.series.size_bytes = strtoull(argv[2], NULL, 10)) == 0 ||
        (made.rounds = strtoull(argv[3], NULL, 10)) == 0) {
        fprintf(stderr, "usage: pingpong MEDIUM SIZE ROUNDS CPU CPU [SECONDS]\n");
        return 2;
    }
    made.series.sleeps = strcmp(argv[1], "raw-futex") == 0 || strstr(argv[1], "asleep") != NULL;
    made.series.budget_ns = argc == 7 ? strtoull(argv[6], NULL, 10) * 1000000000u : UINT64_MAX;
    made.series.patience_ns = PATIENCE_NS;
    made.warm_up = made.series.size_bytes < LARGE_BYTES ? WARM_UP : WARM_UP_LARGE;
    made.payload = touched(made.series.size_bytes);
    made.answer = touched(made.series.size_bytes);
    made.took_ns = (int64_t *)(void *)touched((made.rounds + made.warm_up) * sizeof *made.took_ns);
    open_medium(&made, argv[1]);
    pid_t child = fork();
    if (made.is_channel)
        adopt(&made, child == 0 ? 1 : 0);
    if (child == 0) {
        pin(atoi(argv[5]));
        _exit(serve(&made) < 0);
    }
    pin(atoi(argv[4]));
    int64_t n = ping(&made, made.warm_up, &turn, false);
    if (n < 0 || (n = ping(&made, made.rounds, &turn, true)) < 1)
        fail(argv[1]);
    made.rounds = (size_t)n; /* those that the time sufficed for */
    int status = 0;
    if (waitpid(child, &status, 0) != child || status != 0)
        fail("the other side failed");
    qsort(made.took_ns, made.rounds, sizeof *made.took_ns, by_size);
    print(argv[1], &made);
    rfaas_channel_free(made.channel);
    free(made.payload);
    free(made.answer);
    free(made.took_ns);
    return 0;
}
