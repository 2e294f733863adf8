/* raw_link.c - round trips of bytes over shared memory, sockets and pipes; see raw_link.h. */
#include "raw_link.h"

#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
    PAGE_BYTES = 4096,
    LINES_APART_BYTES = 256, /* adjacent lines are fetched in pairs */
    LOOKS_BETWEEN_CLOCKS = 1 << 16,
    STOP = 1,
};

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void pause_for(uint64_t pause_ns)
{
    struct timespec rest = {(time_t)(pause_ns / 1000000000u), (long)(pause_ns % 1000000000u)};
    while (pause_ns != 0 && nanosleep(&rest, &rest) != 0 && errno == EINTR) {
    }
}

static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* How long a side has waited, asked of the clock only now and then. */
typedef struct waiting {
    uint64_t looks, since_ns;
} waiting;

static bool is_over(waiting *wait, const raw_series *series)
{
    if (++wait->looks % LOOKS_BETWEEN_CLOCKS != 0)
        return false;
    if (wait->since_ns == 0)
        wait->since_ns = now_ns();
    return now_ns() - wait->since_ns > series->patience_ns;
}

/* ---- memory ---- */

typedef struct memory_link {
    _Atomic uint32_t *asked, *answered, *stop;
    uint8_t *there, *back;
} memory_link;

static size_t slot_bytes(size_t size_bytes) { return (size_bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES; }

size_t raw_memory_bytes(size_t size_bytes) { return PAGE_BYTES + 2 * slot_bytes(size_bytes); }

void raw_memory_prepare(void *memory, size_t memory_bytes) { memset(memory, 0, memory_bytes); }

static bool link_memory(memory_link *link, void *memory, size_t memory_bytes, const raw_series *series)
{
    if (series->size_bytes == 0 || memory_bytes < raw_memory_bytes(series->size_bytes))
        return false;
    uint8_t *at = memory;
    link->asked = (_Atomic uint32_t *)at;
    link->answered = (_Atomic uint32_t *)(at + LINES_APART_BYTES);
    link->stop = (_Atomic uint32_t *)(at + 2 * LINES_APART_BYTES);
    link->there = at + PAGE_BYTES;
    link->back = link->there + slot_bytes(series->size_bytes);
    return true;
}

static void futex_wake(_Atomic uint32_t *word) { syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0); }

static bool futex_wait(_Atomic uint32_t *word, uint32_t seen, uint64_t patience_ns)
{
    struct timespec rest = {(time_t)(patience_ns / 1000000000u), (long)(patience_ns % 1000000000u)};
    return syscall(SYS_futex, word, FUTEX_WAIT, seen, &rest, NULL, 0) == 0 || errno != ETIMEDOUT;
}

static void publish(_Atomic uint32_t *word, uint32_t value, bool peer_sleeps)
{
    atomic_store_explicit(word, value, memory_order_release);
    if (peer_sleeps)
        futex_wake(word);
}

/* Waits until `word` is `wanted`; false: the peer was silent for too long. */
static bool wait_for(_Atomic uint32_t *word, uint32_t wanted, const raw_series *series)
{
    waiting wait = {0};
    uint32_t seen;
    while ((seen = atomic_load_explicit(word, memory_order_acquire)) != wanted) {
        if (series->sleeps) {
            if (!futex_wait(word, seen, series->patience_ns))
                return false;
        } else {
            relax();
            if (is_over(&wait, series))
                return false;
        }
    }
    return true;
}

int64_t raw_memory_ping(void *memory, size_t memory_bytes, const raw_series *series, const uint8_t *payload, uint8_t *answer,
                        int64_t *took_ns, size_t rounds, uint32_t *turn, bool last)
{
    memory_link link;
    if (!link_memory(&link, memory, memory_bytes, series))
        return -EINVAL;
    uint64_t first_ns = now_ns();
    size_t done = 0;
    while (done < rounds) {
        pause_for(series->pause_ns);
        uint64_t begun_ns = now_ns();
        memcpy(link.there, payload, series->size_bytes);
        publish(link.asked, ++*turn, series->sleeps);
        if (!wait_for(link.answered, *turn, series))
            return -ETIMEDOUT;
        memcpy(answer, link.back, series->size_bytes);
        uint64_t ended_ns = now_ns();
        took_ns[done++] = (int64_t)(ended_ns - begun_ns);
        if (ended_ns - first_ns > series->budget_ns)
            break;
    }
    if (last) {
        atomic_store_explicit(link.stop, STOP, memory_order_release);
        publish(link.asked, ++*turn, series->sleeps);
    }
    return (int64_t)done;
}

int64_t raw_memory_serve(void *memory, size_t memory_bytes, const raw_series *series)
{
    memory_link link;
    if (!link_memory(&link, memory, memory_bytes, series))
        return -EINVAL;
    for (uint32_t turn = 1;; turn++) {
        if (!wait_for(link.asked, turn, series))
            return -ETIMEDOUT;
        if (atomic_load_explicit(link.stop, memory_order_acquire) == STOP)
            return (int64_t)turn - 1;
        memcpy(link.back, link.there, series->size_bytes);
        publish(link.answered, turn, series->sleeps);
    }
}

/* ---- descriptors ---- */

/* Waits until the descriptor is ready: in poll() where the series sleeps, else returns at once to look again. */
static int64_t wait_ready(int fd, short events, const raw_series *series, waiting *wait)
{
    if (!series->sleeps)
        return is_over(wait, series) ? -ETIMEDOUT : 0;
    struct pollfd one = {.fd = fd, .events = events};
    int n = poll(&one, 1, (int)(series->patience_ns / 1000000u));
    return n == 0 ? -ETIMEDOUT : n < 0 && errno != EINTR ? -errno : 0;
}

/* Descriptors of a series that sleeps block (so that one system call is enough), those of one that polls do not. */
static int64_t move_bytes(int fd, uint8_t *at, const raw_series *series, bool out)
{
    waiting wait = {0};
    for (size_t done = 0; done < series->size_bytes;) {
        size_t rest_bytes = series->size_bytes - done;
        ssize_t n = out ? write(fd, at + done, rest_bytes) : read(fd, at + done, rest_bytes);
        if (n > 0) {
            done += (size_t)n;
            wait = (waiting){0};
        } else if (n == 0) {
            return -ECONNRESET;
        } else if (errno == EAGAIN) {
            int64_t rc = wait_ready(fd, out ? POLLOUT : POLLIN, series, &wait);
            if (rc != 0)
                return rc;
        } else if (errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}

int64_t raw_stream_ping(int in, int out, const raw_series *series, uint8_t *payload, uint8_t *answer, int64_t *took_ns,
                        size_t rounds, bool last)
{
    if (series->size_bytes == 0)
        return -EINVAL;
    uint64_t first_ns = now_ns();
    size_t done = 0;
    int64_t rc = 0;
    payload[0] = 0;
    while (done < rounds) {
        pause_for(series->pause_ns);
        uint64_t begun_ns = now_ns();
        if ((rc = move_bytes(out, payload, series, true)) != 0 || (rc = move_bytes(in, answer, series, false)) != 0)
            return rc;
        uint64_t ended_ns = now_ns();
        took_ns[done++] = (int64_t)(ended_ns - begun_ns);
        if (ended_ns - first_ns > series->budget_ns)
            break;
    }
    if (last) {
        payload[0] = STOP;
        rc = move_bytes(out, payload, series, true);
        payload[0] = 0;
    }
    return rc != 0 ? rc : (int64_t)done;
}

int64_t raw_stream_serve(int in, int out, const raw_series *series, uint8_t *buffer)
{
    if (series->size_bytes == 0)
        return -EINVAL;
    for (int64_t served = 0;; served++) {
        int64_t rc = move_bytes(in, buffer, series, false);
        if (rc != 0)
            return rc;
        if (buffer[0] == STOP)
            return served;
        if ((rc = move_bytes(out, buffer, series, true)) != 0)
            return rc;
    }
}

int64_t raw_clock_cost_ns(void)
{
    enum { TRIES = 1000 };
    uint64_t least_ns = UINT64_MAX;
    for (int i = 0; i < TRIES; i++) {
        uint64_t begun_ns = now_ns(), took_ns = now_ns() - begun_ns;
        if (took_ns < least_ns)
            least_ns = took_ns;
    }
    return (int64_t)least_ns;
}
