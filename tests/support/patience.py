"""Limits that count only time in which nobody had to wait for a processor: a busy machine makes the tests slow, not red.

Linux tells for how long some process was ready to run and was not let (pressure stall information). Where the kernel does not tell,
all time counts, five times slower.
"""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_PRESSURE = Path("/proc/pressure/cpu")
_LONGEST = 10  # times the limit, however busy the machine


class Patience:
    """So many seconds on an idle machine."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._began, self._stalled = seconds, time.monotonic(), _stalled()

    @property
    def over(self) -> bool:
        """Whether that much time has gone by."""
        whole = time.monotonic() - self._began
        before, now = self._stalled, _stalled()
        counted = whole / 5 if before is None or now is None else whole - (now - before)
        return counted > self._seconds or whole > _LONGEST * self._seconds


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """End what hangs in this process."""
    patience = Patience(seconds)

    def look(*_: object) -> None:
        if patience.over:
            raise TimeoutError(f"it hangs: no end after {seconds} s")

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, 1, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _stalled() -> float | None:
    """Seconds since the start of the machine in which some process waited for a processor."""
    try:
        found = re.search(r"^some .*total=(\d+)", _PRESSURE.read_text())
    except OSError:
        return None
    return None if found is None else int(found[1]) / 1e6


def wait_for(condition: Callable[[], object], seconds: float = 120, every: float = 0.05) -> None:
    """Look again and again until something is true; AssertionError where it did not become so."""
    patience = Patience(seconds)
    while not condition():
        assert not patience.over, f"it did not happen within {seconds} s"
        time.sleep(every)


def finish(process: subprocess.Popen[str], seconds: float = 120) -> str:
    """What a process prints until it ends; the test fails, and the process is killed, where it does not end."""
    patience = Patience(seconds)
    while True:
        try:
            return process.communicate(timeout=1)[0]
        except subprocess.TimeoutExpired:
            if patience.over:
                process.kill()
                pytest.fail(f"still running after {seconds} s:\n{process.communicate()[0]}")


def run(command: list[object], seconds: float = 120, **keywords: object) -> subprocess.CompletedProcess[str]:
    """A command from its start to its end, as `subprocess.run` with its output captured as text."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | keywords
    process = subprocess.Popen(list(map(str, command)), text=True, **pipes)  # type: ignore[call-overload]
    patience = Patience(seconds)
    while True:
        try:
            output, errors = process.communicate(timeout=1)
            return subprocess.CompletedProcess(command, process.returncode, output, errors)
        except subprocess.TimeoutExpired:
            if patience.over:
                process.kill()
                pytest.fail(f"still running after {seconds} s: {command}\n{process.communicate()}")
