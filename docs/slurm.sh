#!/bin/bash
# sbatch docs/slurm.sh: a run on 4 machines of 8 GPUs, requeued when it is preempted or out of time.
#SBATCH --job-name=sat
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120    # two minutes before the time is over, to this script

# Slurm itself sends SIGTERM to all when it preempts the job; this is for the end of the time.
requeue() {
    scancel --signal=TERM "$SLURM_JOB_ID"    # to torchrun, which hands it on: the ranks save last/
    wait "$step"
    scontrol requeue "$SLURM_JOB_ID"
}
trap requeue TERM

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export OMP_NUM_THREADS=4

srun torchrun --nnodes="$SLURM_NNODES" --nproc_per_node=8 --max_restarts=3 \
    --rdzv_id="$SLURM_JOB_ID" --rdzv_backend=c10d --rdzv_endpoint="$head:29500" \
    -m sat train --config flickr8k --output_dir runs/flickr8k --resume auto &
step=$!
wait "$step"
