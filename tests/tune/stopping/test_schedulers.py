"""Which trials are stopped early. Without a running Ray."""

import math
from collections.abc import Mapping

import pytest

from cdal.errors import InputError
from tune.lake.status import PUBLISHED, SEARCHED, UNET
from tune.proposing import Outcome, Proposal
from tune.stopping import SCHEDULERS, EarlyStopping, grace_epochs, make_scheduler


class FakeTrial:
    def __init__(self, number: int, kind: str = SEARCHED) -> None:
        self.config = {"number": number, "kind": kind}


def decide(scheduler: EarlyStopping, dice: Mapping[int, float], epoch: int = 1) -> dict[int, str]:
    """Decisions on trials that report in turn."""
    return {
        number: scheduler.on_trial_result(None, FakeTrial(number), {"curve": [(epoch, value)]}) for number, value in dice.items()
    }


def count_stopped(name: str, dice: Mapping[int, float]) -> int:
    return sum(decision == "STOP" for decision in decide(make_scheduler(name, epochs=27, grace=1, startup=4), dice).values())


def test_asha_stops_the_slow_but_no_control() -> None:
    asha = make_scheduler("asha", epochs=9, grace=1, startup=4)
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
    asha = make_scheduler("asha", epochs=9, grace=1, startup=4)
    asha.replay(earlier)
    assert asha.on_trial_result(None, FakeTrial(4), {"curve": [(2, 0.1)]}) == "CONTINUE"  # that rung was decided before the cut
    assert asha.on_trial_result(None, FakeTrial(5), {"curve": [(1, 0.2)]}) == "STOP"
    assert asha.on_trial_result(None, FakeTrial(6), {"curve": [(1, 0.95)]}) == "CONTINUE"


def test_of_equal_dice_the_loss_decides_before_and_after_a_cut() -> None:
    losses = {2: 0.9, 3: 0.5, 4: 0.7, 5: 0.4}
    asha = make_scheduler("asha", epochs=9, grace=1, startup=4)
    asha.replay([Outcome(Proposal(number, SEARCHED, {}), None, [(1, 0.0)], losses={1: loss}) for number, loss in losses.items()])
    for number, loss, expected in ((6, 0.8, "STOP"), (7, 0.3, "CONTINUE"), (8, math.nan, "STOP")):
        assert asha.on_trial_result(None, FakeTrial(number), {"curve": [(1, 0.0)], "losses": {1: loss}}) == expected


@pytest.mark.parametrize(("name", "grace"), [("asha", 1), ("hedged", 1), ("hyperband", 1), ("median", 6), ("pbt", 6), ("none", 6)])
def test_halving_begins_after_one_epoch_however_long_trainings_are(name: str, grace: int) -> None:
    assert grace_epochs(name, 50) == grace
    assert grace_epochs(name, 5) == 1


def test_hedged_lets_every_fourth_trial_of_the_sampler_run_to_its_end() -> None:
    hedged = make_scheduler("hedged", epochs=9, grace=1, startup=6)
    decisions = decide(hedged, {2: 0.9, 3: 0.8, 4: 0.7, 5: 0.6, 6: 0.5, 7: 0.4, 8: 0.3, 9: 0.2})
    assert [number for number, decision in decisions.items() if decision == "STOP"] == [3, 4, 5, 6, 7, 9]
    for epoch in range(2, 10):
        assert hedged.on_trial_result(None, FakeTrial(8), {"curve": [(epoch, 0.3)]}) == "CONTINUE"
    assert hedged.on_trial_result(None, FakeTrial(11), {"curve": [(1, 0.95)]}) == "CONTINUE"


def test_the_median_rule_stops_what_is_below_the_others() -> None:
    rule = make_scheduler("median", epochs=9, grace=1, startup=4)
    assert decide(rule, {2: 0.5, 3: 0.6, 4: 0.7, 5: 0.1, 6: 0.65}) == {
        2: "CONTINUE", 3: "CONTINUE", 4: "CONTINUE", 5: "STOP", 6: "CONTINUE",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["hedged", "asha", "hyperband", "median"])
def test_published_settings_that_fall_behind_go_on_to_their_end(name: str) -> None:
    rule = make_scheduler(name, epochs=9, grace=1, startup=4)
    decide(rule, {2: 0.9, 3: 0.9, 4: 0.9, 5: 0.9})
    for epoch in range(1, 10):
        assert rule.on_trial_result(None, FakeTrial(0, PUBLISHED), {"curve": [(epoch, 0.1)]}) == "CONTINUE"


def test_hyperband_lets_some_trials_run_longer_before_the_first_cut() -> None:
    dice = {number: 1 - 0.01 * number for number in range(2, 62)}  # each worse than all before it
    stopped = {name: count_stopped(name, dice) for name in ("asha", "hyperband")}
    assert stopped["asha"] == 59  # all but the first, which there is nothing to compare with
    assert 20 < stopped["hyperband"] < 50
    assert count_stopped("hyperband", dice) == stopped["hyperband"]  # brackets are drawn by number


def test_none_stops_nothing() -> None:
    assert set(decide(make_scheduler("none", epochs=9, grace=1, startup=4), {2: 0.9, 3: 0.1, 4: 0.0}).values()) == {"CONTINUE"}


def test_an_unknown_scheduler_is_told() -> None:
    with pytest.raises(InputError, match=r"--scheduler is 'asah'; schedulers are asha, hedged, hyperband, median, pbt, none"):
        make_scheduler("asah", epochs=9, grace=1, startup=4)
    assert all(scheduler.advice for scheduler in SCHEDULERS.values())
