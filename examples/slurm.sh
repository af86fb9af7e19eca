#!/bin/bash
# One night as one job: search, full runs, report and exported model, ready before the time limit of the job. Submit
# this file from a folder that the nodes share, where `search` is on the PATH. Options of the sbatch command override
# the lines below.
#
#     sbatch examples/slurm.sh
#     STUDY=cifar100 HOURS=11.5 sbatch --time=12:00:00 examples/slurm.sh --budget 2M
#
#SBATCH --job-name=search-auto
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --gres=gpu:1
#SBATCH --mem=16G
#SBATCH --time=8:00:00
#SBATCH --output=search-auto-%j.log
#SBATCH --open-mode=append
# Slurm starts the job again after its node has failed, or after preemption.
#SBATCH --requeue
# SIGTERM comes this number of seconds before the time limit. Without "B:" the process that srun has started gets it,
# not this shell.
#SBATCH --signal=TERM@300

set -u
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}

# HOURS must be shorter than the time limit. The time of the night goes on while the job waits in the queue. If it is
# over by then, another night of so many hours begins with the trials and full runs that exist.
srun --cpus-per-task="$OMP_NUM_THREADS" search auto "${STUDY:-cifar10}" --hours "${HOURS:-7.5}" "$@"
code=$?

# SIGTERM stops the night after its current step, with exit code 130: the job returns to the queue, and the same command
# continues. After `scancel` it does not, because that also ends this shell.
if ((code > 128 && ${SLURM_RESTART_COUNT:-0} < 100)); then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
