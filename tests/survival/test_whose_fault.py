"""Whose fault it is that a trial fails, and what follows. Promised in docs/survival.md."""

import time
from pathlib import Path

import pandas as pd
import pytest
from accidents import at
from books import faults_in
from own_folders import two_folders
from runs import ALWAYS, ONE_PROCESS, Arrange, Row, ended, log_of, own, search
from searches import here, tiny

from cdal.training import LAST

pytestmark = pytest.mark.long
ray = pytest.mark.ray


@ray
def test_a_machines_faults_cost_a_trial_an_epoch_at_most(tmp_path: Path, lake: Path, arrange: Arrange, row: Row) -> None:
    accidents = arrange(
        at("begin", "skew", trials=[0], seconds=7200),
        at("step", "poison", trials=[1], step=2),
        at("step", "kill", trials=[2], step=2),
        at("step", "kill", trials=[2], step=4),
        at("step", "poison", trials=[3], times=ALWAYS),
        at("save", "full", trials=[4], file=LAST),
        at("save", "torn", trials=[5], file=LAST, step=4),
    )
    began = time.time()
    arguments = ("--space", tiny(tmp_path, epochs=3, steps=2), "--storage", lake, "--name", "a")
    status, output = search(*arguments, "--trials", 6, "--scheduler", "none")
    table, wall = ended(lake), time.time() - began
    assert status == 0, output
    assert faults_in(lake, "a", 6) == []
    assert {accident.number for accident in accidents.happened} == set(range(7))
    assert table["status"].tolist() == ["finished"] * 3 + ["failed"] + ["finished"] * 2, output
    attempts = table["attempts"].astype(int).to_dict()
    assert attempts == {0: 1, 1: 2, 2: 3, 3: 4, 4: 2, 5: 2}
    assert table["cause"][3] == "machine"
    assert "device-side assert" in table["reason"][3]
    assert "device-side assert" in log_of(lake, 1)
    poisoned = {accident.process for accident in accidents.happened if accident.number in (1, 4)}
    assert len(poisoned) == 5, "a poisoned process was used again"
    assert table["seconds"].max() < wall
    row("one process in which every CUDA call fails", "it dies; its trial goes on in another", "finished, in its 2nd process")
    row("a process killed again and again", "restarts count anew with every epoch", "finished, in its 3rd process, no epoch lost")
    row("a trial that breaks every process", "given up after 3 restarts; nothing learnt", "failed: machine; the others finished")
    row("a full disk under a checkpoint", "a machine's fault: tried again", "finished, in its 2nd process")
    row("the last checkpoint is torn, the process dead", "the one before it is taken", "finished, no epoch lost or doubled")
    row("a worker's clock is 2 h ahead", "costs nothing", f"the longest trial is booked with {table['seconds'].max():.0f} s")

    arrange()
    assert "1 failed" in "\n".join(here("--storage", lake, "--resume", "a"))
    assert ended(lake)["status"][3] == "failed"
    here("--storage", lake, "--resume", "a", "--retry-failed")
    assert ended(lake)["status"].tolist() == ["finished"] * 6
    assert faults_in(lake, "a", 6) == []
    row("trials that failed, in a search that is over", "--resume --retry-failed takes them up", "finished")


@ray
def test_a_search_pauses_where_every_process_fails_alike(tmp_path: Path, lake: Path, arrange: Arrange, row: Row) -> None:
    accidents = arrange(at("step", "poison", times=ALWAYS))
    arguments = ("--space", tiny(tmp_path, epochs=1), "--storage", lake, "--name", "a", "--trials", 12)
    status, output = search(*arguments)
    assert status == 1, output
    assert "paused: the last 5 attempts failed alike" in output
    assert "device-side assert" in output
    assert "python tune/search.py --resume a" in output
    assert "Traceback" not in output
    assert len(accidents.happened) < 10
    arrange()
    here("--storage", lake, "--resume", "a")
    assert faults_in(lake, "a", 12) == []
    assert set(ended(lake)["status"]) <= {"finished", "stopped"}
    many = len(accidents.happened)
    row("every process fails alike", "the search pauses and says why; status 1", f"after {many} attempts; resumed, all 12 ended")


@ray
@pytest.mark.survival
def test_a_group_ends_at_once_where_one_worker_runs_out_of_memory(tmp_path: Path, lake: Path, arrange: Arrange, row: Row) -> None:
    accidents = arrange(at("validation", "oom", rank=0, times=ALWAYS))
    arguments = ("--space", tiny(tmp_path, epochs=2), "--storage", lake, "--name", "a", "--trials", 1)
    status, output = search(*arguments, "--workers-per-trial", 2)
    table = ended(lake)
    assert status == 1, output  # no trial has a result
    assert faults_in(lake, "a", 1) == []
    assert table["status"][0] == "infeasible"
    assert table["cause"][0] == "setting"
    assert table["memory_bytes"][0] > 0
    assert len(accidents.happened) == 1, "it was tried again"
    late = table["ended_at"][0].timestamp() - accidents.happened[0].time
    assert late < 60
    row("out of memory in one of two workers", "the group ends within seconds; infeasible", f"ended after {late:.1f} s")


def test_a_settings_faults_are_its_own(
    tmp_path: Path, lake: Path, arrange: Arrange, row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the terminal knows nothing but ASCII."""
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    monkeypatch.setenv("LC_ALL", "C")
    arrange(
        at("step", "oom", trials=[], times=ALWAYS),  # the estimate
        at("step", "oom", trials=[0], times=ALWAYS),
        at("validation", "praise", trials=[1], times=ALWAYS),
        at("scoring", "oom", trials=[1], times=ALWAYS),
        at("validation", "praise", trials=[2], times=ALWAYS),
        at("step", "nan", trials=[2], step=4),
        at("step", "memory", trials=[3], times=ALWAYS),
        at("epoch row", "bad value", trials=[4]),
    )
    arguments = ("--space", tiny(tmp_path, epochs=3, steps=2), "--storage", lake, "--name", "a", "--scheduler", "none")
    status, output = search(*arguments, "--trials", 5, script=ONE_PROCESS)
    table = ended(lake)
    assert status == 0, output
    assert "Traceback" not in output
    assert faults_in(lake, "a", 5) == []
    assert table["status"].tolist() == ["infeasible", "finished", "diverged", "infeasible", "finished"]
    assert table["cause"].fillna("").tolist() == ["setting", "", "setting", "setting", ""]
    assert (table["memory_bytes"][[0, 3]] > 0).all()
    assert "do not fit" in output
    assert "not scored" in table["reason"][1]
    assert pd.isna(table["final_dice"][1])
    shown = [line.split() for line in output[output.index("Best trials") :].splitlines()[2:]]
    assert [line[0] for line in shown if line[:1] and line[0].isdigit()][:2] == ["1", "4"]
    assert "images_per_second" in output
    assert "best Dice 0.999 (trial 2)" not in output
    row(
        "published settings that do not fit",
        "one sentence in the estimate; the control is infeasible",
        "so it was; 4 trials ran on",
    )
    row("out of memory in a training", "infeasible, with its peak; learnt", "infeasible: setting")
    row("the best trial cannot be scored", "the search ends with its leaderboard", "finished, not scored; status 0")
    row("a loss becomes NaN after the best epoch of all", "diverged, and not crowned", "diverged: setting; trial 1 is the best")
    row("figures that no table can hold", "the row is kept without them, with a word", "no row lost")
    row("a terminal that knows only ASCII", "replacement characters", "no error")


def test_the_users_mistake_ends_the_search_in_a_sentence(tmp_path: Path, lake: Path, arrange: Arrange, row: Row) -> None:
    data = two_folders(tmp_path / "data", count=10)
    arrange(at("dataset", "gone", trials=[0]), at("dataset", "gone", trials=[1], times=ALWAYS))
    arguments = (
        "--space",
        own(tmp_path, epochs=2),
        "--data",
        data,
        "--storage",
        lake,
        "--name",
        "a",
        "--trials",
        3,
        "--max-concurrent",
        1,
    )
    status, output = search(*arguments, script=ONE_PROCESS)
    assert status == 2, output
    assert "Traceback" not in output
    (said,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert "data-of-another-machine" in said
    assert ended(lake)["status"][0] == "finished"
    row("data that are missing on one machine, once", "a machine's fault: tried again", "finished, in its 2nd process")
    arrange()
    here("--storage", lake, "--resume", "a")
    assert faults_in(lake, "a", 3) == []
    row("data that are missing everywhere", "one sentence, status 2, nothing lost", "so it was; resumed, all 3 ended")
