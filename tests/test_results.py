"""The results lake through its public doors: what is written comes back, whoever writes and whatever is killed."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from patience import Patience, wait_for
from patience import run as run_to_its_end

from tune.results import (
    SCHEMA_VERSION,
    SCHEMAS,
    InputError,
    LakeWarning,
    Writer,
    compact,
    create_experiment,
    load,
    read_experiment,
)

NAME = "first"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    create_experiment(tmp_path / "lake", NAME, {"dataset": "phantom", "fold": 0})
    return tmp_path / "lake"


def write(root: Path, table: str, *rows: dict[str, Any]) -> None:
    with Writer(root, NAME) as writer:
        writer.append(table, rows)


def write_file(root: Path, name: str, table: pa.Table, version: int | None = SCHEMA_VERSION) -> Path:
    """A file as another release would write it."""
    path = root / NAME / "trials" / name
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table.replace_schema_metadata({} if version is None else {"schema_version": str(version)}), path)
    return path


def trial_file(**columns: Any) -> pa.Table:
    count = len(next(iter(columns.values())))
    recorded = pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * count, pa.timestamp("us", tz="UTC"))
    return pa.table({"experiment": [NAME] * count, **columns, "recorded_at": recorded})


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return run_to_its_end([sys.executable, "-c", code, *arguments])


# ------------------------------------------------------------------------------------------------------------------ round trip


def example(kind: pa.DataType) -> Any:
    if pa.types.is_timestamp(kind):
        return datetime(2026, 11, 23, 12, 30, 1, 250_000, tzinfo=UTC)
    if pa.types.is_list(kind):
        return [0.25, math.inf]
    return {pa.string(): "naïve <b> 😀", pa.int64(): 2**53 + 1, pa.float64(): 1 / 3, pa.binary(): b"\x89PNG\x00"}[kind]


@pytest.mark.parametrize("table", SCHEMAS)
def test_every_column_comes_back_as_written(root: Path, table: str) -> None:
    row = {field.name: example(field.type) for field in SCHEMAS[table] if field.name not in ("experiment", "recorded_at")}
    before = datetime.now(UTC)
    write(root, table, row)
    found = getattr(load(root), table)()
    (back,) = found.to_pylist()
    assert {name: back[name] for name in row} == row
    assert back["experiment"] == NAME
    assert before <= back["recorded_at"] <= datetime.now(UTC)
    assert found.schema.names == SCHEMAS[table].names


@pytest.mark.parametrize(
    "value",
    [0, -(2**63), 2.5, 1e-300, -math.inf, True, False, "text", "", [1, 2, 2], [0.5, 1.0], ["a", "b"], [True, False]],
    ids=repr,
)
def test_any_config_value_survives(root: Path, value: Any) -> None:
    write(root, "trials", {"trial_id": "a", "config.x": value})
    back = load(root).trials()["config.x"][0].as_py()
    assert back == value
    assert type(back) is type(value)


def test_nan_is_kept_and_is_not_null(root: Path) -> None:
    write(root, "trials", {"trial_id": "a", "validation_dice": math.nan}, {"trial_id": "b", "validation_dice": None})
    column = load(root).trials()["validation_dice"]
    assert column.null_count == 1
    assert math.isnan(column[0].as_py())


def test_foreign_scalars_and_odd_values_are_taken(root: Path, tmp_path: Path) -> None:
    odd = {"config.a": np.float32(0.5), "config.b": {"k": [1]}, "config.c": (1, 2), "config.d": 2**70, "config.e": [1, "x"]}
    write(
        root, "trials", {"trial_id": "a", "number": np.int64(3), "checkpoint": tmp_path, "error": "bad \ud800", "seconds": 2, **odd}
    )
    (row,) = load(root).trials().to_pylist()
    assert (row["number"], row["checkpoint"], row["seconds"], row["config.a"]) == (3, str(tmp_path), 2.0, 0.5)
    assert row["error"] == "bad ?"
    assert (row["config.b"], row["config.c"], row["config.d"], row["config.e"]) == ('{"k": [1]}', [1, 2], str(2**70), '[1, "x"]')


@pytest.mark.parametrize(
    ("table", "row", "message"),
    [
        ("metrics", {"trial_id": "a"}, "lacks epoch"),
        ("metrics", {"trial_id": "a", "epoch": 1.5}, "metrics.epoch is 1.5"),
        ("trials", {"trial_id": "a", "status": 7}, "trials.status is 7"),
        ("trial", {"trial_id": "a"}, "unknown table 'trial'"),
    ],
)
def test_a_row_that_does_not_fit_is_refused_at_once(root: Path, table: str, row: dict[str, Any], message: str) -> None:
    with Writer(root, NAME) as writer, pytest.raises(ValueError, match=message):
        writer.append(table, row)
    assert load(root).metrics().num_rows == 0


def test_a_closed_writer_refuses_rows(root: Path) -> None:
    writer = Writer(root, NAME)
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        writer.append("trials", {"trial_id": "a"})


# --------------------------------------------------------------------------------------------------------------- newest row wins


def test_the_newest_row_replaces_the_older_one_as_a_whole(root: Path) -> None:
    write(root, "trials", {"trial_id": "a", "number": 0, "status": "running", "error": "old"})
    write(root, "trials", {"trial_id": "a", "number": 0, "status": "running"}, {"trial_id": "a", "number": 0, "status": "finished"})
    (row,) = load(root).trials().to_pylist()
    assert (row["status"], row["error"]) == ("finished", None)


def test_repeated_writes_are_harmless(root: Path) -> None:
    rows = [{"trial_id": "a", "epoch": epoch, "dice": epoch / 10} for epoch in range(1, 6)]
    for _ in range(3):
        write(root, "metrics", *rows)
    found = load(root).metrics()
    assert found["epoch"].to_pylist() == [1, 2, 3, 4, 5]
    assert found["dice"].to_pylist() == [0.1, 0.2, 0.3, 0.4, 0.5]


def test_a_restart_with_a_clock_behind_still_wins(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root, "trials", {"trial_id": "a", "status": "running"})
    monkeypatch.setattr(time, "time_ns", lambda: 10**18)  # 2001
    write(root, "trials", {"trial_id": "a", "status": "finished"})
    assert load(root).trials()["status"].to_pylist() == ["finished"]


def test_columns_can_be_chosen(root: Path) -> None:
    write(root, "metrics", {"trial_id": "a", "epoch": 1, "dice": 0.5, "loss_x": 1.0})
    assert load(root).metrics(["dice"]).column_names == ["experiment", "trial_id", "epoch", "dice", "recorded_at"]
    assert load(root).metrics(["loss_x"])["loss_x"].to_pylist() == [1.0]
    assert load(root).metrics(["loss_y", "dice"]).column_names[-2:] == ["dice", "recorded_at"]


def test_rows_appear_without_flush_or_close(root: Path) -> None:
    writer = Writer(root, NAME, flush_seconds=0.05)
    writer.append("trials", {"trial_id": "a"})
    wait_for(lambda: load(root).trials().num_rows == 1)
    writer.close()


def test_a_process_that_forgets_to_close_loses_nothing(root: Path) -> None:
    code = "import sys; from tune.results import Writer; Writer(sys.argv[1], 'first').append('trials', {'trial_id': 'a'})"
    assert run(code, root).returncode == 0
    assert load(root).trials().num_rows == 1


def test_many_flushes_make_few_files(root: Path) -> None:
    with Writer(root, NAME, flush_seconds=0) as writer:
        for epoch in range(320):
            writer.append("metrics", {"trial_id": "a", "epoch": epoch})
            if epoch % 64 == 63:
                assert len(list((root / NAME / "metrics").iterdir())) <= 4 * 7
    assert sorted(load(root).metrics()["epoch"].to_pylist()) == list(range(320))


def test_rows_wait_in_memory_while_the_disk_refuses(root: Path) -> None:
    writer = Writer(root, NAME, flush_seconds=60)
    writer.append("trials", {"trial_id": "a"})
    blocked = root / NAME / "trials"
    blocked.write_text("in the way")
    with pytest.raises(OSError, match="trials"):
        writer.flush()
    writer.append("trials", {"trial_id": "b"})
    blocked.unlink()
    writer.close()
    assert load(root).trials()["trial_id"].to_pylist() == ["a", "b"]


# ------------------------------------------------------------------------------------------------------------ kills and company


@contextmanager
def no_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", LakeWarning)
        yield


KILLED = """
import os, sys
from tune.results import Writer
writer = Writer(sys.argv[1], "first", flush_seconds=0)
for epoch in range(1, 100_000):
    writer.append("metrics", {"trial_id": sys.argv[2], "epoch": epoch, "dice": epoch / 7, "junk": "x" * 20_000})
    print(epoch, flush=True)
"""


@pytest.mark.long
@pytest.mark.parametrize("already", [1, 7])
def test_a_writer_killed_in_the_middle_of_a_file_leaves_nothing_torn(root: Path, already: int) -> None:
    """Rows of 16 MB that cannot be compressed take a while to write; the kill comes as soon as the next file appears."""
    code = KILLED.replace('"x" * 20_000', "os.urandom(16_000_000)")
    folder = root / NAME / "metrics"
    with subprocess.Popen([sys.executable, "-c", code, str(root), "a"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(already):
            process.stdout.readline()
        known = set(os.listdir(folder))
        while process.poll() is None and not set(os.listdir(folder)) - known:
            pass
        process.kill()
        printed = already + len(process.stdout.read().split())
    unfinished = [path for path in folder.iterdir() if path.suffix != ".parquet"]
    assert unfinished, "the kill came too late to test anything"
    with no_warning():
        epochs = sorted(load(root).metrics()["epoch"].to_pylist())
    assert epochs == list(range(1, len(epochs) + 1))
    assert len(epochs) >= printed


@pytest.mark.long
def test_processes_writing_at_once_lose_nothing(root: Path) -> None:
    code = KILLED.replace("100_000", "21")
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(root), f"t{number}"], stdout=subprocess.DEVNULL) for number in range(4)
    ]
    while any(process.poll() is None for process in processes):
        with no_warning():
            load(root).metrics()  # readable at every moment
    assert [process.returncode for process in processes] == [0] * 4
    assert load(root).metrics().num_rows == 80


@pytest.mark.long
def test_a_reader_never_sees_rows_vanish_while_files_are_merged(root: Path) -> None:
    done = threading.Event()
    seen: list[int] = []

    def read() -> None:
        while not done.is_set():
            seen.append(load(root).metrics(["dice"]).num_rows)

    reader = threading.Thread(target=read)
    reader.start()
    with warnings.catch_warnings(record=True) as caught, Writer(root, NAME, flush_seconds=0) as writer:
        warnings.simplefilter("always")
        for epoch in range(150):
            writer.append("metrics", {"trial_id": "a", "epoch": epoch})
            if epoch % 40 == 39:
                compact(root)
        done.set()
        reader.join()
    assert seen == sorted(seen)
    assert [str(warning.message) for warning in caught if issubclass(warning.category, LakeWarning)] == []
    assert load(root).metrics().num_rows == 150


def fill(root: Path) -> None:
    for start in range(0, 40, 5):
        write(root, "metrics", *({"trial_id": "a", "epoch": epoch, "dice": float(start)} for epoch in range(start, start + 8)))


def test_compact_merges_files_and_changes_nothing(root: Path) -> None:
    fill(root)
    write(root, "gallery", {"trial_id": "a", "split": "test", "case": "c", "image": b"png"})
    before = load(root).metrics().sort_by("epoch")
    assert compact(root) == 7
    assert load(root).metrics().sort_by("epoch").equals(before)
    assert len(list((root / NAME / "metrics").iterdir())) == 1
    assert compact(root) == 0


@pytest.mark.long
@pytest.mark.parametrize("step", range(6))
def test_compact_can_be_killed_at_any_moment(root: Path, step: int) -> None:
    fill(root)
    before = load(root).metrics().sort_by("epoch")
    code = """
import os, signal, sys
import tune.results as results

def dying(function):
    def call(*arguments, **options):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return function(*arguments, **options)
    return call

left = int(sys.argv[2])
os.fsync, os.replace, os.unlink = dying(os.fsync), dying(os.replace), dying(os.unlink)
results.compact(sys.argv[1])
"""
    assert run(code, root, step).returncode == -signal.SIGKILL
    with no_warning():
        assert load(root).metrics().sort_by("epoch").equals(before)
    compact(root)
    assert load(root).metrics().sort_by("epoch").equals(before)


def test_compact_removes_what_dead_writers_left(root: Path) -> None:
    write(root, "trials", {"trial_id": "a"})
    stale, fresh = (root / NAME / "trials" / name for name in (".old.tmp", ".new.tmp"))
    for path in (stale, fresh):
        path.write_bytes(b"PAR1 half a file")
    os.utime(stale, (0, 1))
    compact(root)
    assert not stale.exists()
    assert fresh.exists()


# --------------------------------------------------------------------------------------------------- other releases, other files


def test_an_older_file_lacks_columns_and_they_are_null(root: Path) -> None:
    write_file(root, "old.parquet", trial_file(trial_id=["a"], number=[0]))
    write(root, "trials", {"trial_id": "b", "number": 1, "config.x": 4})
    rows = load(root).trials()
    assert rows["trial_id"].to_pylist() == ["a", "b"]
    assert rows["config.x"].to_pylist() == [None, 4]
    assert rows["validation_dice"].null_count == 2


def test_cases_of_an_older_release_do_not_say_how_many_votes_were_drawn(root: Path) -> None:
    row = {"trial_id": "b", "split": "validation", "case": "c", "class": "x", "votes": 3, "votes_used": 3, "entropy": 0.5}
    write(root, "cases", row)
    (path,) = (root / NAME / "cases").iterdir()
    newer = pq.read_table(path)
    older = newer.drop_columns("votes_used").set_column(1, "trial_id", pa.array(["a"]))
    pq.write_table(older, path.with_name("old.parquet"))
    with no_warning():
        assert load(root).cases().sort_by("trial_id")["votes_used"].to_pylist() == [None, 3]


def test_a_newer_file_is_read_with_a_warning_and_its_columns_pass(root: Path) -> None:
    write(root, "trials", {"trial_id": "a", "number": 0})
    path = write_file(root, "new.parquet", trial_file(trial_id=["b"], number=[1], novelty=["x"]), SCHEMA_VERSION + 1)
    with pytest.warns(LakeWarning, match=f"{path} was written by a newer release"):
        assert load(root).trials()["novelty"].to_pylist() == [None, "x"]
    with pytest.warns(LakeWarning, match="newer release"):
        compact(root)
    with pytest.warns(LakeWarning, match="newer release"):
        assert load(root).trials()["novelty"].to_pylist() == [None, "x"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2.5], [1.0, 2.5]),
        ([1, "x"], ["1", "x"]),
        ([True, 2], ["true", "2"]),
        ([[1, 2], [0.5]], [[1.0, 2.0], [0.5]]),
        ([[1, 2], "x"], ["[1, 2]", "x"]),
        ([None, 3], [None, 3]),
    ],
    ids=repr,
)
@pytest.mark.parametrize("together", [True, False], ids=["one file", "two files"])
def test_config_columns_of_different_types_unify(root: Path, values: list[Any], expected: list[Any], together: bool) -> None:
    rows = [{"trial_id": str(place), "number": place, "config.x": value} for place, value in enumerate(values)]
    for batch in [rows] if together else [[row] for row in rows]:
        write(root, "trials", *batch)
    assert load(root).trials()["config.x"].to_pylist() == expected


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all", b"PAR1" + b"\0" * 100 + b"PAR1"], ids=repr)
def test_a_damaged_file_is_skipped_with_its_name(root: Path, content: bytes) -> None:
    write(root, "trials", {"trial_id": "a"})
    (root / NAME / "trials" / "broken.parquet").write_bytes(content)
    with pytest.warns(LakeWarning, match="skipped .*broken.parquet"):
        assert load(root).trials().num_rows == 1
    write(root, "trials", {"trial_id": "b"})
    with pytest.warns(LakeWarning, match="broken"):
        compact(root)
    assert (root / NAME / "trials" / "broken.parquet").exists()


def test_torn_halves_of_a_real_file_are_skipped(root: Path) -> None:
    write(root, "trials", {"trial_id": "a"})
    (whole,) = (root / NAME / "trials").iterdir()
    whole.with_name("torn.parquet").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    whole.with_name(".half.tmp").write_bytes(whole.read_bytes()[:50])
    with pytest.warns(LakeWarning, match=r"torn\.parquet") as caught:
        assert load(root).trials().num_rows == 1
    assert len(caught) == 1


def test_foreign_and_incompatible_files_are_skipped(root: Path) -> None:
    write(root, "trials", {"trial_id": "a"})
    write_file(root, "foreign.parquet", trial_file(trial_id=["b"]), version=None)
    write_file(root, "keyless.parquet", trial_file(number=[1]))
    write_file(root, "words.parquet", trial_file(trial_id=["c"], number=["seven"]))
    (root / NAME / "trials" / "notes.txt").write_text("hello")
    with pytest.warns(LakeWarning) as caught:
        assert load(root).trials()["trial_id"].to_pylist() == ["a"]
    assert len({str(warning.message) for warning in caught}) == 3


# ---------------------------------------------------------------------------------------------------------- experiments and roots


def test_an_experiment_says_what_it_is(root: Path) -> None:
    experiment = read_experiment(root, NAME)
    assert (experiment.dataset, experiment.description["fold"]) == ("phantom", 0)
    assert experiment.description["schema_version"] == SCHEMA_VERSION
    assert datetime.fromisoformat(experiment.description["created_at"]).tzinfo is not None
    assert [item.name for item in load(root).experiments] == [NAME]


def test_an_experiment_is_created_once(root: Path) -> None:
    with pytest.raises(InputError, match=r"already exists.*--resume first"):
        create_experiment(root, NAME, {"dataset": "other"})
    assert read_experiment(root, NAME).dataset == "phantom"


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a\nb", "x" * 300])
def test_names_that_cannot_be_folders_are_refused(root: Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot name an experiment"):
        create_experiment(root, name, {})


@pytest.mark.parametrize("name", ["été 😀", "<script>alert(1)", "a&b=%2F?#", "--help"])
def test_odd_names_are_fine(root: Path, name: str) -> None:
    create_experiment(root, name, {"dataset": "phantom"})
    with Writer(root, name) as writer:
        writer.append("trials", {"trial_id": "a"})
    assert load(root).trials()["experiment"].to_pylist() == [name]


def test_a_damaged_description_does_not_hide_the_results(root: Path) -> None:
    write(root, "trials", {"trial_id": "a"})
    (root / NAME / "experiment.json").write_text('{"dataset": ')
    with pytest.warns(LakeWarning, match=r"experiment\.json"):
        assert load(root).trials().num_rows == 1
    with pytest.raises(InputError, match="not valid JSON"):
        read_experiment(root, NAME)


def test_a_writer_needs_its_experiment(root: Path) -> None:
    with pytest.raises(InputError, match="no experiment named 'second'"):
        Writer(root, "second")


def test_a_root_that_is_no_lake_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "empty" / "folder").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="no such folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no such folder"):
        load(tmp_path / "file")
    with pytest.raises(InputError, match="holds no experiments"):
        load(tmp_path / "empty")


def test_empty_tables_have_their_columns(root: Path) -> None:
    lake = load(root)
    for table, schema in SCHEMAS.items():
        assert getattr(lake, table)().schema.equals(schema)


def test_any_fsspec_file_system_will_do() -> None:
    remote = pafs.PyFileSystem(pafs.FSSpecHandler(MemoryFileSystem()))
    with pytest.raises(InputError, match="no such folder"):
        load("bucket/lake", filesystem=remote)
    create_experiment("bucket/lake", NAME, {"dataset": "phantom"}, filesystem=remote)
    with pytest.raises(InputError, match="already exists"):
        create_experiment("bucket/lake", NAME, {}, filesystem=remote)
    for _ in range(2):
        with Writer("bucket/lake", NAME, filesystem=remote) as writer:
            writer.append("trials", {"trial_id": "a"})
    assert load("bucket/lake", filesystem=remote).trials().num_rows == 1
    assert compact("bucket/lake", filesystem=remote) == 1


def test_plain_parquet_readers_understand_the_files(root: Path) -> None:
    write(root, "trials", {"trial_id": "a", "config.diffusion.timesteps": 4, "validation_dice": 0.5})
    (path,) = (root / NAME / "trials").iterdir()
    assert pq.read_table(path)["config.diffusion.timesteps"].to_pylist() == [4]
    assert json.loads((root / NAME / "experiment.json").read_text())["dataset"] == "phantom"


def test_importing_results_imports_neither_ray_nor_torch() -> None:
    done = run("import sys, tune.results; print(*sorted({'ray', 'torch', 'pandas', 's3fs', 'plotly'} & set(sys.modules)))")
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


@pytest.mark.long
def test_a_million_rows_read_in_seconds(root: Path) -> None:
    epochs, trials = 100, 10_000
    count = epochs * trials
    columns = {
        "experiment": pa.array([NAME] * count),
        "trial_id": pa.array(np.repeat([f"trial_{number:05d}" for number in range(trials)], epochs)),
        "epoch": pa.array(np.tile(np.arange(epochs), trials)),
        "dice": pa.array(np.random.default_rng(0).random(count)),
        "recorded_at": pa.array(np.arange(count)).cast(pa.timestamp("us", tz="UTC")),
    }
    (root / NAME / "metrics").mkdir()
    for part in range(2):  # every row twice
        path = root / NAME / "metrics" / f"{part}.parquet"
        pq.write_table(pa.table(columns).replace_schema_metadata({"schema_version": "1"}), path)
    patience = Patience(15)  # about 1.5 s on an idle core
    assert load(root).metrics().num_rows == count
    assert not patience.over
