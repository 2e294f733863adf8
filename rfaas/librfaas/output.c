/* output.c - what functions print, on this program's own streams. Spec: 004 section 3, `output`. */
#include <errno.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "client.h"

/* write() without a SIGPIPE, which would end a program for what a function printed. */
static ssize_t write_quietly(int fd, const void *bytes, size_t size_bytes)
{
    const struct timespec at_once = {0, 0};
    sigset_t pipe, pending, before;
    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    bool was_pending = sigpending(&pending) == 0 && sigismember(&pending, SIGPIPE) == 1;
    pthread_sigmask(SIG_BLOCK, &pipe, &before);
    ssize_t n = write(fd, bytes, size_bytes);
    int error = errno;
    while (n < 0 && error == EPIPE && !was_pending && sigtimedwait(&pipe, NULL, &at_once) < 0 && errno == EINTR)
        continue;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = error;
    return n;
}

void output_show(const pack_value *message)
{
    pack_value data = pack_find(message, "data"), stream = pack_find(message, "stream");
    int fd = pack_as_unsigned(&stream, 1) == 2 ? STDERR_FILENO : STDOUT_FILENO;
    for (uint64_t at = 0; data.kind == PACK_BYTES && at < data.size;) {
        ssize_t n = write_quietly(fd, data.data + at, data.size - at);
        if (n == 0 || (n < 0 && errno != EINTR))
            break; /* nobody reads it, or would only later: output is no reason to wait */
        at += n > 0 ? (uint64_t)n : 0;
    }
}
