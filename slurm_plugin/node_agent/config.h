/* config.h - the node agent's configuration: a file that root alone can write. Its keys: docs/site.md. */
#ifndef RFAAS_NODE_CONFIG_H
#define RFAAS_NODE_CONFIG_H

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>

#include "wire.h"

enum { TEXT_BYTES = 256, PUBLIC_KEY_BYTES = 32, MOST_KEYS = 4 };

struct config {
    char node[NODE_NAME_BYTES];
    char listen[TEXT_BYTES];       /* "address:port" */
    char python[TEXT_BYTES];       /* the interpreter that has rfaas */
    char munge_socket[TEXT_BYTES]; /* empty: munge's own */
    char run_dir[TEXT_BYTES];      /* of node.sock */
    char cgroup_mount[TEXT_BYTES];
    char cgroup[64];               /* below each hierarchy */
    char squeue[TEXT_BYTES];       /* to compare what is held with; empty: nothing is */
    uint64_t hold_check_ms;
    char agent_listen[TEXT_BYTES]; /* --listen of the agents; empty: this host only */
    uint8_t allocator_keys[MOST_KEYS][PUBLIC_KEY_BYTES]; /* each may have signed: while it is changed there are two */
    unsigned n_allocator_keys;
    cpu_set_t cpus; /* the share */
    uint64_t memory_bytes;
    uint64_t grace_ms, evict_grace_ms;
    uint64_t idle_s; /* an agent without a lease leaves after so long; 0: it stays */
    uint32_t min_uid, pids_max, most_slices;
    bool hide_processes, limits; /* limits: false only where there are no controllers to try with */
};

/* The configuration in `path`.
 * false: it can't be had, is wrong, or others than root can write it or its directory; `why` says so. */
bool config_read(const char *path, struct config *config, char *why, size_t room);

/* A list such as "0-3,8"; false if it is none. */
bool config_cpu_list(const char *list, cpu_set_t *cpus);

#endif
