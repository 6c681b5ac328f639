"""The command as users run it: a search with tiny models, its finalists trained again, cut, killed, resumed, and refused.

Processes that are killed are Ray's; all else runs in this process, see `one_process`.
"""

import os
import re
import signal
import sys
from pathlib import Path

import pandas as pd
import pytest
from one_process import one_process
from patience import wait_for
from searches import here, kill_worker, start, tiny, trials

from cdal.data import open_dataset
from tune import finalists, search
from tune.results import create_experiment, load
from tune.running import Progress, Recorder

pytestmark = pytest.mark.long

SCRIPT = "tune/finalists.py"
OPTIONS = ("--top", "1", "--seeds", "2", "--folds", "0,2")
TRAININGS = 3 * 2 * 2  # the best and two controls, two seeds, two folds


def again(storage: Path, *arguments: object) -> list[str]:
    return here("--experiment", "first", "--storage", storage, *arguments, door=finalists.main)


def cases(storage: Path, experiment: str) -> pd.DataFrame:
    table = load(storage).cases().to_pandas()
    return table[table["experiment"] == experiment]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A search of four trials and its finalists, and what the second command printed."""
    folder = tmp_path_factory.mktemp("finalists")
    space = ("--space", tiny(folder, epochs=2), "--set", "diffusion.timesteps=1")
    here(*space, "--storage", folder / "lake", "--trials", 4, "--name", "first")
    return folder / "lake", again(folder / "lake", *OPTIONS)


def test_the_best_and_the_controls_are_trained_on_every_fold_with_every_seed(lake: tuple[Path, list[str]]) -> None:
    storage, output = lake
    assert output[-1] == str(storage / "leaderboard" / "index.html")
    searched, table = trials(storage, "first"), trials(storage, "first-finalists")
    value = searched["final_dice"].fillna(searched["validation_dice"])
    best = searched["trial_id"][value[searched["kind"] == "searched"].idxmax()]
    assert set(table["status"]) == {"finished"}
    assert (table["epochs"] == 2).all()
    assert not set(table["seed"]) & set(searched["seed"])
    assert dict(zip(table["finalist"], table["kind"], strict=True)) == {best: "searched", "00000": "published", "00001": "unet"}
    runs = table[["finalist", "fold", "seed"]].drop_duplicates()
    assert len(table) == len(runs) == TRAININGS
    assert set(runs["fold"]) == {0, 2}
    for row in table.to_dict("records"):
        source = searched[searched["trial_id"] == row["finalist"]].iloc[0]
        assert row["search_dice"] == value[source.name]
        for column in ("config.loss.adversarial", "config.optimiser.lr_generator", "config.model.architecture"):
            assert row[column] == source[column]
        assert (row["config.training.seed"], row["test_evaluations"], row["dataset"]) == (row["seed"], 1, "phantom")
    (description,) = (item.description for item in load(storage).experiments if item.name == "first-finalists")
    assert (description["source"], description["folds"], description["seeds"]) == ("first", [0, 2], [1, 2])
    assert set(description) >= {"dataset", "space", "versions", "git_commit", "arguments"}


def test_every_test_case_is_scored_and_the_tables_agree(lake: tuple[Path, list[str]]) -> None:
    storage, output = lake
    table, scores = trials(storage, "first-finalists"), cases(storage, "first-finalists")
    dataset = open_dataset("phantom", size=16, cases=8, classes=1)
    for row in table.to_dict("records"):
        own = scores[(scores["trial_id"] == row["trial_id"]) & (scores["votes"] == row["votes"])]
        split = dataset.split(int(row["fold"]))
        for name, column, expected in (("test", "test_dice", split.test), ("validation", "final_dice", split.validation)):
            part = own[own["split"] == name]
            assert sorted(part["case"]) == sorted(expected)
            assert row[column] == pytest.approx(part["dice"].mean())
    found = load(storage).finalists().to_pandas()
    assert (found["trainings"] == 4).all()
    for row in found.to_dict("records"):
        own = table[table["finalist"] == row["finalist"]]
        assert row["test_dice"] == pytest.approx(own["test_dice"].mean())  # folds are of the same size
        assert row["final_dice"] == pytest.approx(own["final_dice"].mean())
        assert row["low"] <= row["test_dice"] <= row["high"]
        assert any(re.match(rf" *{row['finalist']} +4 .*{row['test_dice']:.4f}", line) for line in output)
    compared = load(storage).comparison(split="test").to_pandas()
    assert compared["finalist"].tolist() == found["finalist"].tolist()
    assert (compared["cases"] == 4).all()
    assert found["p"].tolist()[1:] == compared["p"].tolist()[1:]


def test_the_test_split_is_seen_once(lake: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    """The same again, under another name, with other seeds, shorter, or by way of another copy of the search: all are refused."""
    storage, _ = lake
    before = _but_leases(storage)
    common = ["--experiment", "first", "--storage", str(storage)]
    for extra in (OPTIONS, (), ("--name", "b"), ("--name", "c", "--seeds", "9", "--folds", "2"), ("--name", "d", "--epochs", "1")):
        assert finalists.main([*common, *extra]) == 2
        captured = capsys.readouterr()
        assert re.search(r"finalist 0000\d was tested on \d{4}-\d\d-\d\d \d\d:\d\d UTC in first-finalists", captured.err)
        assert "--again" in captured.err
        assert captured.err.count("\n") == 1
        assert not captured.out
    assert _but_leases(storage) == before


def _but_leases(storage: Path) -> list[Path]:
    """All files of a lake, but for those by which drivers keep each other out."""
    return sorted(path for path in storage.rglob("*") if "driver" not in path.parts)


def test_another_look_is_counted(lake: tuple[Path, list[str]]) -> None:
    storage, _ = lake
    before = trials(storage, "first-finalists")
    trained = {path: path.stat().st_mtime_ns for path in (storage / "first-finalists" / "tune").rglob("*.safetensors")}
    assert len(trained) >= TRAININGS
    again(storage, "--again")
    after = trials(storage, "first-finalists")
    assert (after["test_evaluations"] == 2).all()
    assert after["test_dice"].tolist() == before["test_dice"].tolist()
    assert all(path.stat().st_mtime_ns == written for path, written in trained.items())  # nothing was trained again
    assert (load(storage).finalists().to_pandas()["test_evaluations"] == 2).all()


@pytest.mark.ray
def test_cut_and_killed_it_goes_on_and_tests_nothing_twice(
    lake: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, _ = lake
    looks = int(trials(storage, "first-finalists")["test_evaluations"].max())
    arguments = ("--experiment", "first", "--storage", storage, "--name", "cut")

    def finished(at_least: int) -> bool:
        return "cut" in os.listdir(storage) and (trials(storage, "cut")["status"] == "finished").sum() >= at_least

    monkeypatch.setattr(os, "_exit", sys.exit)
    monkeypatch.setattr(Progress, "show", lambda *_: finished(1) and os.kill(os.getpid(), signal.SIGINT))
    close = Recorder.close  # a second one, while all is being saved, cuts nothing
    monkeypatch.setattr(Recorder, "close", lambda self: (os.kill(os.getpid(), signal.SIGINT), close(self)))
    with one_process(), pytest.raises(SystemExit, match="130"):
        finalists.main([*map(str, arguments), *OPTIONS, "--again"])
    monkeypatch.undo()
    output = capsys.readouterr().out
    assert output.splitlines()[-1] == f"python tune/finalists.py --experiment first --name cut --storage {storage}"
    assert "Traceback" not in output
    first = trials(storage, "cut")
    assert not set(first["status"]) & {"running", "pending"}
    done = int((first["status"] == "finished").sum())
    assert 0 < done < TRAININGS

    with start(*arguments, script=SCRIPT) as driver:
        kill_worker(driver)
        wait_for(lambda: finished(done + 1) or driver.poll() is not None)
        assert driver.poll() is None, driver.communicate()
        driver.kill()
    again(storage, "--name", "cut")
    last = trials(storage, "cut")
    assert (last["status"] == "finished").all()
    assert len(last) == TRAININGS
    assert (last["test_evaluations"] == looks + 1).all()
    assert last["restarts"].sum() >= 1
    both = first.merge(last, on="trial_id", suffixes=("", "_last"))
    both = both[both["status"] == "finished"]
    assert (both["ended_at"] == both["ended_at_last"]).all()  # what was done was not done again
    never_cut = trials(storage, "first-finalists")
    for column in ("finalist", "fold", "seed", "validation_dice", "final_dice", "test_dice", "test_iou"):
        assert last[column].tolist() == never_cut[column].tolist()
    assert not cases(storage, "cut").duplicated(["trial_id", "split", "case", "class", "votes"]).any()


WRONG = {
    "experiment": (["--experiment", "none"], "holds no experiment named 'none'"),
    "finalists of finalists": (["--experiment", "first-finalists"], "name the search: --experiment first"),
    "fold": (["--experiment", "first", "--name", "x", "--folds", "4"], "--folds is '4'; phantom has folds 0 to 3"),
    "folds": (["--experiment", "first", "--name", "x", "--folds", "0;1"], "write all, or numbers such as 0,2"),
    "top": (["--experiment", "first", "--top", "0"], "--top is 0; it must be at least 1"),
    "seeds": (["--experiment", "first", "--seeds", "0"], "--seeds is 0; it must be at least 1"),
    "changed": (["--experiment", "first", "--seeds", "3"], "first-finalists was begun with --seeds 2"),
    "changed folds": (["--experiment", "first", "--folds", "1"], "first-finalists was begun with --folds 0,2"),
    "taken name": (["--experiment", "first", "--name", "first"], "is not an experiment with finalists of first"),
    "bare experiment": (["--experiment", "bare"], "was not made by tune/search.py"),
    "gpu": (["--experiment", "first", "--name", "x", "--gpus-per-worker", "1000"], "a trial asks for 1 worker of"),
    "storage": (["--experiment", "first", "--storage", "cloud://bucket/lake"], "name a folder or s3://BUCKET/FOLDER"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_input_gives_one_line_and_status_2(
    kind: str, lake: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, _ = lake
    if kind == "bare experiment":
        storage = tmp_path
        create_experiment(storage, "bare", {"dataset": "phantom"})
    arguments, expected = WRONG[kind]
    assert finalists.main(["--storage", str(storage), *arguments]) == 2
    captured = capsys.readouterr()
    assert expected in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out
    assert not (storage / "x").exists()


def test_a_dry_run_lists_the_trainings_and_writes_nothing(lake: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    storage, _ = lake
    arguments = [
        "--experiment",
        "first",
        "--storage",
        str(storage),
        "--name",
        "dry",
        "--folds",
        "all",
        "--epochs",
        "50",
        "--top",
        "9",
    ]
    assert finalists.main([*arguments, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert (
        len(re.findall(r"finalist    0000\d (?:searched|published|unet), Dice 0\.\d{4} in the search: 20 trainings of 50", printed))
        == 4
    )
    assert re.search(r"trainings   80, about \d+:\d\d", printed)
    assert "fold        0, partition 1 of 4: 4 train, 2 validate, 2 test\n" in printed
    assert "fold        3, partition 4 of 4: 4 train, 2 validate, 2 test; the search saw 2 of these\n" in printed
    assert "tested on" in printed
    assert not (storage / "dry").exists()


def test_a_search_is_not_mixed_up_with_its_finalists(lake: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    storage, _ = lake
    assert search.main(["--resume", "first-finalists", "--storage", str(storage)]) == 2
    assert "python tune/finalists.py --experiment first" in capsys.readouterr().err
    assert search.main(["--resume", "--storage", str(storage), "--dry-run"]) == 0  # the newest search, not what came after it
    assert "experiment  first\n" in capsys.readouterr().out


def test_help_explains_and_lists_every_option() -> None:
    text = finalists.parser().format_help()
    options = (
        "--experiment --top --seeds --folds --epochs --data --again --max-concurrent --cpus-per-worker --gpus-per-worker --address "
        "--storage --name --dry-run --notify --notify-command"
    )
    assert set(re.findall(r"(?<![\w-])--[a-z-]+", finalists.parser().format_usage())) == set(options.split())
    assert all(f"  {option}" in text for option in options.split())
