"""Reading a lake, whole or in part, and merging its small files."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from cdal.errors import InputError
from tune.lake import statistics
from tune.lake.experiments import Experiment, describe, read_experiment
from tune.lake.s3 import RemoteError
from tune.lake.spool import TOP_LEVEL
from tune.lake.storage import REPEATED, Store
from tune.lake.tables import KEYS, LakeWarning, concatenate, newest, read_files, write_file

_ROWS_PER_FILE = 1_000_000
_BYTES_AT_ONCE = 128 * 2**20  # that compacting reads; pictures are large
_THREADS = 16  # that wait for the store
_LOG_BYTES = 32 * 1024  # of the end of a log
_FOLDER = re.compile(r"[\w-][\w.-]*")


def load(root: str | Path, *, filesystem: pafs.FileSystem | None = None) -> Lake:
    """Open a lake for reading: a folder, `s3://bucket/prefix`, or a path on a given file system.

    Raises:
        InputError: the root does not exist or holds no experiments, or the store cannot be used.
    """
    store = Store(root, filesystem)
    folders = store.folders()
    if folders is None:
        raise InputError(f"no results at {root}: there is no such folder")

    def read(name: str) -> Experiment | InputError | None:
        try:
            return describe(store, name)
        except RemoteError:
            raise
        except InputError as error:
            return error

    experiments = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for name, found in zip(folders, pool.map(read, folders), strict=True):
            if isinstance(found, InputError):
                warnings.warn(str(found), LakeWarning, stacklevel=2)
                found = Experiment(name, {})
            if found is not None:
                experiments.append(found)
    if not experiments:
        raise InputError(f"{root} holds no experiments; a search writes one: python tune/search.py --storage {root}")
    return Lake(store, tuple(experiments))


class Lake:
    """The rows of all experiments under one root, read afresh by every call; the newest row per key."""

    def __init__(self, store: Store, experiments: tuple[Experiment, ...]) -> None:
        self._store = store
        self.experiments = experiments

    def only(self, names: Iterable[str]) -> Lake:
        """The same lake as if it held nothing but these experiments."""
        wanted = set(names)
        return Lake(self._store, tuple(experiment for experiment in self.experiments if experiment.name in wanted))

    def files(self) -> list[str]:
        """Paths of all Parquet files. Files never change, so where the list is as it was, so are all rows."""
        return [
            path for experiment in self.experiments for table in KEYS for path in self._store.files(f"{experiment.name}/{table}")
        ]

    def trials(self) -> pa.Table:
        """One row per trial, in the order in which they were proposed."""
        return self._read("trials").sort_by([("experiment", "ascending"), ("number", "ascending")])

    def metrics(self, columns: Sequence[str] | None = None) -> pa.Table:
        """One row per trial and epoch; with `columns`, only these and the key."""
        return self._read("metrics", columns)

    def cases(self, columns: Sequence[str] | None = None) -> pa.Table:
        """One row per trial, split, case, class and number of votes; with `columns`, only these and the key."""
        return self._read("cases", columns)

    def gallery(self, columns: Sequence[str] | None = None) -> pa.Table:
        """One row per pictured case; with `columns`, only these and the key."""
        return self._read("gallery", columns)

    def splits(self) -> pa.Table:
        """One row per fold and case, of every fold of an experiment's dataset: the part that the case is in."""
        return self._read("splits")

    def comparison(self, metric: str = "dice", split: str = "validation") -> pa.Table:
        """How sure the ranking is: per trial the mean over cases with its 95 % interval, and a paired test against the best one.

        Cases that belong together count as one there, and so do the trainings of a finalist. The columns are described in
        `tune.lake.statistics`.
        """
        return statistics.comparison(self.cases([metric, "group"]), self.trials(), metric=metric, split=split)

    def tradeoffs(self, split: str = "validation") -> pa.Table:
        """Dice against seconds per case: every trial at every number of votes, and the front of the best.

        The columns are described in `tune.lake.statistics`.
        """
        return statistics.tradeoffs(self.cases(["dice", "seconds"]), self.trials(), split=split)

    def finalists(self) -> pa.Table:
        """One row per finalist: test Dice with its 95 % interval and paired tests, beside the Dice that made it a finalist.

        The columns are described in `tune.lake.statistics`.
        """
        return statistics.finalists(self.cases(["dice", "group"]), self.trials())

    def _read(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        folders = [f"{experiment.name}/{table}" for experiment in self.experiments]
        wanted = None if columns is None else [*dict.fromkeys([*KEYS[table], *columns, "recorded_at"])]
        parts: dict[str, pa.Table] = {}
        while True:
            with ThreadPoolExecutor(_THREADS) as pool:
                paths = [path for files in pool.map(self._store.files, folders) for path in files]
            try:
                read_files(self._store, paths, table, wanted, parts, _THREADS)
            except FileNotFoundError:
                continue  # a file vanished after it was listed: a writer has just merged it into another
            return newest(concatenate([parts[path] for path in paths if path in parts], table, wanted), KEYS[table])


def read_log(root: str | Path, row: Mapping[str, Any]) -> str:
    """The end of what a trial printed; empty where there is nothing, or nothing to be read.

    A row does not lead out of its trial's folder, nor does a link in it.

    Args:
        root: the lake.
        row: of the trials table.
    """
    experiment, trial = str(row.get("experiment")), str(row.get("trial_id"))
    path = f"{experiment}/tune/{trial}/log.txt"
    if row.get("log") != path or not _FOLDER.fullmatch(trial) or "/" in experiment or experiment in (".", ".."):
        return ""
    store = Store(root, patience=REPEATED)
    local = store.local_path(path)
    if local is not None and (local.is_symlink() or not local.is_file()):
        return ""
    try:
        with store.open(path) as file:
            file.seek(max(0, file.size() - _LOG_BYTES))
            return bytes(file.read(_LOG_BYTES)).decode("utf-8", "replace")
    except (OSError, pa.ArrowException):
        return ""


def compact(root: str | Path, experiment: str | None = None, *, filesystem: pafs.FileSystem | None = None) -> int:
    """Merge each table's files into one and drop replaced rows; returns how many files fewer there are.

    May run while a search writes, and be killed at any moment: files go only when the merged file is there. Unreadable files stay,
    and so do files that are so large that merging them would fill the memory.

    Raises:
        InputError: there is no such lake or experiment, or the store cannot be used.
    """
    lake = load(root, filesystem=filesystem)
    store, saved = Store(root, filesystem), 0
    for name in [experiment] if experiment is not None else [item.name for item in lake.experiments]:
        if experiment is not None:
            read_experiment(root, name, filesystem=filesystem)
        for table in KEYS:
            folder = f"{name}/{table}"
            saved += store.delete(store.stale(folder))
            saved += sum(_merge(store, folder, table, paths) for paths in _batches(store.sizes(folder)))
    return saved


def _batches(sizes: dict[str, int]) -> list[list[str]]:
    """Files, oldest first, in groups that fit into memory."""
    groups, size = [[]], 0  # type: list[list[str]], int
    for path in sorted(sizes):
        if groups[-1] and size + sizes[path] > _BYTES_AT_ONCE:
            groups.append([])
            size = 0
        groups[-1].append(path)
        size += sizes[path]
    return groups


def _merge(store: Store, folder: str, table: str, paths: Sequence[str]) -> int:
    """Merge files into one; returns how many fewer there are."""
    parts: dict[str, pa.Table] = {}
    if len(paths) < 2:
        return 0
    try:
        read_files(store, paths, table, None, parts, _THREADS)
    except FileNotFoundError:
        return 0  # a writer merged its own files just now; the next run will do
    if len(parts) < 2:
        return 0
    merged = newest(concatenate(list(parts.values()), table, None), KEYS[table])
    starts = range(0, max(merged.num_rows, 1), _ROWS_PER_FILE)
    for start in starts:
        write_file(store, folder, merged.slice(start, _ROWS_PER_FILE), TOP_LEVEL)
    return store.delete(parts) - len(starts)
