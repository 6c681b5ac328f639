"""Checkpoints that nobody will need again, and their removal.

    pruned = prune("results", "first", keep=20)          # also "s3://bucket/prefix"
    print(pruned.files, pruned.bytes)

Kept whole are the trials that are at work or may be taken up again, their parents, the controls, and the best of those that ended.
The others keep their best weights, which figures are computed from, and lose what a training would go on from. What Ray Tune keeps
for itself is only good for the session that wrote it. Trainings of finalists are left alone.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cdal.errors import InputError
from tune.lake.driver import lease_of
from tune.lake.experiments import read_experiment
from tune.lake.reader import load
from tune.lake.s3 import Found
from tune.lake.status import ACTIVE, ENDED, FAILED, FALLEN, PUBLISHED, SETTING, UNET
from tune.lake.storage import Store

KEPT = 20
"""Of the best trials that ended."""

_WEIGHTS = ".safetensors"
_BEST = "best.safetensors"
_WORKERS = "train/"  # what Ray Train leaves in a trial's folder
_RAY = "ray/"
_STATES = ("experiment_state-", "search_gen_state-")  # one of a session
_COPIES = 4
"""Of a trial of a population that are not older than those that others may be about to take over."""

Row = Mapping[str, Any]


class Pruned(NamedTuple):
    """What was removed, or would be."""

    files: int
    bytes: int


def prune(root: str | Path, experiment: str, keep: int = KEPT, *, dry: bool = False) -> Pruned:
    """Remove the checkpoints of an experiment that nobody will need again; for whoever holds it, see `tune.lake.hold`.

    What is decided follows from rows that are safe in the lake, so a search may go on meanwhile, and this may be cut at any moment.

    Args:
        root: the lake.
        experiment: a name that is in it.
        keep: how many of the best trials keep all that they have.
        dry: only tell what would be removed.

    Raises:
        InputError: there is no such experiment, it holds finalists, or `keep` is below 0.
        OSError: the store cannot be used.
        LostError: another driver has taken over.
    """
    if keep < 0:
        raise InputError(f"{keep} trials cannot be kept; name 0 or more")
    if "finalists" in read_experiment(root, experiment).description:
        raise InputError(f"{experiment} holds finalists, whose checkpoints are all kept")
    rows = load(root).only([experiment]).trials().to_pylist()
    place = f"{root}/{experiment}/tune"
    store = Store(place)
    files = store.tree()
    surplus = [*_of_trials(rows, files, keep), *_of_ray(rows, files)]
    if not dry:
        if (lease := lease_of(place)) is not None:
            lease.check()
        store.delete(surplus)
    return Pruned(len(surplus), sum(files[path].size for path in surplus))


def _of_trials(rows: Sequence[Row], files: Collection[str], keep: int) -> list[str]:
    beaten = {row["trial_id"] for row in rows} - _whole(rows, keep)
    surplus = []
    for path in files:
        folder, _, name = path.partition("/")
        weights = _WEIGHTS in name and "/" not in name and name != _BEST  # also half a file of a process that was killed
        if folder in beaten and (weights or name.startswith(_WORKERS)):
            surplus.append(path)
    return surplus


def _whole(rows: Sequence[Row], keep: int) -> set[str]:
    """Trials that keep all that they have."""
    going_on = [row for row in rows if row["status"] not in ENDED or (row["status"] == FAILED and row["cause"] != SETTING)]
    parents = {row["parent"] for row in going_on} - {None}
    scored = [row for row in rows if row["status"] in ENDED and row["status"] not in FALLEN and _dice(row) > -math.inf]
    best = sorted(scored, key=lambda row: (-_dice(row), row["number"]))[:keep]
    standing = [row for row in rows if row["number"] in parents or row["kind"] in (PUBLISHED, UNET)]
    return {row["trial_id"] for row in (*going_on, *standing, *best)}


def _dice(row: Row) -> float:
    dice = row["validation_dice"]
    return -math.inf if dice is None or math.isnan(dice) else dice


def _of_ray(rows: Sequence[Row], files: Mapping[str, Found]) -> list[str]:
    """Its own state but the newest, and copies of checkpoints; while trials are at work, only old ones."""
    at_work = any(row["status"] in ACTIVE for row in rows)
    copies: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    surplus = []
    for kind in _STATES:
        states = [path for path in files if path.startswith(_RAY + kind)]
        surplus += sorted(states, key=lambda path: files[path].changed)[:-1]
    for path in files:
        match path.split("/"):
            case ["ray", trial, folder, _, *_] if folder.startswith("checkpoint_"):
                copies[trial][folder].append(path)
    for of_trial in copies.values():
        by_age = sorted(of_trial.values(), key=lambda paths: max(files[path].changed for path in paths))
        surplus += [path for paths in by_age[: -_COPIES if at_work else None] for path in paths]
    return surplus
