"""What earlier searches teach a new one.

Trials that are comparable (same dataset, cases and fixed settings, so that a Dice of 0.8 means the same) are told to the sampler as
if they had been run here. Of all others, whose Dice means something else, the best settings are tried first, right after the
controls.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from cdal.errors import InputError
from tune.lake import Experiment, Lake, load, read_experiment
from tune.lake.status import ENDED, FINISHED, SEARCHED, UNET, Curve, curve
from tune.proposing import space as spaces
from tune.proposing.parameters import Parameter
from tune.proposing.space import Space
from tune.proposing.study import Outcome, Proposal, teaches

MOST_HINTS = 10
_IGNORED = ("training.seed",)


@dataclass(frozen=True)
class WarmStart:
    """Knowledge from elsewhere."""

    told: tuple[Outcome, ...] = ()
    """Comparable trials, numbered from -1 downwards."""
    hints: tuple[Mapping[str, Any], ...] = ()
    """Settings to try first."""

    def to_dict(self) -> dict[str, Any]:
        """For experiment.json, so that a resumed search knows the same."""
        told = [
            {"values": dict(proposal.values), "status": status, "curve": [*map(list, curve)], "costs": dict(costs)}
            for proposal, status, curve, costs, *_ in self.told
        ]
        return {"told": told, "hints": [dict(values) for values in self.hints]}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], space: Space) -> WarmStart:
        """Inverse of `to_dict`."""

        def values(plain: Mapping[str, Any]) -> Mapping[str, Any]:
            return space.values_of(space.config(plain))

        told = [
            Outcome(
                Proposal(-1 - place, SEARCHED, values(item["values"])),
                item["status"],
                [(int(epoch), float(dice)) for epoch, dice in item["curve"]],
                item["costs"],
            )
            for place, item in enumerate(content.get("told", ()))
        ]
        return cls(tuple(told), tuple(values(item) for item in content.get("hints", ())))

    def __str__(self) -> str:
        return f"{len(self.told)} comparable trials are told to the sampler, {len(self.hints)} settings from elsewhere come first"


def gather(source: str, root: str, space: Space, split_hash: str) -> WarmStart:
    """Read earlier results.

    Args:
        source: an experiment of the lake `root`; or the path of another lake, or of an experiment in it.
        root: the search's own lake.
        space: of the search, fitted to its dataset.
        split_hash: of its cases, as in experiment.json.

    Raises:
        InputError: there is nothing at `source`, or nothing that this space can use.
    """
    lake, experiments = _open(source, root)
    told: list[Outcome] = []
    others: list[tuple[float, dict[str, Any]]] = []
    trials = _trials(lake)
    for experiment in experiments:
        comparable = _comparable(experiment, space, split_hash)
        for row, points in trials.get(experiment.name, ()):
            if row["kind"] == UNET or row["status"] not in ENDED or not teaches(row["status"], row.get("cause")):
                continue
            if comparable and (values := _values(row, space, clip=False)) is not None:
                told.append(Outcome(Proposal(-1 - len(told), SEARCHED, values), row["status"], points, costs_of(row)))
            elif points and (values := _values(row, space, clip=True)) is not None:
                others.append((points[-1][1], values))
    hints: list[dict[str, Any]] = []
    for _, values in sorted(others, key=lambda other: -other[0]):
        if values not in hints and values != space.published and len(hints) < MOST_HINTS:
            hints.append(values)
    if not told and not hints:
        raise InputError(f"--warm-start {source}: none of its trials has settings that {space.source} can take; leave it out")
    return WarmStart(tuple(told), tuple(hints))


def _trials(lake: Lake) -> dict[str, list[tuple[dict[str, Any], Curve]]]:
    """Every trial by experiment: its row without the nulls, and (epoch, best Dice so far)."""
    dice: dict[tuple[str, str], dict[int, float]] = {}
    for row in lake.metrics(["dice"]).to_pylist():
        if row["dice"] is not None and math.isfinite(row["dice"]):
            dice.setdefault((row["experiment"], row["trial_id"]), {})[int(row["epoch"])] = float(row["dice"])
    found: dict[str, list[tuple[dict[str, Any], Curve]]] = {}
    for row in lake.trials().to_pylist():
        own = dice.get((row["experiment"], row["trial_id"]), {})
        found.setdefault(row["experiment"], []).append(({k: v for k, v in row.items() if v is not None}, curve(own)))
    return found


def costs_of(row: Mapping[str, Any]) -> dict[str, float]:
    """The objectives other than Dice, from the row of a finished trial."""
    if row.get("status") != FINISHED:
        return {}
    return {name: float(row[name]) for name in ("seconds_per_case", "gpu_hours") if row.get(name) is not None}


def _open(source: str, root: str) -> tuple[Lake, Sequence[Experiment]]:
    above, _, last = source.rstrip("/").rpartition("/")
    for place, name in ((root, source), (above or ".", last)):
        with suppress(InputError):
            read_experiment(place, name)
            lake = load(place)
            return lake, [experiment for experiment in lake.experiments if experiment.name == name]
    try:
        lake = load(source)
    except InputError as error:
        raise InputError(f"--warm-start is {source}, which is neither an experiment of {root} nor another lake: {error}") from None
    return lake, lake.experiments


def _comparable(experiment: Experiment, space: Space, split_hash: str) -> bool:
    """Whether a Dice of the experiment means what it means here: same cases, same settings but for those searched here."""
    description = experiment.description
    if description.get("split_hash") != split_hash:
        return False
    try:
        theirs = spaces.parse(description["space"], experiment.name)
    except (InputError, KeyError):
        return False
    ours = space.base.flatten()
    ignored = {*space.parameters, *theirs.parameters, *_IGNORED}
    return all(value == ours.get(path) for path, value in theirs.base.flatten().items() if path not in ignored)


def _values(row: Mapping[str, Any], space: Space, *, clip: bool) -> dict[str, Any] | None:
    """The searched fields of a trial; None where they do not fit the space. What its row lacks has the published value."""
    found = {}
    for path, parameter in space.parameters.items():
        value = row.get(f"config.{path}")
        if value is not None:
            found[path] = _clipped(value, parameter) if clip else value
    try:
        values = space.values_of(space.config(found))
    except InputError:
        return None
    return values if space.contains(values) else None


def _clipped(value: Any, parameter: Parameter) -> Any:
    if parameter.values or not isinstance(value, (int, float)):
        return value
    inside = min(max(value, parameter.low), parameter.high)
    return round(inside) if parameter.whole else inside
