"""A search that was cut is the search that goes on. Promised in docs/survival.md."""

import os
import time
from pathlib import Path

import pandas as pd
import pytest
from accidents import at
from books import faults_in
from patience import finish, wait_for
from runs import ALWAYS, ONE_PROCESS, Arrange, Row, ended, search
from s3 import Bucket
from searches import here, rows_of, start, tiny

from cdal.training import LAST

pytestmark = pytest.mark.long
ray = pytest.mark.ray


def test_a_killed_driver_a_torn_checkpoint_and_a_second_driver(tmp_path: Path, lake: Path, arrange: Arrange, row: Row) -> None:
    space = tiny(tmp_path, epochs=9)
    arrange(at("step", "slow", trials=[3], times=ALWAYS, seconds=5))  # it shall not be over before it is killed
    arguments = ("--space", space, "--storage", lake, "--trials", 5, "--max-concurrent", 1, "--sampler", "quasirandom")
    arguments += ("--scheduler", "none", "--min-improvement", 0)
    folder = lake / "a" / "tune" / "00003"
    with start(*arguments, "--name", "a", script=ONE_PROCESS) as driver:
        wait_for(lambda: (folder / LAST).exists() or driver.poll() is not None)
        status, refused = search("--resume", "a", "--storage", lake, script=ONE_PROCESS)
        assert driver.poll() is None
        driver.kill()
    assert status == 2, refused
    assert refused.startswith("error: another search is running")
    arrange()
    for path in folder.glob("*.safetensors"):
        if path.name != "best.safetensors":
            os.truncate(path, 1000)
    status, output = search("--resume", "a", "--storage", lake, "--max-concurrent", 0, script=ONE_PROCESS)
    assert status == 2, output
    assert output.count("\n") == 1, output
    row("--resume with nothing to run on", "refused as at the first start", "status 2, one sentence")
    status, output = search("--resume", "a", "--storage", lake, script=ONE_PROCESS)
    assert status == 0, output
    assert faults_in(lake, "a", 5) == []
    assert set(ended(lake)["status"]) == {"finished"}
    assert "begins again with epoch 1" in output
    row("a driver killed", "--resume goes on; nothing lost, nothing doubled", "all 5 trials finished")
    row("both checkpoints of a trial torn", "it starts again, and says so", "finished")
    here(*arguments, "--name", "uncut")
    settings = [name for name in ended(lake).columns if name.startswith("config.")]
    pd.testing.assert_frame_equal(ended(lake)[settings], ended(lake, "uncut")[settings])
    assert refused.count("\n") == 1, refused
    row("two drivers at once", "the second is kept out", "status 2, one sentence")
    row("a sampler that is cut", "proposes what the uncut one would", "5 of 5 proposals equal (quasirandom)")


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
