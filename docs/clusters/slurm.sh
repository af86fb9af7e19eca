#!/bin/bash
# One study on many nodes: every task of this array is a worker that joins it. Submit it where `search` is on the PATH,
# from a folder that all nodes share; what sbatch is told in its command wins over the lines below.
#
#     export SEARCH_STORAGE=postgresql+psycopg://user:password@host/database
#     sbatch --array=1-8 docs/clusters/slurm.sh
#     STUDY=cifar100 TRIALS=500 sbatch --array=1-32 docs/clusters/slurm.sh --budget 2M
#
#SBATCH --job-name=search
#SBATCH --array=1-8
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --gres=gpu:1
#SBATCH --mem=16G
#SBATCH --time=1-00:00:00
#SBATCH --output=search-%A-%a.log
#SBATCH --open-mode=append
# Begun again after a node has failed, or when others have gone first.
#SBATCH --requeue
# SIGTERM so many seconds before the time is up: more than an epoch takes. Without "B:" it goes to what srun has
# started, not to this shell.
#SBATCH --signal=TERM@300

set -u
: "${SEARCH_STORAGE:?set it to the address of the storage that all workers share}"
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}

# By srun, so that whatever Slurm sends reaches the search once: it ends its epoch, and exits with 130.
srun --cpus-per-task="$OMP_NUM_THREADS" search run "${STUDY:-cifar10}" --trials "${TRIALS:-200}" "$@"
code=$?

# Stopped or killed: back into the queue. Not after `scancel`, which ends this shell, too.
# By the name of this task: the job number of an array's last task stands for all of them.
if ((code > 128 && ${SLURM_RESTART_COUNT:-0} < 100)); then
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
fi
exit "$code"
