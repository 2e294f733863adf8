/* Starting the owner's `rfaas share` inside his job, from slurmstepd. Linux only; nothing of Slurm in here. */
#ifndef RFAAS_LENDER_H
#define RFAAS_LENDER_H

#include <stddef.h>
#include <sys/types.h>

typedef struct {
    uid_t uid; /* of the job's owner */
    gid_t gid;
    const gid_t *groups; /* and his further ones */
    int n_groups;
    unsigned job_id;
    pid_t beside;          /* a task of the job: the lender lives in its control groups */
    char *const *environ_; /* of the job */
    const char *command;   /* `rfaas`, or a path */
    long cores, memory_mib, grace_s;
} rfaas_lender;

/* Start it. Its pid; 0 if one of this job serves this node already; -1 with the reason in `why`. The caller is root and
 * single-threaded in what it forks; whatever fails, nothing runs. */
pid_t rfaas_lender_start(const rfaas_lender *lender, char *why, size_t why_size);

/* Tell it that the job ends and wait at most `grace_s` for its end; then kill it. */
void rfaas_lender_end(pid_t pid, long grace_s);

#endif
