/* v2: one write to cgroup.kill, or SIGKILL to the frozen where the kernel is older than 5.14.
 * v1: a frozen task does not die before it is thawed; but while all are frozen none forks and none ends, so the list of
 * pids is complete and none of them can name another process. Without a freezer pids.max = 0 stops the forks instead. */
#include "end_cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "deadline.h"

#define MOUNT "/sys/fs/cgroup"
#define DEEPEST 16
#define FREEZE_MS 20 /* what cannot be frozen so soon is killed unfrozen */
#define LOOK_MS 1

/* Where executors may be; the freezer first, since what is frozen can't escape. */
static const char *const hierarchies[] = {"", "unified", "freezer", "pids", "memory", "cpu", "cpu,cpuacct", "cpuset"};

static bool write_file(int cgroup, const char *name, const char *text)
{
    int fd = openat(cgroup, name, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t size = (ssize_t)strlen(text);
    bool written = write(fd, text, (size_t)size) == size;
    close(fd);
    return written;
}

/* The beginning of a file as a string, empty if it can't be read. */
static void read_file(int cgroup, const char *name, char *text, size_t size)
{
    int fd = openat(cgroup, name, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, text, size - 1);
    if (fd >= 0)
        close(fd);
    text[length > 0 ? length : 0] = '\0';
}

static bool file_has(int cgroup, const char *name, const char *words)
{
    char text[512];
    read_file(cgroup, name, text, sizeof text);
    return strstr(text, words) != NULL;
}

/* Signal each process of one cgroup, 0: only count. A pid that this namespace has no number for reads as 0: never
 * signalled, since kill(0) is for our own group. */
static int signal_here(int cgroup, int signum)
{
    int fd = openat(cgroup, "cgroup.procs", O_RDONLY | O_CLOEXEC), count = 0;
    FILE *file = fd < 0 ? NULL : fdopen(fd, "r");
    if (file == NULL) {
        if (fd >= 0)
            close(fd);
        return 0;
    }
    for (int pid; fscanf(file, "%d", &pid) == 1; count++)
        if (pid > 1 && signum != 0)
            kill(pid, signum);
    fclose(file);
    return count;
}

/* The same in a cgroup and all below it. */
static int signal_all(int cgroup, int signum, int depth)
{
    int count = signal_here(cgroup, signum);
    int again = depth < DEEPEST ? openat(cgroup, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    DIR *entries = again < 0 ? NULL : fdopendir(again);
    if (entries == NULL) {
        if (again >= 0)
            close(again);
        return count;
    }
    for (struct dirent *entry; (entry = readdir(entries)) != NULL;) {
        if (entry->d_type != DT_DIR || entry->d_name[0] == '.')
            continue;
        int below = openat(dirfd(entries), entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (below >= 0) {
            count += signal_all(below, signum, depth + 1);
            close(below);
        }
    }
    closedir(entries);
    return count;
}

static bool is_empty_until(int cgroup, int64_t deadline_ms)
{
    while (signal_all(cgroup, 0, 0) != 0) {
        if (rfaas_left_ms(deadline_ms) == 0)
            return false;
        rfaas_pause_ms(LOOK_MS);
    }
    return true;
}

static void wait_for(int cgroup, const char *file, const char *words, int64_t deadline_ms)
{
    while (!file_has(cgroup, file, words) && rfaas_left_ms(deadline_ms) > 0)
        rfaas_pause_ms(LOOK_MS);
}

/* One round against what lives there; the kernel or the next round does the rest. */
static void strike(int cgroup)
{
    if (write_file(cgroup, "cgroup.kill", "1"))
        return;
    int64_t frozen_by_ms = rfaas_now_ms() + FREEZE_MS;
    if (write_file(cgroup, "cgroup.freeze", "1")) { /* what is frozen dies of SIGKILL at once */
        wait_for(cgroup, "cgroup.events", "frozen 1", frozen_by_ms);
        signal_all(cgroup, SIGKILL, 0);
        write_file(cgroup, "cgroup.freeze", "0");
    } else if (write_file(cgroup, "freezer.state", "FROZEN")) {
        wait_for(cgroup, "freezer.state", "FROZEN", frozen_by_ms);
        signal_all(cgroup, SIGKILL, 0);
        write_file(cgroup, "freezer.state", "THAWED");
    } else {
        char limit[32];
        read_file(cgroup, "pids.max", limit, sizeof limit);
        write_file(cgroup, "pids.max", "0");
        signal_all(cgroup, SIGKILL, 0);
        is_empty_until(cgroup, frozen_by_ms);
        write_file(cgroup, "pids.max", limit);
    }
}

static rfaas_cgroup_end end_one(int cgroup, int64_t deadline_ms)
{
    if (signal_all(cgroup, 0, 0) == 0)
        return RFAAS_CGROUP_ABSENT;
    do
        strike(cgroup);
    while (!is_empty_until(cgroup, rfaas_now_ms() + FREEZE_MS) && rfaas_left_ms(deadline_ms) > 0);
    return is_empty_until(cgroup, 0) ? RFAAS_CGROUP_ENDED : RFAAS_CGROUP_ALIVE;
}

rfaas_cgroup_end rfaas_end_cgroup(const char *name, int64_t deadline_ms)
{
    rfaas_cgroup_end worst = RFAAS_CGROUP_ABSENT;
    for (size_t i = 0; i < sizeof hierarchies / sizeof *hierarchies; i++) {
        char path[512];
        snprintf(path, sizeof path, MOUNT "/%s/%s", hierarchies[i], name);
        int cgroup = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (cgroup < 0)
            continue;
        rfaas_cgroup_end end = end_one(cgroup, deadline_ms);
        worst = end > worst ? end : worst;
        close(cgroup);
    }
    return worst;
}
