"""Learning curves of other people, in two forms, each a search space and what it answers.

A table is a Parquet file, a row for every setting: one column of numbers per searched field, and one list column, as long in every
row, with a figure for every epoch: `score` (more is better; a Dice, an accuracy) or `valid_loss` (its first value before training,
and taken as exp(-loss)). A value that is not finite is a training that diverged. A column `seconds` is what an epoch takes; without
it, one. A field's scale is the one of x, log x and log(1 - x) on which its values lie most evenly. A setting is answered by the
nearest row, in the unit cube, that the same search has not been shown yet. What precedes the first dash of the file's name is its
family.

A network is a folder, which names its family, with `model.onnx` and `encoding.json`, as YAHPO Gym has LCBench (Pfisterer et al.
2022, arXiv 2109.03670): task names to numbers; inputs `x_cat` (n, 1), the task, and `x_cont` (n, 8), epoch and fields; of the
outputs (n, 6) the first is seconds up to that epoch, the second the validation accuracy in percent. It takes `onnxruntime`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from optuna.distributions import BaseDistribution
from optuna.trial import BaseTrial

from cdal.errors import InputError
from tune.proposing import Axis, Parameter
from tune.rehearsal import LearningCurve

FloatArray = npt.NDArray[np.float64]
Answers = Callable[[Mapping[str, Any]], LearningCurve]

LCBENCH = (
    Parameter(path="batch_size", low=16, high=512, log=True, whole=True),
    Parameter(path="learning_rate", low=1e-4, high=1e-1, log=True),
    Parameter(path="momentum", low=0.1, high=0.99),
    Parameter(path="weight_decay", low=1e-5, high=1e-1),
    Parameter(path="num_layers", low=1, high=5, whole=True),
    Parameter(path="max_units", low=64, high=1024, log=True, whole=True),
    Parameter(path="max_dropout", low=0.0, high=1.0),
)
EPOCHS = 50  # of a network: inputs 2 to 51, the first is before training
_MISSED = 0.1
_DRAWN = 5_000  # random settings of a network, the best of which is the best known


class Fields:
    """As much of a search space as searchers look at, for fields that are none of this project's configuration."""

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self.parameters = {parameter.path: parameter for parameter in parameters}

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """For Optuna."""
        return {path: parameter.distribution for path, parameter in self.parameters.items()}

    @property
    def every_setting(self) -> None:
        """They are many."""

    def suggest(self, trial: BaseTrial) -> dict[str, Any]:
        """Draw all fields."""
        return {path: parameter.suggest(trial) for path, parameter in self.parameters.items()}

    def active(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """No field has a condition."""
        return dict(values)

    def contains(self, values: Mapping[str, Any]) -> bool:
        """Whether all values are within their ranges."""
        return all(parameter.contains(values[path]) for path, parameter in self.parameters.items())


@dataclass(frozen=True, kw_only=True)
class Table:
    """Recorded trainings of one task."""

    name: str
    family: str
    fields: Fields
    epochs: int
    """Of a whole training."""
    best: float
    """Best score known."""
    median: float
    """Best score of a median random setting."""
    seconds: float
    """Per epoch, mean over random settings."""
    extremes: tuple[Mapping[str, Any], Mapping[str, Any]] = field(repr=False)
    """The best and the worst setting known."""
    answers: Callable[[], Answers] = field(repr=False)
    """Makes what answers for one search."""

    def near_best(self, seed: int) -> dict[str, Any]:
        """The best setting known, missed by a tenth of its range in every field: what somebody with experience would try."""
        random = np.random.default_rng(seed)
        found = {}
        for path, distribution in self.fields.distributions.items():
            axis = Axis(distribution)
            unit = axis.unit(self.extremes[0][path]) + random.choice((-_MISSED, _MISSED))
            found[path] = axis.value(float(np.clip(unit, 0, 1)))
        return found

    def regret(self, score: float) -> float:
        """0 for the best known, 1 for a median random setting."""
        return (self.best - score) / (self.best - self.median)


def find(folder: Path) -> list[Table]:
    """All tables of a folder, by family and name.

    Raises:
        InputError: there is none, one cannot be read, or onnxruntime is missing.
    """
    if not folder.is_dir():
        raise InputError(f"--tables is {folder}, which is no folder")
    found = [_of_rows(path) for path in sorted(folder.glob("*.parquet"))]
    for model in sorted(folder.rglob("model.onnx")):
        found += _of_network(model.parent)
    if not found:
        raise InputError(f"--tables {folder} holds neither *.parquet nor a folder with model.onnx and encoding.json")
    return found


def _of_rows(path: Path) -> Table:
    try:
        rows = pq.read_table(path).to_pandas()
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    scored = next((name for name in ("score", "valid_loss") if name in rows), None)
    if scored is None:
        raise InputError(f"{path} has neither a column score nor valid_loss with a list of figures, one for every epoch")
    sizes = {len(curve) for curve in rows[scored]}
    if len(sizes) != 1 or len(rows) < 2:
        raise InputError(f"{path}: column {scored} must hold lists of one length, of two settings or more")
    figures = np.stack([np.asarray(curve, np.float64) for curve in rows[scored]])
    with np.errstate(over="ignore", invalid="ignore"):
        scores = figures if scored == "score" else np.where(np.isfinite(figures), np.exp(-figures), np.nan)[:, 1:]
    seconds = rows["seconds"].to_numpy(np.float64) if "seconds" in rows else np.ones(len(rows))
    names = [name for name in rows if name not in ("score", "valid_loss", "seconds")]
    scaled = [_scaled(str(name), rows[name].to_numpy(np.float64)) for name in names]
    fields, units = Fields([parameter for parameter, _ in scaled]), np.stack([unit for _, unit in scaled], axis=1)
    axes = [Axis(distribution) for distribution in fields.distributions.values()]
    failing = [next(iter(np.flatnonzero(~np.isfinite(curve)).tolist()), None) for curve in scores]

    def answers() -> Answers:
        shown = np.zeros(len(units))

        def answer(values: Mapping[str, Any]) -> LearningCurve:
            place = [axis.unit(values[path]) for path, axis in zip(fields.parameters, axes, strict=True)]
            row = int(np.argmin(((units - place) ** 2).sum(axis=1) + shown))
            shown[row] += len(axes) + 1  # behind all that have not been shown, however near
            return LearningCurve(np.nan_to_num(scores[row], posinf=0.0, neginf=0.0), float(seconds[row]), failing[row])

        return answer

    reached = np.nanmax(np.where(np.isfinite(scores), scores, 0.0), axis=1)
    best, worst = (
        {path: axis.value(unit) for path, axis, unit in zip(fields.parameters, axes, units[row], strict=True)}
        for row in (reached.argmax(), reached.argmin())
    )
    return Table(
        name=path.stem,
        family=path.stem.split("-")[0],
        fields=fields,
        epochs=scores.shape[1],
        best=float(reached.max()),
        median=float(np.median(reached)),
        seconds=float(seconds.mean()),
        extremes=(best, worst),
        answers=answers,
    )


def _scaled(name: str, values: FloatArray) -> tuple[Parameter, FloatArray]:
    """A field and its values' units (n,)."""
    if not np.isfinite(values).all() or values.min() == values.max():
        raise InputError(f"column {name} must hold numbers, and more than one")
    ways = [(values, False)]
    ways += [(values, True)] if values.min() > 0 else []
    ways += [(1 - values, True)] if values.max() < 1 else []
    found = []
    for number, (way, log) in enumerate(ways):
        scale = np.log(way) if log else way
        units = (scale - scale.min()) / (scale.max() - scale.min())
        uneven = float(np.abs(np.sort(units) - (np.arange(len(units)) + 0.5) / len(units)).max())
        found.append((uneven, number, Parameter(path=name, low=float(way.min()), high=float(way.max()), log=log), units))
    _, _, parameter, units = min(found, key=lambda each: each[:2])
    return parameter, units


def _of_network(folder: Path) -> list[Table]:
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise InputError(f"{folder} holds a network; `pip install onnxruntime`, or the extra cdal-search[compare]") from None
    try:
        tasks = json.loads((folder / "encoding.json").read_text())
        content = (folder / "model.onnx").read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} cannot be read: {error}") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    sessions: list[Any] = []  # one for each process, made when it is needed

    def asked(task: int, settings: Sequence[Mapping[str, Any]]) -> tuple[FloatArray, FloatArray]:
        """Scores (settings, epochs) and seconds per epoch (settings,)."""
        if not sessions:
            sessions.append(onnxruntime.InferenceSession(content, options))
        own = np.array([[values[parameter.path] for parameter in LCBENCH] for values in settings], np.float32)
        epochs = np.tile(np.arange(2, EPOCHS + 2, dtype=np.float32), len(own))[:, None]
        inputs = np.concatenate([epochs, np.repeat(own, EPOCHS, axis=0)], axis=1)
        found = sessions[0].run(None, {"x_cat": np.full((len(inputs), 1), task, np.int32), "x_cont": inputs})[0]
        found = found.reshape(len(own), EPOCHS, -1).astype(np.float64)
        return np.clip(found[..., 1] / 100, 0, 1), np.maximum(found[:, -1, 0] / EPOCHS, 1e-3)

    tables = [_of_task(f"{folder.name}-{name}", folder.name, int(task), asked) for name, task in tasks.items()]
    sessions.clear()  # it does not survive a fork
    return tables


def _of_task(name: str, family: str, task: int, asked: Callable[[int, Sequence[Mapping[str, Any]]], Any]) -> Table:
    fields, random = Fields(LCBENCH), np.random.default_rng(0)
    axes = {path: Axis(distribution) for path, distribution in fields.distributions.items()}
    drawn = [{path: axis.value(random.random()) for path, axis in axes.items()} for _ in range(_DRAWN)]
    parts = [asked(task, drawn[start : start + 1000]) for start in range(0, _DRAWN, 1000)]
    reached = np.concatenate([scores.max(axis=1) for scores, _ in parts])

    def answer(values: Mapping[str, Any]) -> LearningCurve:
        scores, seconds = asked(task, [values])
        return LearningCurve(scores[0], float(seconds[0]), None)

    return Table(
        name=name,
        family=family,
        fields=fields,
        epochs=EPOCHS,
        best=float(reached.max()),
        median=float(np.median(reached)),
        seconds=float(np.mean(np.concatenate([seconds for _, seconds in parts]))),
        extremes=(drawn[int(reached.argmax())], drawn[int(reached.argmin())]),
        answers=lambda: answer,
    )
