"""A trial's work in a thread of its own: whoever waits for its next message hears every few seconds how long it has been silent.

work = Alongside(messages(settings))
for heard in work:          # a message, or seconds since the last sign of life
...
work.close()
"""

import contextlib
import queue
import threading
import time
from collections.abc import Generator, Iterator
from typing import Any

from cdal.pulse import Ended, listening
from tune.trials.settings import Message

PULSE_SECONDS = 3.0
"""Between two words to the driver."""
_END_SECONDS = 180.0  # for the work to come to its next step, and to send its last checkpoint to a store that is slow


class Alongside:
    """An iterator over a generator's messages, made when they are asked for, and over its silences where one takes long."""

    def __init__(self, work: Generator[Message, None, None]) -> None:
        """Take the generator up; it starts with the first call of `next`."""
        self._work = work
        self._orders: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[Message | None, BaseException | None]] = queue.SimpleQueue()
        self._working, self._wanted, self._beat = False, True, time.monotonic()
        self._thread = threading.Thread(target=self._obey, name="trial", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Message | float]:
        return self

    def __next__(self) -> Message | float:
        """The next message, or the seconds since the last sign of life. Raises what the work raised."""
        if not self._working:
            self._working, self._beat = True, time.monotonic()
            self._orders.put("next")
        try:
            message, error = self._answers.get(timeout=PULSE_SECONDS)
        except queue.Empty:
            return time.monotonic() - self._beat
        self._working = False
        if error is not None:
            raise error
        assert message is not None
        return message

    def close(self, seconds: float = _END_SECONDS) -> bool:
        """End the work at its next sign of life; tells whether it has ended."""
        self._wanted = False
        self._orders.put("close")
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _obey(self) -> None:
        with listening(self._live):
            while self._orders.get() == "next":
                try:
                    answer: tuple[Any, Any] = next(self._work), None
                except BaseException as error:  # handed over to whoever waits
                    answer = None, error
                self._answers.put(answer)
                del answer  # an error holds all that was under way
            with contextlib.suppress(Exception, Ended):
                self._work.close()

    def _live(self) -> None:
        self._beat = time.monotonic()
        if not self._wanted:
            raise Ended
