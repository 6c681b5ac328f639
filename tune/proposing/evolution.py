"""Evolution that follows from what ended, in that order: CMA-ES, and the genetic algorithm NSGA-II.

Optuna's own samplers write into each trial which generation it was drawn for, and CMA-ES its pickled state. Here a generation is
the next so many trials that ended, whichever they were: a list that only grows, so that its generations stay as they are, and a
search that goes on works them out again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cmaes  # type: ignore[import-untyped]
import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from tune.proposing.axes import Axis
from tune.proposing.told import DRAWN, completed, when_ended

_REACH = 1 / 6  # standard deviation of the first generation
_REDRAWN = 10  # times per range, where a draw is out of bounds


class Evolution:
    """CMA-ES over the ranges of a space, in units of 0 to 1, for one study."""

    def __init__(self, fields: Mapping[str, BaseDistribution], seed: int, startup: int) -> None:
        """Begin in the middle.

        Args:
            fields: that every trial has; choices are left out.
            seed: of the search.
            startup: number of the first proposal of which it learns; those before it were drawn elsewhere, as were all given ones.
        """
        ranges = {name: each for name, each in sorted(fields.items()) if isinstance(each, (FloatDistribution, IntDistribution))}
        self.ranges: dict[str, BaseDistribution] = dict(ranges)
        self._axes = {name: Axis(each) for name, each in ranges.items()}
        self._startup, self._told = startup, 0
        self._optimizer: cmaes.CMA | None = None
        if ranges:
            bounds = np.array([[0.0, 1.0]] * len(ranges))
            middle = np.full(len(ranges), 0.5)
            self._optimizer = cmaes.CMA(middle, _REACH, bounds, _REDRAWN * len(ranges), seed % 2**32)

    def ask(self, study: Study, seed: int) -> dict[str, Any]:
        """The values of a proposal."""
        if self._optimizer is None:
            return {}
        self._learn(study)
        self._optimizer.reseed_rng(seed)
        return {name: axis.value(float(unit)) for (name, axis), unit in zip(self._axes.items(), self._optimizer.ask(), strict=True)}

    def _learn(self, study: Study) -> None:
        assert self._optimizer is not None
        ended = [trial for trial in study.get_trials(deepcopy=False) if self._counts(trial)]
        ended.sort(key=when_ended)
        size = self._optimizer.population_size
        while len(ended) - self._told >= size:
            generation = ended[self._told : self._told + size]
            self._optimizer.tell([(self._units(trial), -float(trial.values[0])) for trial in generation])
            self._told += size

    def _counts(self, trial: FrozenTrial) -> bool:
        ended = trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and trial.values is not None
        return ended and trial.user_attrs.get(DRAWN, -1) >= self._startup

    def _units(self, trial: FrozenTrial) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.array([axis.unit(trial.params[name]) for name, axis in self._axes.items()])


class EvolutionSampler(BaseSampler):
    """One proposal of CMA-ES; choices, and fields with a condition, are drawn at random."""

    def __init__(self, seed: int, evolution: Evolution | None) -> None:
        """Take the evolution; None: all fields are drawn at random."""
        self._seed, self._evolution = seed, evolution
        self._independent = RandomSampler(seed=seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The ranges."""
        return self._evolution.ranges if self._evolution else {}

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """A draw from where the best of the last generations lay."""
        return self._evolution.ask(study, self._seed) if self._evolution else {}

    def sample_independent(self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        """All other fields."""
        return self._independent.sample_independent(study, trial, name, distribution)


class Generations:
    """The parents of NSGA-II's next children, for one study."""

    def __init__(self, size: int) -> None:
        self.size, self.past = size, 0
        self.parents: list[FrozenTrial] = []


class GeneticSampler(NSGAIISampler):
    """One child of NSGA-II; fields with a condition are drawn at random."""

    def __init__(self, seed: int, fields: Mapping[str, BaseDistribution], generations: Generations) -> None:
        super().__init__(population_size=generations.size, seed=seed)
        self._fields, self._generations = dict(fields), generations

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Fields that every trial has."""
        return self._fields

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """A child of the best of all whole generations; none before there is one."""
        ended, known = completed(study.get_trials(deepcopy=False)), self._generations
        while len(ended) >= (known.past + 1) * known.size:
            latest = ended[known.past * known.size :][: known.size]
            known.parents = self._elite_population_selection_strategy(study, latest + known.parents)
            known.past += 1
        return self._child_generation_strategy(study, search_space, known.parents) if known.parents else {}
