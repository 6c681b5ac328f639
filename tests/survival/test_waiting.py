"""Nothing waits for ever: what hangs, and deadlines. Promised in docs/survival.md."""

import os
import time
from datetime import datetime
from pathlib import Path

import pytest
from accidents import at
from books import faults_in
from runs import ALWAYS, Arrange, Row, ended, log_of, search
from searches import tiny

from tune.results import load

pytestmark = pytest.mark.long
ray = pytest.mark.ray


@ray
@pytest.mark.usefixtures("impatient")
def test_what_hangs_is_noticed_killed_and_tried_again(tmp_path: Path, lake: Path, arrange: Arrange, row: Row) -> None:
    _assert_noticed(["hang in step", "stop in validation", "hang in dataset", "hang in scoring"], tmp_path, lake, arrange, row)


@ray
@pytest.mark.survival
@pytest.mark.usefixtures("impatient")
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
    assert (table["attempts"] >= 2).all()
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
    told = table["epochs"].fillna(0) > 0  # on a busy machine the time may run out before a first epoch
    assert status == (0 if told.any() else 1), output
    assert table["status"].tolist() == ["stopped" if epoch else "interrupted" for epoch in told], output
    assert set(table["reason"]) == {"the time budget was used up"}
    cut = [f"trial {number} (interrupted: the time budget was used up) has no end" for number in table.index[~told]]
    assert faults_in(lake, "a", len(table)) == cut  # it goes on, should there be more time
    held = (table["ended_at"] - table["started_at"]).dt.total_seconds().fillna(0)
    assert (table["seconds"] > held - 5).all()  # silence is booked too
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
