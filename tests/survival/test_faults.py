"""One fault of every kind, injected into real searches on CPU, and what docs/survival.md promises of it.

Where it takes processes that die, Ray runs the trials; else they live in the driver, see `one_process`.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pandas as pd
import pytest
from accidents import Accidents, at
from books import faults_in
from machines import two_machines
from own_folders import two_folders
from patience import finish, wait_for
from s3 import Bucket
from searches import here, rows_of, start, tiny, trials

from cdal.training import LAST
from tune.results import load

pytestmark = pytest.mark.long
ray = pytest.mark.ray

ONE_PROCESS = "tests/support/one_process.py"
ALWAYS = None  # times
Arrange = Callable[..., Accidents]
Row = Callable[[str, str, str], None]


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    return tmp_path / "lake"


def search(*arguments: object, script: str = "tune/search.py", seconds: float = 180) -> tuple[int, str]:
    """A search from its start to its end: exit status and output."""
    with start(*arguments, script=script) as process:
        output = finish(process, seconds)
        sys.stdout.write(output)  # shown where the test fails
        return int(process.returncode), output


def own(folder: Path, epochs: int) -> Path:
    """A search space for a folder of images and masks."""
    path = folder / f"own-{epochs}.yaml"
    generated = "{name: phantom, size: 16, cases: 8, classes: 1}"
    path.write_text(tiny(folder, epochs=epochs).read_text().replace(generated, "{name: own, sample_size: 16}"))
    return path


def ended(storage: Path | str, experiment: str = "a") -> pd.DataFrame:
    """The trials by number."""
    return trials(storage, experiment).set_index("number")


def log_of(storage: Path, number: int, experiment: str = "a") -> str:
    return (storage / str(ended(storage, experiment)["log"][number])).read_text()


# ------------------------------------------------------------------------------------------------------- 1. whose fault it is


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


# ------------------------------------------------------------------------------------------------- 2. nothing waits for ever


@ray
def test_what_hangs_is_noticed_killed_and_tried_again(tmp_path: Path, lake: Path, arrange: Arrange, row: Row) -> None:
    _assert_noticed(["hang in step", "stop in validation", "hang in dataset", "hang in scoring"], tmp_path, lake, arrange, row)


@ray
@pytest.mark.survival
def test_other_hangs_too(tmp_path: Path, lake: Path, arrange: Arrange, row: Row) -> None:
    _assert_noticed(["lock in step", "spin in step", "freeze in step", "freeze in save"], tmp_path, lake, arrange, row)


HANGS = {
    "hang": "sleeps",
    "stop": "is stopped",
    "lock": "waits for a lock",
    "spin": "turns in circles",
    "freeze": "hangs in C code",
}


def _assert_noticed(kinds: list[str], tmp_path: Path, lake: Path, arrange: Arrange, row: Row) -> None:
    """One trial each."""
    plan = []
    for number, kind in enumerate(kinds):
        fault, _, point = kind.split()
        plan.append(at(point, fault, trials=[number], **({"step": 2} if point in ("step", "validation") else {})))
    accidents = arrange(*plan)
    arguments = ("--space", tiny(tmp_path, epochs=2, steps=2), "--storage", lake, "--name", "a", "--scheduler", "none")
    status, output = search(*arguments, "--trials", len(kinds))
    table = ended(lake)
    assert status == 0, output
    assert faults_in(lake, "a", len(kinds)) == []
    assert set(table["status"]) == {"finished"}
    assert (table["attempts"] == 2).all()
    assert (table["seconds"] > 8).all(), "the time that it hung is not counted"
    for accident in accidents.happened:
        fault, _, point = kinds[accident.number].split()
        if fault in ("hang", "lock", "spin"):
            assert f"in _{'sleep' if fault == 'hang' else fault}" in log_of(lake, accident.number)
        with pytest.raises(ProcessLookupError):
            os.kill(accident.process, 0)
        row(
            f"a process that {HANGS[fault]} ({point})",
            "noticed, killed, tried again; its time counts",
            "finished, in its 2nd process",
        )


@ray
def test_a_time_budget_holds_whoever_hangs_and_however_long_an_epoch_is(
    tmp_path: Path, lake: Path, arrange: Arrange, row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CDAL_HANG_SECONDS", "600")
    arrange(at("step", "hang", trials=[0], step=30), at("step", "slow", trials=[1], step=20, times=ALWAYS, seconds=1))
    arguments = ("--space", tiny(tmp_path, epochs=999, steps=20), "--storage", lake, "--name", "a", "--time-budget", "45s")
    status, output = search(*arguments, seconds=120)
    table = ended(lake)
    assert status == 0, output
    assert table["status"].tolist() == ["stopped", "stopped"], output
    assert set(table["reason"]) == {"the time budget was used up"}
    assert faults_in(lake, "a", 2) == []
    assert (table["seconds"] > 5).all()
    began = datetime.fromisoformat(load(lake).experiments[0].description["created_at"])
    over = (table["ended_at"].max() - began).total_seconds() - 45
    assert over < 20
    row("a trial hangs while the time runs out", "the budget holds all the same", f"over by {max(over, 0):.1f} s")
    row("an epoch longer than the budget", "stopped in its middle", f"over by {max(over, 0):.1f} s")


def test_an_address_where_nobody_listens(lake: Path, row: Row) -> None:
    began = time.monotonic()
    status, output = search("--storage", lake, "--address", "127.0.0.1:1")
    took = time.monotonic() - began
    assert status == 2, output
    assert output.count("\n") == 1, output
    assert not lake.exists()
    row("--address where no Ray listens", "one sentence within 30 s", f"after {took:.0f} s")


# ---------------------------------------------------------------------------------------------------- 3. machines as they are


LONG = "a-folder-of-a-job" * 8


@pytest.mark.parametrize(
    ("fault", "variable", "value"),
    [
        ("TMPDIR too long for a socket's name", "TMPDIR", LONG),
        ("HOME that cannot be written", "HOME", "/proc"),
        ("Ray's folder that cannot be written", "RAY_TMPDIR", "/proc/ray"),
    ],
)
def test_a_machine_set_up_oddly(
    fault: str, variable: str, value: str, tmp_path: Path, lake: Path, row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value == LONG:
        value = str(tmp_path / LONG)
        Path(value).mkdir()
    monkeypatch.setenv(variable, value)
    if variable == "HOME":
        for name in ("CDAL_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
    status, output = search("--space", tiny(tmp_path), "--storage", lake, "--name", "a", "--trials", 2)
    assert status == 2, output
    assert output.count("\n") == 1, output
    assert not (lake / "a").exists()
    row(
        fault,
        "one sentence, status 2, before an experiment exists",
        output.strip().partition("; ")[0].removeprefix("error: ")[:100],
    )


def test_a_file_system_without_locks_and_a_disk_that_is_full_for_a_while(
    tmp_path: Path, lake: Path, arrange: Arrange, row: Row
) -> None:
    """And a second driver, which is kept out there as well."""
    slowly = at("step", "slow", trials=[1], times=ALWAYS, seconds=1)
    accidents = arrange(at("flock", "refused"), at("lake", "full", trials=[], file="metrics/", times=3), slowly)
    arguments = ("--space", tiny(tmp_path, epochs=25), "--storage", lake, "--name", "a", "--scheduler", "none", "--trials", 2)
    with start(*arguments, script=ONE_PROCESS) as first:
        wait_for(lambda: accidents.happened or first.poll() is not None)
        assert first.poll() is None, first.communicate()[0]
        status, output = search("--resume", "a", "--storage", lake, script=ONE_PROCESS)
        assert status == 2, output
        assert "another search is running" in output
        first_output = finish(first)
    assert first.returncode == 0, first_output
    assert len([one for one in accidents.happened if one.number == 1]) == 3
    assert faults_in(lake, "a", 2) == []
    row("a file system without flock", "the lake works, by a lease; a second driver is kept out", "so it was")
    row("a disk that is full for a while", "rows wait in memory", "3 writes failed; no row lost")


# -------------------------------------------------------------------------------------------- 4. a resumed search is the search


def test_a_killed_driver_a_torn_checkpoint_and_a_second_driver(tmp_path: Path, lake: Path, arrange: Arrange, row: Row) -> None:
    space = tiny(tmp_path, epochs=25)
    arguments = ("--space", space, "--storage", lake, "--trials", 6, "--max-concurrent", 1, "--sampler", "quasirandom")
    arguments += ("--scheduler", "none", "--min-improvement", 0)
    folder = lake / "a" / "tune" / "00003"
    with start(*arguments, "--name", "a", script=ONE_PROCESS) as driver:
        wait_for(lambda: (folder / LAST).exists() or driver.poll() is not None)
        status, refused = search("--resume", "a", "--storage", lake, script=ONE_PROCESS)
        assert driver.poll() is None
        driver.kill()
    assert status == 2, refused
    assert refused.startswith("error: another search is running")
    for path in folder.glob("*.safetensors"):
        if path.name != "best.safetensors":
            os.truncate(path, 1000)
    status, output = search("--resume", "a", "--storage", lake, "--max-concurrent", 0, script=ONE_PROCESS)
    assert status == 2, output
    assert output.count("\n") == 1, output
    row("--resume with nothing to run on", "refused as at the first start", "status 2, one sentence")
    status, output = search("--resume", "a", "--storage", lake, script=ONE_PROCESS)
    assert status == 0, output
    assert faults_in(lake, "a", 6) == []
    assert set(ended(lake)["status"]) == {"finished"}
    assert "begins again with epoch 1" in output
    row("a driver killed", "--resume goes on; nothing lost, nothing doubled", "all 6 trials finished")
    row("both checkpoints of a trial torn", "it starts again, and says so", "finished")
    here(*arguments, "--name", "uncut")
    settings = [name for name in ended(lake).columns if name.startswith("config.")]
    pd.testing.assert_frame_equal(ended(lake)[settings], ended(lake, "uncut")[settings])
    assert refused.count("\n") == 1, refused
    row("two drivers at once", "the second is kept out", "status 2, one sentence")
    row("a sampler that is cut", "proposes what the uncut one would", "6 of 6 proposals equal (quasirandom)")


@pytest.mark.survival
def test_a_store_that_is_away_and_two_drivers_on_it(
    tmp_path: Path, s3: Bucket, arrange: Arrange, row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"{s3.address}/lake"
    arrange(at("step", "slow", trials=[1], times=ALWAYS, seconds=1))
    monkeypatch.setenv("CDAL_CACHE", str(tmp_path / "cache"))
    arguments = ("--space", tiny(tmp_path, epochs=30), "--storage", place, "--trials", 2, "--scheduler", "none", "--name", "a")
    with start(*arguments, script=ONE_PROCESS) as driver:
        wait_for(lambda: rows_of(place, "metrics") or driver.poll() is not None)
        monkeypatch.setenv("CDAL_CACHE", str(tmp_path / "cache of another machine"))
        status, output = search("--resume", "a", "--storage", place, script=ONE_PROCESS)
        with s3.service.away():
            time.sleep(8)
        first_output = finish(driver)
    assert status == 2, output
    assert driver.returncode == 0, first_output
    assert faults_in(place, "a", 2) == []
    row("the store is away for 8 s", "rows and checkpoints wait", "no row lost")
    row("two drivers on a store, one host name", "the second is kept out", "status 2, one sentence")


# ------------------------------------------------------------------------------------------------------------- the long form


@ray
@pytest.mark.survival
def test_more_losses_than_restarts_with_progress_between(tmp_path: Path, lake: Path, arrange: Arrange, row: Row) -> None:
    arrange(*(at("step", "kill", trials=[1], step=2 * epoch) for epoch in range(1, 8)))
    arguments = ("--space", tiny(tmp_path, epochs=8, steps=2), "--storage", lake, "--name", "a", "--scheduler", "none")
    status, output = search(*arguments, "--trials", 2, seconds=300)
    assert status == 0, output
    assert faults_in(lake, "a", 2) == []
    assert ended(lake)["attempts"].tolist() == [1, 8]
    row("a process lost in each of 8 epochs", "the trial finishes", "finished, in its 8th process")


@ray
@pytest.mark.survival
def test_the_watchdogs_own_limit(tmp_path: Path, lake: Path, arrange: Arrange, row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CDAL_HANG_SECONDS")
    accidents = arrange(at("step", "hang", trials=[1], step=2))
    arguments = ("--space", tiny(tmp_path, epochs=2, steps=2), "--storage", lake, "--name", "a", "--scheduler", "none")
    with start(*arguments, "--trials", 2) as process:
        wait_for(lambda: accidents.happened or process.poll() is not None)
        hung = accidents.happened[0]
        while _lives(hung.process):
            time.sleep(0.1)
        noticed = time.time() - hung.time
        output = finish(process)
    assert process.returncode == 0, output
    assert faults_in(lake, "a", 2) == []
    assert noticed < 75
    row("a hang, by the watchdog's own limit", "noticed within max(60 s, 3 x the median epoch)", f"killed after {noticed:.0f} s")


@ray
@pytest.mark.survival
def test_a_loss_and_a_hang_in_the_second_of_two_workers(tmp_path: Path, lake: Path, arrange: Arrange, row: Row) -> None:
    arrange(
        at("step", "kill", trials=[0], step=2, rank=1),
        at("step", "hang", trials=[1], step=2, rank=1),
        at("step", "oom", trials=[2], step=2, rank=1, times=ALWAYS),
    )
    arguments = ("--space", tiny(tmp_path, epochs=2, steps=2), "--storage", lake, "--name", "a", "--scheduler", "none")
    status, output = search(*arguments, "--trials", 3, "--workers-per-trial", 2, seconds=400)
    table = ended(lake)
    assert status == 0, output
    assert faults_in(lake, "a", 3) == []
    assert table["status"].tolist() == ["finished", "finished", "infeasible"], output
    row("one of two workers is killed", "the group is tried again", "finished")
    row("one of two workers hangs", "noticed; the group is tried again", "finished")
    row("out of memory in the training of the second", "the group ends within seconds; infeasible", "infeasible: setting")


@ray
@pytest.mark.survival
def test_waiting_for_a_machine_is_not_booked(tmp_path: Path, lake: Path, arrange: Arrange, row: Row) -> None:
    arrange(at("step", "slow", times=ALWAYS, seconds=1))
    arguments = ("--space", tiny(tmp_path, epochs=4, steps=1), "--storage", lake, "--name", "a", "--scheduler", "pbt")
    began = time.time()
    status, output = search(*arguments, "--trials", 6)  # all are proposed at once
    table, wall = ended(lake), time.time() - began
    assert status == 0, output
    assert faults_in(lake, "a", 6) == []
    slots = len(os.sched_getaffinity(0))
    assert table["seconds"].sum() < wall * slots
    assert table["waiting_seconds"].max() > 5
    row(
        "6 trials wait for 2 places",
        "waiting is not booked",
        f"{table['seconds'].sum():.0f} s booked in {wall:.0f} s; {table['waiting_seconds'].sum():.0f} s of waiting apart",
    )


@ray
@pytest.mark.survival
def test_a_driver_killed_with_rays_processes_at_work(tmp_path: Path, lake: Path, arrange: Arrange, row: Row) -> None:
    arrange()
    arguments = ("--space", tiny(tmp_path, epochs=60), "--storage", lake, "--name", "a", "--scheduler", "none", "--trials", 4)
    with start(*arguments) as driver:
        wait_for(lambda: rows_of(lake, "metrics") or driver.poll() is not None)
        driver.kill()
    for _ in range(2):
        before = rows_of(lake, "metrics")
        with start("--resume", "a", "--storage", lake) as driver:
            wait_for(lambda before=before: rows_of(lake, "metrics") > before or driver.poll() is not None)
            driver.kill()
    status, output = search("--resume", "a", "--storage", lake)
    assert status == 0, output
    assert faults_in(lake, "a", 4) == []
    assert set(ended(lake)["status"]) == {"finished"}
    row(
        "a driver killed three times over, with Ray", "--resume goes on each time", "all 4 trials finished, nothing lost or doubled"
    )


@ray
@pytest.mark.survival
def test_data_that_one_of_two_machines_lacks(tmp_path: Path, lake: Path, arrange: Arrange, row: Row) -> None:
    busy = at("step", "slow", times=2, seconds=15, host="a")  # so that the place on the other is not free at once
    accidents = arrange(at("dataset", "gone", trials=[0, 1], times=ALWAYS, host="b"), busy)
    data = two_folders(tmp_path / "data", count=10)
    arguments = ("--space", own(tmp_path, epochs=2), "--data", data, "--storage", lake, "--scheduler", "none")
    with two_machines() as cluster:
        status, output = search(*arguments, "--address", cluster.address, "--name", "a", "--trials", 3, seconds=400)
    assert any(accident.number == 0 for accident in accidents.happened)
    assert status == 0, output
    assert faults_in(lake, "a", 3) == []
    assert set(ended(lake)["status"]) == {"finished"}, output
    row("data that only one of two machines lacks", "tried again on the other", "finished there")


@ray
@pytest.mark.survival
def test_another_machine_takes_over(tmp_path: Path, lake: Path, arrange: Arrange, row: Row) -> None:
    """Of two, each with a place for one trial; the second breaks processes, is drained, and is lost in the end."""
    slowly = at("step", "slow", times=ALWAYS, seconds=0.3, host="b")  # what is lost there shall be at work
    accidents = arrange(at("step", "poison", trials=[0, 1], times=2, host="b"), slowly)
    data = two_folders(tmp_path / "data", count=10)
    arguments = ("--space", own(tmp_path, epochs=2), "--data", data, "--storage", lake, "--scheduler", "none")
    with two_machines() as cluster:
        status, output = search(*arguments, "--address", cluster.address, "--name", "a", "--trials", 3, seconds=400)
        assert status == 0, output
        assert faults_in(lake, "a", 3) == []
        assert set(ended(lake)["status"]) == {"finished"}, output
        assert any(accident.number == 0 for accident in accidents.happened)
        row("a machine that breaks every process", "after two faults the trial goes elsewhere", "finished there")

        arguments = ("--space", own(tmp_path, epochs=60), "--data", data, "--storage", lake, "--scheduler", "none")
        for name, loss in (("b", cluster.drain), ("c", cluster.lose)):
            before = rows_of(lake, "metrics")
            with start(*arguments, "--address", cluster.address, "--name", name, "--trials", 3) as driver:
                wait_for(lambda before=before: rows_of(lake, "metrics") > before + 10 or driver.poll() is not None)
                loss("b")
                output = finish(driver, 300)
            assert driver.returncode == 0, output
            assert faults_in(lake, name, 3) == []
            assert set(ended(lake, name)["status"]) == {"finished"}, output
            assert ended(lake, name)["attempts"].max() > 1
            cluster.lose("b")
            if name == "b":
                cluster.start("b")
    row("a machine that is about to be taken away", "its trial leaves at the next step", "finished elsewhere, in its 2nd process")
    row("a machine that is lost", "its trial goes on elsewhere", "finished elsewhere, in its 2nd process")


@pytest.mark.survival
def test_a_driver_that_slept_through_its_lease(
    tmp_path: Path, s3: Bucket, arrange: Arrange, row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"{s3.address}/lake"
    monkeypatch.setenv("CDAL_CACHE", str(tmp_path / "cache"))
    arguments = ("--space", tiny(tmp_path, epochs=400), "--storage", place, "--trials", 2, "--scheduler", "none", "--name", "a")
    with start(*arguments, script=ONE_PROCESS) as sleeper:
        wait_for(lambda: rows_of(place, "metrics") or sleeper.poll() is not None)
        sleeper.send_signal(signal.SIGSTOP)
        monkeypatch.setenv("CDAL_CACHE", str(tmp_path / "cache of another machine"))
        arrange(at("identity", "elsewhere", trials=[], times=ALWAYS))
        with start("--resume", "a", "--storage", place, script=ONE_PROCESS) as successor:
            before = rows_of(place, "metrics")
            wait_for(lambda: rows_of(place, "metrics") > before or successor.poll() is not None)
            assert successor.poll() is None, successor.communicate()[0]
            sleeper.send_signal(signal.SIGCONT)
            slept = finish(sleeper)
            output = finish(successor)
    assert sleeper.returncode not in (0, None), slept
    assert "Traceback" not in slept
    assert successor.returncode == 0, output
    assert faults_in(place, "a", 2) == []
    row("a driver that slept while another took over", "it notices and ends in a sentence", slept.strip().splitlines()[-1][:100])


def _lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
