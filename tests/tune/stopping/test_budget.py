"""When the time or the GPU-hours are up."""

from types import SimpleNamespace
from typing import Any

import pytest

from tune.stopping import Budget
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
    assert not budget("a", {"epoch": 1, "time_this_iter_s": 60.0})
    assert not budget.over
    assert budget("b", {"epoch": 1, "time_this_iter_s": 95.0})
    assert not budget("c", {"epoch": 4, "time_this_iter_s": 95.0})  # only its scoring is left, for which time is kept
    assert not budget("d", {"done": True, "time_this_iter_s": 95.0})
    assert budget.stopped == {"b": TIME_IS_UP}
    assert not budget.stop_all()
    short = Budget(seconds=60.0, epochs=4)
    assert short("a", {"epoch": 1, "time_this_iter_s": 58.0})
    assert short.over  # what is left is too short for an epoch of a new trial


def test_a_trial_that_waits_is_turned_away_when_there_is_no_room_for_an_epoch() -> None:
    trials = [SimpleNamespace(trial_id=status, status=status) for status in ("RUNNING", "PENDING", "PAUSED")]
    stopped: list[Any] = []
    tune = SimpleNamespace(get_live_trials=lambda: trials, stop_trial=stopped.append)
    budget = Budget(seconds=100.0, epochs=16, least=2)
    budget.turn_away(tune)
    for seconds in (1.0, 2.0, 80.0):
        budget("RUNNING", {"epoch": 1, "time_this_iter_s": seconds})
    budget.turn_away(tune)
    assert not budget.over
    assert not stopped
    for seconds in (40.0, 46.0, 47.0, 48.0):  # 46 is the usual epoch now, and 90 seconds are left
        budget("RUNNING", {"epoch": 1, "time_this_iter_s": seconds})
    budget.turn_away(tune)
    assert budget.over  # no room for two
    assert not stopped
    for seconds in range(91, 99):
        budget("RUNNING", {"epoch": 16, "time_this_iter_s": float(seconds)})
    budget.turn_away(tune)
    assert stopped == trials[1:]
    assert budget.stopped == {"PENDING": TIME_IS_UP, "PAUSED": TIME_IS_UP}


def test_gpu_hours_are_counted_over_all_trials_and_sessions() -> None:
    budget = Budget(seconds=None, epochs=4, gpu_hours=1.0, gpus=2, spent=0.5)
    assert budget.gpu_hours_left == pytest.approx(0.4)  # a tenth is kept for scoring
    assert not budget("a", {"epoch": 1, "time_this_iter_s": 180.0})  # 0.1 GPU-hours
    assert not budget("b", {"epoch": 1, "time_this_iter_s": 180.0})
    assert not budget.over
    assert budget("a", {"epoch": 2, "time_this_iter_s": 270.0})
    assert budget.spent == pytest.approx(0.85)
    assert budget.stopped == {"a": GPU_HOURS_ARE_UP}
    assert budget.over
    assert not Budget(seconds=None, epochs=4, gpus=2).over
