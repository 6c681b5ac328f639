"""Values and releases: what goes into the lake comes out of it, whatever its type and whoever wrote the file."""

import json
import math
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tune.lake.commands import main
from tune.results import SCHEMAS, LakeWarning, Writer, compact, create_experiment, load

NAME = "first"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    create_experiment(tmp_path / "lake", NAME, {"dataset": "phantom", "fold": 0})
    return tmp_path / "lake"


def write(root: Path, *rows: dict[str, Any]) -> None:
    with Writer(root, NAME) as writer:
        writer.append("trials", rows)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and math.isnan(one):
        return isinstance(other, float) and math.isnan(other)
    return type(one) is type(other) and one == other


LONG = "ü" * 1_000_000
VALUES = [
    *(
        True,
        False,
        0,
        -1,
        2**63 - 1,
        0.1,
        -0.0,
        math.inf,
        -math.inf,
        math.nan,
        "",
        "text",
        "naïve 😀\n\t\0'\"<b>",
        LONG,
        b"\x00\xff",
    ),
    *([], [1, 2], [0.5, math.nan], ["a", ""], [True], [None, 1], datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC), None),
]


def short(value: Any) -> str:
    return repr(value)[:30]


@pytest.mark.parametrize("value", VALUES, ids=short)
def test_a_value_survives_alone_and_beside_trials_that_lack_it(root: Path, value: Any) -> None:
    write(root, {"trial_id": "a", "number": 0, "config.x": value}, {"trial_id": "b", "number": 1})
    write(root, {"trial_id": "c", "number": 2})
    for _ in range(2):
        back = load(root).trials()["config.x"].to_pylist()
        assert same(back[0], value)
        assert back[1:] == [None, None]
        compact(root)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.25), 0.25),
        (np.int16(3), 3),
        (np.bool_(True), True),
        (np.str_("x"), "x"),
        (np.array([1, 2]), [1, 2]),
        ([np.float64(0.5), np.float32(1)], [0.5, 1.0]),
        ((1, 2), [1, 2]),
        (Path("a/b"), "a/b"),
    ],
    ids=short,
)
def test_values_of_libraries_are_plain_ones(root: Path, value: Any, expected: Any) -> None:
    write(root, {"trial_id": "a", "config.x": value})
    assert same(load(root).trials()["config.x"].to_pylist()[0], expected)


@pytest.mark.parametrize(
    "value",
    [{"a": {"b": [1, {"c": None}]}, "ü": np.float32(0.5)}, {}, [1, "x"], [[1], [2]], [{"a": 1}], 2**70, [2**70, 1], [True, 1]],
    ids=short,
)
def test_what_parquet_has_no_type_for_is_json(root: Path, value: Any) -> None:
    write(root, {"trial_id": "a", "config.x": value})
    assert json.loads(load(root).trials()["config.x"].to_pylist()[0]) == json.loads(json.dumps(value, default=float))


@pytest.mark.parametrize("together", [True, False], ids=["one file", "two files"])
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 0.5], [1.0, 0.5]),
        ([2**53 + 1, 0.5], [str(2**53 + 1), "0.5"]),
        ([0.5, "x"], ["0.5", "x"]),
        ([1.0, "x"], ["1.0", "x"]),
        ([math.inf, "x"], ["Infinity", "x"]),
        ([True, "x"], ["true", "x"]),
        ([True, 0.5], ["true", "0.5"]),
        ([[1], [0.5]], [[1.0], [0.5]]),
        ([[], [1]], [[], [1]]),
        ([[], ["a"]], [[], ["a"]]),
        ([[], "x"], ["[]", "x"]),
        ([["a"], [1]], ['["a"]', "[1]"]),
        ([{"a": 1}, 2], ['{"a": 1}', "2"]),
        ([2**70, 1], [str(2**70), "1"]),
        ([LONG, 1], [LONG, "1"]),
        ([None, 0.5], [None, 0.5]),
    ],
    ids=short,
)
def test_types_of_one_column_are_reconciled_the_same_in_one_file_and_in_two(
    root: Path, values: list[Any], expected: list[Any], together: bool
) -> None:
    rows = [{"trial_id": str(place), "number": place, "config.x": value} for place, value in enumerate(values)]
    for batch in [rows] if together else [[row] for row in rows]:
        write(root, *batch)
    for _ in range(2):
        back = load(root).trials()["config.x"].to_pylist()
        assert all(map(same, back, expected)), back
        compact(root)


# ---------------------------------------------------------------------------------------------------------------- older releases

# Columns of the first files of schema version 1, before cases told their votes and trials their finalists.
OLDER = {
    "trials": ["experiment", "trial_id", "number", "status", "validation_dice", "started_at", "recorded_at"],
    "metrics": ["experiment", "trial_id", "epoch", "dice", "recorded_at"],
    "cases": ["experiment", "trial_id", "split", "case", "class", "votes", "dice", "recorded_at"],
    "gallery": ["experiment", "trial_id", "split", "case", "image", "recorded_at"],
}
EXAMPLES = {pa.string(): "old", pa.int64(): 1, pa.float64(): 0.5, pa.binary(): b"png"}


def older_lake(root: Path) -> None:
    """A lake as an older release left it: fewer columns, narrower types, and a description that says little."""
    moment = datetime(2025, 1, 1, tzinfo=UTC)
    for table, names in OLDER.items():
        types = {name: SCHEMAS[table].field(name).type for name in names}
        columns = {name: pa.array([EXAMPLES.get(kind, moment)], kind) for name, kind in types.items()}
        rows = pa.table(columns | {"config.model.channels": pa.array([32], pa.int32())} if table == "trials" else columns)
        for name in ("number", "epoch", "votes"):
            if name in names:
                rows = rows.set_column(names.index(name), name, pa.array([1], pa.int32()))
        folder = root / "old" / table
        folder.mkdir(parents=True)
        pq.write_table(rows.replace_schema_metadata({"schema_version": "1"}), folder / "part-0.parquet")
    (root / "old" / "experiment.json").write_text('{"experiment": "old"}')


def test_a_lake_of_an_older_release_reads_and_takes_new_rows(tmp_path: Path) -> None:
    older_lake(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", LakeWarning)
        for table, names in OLDER.items():
            (row,) = getattr(load(tmp_path), table)().to_pylist()
            assert {name for name in row if row[name] is not None} == {
                *names,
                *(["config.model.channels"] if table == "trials" else []),
            }
        with Writer(tmp_path, "old") as writer:
            writer.append("trials", {"trial_id": "new", "number": 2, "config.model.channels": 64, "votes": 5})
            writer.append("trials", {"trial_id": "old", "number": 1, "config.model.channels": 32, "status": "finished"})
        for _ in range(2):
            trials = load(tmp_path).trials()
            assert trials["trial_id"].to_pylist() == ["old", "new"]
            assert trials["status"].to_pylist() == ["finished", None]
            assert trials["config.model.channels"].to_pylist() == [32, 64]
            compact(tmp_path)
    assert main(["verify", "--storage", str(tmp_path)]) == 0
