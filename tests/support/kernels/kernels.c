/* Functions of both forms for the tests of compiled functions: some right, most of them wrong in one way. */
#include <pthread.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <rfaas_function.h>

#define KERNEL(name)                                                                                               \
    int32_t name(const void *in, uint64_t in_size, void *out, uint64_t *out_size, const rfaas_ctx *ctx);           \
    int32_t name(const void *in, uint64_t in_size, void *out, uint64_t *out_size, const rfaas_ctx *ctx)

#define UNUSED ((void)in, (void)in_size, (void)out, (void)out_size, (void)ctx)

/* What came, as far as it fits; asks for more if it does not. */
KERNEL(echo) {
    UNUSED;
    if (in_size <= *out_size) memcpy(out, in, in_size);
    *out_size = in_size;
    return 0;
}

KERNEL(nothing) {
    UNUSED;
    *out_size = 0;
    return 0;
}

/* Leaves *out_size as it is: the whole output counts. */
KERNEL(fill) {
    UNUSED;
    if (*out_size < (1u << 20)) memset(out, 'x', *out_size);
    return 0;
}

/* The value of its first four bytes. */
KERNEL(fail) {
    UNUSED;
    int32_t value;
    memcpy(&value, in, sizeof(value));
    return value;
}

/* The pointers that it got, modulo 64, and whether one is null. */
KERNEL(pointers) {
    UNUSED;
    uint64_t *found = out;
    found[0] = (uintptr_t)in % 64;
    found[1] = (uintptr_t)out % 64;
    found[2] = in == NULL || out == NULL || ctx == NULL;
    *out_size = 24;
    return 0;
}

/* Its context as it was given. */
KERNEL(context) {
    UNUSED;
    memcpy(out, ctx, sizeof(*ctx));
    *out_size = sizeof(*ctx);
    return 0;
}

/* How often it was called here, and in which process. */
KERNEL(count) {
    UNUSED;
    static int64_t n;
    int64_t found[2] = {++n, getpid()};
    memcpy(out, found, sizeof(found));
    *out_size = sizeof(found);
    return 0;
}

/* Writes as many bytes behind its capacity as its input says (u64). */
KERNEL(overrun) {
    UNUSED;
    uint64_t n;
    memcpy(&n, in, sizeof(n));
    memset((char *)out + *out_size, 'y', n);
    return 0;
}

/* Makes the file that an input names. */
static void mark(const char *path, uint64_t size) {
    if (size == 0) return;
    char *name = strndup(path, size);
    FILE *file = fopen(name, "w");
    if (file != NULL) fclose(file);
    free(name);
}

/* Nanoseconds until it was told that the cores go back, ten seconds at most. */
KERNEL(until_reclaimed) {
    UNUSED;
    mark(in, in_size);
    struct timespec start, now;
    clock_gettime(CLOCK_MONOTONIC, &start);
    int64_t waited_ns = 0;
    while (!ctx->reclaimed(ctx) && waited_ns < 10000000000) {
        nanosleep(&(struct timespec){0, 1000000}, NULL);
        clock_gettime(CLOCK_MONOTONIC, &now);
        waited_ns = (now.tv_sec - start.tv_sec) * 1000000000 + now.tv_nsec - start.tv_nsec;
    }
    memcpy(out, &waited_ns, sizeof(waited_ns));
    *out_size = sizeof(waited_ns);
    return 0;
}

/* Prints, as C does. */
KERNEL(say) {
    UNUSED;
    printf("said by C: %.*s\n", (int)in_size, (const char *)in);
    *out_size = 0;
    return 0;
}

/* Prints what C keeps in its buffer. */
KERNEL(mutter) {
    UNUSED;
    printf("%.*s", (int)in_size, (const char *)in);
    *out_size = 0;
    return 0;
}

/* Runs for as many milliseconds as its input says (u64). */
KERNEL(doze) {
    UNUSED;
    uint64_t ms;
    memcpy(&ms, in, sizeof(ms));
    struct timespec left = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};
    while (nanosleep(&left, &left) != 0) continue;
    *out_size = 0;
    return 0;
}

/* --- what ends a worker --------------------------------------------------------------------- */

KERNEL(crash) {
    UNUSED;
    return *(volatile int32_t *)8;
}

KERNEL(illegal) {
    UNUSED;
    __builtin_trap();
}

KERNEL(abort_it) {
    UNUSED;
    abort();
}

KERNEL(exit_it) {
    UNUSED;
    exit(3);
}

KERNEL(exit_at_once) {
    UNUSED;
    _exit(4);
}

KERNEL(end_thread) {
    UNUSED;
    pthread_exit(NULL);
}

KERNEL(spin) {
    UNUSED;
    mark(in, in_size);
    for (volatile uint64_t n = 0;; n++) continue;
}

KERNEL(overflow) {
    UNUSED;
    volatile char here[4096];
    here[0] = (char)in_size;
    if (in_size == UINT64_MAX) return 0; /* never */
    return overflow(in, in_size + 1, out, out_size, ctx) + here[0];
}

/* Jumps to where a call before this one was. */
static jmp_buf before;
KERNEL(jump) {
    UNUSED;
    static int was_here;
    *out_size = 0;
    if (was_here) longjmp(before, 1);
    was_here = 1;
    if (setjmp(before) != 0) return 7;
    return 0;
}

KERNEL(close_all) {
    UNUSED;
    for (int fd = 3; fd < 1024; fd++) close(fd);
    *out_size = 0;
    return 0;
}

/* The child returns too. */
KERNEL(fork_it) {
    UNUSED;
    int64_t pid = fork();
    memcpy(out, &pid, sizeof(pid));
    *out_size = sizeof(pid);
    return 0;
}

/* --- the predecessor's form ----------------------------------------------------------------- */

uint32_t old_echo(void *args, uint32_t size, void *res);
uint32_t old_echo(void *args, uint32_t size, void *res) {
    memcpy(res, args, size);
    memset(args, 0, size);
    return size;
}

/* Says that it wrote more than it did. */
uint32_t old_boast(void *args, uint32_t size, void *res);
uint32_t old_boast(void *args, uint32_t size, void *res) {
    (void)args, (void)res;
    return size + 1000000;
}

int32_t a_variable = 1;
