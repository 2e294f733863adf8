/* launch.h - becomes a user's agent: everything that root's process has is dropped, then the agent is executed.
 *
 * Source of the order: capabilities(7), credentials(7), "Setuid Demystified" (Chen, Wagner, Dean, USENIX Security 2002).
 */
#ifndef RFAAS_NODE_LAUNCH_H
#define RFAAS_NODE_LAUNCH_H

#include <sys/types.h>

#include "cgroup.h"

struct launch {
    const struct config *config;
    const struct cgroups *groups;
    const struct start_request *request;
    char name[NAME_BYTES]; /* of the slice, in hex: of its group too */
    cpu_set_t cpus;
    uint64_t lasts_s;
};

struct launch_failure { /* what comes from the report's end; nothing comes when the agent runs */
    char stage[32];
    int error;
};

/* Start it. Returns its pid and, in `report`, a descriptor that ends when the agent runs; -1 with errno: nothing started. */
pid_t launch_agent(const struct launch *launch, int *report);

#endif
