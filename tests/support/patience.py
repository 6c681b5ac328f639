"""Limits that count only time in which nobody had to wait for a processor: a busy machine makes the tests slow, not red.

Linux tells for how long some process was ready to run and was not let (pressure stall information). Where the kernel does not tell,
all time counts, five times slower.
"""

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

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
    patience, looked = Patience(seconds), time.monotonic()
    while not condition():
        assert not patience.over, f"it did not happen within {seconds} s"
        time.sleep(max(every, min(9 * (time.monotonic() - looked), 1.0)))  # looking leaves the processor to what is waited for
        looked = time.monotonic()


def finish(process: subprocess.Popen[str], seconds: float = 120) -> str:
    """What a process prints until it ends; it is killed, and the test fails, where it does not end or nobody waits any more."""
    return communicate(process, seconds)[0]


def run(command: Sequence[object], seconds: float = 120, **keywords: object) -> subprocess.CompletedProcess[str]:
    """A command from its start to its end, as `subprocess.run` with its output captured as text."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | keywords
    process = subprocess.Popen(list(map(str, command)), text=True, **pipes)  # type: ignore[call-overload]
    output, errors = communicate(process, seconds)
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def end(process: subprocess.Popen[str]) -> None:
    """Kill a process, if it still runs, and all of its group, if it leads one."""
    with contextlib.suppress(ProcessLookupError):
        if os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
    process.wait()


def communicate(process: subprocess.Popen[str], seconds: float = 120) -> tuple[str, str]:
    """Output and error output of a process until it ends; see `finish`."""
    patience = Patience(seconds)
    try:
        while not patience.over:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.communicate(timeout=1)
    except BaseException:
        end(process)
        raise
    end(process)
    raise AssertionError(f"still running after {seconds} s: {process.args}\n{process.communicate()}")
