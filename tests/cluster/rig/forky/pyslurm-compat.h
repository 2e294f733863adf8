/* Lets pyslurm 25.11.2, which was written for Slurm 25.11, compile against Slurm 26.05: gcc -include pyslurm-compat.h.
 *
 * Every line stands for one difference between the two releases' headers; layouts need none, since pyslurm's public
 * records are compiled from the headers that are there. What pyslurm copied of Slurm's private structures can't be
 * mended here and is never called (rfaas_slurm_plugin/pyslurm_helper/helper.py says which calls those are).
 */
#ifndef RFAAS_PYSLURM_COMPAT_H
#define RFAAS_PYSLURM_COMPAT_H

#define SLURM_BACKWARD_COMPAT 1 /* 26.05's own wrappers: job ids where it has step ids now */
#include <slurm/slurm.h>
#include <slurm/slurm_errno.h>

/* renamed */
#define slurm_free_ctl_conf slurm_free_conf

/* gone; pyslurm compares errno with it, which -1 never is */
#define ESLURM_ERROR_ON_DESC_TO_RECORD_COPY (-1)

/* takes a step id now */
static inline int rfaas_compat_pid2jobid(pid_t pid, uint32_t *job_id)
{
	slurm_step_id_t step = SLURM_STEP_ID_INITIALIZER;
	int status = slurm_pid2jobid(pid, &step);

	*job_id = step.job_id;
	return status;
}
#define slurm_pid2jobid(pid, job_id) rfaas_compat_pid2jobid((pid), (job_id))

#endif
