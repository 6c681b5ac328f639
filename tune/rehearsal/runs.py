"""Strategies rehearsed with many seeds, on all cores, and what is told of that."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import optuna
from threadpoolctl import threadpool_limits

from tune.proposing import from_optuna
from tune.rehearsal.curves import Surrogate
from tune.rehearsal.medians import estimate, estimate_ratio, number
from tune.rehearsal.simulation import Cluster, Config, Simulation
from tune.rehearsal.strategies import strategy

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is rehearsed."""

    cluster: Cluster
    trials: int
    seeds: int
    strategies: Sequence[str]
    target: float
    """Share of the best recorded Dice."""
    gpu_hours: float = math.inf
    """After which a search is cut."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One strategy with one seed. Hours are infinite where the target was not reached."""

    strategy: str
    seed: int
    gpu_hours: float
    """To the target."""
    hours: float
    """To the target."""
    best_dice: float
    true_dice: float
    """Without luck, of the settings of the trial that showed the best."""
    gpu_hours_in_all: float
    hours_in_all: float
    trials: int
    stopped: int
    failed: int


def rehearse(surrogate: Surrogate, plan: Plan) -> list[Run]:
    """Run every strategy with every seed, on all cores."""
    from rich.progress import track

    tasks = [(strategy, seed) for strategy in plan.strategies for seed in range(plan.seeds)]
    processes = min(len(tasks), len(os.sched_getaffinity(0)))
    with multiprocessing.get_context("fork").Pool(processes, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        runs = pool.imap(partial(run_one, surrogate, plan), tasks)
        return list(track(runs, "rehearsing", total=len(tasks), transient=True))


@threadpool_limits.wrap(limits=1, user_api="blas")  # type: ignore[untyped-decorator]  # every core has a rehearsal of its own
def run_one(surrogate: Surrogate, plan: Plan, task: tuple[str, int]) -> Run:
    """One strategy with one seed."""
    name, seed = task
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # it warns of conditions, which are meant
    recording = surrogate.recording
    space = recording.space
    searcher, scheduler = strategy(name)(space, plan.trials, plan.cluster.gpus, seed)

    def values(config: Config) -> Mapping[str, Any]:
        return config["values"] if "values" in config else from_optuna(space, config)

    course = Simulation(
        plan.cluster,
        searcher,
        scheduler,
        lambda config: surrogate.curve(values(config), seed),
        epochs=recording.epochs,
        trials=plan.trials,
        seed=seed,
        budget=3600 * plan.gpu_hours,
    ).run()
    reached = course.reached(plan.target * recording.best)
    return Run(
        strategy=name,
        seed=seed,
        gpu_hours=reached.gpu_seconds / 3600 if reached else math.inf,
        hours=reached.seconds / 3600 if reached else math.inf,
        best_dice=course.best,
        true_dice=math.nan if course.best_trial is None else surrogate.true_dice(values(course.best_trial.config)),
        gpu_hours_in_all=course.gpu_seconds / 3600,
        hours_in_all=course.seconds / 3600,
        trials=len(course.trials),
        stopped=sum(trial.status == "TERMINATED" and trial.epoch < recording.epochs for trial in course.trials),
        failed=sum(trial.status == "ERROR" for trial in course.trials),
    )


def summary(runs: Sequence[Run], strategies: Sequence[str]) -> list[dict[str, Any]]:
    """One row per strategy, the figures of the table."""
    by_name = {name: [run for run in runs if run.strategy == name] for name in strategies}
    first = by_name[strategies[0]]
    return [
        {
            "strategy": name,
            "reached": sum(math.isfinite(run.hours) for run in own) / len(own),
            "gpu_hours": estimate([run.gpu_hours for run in own]),
            "gpu_hours_ratio": estimate_ratio([run.gpu_hours for run in own], [run.gpu_hours for run in first]),
            "hours": estimate([run.hours for run in own]),
            "hours_ratio": estimate_ratio([run.hours for run in own], [run.hours for run in first]),
            "best_dice": estimate([run.best_dice for run in own]),
            "gpu_hours_in_all": estimate([run.gpu_hours_in_all for run in own]),
        }
        for name, own in by_name.items()
    ]


def table(rows: Sequence[Mapping[str, Any]], plan: Plan) -> Table:
    """What the command prints."""
    from rich import box
    from rich.table import Table

    title = f"{plan.trials} trials on {plan.cluster.gpus} simulated GPUs: median and 95 % interval over {plan.seeds} seeds"
    found = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    goal = f"{100 * plan.target:g} %"
    found.add_column("strategy")
    for heading in (f"reached\n{goal}", f"GPU-hours\nto {goal}", "ratio", f"hours\nto {goal}", "best\nDice", "GPU-hours\nin all"):
        found.add_column(heading, justify="right")
    for row in rows:
        ratio = "1" if row is rows[0] else str(row["gpu_hours_ratio"])
        ends = (number(row["best_dice"].median), number(row["gpu_hours_in_all"].median))
        found.add_row(row["strategy"], f"{100 * row['reached']:.0f} %", str(row["gpu_hours"]), ratio, str(row["hours"]), *ends)
    return found


def about(surrogate: Surrogate, plan: Plan) -> list[str]:
    """What is replayed, and how far it is to be trusted."""
    recording, cluster = surrogate.recording, plan.cluster
    whole = sum(trial.dice.size == recording.epochs for trial in recording.trials)
    failed = sum(trial.failed for trial in recording.trials)
    return [
        f"recorded    {', '.join(recording.experiments)}: {len(recording.trials)} trials of {recording.epochs} epochs, "
        f"{whole} whole, {failed} failed; U-Nets are left out",
        f"surrogate   each trial's best Dice foretold from all others: rank correlation {number(surrogate.rank_correlation)}, "
        f"of the whole ones {number(surrogate.rank_correlation_whole)}",
        f"target      Dice {plan.target * recording.best:.4f}: {100 * plan.target:g} % of the best recorded, {recording.best:.4f}",
        f"cluster     {cluster.gpus} GPUs, {cluster.startup_seconds:.1f} s to start a trial, "
        f"each GPU lost {cluster.losses_per_hour:g} times an hour and replaced after {cluster.away_seconds:.0f} s",
    ]
