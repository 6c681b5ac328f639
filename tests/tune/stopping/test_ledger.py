"""The books of what trials have held."""

from types import SimpleNamespace

import pytest

from tune.stopping import Ledger, ledger


def test_books_balance_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(ledger, "time", SimpleNamespace(monotonic=lambda: now[0]))
    books = Ledger({7: 100.0})
    books.begin(1)
    books.begin(1)  # told twice
    now[0] = 10.0
    books.begin(2)
    now[0] = 15.0
    assert books.total == 100 + 15 + 5
    assert books.running == {1: 15.0, 2: 5.0}
    books.end(1)
    books.end(1)
    now[0] = 60.0  # it waits for another machine
    books.begin(1)
    now[0] = 70.0
    assert books.seconds(1) == 25
    assert books.seconds(7) == 100
    assert books.seconds(8) == 0
    books.end(1)
    books.end(2)
    assert books.total == 100 + 25 + 60 == sum(books.seconds(number) for number in (1, 2, 7))
    assert books.running == {}
