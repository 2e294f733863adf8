#include "native_call.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <time.h>

#include "crash_words.h"

enum { LOOK_EVERY_NS = 1000000 };

static int (*look_for_notice)(void);
static _Atomic uint64_t next_look_ns;
static atomic_int is_reclaimed;
static _Alignas(64) uint8_t nothing[64]; /* what an empty input points to */

static int reclaimed(const rfaas_ctx *ctx) {
    (void)ctx;
    if (atomic_load_explicit(&is_reclaimed, memory_order_relaxed)) return 1;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    const uint64_t now_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    uint64_t due_ns = atomic_load_explicit(&next_look_ns, memory_order_relaxed);
    /* Of several threads that ask at the same time one looks. */
    if (now_ns < due_ns || look_for_notice == NULL ||
        !atomic_compare_exchange_strong(&next_look_ns, &due_ns, now_ns + LOOK_EVERY_NS))
        return 0;
    if (look_for_notice()) atomic_store_explicit(&is_reclaimed, 1, memory_order_relaxed);
    return atomic_load_explicit(&is_reclaimed, memory_order_relaxed);
}

void rfaas_on_reclaimed(int (*look)(void)) { look_for_notice = look; }

/* ABI rfaas-1. */
static rfaas_call_result call_1(rfaas_function_1 *function, const void *in, uint64_t in_size, rfaas_output *output,
                                bool bounded, rfaas_ctx *ctx) {
    rfaas_call_result result = {RFAAS_CALL_OK, 0, 0};
    uint64_t out_size = output->capacity_bytes;
    result.value = function(in, in_size, output->start, &out_size, ctx);
    if (result.value != 0)
        result.end = RFAAS_CALL_FUNCTION_ERROR;
    else if (out_size == output->capacity_bytes && !bounded)
        result.end = RFAAS_CALL_UNSAID;
    else
        result.out_bytes = out_size;
    return result;
}

/* ABI rfaas-0. */
static rfaas_call_result call_0(rfaas_function_0 *function, void *in, uint64_t in_size, rfaas_output *output) {
    rfaas_call_result result = {RFAAS_CALL_OK, 0, 0};
    if (in_size > UINT32_MAX)
        result.end = RFAAS_CALL_LARGE_INPUT;
    else
        result.out_bytes = function(in, (uint32_t)in_size, output->start);
    return result;
}

rfaas_call_result rfaas_native_call(const rfaas_native *function, void *in, uint64_t in_size, rfaas_output *output,
                                    bool bounded, rfaas_ctx *ctx) {
    ctx->size_bytes = sizeof(*ctx);
    ctx->abi_version = RFAAS_ABI_VERSION;
    ctx->reclaimed = reclaimed;
    atomic_store_explicit(&is_reclaimed, 0, memory_order_relaxed);
    if (in == NULL) in = nothing;
    rfaas_crash_enter(function->name, output->guard, output->capacity_bytes);
    /* Through a union: C knows no conversion between pointers to objects and to functions. */
    union {
        void *symbol;
        rfaas_function_1 *form_1;
        rfaas_function_0 *form_0;
    } entry = {.symbol = function->symbol};
    rfaas_call_result result = function->abi == RFAAS_ABI_0
                                   ? call_0(entry.form_0, in, in_size, output)
                                   : call_1(entry.form_1, in, in_size, output, bounded, ctx);
    if (__fpending(stdout) > 0) fflush(stdout); /* what it printed is its own, not the next call's */
    const bool is_sound = rfaas_output_is_sound(output); /* before: in a child that the function forked it crashes */
    rfaas_crash_leave();
    if (!is_sound)
        result.end = RFAAS_CALL_OVERRUN;
    else if (result.end == RFAAS_CALL_OK && result.out_bytes > output->capacity_bytes)
        result.end = RFAAS_CALL_TOO_LARGE;
    return result;
}
