/* Calling a compiled function: what it gets, what is made of what it returns. Knows neither Python nor channels.
 *
 * For the worker's main thread, one call at a time. docs/spec/001-invocation.md section 11.
 */
#ifndef RFAAS_NATIVE_CALL_H
#define RFAAS_NATIVE_CALL_H

#include <stdbool.h>
#include <stdint.h>

#include "output.h"
#include "rfaas_function.h"

typedef enum { RFAAS_ABI_1 = 1, RFAAS_ABI_0 = 0 } rfaas_abi;

typedef struct {
    void *symbol;
    rfaas_abi abi;
    const char *name; /* for people */
} rfaas_native;

/* How a call ended. */
typedef enum {
    RFAAS_CALL_OK,
    RFAAS_CALL_FUNCTION_ERROR, /* `value` */
    RFAAS_CALL_TOO_LARGE,      /* `out_bytes` were needed */
    RFAAS_CALL_LARGE_INPUT,    /* not called: this form takes less than 4 GiB */
    RFAAS_CALL_UNSAID,         /* the capacity was without limit, and it did not say what it wrote */
    RFAAS_CALL_OVERRUN,        /* it wrote behind its capacity */
} rfaas_call_end;

typedef struct {
    rfaas_call_end end;
    int32_t value;
    uint64_t out_bytes;
} rfaas_call_result;

/* Call it. `ctx` has all but `size_bytes`, `abi_version` and `reclaimed`, which are filled in. `bounded`: the caller named a
 * capacity. `output` is mapped, and its first `out_bytes` are the output afterwards. */
rfaas_call_result rfaas_native_call(const rfaas_native *function, void *in, uint64_t in_size, rfaas_output *output,
                                    bool bounded, rfaas_ctx *ctx);

/* Who knows whether the cores go back: asked once in a millisecond at most by a function that asks, from any thread. Not 0:
 * they do, and it is not asked again until `rfaas_native_call`. */
void rfaas_on_reclaimed(int (*look)(void));

#endif
