#include "cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <time.h>
#include <unistd.h>

enum { PATH_BYTES = 640 };

/* What each hierarchy of version 1 is for; the first, which ends a slice, can't be done without. */
static const char *const KINDS[HIERARCHIES] = {"freezer", "memory", "pids", "cpuset", "cpu"};

static bool put(const char *folder, const char *file, const char *value)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/%s", folder, file);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    size_t length = strlen(value);
    bool done = write(fd, value, length) == (ssize_t)length;
    int error = errno;
    close(fd);
    errno = error;
    return done;
}

static bool get(const char *folder, const char *file, char *text, size_t room)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/%s", folder, file);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t size = read(fd, text, room - 1);
    close(fd);
    text[size > 0 ? size : 0] = '\0';
    text[strcspn(text, "\n")] = '\0';
    return size >= 0;
}

static void path_of(const struct cgroups *groups, int i, const char *name, char path[PATH_BYTES])
{
    snprintf(path, PATH_BYTES, "%s/%s", groups->parent[i], name);
}

static bool make(const char *path)
{
    return mkdir(path, 0755) == 0 || errno == EEXIST;
}

void cgroup_cpu_text(const cpu_set_t *cpus, char *text, size_t room)
{
    size_t at = 0;
    text[0] = '\0';
    for (int cpu = 0; cpu < CPU_SETSIZE && at + 8 < room; cpu++)
        if (CPU_ISSET(cpu, cpus))
            at += (size_t)snprintf(text + at, room - at, "%s%d", at ? "," : "", cpu);
}

static bool open_unified(struct cgroups *groups, const struct config *config, char *why, size_t room)
{
    groups->unified = true;
    groups->count = 1;
    snprintf(groups->parent[0], sizeof groups->parent[0], "%s/%s", config->cgroup_mount, config->cgroup);
    static const char *const needed[] = {"+memory", "+pids", "+cpu", "+cpuset"};
    for (int i = 0; i < 4; i++)
        put(config->cgroup_mount, "cgroup.subtree_control", needed[i]);
    if (!make(groups->parent[0])) {
        snprintf(why, room, "%s: %s", groups->parent[0], strerror(errno));
        return false;
    }
    for (int i = 0; i < 4; i++)
        if (!put(groups->parent[0], "cgroup.subtree_control", needed[i]) && i < 2 && config->limits) {
            snprintf(why, room, "%s has no controller %s: mount cgroup v2 with it", config->cgroup_mount, needed[i] + 1);
            return false;
        }
    return true;
}

static bool open_separate(struct cgroups *groups, const struct config *config, char *why, size_t room)
{
    groups->unified = false;
    groups->count = 0;
    for (int i = 0; i < HIERARCHIES; i++) {
        char mounted[PATH_BYTES], inherited[256], *parent = groups->parent[groups->count];
        snprintf(mounted, sizeof mounted, "%s/%s", config->cgroup_mount, KINDS[i]);
        snprintf(parent, sizeof groups->parent[0], "%s/%s/%s", config->cgroup_mount, KINDS[i], config->cgroup);
        struct statfs about;
        bool there = statfs(mounted, &about) == 0 && about.f_type == CGROUP_SUPER_MAGIC;
        if (!there || !make(parent)) {
            bool optional = i > 2 || (i > 0 && !config->limits);
            if (optional)
                continue;
            snprintf(why, room, "%s: no control group can be made: mount cgroup v1 %s, or v2", parent, KINDS[i]);
            return false;
        }
        if (strcmp(KINDS[i], "cpuset") == 0) { /* empty ones take no process */
            static const char *const files[] = {"cpuset.cpus", "cpuset.mems"};
            for (int k = 0; k < 2; k++)
                if (get(mounted, files[k], inherited, sizeof inherited))
                    put(parent, files[k], inherited);
        }
        snprintf(groups->kind[groups->count++], sizeof groups->kind[0], "%s", KINDS[i]);
    }
    return true;
}

bool cgroups_open(struct cgroups *groups, const struct config *config, char *why, size_t room)
{
    struct statfs about;
    if (statfs(config->cgroup_mount, &about) != 0) {
        snprintf(why, room, "%s: %s", config->cgroup_mount, strerror(errno));
        return false;
    }
    return about.f_type == CGROUP2_SUPER_MAGIC ? open_unified(groups, config, why, room)
                                               : open_separate(groups, config, why, room);
}

static bool limit_unified(const char *path, const struct cgroup_limits *limits, bool required)
{
    char value[1024];
    put(path, "memory.swap.max", "0");
    put(path, "cpu.weight", "1");
    snprintf(value, sizeof value, "%u 100000", (unsigned)CPU_COUNT(&limits->cpus) * 100000);
    put(path, "cpu.max", value);
    cgroup_cpu_text(&limits->cpus, value, sizeof value);
    put(path, "cpuset.cpus", value);
    snprintf(value, sizeof value, "%llu", (unsigned long long)limits->memory_bytes);
    bool memory = put(path, "memory.max", value);
    snprintf(value, sizeof value, "%u", limits->pids_max);
    return (put(path, "pids.max", value) && memory) || !required;
}

static bool limit_separate(const char *path, const char *kind, const struct cgroup_limits *limits)
{
    char value[1024], mems[256], above[PATH_BYTES + 4];
    if (strcmp(kind, "memory") == 0) {
        snprintf(value, sizeof value, "%llu", (unsigned long long)limits->memory_bytes);
        if (!put(path, "memory.limit_in_bytes", value))
            return false;
        put(path, "memory.memsw.limit_in_bytes", value); /* where swap is accounted */
        return true;
    }
    if (strcmp(kind, "pids") == 0) {
        snprintf(value, sizeof value, "%u", limits->pids_max);
        return put(path, "pids.max", value);
    }
    if (strcmp(kind, "cpuset") == 0) {
        snprintf(above, sizeof above, "%s/..", path);
        cgroup_cpu_text(&limits->cpus, value, sizeof value);
        return get(above, "cpuset.mems", mems, sizeof mems) && put(path, "cpuset.mems", mems) &&
               put(path, "cpuset.cpus", value);
    }
    if (strcmp(kind, "cpu") == 0) {
        put(path, "cpu.shares", "2");
        put(path, "cpu.cfs_period_us", "100000");
        snprintf(value, sizeof value, "%u", (unsigned)CPU_COUNT(&limits->cpus) * 100000);
        put(path, "cpu.cfs_quota_us", value); /* a kernel without bandwidth control has its cpuset */
    }
    return true;
}

bool cgroup_make(const struct cgroups *groups, const char *name, const struct cgroup_limits *limits, bool required)
{
    for (int i = 0; i < groups->count; i++) {
        char path[PATH_BYTES];
        path_of(groups, i, name, path);
        bool done = mkdir(path, 0755) == 0 && (groups->unified ? limit_unified(path, limits, required)
                                                               : limit_separate(path, groups->kind[i], limits));
        if (!done) {
            int error = errno;
            cgroup_remove(groups, name);
            errno = error;
            return false;
        }
    }
    return true;
}

bool cgroup_enter(const struct cgroups *groups, const char *name)
{
    for (int i = 0; i < groups->count; i++) {
        char path[PATH_BYTES];
        path_of(groups, i, name, path);
        if (!put(path, "cgroup.procs", "0"))
            return false;
    }
    return true;
}

static void signal_all(const char *folder)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/cgroup.procs", folder);
    FILE *list = fopen(path, "re");
    long pid;
    if (!list)
        return;
    while (fscanf(list, "%ld", &pid) == 1)
        if (pid > 1)
            kill((pid_t)pid, SIGKILL);
    fclose(list);
}

void cgroup_kill(const struct cgroups *groups, const char *name)
{
    char path[PATH_BYTES];
    for (int i = 0; i < groups->count; i++) {
        path_of(groups, i, name, path);
        put(path, "pids.max", "0"); /* nothing is born any more */
    }
    path_of(groups, 0, name, path);
    if (groups->unified) {
        if (!put(path, "cgroup.kill", "1")) /* before Linux 5.14 */
            signal_all(path);
        return;
    }
    put(path, "freezer.state", "FROZEN");
    signal_all(path);
    put(path, "freezer.state", "THAWED");
}

bool cgroup_remove(const struct cgroups *groups, const char *name)
{
    bool gone = true;
    for (int i = 0; i < groups->count; i++) {
        char path[PATH_BYTES];
        path_of(groups, i, name, path);
        if (rmdir(path) != 0 && errno != ENOENT)
            gone = false;
    }
    return gone;
}

static bool sweep_once(const struct cgroups *groups)
{
    bool gone = true;
    for (int i = 0; i < groups->count; i++) {
        DIR *folder = opendir(groups->parent[i]);
        struct dirent *entry;
        while (folder && (entry = readdir(folder))) {
            if (entry->d_type != DT_DIR || strlen(entry->d_name) != NAME_BYTES - 1)
                continue;
            cgroup_kill(groups, entry->d_name);
            char path[PATH_BYTES];
            path_of(groups, i, entry->d_name, path);
            if (groups->count > 1) /* what was killed half-way in is in this hierarchy alone */
                signal_all(path);
            gone = cgroup_remove(groups, entry->d_name) && gone;
        }
        if (folder)
            closedir(folder);
    }
    return gone;
}

bool cgroups_sweep(const struct cgroups *groups, uint64_t limit_ms)
{
    for (uint64_t waited_ms = 0; waited_ms <= limit_ms; waited_ms += 5) {
        if (sweep_once(groups))
            return true;
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    }
    return false;
}
