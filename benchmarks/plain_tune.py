"""Ray Tune as it comes, on this project's own trials: OptunaSearch and ASHAScheduler with their defaults, for a fixed time.

    python benchmarks/plain_tune.py --data Task04_Hippocampus --space hippocampus_cpu --time-budget 20m --out dice.jsonl

Nothing is handed over but the space, what is to be maximised and how many epochs a trial has. Trials share one process as those of
`tune/search.py` do, so only the search differs. Every line of --out is an epoch: minutes since the search began, trial, Dice.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray.tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from cdal.errors import InputError
from tune.lake.status import SEARCHED
from tune.proposing import Space, from_optuna
from tune.running import Node, Options, connect, make_plan, parse_duration, trial_settings
from tune.trials import CdalTrial, TrialSettings


class PlainTrial(CdalTrial):
    """A trial that is given the fields of a space, and shows an epoch at a time."""

    space: Space
    like: TrialSettings
    """The settings of all, but for what is searched."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> ray.tune.PlacementGroupFactory:
        """One core."""
        return ray.tune.PlacementGroupFactory([{"CPU": 1}])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin a trial."""
        config = self.space.config(from_optuna(self.space, new_config))
        settings = replace(self.like, config=config.to_dict(), folder=f"{self.like.folder}/{self.trial_id}")
        self._dice = 0.0
        return super().reset_config({"settings": settings.to_json()})

    def step(self) -> dict[str, Any]:
        """The next epoch, or the end."""
        while True:
            result = super().step()
            self._dice = result.setdefault("dice", self._dice)
            if result["curve"] or result.get("done"):
                return result


class Book(ray.tune.Callback):
    """Writes every epoch down."""

    def __init__(self, path: Path) -> None:
        self._path, self._began = path, time.monotonic()

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        """Called by Ray Tune."""
        if result["curve"]:
            minutes = (time.monotonic() - self._began) / 60
            with self._path.open("a") as file:
                file.write(json.dumps([minutes, trial.trial_id, result["dice"]]) + "\n")


def main() -> int:
    """Search; 2 where the input is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data")
    parser.add_argument("--space", required=True)
    parser.add_argument("--time-budget", default="20m")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    this = Node(len(os.sched_getaffinity(0)), 0)
    try:
        options = Options(data=args.data, space=args.space, cpus_per_worker=1, gpus_per_worker=0, seed=args.seed)
        plan, folder = make_plan(options, [this]), tempfile.mkdtemp(prefix="plain-tune-")
        seconds = parse_duration(args.time_budget)
        connect(None, this=this)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    space, goal = plan.space, {"metric": "dice", "mode": "max"}
    PlainTrial.space, PlainTrial.like = space, trial_settings(plan, 0, SEARCHED, plan.published, folder)
    ray.tune.Tuner(
        PlainTrial,
        tune_config=ray.tune.TuneConfig(
            search_alg=OptunaSearch(space.distributions, **goal, seed=args.seed),
            scheduler=ASHAScheduler(**goal, max_t=space.base.training.epochs),
            num_samples=-1,
            time_budget_s=seconds,
            reuse_actors=True,
        ),
        run_config=ray.tune.RunConfig(storage_path=folder, callbacks=[Book(args.out)], verbose=0),
    ).fit()
    return 0


if __name__ == "__main__":
    sys.exit(main())
