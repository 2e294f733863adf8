#!/bin/bash
# Runs 09_elastic_jacobi.py on whatever one to four nodes there are, again and again until it is done.
#
#   sbatch --partition=PREEMPTIBLE examples/09_elastic_jacobi.sh [OPTION OF 09_elastic_jacobi.py]...
#
#SBATCH --job-name=elastic-jacobi
#SBATCH --nodes=1-4
#SBATCH --requeue
#SBATCH --open-mode=append

# Slurm's SIGTERM is for the tasks. A handler, unlike trap '', is not inherited by what this script starts.
trap : TERM
here=${RFAAS_EXAMPLES:-${SLURM_SUBMIT_DIR:-.}/examples}

# One rank a node, as many nodes as there are: --ntasks-per-node above would make it one node.
# Not mpirun, which kills its ranks on SIGTERM. A rank that is killed takes the others along.
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --mpi=pmix --kill-on-bad-exit=1 python "$here/09_elastic_jacobi.py" "$@" &
step=$!
while wait $step; kill -0 $step 2>/dev/null; do :; done # a signal ends `wait`, not the step
wait $step
status=$?
trap '' TERM # inherited by what asks for the job to come again: a signal must not end that
exec python -m rfaas.elastic again --by "${ELASTIC_BY:-auto}" $status "$here/09_elastic_jacobi.sh" "$@"
