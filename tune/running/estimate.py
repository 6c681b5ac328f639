"""What a search is going to take: a few steps and one case are timed on the machine that will run it.

pace = calibrate(config, dataset, fold=0, device="cpu")
print(forecast(Paces(typical=pace, published=pace), ...))
"""

import math
import time
from dataclasses import dataclass
from typing import NamedTuple

import torch

from cdal.config import Config
from cdal.data import Dataset, steps_per_pass
from cdal.devices.memory import peak_memory, reset_peak
from cdal.evaluation import validate
from cdal.predict import full_protocol, protocol, sampler
from cdal.trainer import Trainer
from cdal.training import draw_batch
from tune.stopping import HEDGE, POPULATION, REDUCTION
from tune.trials import kinds_of_steps

_ALIKE = 1.5  # ratio of durations up to which one of them is enough to know
_PATIENCE = 3.0  # seconds that one case may take before its scoring is reckoned, not timed


class Pace(NamedTuple):
    """Seconds of a trial's parts."""

    epoch: float
    """Training steps and the cheap validation."""
    scoring: float
    """Of the best checkpoint, by the full protocol."""
    memory: int = 0
    """Most bytes that were in use."""

    def trial(self, epochs: float) -> float:
        """Seconds of a trial that is stopped after some epochs, or scored after them all."""
        return epochs * self.epoch + self.scoring


class Paces(NamedTuple):
    """Of the trials of a search."""

    typical: Pace
    """A setting from the middle of the space."""
    published: Pace
    """The published settings, which may lie outside of the space, and be far slower than all that is in it."""

    def slowed(self, factor: float) -> "Paces":
        """Those of trials that take so many times as long, as they share a GPU."""
        slow = (pace._replace(epoch=factor * pace.epoch, scoring=factor * pace.scoring) for pace in self)
        return Paces(*slow)


def calibrate(config: Config, dataset: Dataset, *, fold: int, device: torch.device | str) -> Pace:
    """Time a few steps, the validation of one case, and where that is quick its scoring.

    Weights and results are thrown away. One process alone on the machine is timed: trials beside each other may be slower.
    """
    split, settings, device = dataset.split(fold), config.training, torch.device(device)
    reset_peak(device)
    trainer = Trainer(config, device)

    def step(number: int) -> float:
        trainer.steps = number
        batch = draw_batch(config, dataset, split.train, number, device)
        started = time.perf_counter()
        losses = trainer.step(*batch)
        _ = float(next(iter(losses.values())))  # waits for the device
        return time.perf_counter() - started

    def quick_step(number: int) -> float:
        """On a GPU a kind of steps is recorded at its second time, and quick from the third on."""
        return min(step(number) for _ in range(3 if device.type == "cuda" else 1))

    first = step(0)  # memory is got, kernels are chosen
    period, updating, between = kinds_of_steps(config)
    interval = config.optimiser.discriminator_interval
    with_penalty = first if first > _PATIENCE else quick_step(period)
    update = quick_step(updating) if period > interval else with_penalty
    without = quick_step(between) if interval > 1 else update
    updates = period // interval
    per_step = (with_penalty + (updates - 1) * update + (period - updates) * without) / period

    evaluation, case = config.evaluation, split.validation[:1]
    sample = sampler(config, trainer.evaluated)
    started = time.perf_counter()
    validate(
        dataset,
        case,
        sample,
        votes=evaluation.validation_votes,
        multiple=config.model.size_multiple,
        seed=settings.seed,
        device=device,
    )
    one_case = time.perf_counter() - started
    if one_case < _PATIENCE:
        list(full_protocol(config, trainer.evaluated, dataset, ()))  # imports what scoring needs, which takes seconds
        started = time.perf_counter()
        list(full_protocol(config, trainer.evaluated, dataset, case))
        scoring = time.perf_counter() - started
    else:
        scoring = one_case * protocol(config, trainer.evaluated)["votes"] / evaluation.validation_votes
    steps = settings.steps_per_epoch or steps_per_pass(len(split.train), settings.batch_size, settings.samples_per_case)
    count = len(split.validation)
    return Pace(
        steps * per_step + min(evaluation.validation_cases or count, count) * one_case,
        min(evaluation.cases or count, count) * scoring,
        peak_memory(device),
    )


def expected_epochs(scheduler: str, epochs: int, grace: int) -> float:
    """Epochs of an average trial, where the scheduler stops as many as it means to."""
    if scheduler in ("none", POPULATION):
        return epochs
    if scheduler == "median":
        return (grace + epochs) / 2  # half of them go on
    if scheduler == "hedged":
        return expected_epochs("asha", epochs, grace) * (1 - 1 / HEDGE) + epochs / HEDGE
    total, share, rung = 0.0, 1.0, 0
    for milestone in [*(grace * REDUCTION**k for k in range(64) if grace * REDUCTION**k < epochs), epochs]:
        total += share * (milestone - rung)
        share, rung = share / REDUCTION, milestone
    return total


@dataclass(frozen=True)
class Forecast:
    """A whole search, before it starts."""

    trials: int
    trial_seconds: float
    """Of a typical trial that is not stopped."""
    published_seconds: float
    """Of the published settings."""
    seconds: float
    """Wall time; where trials are many, with every worker busy."""
    most_seconds: float
    """If none is stopped."""
    gpus: float
    """Held while it runs."""
    price: float | None
    """Of a GPU-hour."""

    def __str__(self) -> str:
        text = f"a whole trial takes about {duration(self.trial_seconds)}"
        if not 1 / _ALIKE < self.published_seconds / self.trial_seconds < _ALIKE:
            text += f", the published settings {duration(self.published_seconds)}"
        text += f"; {self.trials} trials about {duration(self.seconds)}"
        if self.most_seconds > 1.05 * self.seconds:
            text += f" ({duration(self.most_seconds)} if none were stopped)"
        if self.gpus:
            hours = self.gpus * self.seconds / 3600
            text += f", {hours:.2f} GPU-hours" + ("" if self.price is None else f", costs {hours * self.price:.2f}")
        return text


def forecast(
    paces: Paces,
    *,
    scheduler: str,
    epochs: int,
    grace: int,
    controls: int,
    trials: int | None,
    at_once: int,
    gpus: float,
    seconds: float | None,
    gpu_hours: float | None,
    price: float | None,
) -> Forecast:
    """What a search takes within its budgets.

    Args:
        paces: from `calibrate`.
        scheduler: its name.
        epochs: of a whole trial.
        grace: epochs before a trial may be stopped.
        controls: trials that are never stopped, the published settings first.
        trials: how many at most; None where only the budget ends the search.
        at_once: trials side by side.
        gpus: that one trial holds.
        seconds: time budget.
        gpu_hours: budget of GPU-hours.
        price: of a GPU-hour.
    """
    whole, published = paces.typical.trial(epochs), paces.published.trial(epochs)
    share = expected_epochs(scheduler, epochs, grace) / epochs
    limits = [seconds or math.inf, 3600 * gpu_hours / (gpus * at_once) if gpu_hours and gpus else math.inf]

    def wall(count: int, part: float) -> float:
        fixed = min(controls, count) - 1
        work = published + whole * (fixed + (count - 1 - fixed) * part)
        return max(work / min(at_once, count), published, whole if count > 1 else 0.0)

    count = trials
    if count is None:  # typical trials that there is room for beside the published settings
        room, fixed = (min(limits) * at_once - min(published, *limits)) / whole, controls - 1
        count = 1 + max(0, round(room if room < fixed else fixed + (room - fixed) / share))
    return Forecast(
        count, whole, published, min(wall(count, share), *limits), min(wall(count, 1.0), *limits), gpus * min(at_once, count), price
    )


def duration(seconds: float) -> str:
    """A duration in the unit that suits it."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
