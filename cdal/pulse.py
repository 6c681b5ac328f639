"""Signs of life: what computes says so at every step, so that whoever waits for it tells a long work from one that hangs.

with listening(lambda: print("it lives")):
for report in train(...):      # calls `beat` after every step, and after every batch that is sampled
...
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Ended(BaseException):
    """Nobody wants the work any more: what a listener raises. No `Exception`: nothing in the work shall take it for a fault."""


_listener: ContextVar[Callable[[], None] | None] = ContextVar("listener", default=None)


def beat() -> None:
    """Say that the work goes on. Costs nothing where nobody listens; raises what the listener raises, to end the work there."""
    listener = _listener.get()
    if listener is not None:
        listener()


@contextmanager
def listening(listener: Callable[[], None]) -> Iterator[None]:
    """Inside, in this thread, every sign of life calls the listener."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
