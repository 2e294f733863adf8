/* cgroup.h - a control group for each slice: limits, the end of all in it, the proof of that. Version 2, else version 1. */
#ifndef RFAAS_NODE_CGROUP_H
#define RFAAS_NODE_CGROUP_H

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>

#include "config.h"

enum { HIERARCHIES = 5, NAME_BYTES = 2 * SLICE_ID_BYTES + 1 };

struct cgroups {
    bool unified;                 /* version 2 */
    int count;                    /* hierarchies that are used; 1 with version 2 */
    char parent[HIERARCHIES][384]; /* .../freezer/rfaas */
    char kind[HIERARCHIES][8];     /* "freezer", "memory", ... */
};

struct cgroup_limits {
    uint64_t memory_bytes;
    uint32_t pids_max;
    cpu_set_t cpus;
};

/* Find or make the parents. false: this host lacks what ends or limits a slice; `why` says what. */
bool cgroups_open(struct cgroups *groups, const struct config *config, char *why, size_t room);

/* Make the group of one slice. false with errno: there is none, nothing is left of it. */
bool cgroup_make(const struct cgroups *groups, const char *name, const struct cgroup_limits *limits, bool required);

/* Put the calling process into it. false with errno: it is in none, or in some hierarchies only. */
bool cgroup_enter(const struct cgroups *groups, const char *name);

/* Kill everything in it, once; what was being born may need another time. Nothing new is born from the first on. */
void cgroup_kill(const struct cgroups *groups, const char *name);

/* Remove it. true: it is gone, so nothing of it lives: the proof of death. false: something may live. */
bool cgroup_remove(const struct cgroups *groups, const char *name);

/* Kill and remove what an earlier node agent left; false if something lives after `limit_ms`. */
bool cgroups_sweep(const struct cgroups *groups, uint64_t limit_ms);

/* The kernel's form of a set of CPUs, e.g. "0,1,5". */
void cgroup_cpu_text(const cpu_set_t *cpus, char *text, size_t room);

#endif
