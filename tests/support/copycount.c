/* copycount.c - counts what a process copies, by being loaded before everything else (LD_PRELOAD).
 *
 * Sums the bytes of calls of at least 4 KiB: copies in memory (memcpy, memmove and their checked forms), to the kernel
 * (send, sendto, sendmsg, write, writev) and from it (recv, recvfrom, recvmsg, read, readv). Of system calls, what they
 * say they moved. Not counted: loops of the caller's own (numpy's, where types or strides differ), copies that a compiler
 * put inline (short ones of known size), and what the kernel does by itself.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

enum { LEAST_BYTES = 4096 };
enum copied { IN_MEMORY, TO_KERNEL, FROM_KERNEL, N_KINDS };

static _Atomic uint64_t counted[N_KINDS];

void copycount_reset(void)
{
    for (int i = 0; i < N_KINDS; i++)
        atomic_store(&counted[i], 0);
}

uint64_t copycount_read(int kind)
{
    return atomic_load(&counted[kind]);
}

static void count(enum copied kind, ssize_t size_bytes)
{
    if (size_bytes >= LEAST_BYTES)
        atomic_fetch_add_explicit(&counted[kind], (uint64_t)size_bytes, memory_order_relaxed);
}

/* ---- memory: by the string instruction, so that nothing here calls what it replaces ---- */

static void forwards(void *to, const void *from, size_t size_bytes)
{
#if defined(__x86_64__)
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size_bytes) : : "memory");
#else
    volatile unsigned char *out = to;
    const volatile unsigned char *in = from;
    for (size_t i = 0; i < size_bytes; i++)
        out[i] = in[i];
#endif
}

void *memcpy(void *restrict to, const void *restrict from, size_t size_bytes)
{
    count(IN_MEMORY, (ssize_t)size_bytes);
    forwards(to, from, size_bytes);
    return to;
}

void *memmove(void *to, const void *from, size_t size_bytes)
{
    count(IN_MEMORY, (ssize_t)size_bytes);
    if ((uintptr_t)to - (uintptr_t)from >= size_bytes) {
        forwards(to, from, size_bytes);
        return to;
    }
    volatile unsigned char *out = to;
    const volatile unsigned char *in = from;
    while (size_bytes-- > 0)
        out[size_bytes] = in[size_bytes];
    return to;
}

void *__memcpy_chk(void *restrict to, const void *restrict from, size_t size_bytes, size_t room_bytes)
{
    if (room_bytes < size_bytes)
        __builtin_trap();
    return memcpy(to, from, size_bytes);
}

void *__memmove_chk(void *to, const void *from, size_t size_bytes, size_t room_bytes)
{
    if (room_bytes < size_bytes)
        __builtin_trap();
    return memmove(to, from, size_bytes);
}

/* ---- the kernel ---- */

#define NEXT(name)                              \
    static __typeof__(&name) next;              \
    if (next == NULL)                           \
        *(void **)&next = dlsym(RTLD_NEXT, #name)

#define MOVES(kind, name, parameters, arguments) \
    ssize_t name parameters                      \
    {                                            \
        NEXT(name);                              \
        ssize_t n = next arguments;              \
        count(kind, n);                          \
        return n;                                \
    }

MOVES(TO_KERNEL, send, (int fd, const void *data, size_t size, int flags), (fd, data, size, flags))
MOVES(TO_KERNEL, sendto, (int fd, const void *data, size_t size, int flags, const struct sockaddr *to, socklen_t room),
      (fd, data, size, flags, to, room))
MOVES(TO_KERNEL, sendmsg, (int fd, const struct msghdr *message, int flags), (fd, message, flags))
MOVES(TO_KERNEL, write, (int fd, const void *data, size_t size), (fd, data, size))
MOVES(TO_KERNEL, writev, (int fd, const struct iovec *pieces, int n_pieces), (fd, pieces, n_pieces))
MOVES(FROM_KERNEL, recv, (int fd, void *data, size_t size, int flags), (fd, data, size, flags))
MOVES(FROM_KERNEL, recvfrom,
      (int fd, void *restrict data, size_t size, int flags, struct sockaddr *restrict from, socklen_t *restrict room),
      (fd, data, size, flags, from, room))
MOVES(FROM_KERNEL, recvmsg, (int fd, struct msghdr *message, int flags), (fd, message, flags))
MOVES(FROM_KERNEL, read, (int fd, void *data, size_t size), (fd, data, size))
MOVES(FROM_KERNEL, readv, (int fd, const struct iovec *pieces, int n_pieces), (fd, pieces, n_pieces))
