"""The lake's tables: their schemas, rows made into Arrow tables, and files of any age read back as one table."""

import errno
import json
import os
import uuid
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tune.lake.s3 import RemoteError
from tune.lake.storage import Store

SCHEMA_VERSION = 1

_TEXT, _WHOLE, _NUMBER, _BYTES = pa.string(), pa.int64(), pa.float64(), pa.binary()
_TIME = pa.timestamp("us", tz="UTC")
_NUMBERS, _EMPTY_LISTS = pa.list_(_NUMBER), pa.list_(pa.null())
_PYTHON = {_TEXT: str, _NUMBER: float, _BYTES: bytes, _TIME: datetime}

SCHEMAS: dict[str, pa.Schema] = {
    "trials": pa.schema(
        {
            "experiment": _TEXT,
            "trial_id": _TEXT,
            "number": _WHOLE,  # order in which the search proposed it, from 0
            "dataset": _TEXT,
            "fold": _WHOLE,
            "kind": _TEXT,  # searched | published | unet
            "status": _TEXT,  # pending | running | finished | stopped | infeasible | diverged | failed | interrupted
            "reason": _TEXT,  # why it ended, one sentence
            "cause": _TEXT,  # setting | machine | input | store: whose fault; null where it went well
            "error": _TEXT,
            "parent": _WHOLE,  # number of the trial that it became a copy of (population based training)
            "seed": _WHOLE,
            "epochs": _WHOLE,  # epochs trained
            "validation_dice": _NUMBER,  # best epoch's, cheap validation: what the search maximises
            "validation_iou": _NUMBER,
            "best_epoch": _WHOLE,
            "final_dice": _NUMBER,  # best checkpoint, full protocol, majority vote, validation split
            "final_iou": _NUMBER,
            "test_dice": _NUMBER,  # the same on the test split; null until finalists are tested
            "test_iou": _NUMBER,
            "test_evaluations": _WHOLE,  # times that these settings had been scored on the test split by then; 1 is as it should be
            "finalist": _TEXT,  # the search's trial whose settings are trained again here; null in a search
            "search_dice": _NUMBER,  # what made it a finalist: its Dice in the search, final if it had one
            "votes": _WHOLE,
            "uncertainty_correlation": _NUMBER,  # Spearman, over the cases: mean entropy of the votes and 1 - Dice
            "seconds_per_case": _NUMBER,
            "started_at": _TIME,
            "ended_at": _TIME,
            "seconds": _NUMBER,
            "gpu_seconds": _NUMBER,
            "cpu_seconds": _NUMBER,
            "gpu_hours": _NUMBER,  # of training and scoring, of a finished trial; CPU-hours where it took no GPU
            "cost": _NUMBER,  # of gpu_seconds, at --cost-per-gpu-hour
            "memory_bytes": _WHOLE,  # peak
            "parameters": _WHOLE,  # of the generator
            "workers": _WHOLE,
            "device": _TEXT,
            "host": _TEXT,
            "restarts": _WHOLE,
            "attempts": _WHOLE,  # processes that trained it, one after the other
            "waiting_seconds": _NUMBER,  # for a machine, between its proposal and its start; in no other figure
            "log": _TEXT,  # path of what it printed, below the root
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
            "class_dice": _NUMBERS,
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
            "group": _TEXT,  # what the case belongs to, such as its patient; null where cases stand alone, and in older files
            "class": _TEXT,
            "votes": _WHOLE,
            "dice": _NUMBER,
            "iou": _NUMBER,
            "hd95": _NUMBER,  # mm
            "assd": _NUMBER,  # mm
            "volume_error": _NUMBER,  # 2 (P - T) / (P + T)
            "aji": _NUMBER,  # null where the dataset does not tell objects apart
            "panoptic_quality": _NUMBER,
            "entropy": _NUMBER,  # of the whole case, so the same for every class; null but in the rows of all votes
            "entropy_error": _NUMBER,  # likewise: Pearson, over the pixels, with being wrong; null where undefined
            "votes_used": _WHOLE,  # likewise: votes drawn before the case was settled; null in older files
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
    "splits": pa.schema(
        {
            "experiment": _TEXT,
            "fold": _WHOLE,  # all folds of the dataset, not only the one that was searched on
            "case": _TEXT,
            "group": _TEXT,  # as in the cases
            "part": _TEXT,  # train | validation | test
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
    "splits": ("experiment", "fold", "case"),
}

_TYPES = {table: dict(zip(schema.names, schema.types, strict=True)) for table, schema in SCHEMAS.items()}
_VERSION_KEY = b"schema_version"
_EXACT = 2**53  # the largest whole number up to which floating-point numbers tell all apart
_MOST_NUMBERS = 2**62


class LakeWarning(UserWarning):
    """Something in the lake could not be used; the message names the file."""


def plain(value: Any) -> Any:
    """A plain Python value: NumPy and torch ones unwrapped, paths made text, unpaired surrogates (not UTF-8) replaced."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        return str(value).encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {str(plain(name)): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


def fit(value: Any, column: str, table: str) -> Any:
    """A value as its column holds it; those of columns that nobody declared pass. Raises ValueError where it does not fit."""
    kind = _TYPES[table].get(column)
    if kind is None or value is None:
        return value
    try:
        if kind == _TIME and isinstance(value, (int, float)):
            return datetime.fromtimestamp(value, UTC)
        if kind == _WHOLE and isinstance(value, float) and value.is_integer():
            value = int(value)
        if kind == _NUMBER and isinstance(value, int):
            value = float(value)
        if kind == _NUMBERS and isinstance(value, list) and not any(isinstance(item, bool) for item in value):
            value = [float(item) if isinstance(item, int) else item for item in value]
    except (OverflowError, ValueError, OSError):
        pass  # told below
    # Arrow would check it as well, but cut off fractions, and load pandas at the first value.
    if kind == _NUMBERS:
        fits = isinstance(value, list) and all(item is None or isinstance(item, float) for item in value)
    elif kind == _WHOLE:
        fits = isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    else:
        fits = isinstance(value, _PYTHON[kind])
    if not fits:
        raise ValueError(f"{table}.{column} is {value!r:.80}; the column holds {kind}")
    return value


def to_table(rows: Sequence[Mapping[str, Any]], table: str) -> pa.Table:
    """Rows as an Arrow table with all known columns, and one for every other name that occurs."""
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
        if kinds == {int, float} and all(abs(value) <= _EXACT for value in values if isinstance(value, int)):
            return pa.array([None if value is None else float(value) for value in values], _NUMBER)
        if len(kinds) <= 1 and kinds <= {bool, int, float, str, bytes, datetime}:
            return pa.array(values)
        if kinds == {list}:
            items = [item for value in values if value is not None for item in value if item is not None]
            inner = _infer(items).type
            if not pa.types.is_nested(inner) and (inner != _TEXT or all(isinstance(item, str) for item in items)):
                return pa.array(values, pa.list_(inner))
    except (pa.ArrowException, OverflowError):
        pass
    return pa.array([None if value is None else _text(value) for value in values], _TEXT)


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text.encode("utf-8", "replace").decode()


def write_file(store: Store, folder: str, content: pa.Table, level: int) -> tuple[str, int]:
    """Write one immutable file; its name is unique and starts with the time of its newest row. Returns its path and bytes."""
    metadata = {_VERSION_KEY: str(SCHEMA_VERSION).encode(), **(content.schema.metadata or {})}
    sink = pa.BufferOutputStream()
    pq.write_table(content.replace_schema_metadata(metadata), sink, compression="zstd")
    stamp = pc.max(content["recorded_at"]).cast(_WHOLE).as_py() or 0
    path = f"{folder}/{stamp:016d}-{uuid.uuid4().hex[:12]}-{level}.parquet"
    data = sink.getvalue()
    store.write(path, data)
    return path, data.size


class UnusableError(Exception):
    """Why a file is not one of ours."""


def read_files(
    store: Store, paths: Sequence[str], table: str, columns: Sequence[str] | None, into: dict[str, pa.Table], threads: int = 1
) -> None:
    """Read the files that are not in `into` yet; warn of each that is not one of ours. Raises FileNotFoundError."""
    skipped: list[str] = []

    def read(path: str) -> None:
        try:
            into[path] = read_file(store, path, table, columns)
        except UnusableError as error:
            skipped.append(f"skipped {store.name(path)}: {error}")

    missing = [path for path in paths if path not in into]
    if threads > 1 and len(missing) > 1:
        with ThreadPoolExecutor(min(threads, len(missing))) as pool:
            list(pool.map(read, missing))
    else:
        for path in missing:
            read(path)
    for message in sorted(skipped):
        warnings.warn(message, LakeWarning, stacklevel=4)
    for path in paths:
        if path in into and version_of(into[path]) > SCHEMA_VERSION:
            warnings.warn(f"{store.name(path)} was written by a newer release; unknown columns are kept", LakeWarning, stacklevel=4)


def read_file(store: Store, path: str, table: str, columns: Sequence[str] | None = None) -> pa.Table:
    """One file's rows with the known columns in their types; with `columns`, only these.

    Raises:
        UnusableError: it is not one of ours.
        OSError: it could not be read, or is not there.
    """
    known = SCHEMAS[table]
    with pa.BufferReader(store.read(path)) if columns is None else store.open(path) as content:
        try:
            file = pq.ParquetFile(content, pre_buffer=True)
            metadata, names = file.metadata.metadata or {}, file.schema_arrow.names
            if _VERSION_KEY not in metadata:
                raise UnusableError("it carries no schema_version, so another program wrote it")
            lacking = [name for name in (*KEYS[table], "recorded_at") if name not in names]
            if lacking:
                raise UnusableError(f"it lacks the column {lacking[0]!r}")
            rows = file.read(None if columns is None else [name for name in columns if name in names], use_threads=False)
            for index, name in enumerate(rows.column_names):
                if name in known.names and rows.field(name).type != known.field(name).type:
                    rows = rows.set_column(index, name, rows[name].cast(known.field(name).type))
            rows = rows.replace_schema_metadata({_VERSION_KEY: metadata[_VERSION_KEY]})
            version_of(rows)
        except (FileNotFoundError, RemoteError):
            raise
        except OSError as error:
            if error.errno == errno.ESTALE:  # a network file system says so where another machine deleted the file
                raise FileNotFoundError(errno.ENOENT, "deleted while it was read", store.name(path)) from error
            raise UnusableError(first_line(error)) from error
        except (pa.ArrowException, ValueError) as error:
            raise UnusableError(first_line(error)) from error
    return rows


def first_line(error: Exception) -> str:
    """What an error says, shortly."""
    return str(error).splitlines()[0][:200] if str(error).strip() else type(error).__name__


def version_of(rows: pa.Table) -> int:
    """The schema version that a file says it has."""
    return int(rows.schema.metadata[_VERSION_KEY])


def concatenate(parts: Sequence[pa.Table], table: str, columns: Sequence[str] | None) -> pa.Table:
    """Files of different age in one table: known columns always there, others in the narrowest type that holds them all."""
    known = {field.name: field.type for field in SCHEMAS[table] if columns is None or field.name in columns}
    found: dict[str, list[pa.DataType]] = defaultdict(list)
    for part in parts:
        for field in part.schema:
            found[field.name].append(field.type)
    types = known | {name: _common(seen) for name, seen in found.items() if name not in known}
    types |= {name: _TEXT for name in types.keys() - known.keys() if types[name] == _NUMBER and _inexact(parts, name)}
    version = max(map(version_of, parts), default=SCHEMA_VERSION)
    schema = pa.schema(types, metadata={_VERSION_KEY: str(version).encode()})
    whole = [part if part.schema.equals(schema) else _with_schema(part, schema) for part in parts]
    return pa.concat_tables(part.replace_schema_metadata(schema.metadata) for part in whole) if whole else schema.empty_table()


def _with_schema(part: pa.Table, schema: pa.Schema) -> pa.Table:
    return pa.table([_convert(part, field.name, field.type) for field in schema], schema=schema)


def _common(types: Sequence[pa.DataType]) -> pa.DataType:
    kinds = {pa.list_(kind.value_type) if pa.types.is_list(kind) else kind for kind in types if not pa.types.is_null(kind)}
    if any(pa.types.is_list(kind) for kind in kinds - {_EMPTY_LISTS}):
        kinds.discard(_EMPTY_LISTS)
    if len(kinds) <= 1:
        return kinds.pop() if kinds else pa.null()
    if all(map(_numeric, kinds)):
        return _NUMBER
    if all(pa.types.is_list(kind) and _numeric(kind.value_type) for kind in kinds):
        return _NUMBERS
    return _TEXT


def _numeric(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _inexact(parts: Sequence[pa.Table], name: str) -> bool:
    """Whether whole numbers of some file are too large to be told apart as floating-point ones."""
    whole = [part[name] for part in parts if name in part.column_names and pa.types.is_integer(part[name].type)]
    ends = [end for column in whole for end in pc.min_max(column).as_py().values() if end is not None]
    return any(abs(end) > _EXACT for end in ends)


def _convert(part: pa.Table, name: str, kind: pa.DataType) -> pa.ChunkedArray | pa.Array:
    if name not in part.column_names:
        return pa.nulls(part.num_rows, kind)
    column = part[name]
    if column.type == kind:
        return column
    if kind == _TEXT and not (
        pa.types.is_integer(column.type) or pa.types.is_boolean(column.type) or pa.types.is_null(column.type)
    ):
        return pa.array([None if value is None else _text(value) for value in column.to_pylist()], _TEXT)
    return column.cast(kind, safe=False)


def newest(table: pa.Table, key: Sequence[str]) -> pa.Table:
    """The newest row of every key, in the order of writing."""
    if table.num_rows < 2:
        return table
    stamps = _whole_numbers(table["recorded_at"].cast(_WHOLE))
    order = None if (stamps[1:] >= stamps[:-1]).all() else np.argsort(stamps, kind="stable")
    keys = _numbered(table, key)
    keys = keys if order is None else keys[order]
    by_key = np.argsort(keys, kind="stable")
    last = np.append(keys[by_key[1:]] != keys[by_key[:-1]], True)
    if not last.all():
        kept = np.sort(by_key[last])
        order = kept if order is None else order[kept]
    return table if order is None else table.take(pa.Array.from_buffers(_WHOLE, len(order), [None, pa.py_buffer(order)]))


def _numbered(table: pa.Table, key: Sequence[str]) -> npt.NDArray[np.int64]:
    """One whole number per row, equal where the keys are."""
    numbers, count = np.zeros(table.num_rows, np.int64), 1
    for name in key:
        column = table[name]
        if column.type != _WHOLE or column.null_count:
            column = column.dictionary_encode().unify_dictionaries()
            column = pa.chunked_array([chunk.indices for chunk in column.chunks], pa.int32())
        values = _whole_numbers(column)
        low, high = int(values.min()), int(values.max())
        if count * (high - low + 1) >= _MOST_NUMBERS:
            numbers, values = np.unique(numbers, return_inverse=True)[1], np.unique(values, return_inverse=True)[1]
            low, high, count = 0, int(values.max()), int(numbers.max()) + 1
        numbers, count = numbers * (high - low + 1) + (values - low), count * (high - low + 1)
    return numbers


def _whole_numbers(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    if column.null_count:
        return np.asarray(np.nan_to_num(column.to_numpy(), nan=-1), np.int64)
    # Arrow's own conversion would load pandas, which takes longer than reading a lake.
    return np.asarray(np.concatenate([np.from_dlpack(chunk) for chunk in column.chunks if len(chunk)]), np.int64)


def stamp_of(path: str) -> int:
    """Microseconds since 1970 of the newest row in a file, from its name; 0 where the name tells none."""
    digits = path.rsplit("/", 1)[-1].split("-", 1)[0]
    return int(digits) if digits.isdecimal() and len(digits) == 16 else 0


def level_of(path: str) -> int:
    """How many times over the rows of a file have been merged, from its name; 0 where the name tells none."""
    digits = path.removesuffix(".parquet").rsplit("-", 1)[-1]
    return int(digits) if len(digits) == 1 and digits.isdecimal() else 0
