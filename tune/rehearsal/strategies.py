"""Strategies by name: a searcher and a scheduler, this project's or as Ray Tune has them."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import optuna
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from cdal.errors import InputError
from tune.lake.status import UNET
from tune.proposing import Proposal, Queue, Space, Study, TruthfulSearcher, check_sampler, controls, default_sampler, startup_trials
from tune.stopping import (
    DEFAULT_MIN_IMPROVEMENT,
    DEFAULT_SCHEDULER,
    POPULATION,
    check_scheduler,
    grace_epochs,
    make_scheduler,
    why_enough,
)


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
        return min_improvement > 0 and why_enough(study.sampled, study.progress, epochs, min_improvement) is not None

    searcher = TruthfulSearcher(queue, configure, lambda proposal, reason: None, enough)
    return Strategy(searcher, make_scheduler(scheduler, epochs=epochs, grace=grace_epochs(scheduler, epochs), startup=startup))


def plain_ray(space: Space, trials: int, at_once: int, seed: int) -> Strategy:
    """Ray Tune's Optuna and ASHA with their own defaults, and no trial given."""
    searcher = OptunaSearch(space.distributions, metric="dice", mode="max", seed=seed)
    return Strategy(searcher, ASHAScheduler(metric="dice", mode="max", max_t=space.base.training.epochs))


def random_search(space: Space, trials: int, at_once: int, seed: int) -> Strategy:
    """Random settings, each trained to the end."""
    sampler = optuna.samplers.RandomSampler(seed=seed)
    return Strategy(OptunaSearch(space.distributions, metric="dice", mode="max", sampler=sampler), FIFOScheduler())  # type: ignore[no-untyped-call]


STRATEGIES: dict[str, Callable[[Space, int, int, int], Strategy]] = {
    "default": partial(ours, sampler=default_sampler(1), scheduler=DEFAULT_SCHEDULER, min_improvement=DEFAULT_MIN_IMPROVEMENT),
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
