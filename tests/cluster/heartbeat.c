/* An executor that writes down how long it lived: the last time it was running, in a page that outlives it.
 *
 *   heartbeat FILE [forks]    write CLOCK_BOOTTIME (ns) to FILE's first 8 bytes as often as it can; ignores SIGTERM. With
 *                             "forks" a child does the same and forks a successor every 2 ms, for ever.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void beat(_Atomic int64_t *page, int64_t until_ns)
{
    while (until_ns == 0 || now_ns() < until_ns)
        atomic_store(page, now_ns());
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return 2;
    int fd = open(argv[1], O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, 4096) != 0) {
        perror(argv[1]);
        return 1;
    }
    _Atomic int64_t *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED)
        return 1;
    signal(SIGTERM, SIG_IGN);
    signal(SIGCHLD, SIG_IGN);
    if (argc == 2)
        beat(page, 0);
    while (fork() == 0) /* each leaves its place to its child */
        beat(page, now_ns() + 2000000);
    return 0;
}
