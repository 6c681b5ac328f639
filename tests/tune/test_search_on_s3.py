"""Searches whose results and checkpoints lie in an object store, which fails now and then, and whose driver is lost."""

import json
import os
import shutil
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from patience import finish, wait_for
from s3 import Bucket
from searches import assert_whole, here, rows_of, start, tiny, trials

from cdal.checkpoint import load_model
from tune import search
from tune.lake import driver as driver_of_an_experiment
from tune.results import load

pytestmark = pytest.mark.long

ONE_PROCESS = "tests/support/one_process.py"


@pytest.fixture(autouse=True)
def working_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What this machine keeps of the store."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("CDAL_CACHE", str(folder))
    return folder


def test_a_store_that_is_away_twice_costs_no_row(tmp_path: Path, s3: Bucket, working_copies: Path) -> None:
    lake = f"{s3.address}/lake"
    arguments = ("--space", tiny(tmp_path, epochs=30), "--trials", 2, "--storage", lake, "--name", "first", "--scheduler", "none")
    with start(*arguments, script=ONE_PROCESS) as driver:
        for seconds in 30, 10:
            seen = rows_of(lake, "metrics")
            wait_for(lambda seen=seen: rows_of(lake, "metrics") > seen)
            with s3.service.away():
                time.sleep(seconds)
        output = finish(driver)
    assert driver.returncode == 0, output
    assert_whole(lake, "first", 2, epochs=30)
    best = trials(lake, "first")["checkpoint"]
    for number, path in enumerate(best):
        (tmp_path / "best.safetensors").write_bytes(s3.get(f"lake/{path}"))
        config, _ = load_model(tmp_path / "best.safetensors")
        assert config.training.epochs == 30, number
    assert json.loads(s3.get("lake/first/tune/driver/000001.json"))["ended"]
    assert [path for path in working_copies.rglob("*") if path.suffix == ".safetensors"] == []


def test_another_machine_goes_on_from_the_store_alone(
    tmp_path: Path, s3: Bucket, working_copies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = f"{s3.address}/lake"
    space = tiny(tmp_path, epochs=8)
    arguments = ("--space", space, "--trials", 3, "--storage", lake, "--name", "first", "--scheduler", "none")
    with start(*arguments, "--max-concurrent", 1, script=ONE_PROCESS) as driver:
        wait_for(lambda: "lake/first/tune/00001/last.safetensors" in s3.keys and rows_of(lake, "metrics") > 9, 300)
        driver.kill()
    shutil.rmtree(working_copies)
    before = load(lake).metrics(["train_seconds"]).to_pandas().set_index(["trial_id", "epoch"])["train_seconds"]

    sign = "lake/first/tune/driver/000001.json"
    s3.put(sign, json.dumps(json.loads(s3.get(sign)) | {"boot": "of a machine that is gone"}).encode())
    monkeypatch.setattr(driver_of_an_experiment, "_SILENCE_SECONDS", 3)
    assert any("waiting 3 s" in line for line in here("--resume", "first", "--storage", lake))
    assert_whole(lake, "first", 3, epochs=8)
    after = load(lake).metrics(["train_seconds"]).to_pandas().set_index(["trial_id", "epoch"])["train_seconds"]
    again = [key for key, seconds in before.items() if after[key] != seconds]
    assert len(again) < len(before) - 8, "the trial that was cut began anew"
    assert {trial for trial, _ in again} <= {"00001"}


def test_a_search_does_not_start_where_it_cannot_write(s3: Bucket, capsys: pytest.CaptureFixture[str]) -> None:
    assert search.main(["--storage", f"{s3.address}-of-another/lake"]) == 2
    captured = capsys.readouterr()
    assert "has no bucket named" in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out


def test_two_drivers_on_two_machines_do_not_share_an_experiment(
    tmp_path: Path, s3: Bucket, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = f"{s3.address}/lake"
    here("--space", tiny(tmp_path, epochs=1), "--trials", 2, "--storage", lake, "--name", "first")
    sign = "lake/first/tune/driver.json"  # as earlier releases give signs of life
    s3.put(sign, b'{"host": "elsewhere", "sign": 1}')
    slept = iter([lambda: None, lambda: s3.put(sign, b'{"host": "elsewhere", "sign": 2}')])
    monkeypatch.setattr(driver_of_an_experiment, "time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: next(slept)()))
    assert search.main(["--resume", "first", "--storage", lake, "--trials", "3"]) == 2
    captured = capsys.readouterr()
    assert "it runs on elsewhere" in captured.err
    assert captured.err.count("\n") == 1
    assert socket.gethostname() not in captured.err


def test_a_torn_checkpoint_does_not_keep_a_search_from_going_on(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    folder = lake / "first" / "tune" / "00000"
    arguments = ("--space", tiny(tmp_path, epochs=40), "--trials", 1, "--storage", lake, "--name", "first", "--scheduler", "none")
    with start(*arguments, script=ONE_PROCESS) as driver:
        wait_for(lambda: (folder / "previous.safetensors").is_file())
        driver.kill()
    os.truncate(folder / "last.safetensors", 1000)
    with pytest.warns(UserWarning, match="last.safetensors is not a readable checkpoint"):
        here("--resume", "first", "--storage", lake)
    assert_whole(lake, "first", 1, epochs=40)
    assert trials(lake, "first")["status"].tolist() == ["finished"]
