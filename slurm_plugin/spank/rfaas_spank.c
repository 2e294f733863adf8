/* SPANK plugin: --rfaas-share=cores:mem[:grace] for srun, sbatch and salloc.
 *
 * On each node of the job its first step starts `rfaas share` as the job's owner, inside the job, which lends what the
 * job's tasks leave idle. A step that ends takes it along, with the grace; the next one starts it again. A job is never
 * failed for it: what goes wrong is said, and the job runs without.
 *
 * plugstack.conf:  optional /path/rfaas_spank.so [command=/path/rfaas]     (default: rfaas in the job's own PATH)
 */
#include <stdint.h>
#include <string.h>

#include <slurm/spank.h>

#include "lender.h"
#include "share_option.h"

#define EXPORTED __attribute__((visibility("default")))

#pragma GCC visibility push(default)
SPANK_PLUGIN(rfaas, 1)
#pragma GCC visibility pop

static rfaas_share share; /* cores 0: not asked for */
static char command[1024] = "rfaas";
static pid_t lender;
static uint32_t tasks_ended;

static int on_share(int val, const char *text, int remote)
{
    (void)val;
    char why[256];
    if (rfaas_share_parse(text, &share, why, sizeof why))
        return 0;
    share.cores = 0;
    slurm_error("rfaas: %s", why);
    return remote ? 0 : -1;
}

static struct spank_option option = {
    .name = "rfaas-share",
    .arginfo = "cores:mem[:grace]",
    .usage = "lend that much of each node of this job to rfaas while the job runs",
    .has_arg = 1,
    .cb = on_share,
};

EXPORTED int slurm_spank_init(spank_t spank, int argc, char **argv)
{
    for (int i = 0; i < argc; i++) {
        if (strncmp(argv[i], "command=", 8) == 0 && strlen(argv[i] + 8) < sizeof command)
            strcpy(command, argv[i] + 8);
        else
            slurm_error("rfaas: plugstack.conf: '%s' is not understood: write command=/path/rfaas", argv[i]);
    }
    switch (spank_context()) {
    case S_CTX_LOCAL:
    case S_CTX_REMOTE:
    case S_CTX_ALLOCATOR:
        if (spank_option_register(spank, &option) != ESPANK_SUCCESS)
            slurm_error("rfaas: this Slurm does not take the option --rfaas-share");
        break;
    default:
        break;
    }
    return 0;
}

/* Whether the job has so many cores on this node; said if not. */
static int has_cores(spank_t spank)
{
    char *list = NULL;
    int said = spank_get_item(spank, S_JOB_ALLOC_CORES, &list) == ESPANK_SUCCESS && list != NULL;
    long cores = said ? rfaas_share_count(list) : -1;
    if (cores >= share.cores)
        return 1;
    slurm_error("rfaas: nothing is shared: %ld cores are asked for, and the job has %ld here", share.cores, cores);
    return 0;
}

/* What Slurm says of the job; 0, or -1 if it doesn't. */
static int ask_slurm(spank_t spank, rfaas_lender *about)
{
    uint32_t job_id;
    gid_t *groups;
    char **environment;
    if (spank_get_item(spank, S_JOB_UID, &about->uid) != ESPANK_SUCCESS ||
        spank_get_item(spank, S_JOB_GID, &about->gid) != ESPANK_SUCCESS ||
        spank_get_item(spank, S_JOB_SUPPLEMENTARY_GIDS, &groups, &about->n_groups) != ESPANK_SUCCESS ||
        spank_get_item(spank, S_JOB_ID, &job_id) != ESPANK_SUCCESS ||
        spank_get_item(spank, S_TASK_PID, &about->beside) != ESPANK_SUCCESS ||
        spank_get_item(spank, S_JOB_ENV, &environment) != ESPANK_SUCCESS)
        return -1;
    about->groups = groups;
    about->job_id = job_id;
    about->environ_ = environment;
    return 0;
}

/* As root, in slurmstepd, once a task: the task waits until this is done. */
EXPORTED int slurm_spank_task_post_fork(spank_t spank, int argc, char **argv)
{
    (void)argc, (void)argv;
    int task;
    if (share.cores == 0 || spank_get_item(spank, S_TASK_ID, &task) != ESPANK_SUCCESS || task != 0 || !has_cores(spank))
        return 0;
    rfaas_lender about = {
        .command = command, .cores = share.cores, .memory_mib = share.memory_mib, .grace_s = share.grace_s};
    char why[256] = "Slurm does not tell about the job";
    if (ask_slurm(spank, &about) != 0 || about.uid == 0 || (lender = rfaas_lender_start(&about, why, sizeof why)) < 0)
        slurm_error("rfaas: nothing is shared: %s", about.uid == 0 ? "root's jobs share nothing" : why);
    return 0;
}

/* Once a task that ended; after the last the step ends, and takes the lender along. */
EXPORTED int slurm_spank_task_exit(spank_t spank, int argc, char **argv)
{
    (void)argc, (void)argv;
    uint32_t tasks;
    if (lender > 0 && spank_get_item(spank, S_JOB_LOCAL_TASK_COUNT, &tasks) == ESPANK_SUCCESS && ++tasks_ended == tasks) {
        rfaas_lender_end(lender, share.grace_s);
        lender = 0;
    }
    return 0;
}
