"""Samplers by name: how the next settings are chosen. All but one are Optuna's own, with every option that matters said here.

The sampler is seeded for every proposal by (seed, number), so proposal n depends on what was told before it and on nothing else: a
resumed search goes on as if it had not been cut. (Sobol points are numbered; theirs is one seed.)
"""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import optuna
from optuna.samplers import BaseSampler

from cdal.errors import InputError
from tune.proposing.curve_sampler import CurveSampler


class Sampler(NamedTuple):
    """A sampler and when to take it."""

    make: Callable[[int, int, int], BaseSampler]
    """From the search's seed, the proposal's number, and how many random trials come first."""
    several_objectives: bool
    advice: str
    learns: bool = True
    """Whether there is a model that follows the random trials."""


def _tpe(seed: int, number: int, startup: int) -> BaseSampler:
    if number < startup:  # spread more evenly than the sampler's own random start
        return _quasirandom(seed, number, startup)
    return optuna.samplers.TPESampler(
        n_startup_trials=startup, multivariate=True, group=True, constant_liar=True, seed=_mix(seed, number)
    )


def _curves(seed: int, number: int, startup: int) -> BaseSampler:
    return _quasirandom(seed, number, startup) if number < startup else CurveSampler(_mix(seed, number))


def _gp(seed: int, number: int, startup: int) -> BaseSampler:
    return optuna.samplers.GPSampler(n_startup_trials=startup, seed=_mix(seed, number), warn_independent_sampling=False)


def _cmaes(seed: int, number: int, startup: int) -> BaseSampler:
    return optuna.samplers.CmaEsSampler(
        n_startup_trials=startup, consider_pruned_trials=True, seed=_mix(seed, number), warn_independent_sampling=False
    )


def _random(seed: int, number: int, startup: int) -> BaseSampler:
    return optuna.samplers.RandomSampler(seed=_mix(seed, number))


def _quasirandom(seed: int, number: int, startup: int) -> BaseSampler:
    return optuna.samplers.QMCSampler(scramble=True, seed=seed, warn_independent_sampling=False)


def _nsga2(seed: int, number: int, startup: int) -> BaseSampler:
    return optuna.samplers.NSGAIISampler(population_size=max(2 * startup, 8), seed=_mix(seed, number))


SAMPLERS: dict[str, Sampler] = {
    "curves": Sampler(
        _curves,
        False,
        "this project's own: Sobol points first, then a Gaussian process of what every trial's curve promises, and expected "
        "improvement. The default for one objective: it takes choices, ranges and conditions, and learns the most from trials that "
        "were stopped or still run.",
    ),
    "tpe": Sampler(
        _tpe,
        True,
        "Sobol points first, then a tree-structured Parzen estimator, multivariate and grouped, with a constant liar for trials "
        "that still run. The default for several objectives: it takes choices, ranges and conditions, learns from stopped trials, "
        "and costs nothing with thousands of them.",
    ),
    "gp": Sampler(
        _gp,
        True,
        "Gaussian process with expected improvement. Take it where trials are few and dear (up to about 200) and most fields are "
        "ranges; it learns from finished trials only, so let few be stopped.",
    ),
    "cmaes": Sampler(
        _cmaes,
        False,
        "CMA-ES. Take it for many trials (several hundred) of a space that has ranges only; choices are drawn at random.",
    ),
    "random": Sampler(
        _random,
        True,
        "random. The yardstick; and the one to take where a space shall be mapped, not searched.",
        learns=False,
    ),
    "quasirandom": Sampler(
        _quasirandom,
        True,
        "scrambled Sobol points: random, but spread evenly. Take it for the first look at a new space, or for importances.",
        learns=False,
    ),
    "nsga2": Sampler(
        _nsga2,
        True,
        "the genetic algorithm NSGA-II. Take it for several objectives and many trials (hundreds); with fewer, tpe.",
    ),
}


def default_sampler(objectives: int) -> str:
    """The one for searches that name none."""
    return "curves" if objectives == 1 else "tpe"


def make_sampler(name: str, *, seed: int, number: int, startup: int, objectives: int = 1) -> BaseSampler:
    """The sampler that chooses one proposal.

    Args:
        name: one of `SAMPLERS`.
        seed: of the search.
        number: of the proposal.
        startup: random proposals before the model takes over.
        objectives: how many.

    Raises:
        InputError: there is no such sampler, or it cannot weigh several objectives.
    """
    check_sampler(name, objectives)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # about `group`
        return SAMPLERS[name].make(seed, number, startup)


def check_sampler(name: str, objectives: int = 1) -> None:
    """Raise InputError where there is no such sampler, or where it cannot weigh several objectives."""
    if name not in SAMPLERS:
        raise InputError(f"--sampler is {name!r}; samplers are {', '.join(SAMPLERS)}")
    if objectives > 1 and not SAMPLERS[name].several_objectives:
        able = ", ".join(other for other, sampler in SAMPLERS.items() if sampler.several_objectives)
        raise InputError(f"--sampler is {name}, which has one objective only; with several take one of {able}")


def _mix(seed: int, number: int) -> int:
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
