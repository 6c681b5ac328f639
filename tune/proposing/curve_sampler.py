"""The project's own sampler: a Gaussian process of what every trial's learning curve promises, and expected improvement.

Optuna's Gaussian process hears of finished trials only, and early stopping leaves few. Here every trial counts, those that were
stopped and those that still run too, with the Dice that it is expected to have in the end (`extrapolation.py`), and the less the
more of its curve is missing. Trials that have shown nothing yet count as if they had turned out as foretold, so that the next ones
go elsewhere. Failed ones count as bad as the worst.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState
from scipy.special import ndtr
from threadpoolctl import threadpool_limits

from tune.proposing.axes import INACTIVE, Axis
from tune.proposing.extrapolation import extrapolate, to_logit
from tune.proposing.gaussian_process import FloatArray, GaussianProcess

_MOST_TRIALS = 200  # known to the model; beyond, the better two thirds of them and some of the others
_FITS = (8, 12, 16, 24, 32, 48, 64, 96, 128)  # trials after which the kernel is fitted anew
_DRAWN = 512
_CENTRES, _NEIGHBOURS = 6, 64
_REACH = (0.2, 0.1, 0.03)  # of the neighbours that are looked at, round after round

_fitted: dict[bytes, FloatArray] = {}


class CurveSampler(BaseSampler):
    """For one objective, to be maximised: a Dice, of which trials report the best so far after every epoch."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._independent = RandomSampler(seed=seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Every field that some trial had, those with a condition too."""
        found: dict[str, BaseDistribution] = {}
        for other in study.get_trials(deepcopy=False):
            found |= other.distributions
        return {name: distribution for name, distribution in sorted(found.items()) if not distribution.single()}

    @threadpool_limits.wrap(limits=1, user_api="blas")  # type: ignore[untyped-decorator]  # more take longer, and the trials' cores
    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """The values of which the most is expected."""
        others = [other for other in study.get_trials(deepcopy=False) if other.number != trial.number]
        if not any(other.intermediate_values for other in others):
            return {}
        model = _Model(search_space, others)
        units = self._snapped(model, self._random.random((_DRAWN, len(search_space))))
        gains, centres = model.gain(units), model.best(_CENTRES)
        for reach in _REACH:
            near = self._snapped(model, self._near(np.repeat(centres, _NEIGHBOURS, axis=0), reach))
            units, gains = np.concatenate([units, near]), np.concatenate([gains, model.gain(near)])
            centres = units[np.argsort(-gains, kind="stable")[:_CENTRES]]
        return {name: axis.value(unit) for (name, axis), unit in zip(model.axes.items(), centres[0], strict=True)}

    def sample_independent(self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        """Fields that no trial had yet, and all of them before anything is known."""
        return self._independent.sample_independent(study, trial, name, distribution)

    def _near(self, units: FloatArray, reach: float) -> FloatArray:
        """Each point with about half of its fields moved, and some drawn anew."""
        moved = np.abs(units + reach * self._random.standard_normal(units.shape))
        moved = np.clip(np.minimum(moved, 2 - moved), 0, 1)
        found = np.where(self._random.random(units.shape) < 0.5, moved, units)
        return np.where(self._random.random(units.shape) < 0.5 / units.shape[1], self._random.random(units.shape), found)

    @staticmethod
    def _snapped(model: _Model, units: FloatArray) -> FloatArray:
        return np.stack([axis.snapped(column) for axis, column in zip(model.axes.values(), units.T, strict=True)], axis=-1)


class _Model:
    """What some trials say of all settings."""

    def __init__(self, space: dict[str, BaseDistribution], trials: Sequence[FrozenTrial]) -> None:
        self.axes = {name: Axis(distribution) for name, distribution in space.items()}
        known = [trial for trial in trials if trial.intermediate_values or trial.state == TrialState.FAIL or _infeasible(trial)]
        known.sort(key=_when_ended)
        units, (promised, variances) = self._units(known), _promised(known)
        chosen = _most_telling(promised)
        self._known = units[chosen]
        self._process = GaussianProcess(self._place(self._known), promised[chosen], variances[chosen], self._fitted(known, units))
        self._foretold = self._process.mean(self._place(self._known))
        awaited = self._units([trial for trial in trials if trial.state == TrialState.RUNNING and not trial.intermediate_values])
        both, noise = np.concatenate([self._known, awaited]), np.concatenate([variances[chosen], np.zeros(len(awaited))])
        self._deviations = self._process.deviations(self._place(both), noise)

    def best(self, count: int) -> FloatArray:
        """Units (count, fields) of the known trials of which most is expected, noise aside."""
        return np.asarray(np.nan_to_num(self._known[np.argsort(-self._foretold, kind="stable")[:count]], nan=0.5))

    def gain(self, units: FloatArray) -> FloatArray:
        """Expected improvement (n,), in logits, over the best that is foretold of any known trial."""
        places = self._place(units)
        mean, deviation = self._process.mean(places), self._deviations(places)
        z = (mean - self._foretold.max()) / deviation
        return np.asarray(deviation * (z * ndtr(z) + np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)))

    def _fitted(self, known: Sequence[FrozenTrial], units: FloatArray) -> FloatArray:
        """The kernel's parameters, from the first trials that ended; the same for the same trials."""
        ended = sum(trial.state.is_finished() for trial in known)
        first = max((count for count in _FITS if count <= ended), default=len(known))
        promised, variances = _promised(known[:first])
        places = self._place(units[:first])
        key = b"".join(array.tobytes() for array in (*places, promised, variances))
        if key not in _fitted:
            _fitted.clear()
            _fitted[key] = GaussianProcess(places, promised, variances).hyperparameters
        return _fitted[key]

    def _units(self, trials: Sequence[FrozenTrial]) -> FloatArray:
        rows = [
            [axis.unit(trial.params[name]) if name in trial.params else INACTIVE for name, axis in self.axes.items()]
            for trial in trials
        ]
        return np.array(rows).reshape(len(trials), len(self.axes))

    def _place(self, units: FloatArray) -> list[FloatArray]:
        return [axis.place(column) for axis, column in zip(self.axes.values(), units.T, strict=True)]


def _promised(trials: Sequence[FrozenTrial]) -> tuple[FloatArray, FloatArray]:
    """(trials,): the logit of the best Dice in the end, and its variance."""
    curves = [to_logit(np.array([value for _, value in sorted(trial.intermediate_values.items())])) for trial in trials]
    failed = np.array([trial.state == TrialState.FAIL or _infeasible(trial) for trial in trials])
    well = [curve for curve, bad in zip(curves, failed, strict=True) if not bad]
    found, variances = np.full(len(trials), to_logit(np.array(0.0))), np.zeros(len(trials))
    if well:
        whole = extrapolate(well, max(curve.size for curve in well))
        found[:] = whole.curves[:, -1].min()
        found[~failed], variances[~failed] = whole.curves[:, -1], whole.variances
    return found, variances


def _most_telling(promised: FloatArray) -> npt.NDArray[np.intp]:
    """Places of the trials that the model knows."""
    order, better = np.argsort(-promised, kind="stable"), 2 * _MOST_TRIALS // 3
    if len(order) <= _MOST_TRIALS:
        return np.arange(len(order))
    some = np.linspace(better, len(order) - 1, _MOST_TRIALS - better).astype(int)
    return np.asarray(np.concatenate([order[:better], order[some]]))


def _infeasible(trial: FrozenTrial) -> bool:
    return any(value > 0 for value in trial.constraints.values())


def _when_ended(trial: FrozenTrial) -> tuple[bool, float, int]:
    end = trial.datetime_complete
    return end is None, 0.0 if end is None else end.timestamp(), trial.number
