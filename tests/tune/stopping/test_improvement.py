"""The rule that ends a search when it no longer pays."""

import numpy as np

from tune.stopping import why_enough
from tune.stopping.improvement import LEAST_TRAININGS, LEAST_TRIALS, expected_gain

EPOCHS = 10


def enough(dice: list[float], *, each: int = EPOCHS) -> str | None:
    """What is said of trials that trained `each` epochs, one after the other."""
    progress = np.maximum.accumulate(np.repeat(dice, each)).tolist()
    return why_enough(dice, progress, EPOCHS, 0.001)


RISING = [0.5 + 0.005 * number for number in range(60)]
SETTLED = [*RISING, *[0.795 + 0.0001 * (number % 3) for number in range(60)]]


def test_few_trials_say_too_little() -> None:
    assert expected_gain([0.5] * (LEAST_TRIALS - 1)) is None
    assert enough([0.5] * (LEAST_TRIALS - 1)) is None
    assert enough([0.5] * LEAST_TRIALS) is not None


def test_many_trials_of_few_epochs_say_too_little() -> None:
    count = LEAST_TRAININGS * EPOCHS
    assert enough([0.5] * (count - 1), each=1) is None
    assert enough([0.5] * count, each=1) is not None


def test_the_gain_is_no_less_than_what_more_draws_of_the_same_kind_bring() -> None:
    rng = np.random.default_rng(1)
    dice = (0.7 + 0.05 * rng.standard_normal((200, 60))).clip(0, 1)
    told = np.mean([expected_gain(row.tolist()) or 0.0 for row in dice])
    came = np.maximum((0.7 + 0.05 * rng.standard_normal((200, 10))).max(axis=1) - dice.max(axis=1), 0).mean()
    assert came < told < 4 * came


def test_a_search_that_rises_goes_on_and_one_that_settled_ends() -> None:
    assert enough(RISING) is None
    reason = enough(SETTLED)
    assert reason is not None
    assert "has not risen by 0.001 in the last 400 of 1200 epochs" in reason


def test_what_rose_a_while_ago_may_rise_again() -> None:
    late = [*[0.5 + 0.0001 * (number % 3) for number in range(45)], 0.6, *[0.5 + 0.0001 * (number % 3) for number in range(14)]]
    assert enough(late) is None  # though of the last twenty trials none else comes near
    assert enough([*late, *[0.5 + 0.0001 * (number % 3) for number in range(20)]]) is not None
