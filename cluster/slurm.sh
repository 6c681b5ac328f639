#!/bin/bash
# A search on a SLURM cluster, from the project's folder, which all nodes see with its .venv (docs/slurm.md):
#
#   NAME=lung STORAGE=/shared/results sbatch --nodes=4 cluster/slurm.sh --data /shared/lung --trials 200
#
# What follows the script's name are options of tune/search.py. The same command again, or a requeue, goes on where it was cut.

# ---- edit here; options of sbatch on the command line win --------------------------------------------------------------------
#SBATCH --job-name=cdal-search
#SBATCH --nodes=2
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.out
# The rest is seldom changed: the search is told five minutes before the time is up, and a lost node does not end it.
#SBATCH --ntasks-per-node=1
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --no-kill

NAME=${NAME:-search}                    # of the experiment
STORAGE=${STORAGE:-results}             # results lake: a folder that all nodes share, or s3://bucket/prefix
VENV=${VENV:-.venv}                     # where the project is installed
# module load cuda                      # if the cluster needs it
# export AWS_PROFILE=search             # for s3://
# export NCCL_SOCKET_IFNAME=ib0         # the network between the nodes, for --workers-per-trial above 1
# ------------------------------------------------------------------------------------------------------------------------------
set -euo pipefail

# shellcheck source=/dev/null
source "$VENV/bin/activate"
mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
gpus=$((${SLURM_GPUS_ON_NODE:-0} * ${#hosts[@]})) # Ray finds them by itself, but is told how many to wait for
head=$(hostname -I | cut -d ' ' -f 1) # this script runs on the first node
port=$((20000 + SLURM_JOB_ID % 20000))
scratch=/tmp/ray-$SLURM_JOB_ID # other jobs on these nodes have other ports and folders, and no token of this one

RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0

steps=()
mkdir -p "$scratch"
# shellcheck disable=SC2329 # the trap calls it
clean_up() {
  kill "${steps[@]}" 2>/dev/null || true
  wait "${steps[@]}" 2>/dev/null || true
  rm -rf "$scratch"
}
trap clean_up EXIT

# Ray on one node, as a step of its own: a node that is lost takes no other one along.
start_ray() {
  srun --nodes=1 --ntasks=1 --nodelist="$1" --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    ray start "${@:2}" --block --num-cpus="$SLURM_CPUS_PER_TASK" --min-worker-port=0 --max-worker-port=0 \
    >"$scratch/$1.log" 2>&1 &
  steps+=($!)
}
answers() { (: <>"/dev/tcp/$head/$port") 2>/dev/null; }

start_ray "${hosts[0]}" --head --node-ip-address="$head" --port="$port" --temp-dir="$scratch"
for _ in {1..120}; do # the others would not wait
  if answers; then break; fi
  sleep 1
done
for host in "${hosts[@]:1}"; do start_ray "$host" --address="$head:$port"; done

python -m cluster.start --address "$head:$port" --nodes "${#hosts[@]}" --gpus "$gpus" --wait 600 \
  --name "$NAME" --storage "$STORAGE" "$@" &
search=$!
trap 'kill -TERM "$search"' TERM # it saves what it has
status=0
while kill -0 "$search" 2>/dev/null; do # a signal ends wait, not the search
  status=0
  wait "$search" || status=$?
done
if ((status == 130)); then echo "go on with the same sbatch command, or: scontrol requeue $SLURM_JOB_ID"; fi
if ((status == 1)); then tail --lines=20 "$scratch"/*.log; fi
exit "$status"
