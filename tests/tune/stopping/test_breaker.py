"""When so much fails that a search pauses."""

import pytest

from tune.stopping import Breaker


def test_five_failures_in_a_row_are_too_many() -> None:
    breaker = Breaker()
    for _ in range(4):
        breaker.failed("no GPU")
    assert breaker.tripped is None
    breaker.went_well(ended=False)  # somebody got on by an epoch
    for sentence in ["no GPU"] * 4 + ["lost"]:
        assert breaker.tripped is None
        breaker.failed(sentence)
    assert breaker.tripped == "the last 5 attempts failed, 4 of them alike: no GPU"


def test_alike_is_said_of_all() -> None:
    breaker = Breaker()
    for _ in range(5):
        breaker.failed("no GPU")
    assert breaker.tripped == "the last 5 attempts failed alike: no GPU"


@pytest.mark.parametrize(("good", "trips"), [(3, False), (4, True)])
def test_so_are_most_of_the_last_twenty(good: int, trips: bool) -> None:
    breaker = Breaker()
    for _ in range(5):
        for _ in range(good if trips else 3):
            breaker.failed("torn")
        for _ in range(1 if trips else 2):
            breaker.went_well(ended=True)
    assert (breaker.tripped is not None) == trips
    if trips:
        assert str(breaker.tripped).endswith("attempts failed alike: torn")
