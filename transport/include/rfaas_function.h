/* What a compiled function looks like to rfaas, in C, C++ or anything that can be called from C.
 *
 *     #include <rfaas_function.h>
 *
 *     int32_t scale(const void *in, uint64_t in_size, void *out, uint64_t *out_size, const rfaas_ctx *ctx);
 *
 * Build it as a shared library (cc -O3 -fPIC -shared -o libkernel.so kernel.c -I$(python -c 'import rfaas; print(rfaas.get_include())'))
 * and call it by rfaas.native("libkernel.so", "scale") in Python. In C++ declare it extern "C". Nothing is linked: what is
 * below is types alone. Specification: docs/spec/001-invocation.md section 11; for people: docs/native.md.
 */
#ifndef RFAAS_FUNCTION_H
#define RFAAS_FUNCTION_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define RFAAS_ABI_VERSION 1

/* What a function may know of its call. The worker's, and valid until the function returns. Fields are added at the end
 * and never change: read one that came after version 1 only if RFAAS_CTX_HAS says that this worker has it. */
typedef struct rfaas_ctx rfaas_ctx;
struct rfaas_ctx {
    uint64_t size_bytes;       /* of this structure, as the worker knows it */
    uint32_t abi_version;      /* of the worker */
    uint32_t attempt;          /* dispatches of this invocation before this one; 0 the first time */
    uint8_t invocation_id[24]; /* the same in all attempts: an idempotency key */
    uint64_t deadline_ns;      /* on CLOCK_MONOTONIC: the worker is killed then; 0: there is no deadline */
    uint64_t lease_seq;        /* fencing token: (epoch, lease_seq), compared in that order, never falls on one slot; */
    uint64_t epoch;            /* attempts of one invocation are ordered by `attempt` */

    /* Not 0 once the cores go back to their owner: the function may use the grace that its site gives, and is killed
     * then. Costs some nanoseconds, and a system call once in a millisecond. From any thread of this process. */
    int (*reclaimed)(const rfaas_ctx *ctx);
};

/* Whether the worker's structure has a field. */
#define RFAAS_CTX_HAS(ctx, field) \
    ((ctx)->size_bytes >= offsetof(rfaas_ctx, field) + sizeof((ctx)->field))

/* A function of ABI rfaas-1.
 *
 * in, in_size     the input, read-only; begins on a multiple of 64, never null.
 * out, *out_size  room for the output and its size in bytes. Begins on a multiple of 64, never null; what it holds is not
 *                 specified. Set *out_size to the bytes that were written. To more than it was: nothing is returned, and the
 *                 caller is told how much would have been needed.
 * returns         0. Any other value is the function's error: the caller gets that value (in Python as
 *                 rfaas.FunctionError.value) and no output.
 *
 * Both buffers are the worker's; keep no pointer to them, or to ctx. A child by fork does not have the output. Writing
 * behind the output crashes the worker, and its caller is told why. One call at a time runs in a worker; static variables
 * stay from call to call. */
typedef int32_t rfaas_function_1(const void *in, uint64_t in_size, void *out, uint64_t *out_size, const rfaas_ctx *ctx);

/* A function of ABI rfaas-0, the form of the predecessor: returns the bytes that it wrote to `res`, and can't know how much
 * room there is. It may write to `args`. */
typedef uint32_t rfaas_function_0(void *args, uint32_t size, void *res);

#ifdef __cplusplus
}
#endif

#endif
