#include "fork_mark.h"

#include <stddef.h>
#include <sys/mman.h>
#include <unistd.h>

/* A page that the kernel empties in every child that gets a copy of it (Linux 4.14); elsewhere the pid has to do. */
static volatile unsigned char *mark;
static pid_t marked_pid; /* 0: the page tells */

int rfaas_mark_process(void)
{
    size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    if (mark == NULL) {
        void *page = mmap(NULL, page_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (page == MAP_FAILED)
            return -1;
        mark = page;
        if (madvise(page, page_bytes, MADV_WIPEONFORK) != 0)
            marked_pid = getpid();
    }
    if (marked_pid != 0)
        marked_pid = getpid();
    *mark = 1;
    return 0;
}

bool rfaas_is_marked_process(void)
{
    if (mark == NULL)
        return true;
    return *mark != 0 && (marked_pid == 0 || marked_pid == getpid());
}
