"""What trials have held: seconds from the start on a machine to the end, whatever happened there, by the driver's own clock."""

import threading
import time
from collections.abc import Mapping


class Ledger:
    """The books of a search. Waiting for a machine is not booked, hanging on one is; clocks of other machines play no part."""

    def __init__(self, earlier: Mapping[int, float] | None = None) -> None:
        """Open the books.

        Args:
            earlier: seconds that trials held in earlier sessions, by number.
        """
        self._closed: dict[int, float] = dict(earlier or {})
        self._open: dict[int, float] = {}  # when each took its machine
        self._sum = sum(self._closed.values())
        self._lock = threading.Lock()

    def begin(self, number: int) -> None:
        """A trial has taken a machine."""
        with self._lock:
            self._open.setdefault(number, time.monotonic())

    def end(self, number: int) -> None:
        """It has given it back, or the machine is lost."""
        with self._lock:
            if (began := self._open.pop(number, None)) is not None:
                seconds = time.monotonic() - began
                self._sum += seconds
                self._closed[number] = self._closed.get(number, 0.0) + seconds

    def seconds(self, number: int) -> float:
        """That a trial has held its machines so far."""
        with self._lock:
            began = self._open.get(number)
            return self._closed.get(number, 0.0) + (0.0 if began is None else time.monotonic() - began)

    @property
    def total(self) -> float:
        """Seconds of all trials."""
        with self._lock:
            return self._sum + len(self._open) * time.monotonic() - sum(self._open.values())

    @property
    def running(self) -> dict[int, float]:
        """Seconds so far of the trials that hold a machine now."""
        with self._lock:
            now = time.monotonic()
            return {number: self._closed.get(number, 0.0) + now - began for number, began in self._open.items()}
