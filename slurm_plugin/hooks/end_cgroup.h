/* Ending everything that lives in a cgroup, by the kernel's means alone. docs/spec/009-hooks.md section 3. */
#ifndef RFAAS_END_CGROUP_H
#define RFAAS_END_CGROUP_H

#include <stdint.h>

typedef enum {
    RFAAS_CGROUP_ABSENT, /* there is none, or nothing lives in it */
    RFAAS_CGROUP_ENDED,  /* something did; nothing does any more */
    RFAAS_CGROUP_ALIVE,  /* something still lives at the deadline */
} rfaas_cgroup_end;

/* Kill what lives in the cgroup `name` of any hierarchy mounted below /sys/fs/cgroup, and in those below it, until nothing
 * does or `deadline_ms` has come. */
rfaas_cgroup_end rfaas_end_cgroup(const char *name, int64_t deadline_ms);

#endif
