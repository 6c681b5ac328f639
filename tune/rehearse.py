r"""Rehearse a search: recorded learning curves on a simulated cluster, to compare strategies in seconds instead of GPU-days.

    python tune/rehearse.py --from results --gpus 16 --trials 200
    python tune/rehearse.py --from results --experiment first --experiment second --strategies default,random --out rehearsal.json

What is replayed are Ray Tune's own schedulers, Optuna's own samplers and this project's; no cluster is started and nothing is
trained. Strategies:

    default            what tune/search.py does, which ends when trials no longer pay; without the U-Net, whose record does not fit
    SAMPLER+SCHEDULER  others of its samplers and schedulers, such as gp+median, for all trials asked for
    ray                OptunaSearch and ASHAScheduler of Ray Tune as they come
    random             random settings, none stopped early
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

try:
    import optuna
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
    from ray.tune.search import Searcher
    from ray.tune.search.optuna import OptunaSearch
    from threadpoolctl import threadpool_limits

    from cdal.command import DONE, command_line, run
    from cdal.errors import InputError
    from tune.lake.status import UNET
    from tune.proposing import (
        Proposal,
        Queue,
        Space,
        Study,
        TruthfulSearcher,
        check_sampler,
        controls,
        default_sampler,
        from_optuna,
        startup_trials,
    )
    from tune.rehearsal import Cluster, Estimate, Recording, Surrogate, estimate, estimate_ratio, number, read, simulate
    from tune.results import load
    from tune.running import Options
    from tune.stopping import DEFAULT_MIN_IMPROVEMENT, POPULATION, check_scheduler, grace_epochs, make_scheduler, why_enough
except ModuleNotFoundError as missing:
    sys.exit(f"The package {missing.name} is missing; run `pip install -e .` in the project's folder.")

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


class Strategy(NamedTuple):
    """The parts of a search that a strategy consists of."""

    searcher: Searcher
    scheduler: TrialScheduler


def ours(
    space: Space, trials: int, at_once: int, seed: int, *, sampler: str, scheduler: str, min_improvement: float = 0
) -> Strategy:
    """What tune/search.py does, but that the U-Net is left out and another trial takes its place."""
    epochs = space.base.training.epochs
    without = sum(control.kind == UNET for control in controls(space))
    startup = startup_trials(trials, at_once)
    study = Study(space, seed=seed, startup=startup, sampler=sampler)
    queue = Queue.start(space, study, trials + without)
    queue.waiting = [proposal for proposal in queue.waiting if proposal.kind != UNET]

    def configure(proposal: Proposal) -> dict[str, Any]:
        space.config(proposal.values)
        return {"number": proposal.number, "kind": proposal.kind, "values": proposal.values}

    def enough() -> bool:
        return min_improvement > 0 and why_enough(study.sampled, min_improvement) is not None

    searcher = TruthfulSearcher(queue, configure, lambda proposal, reason: None, enough)
    return Strategy(searcher, make_scheduler(scheduler, epochs=epochs, grace=grace_epochs(epochs), startup=startup))


def plain_ray(space: Space, trials: int, at_once: int, seed: int) -> Strategy:
    """Ray Tune's Optuna and ASHA with their own defaults, and no trial given."""
    searcher = OptunaSearch(space.distributions, metric="dice", mode="max", seed=seed)
    return Strategy(searcher, ASHAScheduler(metric="dice", mode="max", max_t=space.base.training.epochs))


def random_search(space: Space, trials: int, at_once: int, seed: int) -> Strategy:
    """Random settings, each trained to the end."""
    sampler = optuna.samplers.RandomSampler(seed=seed)
    return Strategy(OptunaSearch(space.distributions, metric="dice", mode="max", sampler=sampler), FIFOScheduler())  # type: ignore[no-untyped-call]


STRATEGIES: dict[str, Callable[[Space, int, int, int], Strategy]] = {
    "default": partial(ours, sampler=default_sampler(1), scheduler=Options.scheduler, min_improvement=DEFAULT_MIN_IMPROVEMENT),
    "ray": plain_ray,
    "random": random_search,
}
"""By name: what makes searcher and scheduler for a space, a number of trials in all and at once, and a seed."""


def strategy(name: str) -> Callable[[Space, int, int, int], Strategy]:
    """One of `STRATEGIES`, or `SAMPLER+SCHEDULER`.

    Raises:
        InputError: there is no such strategy.
    """
    if name in STRATEGIES:
        return STRATEGIES[name]
    sampler, plus, scheduler = name.partition("+")
    if not plus or scheduler == POPULATION:
        raise InputError(
            f"--strategies names {name!r}; strategies are {', '.join(STRATEGIES)}, and SAMPLER+SCHEDULER, such as gp+median, "
            f"but {POPULATION}, whose trials change their settings"
        )
    check_sampler(sampler)
    check_scheduler(scheduler)
    return partial(ours, sampler=sampler, scheduler=scheduler)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is rehearsed."""

    cluster: Cluster
    trials: int
    seeds: int
    strategies: Sequence[str]
    target: float
    """Share of the best recorded Dice."""


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
    course = simulate(
        plan.cluster,
        searcher,
        scheduler,
        lambda config: surrogate.curve(config["values"] if "values" in config else from_optuna(space, config), seed),
        epochs=recording.epochs,
        trials=plan.trials,
        seed=seed,
    )
    reached = course.reached(plan.target * recording.best)
    return Run(
        strategy=name,
        seed=seed,
        gpu_hours=reached.gpu_seconds / 3600 if reached else math.inf,
        hours=reached.seconds / 3600 if reached else math.inf,
        best_dice=course.best,
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


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = command_line(__doc__)
    found.add_argument("--from", dest="source", required=True, metavar="LAKE", help="results lake with recorded searches")
    found.add_argument(
        "--experiment",
        action="append",
        default=[],
        metavar="NAME",
        help="whose curves to replay; repeatable (default: the newest, and all with its space)",
    )
    found.add_argument(
        "--gpus", type=int, default=16, metavar="N", help="of the simulated cluster; a trial takes one (default: 16)"
    )
    found.add_argument("--trials", type=int, default=200, metavar="N", help="of each search (default: 200)")
    found.add_argument("--seeds", type=int, default=20, metavar="N", help="searches per strategy (default: 20)")
    found.add_argument("--strategies", default=",".join(STRATEGIES), metavar="A,B", help="which; the first is what ratios are to")
    found.add_argument("--startup-seconds", type=float, metavar="S", help="of a trial on a GPU (default: the record's median)")
    found.add_argument(
        "--spot-losses-per-hour",
        type=float,
        default=0.05,
        metavar="X",
        help="of each GPU, replaced after 5 minutes (default: 0.05)",
    )
    found.add_argument("--target", type=float, default=0.99, metavar="SHARE", help="of the best recorded Dice (default: 0.99)")
    found.add_argument("--out", type=Path, metavar="FILE.json", help="write all figures there too")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 done, 2 the input is wrong, 130 interrupted."""
    return run(_rehearse, parser().parse_args(arguments))


def _rehearse(given: argparse.Namespace, console: Console) -> int:
    _check(given)
    recording = read(load(given.source), given.experiment)
    plan = make_plan(given, recording)
    surrogate = Surrogate(recording)
    for line in about(surrogate, plan):
        console.print(line, markup=False)
    runs = rehearse(surrogate, plan)
    rows = summary(runs, plan.strategies)
    if given.out is not None:
        _write(given.out, {"plan": asdict(plan), "strategies": rows, "runs": [asdict(run) for run in runs]})
    console.print(table(rows, plan))
    return DONE


def make_plan(given: argparse.Namespace, recording: Recording) -> Plan:
    """What was asked for, on what is recorded.

    Raises:
        InputError: GPUs are lost so often that no trial would end an epoch.
    """
    startup = recording.startup_seconds if given.startup_seconds is None else given.startup_seconds
    longest = startup + max(trial.seconds for trial in recording.trials if trial.seconds > 0)
    if given.spot_losses_per_hour * longest > 3600:
        raise InputError(
            f"--spot-losses-per-hour is {given.spot_losses_per_hour:g}, but starting and an epoch take up to {longest:.0f} s; "
            f"give less than {3600 / longest:.3g}"
        )
    cluster = Cluster(gpus=given.gpus, startup_seconds=startup, losses_per_hour=given.spot_losses_per_hour)
    return Plan(
        cluster=cluster, trials=given.trials, seeds=given.seeds, strategies=given.strategies.split(","), target=given.target
    )


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


def _check(given: argparse.Namespace) -> None:
    for option in ("gpus", "trials", "seeds"):
        if getattr(given, option) < 1:
            raise InputError(f"--{option} is {getattr(given, option)}; it must be at least 1")
    for option in ("startup_seconds", "spot_losses_per_hour"):
        value = getattr(given, option)
        if value is not None and not 0 <= value < math.inf:
            raise InputError(f"--{option.replace('_', '-')} is {value:g}; it must be a number from 0")
    if not 0 < given.target <= 1:
        raise InputError(f"--target is {given.target:g}; it is a share of the best recorded Dice, above 0 and up to 1")
    for name in given.strategies.split(","):
        strategy(name)
    if given.out is not None and not given.out.parent.is_dir():
        raise InputError(f"--out is {given.out}, but there is no folder {given.out.parent}")


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """JSON, in which what was never reached is null."""

    def plain(value: Any) -> Any:
        if isinstance(value, Estimate):
            value = value._asdict()
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    try:
        path.write_text(json.dumps(plain(content), indent=2) + "\n")
    except OSError as error:
        raise InputError(f"--out {path} cannot be written: {error.strerror}") from error


if __name__ == "__main__":
    if sys.path and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
        del sys.path[0]  # tune/ itself is no place to import from
    sys.exit(main())
