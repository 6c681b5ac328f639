"""python -m tune.results: what it says of a lake, and that it loses nothing."""

import csv
import json
import math
import os
import re
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from patience import run
from s3 import Bucket

from tune.lake.commands import main
from tune.results import Writer, create_experiment, load

NAME = "first"


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A small sound lake of two experiments."""
    root = str(tmp_path / "lake") if request.param == "local" else f"{request.getfixturevalue('s3').address}/lake"
    fill(root)
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fill(str(tmp_path / "lake"))
    return tmp_path / "lake"


def fill(root: str) -> None:
    create_experiment(root, NAME, {"dataset": "phantom", "fold": 0})
    create_experiment(root, "<b>second", {"dataset": "[bold]other"})
    with Writer(root, "<b>second") as writer:
        writer.append("trials", {"trial_id": "z", "status": "running"})
    for status, dice in (("running", math.nan), ("finished", 0.75)):
        with Writer(root, NAME) as writer:
            row = {
                "trial_id": "a",
                "number": 0,
                "validation_dice": dice,
                "status": status,
                "reason": 'said "so", naïvely',
                "error": "",
            }
            writer.append("trials", row | {"config.sizes": [1, 2], "config.rate": math.inf})
            writer.append("trials", {"trial_id": "b", "number": 1, "status": "pending"})
            writer.append("metrics", {"trial_id": "a", "epoch": 1, "dice": 0.5})
            writer.append("cases", {"trial_id": "a", "split": "test", "case": "c", "class": "x", "votes": 1, "dice": 0.5})
            writer.append("gallery", {"trial_id": "a", "split": "test", "case": "c", "image": b"\x89PNG"})


def said(root: str | Path, command: str, *more: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    status = main([command, "--storage", str(root), *more])
    out, err = capsys.readouterr()
    return status, out + err


def test_show_summarises(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, text = said(root, "show", capsys=capsys)
    lines = [line.split() for line in text.splitlines()]
    assert status == 0
    assert "first: phantom, fold 0" in text
    assert "<b>second: [bold]other" in text
    assert "2 trials: 1 finished, 1 pending" in text
    assert ["a", "finished", "0.7500"] in lines
    assert ["trials", "2"] in [line[:2] for line in lines]
    assert "second" not in said(root, "show", "--experiment", NAME, capsys=capsys)[1]


def test_show_puts_what_fell_last(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    create_experiment(tmp_path, NAME, {"dataset": "phantom"})
    with Writer(tmp_path, NAME) as writer:
        for number, (status, dice) in enumerate([("diverged", 0.9), ("finished", 0.5), ("failed", 0.8), ("stopped", 0.6)]):
            row = {"trial_id": f"t{number}", "number": number, "status": status, "validation_dice": dice}
            writer.append("trials", row)
    lines = [line.split() for line in said(tmp_path, "show", capsys=capsys)[1].splitlines()]
    shown = [line[0] for line in lines if line and re.fullmatch(r"t\d", line[0])]
    assert shown == ["t3", "t1", "t0", "t2"]


@pytest.mark.long
def test_a_sound_lake_is_sound_before_and_after_compacting(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = load(root).trials()
    status, text = said(root, "verify", capsys=capsys)
    assert status == 0
    assert "first/trials has 2 of 4 rows for whose key there is a newer or equal row; this is harmless" in " ".join(text.split())
    assert said(root, "compact", "--experiment", NAME, capsys=capsys) == (0, f"{root} has 4 files fewer\n")
    assert said(root, "compact", capsys=capsys) == (0, f"{root} is compact\n")
    assert said(root, "verify", capsys=capsys) == (0, f"{root}: sound\n")
    assert load(root).trials().equals(before)


def break_file(folder: Path) -> str:
    file = next((folder / NAME / "metrics").iterdir())
    file.write_bytes(file.read_bytes()[:-20])
    return f"{file} cannot be used, for .*; readers skip it; restore it from a copy"


def break_inside(folder: Path) -> str:
    file = next((folder / NAME / "trials").iterdir())
    content = bytearray(file.read_bytes())
    content[4:400] = os.urandom(396)
    file.write_bytes(content)
    return f"{file} cannot be used"


def add_foreign(folder: Path) -> str:
    pq.write_table(pa.table({"x": [1]}), folder / NAME / "cases" / "foreign.parquet")
    return "foreign.parquet cannot be used, for it carries no schema_version, so another program wrote it"


def add_note(folder: Path) -> str:
    (folder / NAME / "cases" / "notes.txt").write_text("hello")
    return "notes.txt is no file of a lake; move it to another folder"


def break_schema(folder: Path) -> str:
    file = next((folder / NAME / "metrics").iterdir())
    rows = pq.read_table(file)
    pq.write_table(rows.set_column(rows.column_names.index("dice"), "dice", pa.array(["high"])), file)
    return f"{file} cannot be used, for .*high"


def lose_key(folder: Path) -> str:
    file = next((folder / NAME / "metrics").iterdir())
    rows = pq.read_table(file)
    pq.write_table(rows.set_column(rows.column_names.index("trial_id"), "trial_id", pa.array([None], pa.string())), file)
    return f"{file} has rows without trial_id; another program wrote it"


def take_other(folder: Path) -> str:
    file = next((folder / "<b>second" / "trials").iterdir())
    os.rename(file, folder / NAME / "trials" / file.name)
    return f"{file.name} has rows of experiment '<b>second'; move it to the folder '<b>second'"


def leave_temporary(folder: Path) -> str:
    file = folder / NAME / "trials" / ".0123.tmp"
    file.write_bytes(b"half")
    os.utime(file, (0, 1))
    return f"{file} is a temporary file that a killed writer left; .*compact` deletes it"


def break_description(folder: Path) -> str:
    (folder / NAME / "experiment.json").write_text('{"dataset":')
    return "experiment.json is not valid JSON: .*; restore it from a copy"


def lose_description(folder: Path) -> str:
    (folder / NAME / "experiment.json").unlink()
    return "experiment.json is missing; restore it from a copy"


def lose_trials(folder: Path) -> str:
    for file in (folder / NAME / "trials").iterdir():
        file.unlink()
    return r"metrics/.* has rows of trials that the trials table lacks \(a\); look for a lost or damaged file"


@pytest.mark.parametrize(
    "damage",
    [
        *(break_file, break_inside, add_foreign, add_note, break_schema, lose_key, take_other, leave_temporary),
        *(break_description, lose_description, lose_trials),
    ],
)
def test_verify_finds_what_is_wrong_and_changes_nothing(
    damage: object, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    words = damage(folder)  # type: ignore[operator]
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    status, text = said(folder, "verify", capsys=capsys)
    assert status == 1
    wrong = [line for line in text.splitlines() if line.startswith("wrong: ")]
    assert any(re.search(words, line) for line in wrong), wrong
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_verify_tells_of_newer_files_but_takes_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = next((folder / "<b>second" / "trials").iterdir())
    pq.write_table(pq.read_table(file).replace_schema_metadata({"schema_version": "99"}), file)
    status, text = said(folder, "verify", capsys=capsys)
    assert status == 0
    assert "has schema version 99 and this release knows 1; update the project" in " ".join(text.split())


def test_csv_has_everything(root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "trials.csv"
    assert said(root, "export", "--format", "csv", "--out", str(out), "--experiment", NAME, capsys=capsys)[0] == 0
    first, second = csv.DictReader(out.open(newline=""))
    assert (first["trial_id"], first["validation_dice"], first["reason"]) == ("a", "0.75", 'said "so", naïvely')
    assert (first["config.sizes"], first["config.rate"]) == ("[1, 2]", "inf")
    assert first["recorded_at"].endswith("+00:00")
    assert (second["status"], second["validation_dice"]) == ("pending", "")


def test_json_has_everything(root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "trials.json"
    said(root, "export", "--format", "json", "--out", str(out), capsys=capsys)
    rows = {row["trial_id"]: row for row in json.loads(out.read_text())}
    assert rows.keys() == {"a", "b", "z"}
    assert (rows["a"]["config.sizes"], rows["a"]["config.rate"], rows["b"]["validation_dice"]) == ([1, 2], "Infinity", None)
    said(root, "export", "--format", "json", "--out", str(out), "--table", "gallery", capsys=capsys)
    assert [row["image"] for row in json.loads(out.read_text())] == ["iVBORw=="]


def test_parquet_is_the_table(root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "metrics.parquet"
    said(root, "export", "--format", "parquet", "--out", str(out), "--table", "metrics", capsys=capsys)
    assert pq.read_table(out).equals(load(root).metrics())
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".tmp"] == []


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["show", "--experiment", "nobody"], "holds no experiment named 'nobody'"),
        (["verify", "--experiment", "nobody"], "holds no experiment named 'nobody'"),
        (["compact", "--experiment", "nobody"], "holds no experiment named 'nobody'"),
        (["export", "--format", "csv", "--out", "."], "--out . cannot be written"),
        (["export", "--format", "csv", "--out", "nowhere/x.csv"], "--out nowhere/x.csv cannot be written"),
    ],
    ids=str,
)
def test_wrong_input_is_told_in_a_sentence(
    folder: Path,
    command: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    status, text = said(folder, command[0], *command[1:], capsys=capsys)
    assert (status, text.count("\n")) == (2, 1)
    assert text.startswith("error: ")
    assert words in text


@pytest.mark.parametrize("command", ["show", "verify", "compact", "send"])
def test_a_root_that_is_not_there(command: str, tmp_path: Path, s3: Bucket, capsys: pytest.CaptureFixture[str]) -> None:
    for root in (str(tmp_path / "nowhere"), f"{s3.address}/nowhere", "s3://nobody/nowhere"):
        status, text = said(root, command, capsys=capsys)
        assert (status, text.count("\n")) == ((2, 1) if command != "send" else (0, 1)), text


def test_the_command_line(folder: Path) -> None:
    done = run([sys.executable, "-m", "tune.results", "verify", "--storage", folder])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("sound\n")
    with pytest.raises(SystemExit, match="2"):
        main(["verify"])
