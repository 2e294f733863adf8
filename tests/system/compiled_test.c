/* The C of compiled functions alone, for the sanitizers: outputs of every size, both forms, the context, crashes.
 *
 * Says on stderr what is wrong, and ends with 1 then.
 */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "crash_words.h"
#include "isa_level.h"
#include "native_call.h"
#include "ticks.h"

#define CHECK(what)                                                                \
    do {                                                                           \
        if (!(what)) {                                                             \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #what);     \
            exit(1);                                                               \
        }                                                                          \
    } while (0)

enum { WORDS_BYTES = 2048, THREADS = 4, ASKS = 20000 };

static const uint64_t sizes[] = {1, 2, 63, 64, 65, 127, 4095, 4096, 4097, 100000, 3u << 20};
enum { N_SIZES = sizeof(sizes) / sizeof(sizes[0]) };

static int32_t echo(const void *in, uint64_t in_size, void *out, uint64_t *out_size, const rfaas_ctx *ctx) {
    CHECK(in != NULL && out != NULL && (uintptr_t)out % 64 == 0);
    CHECK(RFAAS_CTX_HAS(ctx, reclaimed) && ctx->abi_version == RFAAS_ABI_VERSION && ctx->size_bytes == sizeof(*ctx));
    if (in_size <= *out_size) memcpy(out, in, in_size);
    *out_size = in_size;
    return 0;
}

static int32_t leave(const void *in, uint64_t in_size, void *out, uint64_t *out_size, const rfaas_ctx *ctx) {
    (void)in, (void)in_size, (void)out_size, (void)ctx;
    *(char *)out = 'x';
    return 0;
}

/* Writes as many bytes behind its capacity as its input has; by a pointer that no compiler sees through. */
static int32_t overrun(const void *in, uint64_t in_size, void *out, uint64_t *out_size, const rfaas_ctx *ctx) {
    (void)in, (void)ctx;
    volatile char *at = (char *)out + *out_size;
    for (uint64_t n = 0; n < in_size; n++) at[n] = 'y';
    return 0;
}

static uint32_t old(void *args, uint32_t size, void *res) {
    memcpy(res, args, size);
    return size;
}

static rfaas_native of(rfaas_function_1 *function) {
    union {
        rfaas_function_1 *function;
        void *symbol;
    } entry = {.function = function};
    return (rfaas_native){entry.symbol, RFAAS_ABI_1, "f"};
}

static void every_size_is_exact(void) {
    static uint8_t given[(3u << 20) + 64];
    rfaas_ctx ctx = {0};
    const rfaas_native echoed = of(echo), left = of(leave);
    union {
        rfaas_function_0 *function;
        void *symbol;
    } entry = {.function = old};
    const rfaas_native olden = {entry.symbol, RFAAS_ABI_0, "old"};
    for (size_t n = 0; n < sizeof(given); n++) given[n] = (uint8_t)(n * 7);
    for (int i = 0; i < N_SIZES; i++) {
        rfaas_output output;
        CHECK(rfaas_output_map(sizes[i], &output) == 0);
        CHECK(output.capacity_bytes == sizes[i] && output.start + sizes[i] <= output.guard);
        CHECK(output.guard - (output.start + sizes[i]) < 64);
        rfaas_call_result result = rfaas_native_call(&echoed, given, sizes[i], &output, true, &ctx);
        CHECK(result.end == RFAAS_CALL_OK && result.out_bytes == sizes[i]);
        CHECK(memcmp(output.start, given, sizes[i]) == 0);
        result = rfaas_native_call(&echoed, given, sizes[i] + 1, &output, true, &ctx);
        CHECK(result.end == RFAAS_CALL_TOO_LARGE && result.out_bytes == sizes[i] + 1);
        result = rfaas_native_call(&echoed, NULL, 0, &output, true, &ctx);
        CHECK(result.end == RFAAS_CALL_OK && result.out_bytes == 0);
        result = rfaas_native_call(&left, NULL, 0, &output, true, &ctx);
        CHECK(result.end == RFAAS_CALL_OK && result.out_bytes == sizes[i]);
        result = rfaas_native_call(&left, NULL, 0, &output, false, &ctx);
        CHECK(result.end == RFAAS_CALL_UNSAID);
        result = rfaas_native_call(&olden, given, sizes[i], &output, true, &ctx);
        CHECK(result.end == RFAAS_CALL_OK && result.out_bytes == sizes[i]);
        result = rfaas_native_call(&olden, given, (uint64_t)1 << 32, &output, true, &ctx);
        CHECK(result.end == RFAAS_CALL_LARGE_INPUT);
        rfaas_output_shrink(&output, sizes[i] / 2);
        CHECK(rfaas_output_is_sound(&output));
        rfaas_output_unmap(&output);
        rfaas_output_unmap(&output);
    }
    rfaas_output none;
    CHECK(rfaas_output_map(UINT64_MAX, &none) != 0);
    CHECK(rfaas_output_map((uint64_t)1 << 62, &none) != 0);
}

static void one_output_serves_all_capacities(void) {
    rfaas_output output;
    CHECK(rfaas_output_map(sizes[N_SIZES - 1], &output) == 0);
    for (int i = N_SIZES - 1; i >= 0; i--) {
        const uint64_t capacity = sizes[(i * 7) % N_SIZES];
        CHECK(rfaas_output_fit(&output, capacity) && output.capacity_bytes == capacity);
        CHECK((uintptr_t)output.start % 64 == 0 && output.start + capacity <= output.guard);
        CHECK(output.guard - (output.start + capacity) < 64 && output.start >= (uint8_t *)output.map);
        memset(output.start, 'x', capacity);
        CHECK(rfaas_output_is_sound(&output));
    }
    CHECK(!rfaas_output_fit(&output, sizes[N_SIZES - 1] + 65536) && !rfaas_output_fit(&output, UINT64_MAX));
    rfaas_output_unmap(&output);
}

static void what_lies_behind_is_found_out(void) {
    static char given[64];
    rfaas_ctx ctx = {0};
    const rfaas_native function = of(overrun);
    for (uint64_t capacity = 1; capacity < 64; capacity++) {
        rfaas_output output;
        CHECK(rfaas_output_map(capacity, &output) == 0);
        for (uint64_t beyond = 1; beyond <= 64 - capacity; beyond += 7) {
            CHECK(rfaas_native_call(&function, given, beyond, &output, true, &ctx).end == RFAAS_CALL_OVERRUN);
            CHECK(rfaas_native_call(&function, given, 0, &output, true, &ctx).end == RFAAS_CALL_OK);
        }
        rfaas_output_unmap(&output);
    }
}

/* --- the notice ----------------------------------------------------------------------------- */

static int looks, answer;

static int look(void) {
    __atomic_add_fetch(&looks, 1, __ATOMIC_RELAXED);
    return __atomic_load_n(&answer, __ATOMIC_RELAXED);
}

static void *ask(void *about) {
    const rfaas_ctx *ctx = about;
    int told = 0;
    for (int n = 0; n < ASKS; n++) told |= ctx->reclaimed(ctx);
    return (void *)(intptr_t)told;
}

static int32_t ask_from_threads(const void *in, uint64_t in_size, void *out, uint64_t *out_size, const rfaas_ctx *ctx) {
    (void)in, (void)in_size, (void)out;
    pthread_t threads[THREADS];
    int told = 0;
    for (int n = 0; n < THREADS; n++) CHECK(pthread_create(&threads[n], NULL, ask, (void *)ctx) == 0);
    for (int n = 0; n < THREADS; n++) {
        void *one;
        pthread_join(threads[n], &one);
        told |= (int)(intptr_t)one;
    }
    *out_size = 0;
    return told;
}

static void threads_may_ask_for_the_notice(void) {
    rfaas_ctx ctx = {0};
    rfaas_output output;
    CHECK(rfaas_output_map(1, &output) == 0);
    const rfaas_native function = of(ask_from_threads);
    CHECK(rfaas_native_call(&function, NULL, 0, &output, true, &ctx).end == RFAAS_CALL_OK); /* nobody knows */
    rfaas_on_reclaimed(look);
    usleep(2000);
    CHECK(rfaas_native_call(&function, NULL, 0, &output, true, &ctx).end == RFAAS_CALL_OK);
    CHECK(looks > 0 && looks < THREADS * ASKS / 2);
    answer = 1;
    usleep(2000);
    CHECK(rfaas_native_call(&function, NULL, 0, &output, true, &ctx).value == 1);
    rfaas_output_unmap(&output);
}

/* --- crashes -------------------------------------------------------------------------------- */

static char *words;

/* Runs a function that crashes in a child; returns how that ended. */
static int crash(rfaas_function_1 *function, uint64_t in_size, uint64_t capacity) {
    memset(words, 0, WORDS_BYTES);
    const pid_t child = fork();
    if (child == 0) {
        static char given[1 << 20];
        rfaas_ctx ctx = {0};
        rfaas_output output;
        rfaas_native called = of(function);
        called.name = "a_function_with_a_name";
        if (rfaas_output_map(capacity, &output) != 0 || rfaas_crash_watch(words, WORDS_BYTES) != 0) _exit(9);
        rfaas_native_call(&called, given, in_size, &output, true, &ctx);
        _exit(8);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    return status;
}

static int32_t abort_it(const void *in, uint64_t in_size, void *out, uint64_t *out_size, const rfaas_ctx *ctx) {
    (void)in, (void)in_size, (void)out, (void)out_size, (void)ctx;
    abort();
}

static void a_crash_leaves_words(void) {
    words = mmap(NULL, WORDS_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(words != MAP_FAILED);
    int status = crash(overrun, 1 << 20, 1000);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    CHECK(strstr(words + 4, "a_function_with_a_name crashed with SIGSEGV: it went beyond its output") != NULL);
    CHECK(strstr(words + 4, "room for 1000 bytes") != NULL);
    uint32_t size;
    memcpy(&size, words, 4);
    CHECK(size == strlen(words + 4));
    status = crash(abort_it, 0, 1);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    CHECK(strstr(words + 4, "a_function_with_a_name crashed with SIGABRT") != NULL);
    munmap(words, WORDS_BYTES);
}

static uint64_t boot_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void rest(long for_ns) { nanosleep(&(struct timespec){0, for_ns}, NULL); }

enum { TRIES = 200, OFF_NS = 100000 }; /* a loaded machine takes the CPU away now and then, between any two lines */

static void learn_the_speed(rfaas_ticks *ticks) {
    for (int i = 0; i < TRIES && ticks->ns_a_tick == 0; i++) rest(6000000), rfaas_ticks_look(ticks);
    CHECK(ticks->ns_a_tick > 0);
}

static void ticks_tell_the_time(rfaas_ticks *ticks) {
    bool told = false;
    for (int i = 0; i < TRIES && !told; i++) {
        rfaas_ticks_look(ticks);
        const uint64_t before_ns = boot_now_ns(), now_ns = rfaas_ticks_now_ns(ticks), after_ns = boot_now_ns();
        told = now_ns + OFF_NS >= before_ns && now_ns <= after_ns + OFF_NS;
    }
    CHECK(told);
}

static void ticks_find_out_what_they_can_not_count(void) {
    rfaas_ticks ticks = {0};
    CHECK(rfaas_ticks_now_ns(&ticks) > 0); /* the clock's, before the first look */
    rfaas_ticks_look(&ticks);
    ticks_tell_the_time(&ticks);
    if (ticks.is_uneven) return;
    learn_the_speed(&ticks);
    ticks_tell_the_time(&ticks);
    ticks.at_ns -= 3000000000u; /* a night's sleep: the clock went on, the counter did not */
    ticks_tell_the_time(&ticks);
    learn_the_speed(&ticks);
    ticks.at_ticks += UINT64_C(1) << 62; /* it began anew */
    CHECK(rfaas_ticks_now_ns(&ticks) == ticks.at_ns); /* time stands still rather than going back */
    ticks_tell_the_time(&ticks);
}

int main(void) {
    ticks_find_out_what_they_can_not_count();
    every_size_is_exact();
    one_output_serves_all_capacities();
    what_lies_behind_is_found_out();
    threads_may_ask_for_the_notice();
    a_crash_leaves_words();
    CHECK(rfaas_isa_level() >= 0 && rfaas_isa_level() <= 4);
    return 0;
}
