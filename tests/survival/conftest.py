"""Fixtures of the tests of survival, and the table that they fill."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from accidents import Accidents

Row = Callable[[str, str, str], None]
_ROW = "survival"


@pytest.fixture
def arrange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Accidents]:
    """Accidents for the processes that are started next; called again, others in their place, or none."""
    numbers = itertools.count()

    def now(*plan: dict[str, Any]) -> Accidents:
        accidents = Accidents(tmp_path / f"accidents-{next(numbers)}", plan)
        for name, value in accidents.environment.items():
            monkeypatch.setenv(name, value)
        return accidents

    return now


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """A lake that is not there yet."""
    return tmp_path / "lake"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hang shall not take a minute to be noticed; what is only slow, on a busy machine, shall not be taken for one."""
    monkeypatch.setenv("CDAL_HANG_SECONDS", "12")


@pytest.fixture
def row(record_property: Callable[[str, object], None]) -> Row:
    """Adds to the table: a fault, what is promised, what was measured."""
    return lambda fault, promise, measured: record_property(_ROW, (fault, promise, measured))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The table, where the long form was asked for."""
    if config.getoption("markexpr"):
        return
    rows = list(_rows(terminalreporter))
    if rows:
        terminalreporter.write_line(f"\n{len(rows)} faults\n\n| fault | promise | measured |\n| --- | --- | --- |")
    for cells in rows:
        terminalreporter.write_line(f"| {' | '.join(cells)} |")


def _rows(terminalreporter: pytest.TerminalReporter) -> Iterator[tuple[str, str, str]]:
    for report in terminalreporter.stats.get("passed", ()):
        if report.when == "call":
            yield from (value for name, value in report.user_properties if name == _ROW)
    for report in terminalreporter.stats.get("failed", ()):
        yield report.nodeid.rpartition("::")[2], "the test passes", "IT FAILED"
