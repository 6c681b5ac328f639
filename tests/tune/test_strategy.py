"""What Optuna is told, what ASHA stops, when the time is up. Without a running Ray."""

from __future__ import annotations

from typing import Any

import pytest
from optuna.trial import TrialState

from cdal.errors import InputError
from tune.space import Space, parse
from tune.strategy import (
    PUBLISHED,
    SEARCHED,
    UNET,
    Asha,
    Deadline,
    Outcome,
    Proposal,
    Queue,
    Study,
    TruthfulSearcher,
    startup_trials,
)


def space() -> Space:
    return parse(
        {
            "dataset": "phantom",
            "fixed": {"training.epochs": 4},
            "parameters": {
                "diffusion.timesteps": {"values": [1, 2, 4]},
                "loss.attention": {"min": 0.0, "max": 1.0},
                "model.width_multipliers": {"values": [[1, 1], [1, 2, 2, 2]]},
            },
        },
        "test.yaml",
    )


def study() -> Study:
    return Study(space(), seed=0, startup=4)


def searcher(queue: Queue, refused: list[int] | None = None) -> TruthfulSearcher:
    return TruthfulSearcher(
        queue,
        lambda proposal: {"number": proposal.number},
        lambda proposal, why: (refused or []).append(proposal.number),
        lambda: False,
    )


class FakeTrial:
    def __init__(self, number: int, kind: str = SEARCHED) -> None:
        self.config = {"number": number, "kind": kind}


def told(found: Study) -> list[tuple[TrialState, float | None, dict[int, float]]]:
    return [(trial.state, trial.value, trial.intermediate_values) for trial in found.optuna.trials]


def test_optuna_is_told_the_truth() -> None:
    found = study()
    tune = searcher(Queue.start(space(), found, 6))
    for name in "abcdef":
        assert tune.suggest(name)["number"] == "abcdef".index(name)
    for name, epochs in {"a": 4, "b": 4, "c": 2, "e": 1}.items():
        for epoch in range(1, epochs + 1):
            tune.on_trial_result(name, {"curve": [(epoch, 0.1 * epoch)]})
    tune.on_trial_complete("a", {"status": "finished"})
    tune.on_trial_complete("b", {"status": "finished"})
    tune.on_trial_complete("c", {"curve": [(3, 0.3)]})  # stopped by the scheduler: Tune hands over its last report
    tune.on_trial_complete("d", {"status": "diverged"})
    tune.on_trial_complete("e", error=True)
    published, stopped, diverged, crashed, running = told(found)  # the U-Net, b, is none of Optuna's business
    assert published == (TrialState.COMPLETE, pytest.approx(0.4), pytest.approx({1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4}))
    assert stopped == (TrialState.PRUNED, pytest.approx(0.3), pytest.approx({1: 0.1, 2: 0.2, 3: 0.3}))
    assert diverged == (TrialState.FAIL, None, {})
    assert crashed[0] == TrialState.FAIL
    assert running[0] == TrialState.RUNNING


def test_not_a_number_is_a_failure() -> None:
    found = study()
    found.propose(2)
    found.report(2, [(1, float("nan"))])
    found.end(2, TrialState.COMPLETE)
    assert told(found) == [(TrialState.FAIL, None, {})]


def test_controls_come_first_and_numbers_are_consecutive() -> None:
    queue = Queue.start(space(), study(), 5)
    proposals = [queue.next() for _ in range(6)]
    assert [proposal and (proposal.number, proposal.kind) for proposal in proposals] == [
        (0, PUBLISHED), (1, UNET), (2, SEARCHED), (3, SEARCHED), (4, SEARCHED), None,
    ]  # fmt: skip
    assert queue.empty
    assert Queue.start(space(), study(), 1).waiting == [Proposal(0, PUBLISHED, space().published)]


def test_published_values_outside_the_space_run_but_are_not_told() -> None:
    outside = parse({"dataset": "phantom", "parameters": {"diffusion.timesteps": {"values": [1, 2]}}}, "test.yaml")
    found = Study(outside, seed=0, startup=4)
    queue = Queue.start(outside, found, 4)
    assert queue.next() == Proposal(0, PUBLISHED, {"diffusion.timesteps": 4})
    found.report(0, [(1, 0.5)])
    found.end(0, TrialState.COMPLETE)
    assert told(found) == []


def run(queue: Queue, until: int) -> list[Proposal]:
    """One trial after the other, each finished with a Dice that depends on its values alone."""
    proposals = []
    while (proposal := queue.next()) is not None and proposal.number < until:
        queue.study.report(proposal.number, [(1, _dice(proposal))])
        queue.study.end(proposal.number, TrialState.COMPLETE)
        proposals.append(proposal)
    return proposals


def _dice(proposal: Proposal) -> float:
    return 1 - abs(float(proposal.values["loss.attention"]) - 0.3)


def test_a_resumed_search_proposes_what_an_uninterrupted_one_does() -> None:
    whole = run(Queue.start(space(), study(), 14), 14)
    first = run(Queue.start(space(), study(), 14), 8)
    outcomes = [Outcome(proposal, TrialState.COMPLETE, [(1, _dice(proposal))]) for proposal in first]
    rest = run(Queue.start(space(), study(), 14, outcomes), 14)
    assert first + rest == whole


def test_unfinished_trials_are_continued_first() -> None:
    cut = Proposal(3, SEARCHED, {"diffusion.timesteps": 2, "loss.attention": 0.5, "model.width_multipliers": (1, 1)})
    outcomes = [
        Outcome(Proposal(0, PUBLISHED, space().published), TrialState.COMPLETE, [(1, 0.5)]),
        Outcome(Proposal(1, UNET, space().published), TrialState.COMPLETE, [(1, 0.5)]),
        Outcome(cut, None, [(1, 0.2), (2, 0.3)]),
    ]
    found = study()
    queue = Queue.start(space(), found, 6, outcomes)
    assert queue.next() == cut
    following = queue.next()
    assert following is not None
    assert following.number == 4
    assert [state for state, _, _ in told(found)] == [TrialState.COMPLETE, TrialState.RUNNING, TrialState.RUNNING]
    assert told(found)[1][2] == {1: 0.2, 2: 0.3}


def test_values_that_do_not_fit_are_recorded_and_skipped() -> None:
    refused: list[int] = []
    found = study()

    def configure(proposal: Proposal) -> dict[str, Any]:
        if proposal.number == 2:
            raise InputError("no")
        return {"number": proposal.number}

    tune = TruthfulSearcher(
        Queue.start(space(), found, 4), configure, lambda proposal, why: refused.append(proposal.number), lambda: False
    )
    assert [tune.suggest(name) for name in "abcd"] == [{"number": 0}, {"number": 1}, {"number": 3}, "FINISHED"]
    assert refused == [2]
    assert [state for state, _, _ in told(found)] == [TrialState.RUNNING, TrialState.FAIL, TrialState.RUNNING]


def test_asha_stops_the_slow_but_no_control() -> None:
    asha = Asha(epochs=9, grace=1, reduction=3)
    report = {0: 0.9, 2: 0.8, 3: 0.1}
    decisions = {
        number: asha.on_trial_result(None, FakeTrial(number, PUBLISHED if number == 0 else SEARCHED), {"curve": [(1, dice)]})
        for number, dice in report.items()
    }
    assert decisions == {0: "CONTINUE", 2: "STOP", 3: "STOP"}
    assert asha.on_trial_result(None, FakeTrial(0, PUBLISHED), {"curve": [(3, 0.0)]}) == "CONTINUE"
    assert asha.on_trial_result(None, FakeTrial(1, UNET), {"curve": [(1, 0.0)]}) == "CONTINUE"
    assert asha.on_trial_result(None, FakeTrial(4), {"curve": [(9, 0.0)]}) == "CONTINUE"  # its last epoch: let it be scored


def test_asha_goes_on_where_it_was() -> None:
    earlier = [Outcome(Proposal(number, SEARCHED, {}), None, [(1, dice)]) for number, dice in ((2, 0.9), (3, 0.8), (4, 0.1))]
    asha = Asha(epochs=9, grace=1, reduction=3)
    asha.replay(earlier)
    assert asha.on_trial_result(None, FakeTrial(4), {"curve": [(2, 0.1)]}) == "CONTINUE"  # that rung was decided before the cut
    assert asha.on_trial_result(None, FakeTrial(5), {"curve": [(1, 0.2)]}) == "STOP"
    assert asha.on_trial_result(None, FakeTrial(6), {"curve": [(1, 0.95)]}) == "CONTINUE"


def test_the_deadline_keeps_time_for_the_final_scoring() -> None:
    assert not Deadline(None, epochs=4).over
    assert Deadline(0.0, epochs=4).over
    deadline = Deadline(100.0, epochs=4)
    assert deadline.left == pytest.approx(90, abs=1)
    deadline.saw_scoring(20.0)
    assert deadline.left == pytest.approx(70, abs=1)


def test_the_deadline_stops_trials_that_have_no_time_for_another_epoch() -> None:
    deadline = Deadline(100.0, epochs=4)
    assert not deadline("a", {"epoch": 1, "time_this_iter_s": 60.0})
    assert not deadline.over
    assert deadline("b", {"epoch": 1, "time_this_iter_s": 95.0})
    assert not deadline("c", {"epoch": 4, "time_this_iter_s": 95.0})  # only its scoring is left, for which time is kept
    assert not deadline("d", {"done": True, "time_this_iter_s": 95.0})
    assert deadline.stopped == {"b"}
    assert not deadline.stop_all()
    short = Deadline(60.0, epochs=4)
    assert short("a", {"epoch": 1, "time_this_iter_s": 58.0})
    assert short.over  # what is left is too short for an epoch of a new trial


def test_startup_trials_follow_the_size_of_the_search() -> None:
    assert [startup_trials(trials) for trials in (1, 8, 24, 400, None)] == [4, 4, 6, 10, 10]
