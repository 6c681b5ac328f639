"""Which settings of a search are trained again, how often, and whether the test split has judged them before.

A search picks the best of many noisy figures, so its best figure flatters (the winner's curse). Finalists are therefore trained
with seeds that the search has not used. The test split judges settings once: whoever may look again and again picks on it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from statistics import median
from typing import Any, NamedTuple

import pyarrow.compute as pc

from cdal.config import Config, field_types
from cdal.errors import InputError
from tune.lake import Lake, Store
from tune.lake.status import FINISHED, INTERRUPTED, PENDING, PUBLISHED, RUNNING, STOPPED, UNET, trial_id
from tune.proposing import controls
from tune.running import Plan, trial_config

Row = Mapping[str, Any]
_EVALUATION = "evaluation.json"
_SCORED = (FINISHED, STOPPED, INTERRUPTED, RUNNING, PENDING)  # the last three: of a search that was cut


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """Settings that are trained again."""

    id: str
    """The search's trial that had them."""
    kind: str
    config: Config
    """The seed is the search's."""
    search_dice: float | None = None
    """What the search said of them; None for a control that it had not run."""
    seconds_per_epoch: float | None = None
    """In the search; None where it does not tell."""
    scoring_seconds: float | None = None
    """Of the final evaluation in the search."""

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self) | {"config": self.config.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Finalist:
        """Inverse of `to_dict`."""
        return cls(**{**values, "config": Config.from_dict(values["config"])})


class Training(NamedTuple):
    """One training of a finalist, a trial of the finalists' experiment."""

    number: int
    finalist: Finalist
    fold: int
    seed: int

    @property
    def config(self) -> Config:
        """The finalist's, with this training's seed."""
        return self.finalist.config.replace({"training.seed": self.seed})


@dataclass(frozen=True, kw_only=True)
class Contest:
    """All trainings of all finalists."""

    finalists: tuple[Finalist, ...]
    """The best of the search first, then the controls."""
    folds: tuple[int, ...]
    seeds: tuple[int, ...]

    @property
    def trainings(self) -> list[Training]:
        """In the order in which they run: every finalist once before any of them twice."""
        order = itertools.product(self.seeds, self.folds, self.finalists)
        return [Training(number, finalist, fold, seed) for number, (seed, fold, finalist) in enumerate(order)]

    def seconds(self, finalist: Finalist, scored: float) -> float:
        """About how long one training takes; what the search does not tell of the finalist is taken from the others.

        Args:
            finalist: whose.
            scored: the cases of its final evaluation, in those of a trial of the search.
        """

        def known(name: str) -> float:
            own = getattr(finalist, name)
            others = [value for other in self.finalists if (value := getattr(other, name)) is not None]
            return float(own if own is not None else median(others or [0.0]))

        return known("seconds_per_epoch") * finalist.config.training.epochs + known("scoring_seconds") * scored

    def to_dict(self) -> dict[str, Any]:
        """For experiment.json."""
        finalists = [finalist.to_dict() for finalist in self.finalists]
        return {"finalists": finalists, "folds": list(self.folds), "seeds": list(self.seeds)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Contest:
        """Inverse of `to_dict`."""
        finalists = tuple(Finalist.from_dict(item) for item in values["finalists"])
        return cls(finalists=finalists, folds=tuple(values["folds"]), seeds=tuple(values["seeds"]))


def choose(plan: Plan, trials: Sequence[Row], *, top: int, epochs: int | None) -> tuple[Finalist, ...]:
    """The best settings of a search by its own figures, best first, and the controls; settings that are equal count once.

    Args:
        plan: of the search.
        trials: its rows of the trials table.
        top: how many, controls not counted; fewer where the search has fewer.
        epochs: of their trainings; None for the search's.

    Raises:
        InputError: no trial of the search has a result.
    """
    rows = {row["number"]: row for row in trials}
    standing = []
    for control in controls(plan.space):
        row = rows.get(control.number, {})
        config = trial_config(plan, control)
        standing.append(_finalist(trial_id(control.number), control.kind, config, row if row.get("kind") == control.kind else {}))
    known = {_settings(finalist.config) for finalist in standing}
    best: list[Finalist] = []
    scored = [row for row in trials if row["kind"] not in (PUBLISHED, UNET) and _search_dice(row) is not None]
    for row in sorted(scored, key=lambda row: (-(_search_dice(row) or 0.0), row["number"])):
        config = config_of(row)
        if len(best) < top and _settings(config) not in known:
            known.add(_settings(config))
            best.append(_finalist(row["trial_id"], row["kind"], config, row))
    if not best:
        raise InputError("none of the search's trials has a result, so there are no finalists; let the search go on first")
    changes = {} if epochs is None else {"training.epochs": epochs}
    return tuple(replace(finalist, config=finalist.config.replace(changes)) for finalist in (*best, *standing))


def fresh_seeds(plan: Plan, trials: Sequence[Row], count: int) -> tuple[int, ...]:
    """Seeds that the search has not used: the one that it picked by would give its flattering figure again."""
    used = [plan.published.training.seed, *(row["seed"] for row in trials if row["seed"] is not None)]
    return tuple(range(max(used) + 1, max(used) + 1 + count))


def config_of(row: Row) -> Config:
    """The configuration in a row of the trials table.

    Raises:
        InputError: a value that no configuration of this release can have.
    """
    values = {path: row.get(f"config.{path}") for path in field_types()}
    return Config().replace({path: value for path, value in values.items() if value is not None})


def _finalist(name: str, kind: str, config: Config, row: Row) -> Finalist:
    scoring = row.get("scoring_seconds")
    training = (row.get("seconds") or 0.0) - (row.get("startup_seconds") or 0.0) - (scoring or 0.0)
    return Finalist(
        id=name,
        kind=kind,
        config=config,
        search_dice=_search_dice(row),
        seconds_per_epoch=training / row["epochs"] if training > 0 and row.get("epochs") else None,
        scoring_seconds=scoring,
    )


def _search_dice(row: Row) -> float | None:
    """By the full protocol where the trial was scored by it; None where it failed or diverged, or has no figure."""
    if row.get("status") not in _SCORED:
        return None
    figures = (row.get(name) for name in ("final_dice", "validation_dice"))
    return next((float(figure) for figure in figures if figure is not None and figure == figure), None)


def _settings(config: Config) -> Config:
    """The same for trainings that differ in their seeds only."""
    return config.replace({"training.seed": 0})


# --- The test split: who has seen it. ---


class Look(NamedTuple):
    """That settings have been scored on test cases."""

    times: int
    experiment: str
    """The last time."""
    when: datetime


def earlier_looks(lake: Lake, dataset: str, cases: Collection[str], finalists: Sequence[Finalist]) -> dict[str, Look]:
    """How often, and when last, the settings of finalists have been scored on any of these test cases, in whatever experiment.

    Neither the seed nor the number of epochs makes other settings: with either, the same could be tested until it wins.

    Args:
        lake: where to look.
        dataset: the dataset's name.
        cases: ids of test cases.
        finalists: the finalists.

    Returns:
        By the finalist's id; those that have not been are not in it.
    """
    rows = lake.cases([])
    last: dict[tuple[str, str], datetime] = {}
    for row in rows.filter(pc.equal(rows["split"], "test")).to_pylist():
        if row["case"] in cases:
            trial = (row["experiment"], row["trial_id"])
            last[trial] = max(row["recorded_at"], last.get(trial, row["recorded_at"]))
    found: dict[Config, Look] = {}
    for row in lake.trials().to_pylist():
        when = last.get((row["experiment"], row["trial_id"]))
        if when is None or row["dataset"] != dataset:
            continue
        with contextlib.suppress(InputError):  # a row of another release
            settings = _recipe(config_of(row))
            before = found.get(settings, Look(0, row["experiment"], when))
            latest = max(before, Look(0, row["experiment"], when), key=lambda look: look.when)
            found[settings] = latest._replace(times=max(before.times, row["test_evaluations"] or 1))
    recipes = {finalist.id: _recipe(finalist.config) for finalist in finalists}
    return {name: found[recipe] for name, recipe in recipes.items() if recipe in found}


def refuse_again(before: Mapping[str, Look]) -> None:
    """Raise InputError where a finalist has been tested."""
    for name, tested in before.items():
        more = f", like {len(before) - 1} more of these finalists" if len(before) > 1 else ""
        raise InputError(
            f"finalist {name} was tested on {tested.when:%Y-%m-%d %H:%M} UTC in {tested.experiment}{more}; the test split is for "
            "one look: --again takes another, and the results will say that it was not the first"
        )


class Evaluation:
    """The file that says which evaluation an experiment of finalists is at, so that one that was cut goes on as the same."""

    def __init__(self, place: str) -> None:
        """`place` is a folder of the lake, a path or an address."""
        self._store = Store(place)

    def begin(self, contest: Contest, before: Mapping[str, Look], *, again: bool) -> dict[str, int]:
        """Begin to score the finalists on the test split, or go on where that was cut.

        Args:
            contest: the finalists.
            before: what `earlier_looks` says.
            again: whether they may be scored again.

        Returns:
            Of every finalist, how often its settings will have been scored afterwards.

        Raises:
            InputError: one of them was scored before, and `again` is not said.
        """
        with contextlib.suppress(FileNotFoundError):
            state = self._read()
            if not state["complete"]:
                return dict(state["evaluations"])
        if not again:
            refuse_again(before)
        times = {finalist.id: before[finalist.id].times + 1 if finalist.id in before else 1 for finalist in contest.finalists}
        self._write({"evaluations": times, "complete": False})
        return times

    def end(self) -> None:
        """All finalists are scored: another evaluation would be the next one."""
        self._write(self._read() | {"complete": True})

    def _read(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self._store.read(_EVALUATION).to_pybytes())
        return state

    def _write(self, state: Mapping[str, Any]) -> None:
        self._store.write(_EVALUATION, json.dumps(state).encode())


def _recipe(config: Config) -> Config:
    return config.replace({"training.seed": 0, "training.epochs": 1})
