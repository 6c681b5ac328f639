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

A row replaces the older row of the same key as a whole, so a repeated write is harmless. Files are immutable and appear whole.
Times are UTC timestamps, durations seconds, memory bytes, Dice and IoU fractions.
"""

from __future__ import annotations

import atexit
import json
import os
import threading
import time
import uuid
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from cdal.errors import InputError

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

SCHEMA_VERSION = 1

_TEXT, _WHOLE, _NUMBER, _BYTES = pa.string(), pa.int64(), pa.float64(), pa.binary()
_TIME = pa.timestamp("us", tz="UTC")

SCHEMAS: dict[str, pa.Schema] = {
    "trials": pa.schema(
        {
            "experiment": _TEXT,
            "trial_id": _TEXT,
            "number": _WHOLE,  # order in which the search proposed it, from 0
            "dataset": _TEXT,
            "fold": _WHOLE,
            "kind": _TEXT,  # searched | published | unet
            "status": _TEXT,  # pending | running | finished | stopped | diverged | failed | interrupted
            "reason": _TEXT,  # why it ended, one sentence
            "error": _TEXT,
            "seed": _WHOLE,
            "epochs": _WHOLE,  # epochs trained
            "validation_dice": _NUMBER,  # best epoch's, cheap validation: what the search maximises
            "validation_iou": _NUMBER,
            "best_epoch": _WHOLE,
            "final_dice": _NUMBER,  # best checkpoint, full protocol, majority vote, validation split
            "final_iou": _NUMBER,
            "test_dice": _NUMBER,  # the same on the test split; null until finalists are tested
            "test_iou": _NUMBER,
            "votes": _WHOLE,
            "seconds_per_case": _NUMBER,
            "started_at": _TIME,
            "ended_at": _TIME,
            "seconds": _NUMBER,
            "gpu_seconds": _NUMBER,
            "cpu_seconds": _NUMBER,
            "memory_bytes": _WHOLE,  # peak
            "parameters": _WHOLE,  # of the generator
            "workers": _WHOLE,
            "device": _TEXT,
            "host": _TEXT,
            "restarts": _WHOLE,
            "checkpoint": _TEXT,
            "recorded_at": _TIME,
        }
    ),
    "metrics": pa.schema(
        {
            "experiment": _TEXT,
            "trial_id": _TEXT,
            "epoch": _WHOLE,
            "step": _WHOLE,  # optimiser steps so far
            "images": _WHOLE,  # training samples so far
            "dice": _NUMBER,  # cheap validation, mean over classes and cases
            "iou": _NUMBER,
            "class_dice": pa.list_(_NUMBER),
            "loss_generator": _NUMBER,
            "loss_discriminator": _NUMBER,
            "lr_generator": _NUMBER,
            "lr_discriminator": _NUMBER,
            "train_seconds": _NUMBER,
            "validation_seconds": _NUMBER,
            "images_per_second": _NUMBER,
            "memory_bytes": _WHOLE,
            "recorded_at": _TIME,
        }
    ),
    "cases": pa.schema(
        {
            "experiment": _TEXT,
            "trial_id": _TEXT,
            "split": _TEXT,
            "case": _TEXT,
            "class": _TEXT,
            "votes": _WHOLE,
            "dice": _NUMBER,
            "iou": _NUMBER,
            "hd95": _NUMBER,
            "seconds": _NUMBER,
            "recorded_at": _TIME,
        }
    ),
    "gallery": pa.schema(
        {
            "experiment": _TEXT,
            "trial_id": _TEXT,
            "split": _TEXT,
            "case": _TEXT,
            "votes": _WHOLE,
            "dice": _NUMBER,
            "image": _BYTES,  # PNG, grey or RGB
            "truth": _BYTES,  # PNG of class numbers, 0 = background
            "prediction": _BYTES,
            "uncertainty": _BYTES,  # PNG, grey: entropy of the votes
            "recorded_at": _TIME,
        }
    ),
}
"""The columns every table has. Others (`config.*`, further losses) are kept as well, their types taken from the values."""

KEYS: dict[str, tuple[str, ...]] = {
    "trials": ("experiment", "trial_id"),
    "metrics": ("experiment", "trial_id", "epoch"),
    "cases": ("experiment", "trial_id", "split", "case", "class", "votes"),
    "gallery": ("experiment", "trial_id", "split", "case"),
}

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DESCRIPTION = "experiment.json"
_VERSION_KEY = b"schema_version"
_FAN_IN = 8  # a writer merges its own files eight at a time ...
_TOP_LEVEL = 4  # ... up to four times over, so a file holds up to 4,096 flushes
_STALE_SECONDS = 3600.0  # a temporary file this old belongs to a dead writer
_ROWS_PER_FILE = 1_000_000


class LakeWarning(UserWarning):
    """Something in the lake could not be used; the message names the file."""


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
    store = _Store(root, filesystem)
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
    found = _describe(_Store(root, filesystem), name)
    if found is None:
        raise InputError(f"{root} holds no experiment named {name!r}")
    return found


def load(root: str | Path, *, filesystem: pafs.FileSystem | None = None) -> Lake:
    """Open a lake for reading: a folder, `s3://bucket/prefix`, or a path on a given file system.

    Raises:
        InputError: the root does not exist or holds no experiments.
    """
    store = _Store(root, filesystem)
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

    def __init__(self, store: _Store, experiments: tuple[Experiment, ...]) -> None:
        self._store = store
        self.experiments = experiments

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

    def _read(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        folders = [f"{experiment.name}/{table}" for experiment in self.experiments]
        wanted = None if columns is None else [*dict.fromkeys([*KEYS[table], *columns, "recorded_at"])]
        parts: dict[str, pa.Table] = {}
        while True:
            paths = [path for folder in folders for path in self._store.files(folder)]
            try:
                _read_files(self._store, paths, table, wanted, parts)
            except FileNotFoundError:
                continue  # a file vanished after it was listed: a writer has just merged it into another
            return _newest(_concatenate([parts[path] for path in paths if path in parts], table, wanted), KEYS[table])


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
        self._store = _Store(root, filesystem)
        self._experiment = experiment
        self._flush_seconds = flush_seconds
        self._pending: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._files: dict[tuple[str, int], list[str]] = defaultdict(list)  # own files by (table, level)
        self._lock = threading.Lock()  # guards _pending and _stamp
        self._flushing = threading.Lock()  # one flush at a time
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        # A restarted search may run where the clock is behind: its rows must still be newer than those already written.
        self._stamp = max((_stamp_of(path) for table in KEYS for path in self._store.files(f"{experiment}/{table}")), default=0)
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
                    self._write(table, _to_table(batch[table], table), level=0)
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
        values = {str(name): _plain(value) for name, value in row.items()} | {"experiment": self._experiment}
        missing = [name for name in KEYS[table] if values.get(name) is None]
        if missing:
            raise ValueError(f"a row of {table} lacks {', '.join(missing)}; its key is {', '.join(KEYS[table])}")
        for field in SCHEMAS[table]:
            if values.get(field.name) is not None:
                values[field.name] = _fit(values[field.name], field, table)
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
        self._files[table, level].append(_write_file(self._store, f"{self._experiment}/{table}", content, level))
        if level < _TOP_LEVEL and len(self._files[table, level]) >= _FAN_IN:
            parts: dict[str, pa.Table] = {}
            try:
                _read_files(self._store, self._files.pop((table, level)), table, None, parts)
            except FileNotFoundError:
                return  # compacted by somebody else in the meantime: the rows are safe in another file
            self._write(table, _newest(_concatenate(list(parts.values()), table, None), KEYS[table]), level + 1)
            self._store.delete(parts)


def compact(root: str | Path, experiment: str | None = None, *, filesystem: pafs.FileSystem | None = None) -> int:
    """Merge each table's files into one and drop replaced rows; returns how many files fewer there are.

    May run while a search writes, and be killed at any moment: files go only when the merged file is there. Unreadable files stay.
    """
    lake = load(root, filesystem=filesystem)
    store, saved = _Store(root, filesystem), 0
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
                _read_files(store, paths, table, None, parts)
            except FileNotFoundError:
                continue  # a writer merged its own files just now; the next run will do
            if len(parts) < 2:
                continue
            merged = _newest(_concatenate(list(parts.values()), table, None), KEYS[table])
            starts = range(0, max(merged.num_rows, 1), _ROWS_PER_FILE)
            for start in starts:
                _write_file(store, folder, merged.slice(start, _ROWS_PER_FILE), _TOP_LEVEL)
            saved += store.delete(parts) - len(starts)
    return saved


# ------------------------------------------------------------------------------------------------------------- rows to columns


def _plain(value: Any) -> Any:
    """A plain Python value: NumPy and torch ones unwrapped, paths made text, unpaired surrogates (not UTF-8) replaced."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    return value.tolist() if hasattr(value, "tolist") else value


def _fit(value: Any, field: pa.Field, table: str) -> Any:
    """Check a value against its column."""
    if field.type == _TIME and isinstance(value, (int, float)):
        return datetime.fromtimestamp(value, UTC)
    if field.type == _WHOLE and isinstance(value, float) and value.is_integer():
        return int(value)
    if field.type == _NUMBER and isinstance(value, int):
        return float(value)
    try:
        if field.type == _WHOLE and not isinstance(value, int):
            raise TypeError("not a whole number")  # Arrow would cut off the fraction
        pa.scalar(value, field.type)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{table}.{field.name} is {value!r:.80}; the column holds {field.type}") from error
    return value


def _to_table(rows: Sequence[Mapping[str, Any]], table: str) -> pa.Table:
    schema = SCHEMAS[table]
    names = [*schema.names, *dict.fromkeys(name for row in rows for name in row if name not in schema.names)]
    columns = [
        pa.array([row.get(name) for row in rows], schema.field(name).type)
        if name in schema.names
        else _infer([row.get(name) for row in rows])
        for name in names
    ]
    return pa.table(columns, names=names)


def _infer(values: Sequence[Any]) -> pa.Array:
    """A column of values whose type nobody declared: the narrowest type that keeps them all, JSON text as the last resort."""
    kinds = {type(value) for value in values if value is not None}
    try:
        if kinds <= {int, float} and float in kinds:
            return pa.array([None if value is None else float(value) for value in values], _NUMBER)
        if len(kinds) <= 1 and kinds <= {bool, int, float, str, bytes, datetime}:
            return pa.array(values)
        if kinds <= {list, tuple}:
            inner = _infer([item for value in values if value is not None for item in value]).type
            if not pa.types.is_nested(inner) and not pa.types.is_null(inner) and not _mixed(values):
                return pa.array([None if value is None else list(value) for value in values], pa.list_(inner))
    except (pa.ArrowException, OverflowError):
        pass
    return pa.array([None if value is None else _text(value) for value in values], _TEXT)


def _mixed(lists: Sequence[Any]) -> bool:
    """Whether the items of some lists are text only because their types differ."""
    kinds = {type(item) for value in lists if value is not None for item in value if item is not None}
    return len(kinds) > 1 and not kinds <= {int, float}


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text.encode("utf-8", "replace").decode()


# ------------------------------------------------------------------------------------------------------------ files to a table


def _write_file(store: _Store, folder: str, content: pa.Table, level: int) -> str:
    """Write one immutable file; its name is unique and starts with the time of its newest row."""
    metadata = {_VERSION_KEY: str(SCHEMA_VERSION).encode(), **(content.schema.metadata or {})}
    sink = pa.BufferOutputStream()
    pq.write_table(content.replace_schema_metadata(metadata), sink, compression="zstd")
    newest = pc.max(content["recorded_at"]).cast(_WHOLE).as_py() or 0
    path = f"{folder}/{newest:016d}-{uuid.uuid4().hex[:12]}-{level}.parquet"
    store.write(path, sink.getvalue())
    return path


class _UnusableError(Exception):
    """Why a file is not one of ours."""


def _read_files(store: _Store, paths: Sequence[str], table: str, columns: Sequence[str] | None, into: dict[str, pa.Table]) -> None:
    """Read the files that are not in `into` yet, at once; warn of each that is not one of ours. Raises FileNotFoundError."""
    skipped: list[str] = []

    def read(path: str) -> None:
        try:
            into[path] = _read_file(store.read(path), table, columns)
        except _UnusableError as error:
            skipped.append(f"skipped {store.name(path)}: {error}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, [path for path in paths if path not in into]))
    for message in sorted(skipped):
        warnings.warn(message, LakeWarning, stacklevel=4)
    for path in paths:
        if path in into and _version(into[path]) > SCHEMA_VERSION:
            warnings.warn(f"{store.name(path)} was written by a newer release; unknown columns are kept", LakeWarning, stacklevel=4)


def _read_file(content: pa.Buffer, table: str, columns: Sequence[str] | None) -> pa.Table:
    """One file's rows with the known columns in their types. Raises _UnusableError."""
    known = SCHEMAS[table]
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        metadata, names = file.metadata.metadata or {}, file.schema_arrow.names
        if _VERSION_KEY not in metadata:
            raise _UnusableError("it carries no schema_version, so another program wrote it")
        lacking = [name for name in (*KEYS[table], "recorded_at") if name not in names]
        if lacking:
            raise _UnusableError(f"it lacks the column {lacking[0]!r}")
        rows = file.read(None if columns is None else [name for name in columns if name in names], use_threads=False)
        for index, name in enumerate(rows.column_names):
            if name in known.names and rows.field(name).type != known.field(name).type:
                rows = rows.set_column(index, name, rows[name].cast(known.field(name).type))
        rows = rows.replace_schema_metadata({_VERSION_KEY: metadata[_VERSION_KEY]})
        _version(rows)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _UnusableError(str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    return rows


def _version(rows: pa.Table) -> int:
    return int(rows.schema.metadata[_VERSION_KEY])


def _concatenate(parts: Sequence[pa.Table], table: str, columns: Sequence[str] | None) -> pa.Table:
    """Files of different age in one table: known columns always there, others in the narrowest type that holds them all."""
    known = {field.name: field.type for field in SCHEMAS[table] if columns is None or field.name in columns}
    found: dict[str, list[pa.DataType]] = defaultdict(list)
    for part in parts:
        for field in part.schema:
            found[field.name].append(field.type)
    types = known | {name: _common(seen) for name, seen in found.items() if name not in known}
    version = max(map(_version, parts), default=SCHEMA_VERSION)
    schema = pa.schema(types, metadata={_VERSION_KEY: str(version).encode()})
    whole = [pa.table([_convert(part, name, kind) for name, kind in types.items()], schema=schema) for part in parts]
    return pa.concat_tables(whole) if whole else schema.empty_table()


def _common(types: Sequence[pa.DataType]) -> pa.DataType:
    kinds = {kind for kind in types if not pa.types.is_null(kind)}
    if len(kinds) <= 1:
        return kinds.pop() if kinds else pa.null()
    if all(map(_numeric, kinds)):
        return _NUMBER
    if all(pa.types.is_list(kind) and _numeric(kind.value_type) for kind in kinds):
        return pa.list_(_NUMBER)
    return _TEXT


def _numeric(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _convert(part: pa.Table, name: str, kind: pa.DataType) -> pa.ChunkedArray | pa.Array:
    if name not in part.column_names:
        return pa.nulls(part.num_rows, kind)
    column = part[name]
    if column.type == kind:
        return column
    if kind == _TEXT and not (_numeric(column.type) or pa.types.is_boolean(column.type) or pa.types.is_null(column.type)):
        return pa.array([None if value is None else _text(value) for value in column.to_pylist()], _TEXT)
    return column.cast(kind, safe=False)


def _newest(table: pa.Table, key: Sequence[str]) -> pa.Table:
    """The newest row of every key, in the order of writing."""
    if table.num_rows < 2:
        return table
    order = pc.sort_indices(table["recorded_at"])
    keys = table.select(list(key)).take(order).append_column("_place", pa.array(np.arange(table.num_rows)))
    last = keys.group_by(list(key)).aggregate([("_place", "max")])["_place_max"]
    return table.take(order.take(last.take(pc.sort_indices(last))))


def _stamp_of(path: str) -> int:
    """Microseconds since 1970 of the newest row in a file, from its name; 0 where the name tells none."""
    digits = path.rsplit("/", 1)[-1].split("-", 1)[0]
    return int(digits) if digits.isdecimal() and len(digits) == 16 else 0


# -------------------------------------------------------------------------------------------------------------------- storage


def _check_name(name: str) -> None:
    if not name.strip() or name.startswith(".") or "/" in name or not name.isprintable() or len(name.encode()) > 200:
        raise InputError(
            f"{name!r:.80} cannot name an experiment: use printable text without '/', not starting with '.', of 1 to 200 bytes"
        )


def _describe(store: _Store, name: str) -> Experiment | None:
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


class _Store:
    """Whole files under one root, on this machine or in an object store. Paths are relative to the root, with '/'."""

    def __init__(self, root: str | Path, filesystem: pafs.FileSystem | None) -> None:
        self._root = str(root)
        self._local = False
        if filesystem is not None:
            self._fs, self._base = filesystem, self._root.rstrip("/")
        elif self._root.startswith("s3://"):
            self._fs, self._base = _s3(), self._root.removeprefix("s3://").rstrip("/")
        elif "://" in self._root:
            self._fs, self._base = pafs.FileSystem.from_uri(self._root)
        else:
            self._fs, self._base = pafs.LocalFileSystem(), Path(self._root).expanduser().absolute().as_posix()
            self._local = True

    def name(self, path: str) -> str:
        """A path as the user knows it."""
        return f"{self._root.rstrip('/')}/{path}"

    def folders(self) -> list[str] | None:
        """Names of the folders under the root; None where the root does not exist."""
        try:
            found = self._fs.get_file_info(pafs.FileSelector(self._base))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return sorted(info.base_name for info in found if info.type == pafs.FileType.Directory)

    def files(self, folder: str) -> list[str]:
        """Parquet files of a folder, oldest first; listed until two lists agree, for one may miss a file during a merge."""
        previous, found = None, self._list(folder)
        while found != previous:
            previous, found = found, self._list(folder)
        return sorted(path for path in found if path.endswith(".parquet"))

    def stale(self, folder: str) -> list[str]:
        """Temporary files that dead writers left."""
        old = time.time() - _STALE_SECONDS
        return [path for path, changed in self._list(folder).items() if path.endswith(".tmp") and 0 < changed < old]

    def read(self, path: str) -> pa.Buffer:
        """A file's content. Raises FileNotFoundError."""
        with self._fs.open_input_file(f"{self._base}/{path}") as stream:
            return stream.read_buffer()

    def write(self, path: str, content: pa.Buffer | bytes) -> None:
        """Write a file whole or not at all: by a rename on this machine, by one put elsewhere."""
        if not self._local:
            with self._fs.open_output_stream(f"{self._base}/{path}") as stream:
                stream.write(content)
            return
        temporary = self._temporary(path, content)
        os.replace(temporary, f"{self._base}/{path}")
        _sync_folder(os.path.dirname(temporary))

    def create(self, path: str, content: bytes) -> bool:
        """Like `write`, but only where there is no such file; tells whether it was written."""
        if not self._local:
            if self._fs.get_file_info(f"{self._base}/{path}").type != pafs.FileType.NotFound:
                return False
            self.write(path, content)
            return True
        temporary = self._temporary(path, content)
        try:
            os.link(temporary, f"{self._base}/{path}")  # unlike a rename, a link fails where the name is taken
        except FileExistsError:
            return False
        finally:
            os.unlink(temporary)
        _sync_folder(os.path.dirname(temporary))
        return True

    def delete(self, paths: Iterable[str]) -> int:
        """Delete files, those already gone too; returns how many there were."""
        deleted = 0
        for path in paths:
            try:
                self._fs.delete_file(f"{self._base}/{path}")
                deleted += 1
            except FileNotFoundError:
                continue
        return deleted

    def _temporary(self, path: str, content: pa.Buffer | bytes) -> str:
        target = Path(f"{self._base}/{path}")
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = f"{target.parent}/.{uuid.uuid4().hex}.tmp"
        with open(temporary, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        return temporary

    def _list(self, folder: str) -> dict[str, float]:
        """Files of a folder by relative path, with the time of their last change."""
        found = self._fs.get_file_info(pafs.FileSelector(f"{self._base}/{folder}", allow_not_found=True))
        return {f"{folder}/{info.base_name}": (info.mtime_ns or 0) / 1e9 for info in found if info.type == pafs.FileType.File}


def _sync_folder(folder: str) -> None:
    """Make a rename survive a power cut, where the file system can."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _s3() -> pafs.FileSystem:
    """S3 as AWS_ENDPOINT_URL and the usual credentials say; patient, because servers are away for half a minute at times."""
    import s3fs  # only where it is needed: it takes a second to import

    patience = {"retries": {"max_attempts": 12, "mode": "standard"}, "connect_timeout": 3, "read_timeout": 10}
    return pafs.PyFileSystem(pafs.FSSpecHandler(s3fs.S3FileSystem(config_kwargs=patience, use_listings_cache=False)))
