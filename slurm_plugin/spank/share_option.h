/* The value of --rfaas-share: cores:mem[:grace]. Pure; docs/slurm.md says it to users. */
#ifndef RFAAS_SHARE_OPTION_H
#define RFAAS_SHARE_OPTION_H

#include <stdbool.h>
#include <stddef.h>

#define RFAAS_SHARE_GRACE_S 5 /* where none is given */

typedef struct {
    long cores;      /* to lend on each node */
    long memory_mib; /* likewise */
    long grace_s;    /* what running calls get when the job ends */
} rfaas_share;

/* Read a value. False, with what is wrong and what to write instead in `why`, if it is none. */
bool rfaas_share_parse(const char *text, rfaas_share *share, char *why, size_t why_size);

/* How many numbers a list as "0-3,8" holds; -1 if it is none. */
long rfaas_share_count(const char *list);

#endif
