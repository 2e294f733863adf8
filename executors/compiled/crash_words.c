#include "crash_words.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

enum { TEXT_BYTES_MAX = 400, NAME_BYTES_MAX = 120 };

static const int watched[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};
static const char *const names[] = {"SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT"};
enum { N_WATCHED = sizeof(watched) / sizeof(watched[0]) };

static struct sigaction before[N_WATCHED];
static uint8_t *words_at;
static uint32_t words_room_bytes;
static pid_t worker;

/* Of the function that runs; a handler in any thread reads them. */
static const char *volatile running;
static const uint8_t *volatile guard_at;
static volatile uint64_t capacity;

/* Text in the making; cut when it is full. */
struct text {
    char bytes[TEXT_BYTES_MAX];
    uint32_t n;
};

static void append(struct text *text, const char *what, size_t at_most) {
    for (; *what != '\0' && at_most > 0 && text->n < TEXT_BYTES_MAX; what++, at_most--) text->bytes[text->n++] = *what;
}

static void append_number(struct text *text, uint64_t number) {
    char digits[24];
    size_t at = sizeof(digits);
    digits[--at] = '\0';
    do {
        digits[--at] = (char)('0' + number % 10);
        number /= 10;
    } while (number != 0);
    append(text, digits + at, sizeof(digits));
}

static void say(int which, const void *address) {
    struct text text = {.n = 0};
    append(&text, "the compiled function ", SIZE_MAX);
    append(&text, running, NAME_BYTES_MAX);
    append(&text, " crashed with ", SIZE_MAX);
    append(&text, names[which], SIZE_MAX);
    const uintptr_t at = (uintptr_t)address, page = (uintptr_t)guard_at;
    if (watched[which] == SIGSEGV && at >= page && at < page + (uintptr_t)sysconf(_SC_PAGESIZE)) {
        append(&text, ": it went beyond its output, which has room for ", SIZE_MAX);
        append_number(&text, capacity);
        append(&text, " bytes; ask for more by out_size, or have it write less", SIZE_MAX);
    } else if (watched[which] == SIGILL) {
        append(&text, ": the library was built for instructions that this CPU lacks; build it for an older -march", SIZE_MAX);
    } else if (watched[which] == SIGSEGV || watched[which] == SIGBUS) {
        append(&text, ": it used memory that is not its own", SIZE_MAX);
    }
    const uint32_t n = text.n < words_room_bytes - 4 ? text.n : words_room_bytes - 4;
    memcpy(words_at + 4, text.bytes, n);
    memcpy(words_at, &n, sizeof(n));
}

static void on_crash(int signo, siginfo_t *info, void *machine) {
    (void)machine;
    for (int i = 0; i < N_WATCHED; i++) {
        if (watched[i] != signo) continue;
        const bool is_known = running != NULL;
        if (is_known && getpid() == worker) say(i, info->si_addr);
        /* Then what acted before would only tell Python's stack, which holds nothing of the user's. */
        const struct sigaction plain = {.sa_handler = SIG_DFL};
        sigaction(signo, is_known ? &plain : &before[i], NULL);
        /* What was sent, and not caused by an instruction, would not come again by itself. */
        if (info->si_code <= 0 || signo == SIGABRT) raise(signo);
    }
}

int rfaas_crash_watch(void *words, uint32_t room_bytes) {
    words_at = words;
    words_room_bytes = room_bytes;
    worker = getpid();
    for (int i = 0; i < N_WATCHED; i++) {
        struct sigaction ours = {.sa_sigaction = on_crash, .sa_flags = SA_SIGINFO | SA_ONSTACK};
        sigemptyset(&ours.sa_mask);
        if (sigaction(watched[i], &ours, &before[i]) != 0) return -1;
    }
    return 0;
}

void rfaas_crash_enter(const char *name, const void *guard, uint64_t capacity_bytes) {
    guard_at = guard;
    capacity = capacity_bytes;
    atomic_signal_fence(memory_order_seq_cst);
    running = name;
}

void rfaas_crash_leave(void) { running = NULL; }
