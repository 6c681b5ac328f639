"""The rule that ends a search when it no longer pays."""

import numpy as np
import pytest

from tune.stopping import why_enough
from tune.stopping.improvement import LEAST_TRIALS, expected_gain


def test_few_trials_say_too_little() -> None:
    assert expected_gain([0.5] * (LEAST_TRIALS - 1)) is None
    assert why_enough([0.5] * (LEAST_TRIALS - 1), 0.1) is None


def test_the_gain_is_what_more_draws_of_the_same_kind_bring() -> None:
    rng = np.random.default_rng(1)
    dice = (0.7 + 0.05 * rng.standard_normal((200, 60))).clip(0, 1)
    told = [expected_gain(row.tolist()) for row in dice]
    came = np.maximum((0.7 + 0.05 * rng.standard_normal((200, 10))).max(axis=1) - dice.max(axis=1), 0)
    assert np.mean([gain for gain in told if gain is not None]) == pytest.approx(came.mean(), rel=0.5)


def test_a_search_that_rises_goes_on_and_one_that_settled_ends() -> None:
    rising = [0.5 + 0.005 * number for number in range(60)]
    settled = [*rising, *[0.795 + 0.0001 * (number % 3) for number in range(60)]]
    assert why_enough(rising, 0.001) is None
    reason = why_enough(settled, 0.001)
    assert reason is not None
    assert "less than 0.001" in reason
