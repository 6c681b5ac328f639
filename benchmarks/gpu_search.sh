#!/bin/bash
# A whole search of 16 trials, four of which share a GPU: trials an hour, GPU-hours, the best Dice. Six minutes at most.
#
#   benchmarks/gpu_search.sh                                  # four trials on a GPU; without a GPU, on the CPUs
#   benchmarks/gpu_search.sh --gpus-per-worker auto           # options of tune/search.py come after the script's own, and win
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=$(command -v "$python" || command -v python3)
storage=${STORAGE:-$(mktemp -d)} # results lake
name=gpu-search-$(date +%Y%m%d-%H%M%S)

gpus=$("$python" -c 'import torch; print(torch.cuda.device_count())')
own=()
if [ "$gpus" -gt 0 ]; then
  own=(--gpus-per-worker 0.25 --epochs 8 --set training.steps_per_epoch=32)
  nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader || true
else
  echo "there is no GPU here: the same search on the CPUs, with shorter trainings"
fi

started=$SECONDS
"$python" tune/search.py --dataset phantom --trials 16 --min-improvement 0 --time-budget 5m \
  --storage "$storage" --name "$name" "${own[@]}" "$@"
wall=$((SECONDS - started))

"$python" - "$storage" "$name" "$wall" <<'PYTHON'
import sys
from collections import Counter

from tune.results import load, read_experiment

storage, name, wall = sys.argv[1], sys.argv[2], float(sys.argv[3])
about = read_experiment(storage, name).description
trials = [row for row in load(storage).trials().to_pylist() if row["experiment"] == name]
ended = [row for row in trials if row["status"] in ("finished", "stopped")]
dice = [row["validation_dice"] for row in ended if row["validation_dice"] is not None]
resources = about["resources"]
print(f"wall time      {wall:.0f} s, from the command to the leaderboard")
print(f"at once        {resources['at_once']} trials of {resources['cpus']:g} CPU and {resources['gpus']:g} GPU")
print(f"trials         {', '.join(f'{count} {status}' for status, count in Counter(row['status'] for row in trials).items())}")
print(f"trials an hour {3600 * len(ended) / wall:.0f}")
print(f"GPU-hours      {sum(row['gpu_seconds'] or 0 for row in trials) / 3600:.3f}")
print(f"best Dice      {max(dice, default=float('nan')):.4f}")
PYTHON
