"""Recorded learning curves, and a surrogate that answers for settings that nobody has trained.

    recording = read(load("results"), ["first"])
    surrogate = Surrogate(recording)
    surrogate.curve({"diffusion.timesteps": 2, ...}, seed=0)     # Dice of every epoch, seconds per epoch, whether it fails

A curve that was stopped early is used as far as it goes; what is missing is filled in epoch by epoch (`tune.proposing`).
Dice become normal scores, a scale on which an error means the same everywhere. On it the curves' principal components, and the
logarithm of the seconds, are each a Gaussian process over the space. What the processes miss when a trial is left out is the noise:
every (setting, seed) gets the whole missed curve of one of the recorded trials that promised about as much. Recorded settings
answer with what was recorded. A setting fails, after as many epochs, where the nearest recorded one did.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtri

from cdal.errors import InputError
from cdal.metrics import rank_correlation
from tune.lake import Experiment, Lake
from tune.lake.status import UNET
from tune.proposing import Axis, FloatArray, GaussianProcess, Space, extrapolate, from_logit, squares_between, to_logit, to_optuna
from tune.proposing import space as spaces

FEWEST_TRIALS, FEWEST_WHOLE = 16, 4
_FAILED = ("diverged", "failed", "infeasible")
_KNOTS, _UPPER, _BEYOND = 65, 0.9, 3.0  # of the scale: quantiles, where its upper end begins, how far it goes on in scores
_EXPLAINED, _MOST_COMPONENTS = 0.99, 4
_ALIKE = 1 / 8  # share of the recorded trials that a missed curve is drawn from
_STARTUP_SECONDS = 10.0  # where the record does not tell


@dataclass(frozen=True)
class RecordedTrial:
    """What a trial has shown."""

    values: Mapping[str, Any]
    dice: FloatArray
    """(epochs that it got through,): validation Dice of each, not the best so far."""
    seconds: float
    """Per epoch, validation included; NaN where it got through none."""
    failed: bool
    """Whether it diverged or could not be run."""


@dataclass(frozen=True)
class Recording:
    """The trials of one experiment, or of several with the same space, but for U-Nets, which are none of the space."""

    space: Space
    epochs: int
    """Of a whole trial."""
    experiments: Sequence[str]
    trials: Sequence[RecordedTrial]
    startup_seconds: float
    """From a trial's proposal to its first step, median; 10 where that is not recorded."""

    @property
    def gpu_hours(self) -> float:
        """What an experiment's trials took, mean over the experiments."""
        seconds = sum(self.startup_seconds + np.nan_to_num(trial.seconds) * trial.dice.size for trial in self.trials)
        return float(seconds) / 3600 / len(self.experiments)

    @property
    def best(self) -> float:
        """The best Dice that any recorded trial reached."""
        return max(float(trial.dice.max()) for trial in self.trials if trial.dice.size)


def read(lake: Lake, names: Sequence[str] = ()) -> Recording:
    """Read the curves of some experiments; without names, of the newest and all others that have the same space.

    Raises:
        InputError: no such experiment, spaces differ, or too little is recorded.
    """
    known = {experiment.name: experiment for experiment in lake.experiments}
    for name in names:
        if name not in known:
            raise InputError(f"there is no experiment {name!r}; the lake holds {', '.join(sorted(known))}")
    chosen = [known[name] for name in names] or sorted(_described(lake), key=_created)[-1:]
    if not chosen:
        raise InputError("no experiment of this lake says what its space is; record one with tune/search.py")
    space = _space(chosen[0])
    for other in chosen[1:]:
        if not _same(_space(other), space):
            raise InputError(f"experiments {chosen[0].name} and {other.name} have different spaces; rehearse them one by one")
    if not names:
        chosen = [known[name] for family in families(lake) for name in family if chosen[0].name in family]
    recording = _read_trials(lake, space, [experiment.name for experiment in chosen])
    sizes = [trial.dice.size for trial in recording.trials if not trial.failed]
    whole = sizes.count(recording.epochs)
    if len(sizes) < FEWEST_TRIALS or whole < FEWEST_WHOLE:
        raise InputError(
            f"experiment {', '.join(recording.experiments)} has {len(sizes)} trials with curves, {whole} of them whole; "
            f"a rehearsal needs {FEWEST_TRIALS}, {FEWEST_WHOLE} of them whole"
        )
    return recording


def families(lake: Lake) -> list[list[str]]:
    """Names of the experiments whose space is known, those with the same space together."""
    found: list[tuple[Space, list[str]]] = []
    for experiment in _described(lake):
        space = _space(experiment)
        names = next((names for other, names in found if _same(other, space)), None)
        if names is None:
            found.append((space, [experiment.name]))
        else:
            names.append(experiment.name)
    return [names for _, names in found]


def _read_trials(lake: Lake, space: Space, names: Sequence[str]) -> Recording:
    epochs: dict[tuple[str, str], dict[int, tuple[float, float]]] = {}
    for row in lake.metrics(["dice", "train_seconds", "validation_seconds"]).to_pylist():
        if row["experiment"] in names and row["dice"] is not None:
            seconds = (row["train_seconds"] or 0.0) + (row["validation_seconds"] or 0.0)
            epochs.setdefault((row["experiment"], row["trial_id"]), {})[row["epoch"]] = (row["dice"], seconds)
    trials, startups, whole = [], [], space.base.training.epochs
    for row in lake.trials().to_pylist():
        if row["experiment"] not in names or row["kind"] == UNET:
            continue
        if row.get("startup_seconds") is not None:
            startups.append(row["startup_seconds"])
        values = _values(space, row)
        dice, seconds = _curve(epochs.get((row["experiment"], row["trial_id"]), {}), whole)
        failed = row["status"] in _FAILED and dice.size < whole  # what failed in its final evaluation has shown all
        if values is not None and (failed or dice.size):
            trials.append(RecordedTrial(values, dice, seconds, failed))
    if not any(trial.seconds > 0 for trial in trials):
        raise InputError(f"experiment {', '.join(names)} has no trial with the Dice and the duration of its epochs")
    return Recording(space, whole, names, trials, float(np.median(startups)) if startups else _STARTUP_SECONDS)


def _values(space: Space, row: Mapping[str, Any]) -> dict[str, Any] | None:
    """The searched fields of a row; None where it lacks one."""
    values = {path: row.get(f"config.{path}") for path in space.parameters}
    if any(value is None for value in values.values()):
        return None
    try:
        return space.values_of(space.config(values))
    except InputError:
        return values  # refused when it was proposed


def _curve(epochs: Mapping[int, tuple[float, float]], most: int) -> tuple[FloatArray, float]:
    """Dice of the first epochs, up to the first gap, and the median of their seconds."""
    dice: list[float] = []
    seconds: list[float] = []
    while len(dice) < most and np.isfinite(epochs.get(len(dice) + 1, (np.nan, np.nan))[0]):
        dice.append(epochs[len(dice) + 1][0])
        seconds.append(epochs[len(dice)][1])
    return np.array(dice), float(np.median(seconds)) if dice else np.nan


def _described(lake: Lake) -> list[Experiment]:
    return [experiment for experiment in lake.experiments if isinstance(experiment.description.get("space"), Mapping)]


def _created(experiment: Experiment) -> str:
    return str(experiment.description.get("created_at", ""))


def _space(experiment: Experiment) -> Space:
    described = experiment.description.get("space")
    return spaces.parse(described, f"{experiment.name}/experiment.json: space")


def _same(one: Space, other: Space) -> bool:
    """Whether they are one space, wherever it was written down and whatever seed it is trained with."""
    first, second = (space.to_dict() | {"source": "", "fixed": dict(space.fixed) | {"training.seed": 0}} for space in (one, other))
    return first == second


class LearningCurve(NamedTuple):
    """How a trial goes."""

    dice: FloatArray
    """(epochs,): validation Dice of each, not the best so far."""
    seconds: float
    """Per epoch."""
    fails_after: int | None
    """Epochs after which it fails; None where it goes well."""


class _Scale:
    """Dice as normal scores: on this scale what was recorded is normally distributed, and an error means the same everywhere.

    (On the logits' scale, one that turns a bad trial into a fair one would turn a fair one into one that is too good to be true.)
    """

    def __init__(self, dice: FloatArray) -> None:
        shares = np.linspace(0.5, len(dice) - 0.5, _KNOTS) / len(dice)
        levels, places = np.unique(np.quantile(dice, shares), return_inverse=True)
        scores = np.bincount(places, ndtri(shares)) / np.bincount(places)  # those of equal Dice share one
        upper = np.interp(_UPPER, shares, scores[places])
        slope = (levels[-1] - np.quantile(dice, _UPPER)) / max(scores[-1] - upper, 1e-9)
        self._levels = np.append(levels, min(levels[-1] + slope * _BEYOND, 1.0))  # better ones than were recorded
        self._scores = np.append(scores, scores[-1] + _BEYOND)

    def score(self, dice: FloatArray) -> FloatArray:
        return np.asarray(np.interp(dice, self._levels, self._scores))

    def dice(self, scores: FloatArray) -> FloatArray:
        return np.asarray(np.interp(scores, self._scores, self._levels))


class Surrogate:
    """Answers for any setting of a recording's space."""

    def __init__(self, recording: Recording) -> None:
        """Fit; seconds for a few hundred trials."""
        self.recording, space = recording, recording.space
        self._axes = {path: Axis(distribution) for path, distribution in space.distributions.items()}
        self._all = self._place([trial.values for trial in recording.trials])
        self._known: dict[str, list[int]] = {}
        for index, trial in enumerate(recording.trials):
            self._known.setdefault(_key(trial.values), []).append(index)

        self._learnt = [index for index, trial in enumerate(recording.trials) if trial.dice.size and not trial.failed]
        trials = [recording.trials[index] for index in self._learnt]
        points = [axis[self._learnt] for axis in self._all]
        whole_curves = from_logit(extrapolate([to_logit(trial.dice) for trial in trials], recording.epochs).curves)
        self._curves = dict(zip(self._learnt, whole_curves, strict=True))
        self._scale = _Scale(whole_curves.ravel())
        curves = self._scale.score(whole_curves)
        self._centre = curves.mean(axis=0)
        self._components = _components(curves - self._centre)
        self._processes = [GaussianProcess(points, scores) for scores in ((curves - self._centre) @ self._components.T).T]
        self._seconds = GaussianProcess(points, np.log([max(trial.seconds, 1e-6) for trial in trials]))

        expected = self._from_scores(np.stack([process.left_out for process in self._processes], axis=-1))
        self._missed = curves - expected
        self._missed_seconds = self._seconds.targets - self._seconds.left_out
        self._promise = expected.max(axis=1)
        best = whole_curves.max(axis=1)
        self.rank_correlation = rank_correlation(self._promise.tolist(), best.tolist())
        """Spearman, over the trials that did not fail: best Dice as recorded (and filled in), and as foretold from all others."""
        whole = [index for index, trial in enumerate(trials) if trial.dice.size == recording.epochs]
        self.rank_correlation_whole = rank_correlation(self._promise[whole].tolist(), best[whole].tolist())
        """The same over those that went to the end: a harder question where only good ones did."""

    def curve(self, values: Mapping[str, Any], seed: int) -> LearningCurve:
        """How a trial with these values goes; the same for the same seed."""
        key = _key(values)
        random = np.random.default_rng((seed, zlib.crc32(key.encode())))
        if key in self._known:
            return self._recorded(int(random.choice(self._known[key])))
        point = self._place([values])
        nearest = self.recording.trials[int(np.argmin(squares_between(point, self._all).sum(axis=0)[0]))]
        expected = self.expected(values)
        alike = np.argsort(np.abs(self._promise - expected.max()), kind="stable")[: max(3, int(_ALIKE * len(self._promise)))]
        drawn = int(random.choice(alike))
        seconds = float(np.exp(self._seconds.mean(point)[0] + self._missed_seconds[drawn]))
        dice = self._scale.dice(expected + self._missed[drawn])
        return LearningCurve(dice, seconds, nearest.dice.size if nearest.failed else None)

    def expected(self, values: Mapping[str, Any]) -> FloatArray:
        """The curve (epochs,) without noise, as normal scores."""
        point = self._place([values])
        return self._from_scores(np.concatenate([process.mean(point) for process in self._processes]))

    def true_dice(self, values: Mapping[str, Any]) -> float:
        """The best Dice of a trial with these values when it has neither good nor bad luck."""
        return float(self._scale.dice(self.expected(values)).max())

    def _recorded(self, index: int) -> LearningCurve:
        trial = self.recording.trials[index]
        if not trial.failed:
            filled = self._curves[index][trial.dice.size :]
            return LearningCurve(np.concatenate([trial.dice, filled]), trial.seconds, None)
        rest = np.zeros(self.recording.epochs - trial.dice.size)
        usual = float(np.exp(self._seconds.targets.mean()))
        return LearningCurve(
            np.concatenate([trial.dice, rest]), usual if np.isnan(trial.seconds) else trial.seconds, trial.dice.size
        )

    def _from_scores(self, scores: FloatArray) -> FloatArray:
        return np.asarray(scores @ self._components + self._centre)

    def _place(self, settings: Sequence[Mapping[str, Any]]) -> list[FloatArray]:
        """Settings in the unit cube: per field an array (settings, 1), or one column per choice; inactive ones at their base."""
        base = self.recording.space.base.flatten()
        known = [to_optuna(base | dict(values)) for values in settings]
        return [axis.place(np.array([axis.unit(values[path]) for values in known])) for path, axis in self._axes.items()]


def _components(centred: FloatArray) -> FloatArray:
    """Leading principal components (components, epochs), at least one."""
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    share = np.cumsum(singular**2) / max(float((singular**2).sum()), 1e-300)
    return np.asarray(axes[: min(int(np.searchsorted(share, _EXPLAINED)) + 1, _MOST_COMPONENTS)])


def _key(values: Mapping[str, Any]) -> str:
    return json.dumps({path: float(value) if isinstance(value, (int, float)) else value for path, value in sorted(values.items())})
