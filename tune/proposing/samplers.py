"""Samplers by name: how the next settings are chosen. Most are Optuna's own, with every option that matters said here.

For every proposal there is a sampler, seeded by (seed, number), and Sobol points are taken by their own number. So proposal n
depends on the trials before it, on their order and the order of their ends, and on nothing else: a resumed search goes on as if it
had not been cut. Whatever a sampler remembers from one proposal to the next is a copy of what it can work out again.
"""

import warnings
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from cdal.errors import InputError
from tune.proposing.curve_sampler import Curves, CurveSampler
from tune.proposing.evolution import Evolution, EvolutionSampler, Generations, GeneticSampler


@dataclass(frozen=True, kw_only=True)
class Search:
    """What a sampler is made for."""

    seed: int
    startup: int
    """Proposals before the model takes over."""
    fields: Mapping[str, BaseDistribution]
    """All that are searched."""
    conditional: Set[str]
    """Those of them that not every trial has."""

    def mixed(self, number: int) -> int:
        """A seed for one proposal."""
        return int(np.random.SeedSequence((self.seed, number)).generate_state(1)[0])

    @property
    def constant(self) -> dict[str, BaseDistribution]:
        """Fields that every trial has, and that have more than one value."""
        return {name: each for name, each in self.fields.items() if name not in self.conditional and not each.single()}


Draw = Callable[[int, int], BaseSampler]
"""The sampler of one proposal, from the proposal's number and from how many others could be drawn before it."""


class Sampler(NamedTuple):
    """A sampler and when to take it."""

    make: Callable[[Search], Draw]
    several_objectives: bool
    advice: str
    learns: bool = True
    """Whether there is a model that follows the random trials."""


class SobolSampler(optuna.samplers.QMCSampler):
    """A scrambled Sobol point, by its number, of all fields; those that a trial does not have are left out."""

    def __init__(self, search: Search, point: int) -> None:
        super().__init__(scramble=True, seed=search.seed, warn_independent_sampling=False)
        self._fields, self._point = dict(search.fields), point

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Every field, whatever other trials had."""
        return self._fields

    def _find_sample_id(self, study: optuna.Study, search_space: dict[str, BaseDistribution]) -> int:
        return self._point  # Optuna would count the points that this process has drawn


class ParzenSampler(optuna.samplers.TPESampler):
    """Optuna's TPE, to which a trial that runs has the fields that it was given, as after a resume."""

    def _get_params(self, trial: FrozenTrial, study: optuna.Study) -> dict[str, Any]:
        return trial.params


def _tpe(search: Search) -> Draw:
    def draw(number: int, point: int) -> BaseSampler:
        if number < search.startup:  # spread more evenly than the sampler's own random start
            return SobolSampler(search, point)
        return ParzenSampler(
            n_startup_trials=search.startup, multivariate=True, group=True, constant_liar=True, seed=search.mixed(number)
        )

    return draw


def _curves(search: Search) -> Draw:
    curves = Curves()

    def draw(number: int, point: int) -> BaseSampler:
        # every other one as random as at first: where trials are halved it costs little, and no model is right about all curves
        spread = number < search.startup or number % 2 == 1
        return SobolSampler(search, point) if spread else CurveSampler(search.mixed(number), curves)

    return draw


def _gp(search: Search) -> Draw:
    def draw(number: int, point: int) -> BaseSampler:
        return optuna.samplers.GPSampler(
            n_startup_trials=search.startup, seed=search.mixed(number), warn_independent_sampling=False
        )

    return draw


def _cmaes(search: Search) -> Draw:
    evolution = Evolution(search.constant, search.seed, search.startup)

    def draw(number: int, point: int) -> BaseSampler:
        return EvolutionSampler(search.mixed(number), evolution if number >= search.startup else None)

    return draw


def _random(search: Search) -> Draw:
    return lambda number, point: optuna.samplers.RandomSampler(seed=search.mixed(number))


def _quasirandom(search: Search) -> Draw:
    return lambda number, point: SobolSampler(search, point)


def _nsga2(search: Search) -> Draw:
    generations = Generations(max(2 * search.startup, 8))
    return lambda number, point: GeneticSampler(search.mixed(number), search.constant, generations)


SAMPLERS: dict[str, Sampler] = {
    "curves": Sampler(
        _curves,
        False,
        "this project's own: Sobol points first, and later for every other trial; else a Gaussian process of what every trial's "
        "curve promises, and expected improvement. The default for one objective: it takes choices, ranges and conditions, and "
        "learns the most from trials that were stopped or still run.",
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


def make_sampler(
    name: str,
    *,
    seed: int,
    startup: int,
    fields: Mapping[str, BaseDistribution],
    conditional: Set[str] = frozenset(),
    objectives: int = 1,
) -> Draw:
    """What gives the sampler of every proposal of a search; its samplers serve one Optuna study.

    Args:
        name: one of `SAMPLERS`.
        seed: of the search.
        startup: random proposals before the model takes over.
        fields: all that are searched.
        conditional: those of them that not every trial has.
        objectives: how many.

    Raises:
        InputError: there is no such sampler, or it cannot weigh several objectives.
    """
    check_sampler(name, objectives)
    draw = SAMPLERS[name].make(Search(seed=seed, startup=startup, fields=fields, conditional=conditional))

    def quietly(number: int, point: int) -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # about `group`
            return draw(number, point)

    return quietly


def check_sampler(name: str, objectives: int = 1) -> None:
    """Raise InputError where there is no such sampler, or where it cannot weigh several objectives."""
    if name not in SAMPLERS:
        raise InputError(f"--sampler is {name!r}; samplers are {', '.join(SAMPLERS)}")
    if objectives > 1 and not SAMPLERS[name].several_objectives:
        able = ", ".join(other for other, sampler in SAMPLERS.items() if sampler.several_objectives)
        raise InputError(f"--sampler is {name}, which has one objective only; with several take one of {able}")
