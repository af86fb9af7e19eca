#!/bin/bash
# One study on many nodes: every task of this array is a worker that joins the study. Submit this file from a folder
# that all nodes share, where `search` is on the PATH. Options of the sbatch command override the lines below.
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
# Slurm starts a task again after its node has failed, or after preemption.
#SBATCH --requeue
# SIGTERM comes this number of seconds before the time limit: more than an epoch takes. Without "B:" the process that
# srun has started gets it, not this shell.
#SBATCH --signal=TERM@300

set -u
: "${SEARCH_STORAGE:?set it to the address of the storage that all workers share}"
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}

# srun passes each signal of Slurm to the search once: the search ends its epoch and exits with 130.
srun --cpus-per-task="$OMP_NUM_THREADS" search run "${STUDY:-cifar10}" --trials "${TRIALS:-200}" "$@"
code=$?

# A stopped or killed task returns to the queue. After `scancel` it does not, because that also ends this shell.
# The task is given by its name, because the job number of the last task of an array means the whole array.
if ((code > 128 && ${SLURM_RESTART_COUNT:-0} < 100)); then
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
fi
exit "$code"
