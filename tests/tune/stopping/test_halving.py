"""Which trials go on from rung to rung."""

import math

import numpy as np
import pytest

from tune.stopping.halving import Halving


def going_on(dice: list[float], losses: list[float] | None = None, *, epoch: int = 1) -> list[int]:
    """Numbers of the trials that go on from a rung at which they arrive in turn."""
    rule = Halving(27, 1)
    return [n for n, value in enumerate(dice) if rule.goes_on(n, epoch, value, losses[n] if losses else math.inf)]


def test_the_best_third_goes_on() -> None:
    dice = np.random.default_rng(0).random(300).tolist()
    found = going_on(dice)
    assert len(found) == pytest.approx(100, abs=10)
    assert min(dice[n] for n in found if n > 50) > 0.5
    assert max(dice[n] for n in range(50, 300) if n not in found) < 0.8


@pytest.mark.parametrize("losses", [None, [1.0] * 90])
def test_of_equal_trials_a_third_goes_on_too(losses: list[float] | None) -> None:
    assert going_on([0.0] * 90, losses) == list(range(0, 90, 3))


def test_of_equal_trials_those_with_the_lower_loss_go_on() -> None:
    losses = np.random.default_rng(1).permutation(90) / 90
    found = going_on([0.0] * 90, losses.tolist())
    assert 20 < len(found) < 40
    assert np.mean(losses[found]) < 0.3
    assert going_on([0.0, 0.0, 0.1], [0.0, 0.5, 9.0]) == [0, 2]  # Dice comes first


def test_a_floor_that_most_stand_on_saves_nobody() -> None:
    """Nine in ten have Dice 0: all others go on, and no more than a third in all."""
    dice = [0.1 + 0.001 * n if n % 10 == 0 else 0.0 for n in range(300)]
    found = going_on(dice)
    assert {n for n in range(300) if dice[n] > 0} <= set(found)
    assert len(found) <= 101


def test_each_rung_is_decided_once_the_highest_that_was_reached() -> None:
    rule = Halving(27, 1)
    assert rule.goes_on(0, 1, 0.5)
    assert not rule.goes_on(1, 1, 0.4)
    assert rule.goes_on(1, 2, 0.4)  # no rung
    assert rule.goes_on(2, 4, 0.1)  # the first at epoch 3
    assert not rule.goes_on(0, 3, 0.05)
    assert rule.goes_on(0, 4, 0.05)
    assert rule.goes_on(3, 9, 0.0)
    assert rule.goes_on(2, 26, 0.1)
