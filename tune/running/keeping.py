"""What a session keeps on the side: the books of time and machines, which outlive a driver that is killed, and few checkpoints."""

import json
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from cdal.errors import InputError
from tune.lake import LakeWarning, Mirror, lease_of, prune
from tune.lake.status import ENDED
from tune.running.recorder import Record
from tune.stopping import Ledger

JOURNAL = "optuna-journal.log"
_BOOKS = "ledger.json"
_WRITE_SECONDS, _PRUNE_SECONDS = 5.0, 60.0


class Books:
    """How long all sessions have worked, and what trials held that have not ended, as a small file of the lake."""

    def __init__(self, place: str) -> None:
        """Read what earlier sessions wrote.

        Args:
            place: the experiment's folder for trials.
        """
        self._place = place
        self._files = Mirror(place, (_BOOKS, JOURNAL))
        self._files.fetch()
        found = _read(self._files.path / _BOOKS)
        self._earlier = found[0]
        self.held: dict[int, float] = found[1]
        """Seconds that trials had held their machines which had not ended when the last session did."""
        self._ledger = Ledger()
        self._begun: set[int] = set()  # in this session
        self._started = self._written = time.monotonic()
        self._away = 0.0

    @property
    def path(self) -> Path:
        """Where the files are on this machine."""
        return self._files.path

    @property
    def worked(self) -> float:
        """Seconds of this session, pauses left out."""
        return time.monotonic() - self._started - self._away

    @property
    def seconds(self) -> float:
        """Of all sessions."""
        return self._earlier + self.worked

    def keep(self, ledger: Ledger) -> None:
        """From now on this is the ledger."""
        self._ledger = ledger

    def rest(self, seconds: float) -> None:
        """Nobody has worked for so long."""
        self._away += seconds

    def look(self) -> None:
        """Write, if it is time."""
        if time.monotonic() - self._written > _WRITE_SECONDS:
            self.write()

    def write(self) -> None:
        """Write how things stand. Raises LostError where this process holds the experiment no more."""
        if (lease := lease_of(self._place)) is not None:
            lease.check()
        self._written = time.monotonic()
        running = self._ledger.running
        self._begun |= running.keys()
        waiting = {number: seconds for number, seconds in self.held.items() if number not in self._begun}
        content = json.dumps({"seconds": round(self.seconds, 1), "held": waiting | running})
        file = self._files.path / _BOOKS
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.with_suffix(".tmp").write_text(content)
            file.with_suffix(".tmp").replace(file)
        except OSError as error:  # the disk is full, perhaps; the next time may do
            warnings.warn(f"the books are not written: {error}", LakeWarning, stacklevel=2)
        self._files.keep()

    def close(self) -> None:
        """Write for the last time."""
        self.write()
        self._files.close()


def _read(file: Path) -> tuple[float, dict[int, float]]:
    try:
        found = json.loads(file.read_text())
        return float(found["seconds"]), {int(number): float(seconds) for number, seconds in found["held"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return 0.0, {}


class Pruning:
    """Removes the checkpoints that nobody will need, now and then, while a search runs."""

    def __init__(self, root: str, experiment: str, keep: int, *, population: bool = False) -> None:
        """Prune the first time in a minute.

        Args:
            root: the lake.
            experiment: a name that is in it.
            keep: how many of the best trials keep all that they have.
            population: whether trials leave copies behind that others take over, long before any of them ends.
        """
        self._root, self._experiment, self._keep, self._population = root, experiment, keep, population
        self._ended, self._next = 0, time.monotonic() + _PRUNE_SECONDS
        self._thread: threading.Thread | None = None

    def look(self, records: Sequence[Record]) -> None:
        """Prune, if it is time and trials have ended since the last time."""
        if time.monotonic() < self._next or (self._thread is not None and self._thread.is_alive()):
            return
        self._next = time.monotonic() + _PRUNE_SECONDS
        ended = sum(record.status in ENDED for record in records)
        if self._population or ended > max(self._ended, self._keep):
            self._ended = ended
            self._thread = threading.Thread(target=self._prune, name="pruning", daemon=True)
            self._thread.start()

    def close(self, seconds: float = 60.0) -> None:
        """Prune for the last time; what is not done in time is done by `python -m tune.results prune`."""
        if self._thread is not None:
            self._thread.join(seconds)
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._prune, name="pruning", daemon=True)
            self._thread.start()
            self._thread.join(seconds)

    def _prune(self) -> None:
        try:
            prune(self._root, self._experiment, self._keep)
        except (OSError, InputError) as error:  # it matters little
            warnings.warn(f"checkpoints are not pruned: {error}", LakeWarning, stacklevel=2)
