"""The command as users run it: searches with tiny models, cut, killed, and resumed.

What Ray has a part in (processes, crashes, signals, several workers) runs with Ray; all else in this process, see `one_process`.
"""

import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import optuna
import pandas as pd
import pytest
from one_process import one_process
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from patience import finish, wait_for
from searches import HUGE, assert_whole, here, kill_worker, little_memory, rows_of, run, start, tiny, trials

from cdal.checkpoint import read_info
from cdal.training import LAST
from tune import search
from tune.lake import hold
from tune.results import Writer, load
from tune.running import Progress, Recorder

pytestmark = pytest.mark.long

NOT_FIGURES = r"^log$|seconds|_at$|memory|host|experiment|checkpoint|per_second|gpu_hours"


def figures(table: pd.DataFrame, key: Sequence[str]) -> pd.DataFrame:
    """The columns that a repetition must reproduce."""
    kept = [name for name in table.columns if not re.search(NOT_FIGURES, name)]
    return table[kept].sort_values(list(key)).reset_index(drop=True)


def journal(experiment: Path) -> optuna.storages.JournalStorage:
    return optuna.storages.JournalStorage(JournalFileBackend(str(experiment / "tune" / "optuna-journal.log")))


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[str]]]:
    """A search, one trial at a time, and the same once more in its lake, as it was started; the first with Ray."""
    folder = tmp_path_factory.mktemp("search")
    storage = ("--storage", folder / "lake")
    first = run("--space", tiny(folder), *storage, "--trials", 6, "--max-concurrent", 1, "--seed", 7, "--name", "first")
    return folder / "lake", [first, here(*storage, "--repeat", "first", "--name", "second")]


@pytest.mark.ray
def test_a_search_fills_the_lake_and_ends_with_the_leaderboard(twice: tuple[Path, list[list[str]]]) -> None:
    storage, outputs = twice
    page = Path(outputs[0][-1])
    assert page == storage / "leaderboard" / "index.html"
    assert page.is_file()
    assert_whole(storage, "first", 6, 3)
    table = trials(storage, "first")
    assert table["kind"].tolist() == ["published", "unet", "searched", "searched", "searched", "searched"]
    assert table.loc[0, "config.diffusion.timesteps"] == 4
    assert table["config.model.architecture"].tolist() == ["cdal", "unet", "cdal", "cdal", "cdal", "cdal"]
    assert (table["status"] == "finished")[:2].all()
    best = table.loc[table["validation_dice"].idxmax()]
    assert pd.notna(best["final_dice"])
    assert all((storage / path).is_file() for path in table["checkpoint"])
    assert (table["startup_seconds"] >= table["model_seconds"]).all()
    assert table.loc[1, "config.loss.soft_dice"] == 1.0  # the U-Net is trained as people train one
    assert table.loc[1, "config.optimiser.lr_generator"] == 1e-3
    gallery = load(storage).gallery().to_pandas()
    assert all(
        picture.startswith(b"\x89PNG") for name in ("image", "truth", "prediction", "uncertainty") for picture in gallery[name]
    )
    description = load(storage).experiments[0].description
    assert set(description["space"]["parameters"]) == {"diffusion.timesteps", "loss.adversarial", "optimiser.lr_generator"}
    assert len(description["split_hash"]) == 64


@pytest.mark.ray
def test_a_search_that_is_repeated_gives_the_same_figures(twice: tuple[Path, list[list[str]]]) -> None:
    storage, outputs = twice
    assert not any("differ" in line for line in outputs[1])
    lake = load(storage)
    keys = {"trials": ["number"], "metrics": ["trial_id", "epoch"], "cases": ["trial_id", "case", "class", "votes"]}
    for table, key in keys.items():
        whole = getattr(lake, table)().to_pandas()
        first, second = (figures(whole[whole["experiment"] == name], key) for name in ("first", "second"))
        assert len(first) > 0
        pd.testing.assert_frame_equal(first, second, check_exact=True)


@pytest.mark.ray
def test_more_trials_can_be_added_later(twice: tuple[Path, list[list[str]]]) -> None:
    storage, _ = twice
    here("--storage", storage, "--resume", "second", "--trials", 8)
    assert_whole(storage, "second", 8, 3)
    again = here("--storage", storage, "--resume", "second")  # nothing is left to do, and nothing is done
    assert again[-1] == str(storage / "leaderboard" / "index.html")


@pytest.mark.ray
def test_a_search_that_lost_a_worker_and_is_told_to_end_saves_all_and_goes_on(tmp_path: Path) -> None:
    """One that is killed itself: in `test_finalists.py` and `test_search_on_s3.py`."""
    storage = tmp_path / "lake"
    options = ("--trials", 3, "--max-concurrent", 1, "--name", "polite")
    with start("--space", tiny(tmp_path, epochs=40), "--storage", storage, *options) as driver:
        wait_for(lambda: list(storage.glob(f"polite/tune/*/{LAST}")) or driver.poll() is not None)
        kill_worker(driver)
        wait_for(lambda: trials(storage, "polite")["restarts"].sum() > 0 or driver.poll() is not None)
        driver.send_signal(signal.SIGTERM)
        output = finish(driver, 30)
    assert driver.returncode == 130, output
    assert_polite(storage, output)
    assert "Traceback" not in output
    here("--resume", "polite", "--storage", storage)
    assert_whole(storage, "polite", 3, 40)
    assert trials(storage, "polite")["restarts"].sum() == 1


def test_ctrl_c_is_as_polite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lake = tmp_path / "lake"
    monkeypatch.setattr(os, "_exit", sys.exit)
    monkeypatch.setattr(Progress, "show", lambda *_: rows_of(lake, "metrics") > 0 and os.kill(os.getpid(), signal.SIGINT))
    close = Recorder.close  # a second one, while all is being saved, cuts nothing
    monkeypatch.setattr(Recorder, "close", lambda self: (os.kill(os.getpid(), signal.SIGINT), close(self)))
    with one_process(), pytest.raises(SystemExit, match="130"):
        search.main(["--space", str(tiny(tmp_path, epochs=500)), "--storage", str(lake), "--trials", "4", "--name", "polite"])
    output = capsys.readouterr().out
    assert_polite(lake, output)
    assert "Traceback" not in output


def assert_polite(lake: Path, output: str) -> None:
    assert output.splitlines()[-1] == f"python tune/search.py --resume polite --storage {lake}"
    statuses = set(trials(lake, "polite")["status"])
    assert "interrupted" in statuses
    assert not statuses & {"running", "pending"}


def test_a_time_budget_ends_with_the_best_trial_scored(tmp_path: Path) -> None:
    storage = tmp_path / "lake"
    arguments = ("--space", tiny(tmp_path, epochs=2000), "--storage", storage, "--time-budget", "30s", "--name", "short")
    lines = here(*arguments, step_seconds=1)
    table = trials(storage, "short")
    assert list(table["status"]) == ["stopped", "stopped"]  # no third one begins where there is no time for it
    assert table["epochs"].sum() == 27  # a tenth is kept back for scoring
    best = table.loc[table["validation_dice"].idxmax()]
    assert pd.notna(best["final_dice"])
    assert set(table["reason"]) == {"the time budget was used up"}
    assert lines[-1] == str(storage / "leaderboard" / "index.html")


def test_trials_that_had_no_turn_within_the_budget_are_left_for_another_session(tmp_path: Path) -> None:
    storage = tmp_path / "lake"
    arguments = ("--space", tiny(tmp_path, epochs=2000), "--storage", storage, "--time-budget", "30s", "--name", "crowd")
    here(*arguments, "--scheduler", "pbt", "--trials", 8, step_seconds=1)  # all are proposed at once
    table = trials(storage, "crowd").set_index("number")
    assert list(table["status"][:2]) == ["stopped", "stopped"]
    waiting = table.loc[4:]
    assert set(waiting["status"]) == {"interrupted"}
    assert set(waiting["reason"]) == {"the time budget was used up"}
    assert waiting["started_at"].isna().all()
    assert waiting["epochs"].isna().all()


def test_several_objectives_and_a_warm_start_from_them(tmp_path: Path) -> None:
    storage = tmp_path / "lake"
    common = ("--space", tiny(tmp_path), "--storage", storage)
    here(*common, "--trials", 5, "--objectives", "dice,seconds_per_case,gpu_hours", "--name", "three")
    table = trials(storage, "three")
    finished = table[table["status"] == "finished"]
    assert (finished["gpu_hours"] > 0).all()
    front = load(storage).tradeoffs().to_pandas()
    assert front["on_front"].any()
    study = optuna.load_study(study_name="three", storage=journal(storage / "three"))
    told = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    assert len(told) == (finished["kind"] == "searched").sum()  # the published settings lie outside of this space
    for trial in told:
        (row,) = finished[finished["number"] == trial.user_attrs["trial"]].to_dict("records")
        assert trial.values == pytest.approx([row["validation_dice"], row["seconds_per_case"], row["gpu_hours"]])
    printed = here(*common, "--trials", 4, "--warm-start", "three", "--sampler", "tpe", "--scheduler", "median", "--name", "next")
    ended = len(table[table["kind"] == "searched"])
    assert any(f"warm start  from three: {ended} comparable trials" in line for line in printed)
    assert any("tpe, from trial 2 on" in line for line in printed)  # right after the controls, as it knows of three
    warm = optuna.load_study(study_name="next", storage=journal(storage / "next"))
    assert len(warm.trials) == ended + len(trials(storage, "next").query("kind == 'searched'"))


def test_out_of_memory_is_infeasible_and_does_not_end_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    little_memory(monkeypatch)
    huge = f"  model.latent_embedding: {{values: [{HUGE}]}}\n"
    (tmp_path / "huge.yaml").write_text(tiny(tmp_path).read_text() + huge)
    here("--space", tmp_path / "huge.yaml", "--storage", tmp_path / "lake", "--trials", 3, "--name", "huge")
    table = trials(tmp_path / "lake", "huge")
    (searched,) = table[table["kind"] == "searched"].to_dict("records")
    assert searched["status"] == "infeasible"
    assert "out of memory, with" in searched["reason"]
    assert searched["memory_bytes"] > 0


def test_a_population_copies_its_best(tmp_path: Path) -> None:
    storage = tmp_path / "lake"
    text = tiny(tmp_path, epochs=4).read_text().replace("min: 1e-4, max: 1e-2", "min: 1e-6, max: 1e-2")
    (tmp_path / "rates.yaml").write_text(text)
    here("--space", tmp_path / "rates.yaml", "--storage", storage, "--trials", 6, "--scheduler", "pbt", "--name", "population")
    assert_whole(storage, "population", 6, 4)
    table = trials(storage, "population")
    assert set(table["status"]) == {"finished"}
    copies = table[table["parent"].notna()]
    assert len(copies) > 0
    assert set(copies["kind"]) == {"searched"}
    for row in copies.to_dict("records"):
        info = read_info(storage / row["checkpoint"])
        assert info["config"]["optimiser"]["lr_generator"] == row["config.optimiser.lr_generator"]
        assert info["dice"] == row["validation_dice"]


def test_two_searches_do_not_share_an_experiment(tmp_path: Path) -> None:
    place = str(tmp_path / "tune")
    with hold(place, print), pytest.raises(search.InputError, match="another search is running in"), hold(place, print):
        pass


def test_failed_trials_are_taken_up_again_where_their_settings_were_not_the_reason(tmp_path: Path) -> None:
    storage = tmp_path / "lake"
    here("--space", tiny(tmp_path, epochs=1), "--storage", storage, "--trials", 3, "--name", "odd")
    rows = [row for row in load(storage).trials().to_pylist() if row["number"] > 0]
    with Writer(storage, "odd") as writer:
        for row, cause in zip(rows, ("machine", "setting"), strict=True):
            known = {name: value for name, value in row.items() if value is not None and name != "recorded_at"}
            writer.append("trials", known | {"status": "failed", "cause": cause, "reason": "injected", "epochs": 0})
    again = ("--storage", storage, "--resume", "odd")
    assert "resume      2 trials ended, 0 go on, 1 failed (--retry-failed takes them up again)" in here(*again)
    assert trials(storage, "odd")["status"].tolist() == ["finished", "failed", "failed"]
    assert "resume      2 trials ended, 0 go on, 1 that failed begin again" in here(*again, "--retry-failed")
    assert trials(storage, "odd")["status"].tolist() == ["finished", "finished", "failed"]


WRONG = {
    "retry without resume": (["--retry-failed"], "--resume NAME --retry-failed"),
    "no cluster": (["--address", "127.0.0.1:1"], "no Ray cluster answers at --address 127.0.0.1:1"),
    "gpu": (["--gpus-per-worker", "1000"], "a trial asks for 1 worker of"),
    "dataset": (["--dataset", "brain"], "no search space for the dataset 'brain'"),
    "space": (["--space", "none.yaml"], "the search space none.yaml cannot be read"),
    "time": (["--time-budget", "soon"], "--time-budget is 'soon'"),
    "storage": (["--storage", "cloud://bucket/lake"], "name a folder or s3://BUCKET/FOLDER"),
    "storage of another cloud": (["--storage", "gs://bucket/lake"], "name a folder or s3://BUCKET/FOLDER"),
    "resume": (["--resume", "none", "--storage", "STORAGE"], "holds no experiment named 'none'"),
    "repeat": (["--repeat", "none", "--storage", "STORAGE"], "holds no experiment named 'none'"),
    "repeat otherwise": (["--repeat", "none", "--trials", "3"], "--repeat runs none as it was started; leave out --trials"),
    "resume in an empty lake": (["--resume", "--storage", "STORAGE"], "no experiments"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_input_gives_one_line_and_status_2(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, expected = WRONG[kind]
    assert search.main([argument.replace("STORAGE", str(tmp_path)) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert expected in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert search.main(["--dry-run", "--storage", str(tmp_path / "lake"), "--epochs", "3"]) == 0
    printed = capsys.readouterr().out
    for part in (
        "phantom: generated",
        "0, partition 1 of 4",
        "28 train, 8 validate, 12 kept",
        "published 4",
        "0 published, 1 unet",
        "3 epochs",
        "at once",
        "curves, from trial 4 on",
        "asha, from epoch 1 on",
        "until 8 trials or the next ones gain less than 0.001 Dice",
        "a whole trial takes about",
        "seed",
    ):
        assert part in printed
    assert not (tmp_path / "lake").exists()


def test_help_explains_and_lists_every_option() -> None:
    text = search.parser().format_help()
    options = (
        "--dataset --data --space --set --fold --epochs --trials --time-budget --seed --max-concurrent --workers-per-trial "
        "--cpus-per-worker --gpus-per-worker --address --storage --name --resume --retry-failed --dry-run --repeat --gpu-hours "
        "--cost-per-gpu-hour --min-improvement --sampler --scheduler --objectives --warm-start --try --notify "
        "--notify-command --keep --groups --split"
    )
    assert set(re.findall(r"(?<![\w-])--[a-z-]+", search.parser().format_usage())) == set(options.split())
    assert "python tune/search.py --dataset hippocampus --data" in text
    assert all(f"  {option}" in text for option in options.split())
