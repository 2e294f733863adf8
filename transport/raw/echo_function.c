/* echo_function.c - compiled functions that `rfaas bench` and benchmarks/ call. */
#include <rfaas_function.h>

#include <string.h>
#include <unistd.h>

#define CALLED(name)                                                                                                   \
    __attribute__((visibility("default"))) int32_t name(const void *in, uint64_t in_size, void *out,                   \
                                                        uint64_t *out_size, const rfaas_ctx *ctx)

CALLED(echo);
CALLED(process_id);

/* Gives back what came. */
int32_t echo(const void *in, uint64_t in_size, void *out, uint64_t *out_size, const rfaas_ctx *ctx)
{
    (void)ctx;
    if (in_size <= *out_size)
        memcpy(out, in, in_size);
    *out_size = in_size;
    return 0;
}

/* The process that runs it, as int64_t: for pinning it. */
int32_t process_id(const void *in, uint64_t in_size, void *out, uint64_t *out_size, const rfaas_ctx *ctx)
{
    (void)in, (void)in_size, (void)ctx;
    const int64_t pid = getpid();
    if (*out_size >= sizeof pid)
        memcpy(out, &pid, sizeof pid);
    *out_size = sizeof pid;
    return 0;
}
