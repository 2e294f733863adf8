/* shared_memory.c - the shared-memory medium when a side dies, sleeps or goes mad; test_t60_shared_memory.py builds and runs it.
 *
 * Built with RFAAS_FAILPOINTS: after every store that the other side sees, the medium calls rfaas_failpoint(), which here
 * kills the process at a chosen step, or lets the other side run. Usage: shared_memory MODE ROUNDS SEED, where MODE is
 *   kill       one side is killed at a random step; what it had sent whole arrives, in order and intact, then the end
 *   schedules  both sides in one thread, switched at random steps; nothing is lost and nobody sleeps for ever
 *   scribble   one side writes garbage over all that is shared; the other ends or goes on, but never crashes
 *   lies       one side says one thing that can't be, in turn each that there is; the other does not believe it (lies.c)
 *   arrays, loan  what is tried of these under sanitizers (tests/system)
 * Prints how often each step was passed. Exits 0 when all held; otherwise says where it did not.
 */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "array_pool.h"
#include "rfaas_channel.h"
#include "shm_ring.h"

void tell_lies(void);             /* lies.c */
void test_arrays(bool maps_twice); /* ../system/core_arrays_test.c */
void test_loan(uint64_t n_calls); /* ../system/core_loan_test.c */

enum {
    ARENA_BYTES = 1 << 20,
    LIMIT_BYTES = 1 << 24,
    BUDGET_BYTES = 1 << 16,
    STEPS_MAX = 32,
    POOL_BYTES = 16 << 20,
    POOL_ARRAYS = 4,
    ARRAY_BYTES = 40000, /* from there on some payloads are arrays */
    HELD = 3,            /* frames that a receiver keeps for a while */
    STACK_BYTES = 1 << 18,
    IDLE_MAX = 1000, /* turns without progress of either side, in which both only sleep */
};

static uint64_t seed;

#define EXPECT(condition)                                                                                  \
    do {                                                                                                   \
        if (!(condition)) {                                                                                \
            fprintf(stderr, "%s:%d: %s (seed %llu)\n", __FILE__, __LINE__, #condition, (unsigned long long)seed); \
            _exit(1);                                                                                      \
        }                                                                                                  \
    } while (0)

static uint64_t draw(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* ---- steps ---- */

typedef struct step_count {
    char name[32];
    _Atomic uint64_t hits;
} step_count;

static step_count *steps; /* shared by all processes of the test */
static uint64_t kill_after; /* steps; 0: never */
static bool switching;
static uint64_t schedule, switch_once_in;
static bool side_done[2];
static ucontext_t sides[2];
static int running;

static void switch_side(void)
{
    running = 1 - running;
    swapcontext(&sides[1 - running], &sides[running]);
}

void (*rfaas_at_failpoint)(const char *name); /* another part's */

void rfaas_failpoint(const char *name)
{
    if (rfaas_at_failpoint != NULL)
        rfaas_at_failpoint(name);
    for (int i = 0; i < STEPS_MAX; i++) {
        if (steps[i].name[0] == '\0')
            snprintf(steps[i].name, sizeof steps[i].name, "%s", name);
        if (strcmp(steps[i].name, name) == 0) {
            steps[i].hits++;
            break;
        }
    }
    if (kill_after > 0 && --kill_after == 0)
        kill(getpid(), SIGKILL);
    /* The moment before a side goes to sleep is where bells get lost. */
    uint64_t once_in = strcmp(name, "before-waiting") == 0 || strcmp(name, "before-falling-asleep") == 0 ? 2 : switch_once_in;
    if (switching && !side_done[1 - running] && draw(&schedule) % once_in == 0)
        switch_side();
}

static void *shared_page(size_t size_bytes)
{
    void *at = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    EXPECT(at != MAP_FAILED);
    return at;
}

/* ---- frames that tell what they are ---- */

static size_t size_of(uint64_t number)
{
    static const size_t sizes[] = {0, 1, 32, 33, 64, 1000, 4096, 40000, 70000, 300000, 900000};
    uint64_t state = seed * 2654435761u + number + 1;
    draw(&state);
    /* Rounds of small frames fill the entries, others the bytes. */
    size_t n_sizes = sizeof sizes / sizeof *sizes, n = seed % 3 == 0 ? 5 : draw(&state) % 4 == 0 ? n_sizes : 6;
    return sizes[draw(&state) % n];
}

static void fill(uint8_t *bytes, size_t size_bytes, uint64_t number)
{
    uint64_t state = number * 0x9e3779b97f4a7c15u + 1;
    for (size_t i = 0; i < size_bytes; i += sizeof state) {
        draw(&state);
        memcpy(bytes + i, &state, size_bytes - i < sizeof state ? size_bytes - i : sizeof state);
    }
}

/* How the payload of a frame is sent: from anywhere, from the pool for arrays, or from a block of the arena, which is
 * handed over or not. */
typedef enum way { COPIED, POOLED, FROM_ARENA, HANDED_OVER, N_WAYS } way;

static way way_of(uint64_t number)
{
    uint64_t state = seed + number * 0x9e3779b97f4a7c15u + 1;
    draw(&state);
    return size_of(number) < ARRAY_BYTES ? COPIED : (way)(draw(&state) % N_WAYS);
}

static uint8_t *pool_arrays[POOL_ARRAYS]; /* never written to again */

static void make_pool(void)
{
    rfaas_array_pool *pool;
    rfaas_array_pool_set_size(POOL_BYTES);
    for (int i = 0; i < POOL_ARRAYS; i++) {
        pool_arrays[i] = rfaas_array_pool_take(900000, &pool);
        EXPECT(pool_arrays[i] != NULL);
        fill(pool_arrays[i], 900000, ~(uint64_t)i);
    }
}

static uint64_t content_of(uint64_t number)
{
    return way_of(number) == POOLED ? ~(number % POOL_ARRAYS) : number;
}

typedef struct held_frame {
    uint64_t number; /* 0: none */
    struct iovec segments[2];
    uint32_t n_segments;
    void *buffer;
    size_t buffer_bytes;
    rfaas_memory memory;
} held_frame;

static void check(const held_frame *held)
{
    static uint8_t wanted[LIMIT_BYTES];
    size_t size_bytes = size_of(held->number), at = 0;
    fill(wanted, size_bytes, content_of(held->number));
    for (uint32_t i = 0; i < held->n_segments; i++) {
        EXPECT(at + held->segments[i].iov_len <= size_bytes);
        EXPECT(memcmp(held->segments[i].iov_base, wanted + at, held->segments[i].iov_len) == 0);
        at += held->segments[i].iov_len;
    }
    EXPECT(at == size_bytes);
}

static void let_go(held_frame *held)
{
    if (held->number == 0)
        return;
    check(held); /* as it was when it came, whatever was sent since */
    if (held->buffer != NULL)
        held->memory.release(held->memory.context, held->buffer, held->buffer_bytes);
    held->number = 0;
}

static void keep(held_frame *held, const rfaas_frame *frame, uint64_t number)
{
    EXPECT(frame->header.call_id == number);
    EXPECT(frame->header.in_size == size_of(number));
    EXPECT(frame->n_segments <= 2);
    let_go(held);
    *held = (held_frame){number, {{0}}, frame->n_segments, frame->buffer, frame->buffer_bytes, frame->memory};
    memcpy(held->segments, frame->segments, frame->n_segments * sizeof *held->segments);
    check(held);
}

static int open_descriptors(int fds[2])
{
    int memory_fd = rfaas_shm_create(ARENA_BYTES);
    EXPECT(memory_fd >= 0 && ftruncate(memory_fd, 0) != 0);
    EXPECT(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    return memory_fd;
}

/* Side 1 may read what this process has in its pool. */
static void adopt_pool(rfaas_channel *right)
{
    int pool_fd = rfaas_array_pool_export();
    EXPECT(pool_fd >= 0);
    rfaas_shm_adopt_pool(right, pool_fd);
    close(pool_fd);
}

static void open_pair(rfaas_channel **left, rfaas_channel **right)
{
    int fds[2], memory_fd = open_descriptors(fds);
    EXPECT(rfaas_shm_adopt(fds[0], dup(memory_fd), 0, LIMIT_BYTES, left) == RFAAS_OK);
    EXPECT(rfaas_shm_adopt(fds[1], memory_fd, 1, LIMIT_BYTES, right) == RFAAS_OK);
    if (seed % 4 != 0)
        adopt_pool(*right);
}

/* ---- one side sends, one receives; `sleep` returns when there may be something to do ---- */

static void send_frames(rfaas_channel *channel, uint64_t n_frames, _Atomic uint64_t *n_whole, void (*sleep)(rfaas_channel *channel))
{
    static uint8_t buffer[LIMIT_BYTES];
    rfaas_frame unexpected;
    for (uint64_t i = 1; i <= n_frames; i++) {
        size_t size_bytes = size_of(i);
        rfaas_channel_array array = {0};
        way how = way_of(i);
        bool taken = how >= FROM_ARENA && rfaas_channel_array_take(channel, size_bytes, &array);
        if (rfaas_channel_array_missed(channel))
            rfaas_channel_array_want(channel, i % 8 != 0);
        uint8_t *payload = how == POOLED ? pool_arrays[i % POOL_ARRAYS] : taken ? array.at : buffer;
        if (how != POOLED)
            fill(payload, size_bytes, i);
        if (taken && how == HANDED_OVER)
            rfaas_channel_array_hand_over(channel, &array);
        size_t first_bytes = i % 2 ? 0 : size_bytes / 3; /* two segments, so that the larger frames need extensions */
        struct iovec segments[2] = {{payload, first_bytes}, {payload + first_bytes, size_bytes - first_bytes}};
        rfaas_header header = {.kind = RFAAS_KIND_RESULT, .call_id = i};
        rfaas_rc rc = size_bytes <= 64 ? rfaas_channel_send(channel, &header, &(struct iovec){payload, size_bytes}, 1, NULL, 0, NULL)
                                      : rfaas_channel_send(channel, &header, segments, 2, NULL, 0, NULL);
        if (rc == RFAAS_QUEUED)
            sleep(channel); /* its descriptor tells when there is room */
        while (rc == RFAAS_QUEUED || rc == RFAAS_AGAIN || rc == RFAAS_MORE) {
            rc = rfaas_channel_poll(channel, BUDGET_BYTES, &unexpected);
            if (rc == RFAAS_CLOSED || rc == RFAAS_BROKEN)
                return;
            if (rfaas_channel_flush(channel, BUDGET_BYTES) == RFAAS_OK)
                break;
            if (rc == RFAAS_AGAIN)
                sleep(channel);
        }
        if (rc == RFAAS_BROKEN || rc == RFAAS_CLOSED)
            return;
        if (taken)
            rfaas_channel_array_give_back(channel, &array);
        if (n_whole != NULL)
            *n_whole = i;
    }
}

static uint64_t receive_frames(rfaas_channel *channel, uint64_t n_frames, void (*sleep)(rfaas_channel *channel))
{
    rfaas_frame frame;
    held_frame held[HELD] = {0};
    uint64_t n_got = 0, random = seed | 1;
    while (n_got < n_frames) {
        rfaas_rc rc = rfaas_channel_poll(channel, BUDGET_BYTES, &frame);
        if (rc == RFAAS_OK) {
            n_got++;
            keep(&held[draw(&random) % HELD], &frame, n_got); /* let go in any order */
            if (draw(&random) % 8 == 0)
                EXPECT(rfaas_channel_detach(channel) == RFAAS_OK);
        } else if (rc == RFAAS_AGAIN) {
            sleep(channel);
        } else if (rc != RFAAS_MORE) {
            break;
        }
    }
    for (int i = 0; i < HELD; i++)
        let_go(&held[i]);
    return n_got;
}

/* ---- kill ---- */

static void sleep_in_kernel(rfaas_channel *channel)
{
    struct pollfd entry = {.fd = rfaas_channel_fd(channel), .events = POLLIN};
    EXPECT(poll(&entry, 1, 20000) == 1); /* nobody sleeps for ever */
}

static void sleep_not(rfaas_channel *channel)
{
    (void)channel;
}

static void kill_round(uint64_t *state, _Atomic uint64_t *n_whole)
{
    enum { FRAMES = 120 };
    rfaas_channel *ours, *theirs;
    int fds[2], memory_fd = open_descriptors(fds), pool_fd = rfaas_array_pool_export();
    EXPECT(pool_fd >= 0);
    bool child_sends = draw(state) % 2, parent_is_left = draw(state) % 2, awake = draw(state) % 2;
    uint64_t after = 1 + draw(state) % 700;
    int side = parent_is_left ? 0 : 1;
    *n_whole = 0;
    pid_t child = fork();
    EXPECT(child >= 0);
    if (child == 0) {
        close(fds[side]);
        EXPECT(rfaas_shm_adopt(fds[1 - side], memory_fd, 1 - side, LIMIT_BYTES, &theirs) == RFAAS_OK);
        kill_after = after;
        if (side == 0)
            rfaas_shm_adopt_pool(theirs, pool_fd);
        rfaas_channel_stay_awake(theirs, awake);
        if (child_sends)
            send_frames(theirs, FRAMES, n_whole, awake ? sleep_not : sleep_in_kernel);
        else
            receive_frames(theirs, FRAMES, awake ? sleep_not : sleep_in_kernel);
        rfaas_channel_close(theirs); /* in order, if it was not killed before */
        raise(SIGKILL);
    }
    close(fds[1 - side]); /* it must not hold the socket open */
    close(pool_fd);
    EXPECT(rfaas_shm_adopt(fds[side], memory_fd, side, LIMIT_BYTES, &ours) == RFAAS_OK);
    if (child_sends) {
        uint64_t n_got = receive_frames(ours, FRAMES + 1, sleep_in_kernel);
        EXPECT(waitpid(child, NULL, 0) == child);
        EXPECT(n_got >= *n_whole);
    } else {
        send_frames(ours, FRAMES * 4, NULL, sleep_in_kernel);
        EXPECT(waitpid(child, NULL, 0) == child);
    }
    rfaas_channel_free(ours);
}

/* ---- schedules ---- */

static rfaas_channel *ends[2];
static uint64_t n_frames_of_schedule, idle_turns, n_received;

static bool stays_awake[2];

static void sleep_in_turns(rfaas_channel *channel)
{
    struct pollfd entry = {.fd = rfaas_channel_fd(channel), .events = POLLIN};
    bool awake = stays_awake[running];
    if (awake && rfaas_channel_stay_awake(channel, false)) {
        rfaas_channel_stay_awake(channel, true);
        return;
    }
    while (poll(&entry, 1, 0) == 0) {
        EXPECT(++idle_turns < IDLE_MAX); /* both sleep: a bell was lost */
        if (!side_done[1 - running])
            switch_side();
    }
    idle_turns = 0;
    if (awake)
        rfaas_channel_stay_awake(channel, true);
}

static void sending_side(void)
{
    send_frames(ends[0], n_frames_of_schedule, NULL, sleep_in_turns);
    side_done[0] = true;
    switch_side(); /* for good: returning from here would end the process */
}

static void schedules_round(uint64_t *state)
{
    static uint8_t stack[STACK_BYTES];
    bool swap = draw(state) % 2;
    open_pair(&ends[swap], &ends[!swap]);
    schedule = draw(state) | 1;
    switch_once_in = (uint64_t[]){2, 3, 10, 100, 1000}[draw(state) % 5]; /* one side far ahead, too */
    n_frames_of_schedule = 200;
    side_done[0] = side_done[1] = false;
    for (int i = 0; i < 2; i++) {
        stays_awake[i] = draw(state) % 2;
        rfaas_channel_stay_awake(ends[i], stays_awake[i]);
    }
    idle_turns = 0;
    EXPECT(getcontext(&sides[0]) == 0);
    sides[0].uc_stack.ss_sp = stack;
    sides[0].uc_stack.ss_size = sizeof stack;
    sides[0].uc_link = NULL;
    makecontext(&sides[0], sending_side, 0);
    running = 1; /* this function receives */
    switching = true;
    n_received = receive_frames(ends[1], n_frames_of_schedule, sleep_in_turns);
    EXPECT(n_received == n_frames_of_schedule);
    side_done[1] = true;
    switching = false;
    rfaas_channel_free(ends[0]);
    rfaas_channel_free(ends[1]);
}

/* ---- scribble ---- */

static void scribble_round(uint64_t *state)
{
    int fds[2], memory_fd = rfaas_shm_create(ARENA_BYTES);
    rfaas_channel *ours;
    rfaas_frame frame;
    size_t size_bytes = 2 * sizeof(rfaas_shm_shared);
    EXPECT(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    uint8_t *shared = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory_fd, 0);
    EXPECT(shared != MAP_FAILED);
    int side = (int)(draw(state) % 2);
    EXPECT(rfaas_shm_adopt(fds[0], memory_fd, side, LIMIT_BYTES, &ours) == RFAAS_OK);
    rfaas_shm_shared *theirs = (rfaas_shm_shared *)shared + (1 - side);
    for (int turn = 0; turn < 50; turn++) {
        /* A sequence number that is believed, before words that must not be. */
        for (int i = 0; i < RFAAS_SHM_ENTRIES; i++) {
            rfaas_shm_entry *entry = &theirs->entries[i];
            fill((uint8_t *)entry, sizeof *entry, draw(state));
            entry->kind = (uint32_t)(draw(state) % 6);
            if (draw(state) % 2)
                entry->size_bytes = (uint32_t)(draw(state) % 100);
            if (draw(state) % 2)
                entry->at = draw(state) % 2 ? 0 : draw(state) % 4 << 12;
            if (draw(state) % 2)
                entry->block = (uint32_t)(draw(state) % 300), entry->block_bytes = draw(state) % (2 * ARENA_BYTES);
            entry->sequence = (uint64_t)i + 1;
        }
        for (int i = 0; i < 20; i++)
            shared[draw(state) % size_bytes] = (uint8_t)draw(state);
        ((rfaas_shm_shared *)shared)[side].lines.consumed = draw(state);
        ((rfaas_shm_shared *)shared)[side].lines.consumed_bytes = draw(state);
        if (rfaas_channel_poll(ours, BUDGET_BYTES, &frame) == RFAAS_OK && frame.buffer != NULL)
            frame.memory.release(frame.memory.context, frame.buffer, frame.buffer_bytes);
        rfaas_header header = {.kind = RFAAS_KIND_RESULT, .call_id = 1};
        static uint8_t payload[100000];
        const struct iovec segment = {payload, draw(state) % sizeof payload};
        rfaas_channel_send(ours, &header, &segment, 1, NULL, 0, NULL);
    }
    munmap(shared, size_bytes);
    rfaas_channel_free(ours);
    close(fds[1]);
}

static void nothing_is_mapped(void)
{
    char line[512];
    FILE *maps = fopen("/proc/self/maps", "r");
    EXPECT(maps != NULL);
    while (fgets(line, sizeof line, maps) != NULL)
        EXPECT(strstr(line, "rfaas-channel") == NULL);
    fclose(maps);
}

int main(int argc, char **argv)
{
    EXPECT(argc == 4);
    uint64_t rounds = strtoull(argv[2], NULL, 10), state = strtoull(argv[3], NULL, 10) | 1;
    _Atomic uint64_t *n_whole = shared_page(4096);
    steps = shared_page(STEPS_MAX * sizeof *steps);
    if (strcmp(argv[1], "lies") == 0) {
        tell_lies();
        rounds = 0;
    } else if (strcmp(argv[1], "arrays") == 0) {
        test_arrays(true);
        rounds = 0;
    } else if (strcmp(argv[1], "loan") == 0) {
        test_loan(rounds);
        rounds = 0;
    } else {
        make_pool();
    }
    for (uint64_t i = 0; i < rounds; i++) {
        seed = draw(&state);
        uint64_t round_state = seed | 1;
        if (strcmp(argv[1], "kill") == 0)
            kill_round(&round_state, n_whole);
        else if (strcmp(argv[1], "schedules") == 0)
            schedules_round(&round_state);
        else
            scribble_round(&round_state);
    }
    nothing_is_mapped();
    for (int i = 0; i < STEPS_MAX && steps[i].name[0] != '\0'; i++)
        printf("%s %llu\n", steps[i].name, (unsigned long long)steps[i].hits);
    return 0;
}
