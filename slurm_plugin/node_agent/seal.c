#include "seal.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
enum { X32_BIT = 0x40000000 };
static const uint32_t OUR_ARCH = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
static const uint32_t OUR_ARCH = AUDIT_ARCH_AARCH64;
#elif defined(__powerpc64__) && defined(__LITTLE_ENDIAN__)
static const uint32_t OUR_ARCH = AUDIT_ARCH_PPC64LE;
#elif defined(__riscv) && __riscv_xlen == 64
static const uint32_t OUR_ARCH = AUDIT_ARCH_RISCV64;
#else
#error "name this machine's AUDIT_ARCH: without it a hearer can't be told what it may ask of the kernel"
#endif

/* What reading one credential, asking munged over a socket and checking one signature take; all else is EPERM. No open. */
static const int ALLOWED[] = {
    SYS_read, SYS_write, SYS_readv, SYS_writev, SYS_recvfrom, SYS_sendto, SYS_recvmsg, SYS_sendmsg, SYS_connect,
    SYS_getsockopt, SYS_setsockopt, SYS_shutdown, SYS_close, SYS_fcntl, SYS_ppoll, SYS_pselect6, SYS_fstat, SYS_lseek,
    SYS_newfstatat, SYS_getpid, SYS_gettid, SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid, SYS_getrandom,
    SYS_clock_gettime, SYS_clock_nanosleep, SYS_nanosleep, SYS_gettimeofday, SYS_mmap, SYS_munmap, SYS_mremap,
    SYS_mprotect, SYS_madvise, SYS_brk, SYS_futex, SYS_sched_yield, SYS_restart_syscall, SYS_rt_sigaction,
    SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_sigaltstack, SYS_exit, SYS_exit_group,
#ifdef SYS_poll
    SYS_poll,
#endif
#ifdef SYS_select
    SYS_select,
#endif
#ifdef SYS_stat
    SYS_stat, SYS_lstat,
#endif
#ifdef SYS_time
    SYS_time,
#endif
};

enum { N_ALLOWED = sizeof ALLOWED / sizeof ALLOWED[0], MOST_STEPS = 12 + 2 * N_ALLOWED };

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define SAME(value, then, otherwise) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (value), (then), (otherwise))
#define ANSWER(action) BPF_STMT(BPF_RET | BPF_K, (action))
static const uint32_t REFUSE = SECCOMP_RET_ERRNO | EPERM;

/* The filter's steps; returns how many there are. */
static unsigned short write_filter(struct sock_filter step[MOST_STEPS])
{
    unsigned short count = 0;
    step[count++] = (struct sock_filter)LOAD(arch);
    step[count++] = (struct sock_filter)SAME(OUR_ARCH, 1, 0);
    step[count++] = (struct sock_filter)ANSWER(SECCOMP_RET_KILL_PROCESS);
    step[count++] = (struct sock_filter)LOAD(nr);
#ifdef __x86_64__
    step[count++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, X32_BIT, 0, 1);
    step[count++] = (struct sock_filter)ANSWER(REFUSE);
#endif
    for (int i = 0; i < N_ALLOWED; i++) {
        step[count++] = (struct sock_filter)SAME((uint32_t)ALLOWED[i], 0, 1);
        step[count++] = (struct sock_filter)ANSWER(SECCOMP_RET_ALLOW);
    }
    step[count++] = (struct sock_filter)SAME(SYS_socket, 1, 0);
    step[count++] = (struct sock_filter)ANSWER(REFUSE);
    /* A domain is an int: its low half is all that the kernel reads. Every machine above is little-endian. */
    step[count++] = (struct sock_filter)LOAD(args[0]);
    step[count++] = (struct sock_filter)SAME(AF_UNIX, 0, 1);
    step[count++] = (struct sock_filter)ANSWER(SECCOMP_RET_ALLOW);
    step[count++] = (struct sock_filter)ANSWER(REFUSE);
    return count;
}

const char *seal_unbind(void)
{
    for (int capability = 0; prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; capability++)
        if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0)
            return "bounding_set";
    return prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) == 0 ? NULL : "ambient_set";
}

static const char *drop_sets(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct sets[2];
    memset(sets, 0, sizeof sets);
    return syscall(SYS_capset, &header, sets) == 0 ? NULL : "capabilities";
}

const char *seal_hearer(const char *folder)
{
    if (chroot(folder) != 0 || chdir("/") != 0)
        return "root directory";
    const char *stayed = seal_unbind();
    if (!stayed)
        stayed = drop_sets();
    if (stayed)
        return stayed;
    struct sock_filter steps[MOST_STEPS];
    struct sock_fprog filter = {.len = write_filter(steps), .filter = steps};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return "no_new_privs";
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter, 0, 0) == 0 ? NULL : "system calls (seccomp)";
}
