"""When the time or the GPU-hours are up."""

from types import SimpleNamespace
from typing import Any

import pytest

from tune.stopping import Budget, Ledger, budget, ledger
from tune.stopping.budget import GPU_HOURS_ARE_UP, TIME_IS_UP


def test_time_is_kept_for_the_final_scoring() -> None:
    assert not Budget(seconds=None, epochs=4).over
    assert Budget(seconds=0.0, epochs=4).over
    budget = Budget(seconds=100.0, epochs=4)
    assert budget.left == pytest.approx(90, abs=1)
    budget.saw_scoring(20.0)
    assert budget.left == pytest.approx(70, abs=1)


def test_trials_that_have_no_time_for_another_epoch_are_stopped() -> None:
    budget = Budget(seconds=100.0, epochs=4)
    assert not budget("a", {"epoch": 1, "dice": 0.5, "time_this_iter_s": 60.0})
    assert not budget.over
    assert budget("b", {"epoch": 1, "dice": 0.5, "time_this_iter_s": 95.0})
    assert not budget("c", {"epoch": 4, "dice": 0.5, "time_this_iter_s": 95.0})  # only its scoring is left, for which time is kept
    assert not budget("d", {"done": True, "time_this_iter_s": 95.0})
    assert budget.stopped == {"b": TIME_IS_UP}
    assert not budget.stop_all()
    short = Budget(seconds=60.0, epochs=4)
    assert short("a", {"epoch": 1, "dice": 0.5, "time_this_iter_s": 58.0})
    assert short.over  # what is left is too short for an epoch of a new trial


def test_a_trial_that_waits_is_turned_away_when_there_is_no_room_for_an_epoch() -> None:
    trials = [SimpleNamespace(trial_id=status, status=status) for status in ("RUNNING", "PENDING", "PAUSED")]
    stopped: list[Any] = []
    tune = SimpleNamespace(get_live_trials=lambda: trials, stop_trial=stopped.append)
    budget = Budget(seconds=100.0, epochs=16, least=2)
    budget.turn_away(tune)
    for seconds in (1.0, 2.0, 80.0):
        budget("RUNNING", {"epoch": 1, "dice": 0.5, "time_this_iter_s": seconds})
    budget.turn_away(tune)
    assert not budget.over
    assert not stopped
    for seconds in (40.0, 46.0, 47.0, 48.0):  # 46 is the usual epoch now, and 90 seconds are left
        budget("RUNNING", {"epoch": 1, "dice": 0.5, "time_this_iter_s": seconds})
    budget.turn_away(tune)
    assert budget.over  # no room for two
    assert not stopped
    for seconds in range(91, 99):
        budget("RUNNING", {"epoch": 16, "dice": 0.5, "time_this_iter_s": float(seconds)})
    budget.turn_away(tune)
    assert stopped == trials[1:]
    assert budget.stopped == {"PENDING": TIME_IS_UP, "PAUSED": TIME_IS_UP}


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        for module in (budget, ledger):
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))


def epoch(number: int, seconds: float) -> dict[str, Any]:
    return {"epoch": number, "dice": 0.5, "time_this_iter_s": seconds}


def test_gpu_hours_are_counted_over_all_trials_and_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, books = Clock(monkeypatch), Ledger({0: 900.0})
    limits = Budget(seconds=None, epochs=4, gpu_hours=1.0, gpus=2, ledger=books)
    assert limits.gpu_hours_left == pytest.approx(0.4)  # half is spent, and a tenth is kept for scoring
    clock.now = 5000.0  # nobody has a machine
    books.begin(1)
    books.begin(2)
    clock.now += 90.0
    assert not limits("a", epoch(1, 90.0))
    assert limits.spent == pytest.approx(0.6)
    assert not limits.over
    clock.now += 180.0
    books.end(2)  # its process was killed
    limits.lost("b")
    assert limits.spent == pytest.approx(0.8)
    assert limits("a", epoch(2, 180.0))  # another of 180 seconds would be 0.1, and 0.1 is left
    assert limits.stopped == {"a": GPU_HOURS_ARE_UP}
    assert limits.over
    assert not Budget(seconds=None, epochs=4, gpus=2).over


def test_epochs_of_others_that_are_under_way_have_a_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, books = Clock(monkeypatch), Ledger()
    limits = Budget(seconds=None, epochs=9, gpu_hours=1.0, gpus=1, ledger=books)
    limits.saw_scoring(0.0)
    books.begin(1)
    books.begin(2)
    clock.now = 900.0
    assert not limits("a", epoch(1, 900.0))
    assert limits("b", epoch(1, 900.0))  # half an hour is left, and that is what both would take
    assert not limits("a", {"epoch": 1, "time_this_iter_s": 3.0})


def test_a_deadline_does_not_wait_for_the_end_of_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    limits = Budget(seconds=100.0, epochs=4)
    alive = {"epoch": 0, "time_this_iter_s": 3.0}
    assert not limits("a", alive)
    clock.now = 90.0
    assert limits("a", alive)
    assert not limits("scored", alive | {"epoch": 4})  # for this time is kept
    clock.now = 100.0
    assert limits("scored", alive | {"epoch": 4})
    assert limits.stopped == {"a": TIME_IS_UP, "scored": TIME_IS_UP}


def test_people_may_give_more() -> None:
    limits = Budget(seconds=10.0, epochs=4, gpu_hours=1.0, gpus=1, ledger=Ledger({0: 3600.0}))
    assert limits.over
    limits.extend(seconds=90.0, gpu_hours=9.0)
    assert not limits.over
    assert limits.left == pytest.approx(90, abs=1)


def test_what_was_used_above_the_budget_is_told() -> None:
    assert Budget(seconds=None, epochs=4, gpu_hours=1.0, gpus=1, ledger=Ledger({0: 3600.0})).overdrawn is None
    said = Budget(seconds=None, epochs=4, gpu_hours=1.0, gpus=1, ledger=Ledger({0: 3960.0})).overdrawn
    assert said == "1.1 GPU-hours were used, of a budget of 1"
