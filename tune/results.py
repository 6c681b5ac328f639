"""The results lake: plain Parquet that keeps every trial, epoch, case and picture of every search.

    <root>/<experiment>/experiment.json      what was searched, how, by which versions
    <root>/<experiment>/trials/*.parquet     one row per trial: status, config.* columns, figures, cost, error, checkpoint
    <root>/<experiment>/metrics/*.parquet    one row per trial and epoch
    <root>/<experiment>/cases/*.parquet      one row per trial, split, case, class and number of votes
    <root>/<experiment>/gallery/*.parquet    one row per pictured case: image, truth and prediction as PNG

Write (a search does this):

    create_experiment("results", "first", {"dataset": "phantom", "fold": 0})
    with Writer("results", "first") as writer:
        writer.append("trials", {"trial_id": "a1", "number": 0, "status": "running", "config.diffusion.timesteps": 4})
        writer.append("metrics", {"trial_id": "a1", "epoch": 1, "dice": 0.71})

Read (anyone may; DuckDB, Polars and pandas can as well, without this module):

    lake = load("results")                   # or "s3://bucket/prefix"
    lake.trials(), lake.metrics(), lake.cases(), lake.gallery()      # Arrow tables
    lake.comparison()                        # confidence intervals and paired tests between trials
    lake.tradeoffs()                         # Dice against seconds per case, for every number of votes
    lake.finalists()                         # trained again with several seeds: test figures beside what the search had said

A row replaces the older row of the same key as a whole, so a repeated write is harmless. Files are immutable and appear whole.
Times are UTC timestamps, durations seconds, memory bytes, Dice and IoU fractions.
"""

from __future__ import annotations

import atexit
import json
import threading
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from cdal.errors import InputError
from tune import significance, tradeoffs
from tune.lake_storage import Store
from tune.lake_tables import (
    KEYS,
    SCHEMA_VERSION,
    SCHEMAS,
    LakeWarning,
    concatenate,
    fit,
    newest,
    plain,
    read_files,
    stamp_of,
    to_table,
    write_file,
)

__all__ = [
    "KEYS",
    "SCHEMAS",
    "SCHEMA_VERSION",
    "Experiment",
    "InputError",
    "Lake",
    "LakeWarning",
    "Writer",
    "compact",
    "create_experiment",
    "load",
    "read_experiment",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DESCRIPTION = "experiment.json"
_FAN_IN = 8  # a writer merges its own files eight at a time ...
_TOP_LEVEL = 4  # ... up to four times over, so a file holds up to 4,096 flushes
_ROWS_PER_FILE = 1_000_000


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


def create_experiment(
    root: str | Path, name: str, description: Mapping[str, Any], *, filesystem: pafs.FileSystem | None = None
) -> Experiment:
    """Start an experiment: write its experiment.json. The description should at least name `dataset` and `fold`.

    Raises:
        InputError: the name is taken or cannot be a folder name.
    """
    _check_name(name)
    store = Store(root, filesystem)
    about = {"schema_version": SCHEMA_VERSION, "experiment": name, "created_at": datetime.now(UTC).isoformat()}
    content = about | dict(description) | {"schema_version": SCHEMA_VERSION, "experiment": name}
    text = json.dumps(content, indent=2, default=str, ensure_ascii=False)
    if not store.create(f"{name}/{_DESCRIPTION}", text.encode("utf-8", "replace")):
        raise InputError(f"experiment {name!r} already exists in {root}; choose another name, or go on with it: --resume {name}")
    return read_experiment(root, name, filesystem=filesystem)


def read_experiment(root: str | Path, name: str, *, filesystem: pafs.FileSystem | None = None) -> Experiment:
    """Read one experiment's description.

    Raises:
        InputError: there is no such experiment in this lake, or its experiment.json is damaged.
    """
    _check_name(name)
    found = _describe(Store(root, filesystem), name)
    if found is None:
        raise InputError(f"{root} holds no experiment named {name!r}")
    return found


def load(root: str | Path, *, filesystem: pafs.FileSystem | None = None) -> Lake:
    """Open a lake for reading: a folder, `s3://bucket/prefix`, or a path on a given file system.

    Raises:
        InputError: the root does not exist or holds no experiments.
    """
    store = Store(root, filesystem)
    folders = store.folders()
    if folders is None:
        raise InputError(f"no results at {root}: there is no such folder")
    experiments = []
    for name in folders:
        try:
            found = _describe(store, name)
        except InputError as error:
            warnings.warn(str(error), LakeWarning, stacklevel=2)
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

    def comparison(self, metric: str = "dice", split: str = "validation") -> pa.Table:
        """How sure the ranking is: per trial the mean over cases with its 95 % interval, and a paired test against the best one.

        The trainings of a finalist count as one. The columns are described in `tune.significance`.
        """
        return significance.comparison(self.cases([metric]), self.trials(), metric=metric, split=split)

    def tradeoffs(self, split: str = "validation") -> pa.Table:
        """Dice against seconds per case: every trial at every number of votes, and the front of the best.

        The columns are described in `tune.tradeoffs`.
        """
        return tradeoffs.tradeoffs(self.cases(["dice", "seconds"]), self.trials(), split=split)

    def finalists(self) -> pa.Table:
        """One row per finalist: test Dice with its 95 % interval and paired tests, beside the Dice that made it a finalist.

        The columns are described in `tune.significance`.
        """
        return significance.finalists(self.cases(["dice"]), self.trials())

    def _read(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        folders = [f"{experiment.name}/{table}" for experiment in self.experiments]
        wanted = None if columns is None else [*dict.fromkeys([*KEYS[table], *columns, "recorded_at"])]
        parts: dict[str, pa.Table] = {}
        while True:
            paths = [path for folder in folders for path in self._store.files(folder)]
            try:
                read_files(self._store, paths, table, wanted, parts)
            except FileNotFoundError:
                continue  # a file vanished after it was listed: a writer has just merged it into another
            return newest(concatenate([parts[path] for path in paths if path in parts], table, wanted), KEYS[table])


class Writer:
    """Appends rows to one experiment from one process; a thread writes them out every few seconds.

    Many small flushes do not become many small files: the writer merges its own files eight at a time.
    """

    def __init__(
        self, root: str | Path, experiment: str, *, flush_seconds: float = 5.0, filesystem: pafs.FileSystem | None = None
    ) -> None:
        """Open an experiment for appending.

        Args:
            root: the lake.
            experiment: a name that `create_experiment` made.
            flush_seconds: how long a row may wait in memory; 0 writes every `append` before it returns.
            filesystem: where `root` is a path on a file system of your own.
        """
        read_experiment(root, experiment, filesystem=filesystem)
        self._store = Store(root, filesystem)
        self._experiment = experiment
        self._flush_seconds = flush_seconds
        self._pending: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._files: dict[tuple[str, int], list[str]] = defaultdict(list)  # own files by (table, level)
        self._lock = threading.Lock()  # guards _pending and _stamp
        self._flushing = threading.Lock()  # one flush at a time
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        # A restarted search may run where the clock is behind: its rows must still be newer than those already written.
        self._stamp = max((stamp_of(path) for table in KEYS for path in self._store.files(f"{experiment}/{table}")), default=0)
        atexit.register(self.close)

    def append(self, table: str, rows: Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> None:
        """Take one row or several of `trials`, `metrics`, `cases` or `gallery`. Returns at once (see `flush_seconds`).

        A row must hold the table's key (but `experiment`, which is filled in) and replaces the older row of that key as a whole.

        Raises:
            ValueError: a key is missing, or a value does not fit its column.
        """
        checked = [self._checked(table, row) for row in ([rows] if isinstance(rows, Mapping) else rows)]
        with self._lock:
            if self._closing.is_set():
                raise ValueError(f"the writer of experiment {self._experiment!r} is closed")
            for row in checked:
                self._stamp = max(self._stamp + 1, time.time_ns() // 1000)
                row["recorded_at"] = _EPOCH + timedelta(microseconds=self._stamp)
            self._pending[table].extend(checked)
            if self._thread is None and self._flush_seconds > 0:
                self._thread = threading.Thread(target=self._flush_forever, name="results-lake", daemon=True)
                self._thread.start()
        if self._flush_seconds <= 0:
            self.flush()

    def flush(self) -> None:
        """Write all rows taken so far; they are durable when this returns. Rows that could not be written stay in memory."""
        with self._flushing:
            with self._lock:
                batch, self._pending = self._pending, defaultdict(list)
            for table in list(batch):
                try:
                    self._write(table, to_table(batch[table], table), level=0)
                except BaseException:
                    with self._lock:
                        for name, rows in batch.items():
                            self._pending[name] = rows + self._pending[name]
                    raise
                del batch[table]

    def close(self) -> None:
        """Write what is left and stop. Closing twice is harmless."""
        with self._lock:
            self._closing.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self.flush()
        atexit.unregister(self.close)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _checked(self, table: str, row: Mapping[str, Any]) -> dict[str, Any]:
        if table not in SCHEMAS:
            raise ValueError(f"unknown table {table!r}; tables are {', '.join(SCHEMAS)}")
        values = {str(name): plain(value) for name, value in row.items()} | {"experiment": self._experiment}
        missing = [name for name in KEYS[table] if values.get(name) is None]
        if missing:
            raise ValueError(f"a row of {table} lacks {', '.join(missing)}; its key is {', '.join(KEYS[table])}")
        for field in SCHEMAS[table]:
            if values.get(field.name) is not None:
                values[field.name] = fit(values[field.name], field, table)
        return values

    def _flush_forever(self) -> None:
        wait = self._flush_seconds
        while not self._closing.wait(wait):
            try:
                self.flush()
                wait = self._flush_seconds
            except (OSError, pa.ArrowException) as error:
                wait = min(2 * wait, 60.0)
                warnings.warn(f"results wait in memory, trying again in {wait:.0f} s: {error}", LakeWarning, stacklevel=2)

    def _write(self, table: str, content: pa.Table, level: int) -> None:
        self._files[table, level].append(write_file(self._store, f"{self._experiment}/{table}", content, level))
        if level < _TOP_LEVEL and len(self._files[table, level]) >= _FAN_IN:
            parts: dict[str, pa.Table] = {}
            try:
                read_files(self._store, self._files.pop((table, level)), table, None, parts)
            except FileNotFoundError:
                return  # compacted by somebody else in the meantime: the rows are safe in another file
            self._write(table, newest(concatenate(list(parts.values()), table, None), KEYS[table]), level + 1)
            self._store.delete(parts)


def compact(root: str | Path, experiment: str | None = None, *, filesystem: pafs.FileSystem | None = None) -> int:
    """Merge each table's files into one and drop replaced rows; returns how many files fewer there are.

    May run while a search writes, and be killed at any moment: files go only when the merged file is there. Unreadable files stay.
    """
    lake = load(root, filesystem=filesystem)
    store, saved = Store(root, filesystem), 0
    for name in [experiment] if experiment is not None else [item.name for item in lake.experiments]:
        read_experiment(root, name, filesystem=filesystem)
        for table in KEYS:
            folder = f"{name}/{table}"
            saved += store.delete(store.stale(folder))
            paths = store.files(folder)
            if len(paths) < 2:
                continue
            parts: dict[str, pa.Table] = {}
            try:
                read_files(store, paths, table, None, parts)
            except FileNotFoundError:
                continue  # a writer merged its own files just now; the next run will do
            if len(parts) < 2:
                continue
            merged = newest(concatenate(list(parts.values()), table, None), KEYS[table])
            starts = range(0, max(merged.num_rows, 1), _ROWS_PER_FILE)
            for start in starts:
                write_file(store, folder, merged.slice(start, _ROWS_PER_FILE), _TOP_LEVEL)
            saved += store.delete(parts) - len(starts)
    return saved


def _check_name(name: str) -> None:
    if not name.strip() or name.startswith(".") or "/" in name or not name.isprintable() or len(name.encode()) > 200:
        raise InputError(
            f"{name!r:.80} cannot name an experiment: use printable text without '/', not starting with '.', of 1 to 200 bytes"
        )


def _describe(store: Store, name: str) -> Experiment | None:
    """The experiment in one folder, None where the folder is none.

    Raises:
        InputError: its experiment.json is damaged.
    """
    path = f"{name}/{_DESCRIPTION}"
    try:
        description = json.loads(store.read(path).to_pybytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InputError(f"{store.name(path)} is not valid JSON: {error}") from error
    if not isinstance(description, dict):
        raise InputError(f"{store.name(path)} is not a JSON object")
    return Experiment(name, description)
