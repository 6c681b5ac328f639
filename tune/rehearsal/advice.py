"""Which strategy would have served a person's own searches best: all rehearsed on their curves, with equal GPU-hours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import stats

from tune.rehearsal.curves import Surrogate
from tune.rehearsal.medians import number
from tune.rehearsal.runs import Plan, Run

if TYPE_CHECKING:
    from rich.table import Table

CHOICES = ("default", "curves+hedged", "curves+hyperband", "random+asha", "tpe+asha", "random+none")
"""What `tune/search.py` can be told to do; the first is what the others are compared with."""
_TRUSTED = 0.7  # rank correlation


class Advice(NamedTuple):
    """How a strategy did."""

    strategy: str
    true_dice: float
    """Mean over seeds, without luck, of the settings that it would recommend."""
    gained: float
    """On the first strategy, mean over seeds."""
    low: float
    high: float
    """Interval of the mean (t), seed by seed; all together hold with 95 % confidence (Bonferroni)."""


def advise(runs: Sequence[Run], strategies: Sequence[str]) -> list[Advice]:
    """All strategies compared with the first; runs have the same seeds."""
    dice = {name: np.nan_to_num([run.true_dice for run in runs if run.strategy == name]) for name in strategies}
    found = []
    for name, own in dice.items():
        gained = own - dice[strategies[0]]
        low = high = float(gained.mean())
        if gained.std() > 0:
            low, high = stats.ttest_1samp(gained, 0).confidence_interval(1 - 0.05 / (len(strategies) - 1))
        found.append(Advice(name, float(own.mean()), float(gained.mean()), float(low), float(high)))
    return found


def in_words(advice: Sequence[Advice], surrogate: Surrogate) -> str:
    """What to do, in a sentence or two."""
    first = advice[0].strategy
    best = max(advice, key=lambda each: (each.low > 0, each.gained))
    gained = f"Dice {best.gained:+.4f} ({_interval(best)})"
    sampler, _, scheduler = best.strategy.partition("+")
    if best.low > 0:
        how = f"--sampler {sampler} --scheduler {scheduler}" if scheduler else f"`{best.strategy}`"
        said = f"{how} would have served you better than `{first}`: {gained}"
    elif best is advice[0]:
        said = f"Stay with `{first}`: none of the others would have served you better"
    else:
        said = f"Stay with `{first}`: none can be told from it (the best, {best.strategy}: {gained})"
    if surrogate.rank_correlation is None or surrogate.rank_correlation < _TRUSTED:
        said += f". A hint only: of these curves little can be foretold (rank correlation {number(surrogate.rank_correlation)})"
    return said


def advice_table(advice: Sequence[Advice], plan: Plan) -> Table:
    """What the command prints."""
    from rich import box
    from rich.table import Table

    title = f"{plan.seeds} searches of {plan.gpu_hours:.3g} GPU-hours each on {plan.cluster.gpus} simulated GPUs"
    found = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    found.add_column("strategy")
    for heading in ("Dice of the settings\nit recommends", f"more than\n{advice[0].strategy}", "95 % interval"):
        found.add_column(heading, justify="right")
    for each in sorted(advice, key=lambda each: -each.gained):
        other = each.strategy != advice[0].strategy
        found.add_row(
            each.strategy, f"{each.true_dice:.4f}", f"{each.gained:+.4f}" if other else "", _interval(each) if other else ""
        )
    return found


def trials_that_fit(surrogate: Surrogate, gpu_hours: float) -> int:
    """How many trials a search of so many GPU-hours could begin if each took an epoch."""
    recording = surrogate.recording
    seconds = float(np.nanmin([trial.seconds for trial in recording.trials]))
    return math.ceil(3600 * gpu_hours / (recording.startup_seconds + seconds)) + 1


def _interval(advice: Advice) -> str:
    return f"{advice.low:+.4f} to {advice.high:+.4f}"
