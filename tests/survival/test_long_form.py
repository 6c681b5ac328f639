"""The long form, left out unless asked for. Promised in docs/survival.md."""

import os
import signal
import time
from pathlib import Path

import pytest
from accidents import at
from books import faults_in
from machines import two_machines
from own_folders import two_folders
from patience import finish, wait_for
from runs import ALWAYS, ONE_PROCESS, Arrange, Row, ended, own, search
from s3 import Bucket
from searches import rows_of, start, tiny

pytestmark = pytest.mark.long
ray = pytest.mark.ray


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
    monkeypatch.delenv("CDAL_HANG_SECONDS", raising=False)
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
    assert noticed < 70
    row("a hang, by the watchdog's own limit", "noticed within max(60 s, 3 x the median epoch)", f"killed after {noticed:.0f} s")


@ray
@pytest.mark.survival
@pytest.mark.usefixtures("impatient")
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
