"""The project's own sampler: a Gaussian process of what every trial's learning curve promises, and expected improvement.

Optuna's Gaussian process hears of finished trials only, and early stopping leaves few. Here every trial counts, those that were
stopped and those that still run too, with the Dice that it is expected to have in the end (`extrapolation.py`), and the less the
more of its curve is missing. How bad the worst quarter is does not matter, lest it bend the model. Trials that have shown nothing
yet count as if they had turned out as foretold, so that the next ones go elsewhere. Those that failed by their settings count as
bad as the worst, those that failed otherwise not at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
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
from tune.proposing.extrapolation import fill, to_logit
from tune.proposing.gaussian_process import FloatArray, GaussianProcess
from tune.proposing.told import ENDED, UNLEARNT

_MOST_TRIALS = 200  # known to the model; beyond, the better two thirds of them and some of the others
_FITS = (8, 12, 16, 24, 32, 48, 64, 96, 128)  # trials after which the kernel is fitted anew
_HOPELESS = 0.25  # share of the trials of which no more is said than that they are bad
_DRAWN = 512
_CENTRES, _NEIGHBOURS = 6, 64
_REACH = (0.2, 0.1, 0.03)  # of the neighbours that are looked at, round after round

BoolArray = npt.NDArray[np.bool_]
IndexArray = npt.NDArray[np.intp]


class Curves:
    """The trials of one study as arrays, of which a proposal renews only what has changed: of thousands, mostly a few."""

    def __init__(self) -> None:
        self.fields: dict[str, BaseDistribution] = {}
        """Every field that some trial had, by name, if it has more than one value."""
        self.fitted: dict[bytes, FloatArray] = {}
        """The kernel's parameters, by what they were fitted to."""
        self._trials: list[FrozenTrial | None] = []
        self._axes: dict[str, Axis] = {}
        self._units: dict[str, FloatArray] = {}
        self._logits = np.empty((0, 0))  # (epochs, trials)
        self._ended, self._shown = np.empty(0), np.empty(0)
        self._bad, self._finished, self._unlearnt, self._running = (np.empty(0, bool) for _ in range(4))

    def renew(self, trials: Sequence[FrozenTrial]) -> None:
        """Take all trials of the study; one that has changed since is another object."""
        self._trials += [None] * (len(trials) - len(self._trials))
        for place, trial in enumerate(trials):
            if trial is not self._trials[place]:
                self._trials[place] = trial
                self._take(place, trial)

    @property
    def known(self) -> IndexArray:
        """Places of the trials that say something, as they ended; those that still run behind them, by number."""
        count = len(self._trials)
        places = np.flatnonzero(((self._shown[:count] > 0) | self._bad[:count]) & ~self._unlearnt[:count])
        found: IndexArray = places[np.argsort(self._ended[places], kind="stable")]
        return found

    def awaited(self, but: int) -> IndexArray:
        """Places of the trials that run and have shown nothing yet."""
        count = len(self._trials)
        places = np.flatnonzero(self._running[:count] & (self._shown[:count] == 0))
        return np.asarray(places[places != but])

    def seen(self, places: IndexArray) -> bool:
        """Whether any of some trials has shown a Dice."""
        return bool(self._shown[places].any())

    def ended(self, places: IndexArray) -> int:
        """How many of some trials have ended."""
        return int(self._finished[places].sum())

    def units(self, places: IndexArray, fields: Iterable[str]) -> FloatArray:
        """Units (places, fields) of some trials' values."""
        return np.stack([self._units[name][places] for name in fields], axis=-1)

    def promised(self, places: IndexArray) -> tuple[FloatArray, FloatArray]:
        """(places,): the logit of the best Dice in the end, and its variance."""
        bad = self._bad[places]
        well = places[~bad]
        found, variances = np.full(len(places), to_logit(np.array(0.0))), np.zeros(len(places))
        if well.size:
            whole = fill(self._logits[: int(self._shown[well].max()), well].T)
            found[:] = whole.curves[:, -1].min()
            found[~bad], variances[~bad] = whole.curves[:, -1], whole.variances
        return np.maximum(found, np.quantile(found, _HOPELESS)), variances

    def _take(self, place: int, trial: FrozenTrial) -> None:
        curve = to_logit(np.array([value for _, value in sorted(trial.intermediate_values.items())]))
        rows, epochs = max(place + 1, len(self._ended)), max(curve.size, len(self._logits))
        if (epochs, rows) != self._logits.shape:
            self._grow(2 * rows if rows > len(self._ended) else rows, epochs)
        self._logits[: curve.size, place] = curve
        self._ended[place], self._shown[place] = trial.user_attrs.get(ENDED, math.inf), curve.size
        self._finished[place], self._running[place] = trial.state.is_finished(), trial.state == TrialState.RUNNING
        self._bad[place], self._unlearnt[place] = trial.state == TrialState.FAIL or _infeasible(trial), UNLEARNT in trial.user_attrs
        for name, distribution in trial.distributions.items():
            if name not in self._axes and not distribution.single():
                self._axes[name], self._units[name] = Axis(distribution), np.full(len(self._ended), INACTIVE)
                self.fields = dict(sorted((self.fields | {name: distribution}).items()))
        for name, axis in self._axes.items():
            self._units[name][place] = axis.unit(trial.params[name]) if name in trial.params else INACTIVE

    def _grow(self, rows: int, epochs: int) -> None:
        def grown(array: FloatArray, *shape: int) -> FloatArray:
            larger = np.full(shape, np.nan)
            larger[tuple(map(slice, array.shape))] = array
            return larger

        self._logits = grown(self._logits, epochs, rows)
        self._ended, self._shown = grown(self._ended, rows), grown(self._shown, rows)
        self._units = {name: grown(column, rows) for name, column in self._units.items()}
        flags = (self._bad, self._finished, self._unlearnt, self._running)
        self._bad, self._finished, self._unlearnt, self._running = (np.resize(flag, rows) for flag in flags)


class CurveSampler(BaseSampler):
    """For one objective, to be maximised: a Dice, of which trials report the best so far after every epoch."""

    def __init__(self, seed: int, curves: Curves) -> None:
        """Take what earlier proposals of the same study have worked out."""
        self._random = np.random.default_rng(seed)
        self._independent = RandomSampler(seed=seed)
        self._curves = curves

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Every field that some trial had, those with a condition too."""
        self._curves.renew(study.get_trials(deepcopy=False))
        return self._curves.fields

    @threadpool_limits.wrap(limits=1, user_api="blas")  # type: ignore[untyped-decorator]  # more take longer, and the trials' cores
    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """The values of which the most is expected."""
        known = self._curves.known
        if not self._curves.seen(known):
            return {}
        model = _Model(search_space, self._curves, known, self._curves.awaited(trial.number))
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

    def __init__(self, space: dict[str, BaseDistribution], curves: Curves, known: IndexArray, awaited: IndexArray) -> None:
        self.axes = {name: Axis(distribution) for name, distribution in space.items()}
        promised, variances = curves.promised(known)
        chosen = _most_telling(promised)
        self._known = curves.units(known[chosen], self.axes)
        self._process = GaussianProcess(self._place(self._known), promised[chosen], variances[chosen], self._fitted(curves, known))
        self._foretold = self._process.mean(self._place(self._known))
        both = np.concatenate([self._known, curves.units(awaited, self.axes)])
        noise = np.concatenate([variances[chosen], np.zeros(len(awaited))])
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

    def _fitted(self, curves: Curves, known: IndexArray) -> FloatArray:
        """The kernel's parameters, from the first trials that ended; the same for the same trials."""
        ended = curves.ended(known)
        first = known[: max((count for count in _FITS if count <= ended), default=len(known))]
        promised, variances = curves.promised(first)
        places = self._place(curves.units(first, self.axes))
        key = b"".join(array.tobytes() for array in (*places, promised, variances))
        if key not in curves.fitted:
            curves.fitted = {key: GaussianProcess(places, promised, variances).hyperparameters}
        return curves.fitted[key]

    def _place(self, units: FloatArray) -> list[FloatArray]:
        return [axis.place(column) for axis, column in zip(self.axes.values(), units.T, strict=True)]


def _most_telling(promised: FloatArray) -> IndexArray:
    """Places of the trials that the model knows."""
    order, better = np.argsort(-promised, kind="stable"), 2 * _MOST_TRIALS // 3
    if len(order) <= _MOST_TRIALS:
        return np.arange(len(order))
    some = np.linspace(better, len(order) - 1, _MOST_TRIALS - better).astype(int)
    return np.asarray(np.concatenate([order[:better], order[some]]))


def _infeasible(trial: FrozenTrial) -> bool:
    return any(value > 0 for value in trial.constraints.values())
