#include "config.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST_BYTES = 64 << 10 };

bool config_cpu_list(const char *list, cpu_set_t *cpus)
{
    CPU_ZERO(cpus);
    for (const char *at = list; *at;) {
        char *end;
        if (!isdigit((unsigned char)*at))
            return false;
        unsigned long first = strtoul(at, &end, 10), last = first;
        if (*end == '-') {
            if (!isdigit((unsigned char)end[1]))
                return false;
            last = strtoul(end + 1, &end, 10);
        }
        if (last < first || last >= CPU_SETSIZE || (*end != ',' && *end != '\0'))
            return false;
        for (unsigned long cpu = first; cpu <= last; cpu++)
            CPU_SET(cpu, cpus);
        at = *end == ',' ? end + 1 : end;
    }
    return CPU_COUNT(cpus) > 0;
}

static bool hexadecimal(const char *value, uint8_t *out, size_t size)
{
    if (strlen(value) != 2 * size)
        return false;
    for (size_t i = 0; i < size; i++) {
        unsigned byte;
        if (!isxdigit((unsigned char)value[2 * i]) || !isxdigit((unsigned char)value[2 * i + 1]) ||
            sscanf(value + 2 * i, "%2x", &byte) != 1)
            return false;
        out[i] = (uint8_t)byte;
    }
    return true;
}

static bool whole(const char *value, uint64_t most, uint64_t *out)
{
    char *end;
    errno = 0;
    if (!isdigit((unsigned char)*value))
        return false;
    unsigned long long parsed = strtoull(value, &end, 10);
    uint64_t unit = 1;
    const char *units = "KMGT", *found = *end ? strchr(units, *end) : NULL;
    if (found) {
        unit <<= 10 * (found - units + 1);
        end++;
        if (strcmp(end, "iB") == 0)
            end += 2;
    }
    if (errno || *end || parsed > most / unit)
        return false;
    *out = parsed * unit;
    return true;
}

static bool whole32(const char *value, uint32_t *out)
{
    uint64_t wide;
    if (!whole(value, UINT32_MAX, &wide))
        return false;
    *out = (uint32_t)wide;
    return true;
}

static bool yes_or_no(const char *value, bool *out)
{
    *out = strcmp(value, "yes") == 0;
    return *out || strcmp(value, "no") == 0;
}

static bool copied(const char *value, char *out, size_t room)
{
    size_t length = strlen(value);
    if (length >= room)
        return false;
    memcpy(out, value, length + 1);
    return true;
}

static char *trimmed(char *text)
{
    while (isspace((unsigned char)*text))
        text++;
    for (char *end = text + strlen(text); end > text && isspace((unsigned char)end[-1]);)
        *--end = '\0';
    return text;
}

/* One key, or several with commas between. */
static bool keys(struct config *config, const char *value)
{
    char list[MOST_KEYS * (2 * PUBLIC_KEY_BYTES + 16)], *left = list, *one;
    if (strlen(value) >= sizeof list)
        return false;
    strcpy(list, value);
    config->n_allocator_keys = 0;
    while ((one = strsep(&left, ","))) {
        one = trimmed(one);
        if (config->n_allocator_keys == MOST_KEYS ||
            !hexadecimal(one, config->allocator_keys[config->n_allocator_keys], PUBLIC_KEY_BYTES))
            return false;
        config->n_allocator_keys++;
    }
    return true;
}

#define IS(name) (strcmp(key, name) == 0)
#define COPIED(field) copied(value, config->field, sizeof config->field)

static bool take(struct config *config, const char *key, const char *value)
{
    if (IS("node"))
        return COPIED(node);
    if (IS("listen"))
        return COPIED(listen);
    if (IS("python"))
        return value[0] == '/' && COPIED(python);
    if (IS("munge_socket"))
        return COPIED(munge_socket);
    if (IS("run_dir"))
        return value[0] == '/' && COPIED(run_dir);
    if (IS("cgroup_mount"))
        return value[0] == '/' && COPIED(cgroup_mount);
    if (IS("cgroup"))
        return value[0] && !strchr(value, '/') && value[0] != '.' && COPIED(cgroup);
    if (IS("squeue"))
        return (value[0] == '/' || !value[0]) && COPIED(squeue);
    if (IS("hold_check_ms"))
        return whole(value, 3600000, &config->hold_check_ms) && config->hold_check_ms > 0;
    if (IS("agent_listen"))
        return COPIED(agent_listen);
    if (IS("allocator_key"))
        return keys(config, value);
    if (IS("cpus"))
        return config_cpu_list(value, &config->cpus);
    if (IS("memory"))
        return whole(value, UINT64_MAX >> 1, &config->memory_bytes);
    if (IS("grace_ms"))
        return whole(value, 3600000, &config->grace_ms);
    if (IS("idle_s"))
        return whole(value, 86400, &config->idle_s);
    if (IS("evict_grace_ms"))
        return whole(value, 1000, &config->evict_grace_ms);
    if (IS("min_uid"))
        return whole32(value, &config->min_uid) && config->min_uid > 0;
    if (IS("pids_max"))
        return whole32(value, &config->pids_max) && config->pids_max > 0;
    if (IS("most_slices"))
        return whole32(value, &config->most_slices) && config->most_slices >= 1 && config->most_slices <= 64;
    if (IS("hide_processes"))
        return yes_or_no(value, &config->hide_processes);
    if (IS("limits"))
        return yes_or_no(value, &config->limits);
    return false;
}

/* Root's (or ours, who try it without root), and nobody else may write it. */
static bool safe(const struct stat *about)
{
    return (about->st_uid == 0 || about->st_uid == geteuid()) && (about->st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

static char *content(const char *path, char *why, size_t room)
{
    char copy[4096];
    struct stat about;
    snprintf(copy, sizeof copy, "%s", path);
    const char *folder = dirname(copy);
    if (stat(folder, &about) != 0 || !safe(&about)) {
        snprintf(why, room, "%s: others than root can write this directory: chown root, chmod go-w", folder);
        return NULL;
    }
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (file < 0) {
        snprintf(why, room, "%s: %s", path, strerror(errno));
        return NULL;
    }
    char *text = NULL;
    if (fstat(file, &about) != 0 || !S_ISREG(about.st_mode) || !safe(&about))
        snprintf(why, room, "%s: others than root can write it, or it is no file: chown root, chmod go-w", path);
    else if (!(text = calloc(1, MOST_BYTES + 1)))
        snprintf(why, room, "out of memory");
    else if (read(file, text, MOST_BYTES) < 0 || memchr(text, 0, MOST_BYTES) == NULL)
        snprintf(why, room, "%s: can't be read, or is longer than %d bytes", path, MOST_BYTES);
    else
        why[0] = '\0';
    close(file);
    if (text && why[0]) {
        free(text);
        return NULL;
    }
    return text;
}

static const char *lacking(const struct config *config)
{
    return !config->listen[0]           ? "listen"
           : !config->python[0]         ? "python"
           : !config->n_allocator_keys  ? "allocator_key"
           : !config->memory_bytes      ? "memory"
           : !CPU_COUNT(&config->cpus)  ? "cpus"
                                        : NULL;
}

static void defaults(struct config *config)
{
    *config = (struct config){
        .run_dir = "/run/rfaas",
        .cgroup_mount = "/sys/fs/cgroup",
        .cgroup = "rfaas",
        .agent_listen = "auto",
        .squeue = "/usr/bin/squeue",
        .hold_check_ms = 10000,
        .grace_ms = 5000,
        .evict_grace_ms = 50,
        .idle_s = 120,
        .min_uid = 1000,
        .pids_max = 4096,
        .most_slices = 32,
        .hide_processes = true,
        .limits = true,
    };
    gethostname(config->node, sizeof config->node - 1);
    config->node[strcspn(config->node, ".")] = '\0';
}

bool config_read(const char *path, struct config *config, char *why, size_t room)
{
    defaults(config);
    char *text = content(path, why, room), *rest = text, *line;
    if (!text)
        return false;
    for (int number = 1; (line = strsep(&rest, "\n")) && !why[0]; number++) {
        line[strcspn(line, "#")] = '\0';
        char *key = trimmed(line), *equals = strchr(key, '=');
        if (!*key)
            continue;
        if (!equals) {
            snprintf(why, room, "%s:%d: a line is `key = value`", path, number);
            break;
        }
        *equals = '\0';
        key = trimmed(key);
        if (!take(config, key, trimmed(equals + 1)))
            snprintf(why, room, "%s:%d: no such key, or no such value for it: %s", path, number, key);
    }
    free(text);
    const char *missing = why[0] ? NULL : lacking(config);
    if (missing)
        snprintf(why, room, "%s: `%s = ...` is missing", path, missing);
    return !why[0];
}
