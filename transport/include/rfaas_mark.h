/* Iteration marks: how a job tells the neighbour guard of its node that it goes on (docs/spec/012-marks.md).
 *
 *     #include <rfaas_mark.h>
 *     for (step = 0; step < steps; step++) { advance(); rfaas_mark(); }
 *
 * Header only, GNU C and C++, Linux; nothing to link, nothing of rfaas needs to run or be there. The first mark makes a
 * file of one page in /dev/shm (RFAAS_GUARD_MARKS_DIR: elsewhere, "none": nowhere); each further one writes 16 bytes of
 * memory, some 20 ns, mostly the clock. Where the page can't be made marks go nowhere, and nothing else changes.
 * The file goes when the process exits; one of a process that was killed is removed by the next of the same user.
 *
 * One thread of a process marks. A forked child that marks has a page of its own.
 */
#ifndef RFAAS_MARK_H
#define RFAAS_MARK_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifdef __cplusplus
extern "C" {
#endif

#define RFAAS_MARK_MAGIC "RFMARKS1"
#define RFAAS_MARK_STAMPS 32
#define RFAAS_MARK_PAGE_BYTES 4096

/* The page; its writer alone changes it. Readers take `count`, then stamps, then `count` again. */
typedef struct {
    char magic[8];                         /* written last: the page is whole */
    char program[32];                      /* for people, and for what is known of such programs; ends with a zero */
    char node[64];                         /* SLURMD_NODENAME, or empty; ends with a zero */
    uint64_t count;                        /* marks so far */
    uint64_t reserved[2];
    uint64_t stamps_ns[RFAAS_MARK_STAMPS]; /* CLOCK_MONOTONIC of mark i at i % RFAAS_MARK_STAMPS */
} rfaas_marks;

/* One of each in a program, however many sources include this. */
__attribute__((weak)) rfaas_marks *rfaas_mark_page_;
__attribute__((weak)) rfaas_marks rfaas_mark_nowhere_;
__attribute__((weak)) char rfaas_mark_path_[256];
__attribute__((weak)) int rfaas_mark_watches_;

/* End of marking: the file goes. A later mark begins anew. Called at exit. */
static inline void rfaas_mark_end(void) {
    if (rfaas_mark_page_ != NULL && rfaas_mark_page_ != &rfaas_mark_nowhere_)
        munmap(rfaas_mark_page_, RFAAS_MARK_PAGE_BYTES);
    if (rfaas_mark_path_[0] != 0)
        unlink(rfaas_mark_path_);
    rfaas_mark_path_[0] = 0;
    rfaas_mark_page_ = NULL;
}

static inline void rfaas_mark_in_child_(void) { /* the parent's page, file and lock are the parent's */
    if (rfaas_mark_page_ != NULL && rfaas_mark_page_ != &rfaas_mark_nowhere_)
        munmap(rfaas_mark_page_, RFAAS_MARK_PAGE_BYTES);
    rfaas_mark_path_[0] = 0;
    rfaas_mark_page_ = NULL;
}

/* Remove files of this user whose writers are dead: nobody holds their locks. */
static inline void rfaas_mark_sweep_(const char *directory) {
    char mine[32], path[512];
    DIR *entries = opendir(directory);
    if (entries == NULL)
        return;
    snprintf(mine, sizeof mine, "rfaas-mark-%u-", (unsigned)geteuid());
    for (struct dirent *entry; (entry = readdir(entries)) != NULL;) {
        if (strncmp(entry->d_name, mine, strlen(mine)) != 0)
            continue;
        snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
        int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
            continue;
        struct stat about; /* one without a size was just made, and its writer is about to lock it */
        if (fstat(fd, &about) == 0 && about.st_size > 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
            unlink(path);
        close(fd);
    }
    closedir(entries);
}

/* What the kernel calls this process. */
static inline void rfaas_mark_name_(char *name, size_t size) {
    int fd = open("/proc/self/comm", O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? 0 : read(fd, name, size - 1);
    if (fd >= 0)
        close(fd);
    name[length > 0 ? length - 1 : 0] = 0; /* the line's end */
}

/* Make the page. What fails leaves nothing behind, and marks go nowhere. */
static inline void rfaas_mark_begin_(void) {
    const char *directory = getenv("RFAAS_GUARD_MARKS_DIR"), *node = getenv("SLURMD_NODENAME");
    struct timespec now;
    rfaas_mark_page_ = &rfaas_mark_nowhere_;
    if (!rfaas_mark_watches_) {
        rfaas_mark_watches_ = 1;
        atexit(rfaas_mark_end);
        pthread_atfork(NULL, NULL, rfaas_mark_in_child_);
    }
    if (directory == NULL || directory[0] == 0)
        directory = "/dev/shm";
    if (strcmp(directory, "none") == 0)
        return;
    rfaas_mark_sweep_(directory);
    clock_gettime(CLOCK_MONOTONIC, &now);
    int length = snprintf(rfaas_mark_path_, sizeof rfaas_mark_path_, "%s/rfaas-mark-%u-%ld-%lld", directory,
                          (unsigned)geteuid(), (long)getpid(), (long long)now.tv_sec * 1000000000LL + now.tv_nsec);
    int fd = length < (int)sizeof rfaas_mark_path_
                 ? open(rfaas_mark_path_, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644)
                 : -1;
    if (fd < 0) {
        rfaas_mark_path_[0] = 0;
        return;
    }
    /* The lock says that the writer lives, in any PID namespace; it stays with the open file, so that is never closed. */
    void *page = MAP_FAILED;
    if (flock(fd, LOCK_EX) == 0 && fchmod(fd, 0644) == 0 && ftruncate(fd, RFAAS_MARK_PAGE_BYTES) == 0)
        page = mmap(NULL, RFAAS_MARK_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (page == MAP_FAILED) {
        unlink(rfaas_mark_path_);
        close(fd);
        rfaas_mark_path_[0] = 0;
        return;
    }
    rfaas_marks *marks = (rfaas_marks *)page;
    rfaas_mark_name_(marks->program, sizeof marks->program);
    snprintf(marks->node, sizeof marks->node, "%s", node == NULL ? "" : node);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    memcpy(marks->magic, RFAAS_MARK_MAGIC, sizeof marks->magic);
    rfaas_mark_page_ = marks;
}

/* An iteration is done. Never blocks and never fails; errno is as before. */
static inline void rfaas_mark(void) {
    struct timespec now;
    if (__builtin_expect(rfaas_mark_page_ == NULL, 0)) {
        int before = errno;
        rfaas_mark_begin_();
        errno = before;
    }
    rfaas_marks *page = rfaas_mark_page_;
    uint64_t count = page->count;
    clock_gettime(CLOCK_MONOTONIC, &now);
    page->stamps_ns[count % RFAAS_MARK_STAMPS] = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    __atomic_store_n(&page->count, count + 1, __ATOMIC_RELEASE);
}

#ifdef __cplusplus
}
#endif
#endif
