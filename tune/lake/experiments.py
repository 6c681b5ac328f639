"""Experiments of a lake: their names and descriptions, and what made them."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from cdal.errors import InputError
from tune.lake.driver import lease_of
from tune.lake.s3 import RemoteError
from tune.lake.storage import Store
from tune.lake.tables import SCHEMA_VERSION, to_table, write_file

DESCRIPTION = "experiment.json"
_PACKAGES = ("cdal-search", "ray", "optuna", "torch", "numpy", "monai", "pyarrow")


@dataclass(frozen=True)
class Experiment:
    """One search, as its experiment.json describes it."""

    name: str
    description: Mapping[str, Any]

    @property
    def dataset(self) -> str | None:
        """Name of the dataset, where the description has one."""
        value = self.description.get("dataset")
        return None if value is None else str(value)

    @property
    def created_at(self) -> str:
        """When it was created, ISO 8601; empty where the description does not say."""
        return str(self.description.get("created_at") or "")


def create_experiment(
    root: str | Path,
    name: str,
    description: Mapping[str, Any],
    splits: Sequence[Mapping[str, Any]] = (),
    *,
    filesystem: pafs.FileSystem | None = None,
) -> Experiment:
    """Start an experiment: write its experiment.json, and the rows of its table `splits`.

    The description should at least name `dataset` and `fold`, and a row of splits names fold, case, part, and the group if any.

    Of two processes that create the same name at once, one is refused (on S3: see `Store.create`).

    Raises:
        InputError: the name is taken or cannot be a folder name, or the store cannot be used.
    """
    _check_name(name)
    about = {"schema_version": SCHEMA_VERSION, "experiment": name, "created_at": datetime.now(UTC).isoformat()}
    content = about | dict(description) | {"schema_version": SCHEMA_VERSION, "experiment": name}
    try:
        created = (store := Store(root, filesystem)).create(f"{name}/{DESCRIPTION}", _as_json(content))
        if created and splits:
            known = {"experiment": name, "recorded_at": datetime.now(UTC)}
            write_file(store, f"{name}/splits", to_table([dict(row) | known for row in splits], "splits"), 0)
    except RemoteError:
        raise
    except OSError as error:
        raise InputError(f"{root}/{name} cannot be written: {error.strerror or error}") from error
    if not created:
        raise InputError(_taken(root, name))
    return read_experiment(root, name, filesystem=filesystem)


def amend_experiment(
    root: str | Path, name: str, changes: Mapping[str, Any], *, filesystem: pafs.FileSystem | None = None
) -> Experiment:
    """Rewrite an experiment's description with some of its entries changed or added. Only who holds it may (`tune.lake.hold`).

    Raises:
        LostError: another driver has taken the experiment over; nothing is changed.
        InputError: there is no such experiment, its experiment.json is damaged, or the store cannot be used.
        OSError: it cannot be written; it is as it was.
    """
    found = read_experiment(root, name, filesystem=filesystem)
    lease = lease_of(f"{root}/{name}/tune")
    if lease is not None:
        lease.confirm()
    kept = ("schema_version", "experiment", "created_at")  # what an experiment is known by
    content = dict(found.description) | {key: value for key, value in changes.items() if key not in kept}
    Store(root, filesystem).write(f"{name}/{DESCRIPTION}", _as_json(content))
    return read_experiment(root, name, filesystem=filesystem)


def _as_json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=2, default=str, ensure_ascii=False).encode("utf-8", "replace")


def refuse_taken(root: str | Path, name: str, *, filesystem: pafs.FileSystem | None = None) -> None:
    """Say early what `create_experiment` would.

    Raises:
        InputError: as there.
    """
    _check_name(name)
    if describe(Store(root, filesystem), name) is not None:
        raise InputError(_taken(root, name))


def _taken(root: str | Path, name: str) -> str:
    return f"experiment {name!r} already exists in {root}; choose another name, or go on with it: --resume {name}"


def read_experiment(root: str | Path, name: str, *, filesystem: pafs.FileSystem | None = None) -> Experiment:
    """Read one experiment's description.

    Raises:
        InputError: there is no such experiment in this lake, its experiment.json is damaged, or the store cannot be used.
    """
    _check_name(name)
    found = describe(Store(root, filesystem), name)
    if found is None:
        raise InputError(f"{root} holds no experiment named {name!r}")
    return found


def describe(store: Store, name: str) -> Experiment | None:
    """The experiment in one folder, None where the folder is none.

    Raises:
        InputError: its experiment.json is damaged.
    """
    path = f"{name}/{DESCRIPTION}"
    try:
        content = store.read(path).to_pybytes()
    except FileNotFoundError:
        return None
    try:
        description = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{store.name(path)} is not valid JSON: {error}") from error
    if not isinstance(description, dict):
        raise InputError(f"{store.name(path)} is not a JSON object")
    return Experiment(name, description)


def versions() -> dict[str, str]:
    """Of Python and of what figures depend on."""
    found = {"python": sys.version.split()[0]}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """The commit of the project, with `-dirty` where files differ from it; in a copy without a repository what CDAL_COMMIT says."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("CDAL_COMMIT")


def _check_name(name: str) -> None:
    if not name.strip() or name.startswith(".") or "/" in name or not name.isprintable() or len(name.encode()) > 200:
        raise InputError(
            f"{name!r:.80} cannot name an experiment: use printable text without '/', not starting with '.', of 1 to 200 bytes"
        )
