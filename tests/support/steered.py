"""A search that does as it is told, and nothing else: what stands behind the real inbox where a real search is not the matter."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from cdal.errors import InputError
from tune.steering import Inbox


class Obedient:
    """Says what it was told; knows the trials 0 and 1, and has no GPU-hours."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def _do(self, words: str) -> str:
        self.told.append(words)
        return f"{words}: done"

    def stop(self, number: int) -> str:
        return self._do(f"stop {number}")

    def pause(self) -> str:
        return self._do("pause")

    def go(self) -> str:
        return self._do("go")

    def enqueue(self, settings: Mapping[str, Any]) -> str:
        return self._do(f"enqueue {dict(settings)}")

    def add_seconds(self, seconds: float) -> str:
        return self._do(f"seconds {seconds}")

    def add_gpu_hours(self, hours: float) -> str:
        raise InputError("the search has no GPU-hours to add to")

    def add_trials(self, count: int) -> str:
        if count == 13:
            raise RuntimeError("nobody expected thirteen")
        return self._do(f"trials {count}")


@contextmanager
def at_work(root: object, experiment: str) -> Iterator[Obedient]:
    """A driver that obeys, in a thread."""
    inbox, obedient, over = Inbox(str(root), experiment), Obedient(), threading.Event()

    def work() -> None:
        while not over.wait(0.05):
            list(inbox.obeyed(obedient))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield obedient
    finally:
        over.set()
        thread.join()
        inbox.close()
