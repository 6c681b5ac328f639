"""Follows a lake for all pages that are open."""

import contextlib
import hashlib
import json
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from dashboards import summaries
from dashboards.panels import Drawn, Panel
from dashboards.summaries import Board, Rows, last_lines, records
from tune.results import InputError, load, read_log


class Watch:
    """Reads the lake in a thread of its own: only while pages ask, and only when its files are others than before.

    Pages get what was last read, also while the lake cannot be read. What has been computed from it is kept for all pages.
    """

    def __init__(self, root: str, experiments: Sequence[str], seconds: float) -> None:
        """Start to follow `experiments` (empty: all) of a lake, with at least so many seconds between two looks."""
        self.version = ""
        """Changes with the results; empty before they were first read."""
        self.trouble = ""
        """Why the results cannot be read at the moment, in a sentence."""
        self.checked_at: datetime | None = None
        self._root, self._experiments, self._seconds = root, experiments, seconds
        self._rows: Rows | None = None
        self._descriptions: dict[str, Mapping[str, Any]] = {}
        self._boards: dict[str, Board] = {}  # by choice
        self._drawn: dict[tuple[str, str], Drawn | None] = {}  # by choice and panel
        self._busy = 0.0  # seconds that all this took
        self._lock = threading.RLock()
        self._asked = threading.Event()
        self._asked.set()
        threading.Thread(target=self._follow, name="results-lake-watch", daemon=True).start()

    def choices(self) -> dict[str, str]:
        """What can be shown, by its key: every dataset, and every search on those that have several."""
        self._asked.set()
        rows, found = self._rows, {}
        for dataset, searches in (rows.searches if rows else {}).items():
            several = len(searches) > 1
            found[json.dumps(["dataset", dataset])] = f"{dataset}, all {len(searches)} searches" if several else dataset
            found |= {json.dumps(["search", dataset, name]): f"{dataset}: {name}" for name in searches if several}
        return found

    def board(self, choice: str) -> Board | None:
        """The board of one of the choices; None where it is none any more."""
        with self._lock, self._counted():
            if choice not in self._boards:
                _, dataset, *chosen = json.loads(choice)
                there = self._rows.searches.get(dataset, []) if self._rows else []
                searches = [name for name in there if name in chosen or not chosen]
                if self._rows is None or not searches:
                    return None
                self._boards[choice] = summaries.board_of_dataset(self._rows, dataset, searches)
            return self._boards[choice]

    def search(self, choice: str) -> str | None:
        """The one search that a choice shows, where it is one that can be steered."""
        board = self.board(choice)
        if board is None or len(board.experiments) != 1 or "finalists" in board.descriptions[board.experiments[0]]:
            return None
        return board.experiments[0]

    def description(self, experiment: str) -> Mapping[str, Any]:
        """What its experiment.json said at the last look; empty where there was none."""
        self._asked.set()
        return self._descriptions.get(experiment, {})

    def log(self, choice: str, label: str) -> str | None:
        """The end of the log of a trial, as the ranking calls it; None where there is no such trial."""
        board = self.board(choice)
        named = [] if board is None else [row for row in records(board.trials) if label.strip() in (row["label"], row["label"][1:])]
        return last_lines(read_log(self._root, named[0])) if named else None

    def draw(self, choice: str, panel: Panel[Board]) -> Drawn | None:
        """A panel of one of the choices; None where there is nothing to draw yet."""
        with self._lock:
            board = self.board(choice)
            with self._counted():
                if (choice, panel.name) not in self._drawn:
                    self._drawn[choice, panel.name] = None if board is None else panel.draw(board)
                return self._drawn[choice, panel.name]

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        started = time.monotonic()
        yield
        self._busy += time.monotonic() - started

    def _follow(self) -> None:
        while self._asked.wait():
            self._asked.clear()
            try:
                with self._counted():
                    self._look()
                self.trouble, self.checked_at = "", datetime.now(UTC)
            except Exception as error:  # whatever others write or a network does, the page stays
                if not isinstance(error, (OSError, InputError)):
                    traceback.print_exc()
                first = str(error).strip().split("\n")[0]
                self.trouble = f"The results cannot be read at the moment: {first or type(error).__name__}"
            time.sleep(self._seconds)
            while self._busy > 0:  # three times as long as the work took: a search on this machine keeps its processors
                busy, self._busy = self._busy, 0.0
                time.sleep(max(0.0, 3 * busy - self._seconds))

    def _look(self) -> None:
        try:
            lake = load(self._root)
        except InputError as error:
            if self._rows is not None or type(error) is not InputError:  # a store that cannot be used has an error of its own
                raise
            return  # empty as yet
        if self._experiments:
            lake = lake.only(self._experiments)
        self._descriptions = {experiment.name: experiment.description for experiment in lake.experiments}
        state = repr(([experiment.name for experiment in lake.experiments], lake.files()))
        version = hashlib.sha256(state.encode("utf-8", "replace")).hexdigest()[:16]
        if version != self.version:
            rows = summaries.read(lake)
            with self._lock:
                self.version, self._rows, self._boards, self._drawn = version, rows, {}, {}
