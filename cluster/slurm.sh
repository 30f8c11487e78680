#!/bin/bash
# sbatch cluster/slurm.sh --method kd --gpus-per-trial 0.25 --out /shared/runs
#SBATCH --job-name=kdtune
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=4
#SBATCH --signal=B:TERM@120
#SBATCH --time=12:00:00
set -euo pipefail

# One token for this job, on the file system that all its nodes see.
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
export RAY_AUTH_TOKEN_PATH="$HOME/.kdtune-token-$SLURM_JOB_ID"
trap 'rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT
(umask 077 && openssl rand -hex 32 > "$RAY_AUTH_TOKEN_PATH")

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}'):6379

# In the background, so that the signal before the time limit reaches the search, which then ends in good order.
srun --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES" \
    ray symmetric-run --address "$address" --min-nodes "$SLURM_NNODES" \
    --num-cpus="${SLURM_CPUS_ON_NODE}" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" \
    -- python tune.py --address "$address" "$@" &
step=$!
trap 'kill -TERM "$step"' TERM
wait "$step" || wait "$step"
