"""How much cheaper is the default strategy than random search, and than Ray Tune's own defaults? Rehearsed on recorded curves.

    python benchmarks/strategies.py                                # the lake that comes along, 16 simulated GPUs, 20 seeds
    python benchmarks/strategies.py --from results --seeds 5
    python benchmarks/strategies.py --tables FOLDER                # other people's curves, see on_tables/tables.py for their forms

For every space of the lake: GPU-hours and hours until a trial shows 99 % of the best recorded Dice, as ratios of medians. Beside
them how much there is to save, by `hindsight`: its first trials are as random as everybody's, for nobody knows anything yet, but
after one epoch it knows all, and from then on trains nothing but settings that reach the target. Then the time that it takes to
rehearse a search of 1,000 trials on 100 GPUs with the default strategy, on one core.

With --tables, strategies search tables of other people's curves, with equal budgets of whole trainings. How good the best setting
found is, is a regret: 0 for the best known of the table, 1 for a median random setting. Every course is written to --book as it
ends: a cut loses one, the same command goes on, and a longer one adds to it.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from on_tables import contestants, report
from on_tables.courses import Task, run_all
from on_tables.tables import find
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from rich.console import Console

from cdal.errors import InputError
from tune.proposing import Space, default_sampler, from_optuna
from tune.rehearsal import (
    STRATEGIES,
    Cluster,
    Plan,
    Strategy,
    Surrogate,
    about,
    estimate_ratio,
    families,
    read,
    rehearse,
    run_one,
    summary,
    table,
)
from tune.results import load
from tune.running import Options

RECORDED = Path(__file__).parent / "recorded"
LOSSES_PER_HOUR, TARGET = 0.05, 0.99
HINDSIGHT, MOST_DRAWN = "hindsight", 5000
OF_TABLES = "default,late,curves+hedged,random+asha,tpe+asha,ray,random"
LONGEST = 60.0  # seconds for 1,000 trials on 100 GPUs


def main() -> int:
    """Print the tables; 1 where the long rehearsal takes too long, 2 where there is nothing to replay."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="source", default=str(RECORDED), metavar="LAKE", help="default: benchmarks/recorded")
    parser.add_argument("--gpus", type=int, default=16)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--tables", type=Path, metavar="FOLDER", help="search other people's curves instead")
    parser.add_argument("--book", type=Path, default=Path("strategies.jsonl"), help="of --tables (default: strategies.jsonl)")
    parser.add_argument("--strategies", default=OF_TABLES, metavar="A,B", help=f"of --tables (default: {OF_TABLES})")
    parser.add_argument("--only", default="", metavar="A,B", help="of --tables: those whose names hold one of these")
    parser.add_argument("--workers", default="16", metavar="N,N", help="of --tables (default: 16)")
    parser.add_argument("--losses", default="0", metavar="X,X", help="of --tables: of each worker in a whole training (default: 0)")
    args = parser.parse_args()
    console = Console(width=120 if args.tables else 100, highlight=False)
    slow = False
    try:
        if args.tables:
            return on_tables(args, console)
        lake = load(args.source)
        for names in families(lake):
            surrogate = Surrogate(read(lake, names))
            compare(surrogate, args, console)
            slow |= long_rehearsal(surrogate) > LONGEST
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 1 if slow else 0


def on_tables(args: argparse.Namespace, console: Console) -> int:
    """Search other people's curves, and print what came of it."""
    strategies = args.strategies.split(",")
    for name in strategies:
        contestants.check(name)
    wanted = args.only.split(",")
    tables = [table for table in find(args.tables) if any(part in table.name for part in wanted)]
    clusters = [(int(workers), float(losses)) for workers in args.workers.split(",") for losses in args.losses.split(",")]
    tasks = [
        Task(table.name, strategy, workers, losses, seed)
        for seed in range(args.seeds)
        for workers, losses in clusters
        for strategy in strategies
        for table in tables
    ]
    report.show(console, run_all(tables, tasks, args.book), tables, first=strategies[0])
    return 0


def compare(surrogate: Surrogate, args: argparse.Namespace, console: Console) -> None:
    """Rehearse all strategies and print the default one's share of the others' costs."""
    cluster = Cluster(gpus=args.gpus, startup_seconds=surrogate.recording.startup_seconds, losses_per_hour=LOSSES_PER_HOUR)
    plan = Plan(cluster=cluster, trials=args.trials, seeds=args.seeds, strategies=tuple(STRATEGIES), target=TARGET)
    for line in about(surrogate, plan):
        print(line)
    runs = rehearse(surrogate, plan)
    console.print(table(summary(runs, plan.strategies), plan))
    STRATEGIES[HINDSIGHT] = partial(hindsight, surrogate)
    runs += rehearse(surrogate, replace(plan, strategies=(HINDSIGHT,), trials=4 * args.gpus))
    del STRATEGIES[HINDSIGHT]
    for one in ("default", HINDSIGHT):
        for other in ("random", "ray"):
            for cost in ("gpu_hours", "hours"):
                ours, theirs = ([getattr(run, cost) for run in runs if run.strategy == name] for name in (one, other))
                ratio = " ".join(str(estimate_ratio(ours, theirs)).split())
                print(f"{one:9} / {other:7}{cost.replace('_', '-'):10} to {100 * TARGET:g} %: {ratio}")


def hindsight(surrogate: Surrogate, space: Space, trials: int, at_once: int, seed: int) -> Strategy:
    """Random settings until a first epoch is known, and then as many that reach the target as there are GPUs, over and over."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))

    def drawn(count: int) -> Iterator[Mapping[str, Any]]:
        for _ in range(count):
            yield from_optuna(space, dict(study.ask(space.distributions).params))

    def wins(values: Mapping[str, Any]) -> bool:
        curve = surrogate.curve(values, seed)
        return curve.fails_after is None and bool(np.max(curve.dice) >= TARGET * surrogate.recording.best)

    first = list(drawn(at_once))
    known = (trial.values for trial in surrogate.recording.trials)  # where hardly any random ones do
    winners = cycle(islice(filter(wins, chain(drawn(MOST_DRAWN), known)), at_once))

    class Settings(Searcher):
        def suggest(self, trial_id: str) -> dict[str, Any]:
            values = first.pop() if first else None
            return {"values": values, "wins": wins(values)} if values else {"values": next(winners), "wins": True}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            pass

    class Winners(FIFOScheduler):
        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            return str(TrialScheduler.CONTINUE if trial.config["wins"] else TrialScheduler.STOP)

    return Strategy(Settings(), Winners())


def long_rehearsal(surrogate: Surrogate) -> float:
    """Seconds for one search of 1,000 trials on 100 GPUs."""
    cluster = Cluster(gpus=100, startup_seconds=surrogate.recording.startup_seconds, losses_per_hour=LOSSES_PER_HOUR)
    name = f"{default_sampler(1)}+{Options.scheduler}"  # the default, but that it does not end early
    plan = Plan(cluster=cluster, trials=1000, seeds=1, strategies=(name,), target=TARGET)
    started = time.perf_counter()
    run_one(surrogate, plan, (name, 0))
    seconds = time.perf_counter() - started
    print(f"1,000 trials on 100 GPUs, {name}: {seconds:.1f} s (bar: {LONGEST:.0f} s)\n")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
