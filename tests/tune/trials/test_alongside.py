"""A trial's work beside whoever waits for it."""

import threading
import time
from collections.abc import Generator

import pytest
from patience import wait_for

from cdal.pulse import beat
from tune.trials import Message, alongside
from tune.trials.alongside import Alongside


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alongside, "PULSE_SECONDS", 0.02)


def next_message(work: Alongside) -> Message:
    return next(heard for heard in work if not isinstance(heard, float))


def test_messages_come_in_order_and_none_before_it_is_asked_for() -> None:
    made: list[int] = []

    def count() -> Generator[Message, None, None]:
        for number in range(3):
            made.append(number)
            yield {"number": number}

    work = Alongside(count())
    assert [next_message(work)["number"] for _ in range(2)] == [0, 1]
    time.sleep(0.05)
    assert made == [0, 1]
    assert work.close()


def test_silence_grows_until_a_sign_of_life() -> None:
    go_on, goes_on = threading.Event(), threading.Event()

    def work_long() -> Generator[Message, None, None]:
        go_on.wait()
        beat()
        goes_on.wait()
        yield {}

    work = Alongside(work_long())
    first = next(heard for heard in work if heard > 0.2)
    go_on.set()
    later = next(heard for heard in work if heard < first)
    assert isinstance(later, float)
    goes_on.set()
    assert next_message(work) == {}
    assert work.close()


def test_an_error_reaches_whoever_waits() -> None:
    def fail() -> Generator[Message, None, None]:
        yield {}
        raise ValueError("no more")

    work = Alongside(fail())
    next_message(work)
    with pytest.raises(ValueError, match="no more"):
        next_message(work)
    assert work.close()


def test_work_ends_at_its_next_sign_of_life_and_clears_up() -> None:
    cleared = threading.Event()

    def for_ever() -> Generator[Message, None, None]:
        try:
            while True:
                try:
                    beat()
                    time.sleep(0.001)
                except Exception:
                    continue  # as careless code does
        finally:
            cleared.set()
        yield {}

    work = Alongside(for_ever())
    next(work)
    assert work.close()
    assert cleared.is_set()


def test_work_that_hangs_is_told_apart() -> None:
    released = threading.Event()

    def hang() -> Generator[Message, None, None]:
        released.wait()
        yield {}

    work = Alongside(hang())
    next(work)
    assert not work.close(0.05)
    released.set()
    wait_for(lambda: work.close(0.05))
