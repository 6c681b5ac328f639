"""What a trial costs before its first optimiser step: in our reused Ray Tune workers, and as a bare TorchTrainer per trial.

    python benchmarks/trial_overhead.py                 # about two minutes on two cores
    python benchmarks/trial_overhead.py --trials 20 --trainers 5

Both figures are seconds from the decision to start a trial to its first optimiser step, minus the building of networks and
optimisers; one worker of one CPU, one trial at a time, tiny models. The first trial, which starts the worker process, and the first
TorchTrainer are left out: the session is warm for both.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import ray
from rich.console import Console

from tune.results import create_experiment, load
from tune.running import Node, Options, Session, connect, make_plan
from tune.trials import TrialSettings, messages

BAR = 1.0  # seconds, median
SPACE = """
dataset: {name: phantom, size: 16, cases: 8, classes: 1}
fixed:
  model.width_multipliers: [1]
  model.encoder_blocks: 0
  model.discriminator_width: 8
  training.epochs: 1
  training.steps_per_epoch: 1
  training.batch_size: 2
  training.samples_per_case: 1
  evaluation.window: whole
  evaluation.votes: 1
parameters:
  optimiser.lr_generator: {min: 1e-4, max: 1e-3}
"""


def ours(root: Path, trials: int) -> list[float]:
    """Run a search; the overhead of every trial but the first, which starts the worker."""
    (root / "tiny.yaml").write_text(SPACE)
    machine = Node(1, 0)
    plan = make_plan(Options(space=str(root / "tiny.yaml"), trials=trials + 1, max_concurrent=1), [machine])
    create_experiment(root / "lake", "overhead", plan.describe())
    Session(plan, str(root / "lake"), "overhead", machine=machine).run(Console(quiet=True), resume=False, budget=None)
    rows = load(root / "lake").trials().to_pylist()
    return [row["startup_seconds"] - row["model_seconds"] for row in rows[1:]]


def bare(root: Path, trainers: int) -> list[float]:
    """Train the same by one TorchTrainer after the other; the overhead of every one but the first."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    row = load(root / "lake").trials().to_pylist()[0]
    config: dict[str, dict[str, object]] = {}
    for name, value in row.items():
        if name.startswith("config.") and value is not None:
            _, section, field = name.split(".")
            config.setdefault(section, {})[field] = value
    found = []
    for number in range(trainers + 1):
        folder = root / "bare" / str(number)
        settings = TrialSettings(
            number=number, kind="searched", config=config, dataset="phantom", options={"size": 16, "cases": 8, "classes": 1},
            data=None, fold=0, folder=str(folder),
        )  # fmt: skip
        started = time.time()
        TorchTrainer(
            _train,
            train_loop_config={"settings": settings.to_json()},
            scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
            run_config=RunConfig(name=str(number), storage_path=str(root / "train")),
        ).fit()
        first = json.loads((folder / "first.json").read_text())
        found.append(first["first_step_at"] - started - first["model_seconds"])
    return found[1:]


def _train(config: dict[str, str]) -> None:
    settings = TrialSettings.from_json(config["settings"])
    first = next(messages(settings))
    (Path(settings.folder) / "first.json").write_text(json.dumps({key: first[key] for key in ("first_step_at", "model_seconds")}))


def main() -> int:
    """Print the table; 1 where the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=12, help="trials of ours (default: 12)")
    parser.add_argument("--trainers", type=int, default=3, help="bare TorchTrainer runs (default: 3)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        connect(None, this=Node(1, 0))
        mine, theirs = ours(root, options.trials), bare(root, options.trainers)
        ray.shutdown()
    print("start of a trial to its first optimiser step, without model building, seconds")
    print(f"{'':34}{'median':>8}{'min':>8}{'max':>8}{'runs':>6}")
    for name, values in (("cDAL Search, reused workers", mine), ("bare TorchTrainer per trial", theirs)):
        print(f"{name:34}{statistics.median(values):8.2f}{min(values):8.2f}{max(values):8.2f}{len(values):6d}")
    met = statistics.median(mine) < BAR
    ratio = statistics.median(theirs) / statistics.median(mine)
    print(f"bar: median below {BAR:g} s: {'met' if met else 'missed'}; a bare trainer takes {ratio:.0f} times as long")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
