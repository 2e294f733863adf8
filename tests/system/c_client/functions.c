/* functions.c - a function for the test program: says that it runs, by a file, and takes its time. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <rfaas_function.h>

int32_t touch_and_doze(const void *in, uint64_t in_size, void *out, uint64_t *out_size, const rfaas_ctx *ctx);

/* In: milliseconds (u64), then a path with its zero. The file is made by the first who runs only: others are at once done. */
int32_t touch_and_doze(const void *in, uint64_t in_size, void *out, uint64_t *out_size, const rfaas_ctx *ctx)
{
    (void)in_size;
    (void)out;
    (void)ctx;
    uint64_t ms;
    memcpy(&ms, in, sizeof ms);
    *out_size = 0;
    int fd = open((const char *)in + sizeof ms, O_CREAT | O_EXCL | O_WRONLY, 0600);
    if (fd < 0)
        return errno == EEXIST ? 0 : errno;
    close(fd);
    struct timespec left = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};
    while (nanosleep(&left, &left) != 0)
        ;
    return 0;
}
